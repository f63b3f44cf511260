"""What directories of image files hold, without the files that systems leave in them."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ddaepp_jax.base.errors import InputError
from ddaepp_jax.data.images import SUFFIXES

# Names that begin with a dot are left out too.
_SYSTEM = {
    *("__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information"),
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
}
_CONTROL = {"Cc", "Cs", "Zl", "Zp"}  # Unicode's categories of what breaks a line, or is no text


class Listing(NamedTuple):
    """The content of a directory, in sorted order.

    Attributes:
      folders: its subdirectories.
      images: its files with an image's suffix.
      others: number of its other files, by suffix in lower case.
    """

    folders: list[Path]
    images: list[Path]
    others: Counter[str]


def listing(directory: Path, field: str) -> Listing:
    """Lists a directory.

    Args:
      directory: the directory.
      field: name of the field or argument that gave the path, for errors.

    Raises:
      InputError: it is no directory, cannot be read, has a folder whose name cannot be printed, or
        two whose names differ in case alone; or an image in it is no file.
    """
    folders, images, others = [], [], Counter()
    try:
        with os.scandir(directory) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                suffix = Path(entry.name).suffix.lower()
                if _is_hidden(entry.name):
                    continue
                if entry.is_dir():
                    folders.append(directory / entry.name)
                elif suffix not in SUFFIXES:
                    others[suffix] += 1
                elif entry.is_file():
                    images.append(directory / entry.name)
                else:
                    raise InputError(
                        f"{directory / entry.name} is a broken link or no file; replace or remove "
                        "it"
                    )
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            f"{field}: {directory} is not a folder; give the folder of the images"
        ) from error
    except OSError as error:
        raise InputError(
            f"{field}: {directory} cannot be read ({error.strerror}); give a folder that can"
        ) from error
    _check_names(folders, field)
    return Listing(folders, images, others)


def images_below(directory: Path) -> Iterator[str]:
    """Yields the names of all images in a directory and its subdirectories."""
    for _, folders, files in os.walk(directory):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        for name in files:
            if Path(name).suffix.lower() in SUFFIXES and not _is_hidden(name):
                yield name


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM


def _check_names(folders: Iterable[Path], field: str) -> None:
    """Checks that the names of folders are text, and differ in more than case."""
    before: dict[str, Path] = {}
    for folder in folders:
        if any(unicodedata.category(letter) in _CONTROL for letter in folder.name):
            raise InputError(
                f"{field}: {str(folder.parent)!r} has a folder {folder.name!r}, whose name cannot "
                "be printed; rename it"
            )
        other = before.setdefault(unicodedata.normalize("NFC", folder.name).casefold(), folder)
        if other is not folder:
            raise InputError(
                f"{field}: the names of {other} and {folder} differ in case or coding alone; "
                "join them, or rename one"
            )
