"""Writes FID's released Inception as an extractor."""

from pathlib import Path

from ddaepp_jax.base.errors import InputError, first_line
from ddaepp_jax.base.frozen import hashed
from ddaepp_jax.released import inception_fid
from ddaepp_jax.released.choice import choose_network
from ddaepp_jax.released.read import read
from ddaepp_jax.released.reference import load_reference
from ddaepp_jax.scoring import extractors


def convert_inception(file: Path, directory: Path) -> str:
    """Writes pytorch-fid's Inception as an extractor.

    Args:
      file: file of the weights.
      directory: directory to write, which ``SHELF.check_free`` has checked.

    Returns:
      The hash of the weights.

    Raises:
      InputError: the file does not hold this network, or the directory cannot be written.
    """
    tensors = read(file)
    try:
        tensors = choose_network(tensors, inception_fid.MARKS).tensors
        arguments = inception_fid.arguments(tensors)
        module, variables = load_reference("inception-fid", tensors, **arguments)
    except InputError as error:
        raise InputError(
            f"--checkpoint: {file} is not FID's Inception ({first_line(error)}); "
            "give pytorch-fid's file, or leave it out to fetch it"
        ) from None
    extractors.save(directory, module, variables["params"], {"from": file.name})
    return hashed(variables["params"])
