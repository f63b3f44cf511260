"""A run directory in a zip file or at an address such as ``gs://bucket/run``, copied to be opened.

Nothing is ever written back. Training needs locks and atomic renames, which buckets do not have.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import fsspec

from ddaepp_jax.base.errors import InputError, first_line
from ddaepp_jax.base.files import replace
from ddaepp_jax.base.lock import locked
from ddaepp_jax.base.paths import local_path, user_cache
from ddaepp_jax.run.weights import chosen_step
from ddaepp_jax.training.saving import CHECKSUMS

Files = Mapping[str, str]  # names in the file system by path in the run directory


def is_elsewhere(place: str | os.PathLike) -> bool:
    """Tells whether a run directory is in a zip file or at an address, and has to be copied."""
    text = os.fspath(place) if isinstance(place, str | os.PathLike) else ""
    return "://" in text or (text.endswith(".zip") and not os.path.isdir(text))


def local_copy(place: str, step: int | str | None, snapshots: bool) -> Path:
    """Copies what ``load`` reads of a run directory into the user's cache.

    These are the config, the choice of ``linear_probe``, the meta data of all checkpoints, and one
    checkpoint whole. A checkpoint with the same checksums is not copied again.

    Args:
      place: path or address of a zip file, or address of a run directory.
      step: the checkpoint, as in ``load``.
      snapshots: whether the snapshots are copied too.

    Returns:
      The run directory in the cache, ``ddaepp_jax/runs/`` in ``XDG_CACHE_HOME`` or ``~/.cache``.

    Raises:
      InputError: there is no such run, or it cannot be read.
    """
    if "://" not in place:
        place = str(local_path(place, "workdir").absolute())
    name = place.rstrip("/").rpartition("/")[2].removesuffix(".zip")
    copy = user_cache() / "runs" / hashlib.sha256(place.encode()).hexdigest()[:16] / name
    with _one_line(place):
        zipped = place.endswith(".zip")
        system, root = fsspec.url_to_fs(f"zip://::{place}" if zipped else place)
        files = _files(system.find(root), root, zipped, place)
        copy.mkdir(parents=True, exist_ok=True)
        # Processes of one machine share the copy, and those after the first find it up to date.
        with locked(copy, "wait for it", wait=True):
            _copy(system, files, copy, step, snapshots)
    return copy


@contextlib.contextmanager
def _one_line(place: str) -> Iterator[None]:
    """Turns any error of a file system into an InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # Each file system raises errors of its own.
        missing = isinstance(error, ImportError)
        mend = "install it by pip" if missing else "check the address, and your access to it"
        raise InputError(
            f"workdir: {place}: cannot be read ({first_line(error)}); {mend}"
        ) from error


def _files(names: list[str], root: str, zipped: bool, place: str) -> Files:
    """Finds the run directory, which in a zip file may be in a folder.

    Raises:
      InputError: there is not just one run, or a name leads out of it.
    """
    files = {name.removeprefix(root).lstrip("/"): name for name in names}
    configs = [name for name in files if name.split("/")[int(zipped) :] == ["config.json"]]
    configs = ["config.json"] if "config.json" in files else configs
    if len(configs) != 1:
        raise InputError(
            f"workdir: {place}: has {len(configs) or 'no'} config.json; give a run directory, or "
            "a zip file of one"
        )
    if outside := [name for name in files if ".." in name.split("/")]:
        raise InputError(
            f"workdir: {place}: {outside[0]} leads out of the folder; make the zip file again"
        )
    folder = configs[0].removesuffix("config.json")
    return {
        name.removeprefix(folder): source
        for name, source in files.items()
        if name.startswith(folder)
    }


def _copy(
    system: fsspec.AbstractFileSystem,
    files: Files,
    copy: Path,
    step: int | str | None,
    snapshots: bool,
) -> None:
    """Brings the copy up to date."""
    checkpoints = copy / "checkpoints"
    steps = {name.split("/")[1] for name in files if name.startswith("checkpoints/")}
    for old in checkpoints.glob("*"):
        if old.name not in steps:
            shutil.rmtree(old)
    small = {"config.json", "probe/best.json", *(f"checkpoints/{step}/meta/" for step in steps)}
    small = {name: source for name, source in files.items() if name.startswith(tuple(small))}
    contents = system.cat(list(small.values()))
    for name, source in small.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        replace(copy / name, contents[source])
    folders = [f"checkpoints/{chosen_step(checkpoints, step)}"]
    if snapshots:
        folders += {
            "/".join(name.split("/")[:2]) for name in files if name.startswith("snapshots/")
        }
    for folder in folders:
        _copy_folder(system, files, copy, folder)


def _copy_folder(system: fsspec.AbstractFileSystem, files: Files, copy: Path, folder: str) -> None:
    """Copies the folder of a step, unless the copy has it with the same checksums."""
    checksums = f"{folder}/{CHECKSUMS}"
    there = copy / checksums
    has_both = there.exists() and checksums in files
    if has_both and system.cat_file(files[checksums]) == there.read_bytes():
        return
    names = [name for name in files if name.startswith(f"{folder}/")]
    with tempfile.TemporaryDirectory(dir=copy) as new:
        targets = [str(Path(new) / name) for name in names]
        for target in targets:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
        system.get([files[name] for name in names], targets)
        shutil.rmtree(copy / folder, ignore_errors=True)
        (copy / folder).parent.mkdir(exist_ok=True)
        if names:
            os.replace(Path(new) / folder, copy / folder)
