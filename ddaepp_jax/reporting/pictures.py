"""Grids of images."""

import numpy as np
from PIL import Image

GAP = 128  # shade of the gaps, which neither white nor black images hide


def grid(images: np.ndarray, columns: int = 0) -> Image.Image:
    """Arranges images row by row with grey gaps between them; small ones are enlarged.

    Args:
      images: (N, H, W, C) uint8, with 1 or 3 channels.
      columns: images in a row; 0 makes the grid about square.
    """
    n, height, width, channels = images.shape
    columns = min(n, columns or int(np.ceil(n**0.5)))
    rows = -(-n // columns)
    scale = max(1, 64 // max(height, width))
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    height *= scale
    width *= scale
    gap = 2 if scale == 1 else scale
    size = rows * (height + gap) + gap, columns * (width + gap) + gap
    canvas = np.full((*size, channels), GAP, np.uint8)
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        top = gap + row * (height + gap)
        left = gap + column * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return Image.fromarray(canvas[..., 0] if channels == 1 else canvas)
