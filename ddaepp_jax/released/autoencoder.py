"""Writes released autoencoders to directories."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ddaepp_jax.autoencoders import stored
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.base.frozen import hashed
from ddaepp_jax.data.normalisation import Normalisation
from ddaepp_jax.released import taesd
from ddaepp_jax.released.arguments import checked
from ddaepp_jax.released.choice import choose_network
from ddaepp_jax.released.fetch import fetch
from ddaepp_jax.released.read import read
from ddaepp_jax.released.reference import FAMILIES, load_reference
from ddaepp_jax.released.tensors import numbers


def fetched(kind: str, directory: Path) -> Path:
    """Downloads the weights of a kind into a directory, and returns their file.

    Raises:
      InputError: there is no network, or the kind's weights have to be fetched by hand.
    """
    if kind != "taesd":
        raise InputError(
            f"--checkpoint: missing; --kind={kind} needs the file of its weights, see "
            "docs/latents.md"
        )
    encoder, _ = [fetch(url, digest, directory) for url, digest in taesd.FILES.items()]
    return encoder


def convert_autoencoder(
    kind: str,
    file: Path,
    directory: Path,
    prefix: str | None,
    options: Mapping[str, Any],
    statistics: Path | None,
) -> str:
    """Writes released weights as an autoencoder.

    Args:
      kind: one of ``released.AUTOENCODERS``.
      file: file of the weights; where it is one of TAESD's encoder, that of the decoder lies
        beside it.
      directory: directory to write, which ``SHELF.check_free`` has checked.
      prefix: text before the network's names in the file; found by default.
      options: arguments of the reference's class that its tensors do not tell.
      statistics: file of the tensors ``mean`` and ``std`` of latents, by channel.

    Returns:
      The hash of the weights.

    Raises:
      InputError: the file does not hold such a network, an argument is wrong, or the directory
        cannot be written.
    """
    family = FAMILIES[kind]
    tensors = _halves(file) if kind == "taesd" else read(file)
    try:
        tensors = choose_network(tensors, family.MARKS, prefix).tensors
        arguments = family.arguments(tensors) | dict(options)
        module, variables = load_reference(kind, tensors, **arguments)
    except InputError as error:
        field = "--checkpoint" if not options else "--checkpoint and --options"
        raise InputError(f"{field}: {error}") from None
    if statistics is not None:
        normalisation = _measured(statistics, module.latent_channels)
    elif kind == "autoencoder-kl":
        normalisation = checked(kind, family.Arguments, arguments).normalisation
    else:
        normalisation = None
    stored.save(directory, module, variables["params"], normalisation, {"from": file.name})
    return hashed(variables["params"])


def _halves(file: Path) -> dict[str, Any]:
    """Reads both halves of a TAESD, which are released as two files."""
    tensors = read(file)
    if any(name.startswith("decoder.") for name in tensors):
        return tensors
    other = file.with_name(file.name.replace("encoder", "decoder"))
    if other == file or not other.exists():
        raise InputError(
            f"--checkpoint: {file} has no decoder, and there is no file of one beside it "
            f"({other.name}); give the encoder's file, NAME_encoder, with NAME_decoder beside it"
        )
    encoder = {f"encoder.{name}": tensor for name, tensor in tensors.items()}
    return encoder | {f"decoder.{name}": tensor for name, tensor in read(other).items()}


def _measured(file: Path, channels: int) -> Normalisation:
    """Reads a file of statistics, such as LightningDiT's latents_stats.pt."""
    tensors = read(file)
    if missing := [name for name in ("mean", "std") if name not in tensors]:
        raise InputError(f"--statistics: {file} has no tensor {missing[0]!r}; give another file")
    mean, std = (numbers(tensors, name).astype(np.float64).ravel() for name in ("mean", "std"))
    if len(mean) != channels or len(std) != channels or std.min() <= 0:
        raise InputError(
            f"--statistics: {file} has {len(mean)} means and {len(std)} deviations, and latents "
            f"have {channels} channels with positive deviations; give another file"
        )
    return Normalisation.of(mean, std)
