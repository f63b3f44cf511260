"""What a user installs: the wheel's contents, and versions pinned within the bounds that setup.py
promises.
"""

import re
import shutil
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import ddaepp_jax

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))


def pip(*arguments):
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of this checkout, built from a copy (a stale build/ would be packed too) and without
    a network.
    """
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for path in ROOT.glob("[!.]*"):
        if path.name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(path, source)
        elif path.name in ("ddaepp_jax", "tests", "configs"):
            shutil.copytree(path, source / path.name, ignore=shutil.ignore_patterns("__pycache__"))
    pip("wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", out, source)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


@pytest.mark.smoke
def test_the_wheel_installs_and_holds_the_whole_package_alone(wheel, tmp_path):
    pip("install", "--no-index", "--no-deps", "--target", tmp_path, wheel)
    installed = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.py")}
    assert "ddaepp_jax/config/__init__.py" in installed
    assert installed == {
        str(path.relative_to(ROOT)) for path in (ROOT / "ddaepp_jax").rglob("*.py")
    }


def test_the_metadata_says_version_license_and_python(metadata):
    assert metadata["Version"] == ddaepp_jax.__version__
    assert metadata["License"] == "Apache-2.0"
    assert metadata["License-File"] == "LICENSE"
    assert metadata["Requires-Python"] == ">=3.11"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_constraints_are_plain_pins_of_what_setup_py_asks_for(lock, metadata):
    lines = [line for line in lock.read_text().splitlines() if not line.startswith("#")]
    assert [
        line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._]+", line)
    ] == []
    pins = {
        canonicalize_name(name): Version(version)
        for name, version in (line.split("==") for line in lines)
    }
    heavy = re.compile(r"(torch|tensorflow|tf|nvidia|libtpu|jax-cuda|triton)(-|$)")
    assert {name for name in pins if heavy.match(name)} <= {
        "tensorflow-datasets",
        "tensorflow-metadata",
    }

    requirements = [Requirement(text) for text in metadata.get_all("Requires-Dist")]
    direct = [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": "test"})]
    assert {"jax", "pytest"} <= {r.name for r in direct}
    for requirement in direct:
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_the_two_ends_differ():
    jax = {
        lock.stem: re.search(r"^jax==(\d+\.\d+)", lock.read_text(), re.MULTILINE)[1]
        for lock in LOCKS
    }
    assert jax == {"py311-lowest": "0.10", "newest": "0.12"}
