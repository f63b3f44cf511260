"""Imports run one way, and importing costs nothing."""

import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.smoke

# A backend that is up can no longer change its number of devices, and jax.distributed could no
# longer start. TensorFlow need not be installed to be asked for.
CHECK = """
import sys

class NoTensorFlow:
    def find_spec(self, name, path=None, target=None):
        assert name.partition(".")[0] != "tensorflow", "TensorFlow was asked for"

sys.meta_path.insert(0, NoTensorFlow())
{imports}
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
assert len(jax.devices()) == 2
"""
EVERY_PART = """
import importlib, pkgutil, ddaepp_jax
for module in pkgutil.walk_packages(ddaepp_jax.__path__, "ddaepp_jax."):
    importlib.import_module(module.name)
"""


def test_imports_run_one_way():
    # The contract is in pyproject.toml; its report is in this test's output.
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


@pytest.mark.parametrize(
    "imports", ["import ddaepp_jax", EVERY_PART], ids=["the door", "every module"]
)
def test_importing_starts_no_backend_and_asks_for_no_tensorflow(imports):
    result = subprocess.run(
        [sys.executable, "-c", CHECK.format(imports=imports)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


HELP = """
import runpy, sys
for program in sys.argv[1:]:
    sys.argv = [program, "--help"]
    try:
        runpy.run_module(f"ddaepp_jax.{program}", run_name="__main__")
    except SystemExit as ended:
        assert ended.code == 0
    assert "jax" not in sys.modules, program
"""


def test_help_imports_no_jax():
    programs = [file.stem for file in (ROOT / "ddaepp_jax").glob("*.py")]
    programs.remove("__init__")
    assert len(programs) == 10
    subprocess.run([sys.executable, "-c", HELP, *programs], check=True, capture_output=True)
