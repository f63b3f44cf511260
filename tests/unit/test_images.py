"""Pixels of image files: as a viewer shows them, or refused."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers.errors import expect_error
from PIL import Image, ImageOps

from ddaepp_jax.data import images

RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, np.uint8)


def decoded(path: Path) -> np.ndarray:
    """Returns the pixels of a file, in the shape that its header says."""
    return images.decode(path, images.probe(path), False, str(path))


def chunk(name: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + check


def png(width: int, depth: int, kind: int, row: bytes, extra: bytes = b"") -> bytes:
    """Returns a PNG file of one row: colour types are 0 grey, 2 RGB, 3 palette, 4 LA, 6 RGBA."""
    header = struct.pack(">IIBBBBB", width, 1, depth, kind, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" + row))
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + extra + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("png", {}),
        ("tif", {}),
        ("tif", {"compression": "tiff_lzw"}),
        ("webp", {"lossless": True}),
        ("jpg", {"quality": 95}),
    ],
)
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_images_are_upright(tmp_path: Path, suffix: str, options: dict, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(noise(6, 10, 3)).save(path, exif=exif, **options)
    with Image.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert upright.shape == ((6, 10, 3) if orientation < 5 else (10, 6, 3))
    np.testing.assert_array_equal(decoded(path), upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"junk", b"MM\0*\0\0\0\x08\xff", b"Exif\0\0" + b"\0" * 30])
def test_damaged_exif_is_ignored(tmp_path: Path, exif: bytes) -> None:
    array = noise(6, 10, 3)
    Image.fromarray(array).save(tmp_path / "image.png", exif=exif)
    np.testing.assert_array_equal(decoded(tmp_path / "image.png"), array)


RED = bytes([255, 0, 0])
CASES = {  # what the file holds, and the row that is shown
    "RGBA": (png(3, 8, 6, RED + b"\xff" + RED + b"\0" + RED + b"\x80"), [RED, b"\xff" * 3, None]),
    "LA": (png(2, 8, 4, b"\x07\xff\x09\0"), [b"\x07", b"\xff"]),
    "L with a transparent grey": (
        png(3, 8, 0, b"\x0a\x14\x1e", chunk(b"tRNS", b"\0\x14")),
        [b"\x0a", b"\xff", b"\x1e"],
    ),
    "RGB with a transparent colour": (
        png(2, 8, 2, RED + b"\x01\x02\x03", chunk(b"tRNS", b"\0\x01\0\x02\0\x03")),
        [RED, b"\xff" * 3],
    ),
    "palette": (
        png(2, 8, 3, b"\0\x01", chunk(b"PLTE", RED + RED) + chunk(b"tRNS", b"\0")),
        [b"\xff" * 3, RED],
    ),
    "1 bit with a transparent black": (
        png(2, 1, 0, b"\x40", chunk(b"tRNS", b"\0\0")),
        [b"\xff", b"\xff"],
    ),
    "1 bit": (png(8, 1, 0, b"\x1b"), [b"\0"] * 3 + [b"\xff"] * 2 + [b"\0"] + [b"\xff"] * 2),
    "2 bits": (png(4, 2, 0, b"\x1b"), [b"\0", b"\x55", b"\xaa", b"\xff"]),
    "4 bits": (png(2, 4, 0, b"\x1b"), [b"\x11", b"\xbb"]),
    "PPM of 15 levels": (b"P6\n1 1\n15\n\0\x05\x0f", [b"\0\x55\xff"]),
    "PGM of 15 levels": (b"P5\n2 1\n15\n\x05\x0f", [b"\x55", b"\xff"]),
    "PBM": (b"P1\n2 1\n1 0\n", [b"\0", b"\xff"]),
}


@pytest.mark.parametrize("case", CASES)
def test_pixels_are_those_shown_over_white(tmp_path: Path, case: str) -> None:
    content, shown = CASES[case]
    (tmp_path / "image.png").write_bytes(content)
    (row,) = decoded(tmp_path / "image.png")
    assert len(row) == len(shown)
    for pixel, right in zip(row, shown, strict=True):
        assert right is None or pixel.tobytes() == right
    if case == "RGBA":  # half red over white
        np.testing.assert_allclose(row[2], [255, 127, 127], atol=1)


def test_gif_and_webp_show_white_too(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    clear.putpixel((0, 0), (255, 0, 0, 255))
    for suffix in ("gif", "webp", "tif"):
        clear.save(tmp_path / f"a.{suffix}", lossless=True)
        row = decoded(tmp_path / f"a.{suffix}")[0]
        assert row.tolist() == [[255, 0, 0], [255, 255, 255]], suffix


def test_an_alpha_channel_that_is_wanted_is_kept() -> None:
    array = noise(3, 4, 4)
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    np.testing.assert_array_equal(images.decode(buffer.getvalue(), (3, 4, 4), False, "x"), array)


def test_cmyk_and_white_is_zero(tmp_path: Path) -> None:
    colour = noise(3, 4, 3)
    Image.fromarray(colour).convert("CMYK").save(tmp_path / "cmyk.tif")
    np.testing.assert_allclose(decoded(tmp_path / "cmyk.tif"), colour, atol=1)
    grey = colour[..., 0]
    Image.fromarray(grey).save(tmp_path / "white.tif", tiffinfo={262: 0})
    with Image.open(tmp_path / "white.tif") as image:
        assert image.tag_v2[262] == 0  # the file says that white is 0
    np.testing.assert_array_equal(decoded(tmp_path / "white.tif")[..., 0], grey)


def deep_tiff() -> bytes:
    """Returns a TIFF file of one RGB pixel of 16 bits a channel."""
    entries = [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 3, 122), (259, 3, 1, 1), (262, 3, 1, 2)]
    entries += [(273, 4, 1, 128), (277, 3, 1, 3), (278, 3, 1, 1), (279, 4, 1, 6)]
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    start = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return start + directory + struct.pack("<I", 0) + struct.pack("<6H", *[16] * 3, 1, 2, 3)


@pytest.mark.parametrize(
    "content",
    [
        *(png(1, 16, kind, bytes(2 * n)) for kind, n in ((0, 1), (2, 3), (4, 2), (6, 4))),
        b"P6\n1 1\n65535\n\0\1\0\1\0\1",
        b"P6\n1 1\n256\n\0\1\0\1\0\1",
        b"P3\n1 1\n1023\n1 2 3\n",
        b"P5\n1 1\n4095\n\0\1",
        deep_tiff(),
    ],
)
def test_more_than_8_bits_are_refused_by_the_files_own_depth(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "deep.png"
    path.write_bytes(content)
    with expect_error(f"{path}", "more than 8 bits", "replace"):
        images.probe(path)
    with expect_error("image 3", "more than 8 bits"):
        images.decode(content, (1, 1, 3), False, "image 3")


@pytest.mark.parametrize("suffix", ["gif", "tif", "png", "webp"])
def test_several_frames_are_refused(tmp_path: Path, suffix: str) -> None:
    first, *others = (Image.fromarray(noise(4, 4, 3)) for _ in range(3))
    path = tmp_path / f"moving.{suffix}"
    first.save(path, save_all=True, append_images=others)
    with expect_error(f"{path}", "frames", "file of its own"):
        images.probe(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",  # not run by Ghostscript
        png(1, 8, 2, b"\1\2\3")[:40],
        b"P6\n1 1\nmany\n",
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2**30, 2**30, 8, 2, 0, 0, 0)),
    ],
    ids=["empty", "text", "EPS", "cut", "PPM", "bomb"],
)
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(content)
    with expect_error(f"{path}", "image", "replace or remove"):
        decoded(path)


# ---- Resizing


@pytest.mark.parametrize("shape", [(16, 16), (100, 40), (37, 90), (8, 8), (5, 7)])
@pytest.mark.parametrize("size", [(8, 8), (8, 12), (9, 5)])
def test_center_crop_gives_the_size_and_keeps_constants(
    shape: tuple[int, int], size: tuple[int, int]
) -> None:
    out = images.center_crop(Image.fromarray(np.full((*shape, 3), 77, np.uint8)), size)
    np.testing.assert_array_equal(np.asarray(out), np.full((*size, 3), 77))


def test_center_crop_is_centred_and_halves_by_boxes() -> None:
    wide = noise(8, 20, 3)
    np.testing.assert_array_equal(
        np.asarray(images.center_crop(Image.fromarray(wide), (8, 8))), wide[:, 6:14]
    )
    big = noise(16, 16)
    means = big.reshape(8, 2, 8, 2).mean((1, 3))
    halved = np.asarray(images.center_crop(Image.fromarray(big), (8, 8)))
    assert np.abs(halved - means).max() <= 1  # Pillow rounds after the rows and after the columns
