"""Grids of images."""

import numpy as np
from PIL import Image


def grid(images: np.ndarray, columns: int = 0) -> Image.Image:
    """A picture of (N, H, W, C) uint8 images, row by row with a gap between; small ones are
    enlarged by whole pixels.

    ``columns`` 0 makes it about square.
    """
    n, height, width, channels = images.shape
    columns = min(n, columns or int(np.ceil(n**0.5)))
    rows = -(-n // columns)
    scale = max(1, 64 // max(height, width))
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    gap = 2 if scale == 1 else scale
    height, width = height * scale + gap, width * scale + gap
    canvas = np.full((rows * height + gap, columns * width + gap, channels), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = gap + i // columns * height, gap + i % columns * width
        canvas[top : top + height - gap, left : left + width - gap] = image
    return Image.fromarray(canvas[..., 0] if channels == 1 else canvas)
