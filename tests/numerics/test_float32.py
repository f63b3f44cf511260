"""A run's numbers are float32 and int32 where JAX_ENABLE_X64 is set too.

Programs are traced, which costs no compilation, and no float64 may be computed in them.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.extend.core import jaxprs_in_params

from ddaepp_jax import build
from ddaepp_jax import config as schema
from ddaepp_jax.base.parallel import make_mesh
from ddaepp_jax.diffusion import samplers
from ddaepp_jax.probing import features, heads
from ddaepp_jax.probing.protocols import PROTOCOLS
from ddaepp_jax.sampling.draw import make_sample_batch
from ddaepp_jax.sampling.settings import Sampling
from ddaepp_jax.scoring.classifier import Recipe, make_step
from ddaepp_jax.training.step import init_state, train_step

EVERYTHING = {  # fields of a network that add numbers of their own
    "uvit": dict(class_conditional=True, augment_dim=9, pool="cls", inject="token"),
    "unet": dict(class_conditional=True, augment_dim=9),
    "dit": dict(class_conditional=True, augment_dim=9, rope=True, qk_norm=True, rmsnorm=True),
}


class Line(nn.Module):
    """The network ``factor`` x, whose one feature is its output."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, x, t, y=None, capture=None, stop=False):
        out = self.param("factor", nn.initializers.zeros, (), jnp.float32) * x
        return out, {"out": out}


def run_of(network: str, process: str, **fields):
    """Returns the tiny config of a network with all it can have, and a process."""
    tiny = schema.get_config("tiny")
    tiny.model = schema.MODELS[network](**schema.default.TINY_MODELS[network] | EVERYTHING[network])
    tiny.diffusion = schema.PROCESSES[process]()
    tiny.update_from_flattened_dict(fields)
    return tiny


def wide(function, *args) -> set[str]:
    """Returns the float64 values of a program traced under x64, as "primitive: dtype"."""
    with jax.enable_x64(True):
        traced = jax.make_jaxpr(function)(*args)
    return {
        f"{equation.primitive}: {variable.aval}"
        for equation in equations(traced.jaxpr)
        for variable in equation.outvars
        if getattr(variable.aval, "dtype", None) == np.float64
    }


def equations(jaxpr) -> Iterator:
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


def check(function, *args):
    """Checks that a program traced under x64 computes nothing in float64.

    Its results have at most 32 bits.
    """
    assert not wide(function, *args)
    with jax.enable_x64(True):
        results = jax.tree.leaves(jax.eval_shape(function, *args))
    assert {str(leaf.dtype) for leaf in results} <= {"float32", "int32", "bool", "uint8"}


IMAGES = np.zeros((4, 8, 8, 1), np.uint8)
IDS = np.arange(4, dtype=np.int32)
MESH = make_mesh((1, 1, 1))
NETWORKS = ["dit", *(pytest.param(name, marks=pytest.mark.slow) for name in ("uvit", "unet"))]
PROCESSES = [
    "edm",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("ddpm", "vp", "flow")),
]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("process", PROCESSES)
def test_training(network, process):
    fields = {
        "data.augment": 0.1,
        "objectives.distillation.weight": 1.0,
        "objectives.distillation.photometric.use": True,
        "objectives.denoising.schedule": ((0, 0.0), (5, 1.0)),
        "ema.sigma_rel": (0.05, 0.1),
    }
    chosen = run_of(network, process, **fields)
    learner = build.learner(chosen, IMAGES.shape[1:], 10, 4)
    prepare = build.prepare(chosen)

    def step(images, labels, index):
        state = init_state(learner, images.shape[1:])
        batch = prepare(images, state.step, index) | {"label": labels}
        return train_step(learner, state, batch)

    check(step, IMAGES, IDS, IDS)


@pytest.mark.parametrize(
    ("process", "sampler"),
    [(name, own) for name, kind in build.PROCESSES.items() for own in samplers.names(kind())],
)
def test_sampling(process, sampler):
    """A network of one layer, as the networks' own layers are in the training."""
    options = {"s_churn": 3.0} if sampler == "heun" else {}
    sampling = Sampling(sampler, 3, 2.0, (0.0, 1.0), 1, 1.5, options=options)
    kind = build.PROCESSES[process]()
    network = Line()
    draw = make_sample_batch(
        network, kind, sampling, image_shape=(8, 8, 1), mesh=MESH, guide=(network, kind)
    )
    params = {"factor": jnp.float32(0.5)}
    check(draw, params, params, jnp.uint32(3), IDS, IDS)


@pytest.mark.parametrize("process", build.PROCESSES)
def test_measures(process):
    """Features, the held-out loss, and what draws the images of both."""
    kind, params = build.PROCESSES[process](), {"factor": jnp.float32(0.5)}
    feature_batch = features.make_feature_batch(
        features.noisy(Line(), kind, ("out",)), MESH, pad=1, flip=True
    )
    level = kind.as_level(kind.probe_levels()[0])
    check(feature_batch, params, jnp.uint32(3), IMAGES, IDS, level, jnp.uint32(0))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_heads(protocol):
    train = lambda z, labels: heads.fit({"": z}, labels, {}, PROTOCOLS[protocol], num_classes=3)
    check(train, np.zeros((64, 5), np.float32), np.zeros(64, np.int32))


def test_classifier():
    recipe = Recipe(depth=10, width=1)
    module = recipe.module(10)
    step = make_step(module, recipe, flip=True, pad=1, mesh=MESH)
    params = jax.eval_shape(module.init, jax.random.key(0), np.zeros(IMAGES.shape, np.float32))
    state = jax.eval_shape(lambda p: (p, recipe.optimizer().init(p)), params["params"])
    check(step, state, IMAGES, IDS, IDS, jnp.uint32(3), jnp.int32(1))
