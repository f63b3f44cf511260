"""Decodes image files to uint8 arrays of one shape, as a viewer shows them."""

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from ddaepp_jax.base.errors import InputError, first_line

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # number of channels -> Pillow's mode
BACKGROUND = "white"  # what shows through transparent pixels

# The other formats that Pillow knows are no images for training, or run other programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
}
_GREY = {"1", "L", "LA"}
_READ = {*_GREY, "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}

# EXIF's orientation -> the turn that undoes it.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# All errors that Pillow raises for a damaged file.
_UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError),
    *(ArithmeticError, MemoryError, RuntimeError, struct.error, zlib.error),
    Image.DecompressionBombError,
)


def probe(source: Path | bytes, name: str = "") -> tuple[int, int, int]:
    """Reads (H, W, C) of the image as shown from a file's header; C is 1 for grey, else 3.

    Args:
      source: image file, or its content.
      name: name of the image in errors; "": that of the file.

    Raises:
      InputError: the image cannot be read, see ``decode``.
    """
    with _opened(source, name or str(source)) as image:
        turned = _orientation(image) >= 5
        height, width = (image.width, image.height) if turned else (image.height, image.width)
        return height, width, 1 if image.mode in _GREY else 3


def decode(
    source: Path | bytes, shape: tuple[int, int, int], resize: bool, name: str
) -> np.ndarray:
    """Decodes an image as a viewer shows it.

    It is turned as its EXIF orientation says. Transparent pixels are laid over white, unless the
    result has an alpha channel itself.

    Args:
      source: image file, or its content.
      shape: (H, W, C) of the result; C is 1 for grey, 3 for RGB, 4 for RGBA.
      resize: whether to bring the image to the size by ``center_crop``; if not, it must have it.
      name: name of the image in errors.

    Returns:
      (H, W, C) uint8.

    Raises:
      InputError: Pillow cannot read the image, it has another size, more than 8 bits a channel,
        or several frames.
    """
    with _opened(source, name) as image:
        shown = _as_shown(image, MODES[shape[2]])
        size = shape[:2]
        pixels = np.asarray(center_crop(shown, size) if resize else shown)
    if pixels.shape[:2] != size:
        height, width = pixels.shape[:2]
        raise InputError(
            f"{name} is {height}x{width}, not {size[0]}x{size[1]} as the others; "
            "replace or remove it"
        )
    return pixels.reshape(shape)


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


@contextlib.contextmanager
def _opened(source: Path | bytes, name: str) -> Iterator[Image.Image]:
    """Opens and checks an image; its pixels are not read yet."""
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=_FORMATS) as image:
            _check(image)
            yield image
    except _UNREADABLE as error:
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "of no known format" if unknown else first_line(error)
        raise InputError(
            f"{name} is not an image that can be read ({reason}); replace or remove it"
        ) from error


def _check(image: Image.Image) -> None:
    """Raises a ValueError for images whose pixels would be lost in part."""
    if _is_deep(image):
        raise ValueError("more than 8 bits a channel")
    if image.mode not in _READ:
        raise ValueError(f"colours of the kind {image.mode}")
    # A camera's JPEG may hold previews after the picture, as the format MPO.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise ValueError("several frames; save one as a file of its own")


def _is_deep(image: Image.Image) -> bool:
    """Returns whether the file has more than 8 bits a channel, which Pillow cuts off in colours."""
    if image.mode.startswith(("I", "F")):
        return True
    if image.format == "TIFF":
        bits = image.tag_v2.get(258, 1)  # BitsPerSample
        return max(np.atleast_1d(bits)) > 8
    coding = image.tile[0][3] if image.tile else ""  # how the file's samples are decoded
    if image.format == "PPM":
        return isinstance(coding, tuple) and coding[1] > 255  # the largest value
    return image.format == "PNG" and str(coding).endswith(";16B")


def _orientation(image: Image.Image) -> int:
    """Returns EXIF's orientation, 1 to 8; 1 is upright."""
    if image.format == "TIFF":
        return 1  # Pillow turns TIFF files itself.
    try:
        # A PNG file's own method would decode the whole image, to look for EXIF after the pixels.
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    except _UNREADABLE:
        return 1  # Viewers show the image without its damaged EXIF.
    return orientation if orientation in _TURNS else 1


def _as_shown(image: Image.Image, mode: str) -> Image.Image:
    """Returns an image upright, in a mode of ``MODES``, over the background."""
    image.load()
    orientation = _orientation(image)
    shown = image.transpose(_TURNS[orientation]) if orientation in _TURNS else image
    if shown.has_transparency_data and mode != "RGBA":
        colours = shown.convert("RGBA")
        background = Image.new("RGBA", colours.size, BACKGROUND)
        shown = Image.alpha_composite(background, colours)
    elif shown.mode == "P":
        shown = shown.convert("RGBA")  # The palette's colours, from which grey is computed.
    return shown.convert(mode)
