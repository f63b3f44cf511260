"""Errors that only several devices can cause: batches and meshes that do not divide evenly."""

import pytest
from helpers.errors import TINY, expect_error

from ddaepp_jax import linear_probe, load, main
from ddaepp_jax.probing import level
from ddaepp_jax.run import train as training


@pytest.mark.parametrize(
    ("override", "field", "words"),
    [
        ("train.batch_size=12", "train.batch_size", ["12", "multiple of 8"]),
        ("train.accumulate=3", "train.accumulate", ["3 parts", "multiple of 24"]),
        ("mesh.data=3", "mesh.data=3", ["8 devices"]),
        ("mesh.fsdp=0", "mesh.data", ["mesh.fsdp=0", "8 devices"]),
    ],
)
def test_bad_field(override, field, words, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "compile_fitting", lambda *_, **__: pytest.fail("compiled"))
    with expect_error(field, *words):
        main.main([TINY, f"--workdir={tmp_path / 'run'}", f"--config.{override}"])
    assert not (tmp_path / "run").exists()


def test_batch_of_a_probe(conditional, monkeypatch):
    """All devices share a batch of the online protocol, but not one of the cached protocol."""
    monkeypatch.setattr(level, "store", lambda *_, **__: pytest.fail("made features"))
    with expect_error("batch_size", "12", "multiple of 8"):
        linear_probe.main([f"--workdir={conditional}", "--protocol=online", "--batch_size=12"])
    assert (
        linear_probe.settings(load(conditional), "cached", batch_size=12).protocol.batch_size == 12
    )
