"""Reads files of tensors, whose format is recognised by their content."""

import json
import re
from pathlib import Path
from typing import Any

from ddaepp_jax.base.errors import InputError, first_line
from ddaepp_jax.released import pickled

MEND = "give a .pt, .pth or .safetensors file of weights"
# The first bytes of files that hold no tensors, what they are, and what helps.
OTHERS = (
    (rb"version https://git-lfs", "a git-lfs pointer", "run `git lfs pull` where it is"),
    (rb"\s*<\?xml", "an XML document", "download the file itself"),
    (
        rb"(\xef\xbb\xbf)?\s*<",
        "an HTML page",
        "download the file itself, after logging in if needed",
    ),
    (
        rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd",
        "a compressed file",
        "unpack it and give its file",
    ),
    (rb"7z\xbc\xaf|Rar!|.{257}ustar", "an archive", "unpack it and give the file of weights in it"),
    (rb"\x80", "a Python pickle", "save the tensors alone by torch.save; a pickle could run code"),
    (rb"\x89HDF|GGUF|\x93NUMPY", "a file of another library", MEND),
)


def read(file: Path) -> dict[str, Any]:
    """Reads the tensors of a .pt, .pth or .safetensors file, or of the shards of an index.

    Nothing in a file is executed.

    Args:
      file: the file, or a JSON index of shards that lie beside it.

    Returns:
      The tensors of PyTorch or JAX by their dotted names.

    Raises:
      InputError: there is no such file, it is damaged or has another format, a shard is missing, or
        the library that reads it is not installed.
    """
    start = _start(file)
    shards = start.lstrip()[:1] == b"{" and not _is_safetensors(start)
    tensors = _read_shards(file) if shards else _read_tensors(file, start)
    return {_printable(name): tensor for name, tensor in tensors.items()}


def _printable(name: str) -> str:
    """Escapes line breaks and the like in a name, and shortens what is longer than any name."""
    return name[:200] if name.isprintable() else ascii(name)[1:-1][:200]


def _is_safetensors(start: bytes) -> bool:
    """Whether a file begins with the length of a JSON header, in 8 bytes, and the header."""
    return start[6:9] == b"\0\0{"


def _start(file: Path) -> bytes:
    """Returns the first bytes of a file."""
    try:
        if file.is_dir():
            raise InputError(f"--checkpoint: {file} is a directory; give the file of weights in it")
        if not file.is_file():
            raise InputError(f"--checkpoint: no file {file}; give the downloaded weights")
        with file.open("rb") as content:
            start = content.read(1024)
    except OSError as error:
        raise InputError(
            f"--checkpoint: {file} cannot be read ({error.strerror}); {MEND}"
        ) from None
    if not start:
        raise InputError(f"--checkpoint: {file} is empty; download it again")
    return start


def _read_tensors(file: Path, start: bytes) -> dict[str, Any]:
    """Reads one file that begins with ``start``."""
    safetensors = _is_safetensors(start)
    if not (safetensors or start.startswith(pickled.STARTS)):
        _refuse_other(file, start)
    try:
        if safetensors:
            from safetensors.flax import load_file

            return load_file(file)
        return pickled.read(file)
    except InputError as error:
        raise InputError(f"--checkpoint: {file} {error}") from None
    except ImportError as error:
        raise InputError(
            f"--checkpoint: reading {file} needs {error.name}: pip install 'ddaepp_jax[convert]'"
        ) from None
    except Exception as error:  # A damaged file may raise anything.
        raise InputError(
            f"--checkpoint: {file} cannot be read ({first_line(error)}); download it again, or "
            "save its tensors as float32"
        ) from None


def _refuse_other(file: Path, start: bytes) -> None:
    """Says what a file is that does not begin as a file of tensors."""
    for pattern, noun, mend in OTHERS:
        if re.match(pattern, start, re.DOTALL):
            raise InputError(f"--checkpoint: {file} is {noun}, not a file of tensors; {mend}")
    raise InputError(
        f"--checkpoint: {file} is not a file of tensors (it begins with {start[:8]!r}); {MEND}"
    )


def _read_shards(index: Path) -> dict[str, Any]:
    """Reads the files that an index names, which lie beside it."""
    try:
        places = dict(json.loads(index.read_text())["weight_map"])
        files = sorted(set(places.values()))
        if any(Path(name).name != name for name in files):
            raise ValueError("a shard lies in another directory")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"--checkpoint: {index} is JSON, but no index of shards ({first_line(error)}); {MEND}"
        ) from None
    if missing := [name for name in files if not (index.parent / name).is_file()]:
        raise InputError(
            f"--checkpoint: {index} is an index of shards, and {len(missing)} of {len(files)} are "
            f"missing, such as {missing[0]}; download them beside it"
        )
    tensors = {}
    for name in files:
        shard = index.parent / name
        tensors |= _read_tensors(shard, _start(shard))
    if lost := sorted(places.keys() - tensors.keys()):
        raise InputError(
            f"--checkpoint: {index.parent / places[lost[0]]} lacks {lost[0]}, which the index "
            "promises; download both again"
        )
    return tensors
