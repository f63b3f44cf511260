"""A small autoencoder learns, resumes, and is stored with the quality of its reconstructions."""

import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization
from helpers.errors import expect_error

from ddaepp_jax.autoencoders import stored, training
from ddaepp_jax.autoencoders.training import Perceptual, Recipe
from ddaepp_jax.base.errors import NonFiniteError, Stopped
from ddaepp_jax.base.parallel import make_mesh
from ddaepp_jax.data.datasets import digits
from ddaepp_jax.train_autoencoder import main

TINY = Recipe(factor=2, channels=8, steps=40, batch_size=32, learning_rate=1e-2, flip=True)
ARGUMENTS = [
    "--data=digits",
    "--factor=2",
    "--channels=8",
    "--batch_size=32",
    "--learning_rate=0.01",
    "--flip",
]


def mesh():
    return make_mesh((-1, 1, 1))


def trained(saved, recipe=TINY):
    return training.train(digits("train"), recipe, mesh=mesh(), saved=saved)


def watch(monkeypatch, watcher):
    """Calls ``watcher(number, loss)`` after each step."""
    make_step = training.make_step

    def make(*args):
        step = make_step(*args)

        def watched(*rest):
            state, loss = step(*rest)
            watcher(int(rest[4]), float(loss))
            return state, loss

        return watched

    monkeypatch.setattr(training, "make_step", make)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The directory that the program wrote, and the losses."""
    directory = tmp_path_factory.mktemp("autoencoder")
    losses = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        watch(monkeypatch, lambda number, loss: losses.append(loss))
        main([*ARGUMENTS, "--steps=40", f"--workdir={directory}"])
    return directory, losses


def test_the_divergence_equals_the_closed_form():
    moments = np.random.default_rng(0).normal(size=(3, 2, 2, 8))
    mean, variance = moments[..., :4], np.exp(moments[..., 4:])
    nats = 0.5 * (mean**2 + variance - 1 - np.log(variance))
    ours = training.divergence(jnp.asarray(moments, jnp.float32))
    np.testing.assert_allclose(ours, nats.reshape(3, -1).sum(1), rtol=1e-5)


def test_psnr_is_that_of_all_values():
    images = np.zeros((2, 4, 4, 3), np.uint8)
    others = images.copy()
    others[0] = 10  # A mean square of 50 over both images.
    assert training.psnr(images, others) == pytest.approx(20 * np.log10(255 / 50**0.5))


def test_learning_rates_rise_and_fall():
    rates = Recipe(learning_rate=1.0).rates(100)
    assert rates.shape == (100,) and rates.dtype == np.float32
    assert (np.diff(rates[:5]) > 0).all() and (np.diff(rates[5:]) < 0).all()
    assert 0.99 < rates.max() <= 1 and 0 < rates[-1] < 0.01
    assert Recipe().rates(1).shape == (1,)


def test_the_loss_falls_and_reconstructions_are_better_than_grey(made):
    directory, losses = made
    assert len(losses) == 40 and np.mean(losses[-5:]) < 0.7 * losses[0]
    autoencoder = stored.load(str(directory), mesh())
    images, _ = digits("test").arrays()
    means = autoencoder.moments(images)[..., :4]
    assert means.shape == (297, 4, 4, 4)
    images = np.broadcast_to(images, (*images.shape[:3], 3))
    psnr = training.psnr(images, autoencoder.decode(means))
    mean_image = np.broadcast_to(images.mean(0).round().astype(np.uint8), images.shape)
    assert psnr > training.psnr(images, mean_image) > training.psnr(images, images * 0 + 128)
    facts = autoencoder.provenance
    assert facts["psnr"] == psnr and facts["tested_images"] == 297
    assert facts["recipe"]["steps"] == 40 and facts["trained_on"] == "train"
    names = {"autoencoder.json", "params.msgpack", "reconstructions.png", ".lock"}
    assert {file.name for file in directory.iterdir()} == names


def test_a_stopped_training_goes_on_to_the_same_weights(made, tmp_path, monkeypatch):
    saved = tmp_path / "saved"
    steps = []

    def stop(number, loss):
        steps.append(number)
        if number == 5:
            signal.raise_signal(signal.SIGTERM)

    watch(monkeypatch, stop)
    with pytest.raises(Stopped):
        trained(saved)
    assert 5 <= steps[-1] < 40
    params, _ = trained(saved)
    assert steps == list(range(40))
    _, whole = stored.SHELF.read(made[0])
    jax.tree.map(np.testing.assert_array_equal, params, whole)
    with expect_error(str(saved), "seed: 0 -> 1", "--workdir"):
        trained(saved, Recipe(**vars(TINY) | {"seed": 1}))


def test_a_duration_gives_the_number_of_steps(tmp_path):
    _, steps = trained(tmp_path / "saved", Recipe(**vars(TINY) | {"minutes": 1e-9}))
    assert steps == 1


def test_the_perceptual_term_is_the_squared_distance_of_features(tmp_path, monkeypatch):
    losses = []
    watch(monkeypatch, lambda number, loss: losses.append(loss))
    features = lambda params, images: params * images.mean(axis=(1, 2))
    recipe = Recipe(**vars(TINY) | {"perceptual": 1.0, "steps": 1})
    for scale in (0, 1, 2):
        perceptual = Perceptual(features, jnp.float32(scale), "hash")
        saved = tmp_path / f"{scale}"
        training.train(digits("train"), recipe, mesh=mesh(), saved=saved, perceptual=perceptual)
    none, once, twice = losses
    assert once > none and twice - none == pytest.approx(4 * (once - none), rel=1e-4)


def test_an_infinite_loss_ends_the_training(tmp_path, monkeypatch):
    broken = lambda *args: lambda state, *rest: (state, jnp.float32(np.inf))
    monkeypatch.setattr(training, "make_step", broken)
    with pytest.raises(NonFiniteError, match="--learning_rate"):
        trained(tmp_path / "saved")


@pytest.mark.parametrize("content", [b"", b"no training", None])
def test_a_damaged_training_starts_anew(content, tmp_path, capsys):
    saved = tmp_path / "saved"
    state = {"kernel": np.zeros(3)}
    other = {"identity": {}, "done": 7, "steps": 9, "state": {"kernel": np.zeros(4)}}
    saved.write_bytes(serialization.msgpack_serialize(other) if content is None else content)
    assert training._restored(saved, {}, state) == (0, 0, state)
    assert f"{saved}: damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "field", "words"),
    [
        ("--factor=3", "--factor", ("3", "4")),
        ("--factor=16", "--size", ("8x8", "16")),
        ("--channels=6", "--channels", ("6", "4")),
        ("--latent_channels=0", "--latent_channels", ("0", "1")),
        ("--steps=0", "--steps", ("0", "1")),
        ("--steps=268435456", "--steps", ("268435456",)),
        ("--batch_size=-1", "--batch_size", ("-1", "1")),
        ("--learning_rate=0", "--learning_rate", ("0", "positive")),
        ("--kl=-0.1", "--kl", ("-0.1",)),
        ("--minutes=-1", "--minutes", ("-1",)),
        ("--minutes=nan", "argument --minutes", ("nan",)),
        ("--seed=-1", "--seed", ("-1",)),
        ("--size=8", "--size", ("8", "HEIGHT,WIDTH")),
        ("--size=8,0", "--size", ("0", "HEIGHT,WIDTH")),
        ("--split=other", "--split", ("other", "train")),
        ("--eval_split=other", "--eval_split", ("other", "test")),
        ("--extractor=classifier", "--perceptual, --extractor", ("both",)),
        ("--perceptual=1", "--perceptual, --extractor", ("both",)),
    ],
)
def test_wrong_arguments_are_refused(argument, field, words, tmp_path):
    with expect_error(field, *words):
        main([*ARGUMENTS, f"--workdir={tmp_path}", argument])
    assert not [*tmp_path.iterdir()]


def test_a_directory_with_an_autoencoder_is_refused(made):
    with expect_error("--workdir", str(made[0]), "another"):
        main([*ARGUMENTS, f"--workdir={made[0]}"])
