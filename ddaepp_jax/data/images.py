"""Encoded images to uint8 arrays of one shape."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from ddaepp_jax.base.errors import InputError, first_line

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # pillow's name of so many channels

_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    Image.DecompressionBombError,
)  # all that pillow raises


def probe(path: Path) -> tuple[int, int, int]:
    """(H, W, C) of an image file from its header: C is 1 where it is grey, else 3.

    Raises:
        InputError: it is no image that pillow reads, or has more than 8 bits a channel.
    """
    try:
        with Image.open(path) as image:
            _check_depth(image)
            return image.height, image.width, 1 if image.mode in ("1", "L", "LA") else 3
    except _UNREADABLE as error:
        raise _unreadable(str(path), error) from error


def decode(
    source: Path | bytes, channels: int, size: tuple[int, int] | None, name: str
) -> np.ndarray:
    """(H, W, channels) uint8 of an encoded image, resized and cropped to size (H, W) where one is
    given.

    Colours become what `channels` asks for: 1 grey, 3 RGB, 4 RGBA. `name` stands for the image in
      the error.

    Raises:
        InputError: it is no image that pillow reads, or has more than 8 bits a channel.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            _check_depth(image)
            # A palette may hold transparent colours, which go by way of RGBA.
            converted = (image.convert("RGBA") if image.mode == "P" else image).convert(
                MODES[channels]
            )
            pixels = np.asarray(converted if size is None else center_crop(converted, size))
    except _UNREADABLE as error:
        raise _unreadable(name, error) from error
    return pixels.reshape(*pixels.shape[:2], channels)


def center_crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The largest centred part of an image with the shape of size (H, W), at that size.

    As in ADM (Dhariwal & Nichol 2021): halved with a box filter while both sides are at least twice
    what is asked, then scaled with a bicubic one so that the tighter side fits, then cropped.
    """
    height, width = size
    if (image.height, image.width) == size:
        return image
    while image.height >= 2 * height and image.width >= 2 * width:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = max(height / image.height, width / image.width)
    image = image.resize(
        (round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC
    )
    top, left = (image.height - height) // 2, (image.width - width) // 2
    return image.crop((left, top, left + width, top + height))


def _check_depth(image: Image.Image) -> None:
    if image.mode.startswith(("I", "F")):
        raise ValueError("more than 8 bits a channel")


def _unreadable(name: str, error: BaseException) -> InputError:
    return InputError(
        f"{name} is not an image that can be read ({first_line(error)}); replace or remove it"
    )
