"""Names in a config become objects."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.errors import expect_error
from helpers.run import config
from PIL import Image

from ddaepp_jax import build
from ddaepp_jax import config as schema
from ddaepp_jax.diffusion.process import level_of
from ddaepp_jax.run.train import make_plan
from ddaepp_jax.sampling.settings import Sampling, modern_identity


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
        build.attention("auto", **shape, dtype=jnp.dtype("bfloat16")) == "blocked"
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


def test_swiglu_is_padded_on_a_gpu_in_bfloat16_alone(monkeypatch):
    made = config()
    with made.unlocked():
        made.model = schema.dit(attention="xla", dtype="bfloat16")
    multiple = lambda: build.network(made, (8, 8, 1), 10).swiglu_multiple
    assert multiple() == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert multiple() == 8
    made.model.dtype = "float32"
    assert multiple() == 1


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
    assert data.nbytes == 1500 * 64 and source.shapes["image"].shape == (1500, 64) and source.looped
    made.model = schema.unet()
    source = build.source(made, data, mesh)
    assert source.shapes["image"].shape == (1500, 64) and not source.looped  # on a CPU
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


def test_grids_by_default_are_the_samplers_papers():
    grids = {
        name: Sampling.from_config(config().sampling, sampler=name).options["grid"]
        for name in ("ddpm", "ddim", "dpmpp_2m")
    }
    assert grids == {"ddpm": "time", "ddim": "time", "dpmpp_2m": "log-snr"}
    chosen = Sampling.from_config(
        config().sampling, {"grid": "quadratic"}, sampler="ddim", steps=20
    )
    assert chosen.tag == "ddim20-gridquadratic"


def test_samples_of_earlier_versions_have_grids_of_even_times():
    """They are continued by ``ddim``, whose grid is still the same, and not by ``dpmpp_2m``."""
    for name, same in (("ddim", True), ("ddpm", True), ("dpmpp_2m", False), ("heun", True)):
        today = Sampling.from_config(config().sampling, sampler=name).identity
        options = {option: value for option, value in today["options"].items() if option != "grid"}
        earlier = modern_identity({**today, "options": options})
        assert (earlier == today) is same
        assert modern_identity(today) == today


def save_images(root, *names, mode="L"):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, (8, 8)).save(path)


def test_evaluated_images_that_are_trained_on_are_counted(tmp_path):
    """Equal splits, names in another case, parts of one folder, and links to the same folder."""
    save_images(tmp_path, *(f"apart/{i}.png" for i in range(20)), "linked/Train/0.png")
    (tmp_path / "linked/test").symlink_to("Train")

    def line(split, eval_split, data_dir=None):
        made = config(data__split=split, data__eval_split=eval_split)
        if data_dir:
            made.data.update(name="folder", data_dir=str(tmp_path / data_dir))
        train = build.dataset(made, split)
        return build.overlap(train, build.held_out(made, train))

    assert line("train", "test") == line("train", "test", "apart") == ""
    assert line("train", "train").startswith("data.eval_split: 1500 of the 1500 images of 'train'")
    assert line("train", "all", "apart").startswith("data.eval_split: 18 of the 20 images of 'all'")
    assert line("train", "Train", "linked").startswith("data.eval_split: 1 of the 1 images")
    assert line("train", "test", "linked").startswith("data.eval_split: 1 of the 1 images")


def test_training_warns_of_training_images_that_are_evaluated_on(capsys):
    made = config(data__eval_split="train")
    make_plan(made)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("data: digits train: 1500 images of 8x8x1 in 10 classes (0, 1, ")
    assert lines[1].startswith("evaluated on: digits train: 1500 images")
    assert lines[2].startswith("warning: data.eval_split: 1500 of the 1500 images")


def test_splits_have_the_same_classes_and_shape(tmp_path):
    save_images(tmp_path, "one/a/0.png", "two/a/0.png", "two/b/0.png")
    save_images(tmp_path, "colour/a/0.png", mode="RGB")
    made = config(data__name="folder", data__data_dir=str(tmp_path))
    train = build.dataset(made, "one")
    for split, words in {
        "two": ["'two'", "'one'", "other classes"],
        "colour": ["(8, 8, 3)", "(8, 8, 1)"],
    }.items():
        made.data.eval_split = split
        with expect_error("data.eval_split", *words):
            build.held_out(made, train)
    made.data.update(name="digits", eval_split="three")
    with expect_error("data.eval_split", "'three'", "train or test"):
        build.held_out(made, build.dataset(made, "train"))


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
