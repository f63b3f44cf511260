"""The configs that the authors of released networks published for them."""

from collections.abc import Callable

from ml_collections import ConfigDict

from ddaepp_jax import build
from ddaepp_jax import config as schema
from ddaepp_jax.config import recipes


def _u_vit() -> ConfigDict:
    return recipes.uvit(recipes.long_run(name="cifar10"))


def _ddae_unet() -> ConfigDict:
    config = recipes.long_run(name="cifar10")
    config.diffusion = schema.ddpm(time_input="t/T")
    config.sampling.ddim.table = "ddae"
    return recipes.ddae(config, epochs=2000, batch_size=512, learning_rate=4e-4)


def _dit() -> ConfigDict:
    return recipes.dit(recipes.long_run(name=build.LATENTS))


def _lightningdit() -> ConfigDict:
    config = recipes.long_run(name=build.LATENTS)
    return recipes.lightningdit(config, epochs=800, class_conditional=True)


RECIPES: dict[str, Callable[[], ConfigDict]] = {
    "u-vit": _u_vit,
    "ddae-unet": _ddae_unet,
    "dit": _dit,
    "lightningdit": _lightningdit,
}
