"""Downloads and prepares sets of TensorFlow Datasets as ArrayRecord files, without TensorFlow.

TFDS needs TensorFlow for two things here. It encodes arrays as images, so they are encoded before
TFDS sees them. And it opens local files (`tf.io.gfile`), so the few modules that do so get
Python's own functions while they work.
"""

import contextlib
import glob
import io
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from ddaepp_jax.base.errors import InputError, first_line

_GFILE = SimpleNamespace(
    GFile=open,
    Open=open,
    exists=os.path.exists,
    isdir=os.path.isdir,
    listdir=os.listdir,
    glob=glob.glob,
    makedirs=lambda path: os.makedirs(path, exist_ok=True),
    copy=shutil.copy,
    walk=os.walk,
)
_LOCAL_FILES = SimpleNamespace(
    io=SimpleNamespace(gfile=_GFILE), compat=SimpleNamespace(as_text=os.fsdecode)
)

_RETRIES = 5  # retries of a download; TFDS's 10 take minutes to notice that there is no network

Examples = Iterator[tuple[Any, dict[str, Any]]]


def prepared_builder(name: str, data_dir: str | None) -> Any | None:
    """Returns TFDS's builder of a prepared set, or None if there is none.

    The set lies under ``data_dir``, or ``data_dir`` is the set's own folder.

    Raises:
      InputError: ``data_dir`` holds another set, or the name has the wrong form.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.read_only_builder import builder_from_files

    if data_dir is not None and (Path(data_dir).expanduser() / "dataset_info.json").exists():
        builder = tfds.builder_from_directory(data_dir)
        configured = "/".join(filter(None, (builder.name, builder.info.config_name)))
        names = {builder.name, configured}
        if name not in names | {f"{each}:{builder.version}" for each in names}:
            raise InputError(
                f"data.data_dir: {data_dir} holds {configured}:{builder.version}, not {name}; "
                "correct it or data.name"
            )
        return builder
    folder = {} if data_dir is None else {"data_dir": data_dir}
    try:
        return builder_from_files(name, **folder)
    except tfds.core.DatasetNotFoundError:
        return None
    except ValueError as error:
        raise InputError(
            f"data.name: {name!r} does not have the form name[/config][:x.y.z]; correct it"
        ) from error


def new_builder(name: str, data_dir: str | None) -> Any:
    """Returns TFDS's builder of a set that is not prepared.

    Raises:
      InputError: TFDS has no such set.
    """
    import tensorflow_datasets as tfds

    if _base_name(name) == "tiny_imagenet":
        from ddaepp_jax.data import tiny_imagenet  # noqa: F401  (registers itself with TFDS)

    folder = {} if data_dir is None else {"data_dir": data_dir}
    try:
        return tfds.builder(name, file_format="array_record", **folder)
    except (tfds.core.DatasetNotFoundError, ValueError, AssertionError) as error:
        raise InputError(
            f"data.name: TensorFlow Datasets has no {name!r} ({first_line(error)}); correct it"
        ) from error


def prepare(name: str, data_dir: str | None) -> Any:
    """Downloads a set and writes it under ``data_dir`` as ArrayRecord files with lossless images.

    Tiny-ImageNet, which TFDS lacks, is made from the folder of its unpacked archive instead.

    Returns:
      TFDS's builder of the set.

    Raises:
      InputError: TFDS has no such set, its files cannot be downloaded, or its code needs
        TensorFlow.
    """
    from tensorflow_datasets.core.download import download_manager, downloader, extractor

    builder = new_builder(name, data_dir)
    elsewhere = f"prepare {name} elsewhere as array_record and set data.data_dir to its folder"
    try:
        _download_and_prepare(builder)
    except ImportError as error:
        raise InputError(
            f"data.name: {name} is prepared by code that needs {error.name}; "
            f"install it, or {elsewhere}"
        ) from error
    except (
        OSError,  # includes the errors of requests
        AssertionError,  # files that have to be downloaded by hand
        downloader.download_utils_lib.DownloadError,
        download_manager.NonMatchingChecksumError,
        extractor.ExtractError,
    ) as error:
        raise InputError(
            f"data.data_dir: {builder.data_dir} does not exist and cannot be made "
            f"({first_line(error)}); check the network and the folder, or {elsewhere}"
        ) from error
    return builder


def _download_and_prepare(builder: Any) -> None:
    """Runs ``builder.download_and_prepare`` without TensorFlow."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import downloader, extractor

    generate_examples = builder._generate_examples
    builder._generate_examples = lambda *args, **kwargs: _encoded(
        generate_examples(*args, **kwargs), builder.info.features
    )
    # The warnings of urllib3 repeat the error that `prepare` raises.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    modules = [extractor, *(sys.modules[cls.__module__] for cls in type(builder).__mro__)]
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    with _replaced(modules, "tf", _LOCAL_FILES), _replaced([downloader], "MAX_RETRIES", _RETRIES):
        builder.download_and_prepare(download_config=config)


def _base_name(name: str) -> str:
    """Returns the name of a set without its config and version."""
    return name.split("/")[0].split(":")[0]


def _encoded(examples: Examples, features: Any) -> Examples:
    """Yields the examples with the uint8 arrays of their image features as PNG files."""
    import tensorflow_datasets as tfds

    keys = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    for index, example in examples:
        files = {
            key: _png(example[key])
            for key in keys
            if isinstance(example[key], np.ndarray) and example[key].dtype == np.uint8
        }
        yield index, {**example, **files}


def _png(array: np.ndarray) -> bytes:
    """Encodes a uint8 array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array).save(buffer, "PNG")
    return buffer.getvalue()


@contextlib.contextmanager
def _replaced(modules: list[ModuleType], name: str, value: Any) -> Iterator[None]:
    """Replaces a global, for a while, in those of the modules that have it."""
    before = [(module, getattr(module, name)) for module in modules if name in vars(module)]
    try:
        for module, _ in before:
            setattr(module, name, value)
        yield
    finally:
        for module, old in before:
            setattr(module, name, old)
