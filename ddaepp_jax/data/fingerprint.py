"""A fingerprint of a data set, by which other data are noticed."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.data.datasets import Dataset

WHOLE = 2**30  # bytes of images up to which all of them are read
SAMPLE = 1024  # number of images that are read of a larger set
PIECE = 4096  # bytes that are read of each file of a larger folder


def fingerprint(data: Dataset) -> str:
    """Returns 16 hexadecimal digits that depend on the images, the labels and the class names.

    They do not depend on where the data lie, nor on whether they are in memory. All images of a set
    of at most ``WHOLE`` bytes count. Of a larger set, ``SAMPLE`` evenly spaced images count. Of a
    larger image folder, so do each file's name, size, and ``PIECE`` bytes in its middle.

    Raises:
      InputError: an image cannot be read.
    """
    digest = hashlib.blake2b(digest_size=8)
    digest.update(json.dumps([len(data), data.image_shape, data.class_names]).encode())
    if data.nbytes <= WHOLE:
        ids = np.arange(len(data))
    else:
        ids = np.linspace(0, len(data) - 1, SAMPLE).astype(np.int64)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for facts in pool.map(partial(_file_facts, data.folder), data.files):
                digest.update(facts)
    for rows in np.array_split(ids, -(-len(ids) // SAMPLE)):
        images, labels = data.gather(rows)
        digest.update(np.ascontiguousarray(images))
        digest.update(np.ascontiguousarray(labels))
    return digest.hexdigest()


def _file_facts(folder: Path, file: Path) -> bytes:
    """Returns the facts of a folder's file that count without decoding it."""
    try:
        with file.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            opened.seek(max(0, size - PIECE) // 2)
            piece = opened.read(PIECE)
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}); restore it") from error
    name = os.fsencode(file.relative_to(folder))
    return b"%d %s %d %s" % (len(name), name, size, piece)
