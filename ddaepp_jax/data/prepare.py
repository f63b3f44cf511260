"""Downloads and prepares sets of TensorFlow Datasets as ArrayRecord files, without TensorFlow.

TFDS needs TensorFlow for two things here: to encode arrays as images, so they are encoded before
TFDS sees them; and to open local files (`tf.io.gfile`), so the few modules that do so are given
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

_RETRIES = 5  # of a download; TFDS's own 10 take minutes to tell that there is no network


def prepared(name: str, data_dir: str | None) -> Any | None:
    """TFDS's builder of a set that is prepared under data_dir, or that data_dir itself is; None
    without one.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.read_only_builder import builder_from_files

    if data_dir is not None and (Path(data_dir).expanduser() / "dataset_info.json").exists():
        builder = tfds.builder_from_directory(data_dir)
        given = "/".join(filter(None, (builder.name, builder.info.config_name)))
        if name not in (
            builder.name,
            given,
            f"{builder.name}:{builder.version}",
            f"{given}:{builder.version}",
        ):
            raise InputError(
                f"data.data_dir: {data_dir} holds {given}:{builder.version}, not {name}; mend it or data.name"
            )
        return builder
    try:
        return builder_from_files(name, **({} if data_dir is None else {"data_dir": data_dir}))
    except tfds.core.DatasetNotFoundError:
        return None
    except ValueError as error:
        raise InputError(
            f"data.name: {name!r} is not of the form name[/config][:x.y.z]; mend it"
        ) from error


def prepare(name: str, data_dir: str | None) -> Any:
    """Downloads a set, writes it under data_dir as ArrayRecord files with lossless images, and
    returns its builder.

    Tiny-ImageNet, which TFDS does not have, is made from the folder of its archive instead.

    Raises:
        InputError: TFDS knows no such set, its files cannot be had, or its code needs TensorFlow.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import download_manager, downloader, extractor

    made = builder(name, data_dir)
    generate = made._generate_examples
    made._generate_examples = lambda *args, **kwargs: _encoded(
        generate(*args, **kwargs), made.info.features
    )
    modules = [extractor, *(sys.modules[cls.__module__] for cls in type(made).__mro__)]
    logging.getLogger("urllib3.connectionpool").setLevel(
        logging.ERROR
    )  # its warnings are in the error that we raise
    mend = f"mend that, or prepare {name} as array_record elsewhere and give its folder"
    try:
        with (
            _replaced(modules, "tf", _LOCAL_FILES),
            _replaced([downloader], "MAX_RETRIES", _RETRIES),
        ):
            made.download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False)
            )
    except ImportError as error:
        raise InputError(
            f"data.name: {name} is prepared by code that needs {error.name}; {mend}"
        ) from error
    except (
        OSError,  # requests' own errors among them
        AssertionError,  # files that have to be fetched by hand
        downloader.download_utils_lib.DownloadError,
        download_manager.NonMatchingChecksumError,
        extractor.ExtractError,
    ) as error:
        raise InputError(
            f"data.data_dir: {made.data_dir} does not exist and cannot be made ({first_line(error)}); {mend}"
        ) from error
    return made


def builder(name: str, data_dir: str | None) -> Any:
    """TFDS's builder of a set that is not prepared.

    Raises:
        InputError: TFDS knows no such set.
    """
    import tensorflow_datasets as tfds

    if _bare(name) == "tiny_imagenet":
        from ddaepp_jax.data import tiny_imagenet  # noqa: F401  (registers itself with TFDS)

    where = {} if data_dir is None else {"data_dir": data_dir}
    try:
        return tfds.builder(name, file_format="array_record", **where)
    except (tfds.core.DatasetNotFoundError, ValueError, AssertionError) as error:
        raise InputError(
            f"data.name: TensorFlow Datasets has no {name!r} ({first_line(error)}); mend it"
        ) from error


def _bare(name: str) -> str:
    """The name of a set without config and version."""
    return name.split("/")[0].split(":")[0]


def _encoded(
    examples: Iterator[tuple[Any, dict[str, Any]]], features: Any
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The examples, with uint8 arrays of image features as PNG files."""
    import tensorflow_datasets as tfds

    keys = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    for index, example in examples:
        arrays = {
            k: example[k]
            for k in keys
            if isinstance(example[k], np.ndarray) and example[k].dtype == np.uint8
        }
        yield index, {**example, **{key: _png(array) for key, array in arrays.items()}}


def _png(array: np.ndarray) -> bytes:
    """(H, W), (H, W, 1), (H, W, 3) or (H, W, 4) uint8 as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array).save(buffer, "PNG")
    return buffer.getvalue()


@contextlib.contextmanager
def _replaced(modules: list[ModuleType], name: str, value: Any) -> Iterator[None]:
    """Sets a global of those of the modules that have it, for a while."""
    before = [(module, getattr(module, name)) for module in modules if name in vars(module)]
    try:
        for module, _ in before:
            setattr(module, name, value)
        yield
    finally:
        for module, old in before:
            setattr(module, name, old)
