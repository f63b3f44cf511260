"""Reads files of tensors, and finds the network in them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddaepp_jax.base.errors import InputError, first_line


def read(file: Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a .pt, .pth or .safetensors file; nothing in it is executed.

    Returns:
      The tensors by their dotted names.

    Raises:
      InputError: there is no such file, it has another format, or the library that reads it is not
        installed.
    """
    if not file.is_file():
        raise InputError(f"--checkpoint: no file {file}; give the downloaded weights")
    try:
        if file.suffix == ".safetensors":
            from safetensors.flax import load_file

            return {name: np.asarray(tensor) for name, tensor in load_file(file).items()}
        import torch

        tensors = flattened(torch.load(file, map_location="cpu", weights_only=True))
        return {name: tensor.detach().float().numpy() for name, tensor in tensors.items()}
    except ImportError as error:
        raise InputError(
            f"--checkpoint: reading {file.suffix or 'this'} needs {error.name}: "
            "pip install 'ddaepp_jax[convert]'"
        ) from None
    except Exception as error:  # A file of another format may raise anything.
        raise InputError(
            f"--checkpoint: {file} is not a file of tensors ({first_line(error)}); "
            "give a .pt, .pth or .safetensors file"
        ) from None


def flattened(checkpoint: Any, prefix: str = "") -> dict[str, Any]:
    """Flattens nested dictionaries to their tensors by dotted names.

    Values that are not tensors, such as numbers, are left out.
    """
    if isinstance(checkpoint, Mapping):
        parts = [flattened(value, f"{prefix}{name}.") for name, value in checkpoint.items()]
        return {name: tensor for part in parts for name, tensor in part.items()}
    return {prefix.removesuffix("."): checkpoint} if hasattr(checkpoint, "shape") else {}


def network_tensors(
    tensors: Mapping[str, np.ndarray], marks: Sequence[str], prefix: str | None = None
) -> dict[str, np.ndarray]:
    """Selects a network's tensors from a file's, and strips their prefix.

    Args:
      tensors: tensors of the file.
      marks: names of tensors by which the network is recognised.
      prefix: prefix of the network's names in the file; ``find_prefix`` finds it by default.

    Raises:
      InputError: as for ``find_prefix``, or no network of this kind has the prefix.
    """
    if prefix is None:
        prefix = find_prefix(list(tensors), marks)
    selected = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    if missing := [mark for mark in marks if mark not in selected]:
        raise InputError(
            f"no tensor {prefix}{missing[0]}; give another --prefix, or no --prefix, which finds it"
        )
    return selected


def find_prefix(names: Sequence[str], marks: Sequence[str]) -> str:
    """Finds the prefix of a network's names in a file.

    A prefix comes from wrappers ("module.") and from the file's dictionaries ("EMA.ema_model.").
    Averaged weights are preferred if a file holds several networks.

    Args:
      names: names of the file's tensors.
      marks: names of tensors by which the network is recognised.

    Raises:
      InputError: there is no network of this kind, or there are several and not exactly one is
        recognised as averaged.
    """
    marked = [
        name.removesuffix(mark)
        for name in names
        for mark in marks
        if name == mark or name.endswith(f".{mark}")
    ]
    prefixes = sorted(prefix for prefix, count in Counter(marked).items() if count == len(marks))
    if not prefixes:
        raise InputError(
            f"the file has no tensors {' and '.join(marks)} "
            f"(it has {', '.join(sorted(names)[:3])}, ..); give the --kind of its network"
        )
    if len(prefixes) == 1:
        return prefixes[0]
    averaged = [name for name in prefixes if "ema" in name.lower() and "online" not in name]
    if len(averaged) != 1:
        raise InputError(
            f"several networks: their names begin with {', '.join(map(repr, prefixes))}; "
            "choose one by --prefix"
        )
    return averaged[0]
