"""A run on latents, from images to decoded samples, probes and scores."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.errors import expect_error
from helpers.extractor import CLASSIFIER
from helpers.references import state_dict
from helpers.run import config
from PIL import Image
from safetensors.numpy import save_file

from ddaepp_jax import build, cache_latents, convert, fid, linear_probe, load, report, sample
from ddaepp_jax import config as schema
from ddaepp_jax.autoencoders import stored
from ddaepp_jax.base import parallel
from ddaepp_jax.data import latents
from ddaepp_jax.released import taesd
from ddaepp_jax.run.train import train_and_evaluate
from ddaepp_jax.scoring import extractors

SIZE = 32
LATENT = (4, 4, 4)


def write_images(folder: Path, rng: np.random.Generator) -> None:
    """Writes a folder of two classes, light and dark, of which one image in ten is held out."""
    for split, count in (("train", 40), ("test", 20)):
        for number, name in enumerate(("dark", "light")):
            place = folder / split / name
            place.mkdir(parents=True)
            for i in range(count):
                coarse = rng.integers(0, 128, (4, 4, 3)) + 128 * number
                image = Image.fromarray(coarse.astype(np.uint8)).resize((SIZE + 8, SIZE))
                image.save(place / f"{i}.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images, an autoencoder with drawn weights, and the images' latents."""
    place = tmp_path_factory.mktemp("latents")
    write_images(place / "images", np.random.default_rng(0))
    save_file(state_dict(taesd, latent_channels=4), place / "tiny.safetensors")
    convert.main(
        ["--kind=taesd", f"--checkpoint={place / 'tiny.safetensors'}", f"--workdir={place / 'ae'}"]
    )
    cache_latents.main(cache(place))
    return place


def cache(place: Path, *arguments: str) -> list[str]:
    """Returns the arguments that cache the images."""
    data = ["--data=folder", f"--data_dir={place / 'images'}", f"--size={SIZE},{SIZE}"]
    return [f"--autoencoder={place / 'ae'}", *data, f"--out={place / 'latents'}", *arguments]


def tiny(place: Path, **fields):
    """Returns the config of a tiny run on the latents."""
    made = config(
        data__name="latents",
        data__data_dir=str(place / "latents"),
        data__flip=True,
        data__autoencoder=str(place / "ae"),
        evals__fid__every=0,
        train__batch_size=16,
        **fields,
    )
    made.model = schema.dit(width=32, depth=2, num_heads=2, patch_size=1, bottleneck="block_1")
    made.model.class_conditional = True
    made.diffusion = schema.flow()
    made.sampling.update(sampler="heun_flow", steps=3, clip=False)
    made.optimizer.weight_decay = 0.0
    return made


@pytest.fixture(scope="module")
def workdir(place):
    train_and_evaluate(tiny(place), place / "run")
    return place / "run"


@pytest.fixture(scope="module")
def extractor(place):
    """An untrained classifier of pictures."""
    directory = place / "extractor"
    module = CLASSIFIER.clone(num_classes=2)
    images = np.zeros((1, SIZE, SIZE, 3), np.float32)
    params = jax.jit(module.init)(jax.random.key(0), images)["params"]
    extractors.save(directory, module, params, {"accuracy": 50.0}, (SIZE, SIZE, 3))
    return directory


def opened(place: Path) -> stored.Autoencoder:
    return stored.load(str(place / "ae"), parallel.make_mesh((1, 1, 1)))


def pictures(place: Path, split: str) -> np.ndarray:
    """Returns the images of a split as they are encoded."""
    made = config(
        data__name="folder", data__data_dir=str(place / "images"), data__size=(SIZE, SIZE)
    )
    return build.dataset(made, split).arrays()[0]


def width(file: Path) -> int:
    """Returns the width of a picture in pixels."""
    with Image.open(file) as picture:
        return picture.width


def test_the_cache_has_the_moments_of_the_cropped_images(place):
    images = pictures(place, "train")
    records, labels = latents.latents(place / "latents", "train").arrays()
    both = [opened(place).moments(x) for x in (images, images[:, :, ::-1])]
    np.testing.assert_allclose(records, np.concatenate(both, axis=-1), atol=2e-3)
    assert records.shape == (80, 4, 4, 8) and np.bincount(labels).tolist() == [40, 40]


def test_samples_are_decoded_latents(place, workdir):
    run = load(workdir)
    assert run.image_shape == LATENT and run.sample_shape == (SIZE, SIZE, 3)
    images, encoded = run.sample(n=4), run.sample(n=4, decode=False)
    assert encoded.dtype == np.float32 and encoded.shape == (4, *LATENT)
    header = latents.Header.read(place / "latents" / "train")
    autoencoder = opened(place)
    np.testing.assert_array_equal(images, autoencoder.decode(header.normalisation.undo(encoded)))
    levels, steps = run.trajectory(n=2)
    assert steps.shape == (len(levels), 2, SIZE, SIZE, 3) and steps.dtype == np.uint8


def test_pictures_are_encoded_as_the_cache_encodes_them(place, workdir):
    run = load(workdir)
    images = pictures(place, "test")[:5]
    made = tiny(place)
    held_out = build.held_out(made, build.dataset(made, "train"))
    means, _ = held_out.clean().gather(np.arange(5))
    scales = latents.Header.read(place / "latents" / "train").normalisation.scale
    rounding = np.abs(opened(place).moments(images)).max() * 2**-11 * max(scales)  # of float16
    np.testing.assert_allclose(run.encode(images), means, atol=1.1 * rounding)
    own, from_latents = (
        run.features(x, 0.8, ["block_2"])["block_2"] for x in (images, run.encode(images))
    )
    np.testing.assert_array_equal(own, from_latents)
    with expect_error("images: 16x32 pixels", "32x32"):
        run.features(images[:, :16], 0.8)


def test_programs_show_pictures_and_score_them(place, workdir, extractor, capsys):
    sample.main([f"--workdir={workdir}", "--n=6", f"--out={place / 'six'}"])
    assert np.load(place / "six.npz")["images"].shape == (6, SIZE, SIZE, 3)
    assert width(place / "six.png") > 2 * SIZE
    sample.main([f"--workdir={workdir}", "--n=6", f"--out={place / 'raw'}", "--decode=False"])
    assert np.load(place / "raw.npz")["latents"].shape == (6, *LATENT)
    fid.main([f"--workdir={workdir}", f"--extractor={extractor}", "--n=24"])
    (file,) = (workdir / "fid").glob("*.json")
    results = json.loads(file.read_text())
    assert results["mean"]["fd"] > 0 and "heun_flow3" in next(iter(results["metrics"]))
    linear_probe.main([f"--workdir={workdir}", "--epochs=2", "--levels=0.8"])
    assert "80 latents of 4x4x4" in capsys.readouterr().out
    (grid,) = (workdir / "samples").glob("*.png")
    assert width(grid) > 2 * SIZE
    report.main([f"--workdir={workdir}"])
    assert (workdir / "report.html").stat().st_size > 10_000


def test_frechet_distances_in_training_are_of_pictures(place, extractor):
    fields = dict(evals__fid__every=4, evals__fid__n=16, evals__fid__extractor=str(extractor))
    made = tiny(place, train__steps=4, train__checkpoint_every=4)
    made.update_from_flattened_dict({name.replace("__", "."): v for name, v in fields.items()})
    train_and_evaluate(made, place / "scored")
    rows = [json.loads(line) for line in (place / "scored/metrics.jsonl").read_text().splitlines()]
    (value,) = (value for row in rows for name, value in row.items() if "classifier-fd16" in name)
    assert value > 0


def test_another_autoencoder_is_refused(place, workdir, tmp_path):
    other = tmp_path / "other"
    tensors = state_dict(taesd, latent_channels=4)
    tensors["encoder.0.bias"] = tensors["encoder.0.bias"] + 1
    save_file(tensors, tmp_path / "other.safetensors")
    checkpoint = f"--checkpoint={tmp_path / 'other.safetensors'}"
    convert.main(["--kind=taesd", checkpoint, f"--workdir={other}"])
    with expect_error("--workdir:", "already"):
        convert.main(["--kind=taesd", checkpoint, f"--workdir={other}"])
    made = tiny(place)
    made.data.autoencoder = str(other)
    with expect_error("data.autoencoder:", "has the hash", "give that one"):
        train_and_evaluate(made, tmp_path / "run")
    with expect_error("--out:", "another autoencoder"):
        cache_latents.main([f"--autoencoder={other}", *cache(place)[1:]])
    run = Path(shutil.copytree(workdir, tmp_path / "copy"))
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(text.replace(str(place / "ae"), str(other)))
    with expect_error("data.autoencoder:", "trained on latents by"):
        load(run).sample(n=1)
    (run / "config.json").write_text(text.replace(str(place / "ae"), str(tmp_path / "none")))
    with expect_error("data.autoencoder:", "not on this machine", "decode=False"):
        load(run).sample(n=1)
    assert load(run).sample(n=1, decode=False).shape == (1, *LATENT)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--size=32,20"], ["--size: images of 32x20", "factor, 8"]),
        (["--size=32"], ["--size:", "HEIGHT,WIDTH"]),
        (["--size=24,24"], ["--out:", "another source", "size"]),
        (["--batch_size=0"], ["--batch_size:", "positive"]),
        (["--dtype=float16"], ["--dtype:", "bfloat16"]),
        (["--split=valid"], ["data.split:", "valid"]),
        (["--autoencoder=nowhere"], ["--autoencoder:", "no autoencoder"]),
    ],
    ids=lambda value: "".join(value) if value[0].startswith("--") else "",
)
def test_arguments_that_cannot_be_used(place, arguments, words):
    with expect_error(*words):
        cache_latents.main(cache(place, *arguments))


def test_latents_take_no_augmentation_of_images(place, tmp_path):
    with expect_error("data.augment:", "latents"):
        train_and_evaluate(tiny(place, data__augment=0.1), tmp_path / "run")
    with expect_error("objectives.distillation.geometric:", "latents"):
        train_and_evaluate(tiny(place, objectives__distillation__weight=0.1), tmp_path / "run")


@pytest.mark.slow
def test_distillation_on_latents_compares_two_draws(place, tmp_path):
    fields = dict(objectives__distillation__weight=0.1, objectives__distillation__geometric=0.0)
    train_and_evaluate(tiny(place, **fields), tmp_path / "run")
    assert load(tmp_path / "run").sample(n=1).shape == (1, SIZE, SIZE, 3)
