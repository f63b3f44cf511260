"""The training of a small ``AutoencoderKL``, so that latents need nobody else's weights."""

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import serialization
from jax import Array
from jax.sharding import Mesh

from ddaepp_jax.autoencoders import stored
from ddaepp_jax.autoencoders.kl import AutoencoderKL
from ddaepp_jax.autoencoders.stored import Autoencoder
from ddaepp_jax.base import parallel
from ddaepp_jax.base.dispatch import InFlight, progress_bar
from ddaepp_jax.base.errors import InputError, NonFiniteError, Stopped, first_line
from ddaepp_jax.base.files import check_writable, replace
from ddaepp_jax.base.lock import locked
from ddaepp_jax.base.numbers import finite, whole
from ddaepp_jax.base.processes import (
    Delayed,
    entered_by_first,
    from_first,
    in_first,
    is_first,
    together,
)
from ddaepp_jax.base.results import refuse_other
from ddaepp_jax.base.stop import Stop
from ddaepp_jax.data.augment import horizontal_flip, to_float
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.data.encoding import draw_latents, split_moments
from ddaepp_jax.data.order import batch_indices, max_steps

GROUP = 4  # Channels at the image's resolution that are normalised together, as in LDM.
# Logarithm of a variance at first: the noise is then a small part of a latent, as it is at the end.
LOG_VARIANCE = -6.0
RESIDENT_BYTES = 2**30  # Data sets up to this size are read once and kept in memory.
TESTED = 2000  # images that are reconstructed at most
TIMED = 4  # steps that are timed to choose the number of steps

Step = Callable[..., tuple[Any, Array]]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """An autoencoder and its training: Adam with a linear warm-up, then a cosine.

    Errors name the arguments of ``ddaepp_jax.train_autoencoder``, which are these fields.

    Attributes:
      factor: pixels of a latent's side; a power of two.
      latent_channels: channels of a latent.
      channels: channels at the image's resolution, a multiple of ``GROUP``; lower resolutions have
        twice as many.
      steps: number of steps.
      minutes: if not 0, the number of steps is what takes about so long by a few timed steps.
      batch_size: images of a step.
      learning_rate: the highest learning rate, at the end of the warm-up.
      kl: weight of the divergence of the latents from a standard normal distribution, see
        ``make_step``.
      perceptual: weight of the distance of an extractor's features.
      flip: mirror images by a fair coin.
      seed: seed of the initial weights, the order of images, their mirroring and the noise.

    Raises:
      InputError: a value is out of its range.
    """

    factor: int = 4
    latent_channels: int = 4
    channels: int = 32
    steps: int = 10_000
    minutes: float = 0.0
    batch_size: int = 64
    learning_rate: float = 2e-3
    kl: float = 1e-4
    perceptual: float = 0.0
    flip: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("latent_channels", "channels", "batch_size"):
            whole(f"--{name}", getattr(self, name), 1, 2**16)
        whole("--steps", self.steps, 1, max_steps(self.batch_size) - 1)
        whole("--seed", self.seed, 0, 2**32 - 1)
        if self.factor not in (2, 4, 8, 16, 32):
            raise InputError(f"--factor: {self.factor} is wrong; give 2, 4, 8, 16 or 32")
        if self.channels % GROUP:
            raise InputError(
                f"--channels: {self.channels} is not a multiple of {GROUP}; give one, e.g. 32"
            )
        for name in ("minutes", "learning_rate", "kl", "perceptual"):
            value = finite(f"--{name}", getattr(self, name))
            if value < 0 or (value == 0 and name == "learning_rate"):
                raise InputError(f"--{name}: {value} is not positive; give a positive number")

    @property
    def module(self) -> AutoencoderKL:
        """The network, without parameters."""
        lower = (2 * self.channels,) * (self.factor.bit_length() - 1)
        return AutoencoderKL(
            channels=self.channels,
            widths=(self.channels, *lower),
            blocks=1,
            latent_channels=self.latent_channels,
            groups=self.channels // GROUP,
        )

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """The update rule, whose result is yet to be multiplied by minus the learning rate."""
        return optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(b2=0.99))

    def rates(self, steps: int) -> np.ndarray:
        """Returns the learning rates (steps,) float32; a twentieth of the steps is warm-up."""
        schedule = optax.warmup_cosine_decay_schedule(0.0, self.learning_rate, steps // 20, steps)
        return np.asarray(schedule(np.arange(steps) + np.float32(0.5)), np.float32)


class Perceptual(NamedTuple):
    """The frozen network by whose features reconstructions are compared with images.

    Attributes:
      features: maps (params, images (B, H, W, 3) in [-1, 1]) to (B, D).
      params: its parameters, on every device.
      hash: identifies the parameters.
    """

    features: Callable[[Any, Array], Array]
    params: Any
    hash: str


def divergence(moments: Array) -> Array:
    """Returns KL(N(mean, variance) || N(0, 1)) of the latents of each image.

    Args:
      moments: (B, h, w, 2 C) float32: the means, then the logarithms of the variances.

    Returns:
      (B,) in nats, summed over an image's latents.
    """
    mean, log_variance = split_moments(moments)
    each = jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance
    return 0.5 * each.sum(axis=(1, 2, 3))


def psnr(images: np.ndarray, others: np.ndarray) -> float:
    """Returns the ratio of 255^2 to the mean squared difference of all values, in decibels.

    Args:
      images, others: uint8 arrays of one shape.
    """
    difference = images.astype(np.float64) - others.astype(np.float64)
    return float(10 * np.log10(255**2 / np.square(difference).mean()))


@lru_cache(maxsize=4)
def make_step(recipe: Recipe, features: Callable[[Any, Array], Array] | None, mesh: Mesh) -> Step:
    """Returns ``(state, images, ids, seed, number, rate, frozen) -> (state, loss)``, compiled once.

    ``state`` is the parameters and the optimizer's state. ``images`` (B, H, W, C) are uint8; grey
    ones become colour images. Mirroring and noise are functions of (seed, number of the step,
    image's id). Rows from ``recipe.batch_size`` on are padding.

    An image's loss is the mean absolute error of a decoded draw of its latents, over its 3 H W
    values in [-1, 1]; plus ``recipe.kl`` times the divergence in nats over 3 H W. So the weight is
    latent diffusion's, which sums both terms over an image and takes 1e-6 (arXiv 2112.10752). With
    ``features``, ``recipe.perceptual`` times their mean squared distance is added.

    Args:
      recipe: the network and how it is trained.
      features: see ``Perceptual``, whose params are ``frozen``.
      mesh: the devices.
    """
    module, optimizer, size = recipe.module, recipe.optimizer, recipe.batch_size

    def step(
        state: Any, images: Array, ids: Array, seed: Array, number: Array, rate: Array, frozen: Any
    ) -> tuple[Any, Array]:
        images = horizontal_flip(images, seed, number, ids) if recipe.flip else images
        images = jnp.broadcast_to(to_float(images), (*images.shape[:3], 3))

        def mean_loss(params: Any) -> Array:
            moments = module.apply({"params": params}, images, method="encode")
            latents = draw_latents(moments, seed, number, ids)
            decoded = module.apply({"params": params}, latents, method="decode")
            losses = jnp.abs(decoded - images).mean(axis=(1, 2, 3))
            losses += recipe.kl * divergence(moments) / math.prod(images.shape[1:])
            if features is not None:
                apart = features(frozen, decoded) - features(frozen, images)
                losses += recipe.perceptual * jnp.square(apart).mean(axis=1)
            return jnp.where(jnp.arange(len(ids)) < size, losses, 0).sum() / size

        params, inner = state
        loss, gradient = jax.value_and_grad(mean_loss)(params)
        updates, inner = optimizer.update(gradient, inner, params)
        updates = jax.tree.map(lambda update: -rate * update, updates)
        return (optax.apply_updates(params, updates), inner), loss

    return jax.jit(step, donate_argnums=0, out_shardings=parallel.replicated(mesh))


def initial(recipe: Recipe) -> tuple[Any, Any]:
    """Returns the parameters and the optimizer's state before the first step."""
    module, channels = recipe.module, recipe.latent_channels
    images = jnp.zeros((1, recipe.factor, recipe.factor, 3), jnp.float32)
    params = jax.jit(module.init)(jax.random.key(recipe.seed), images)["params"]
    bias = params["quant_conv"]["bias"]
    params["quant_conv"]["bias"] = bias.at[channels:].set(LOG_VARIANCE)
    return params, recipe.optimizer.init(params)


def train(
    data: Dataset, recipe: Recipe, *, mesh: Mesh, saved: Path, perceptual: Perceptual | None = None
) -> tuple[Any, int]:
    """Trains an autoencoder; up to rounding it is the same on any number of devices.

    The training is saved now and then, and continued if it was stopped. A signal ends it after the
    next step. All devices of all processes share the work, and process 0 alone has the file.

    Args:
      data: the training split.
      recipe: the network and how it is trained.
      mesh: the devices.
      saved: file of the unfinished training.
      perceptual: the network of the perceptual term; None: no such term.

    Returns:
      The parameters and the number of steps.

    Raises:
      InputError: the file holds a training with other settings.
      NonFiniteError: a loss is not finite.
      Stopped: a signal ended the training.
    """
    everywhere = parallel.replicated(mesh)
    start = jax.device_get(initial(recipe))
    identity = {
        "data": f"{data.identity} {data.split}",
        "images": f"{len(data)} of {'x'.join(map(str, data.image_shape))}",
        "extractor": perceptual.hash if perceptual else "",
        **dataclasses.asdict(recipe),
    }
    done, steps, restored = from_first(lambda: _restored(saved, identity, start))
    seed = parallel.put(np.uint32(recipe.seed), everywhere)
    step = make_step(recipe, perceptual.features if perceptual else None, mesh)
    frozen = perceptual.params if perceptual else ()
    read = (together(data.resident) if data.nbytes <= RESIDENT_BYTES else data).gather
    (padded, _), *_ = parallel.batches(recipe.batch_size, recipe.batch_size, mesh)
    writing = Delayed()

    def advance(state: Any, number: int, rate: np.float32) -> tuple[Any, Array]:
        ids = batch_indices(recipe.seed, number, recipe.batch_size, len(data))[padded]
        (images,) = parallel.read_rows(mesh, ids, read_images)
        (ids,) = parallel.place(mesh, ids)
        return step(state, images, ids, seed, np.int32(number), rate, frozen)

    def read_images(ids: np.ndarray) -> Sequence[np.ndarray]:
        check()
        return read(ids)[:1]

    def check() -> None:
        writing.check()
        stop.check()

    def rehearse(count: int) -> None:
        state = parallel.put(start, everywhere)
        for number in range(count):
            state, loss = advance(state, number, np.float32(0))
        jax.block_until_ready(loss)

    def save() -> None:
        content = {
            "identity": identity,
            "done": done,
            "steps": steps,
            "state": serialization.to_state_dict(state),
        }
        if is_first():
            replace(saved, serialization.msgpack_serialize(jax.device_get(content)))

    def show(losses: list[Array]) -> None:
        for loss in map(float, losses):
            if not math.isfinite(loss):
                raise NonFiniteError(
                    f"a loss is {loss}; give a lower --learning_rate and another --workdir"
                )
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)

    with Stop() as stop:
        steps = steps or _steps(recipe, rehearse)
        rates = recipe.rates(steps)
        state = parallel.put(restored, everywhere)
        with progress_bar(steps, "step", f"autoencoder of {data.name}", done) as bar:
            in_flight = InFlight(bar, save)
            try:
                for number in range(done, steps):
                    state, loss = advance(state, number, rates[number])
                    done = number + 1
                    with writing:
                        show(in_flight.add(loss))
                with writing:
                    show(in_flight.finish())
                together(check)
            except Stopped:
                save()
                raise
    return state[0], steps


def _steps(recipe: Recipe, rehearse: Callable[[int], None]) -> int:
    """Returns the number of steps of a training; ``rehearse`` takes so many and forgets them."""
    if not recipe.minutes:
        return recipe.steps
    rehearse(1)  # compiles
    start = time.perf_counter()
    rehearse(TIMED)
    seconds = (time.perf_counter() - start) / TIMED
    return from_first(lambda: max(1, round(60 * recipe.minutes / seconds)))


def _restored(saved: Path, identity: Mapping[str, Any], state: Any) -> tuple[int, int, Any]:
    """Returns the steps done, all steps and the state of a saved training; or 0, 0 and ``state``.

    Raises:
      InputError: the training has another identity.
    """
    if not saved.exists():
        return 0, 0, state
    try:
        content = serialization.msgpack_restore(saved.read_bytes())
        theirs = dict(content["identity"])
        differences = [
            f"{name}: {theirs.get(name)} -> {value}"
            for name, value in identity.items()
            if theirs.get(name) != value
        ]
        if differences:
            mend = "remove it or give another --workdir"
            refuse_other(saved, "a stopped training", differences, mend)
        restored = serialization.from_state_dict(state, content["state"])
        if jax.tree.map(np.shape, restored) != jax.tree.map(np.shape, state):
            raise ValueError("its arrays have other shapes")
        return int(content["done"]), int(content["steps"]), restored
    except InputError:
        raise
    except Exception as error:  # A damaged file can raise anything.
        print(f"{saved}: damaged ({first_line(error)}); the training starts anew", file=sys.stderr)
        return 0, 0, state


class Made(NamedTuple):
    """A trained autoencoder's work.

    Attributes:
      parameters: number of its parameters.
      psnr: ``psnr`` of the reconstructions.
      images: (N, H, W, 3) uint8 images that it was not trained on.
      reconstructions: (N, H, W, 3) uint8, decoded from the means of the images' latents.
    """

    parameters: int
    psnr: float
    images: np.ndarray
    reconstructions: np.ndarray


def check(directory: Path, data: Dataset, recipe: Recipe, mesh: Mesh) -> None:
    """Checks that an autoencoder of a data set can be trained and written to a directory.

    Raises:
      InputError: the directory holds an autoencoder or cannot be written, or the images have a size
        that the factor does not divide, or neither 1 nor 3 channels.
    """
    _autoencoder(recipe, None, mesh).latent_shape(data.image_shape)
    stored.SHELF.check_free(directory)
    check_writable(directory, "--workdir", "give another")


def make(
    directory: Path,
    data: Dataset,
    held_out: Dataset,
    recipe: Recipe,
    mesh: Mesh,
    perceptual: Perceptual | None = None,
) -> Made:
    """Trains an autoencoder and writes it to a directory; all processes call it.

    Args:
      directory: directory to write, which ``check`` has checked; it may hold a stopped training.
      data: the training split.
      held_out: the split whose first ``TESTED`` images are reconstructed.
      recipe, mesh, perceptual: see ``train``.

    Raises:
      InputError: another process writes the directory; or see ``train``.
    """
    saved = directory / "training.msgpack"
    with entered_by_first(locked(directory, "wait until it ends, or give another --workdir")):
        params, steps = train(data, recipe, mesh=mesh, saved=saved, perceptual=perceptual)
        autoencoder = _autoencoder(recipe, params, mesh)
        images, _ = together(lambda: held_out.gather(np.arange(min(TESTED, len(held_out)))))
        images = np.broadcast_to(images, (*images.shape[:3], 3))
        means = autoencoder.moments(images)[..., : recipe.latent_channels]
        reconstructions = autoencoder.decode(means)
        made = Made(
            sum(leaf.size for leaf in jax.tree.leaves(params)),
            psnr(images, reconstructions),
            images,
            reconstructions,
        )
        provenance = {
            "data": data.name,
            "trained_on": data.split,
            "tested_on": held_out.split,
            "tested_images": len(images),
            "psnr": made.psnr,
            "extractor": perceptual.hash if perceptual else None,
            "recipe": dataclasses.asdict(recipe) | {"steps": steps},
        }

        def finish() -> None:
            stored.save(directory, autoencoder.module, params, None, provenance)
            saved.unlink(missing_ok=True)

        in_first(finish)
    return made


def _autoencoder(recipe: Recipe, params: Any, mesh: Mesh) -> Autoencoder:
    return Autoencoder("kl", recipe.module, params, mesh, "", None, {})
