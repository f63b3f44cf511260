"""Downloads of released weights."""

import hashlib
import shutil
import urllib.request
from pathlib import Path

from tqdm import tqdm

from ddaepp_jax.base.errors import InputError, first_line


def fetch(url: str, digest: str, directory: Path) -> Path:
    """Downloads a file into a directory, unless it is there already.

    Args:
      url: address of the file.
      digest: first digits of the file's SHA-256.
      directory: directory of the file, made if needed.

    Returns:
      The file.

    Raises:
      InputError: there is no network, the file has another digest (it is removed), or the directory
        cannot be written.
    """
    file = directory / url.rpartition("/")[2]
    partial = file.with_name(f"{file.name}.partial")
    try:
        if not file.exists():
            directory.mkdir(parents=True, exist_ok=True)
            with urllib.request.urlopen(url, timeout=60) as response, partial.open("wb") as target:
                size = int(response.headers.get("Content-Length") or 0) or None
                with tqdm.wrapattr(response, "read", total=size, desc=file.name) as source:
                    shutil.copyfileobj(source, target)
            partial.rename(file)
        with file.open("rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            f"--checkpoint: {url} cannot be fetched ({first_line(error)}); give a copy of it"
        ) from None
    if not sha256.startswith(digest):
        file.unlink()
        raise InputError(
            f"--checkpoint: {url} gave another file (SHA-256 {sha256[:16]}.., not {digest}..), "
            "which was removed; try again or give a copy"
        )
    return file
