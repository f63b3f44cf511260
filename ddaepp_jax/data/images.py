"""Decodes image files to uint8 arrays of one shape."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from ddaepp_jax.base.errors import InputError, first_line

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # number of channels -> Pillow's mode

# All errors that Pillow raises for a damaged file.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def probe(path: Path) -> tuple[int, int, int]:
    """Reads (H, W, C) from the header of an image file; C is 1 for a grey image, else 3.

    Raises:
      InputError: Pillow cannot read the image, or it has more than 8 bits a channel.
    """
    try:
        with Image.open(path) as image:
            _check_depth(image)
            channels = 1 if image.mode in ("1", "L", "LA") else 3
            return image.height, image.width, channels
    except _UNREADABLE as error:
        raise _unreadable(str(path), error) from error


def decode(
    source: Path | bytes, channels: int, size: tuple[int, int] | None, name: str
) -> np.ndarray:
    """Decodes an image.

    Args:
      source: image file, or its content.
      channels: channels of the result: 1 for grey, 3 for RGB, 4 for RGBA.
      size: (H, W) to resize and crop to by ``center_crop``; None keeps the image's size.
      name: name of the image in errors.

    Returns:
      (H, W, channels) uint8.

    Raises:
      InputError: Pillow cannot read the image, or it has more than 8 bits a channel.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            _check_depth(image)
            # A palette may hold transparent colours, which Pillow converts by way of RGBA.
            colours = image.convert("RGBA") if image.mode == "P" else image
            converted = colours.convert(MODES[channels])
            pixels = np.asarray(converted if size is None else center_crop(converted, size))
    except _UNREADABLE as error:
        raise _unreadable(name, error) from error
    return pixels.reshape(*pixels.shape[:2], channels)


def center_crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Cuts out the largest centred part with the shape of ``size`` (H, W), and resizes it to that.

    As in ADM (Dhariwal & Nichol 2021), the image is halved with a box filter while both sides are
    at least twice the target's, then scaled with a bicubic filter so that the tighter side fits,
    then cropped.
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
