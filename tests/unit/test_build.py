"""Names in a config become objects."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.errors import expect_error
from helpers.run import config

from ddaepp_jax import build
from ddaepp_jax import config as schema
from ddaepp_jax.diffusion.process import level_of
from ddaepp_jax.sampling.settings import Sampling


def test_objectives_of_weight_zero_do_not_exist():
    made = config()
    made.objectives.denoising.weight = 0.0
    assert build.objectives(made, build.process(made), None, 100) == {}
    made.objectives.denoising.weight = 2.5
    ((objective, weight),) = build.objectives(made, build.process(made), 10, 100).values()
    assert weight(7) == 2.5 and objective.null_class == 10


def test_attention_falls_back_where_cudnn_cannot(monkeypatch, capsys):
    """On a GPU in bfloat16 cuDNN is tried with the real shape; what fails here, on a CPU, falls
    back and says so.
    """
    shape = dict(length=17, heads=2, head_width=16)
    assert (
        build.attention("auto", **shape, dtype=jnp.dtype("bfloat16")) == "xla"
        and not capsys.readouterr().out
    )
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert (
        build.attention("auto", **shape, dtype=jnp.dtype("float32")) == "xla"
        and not capsys.readouterr().out
    )
    assert build.attention("auto", **shape, dtype=jnp.dtype("bfloat16")) == "xla"
    out = capsys.readouterr().out
    assert (
        out.startswith("attention: cuDNN does not take this shape here, XLA's is used (")
        and out.count("\n") == 1
    )
    with expect_error("model.attention", "cudnn", "shape", "xla"):
        build.attention("cudnn", **shape, dtype=jnp.dtype("bfloat16"))


def test_runs_are_shorter_than_the_order_of_examples():
    made = config(train__batch_size=1024)
    made.train.steps = 2**22 - 1
    assert build.total_steps(made, 1000) == 2**22 - 1
    made.train.steps = 2**22
    with expect_error("train.steps", "4194304", "2**32"):
        build.total_steps(made, 1000)


def test_a_set_that_fits_is_resident_and_others_are_streamed():
    made = config()
    data = build.dataset(made, "train")
    mesh = build.mesh(made)
    source = build.source(made, data, mesh)
    assert (
        data.nbytes == 1500 * 64
        and source.shapes["image"].shape == (1500, 8, 8, 1)
        and source.looped
    )
    made.model = schema.unet()
    source = build.source(made, data, mesh)
    assert source.shapes["image"].shape == (1500, 8, 8, 1) and not source.looped  # on a CPU
    made.data.device_bytes = data.nbytes - 1
    assert build.source(made, data, mesh).shapes["image"].shape == (made.train.batch_size, 8, 8, 1)


def test_images_are_flipped_and_transformed_where_the_config_says_so():
    images = jax.random.randint(jax.random.key(0), (64, 8, 8, 1), 0, 256).astype(jnp.uint8)
    prepared = lambda **data: jax.jit(build.prepare(config(**data)))(
        images, jnp.int32(3), jnp.arange(64)
    )
    plain, flipped = (prepared(data__flip=flip)["image"] for flip in (False, True))
    np.testing.assert_allclose(plain, np.asarray(images, np.float64) / 127.5 - 1, atol=1e-6)
    kept, mirrored = (
        np.isclose(flipped, other, atol=1e-6).all((1, 2, 3))
        for other in (plain, np.asarray(plain)[:, :, ::-1])
    )
    assert (kept ^ mirrored).all() and 16 < mirrored.sum() < 48
    transformed = prepared(data__augment=0.5)
    assert transformed["augment_label"].shape == (64, 9) and (transformed["image"] != plain).any()


def test_a_level_that_is_left_out_is_the_middle_of_the_probes():
    process = build.process(config())
    assert level_of(process, None, "level") == process.probe_levels()[1]
    assert level_of(process, 500, "level") == 500


def test_options_of_a_sampler_come_before_the_configs():
    group = config().sampling
    assert group.clip
    for options, clip in (({}, True), ({"clip": False}, False)):
        assert Sampling.from_config(group, options, sampler="ddim").options["clip"] is clip


def test_steps_that_a_run_never_takes_are_said():
    made = config(
        optimizer__warmup_steps=4,
        profile__start=4,
        profile__steps=1,
        objectives__denoising__schedule=((0, 0.0), (5, 1.0)),
    )
    lines = list(build.unreached(made, 4))
    assert [line.split(":")[0] for line in lines] == [
        "optimizer.warmup_steps",
        "objectives.denoising.schedule",
        "profile.start",
    ]
    assert not list(build.unreached(made, 6))


@pytest.mark.parametrize(
    "length", [{"steps": 10**30}, {"images": 10**30}, {"epochs": 1e308}, {"steps": 2**31}]
)
def test_a_run_that_is_too_long(length):
    made = config(**{"train__steps": None} | {f"train__{k}": v for k, v in length.items()})
    with expect_error(f"train.{next(iter(length))}", "train for fewer"):
        build.total_steps(made, 1000)


def test_a_tiny_part_of_an_epoch_is_one_step():
    assert build.total_steps(config(train__steps=None, train__epochs=1e-9), 1000) == 1


def test_wandb_is_missed_before_compiling(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with expect_error("logging.wandb", "pip install"):
        build.check_trainable(config(logging__wandb=True))
