"""EDM's geometric augmentation (arXiv 2206.00364, appendix F.2), inside the training step.

Flips, scale, rotation, anisotropic scale ("stretch") and translation are drawn each for itself. The
network is told what was drawn, so that it does not learn to make images like that: sampling asks
for the label of zeros.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddaepp_jax.base.streams import named

AUGMENT_DIM = 9
_SCALE_STD = 0.2  # of log2 of the scale, and of the stretch
_SHIFT_STD = 0.125  # in widths and heights of the image

# sym6, the orthonormal filter with 6 vanishing moments that is least asymmetric (Daubechies 1992,
# section 8.1).
_SYM6 = (
    *(
        0.015404109327,
        0.003490712084,
        -0.117990111149,
        -0.048311742586,
        0.491055941928,
        0.787641141029,
    ),
    *(
        0.337929421728,
        -0.072637522786,
        -0.021060292512,
        0.044724901771,
        0.001767711864,
        -0.007800708325,
    ),
)
_REACH = len(_SYM6) - 2  # taps of a filtered pixel that lie beyond its own two


class Transforms(NamedTuple):
    """What was drawn for B images, in the order in which it is done to them; all zero is the
    identity.

    Attributes:
        x_flip, y_flip: (B,) bool; mirrored left to right, top to bottom.
        scale: (B,); enlarged by 2^(0.2 scale).
        angle: (B,); turned counterclockwise, radians.
        stretch, frame: (B,); 2^(0.2 stretch) times longer along the x axis turned counterclockwise
          by ``frame``, and as
            many times shorter across it.
        shift: (B, 2); moved right and down by an eighth of width and height times this.
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
    """Images (B, H, W, C) float32 transformed as ``draw`` says, and the labels (B, 9) that tell the
    network how.
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
    """The transforms of B images, each a function of (seed, stream, step, its index) alone.

    Args:
        seed, step: integers, may be traced.
        index: (B,) int, the images' numbers in the data set.
        probability: of each transform (EDM on CIFAR-10: 0.12); but the flip from left to right is a
          fair coin, the one
            from top to bottom has half of it, and a stretch has a frame of its own in half of the
            cases, as in EDM.
        stream: draws of another name are independent.
    """
    key = jax.random.fold_in(named(jax.random.key(seed), stream), step)
    chances = jnp.array(
        [0.5, probability / 2, probability, probability, probability, 0.5, probability]
    )

    def one(i: jax.Array) -> Transforms:
        coins, angles, normals = jax.random.split(jax.random.fold_in(key, i), 3)
        on = jax.random.uniform(coins, chances.shape) < chances
        angle, frame = jax.random.uniform(angles, (2,), minval=-jnp.pi, maxval=jnp.pi)
        normal = jax.random.normal(normals, (4,))
        return Transforms(
            x_flip=on[0],
            y_flip=on[1],
            scale=on[2] * normal[0],
            angle=on[3] * angle,
            stretch=on[4] * normal[1],
            frame=on[5] * frame,
            shift=on[6] * normal[2:],
        )

    return jax.vmap(one)(index)


def label(transforms: Transforms) -> jax.Array:
    """(B, 9) float32, zero is the identity: flips x and y, scale, turn (cos - 1, sin), stretch (2),
    shift x and y.
    """
    t = transforms
    turned = jnp.cos(t.angle) - 1, jnp.sin(t.angle)
    stretched = t.stretch * jnp.cos(t.frame), t.stretch * jnp.sin(t.frame)
    columns = (t.x_flip, t.y_flip, t.scale, *turned, *stretched, t.shift[:, 0], t.shift[:, 1])
    return jnp.stack([column.astype(jnp.float32) for column in columns], axis=1)


def apply(images: jax.Array, transforms: Transforms) -> jax.Array:
    """The images, transformed; around each lies its reflection, to one pixel less than its size,
    and then zeros.

    Points are looked up at twice the resolution, to which and from which the filter leads. All
    images go this way, and an orthonormal filter gives them back where nothing moves.

    Args:
        images: (B, H, W, C) float in [-1, 1].

    Returns:
        (B, H, W, C) float32, beyond [-1, 1] where the filter overshoots, as in EDM.
    """
    _, height, width, _ = images.shape
    images = jnp.where(transforms.x_flip[:, None, None, None], images[:, :, ::-1], images)
    images = jnp.where(transforms.y_flip[:, None, None, None], images[:, ::-1], images)
    # Padding and filter are one small matrix an axis; a TPU's default precision would round the
    # pixels to bfloat16.
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
    """For one image, the row and the column of ``_refine`` at which each point for ``_coarsen`` is
    to be found.

    With points z = x + iy from the centre, y downwards, the transforms are z 2^(0.2 scale), z e^(-i
    angle), z cosh(l) + z* sinh(l) e^(-2i frame) with l the logarithm of the stretch, and z + shift.
    So the inverse of them all is z -> a (z - shift) - b (z - shift)*, a = e^(i angle) cosh(l) /
    2^(0.2 scale) and b likewise.

    Returns:
        Two (2 H + 10, 2 W + 10) float32.
    """
    log_stretch = _SCALE_STD * np.log(2) * t.stretch
    a, a_angle = jnp.exp2(-_SCALE_STD * t.scale) * jnp.cosh(log_stretch), t.angle
    b, b_angle = jnp.exp2(-_SCALE_STD * t.scale) * jnp.sinh(log_stretch), t.angle - 2 * t.frame
    ax, ay, bx, by = (
        a * jnp.cos(a_angle),
        a * jnp.sin(a_angle),
        b * jnp.cos(b_angle),
        b * jnp.sin(b_angle),
    )
    # In fine pixels: the image's pixel i lies at 2 i + 5 for `_coarsen`, and at 2 (i + size - 1) +
    # 1 in `_refine`.
    x, y = (jnp.arange(2 * n + _REACH, dtype=jnp.float32) - (n + 4) for n in (width, height))
    x = x[None, :] - 2 * _SHIFT_STD * width * t.shift[0]
    y = y[:, None] - 2 * _SHIFT_STD * height * t.shift[1]
    return (ay - by) * x + (ax + bx) * y + (3 * height - 2), (ax - bx) * x - (ay + by) * y + (
        3 * width - 2
    )


def _bilinear(image: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
    """(P, Q, C): an image (U, V, C) at fractional rows and columns (P, Q), which stop at its
    borders.
    """

    def split(x: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
        x = jnp.clip(x, 0, size - 1)
        below = jnp.minimum(jnp.floor(x), size - 2)
        return below.astype(jnp.int32), (x - below)[..., None]

    (i, y), (j, x) = split(row, image.shape[0]), split(column, image.shape[1])
    pixel = lambda i, j: image.at[i, j].get(mode="promise_in_bounds")
    top, bottom = ((1 - x) * pixel(k, j) + x * pixel(k, j + 1) for k in (i, i + 1))
    return (1 - y) * top + y * bottom


def _refine(size: int) -> np.ndarray:
    """(6 size - 2, size): pads by reflection, doubles the resolution with the filter, and puts a
    zero at either end.
    """
    reflect = np.pad(np.eye(size), ((size - 1, size - 1), (0, 0)), mode="reflect")
    fine = _coarsen(3 * size - 2).T @ reflect
    return np.pad(fine[_REACH // 2 : -_REACH // 2], ((1, 1), (0, 0))).astype(np.float32)


def _coarsen(size: int) -> np.ndarray:
    """(size, 2 size + 10): halves the resolution with the filter; its transpose is the filter's
    other half.
    """
    matrix = np.zeros((size, 2 * size + _REACH), np.float32)
    for i in range(size):
        matrix[i, 2 * i : 2 * i + len(_SYM6)] = _SYM6
    return matrix
