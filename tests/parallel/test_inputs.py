"""What is wrong only where there are several devices: batches and meshes that they do not share
evenly.
"""

import pytest
from helpers.errors import TINY, expect_error

from ddaepp_jax import linear_probe, load, main


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        ("train.batch_size=12", "train.batch_size", ["12", "multiple of 8"]),
        ("mesh.data=3", "mesh.data=3", ["8 devices"]),
        ("mesh.fsdp=0", "mesh.data", ["mesh.fsdp=0", "8 devices"]),
    ],
)
def test_bad_field(given, field, words, tmp_path, monkeypatch):
    monkeypatch.setattr(main, "compile_program", lambda *_, **__: pytest.fail("compiled"))
    with expect_error(field, *words):
        main.main([TINY, f"--workdir={tmp_path / 'run'}", f"--config.{given}"])
    assert not (tmp_path / "run").exists()


def test_a_probes_batch(conditional, monkeypatch):
    """A batch of the online protocol is shared by all devices; one of the cached protocol is
    not.
    """
    monkeypatch.setattr(linear_probe, "store", lambda *_, **__: pytest.fail("made features"))
    with expect_error("batch_size", "12", "multiple of 8"):
        linear_probe.main([f"--workdir={conditional}", "--protocol=online", "--batch_size=12"])
    assert (
        linear_probe.settings(load(conditional), "cached", batch_size=12).protocol.batch_size == 12
    )
