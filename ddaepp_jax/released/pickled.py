"""Reads the tensors of a file that ``torch.save`` wrote; nothing in it is executed.

Beside its tensors, a checkpoint holds the settings and counters of its training, of classes such as
``argparse.Namespace``. Stand-ins are made in their place, and no such class is imported or called.
"""

import pickle
import pickletools
import re
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # Python 2's names
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ddaepp_jax.base.errors import InputError, first_line

_ZIP = b"PK\x03\x04"
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number of PyTorch before 1.6
STARTS = (_ZIP, _LEGACY)


class _Unread:
    """Stands for a class or function; an object of it keeps nothing."""

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Items:
    """Stands for a class of dictionaries; PyTorch sets the items of no other class than these."""

    def __new__(cls, *args: Any) -> OrderedDict:
        return OrderedDict()


def _list(*args: Any) -> list:
    """Stands for a class of lists."""
    return []


class _Dtype:
    """Stands for ``numpy.dtype``."""

    def __init__(self, code: Any = None, *args: Any) -> None:
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        self.code = state[1].replace("|", "=") + self.code  # the order of bytes


class _Array:
    """Stands for a NumPy array, whose numbers it reads."""

    def __init__(self, *args: Any) -> None:
        self.numbers: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, by_column, content = state
        if isinstance(content, bytes) and re.fullmatch("[<>=]?[biufc][0-9]+", dtype.code):
            flat = np.frombuffer(content, dtype.code)
            self.numbers = flat.reshape(shape, order="F" if by_column else "C")


# By the first letters of names of classes and functions that hold settings and numbers: what stands
# for them.
_STAND_INS = {
    "numpy.dtype": _Dtype,
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray._reconstruct": _Array,
    "collections.deque": _list,
    **dict.fromkeys(
        ("addict.", "collections.", "easydict.", "lightning", "pytorch_lightning.", "yacs."), _Items
    ),
    **dict.fromkeys(
        ("argparse.", "datetime.", "decimal.", "ml_collections.", "numpy.", "omegaconf."), _Unread
    ),
    **dict.fromkeys(("pathlib.", "random.", "types.SimpleNamespace", "typing.", "uuid."), _Unread),
    **{
        f"builtins.{kind.__name__}": _Unread
        for kind in (
            bool,
            bytes,
            dict,
            float,
            frozenset,
            int,
            list,
            object,
            range,
            slice,
            str,
            tuple,
        )
    },
}


def read(file: Path) -> dict[str, Any]:
    """Reads the tensors and NumPy arrays of a file by dotted names.

    Raises:
      InputError: the file is another archive, its checksums are wrong, or it holds a class that
        could run code. The message continues the file's name.
      Exception: any other, if the file is damaged.
    """
    with file.open("rb") as content:
        zipped = content.read(4) == _ZIP
    names = _zipped_names(file) if zipped else _legacy_names(file)
    import torch

    stand_ins = [
        (stand_in, name)
        for name in names
        if (stand_in := next((_STAND_INS[key] for key in _STAND_INS if name.startswith(key)), None))
    ]
    # A mapped file is read where tensors are used: not its optimizer, nor other averages.
    # A path that ends so is not given, as PyTorch would take it for a file of safetensors.
    mapped = zipped and file.suffix != ".safetensors"
    try:
        with (
            torch.serialization.safe_globals(stand_ins),
            warnings.catch_warnings(action="ignore"),  # about pickles of newer protocols
            file.open("rb") as content,
        ):
            source = file if mapped else content
            loaded = torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        reason = first_line(error.__context__ or error)  # PyTorch puts advice before the reason.
        if refused := re.search(r"GLOBAL (\S+)", reason):
            reason = f"it holds {ascii(refused[1])[1:-1]}"
        raise InputError(
            f"cannot be read without running code of its own ({reason}); in its own program, save "
            "the tensors alone by torch.save(model.state_dict(), FILE)"
        ) from None
    return flattened(loaded)


def _zipped_names(file: Path) -> set[str]:
    """Returns the names of the classes and functions in a file, whose checksums it verifies."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.namelist()
        pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if any(name.endswith("/constants.pkl") for name in entries):
            raise InputError("is a TorchScript program; give the file of its weights")
        if not pickles:
            raise InputError(
                f"is an archive of other files (such as {entries[:1]}), not a file of tensors; "
                "unpack it and give the file of weights in it"
            )
        if wrong := archive.testzip():  # PyTorch does not compare them.
            raise InputError(f"is damaged (the checksum of {wrong} is wrong); download it again")
        with archive.open(pickles[0]) as content:
            return _names(content)


def _legacy_names(file: Path) -> set[str]:
    """Returns the names of the classes and functions in a file of PyTorch before 1.6."""
    with file.open("rb") as content:
        for _ in range(3):  # the magic number, the version, and the sizes of types
            _names(content)
        return _names(content)


def _names(stream: BinaryIO) -> set[str]:
    """Returns the dotted names of the classes and functions in a pickle, which is not executed."""
    operations = pickletools.genops(stream)
    pairs = {tuple(arg.split(" ")) for code, arg, _ in operations if code.name == "GLOBAL"}
    today = (
        NAME_MAPPING.get(pair) or (IMPORT_MAPPING.get(pair[0], pair[0]), pair[1]) for pair in pairs
    )
    return {".".join(pair) for pair in today}


def flattened(checkpoint: Any, prefix: str = "") -> dict[str, Any]:
    """Flattens nested dictionaries and lists to their tensors by dotted names.

    Values that are not tensors, such as numbers, are left out.
    """
    if isinstance(checkpoint, Mapping):
        items = list(checkpoint.items())
    elif isinstance(checkpoint, list | tuple):
        items = list(enumerate(checkpoint))
    else:
        tensor = checkpoint.numbers if isinstance(checkpoint, _Array) else checkpoint
        return {prefix.removesuffix("."): tensor} if hasattr(tensor, "shape") else {}
    parts = [flattened(value, f"{prefix}{name}.") for name, value in items]
    return {name: tensor for part in parts for name, tensor in part.items()}
