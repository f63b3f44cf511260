"""The notebook of launch/: what is in its file, and what its cells show."""

import ast
import base64
import importlib
import inspect
import io
import re
import subprocess
from pathlib import Path

import nbformat
import numpy as np
import pytest
from helpers.pixels import check_pixels_equal
from helpers.run import NO_EVALS, command, environment
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from PIL import Image

import ddaepp_jax
from ddaepp_jax.reporting.pictures import grid

NOTEBOOK = Path(__file__).parents[2] / "launch" / "colab.ipynb"


def cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_file_is_valid_and_holds_no_outputs(notebook):
    nbformat.validate(notebook)
    assert [cell.id for cell in cells(notebook) if cell.outputs or cell.execution_count] == []
    for cell in notebook.cells:
        assert max(map(len, cell.source.splitlines())) <= 100
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 15


def test_its_cells_use_public_names_that_exist(notebook):
    """Also attributes of the opened run, and modules of the package."""
    documented = re.findall(r"^  (\w+):", inspect.getdoc(ddaepp_jax.Run), re.MULTILINE)
    of_run = {*dir(ddaepp_jax.Run), *documented}
    imported = {}
    for cell in cells(notebook):
        body = cell.source.removeprefix("%%capture log\n")  # IPython takes it for a string.
        for node in ast.walk(ast.parse(TransformerManager().transform_cell(body))):
            match node:
                case ast.ImportFrom(module=module, names=names):
                    imported |= {name.name: module for name in names}
                case ast.Attribute(value=ast.Name(id="run"), attr=name):
                    assert name in of_run, name
            name = getattr(node, "attr", getattr(node, "id", ""))
            assert not str(name).startswith("_"), name
    own = {name: module for name, module in imported.items() if module.startswith("ddaepp_jax")}
    assert {"train_and_evaluate", "grid", "decode", "probes", "linear_probe"} <= own.keys()
    for name, module in own.items():
        found = importlib.import_module(module)
        assert hasattr(found, name) or importlib.import_module(f"{module}.{name}")


@pytest.fixture(scope="module")
def sharded(make_once) -> Path:
    """A tiny run of digits whose parameters were sharded over eight devices."""
    fields = NO_EVALS | dict(
        train__steps=40, mesh__data=1, mesh__fsdp=8, train__checkpoint_every=40
    )

    def build(directory: Path) -> None:
        subprocess.run(
            command("main", fields, f"--workdir={directory}"),
            env=environment(8),
            check=True,
            capture_output=True,
        )

    return make_once("sharded", build)


@pytest.mark.slow
def test_every_cell_runs_on_a_run_of_eight_devices(notebook, sharded, tmp_path, monkeypatch):
    """It is opened on one device. Nothing is written to stderr, and no file beside the notebook."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    for folder in ("tmp", "here"):
        (tmp_path / folder).mkdir()
    settings = next(cell for cell in cells(notebook) if cell.source.startswith('RUN = ""'))
    settings.source = settings.source.replace('RUN = ""', f"RUN = {str(sharded)!r}")
    before = sorted(sharded.rglob("*"))
    NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(tmp_path / "here")}}
    ).execute()
    outputs = [output for cell in cells(notebook) for output in cell.outputs]
    printed = [output for output in outputs if output.output_type == "stream"]
    assert [stream.text for stream in printed if stream.name != "stdout"] == []
    assert list((tmp_path / "here").iterdir()) == [] and sorted(sharded.rglob("*")) == before

    shown = [output.data for output in outputs if "data" in output]
    run = ddaepp_jax.load(sharded)
    assert any(data["text/plain"] == repr(run) for data in shown)
    pictures = [
        Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
        for data in shown
        if "image/png" in data
    ]
    # samples, trajectory, heat map, neighbours, loss, samples
    assert len(pictures) == 6 and all(np.std(picture.convert("L")) > 20 for picture in pictures)
    samples = grid(run.sample(n=32, seed=0), columns=8)
    check_pixels_equal(np.asarray(samples), np.asarray(pictures[0]))
    assert (np.asarray(pictures[0]) != np.asarray(pictures[5])).mean() > 0.05

    text = "".join(stream.text for stream in printed)
    (features, pixels) = map(float, re.findall(r": ([0-9.]+)%", text))
    assert 15 < features <= 100 and 80 < pixels < 95  # a tenth is right by chance
    assert re.search(r"linear heads +[0-9.]+ +[89][0-9]\.", text)
