"""Downloads of released weights."""

import hashlib
import http.client
import shutil
import tempfile
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
      InputError: there is no network, the download is not whole or has another digest (it is
        removed), a file of that name has another digest (it stays), or the directory cannot be
        written.
    """
    file = directory / url.rpartition("/")[2]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if file.exists():
            if not (sha256 := _sha256(file)).startswith(digest):
                raise InputError(
                    f"--checkpoint: {file} is there already, but not as {url} has it (SHA-256 "
                    f"{sha256[:16]}.., not {digest}..); remove it, which fetches it anew"
                )
            return file
        # Each download has a directory of its own, so that two at once do not mix.
        temporary = tempfile.TemporaryDirectory(dir=directory, prefix="download-")
    except OSError as error:
        raise InputError(
            f"--workdir: cannot write {directory} ({error.strerror}); give another"
        ) from None
    with temporary:
        partial = Path(temporary.name) / file.name
        _download(url, partial)
        if not (sha256 := _sha256(partial)).startswith(digest):
            raise InputError(
                f"--checkpoint: {url} gave another file (SHA-256 {sha256[:16]}.., not {digest}..), "
                "which was removed; try again or give a copy"
            )
        partial.replace(file)
    return file


def _download(url: str, file: Path) -> None:
    """Downloads a file; whatever ends it early is an InputError."""
    try:
        with urllib.request.urlopen(url, timeout=60) as response, file.open("wb") as target:
            size = int(response.headers.get("Content-Length") or 0) or None
            with tqdm.wrapattr(response, "read", total=size, desc=file.name) as source:
                shutil.copyfileobj(source, target)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise InputError(
            f"--checkpoint: {url} cannot be fetched ({first_line(error)}); give a copy of it"
        ) from None
    if size and (fetched := file.stat().st_size) != size:
        raise InputError(
            f"--checkpoint: {url} ended after {fetched} of {size} bytes; try again or give a copy"
        )


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
