"""EDM's geometric augmentation (arXiv 2206.00364, appendix F.2), inside the training step.

Flips, scale, rotation, anisotropic scale ("stretch") and translation are drawn independently. The
network gets a label that tells which transforms were drawn, so that it does not learn to generate
transformed images: sampling uses the label of zeros.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddaepp_jax.base.streams import named

AUGMENT_DIM = 9
_SCALE_STD = 0.2  # standard deviation of log2 of the scale and of the stretch
_SHIFT_STD = 0.125  # standard deviation of the shift, in widths and heights of the image

# sym6, the least asymmetric orthonormal filter with 6 vanishing moments (Daubechies 1992, section
# 8.1).
_SYM6 = (
    0.015404109327,
    0.003490712084,
    -0.117990111149,
    -0.048311742586,
    0.491055941928,
    0.787641141029,
    0.337929421728,
    -0.072637522786,
    -0.021060292512,
    0.044724901771,
    0.001767711864,
    -0.007800708325,
)
_REACH = len(_SYM6) - 2  # taps of a filtered pixel beyond the two pixels that it covers


class Transforms(NamedTuple):
    """Transforms drawn for B images, in the order of their application; all zeros is the identity.

    Attributes:
      x_flip: (B,) bool; the image is mirrored left to right.
      y_flip: (B,) bool; the image is mirrored top to bottom.
      scale: (B,); the image is enlarged by 2^(0.2 scale).
      angle: (B,); the image is turned counterclockwise by this many radians.
      stretch: (B,); the image gets 2^(0.2 stretch) times longer along the frame's axis, and as many
        times shorter across it.
      frame: (B,); the frame's axis is the x axis turned counterclockwise by this many radians.
      shift: (B, 2); the image moves right and down by this many eighths of its width and height.
    """

    x_flip: jax.Array
    y_flip: jax.Array
    scale: jax.Array
    angle: jax.Array
    stretch: jax.Array
    frame: jax.Array
    shift: jax.Array


def augment(
    images: jax.Array,
    seed: int | jax.Array,
    step: int | jax.Array,
    index: jax.Array,
    probability: float | jax.Array,
    stream: str = "geometric",
) -> tuple[jax.Array, jax.Array]:
    """Transforms images as drawn by ``draw``.

    Args:
      images: (B, H, W, C) float in [-1, 1].
      seed, step, index, probability, stream: see ``draw``.

    Returns:
      Images (B, H, W, C) float32, and the labels (B, 9) that tell the network how they were
      transformed.
    """
    transforms = draw(seed, step, index, probability, stream)
    return apply(images, transforms), label(transforms)


def draw(
    seed: int | jax.Array,
    step: int | jax.Array,
    index: jax.Array,
    probability: float | jax.Array,
    stream: str = "geometric",
) -> Transforms:
    """Draws the transforms of B images, which depend on (seed, stream, step, index) alone.

    Args:
      seed, step: integers, may be traced.
      index: (B,) int, the images' numbers in the data set.
      probability: probability of each transform (EDM on CIFAR-10: 0.12), with EDM's exceptions: the
        flip from left to right is a fair coin, the one from top to bottom has half the probability,
        and the frame of a stretch is turned in half of the cases.
      stream: name of the random stream; streams with different names are independent.
    """
    key = jax.random.fold_in(named(jax.random.key(seed), stream), step)
    chances = jnp.array(
        [0.5, probability / 2, probability, probability, probability, 0.5, probability], jnp.float32
    )

    def one(i: jax.Array) -> Transforms:
        coins, angles, normals = jax.random.split(jax.random.fold_in(key, i), 3)
        drawn = jax.random.uniform(coins, chances.shape, jnp.float32) < chances
        angle, frame = jax.random.uniform(angles, (2,), jnp.float32, -jnp.pi, jnp.pi)
        normal = jax.random.normal(normals, (4,), jnp.float32)
        return Transforms(
            x_flip=drawn[0],
            y_flip=drawn[1],
            scale=jnp.where(drawn[2], normal[0], 0),
            angle=jnp.where(drawn[3], angle, 0),
            stretch=jnp.where(drawn[4], normal[1], 0),
            frame=jnp.where(drawn[5], frame, 0),
            shift=jnp.where(drawn[6], normal[2:], 0),
        )

    return jax.vmap(one)(index)


def label(transforms: Transforms) -> jax.Array:
    """Returns the labels (B, 9) float32 of transforms; zeros stand for the identity.

    The columns are x flip, y flip, scale, rotation (cos - 1, sin), stretch (along cos and sin of
    its frame), shift in x and shift in y.
    """
    t = transforms
    turned = jnp.cos(t.angle) - 1, jnp.sin(t.angle)
    stretched = t.stretch * jnp.cos(t.frame), t.stretch * jnp.sin(t.frame)
    columns = (t.x_flip, t.y_flip, t.scale, *turned, *stretched, t.shift[:, 0], t.shift[:, 1])
    return jnp.stack([column.astype(jnp.float32) for column in columns], axis=1)


def apply(images: jax.Array, transforms: Transforms) -> jax.Array:
    """Transforms images.

    Each image is surrounded by its reflection, one pixel narrower than the image, and by zeros
    beyond. The filter doubles the resolution, at which points are looked up, and halves it again.
    This is done to all images: an orthonormal filter gives back an image that does not move.

    Args:
      images: (B, H, W, C) float in [-1, 1].
      transforms: transforms of the B images.

    Returns:
      (B, H, W, C) float32, beyond [-1, 1] where the filter overshoots, as in EDM.
    """
    _, height, width, _ = images.shape
    images = jnp.where(transforms.x_flip[:, None, None, None], images[:, :, ::-1], images)
    images = jnp.where(transforms.y_flip[:, None, None, None], images[:, ::-1], images)
    # Padding and filtering are one small matrix for each axis. A TPU's default precision would
    # round the pixels to bfloat16.
    fine = jnp.einsum(
        "uh,bhwc,vw->buvc", _refine(height), images, _refine(width), precision="highest"
    )
    moved = jax.vmap(lambda image, t: _bilinear(image, *_sources(t, height, width)))(
        fine, transforms
    )
    return jnp.einsum(
        "hu,buvc,wv->bhwc", _coarsen(height), moved, _coarsen(width), precision="highest"
    )


def _sources(t: Transforms, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    """Computes where each point that ``_coarsen`` reads lies in the output of ``_refine``.

    With points z = x + iy from the centre, y downwards, the transforms are z 2^(0.2 scale),
    z e^(-i angle), z cosh(l) + z* sinh(l) e^(-2i frame) with l the logarithm of the stretch, and
    z + shift. So the inverse of them all is z -> a (z - shift) - b (z - shift)*, where
    a = e^(i angle) cosh(l) / 2^(0.2 scale) and b = e^(i (angle - 2 frame)) sinh(l) / 2^(0.2 scale).

    Args:
      t: transforms of one image.
      height, width: size of the image in pixels.

    Returns:
      Rows and columns, each (2 H + 10, 2 W + 10) float32.
    """
    log_stretch = _SCALE_STD * math.log(2) * t.stretch
    a = jnp.exp2(-_SCALE_STD * t.scale) * jnp.cosh(log_stretch)
    b = jnp.exp2(-_SCALE_STD * t.scale) * jnp.sinh(log_stretch)
    a_angle = t.angle
    b_angle = t.angle - 2 * t.frame
    ax, ay = a * jnp.cos(a_angle), a * jnp.sin(a_angle)
    bx, by = b * jnp.cos(b_angle), b * jnp.sin(b_angle)
    # In fine pixels, the image's pixel i lies at 2 i + 5 for `_coarsen`, and at
    # 2 (i + size - 1) + 1 in the output of `_refine`.
    x, y = (jnp.arange(2 * n + _REACH, dtype=jnp.float32) - (n + 4) for n in (width, height))
    x = x[None, :] - 2 * _SHIFT_STD * width * t.shift[0]
    y = y[:, None] - 2 * _SHIFT_STD * height * t.shift[1]
    row = (ay - by) * x + (ax + bx) * y + (3 * height - 2)
    column = (ax - bx) * x - (ay + by) * y + (3 * width - 2)
    return row, column


def _bilinear(image: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
    """Interpolates an image (U, V, C) at fractional rows and columns (P, Q).

    Points beyond a border are moved onto it. A TPU looks up one pixel at a time, so there the
    pixels are weighted and summed instead.

    Returns:
      (P, Q, C).
    """
    row = jnp.clip(row, 0, image.shape[0] - 1)
    column = jnp.clip(column, 0, image.shape[1] - 1)
    return jax.lax.platform_dependent(image, row, column, tpu=_summed, default=_looked_up)


def _looked_up(image: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
    """Interpolates between the four pixels around each point."""

    def split(x: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
        below = jnp.minimum(jnp.floor(x), size - 2)
        return below.astype(jnp.int32), (x - below)[..., None]

    (i, y), (j, x) = split(row, image.shape[0]), split(column, image.shape[1])
    pixel = lambda i, j: image.at[i, j].get(mode="promise_in_bounds")
    top, bottom = ((1 - x) * pixel(k, j) + x * pixel(k, j + 1) for k in (i, i + 1))
    return (1 - y) * top + y * bottom


def _summed(image: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
    """Sums all pixels, each weighted by 1 - its distance from the point in rows and in columns.

    The weight is 0 from a distance of 1. It is a product for the rows and a sum for the columns,
    which XLA fuses; the sum over rows alone is never stored.
    """

    def weights(x: jax.Array, size: int) -> jax.Array:
        places = jnp.arange(size, dtype=jnp.float32)[None, None]
        return jnp.maximum(0, 1 - jnp.abs(x[..., None] - places))

    rows, columns = weights(row, image.shape[0]), weights(column, image.shape[1])
    strips = jnp.einsum("pqu,uvc->pqcv", rows, image, precision="highest")
    return jnp.einsum("pqcv,pqv->pqc", strips, columns, precision="highest")


def _refine(size: int) -> np.ndarray:
    """Returns a matrix (6 size - 2, size) that doubles the resolution.

    It pads by reflection, doubles the resolution with the filter, and puts a zero at either end.
    """
    reflect = np.pad(np.eye(size), ((size - 1, size - 1), (0, 0)), mode="reflect")
    fine = _coarsen(3 * size - 2).T @ reflect
    return np.pad(fine[_REACH // 2 : -_REACH // 2], ((1, 1), (0, 0))).astype(np.float32)


def _coarsen(size: int) -> np.ndarray:
    """Returns a matrix (size, 2 size + 10) that halves the resolution with the filter.

    Its transpose doubles the resolution.
    """
    matrix = np.zeros((size, 2 * size + _REACH), np.float32)
    for i in range(size):
        matrix[i, 2 * i : 2 * i + len(_SYM6)] = _SYM6
    return matrix
