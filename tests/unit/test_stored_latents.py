"""Latents on disk: what is written, read, drawn, and refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.errors import expect_error

from ddaepp_jax.data import caching, datasets
from ddaepp_jax.data.encoding import Encoding
from ddaepp_jax.data.latents import HEADER, Header, latents
from ddaepp_jax.data.normalisation import Normalisation

ANY = Normalisation((0.0,), (1.0,))
SHAPE = (4, 4, 3)
AUTOENCODER = {"name": "pooling", "kind": "test", "hash": "0123456789abcdef"}


def encode(images):
    """Pools digits (B, 8, 8, 1) to means with three channels, and gives log-variances."""
    x = images.astype(np.float32).reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4))[..., None] / 100
    means = np.concatenate([x, 2 * x + 3, -x], axis=-1)
    return np.concatenate([means, means - 3], axis=-1)


def job(**changes):
    data = datasets.digits("train")
    source = {"name": "digits", "split": "train", "data_dir": "", "size": [0, 0], "crop": "adm"}
    source |= {"image_shape": [8, 8, 1], "fingerprint": "f"}
    fields = dict(
        data=data,
        encode=encode,
        encoding=Encoding(SHAPE, True, ANY),
        normalisation=None,
        batch_size=64,
        autoencoder=AUTOENCODER,
        source=source,
    )
    return caching.Job(**fields | changes)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(caching, "SHARD_IMAGES", 400)


@pytest.fixture
def cached(tmp_path):
    caching.cache(job(), tmp_path / "latents" / "train")
    return tmp_path / "latents"


def test_records_are_the_moments_of_images_and_mirrors(cached):
    read = latents(cached, "train")
    images, labels = job().data.arrays()
    records, read_labels = read.arrays()
    np.testing.assert_array_equal(read_labels, labels)
    mirrored = encode(images[:, :, ::-1])
    expected = np.concatenate([encode(images), mirrored], axis=-1).astype(np.float16)
    np.testing.assert_array_equal(records, expected)
    assert records.dtype == np.float16 and read.nbytes == records.nbytes
    assert read.image_shape == SHAPE and read.class_names == job().data.class_names
    some = np.array([1499, 0, 1499, 801])
    np.testing.assert_array_equal(read.gather(some)[0], expected[some])


def test_normalised_latents_have_unit_deviation(cached):
    """The statistics are of draws: the means' variance and the mean of the variances."""
    read = latents(cached, "train")
    records, _ = read.arrays()
    index = jnp.arange(len(records))
    x = np.asarray(read.encoding.draw(jnp.asarray(records), 0, jnp.int32(0), index, flip=True))
    assert x.shape == (1500, *SHAPE) and x.dtype == np.float32
    np.testing.assert_allclose(x.mean(axis=(0, 1, 2)), 0, atol=0.03)
    np.testing.assert_allclose(x.std(axis=(0, 1, 2)), 1, atol=0.03)


def test_the_autoencoders_own_normalisation_goes_first(tmp_path):
    own = Normalisation((0.5,), (0.18215,))
    header = caching.cache(job(normalisation=own), tmp_path / "train")
    assert header.normalisation == own and len(header.mean) == 3
    clean = latents(tmp_path, "train").clean()
    images, _ = job().data.arrays()
    means = encode(images)[..., :3].astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(clean.arrays()[0], (means - 0.5) * 0.18215, atol=1e-6)
    assert clean.dtype == np.float32 and clean.encoding is None


def test_draws_follow_the_moments_and_depend_on_the_image_alone():
    encoding = Encoding(SHAPE, True, Normalisation((1.0,), (2.0,)))
    rng = np.random.default_rng(0)
    records = jnp.asarray(rng.standard_normal((5, 4, 4, 12)), jnp.float16)
    draw = jax.jit(lambda rows, step: encoding.draw(records[rows], 7, step, rows, flip=True))
    many = np.stack([draw(jnp.arange(5), jnp.int32(step)) for step in range(600)])
    moments = np.asarray(records, np.float64).reshape(5, 4, 4, 2, 2, 3)
    means, deviations = moments[..., 0, :], np.exp(0.5 * moments[..., 1, :])
    expected = (means.mean(axis=3) - 1) * 2
    spread = means.std(axis=3) ** 2 + np.square(deviations).mean(axis=3)
    np.testing.assert_allclose(
        many.mean(axis=0), expected, atol=6 * 2 * np.sqrt(spread.max() / 600)
    )
    np.testing.assert_allclose(many.var(axis=0), 4 * spread, rtol=0.5)
    alone = draw(jnp.array([3]), jnp.int32(5))
    np.testing.assert_allclose(alone[0], many[5, 3], atol=1e-6)
    assert not np.allclose(many[0], many[1])


class Stopping:
    """Encodes, and is interrupted at its 40th call."""

    calls = 0

    def __call__(self, images):
        self.calls += 1
        if self.calls == 40:
            raise KeyboardInterrupt
        return encode(images)


def test_a_stopped_cache_goes_on_and_is_the_same(cached, tmp_path):
    """It stops within the third shard; the first two are kept."""
    stopping = Stopping()
    target = tmp_path / "stopped" / "train"
    with pytest.raises(KeyboardInterrupt):
        caching.cache(job(encode=stopping), target)
    assert not target.exists()
    header = caching.cache(job(encode=stopping), target)
    assert (
        stopping.calls < 40 + 2 * 18
    )  # 1,500 images take 2 * 25 calls, and two of four shards were there
    assert header == Header.read(cached / "train")
    files = sorted(path.name for path in target.iterdir())
    assert files == sorted(path.name for path in (cached / "train").iterdir())
    for name in files:
        assert (target / name).read_bytes() == (cached / "train" / name).read_bytes(), name


def test_shards_of_another_autoencoder_are_not_taken_over(tmp_path):
    """A stopped call left two shards; the next one has other weights."""
    with pytest.raises(KeyboardInterrupt):
        caching.cache(job(encode=Stopping()), tmp_path / "train")
    other = {"autoencoder": AUTOENCODER | {"hash": "another"}}
    caching.cache(job(encode=lambda images: 2 * encode(images), **other), tmp_path / "train")
    records, _ = latents(tmp_path, "train").arrays()
    images, _ = job().data.arrays()
    np.testing.assert_array_equal(records[..., :6], (2 * encode(images)).astype(np.float16))


def test_finished_latents_are_kept_and_others_refused(cached):
    def never(images):
        raise AssertionError

    caching.cache(job(encode=never), cached / "train")
    other = {"autoencoder": AUTOENCODER | {"hash": "another"}}
    with expect_error("--out:", "another autoencoder", "hash"):
        caching.cache(job(**other), cached / "train")
    with expect_error("--out:", "another source", "crop: adm, not none"):
        caching.cache(job(source=job().source | {"crop": "none"}), cached / "train")
    with expect_error("--out:", "another source", "size"):
        caching.cache(job(source=job().source | {"size": [4, 4]}), cached / "train")


def test_a_disk_that_is_too_small(tmp_path, monkeypatch):
    monkeypatch.setattr(caching.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with expect_error("--out:", "free space"):
        caching.cache(job(), tmp_path / "train")


def changed(file, position, content=None):
    """Flips a bit of a file, or writes other content."""
    if content is not None:
        file.write_text(content)
        return
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)


def test_a_flipped_byte_names_its_shard_and_image(cached):
    file = cached / "train" / "shard-00001.array_record"
    content = file.read_bytes()
    record, _ = latents(cached, "train").read(np.array([555]))
    changed(file, content.index(record.tobytes()) + 11)
    opened = latents(cached, "train")
    opened.gather(np.arange(400))
    with expect_error(f"data.data_dir: {file}: image 555 is damaged", "cache_latents"):
        opened.gather(np.arange(400, 800))


def test_a_truncated_or_missing_shard(cached):
    file = cached / "train" / "shard-00002.array_record"
    content = file.read_bytes()
    file.write_bytes(content[:-1000])
    with expect_error(f"data.data_dir: {file} has", f"not {len(content)}", "cache_latents"):
        latents(cached, "train")
    file.unlink()
    with expect_error(f"data.data_dir: {file} is missing", "cache_latents"):
        latents(cached, "train")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda facts: facts.pop("normalisation"), "statistics of the channels are missing"),
        (lambda facts: facts["normalisation"]["scale"].__setitem__(0, 0), "not finite or positive"),
        (lambda facts: facts.update(format=2), "format 2"),
        (lambda facts: facts.update(dtype="bfloat16"), "bfloat16"),
        (lambda facts: facts.pop("mean"), "mean"),
    ],
    ids=["statistics", "scale", "format", "dtype", "mean"],
)
def test_headers_that_cannot_be_used(cached, change, words):
    file = cached / "train" / HEADER
    facts = json.loads(file.read_text())
    change(facts)
    file.write_text(json.dumps(facts))
    with expect_error(f"data.data_dir: {file} cannot be used", words, "cache_latents"):
        latents(cached, "train")


def test_places_without_latents(cached, tmp_path):
    with expect_error("data.split:", "'test'", "use one of train"):
        latents(cached, "test")
    with expect_error("data.split:", "cache_latents"):
        latents(tmp_path / "nothing", "train")
    (cached / "train" / HEADER).unlink()
    with expect_error("data.data_dir:", HEADER, "cache_latents"):
        latents(cached, "train")
