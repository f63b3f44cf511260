"""The augmentation of MoCo v3 (arXiv 2104.02057; facebookresearch/moco-v3, ``main_moco.py``),
inside the training step.

A crop resized, colour jitter, greyscale, blur, solarisation and a flip, in this order, as
torchvision does them; but between two of them no image is rounded to 256 levels.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddaepp_jax.base.streams import named

_MAX_ASPECT = 4 / 3  # width to height of a crop, and the inverse of its minimum
_TRIES = 10
_REFERENCE_SIZE = 224  # pixels of the images whose blur MoCo v3 gives
_LUMA = (
    0.2989,
    0.587,
    0.114,
)  # of red, green and blue, as torchvision rounds them; PIL's first one is 0.299
_SHARPEST = 0.05  # pixels; a Gaussian as narrow is 0 in float32 from one pixel to the next


@dataclasses.dataclass(frozen=True)
class Photometric:
    """How images are changed; the defaults are MoCo v3's for ViT.

    Attributes:
        crop_min: a crop has a share of the image's area that is uniform in (crop_min, 1).
        brightness, contrast, saturation: each is multiplied by a factor uniform within so much of
          1, but not below 0.
        hue: it is shifted by a share of the colour wheel that is uniform in (-hue, hue); at most
          0.5.
        jitter: probability of these four, which come together and in a random order.
        grey: probability of no colour.
        blur: probability of a Gaussian blur in the first view and in the second.
        blur_sigma: the range of its standard deviation, uniform, in 224ths of the image's height
          and width: MoCo v3's
            2 pixels of 224 would leave little of an image of 32.
        solarise: probability that the brighter half of the levels is inverted, in the first view
          and in the second.
        flip: probability of the mirror image, left to right.
    """

    crop_min: float = 0.08
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    jitter: float = 0.8
    grey: float = 0.2
    blur: tuple[float, float] = (1.0, 0.1)
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarise: tuple[float, float] = (0.0, 0.2)
    flip: float = 0.5

    def __post_init__(self) -> None:
        for name in ("blur", "solarise", "blur_sigma"):
            if [isinstance(value, int | float) for value in getattr(self, name)] != [True, True]:
                raise ValueError(f"{name}: {getattr(self, name)} is not two numbers")
        if not 0 < self.crop_min <= 1:
            raise ValueError(f"crop_min: {self.crop_min} is not a share of an image, in (0, 1]")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"hue: {self.hue} is not in 0..0.5")
        for name in ("brightness", "contrast", "saturation"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)} is negative; 0 is none")
        for name in ("jitter", "grey", "blur", "solarise", "flip"):
            value = getattr(self, name)
            if not all(0 <= p <= 1 for p in (value if isinstance(value, tuple) else (value,))):
                raise ValueError(f"{name}: {value} is not a probability")
        if not 0 <= self.blur_sigma[0] <= self.blur_sigma[1]:
            raise ValueError(f"blur_sigma: {self.blur_sigma} is not a range")


class Edits(NamedTuple):
    """What was drawn for B images, in the order in which it is done to them.

    Attributes:
        box: (B, 4) int; the crop's top, left, height and width in pixels.
        factors: (B, 3); of brightness, contrast and saturation, 1 where nothing is done.
        order: (B, 3) int; the order of these three, numbered as there.
        hue: (B,); in turns of the colour wheel, 0 where nothing is done.
        hue_after: (B,) int; how many of the three come before the hue, 0 to 3.
        grey: (B,) bool.
        sigma: (B,); of the blur, in 224ths of height and width; 0 where nothing is done.
        solarise, flip: (B,) bool; the flip is from left to right.
    """

    box: jax.Array
    factors: jax.Array
    order: jax.Array
    hue: jax.Array
    hue_after: jax.Array
    grey: jax.Array
    sigma: jax.Array
    solarise: jax.Array
    flip: jax.Array


def augment(
    images: jax.Array,
    photometric: Photometric,
    seed: int | jax.Array,
    step: int | jax.Array,
    index: jax.Array,
    view: int,
) -> jax.Array:
    """Images (B, H, W, C) float in [-1, 1], changed as ``draw`` says, float32 in [-1, 1]."""
    return apply(images, draw(photometric, seed, step, index, view, images.shape[1:3]))


def draw(
    photometric: Photometric,
    seed: int | jax.Array,
    step: int | jax.Array,
    index: jax.Array,
    view: int,
    size: tuple[int, int],
) -> Edits:
    """The edits of B images, each a function of (seed, step, its index, view) alone.

    Args:
        seed, step: integers, may be traced.
        index: (B,) int, the images' numbers in the data set.
        view: 0 or 1.
        size: the images' height and width in pixels.
    """
    p = photometric
    key = jax.random.fold_in(named(jax.random.key(seed), f"photometric_{view}"), step)
    chances = jnp.array([p.jitter, p.grey, p.blur[view], p.solarise[view], p.flip])
    strengths = jnp.array([p.brightness, p.contrast, p.saturation])

    def one(i: jax.Array) -> Edits:
        # All at once: a generator called for each would take longer to compile than all else here.
        uniform = jax.random.uniform(jax.random.fold_in(key, i), (16 + 2 * _TRIES,))
        coins, factors, order, (hue, hue_after, sigma), place, tries = jnp.split(
            uniform, (5, 8, 11, 14, 16)
        )
        jitter, grey, blur, solarise, flip = coins < chances
        return Edits(
            box=_box(tries.reshape(2, _TRIES), place, p.crop_min, size),
            factors=jnp.where(
                jitter, _between(jnp.maximum(1 - strengths, 0), 1 + strengths, factors), 1
            ),
            order=jnp.argsort(order),
            hue=jitter * _between(-p.hue, p.hue, hue),
            hue_after=(hue_after * 4).astype(int),
            grey=grey,
            sigma=blur * _between(*p.blur_sigma, sigma),
            solarise=solarise,
            flip=flip,
        )

    return jax.vmap(one)(index)


def apply(images: jax.Array, edits: Edits) -> jax.Array:
    """The images, edited.

    Saturation, hue and greyscale are of three channels; images with another number of them are left
    as they are there.

    Args:
        images: (B, H, W, C) float in [-1, 1].

    Returns:
        (B, H, W, C) float32 in [-1, 1].
    """

    def one(image: jax.Array, e: Edits) -> jax.Array:
        height, width, channels = image.shape
        image = _along_axes(
            _enlarge(e.box[0], e.box[2], height), _enlarge(e.box[1], e.box[3], width), image
        )
        image = _blend(image, e, lambda place: place < e.hue_after)
        if channels == 3:
            image = _turn_hue(image, e.hue)
        image = _blend(image, e, lambda place: place >= e.hue_after)
        image = jnp.where(e.grey, _luma(image), image)
        sigma = e.sigma / _REFERENCE_SIZE
        image = _along_axes(
            _gaussian(sigma * height, height), _gaussian(sigma * width, width), image
        )
        image = jnp.where(
            e.solarise, jnp.minimum(image, 1 - image), image
        )  # halfway levels round up to 128 of 255
        return jnp.where(e.flip, image[:, ::-1], image)

    return 2 * jax.vmap(one)((images + 1) / 2, edits) - 1


def _between(low: float | jax.Array, high: float | jax.Array, uniform: jax.Array) -> jax.Array:
    return low + (high - low) * uniform


def _box(tries: jax.Array, place: jax.Array, crop_min: float, size: tuple[int, int]) -> jax.Array:
    """(4,) int: top, left, height and width of a crop, distributed as torchvision's
    ``RandomResizedCrop``.

    All of its ten tries are made, and the first that fits is taken; there, a try is made where
    those before do not fit.

    Args:
        tries: (2, 10) uniform in [0, 1), the areas and the aspect ratios; place: (2,) likewise,
          down and right.
    """
    height, width = size
    side = jnp.sqrt(height * width * _between(crop_min, 1, tries[0]))
    wider = jnp.exp(np.log(_MAX_ASPECT) * (tries[1] - 0.5))  # the root of the aspect ratio
    tried = jnp.stack([jnp.round(side / wider), jnp.round(side * wider)], axis=1).astype(int)
    whole = jnp.array(size)
    fits = ((tried > 0) & (tried <= whole[None])).all(1)
    # If none does: the middle, as large as the aspect ratio lets it be.
    middle = jnp.array(
        [min(height, round(width * _MAX_ASPECT)), min(width, round(height * _MAX_ASPECT))]
    )
    box = jnp.where(fits.any(), tried[jnp.argmax(fits)], middle)
    corner = jnp.where(fits.any(), (place * (whole - box + 1)).astype(int), (whole - box) // 2)
    return jnp.concatenate([corner, box])


def _along_axes(rows: jax.Array, columns: jax.Array, image: jax.Array) -> jax.Array:
    """An image (H, W, C), filtered by a matrix (H, H) and a matrix (W, W)."""
    # A TPU's default precision would round the pixels to bfloat16.
    return jnp.einsum("uh,hwc,vw->uvc", rows, image, columns, precision="highest")


def _enlarge(start: jax.Array, length: jax.Array, size: int) -> jax.Array:
    """(size, size): bilinear enlargement of pixels start, ..., start + length - 1 to the whole of
    the size.

    A crop is never shrunk here, so there is nothing to smooth.
    """
    pixels = jnp.arange(size)
    source = jnp.clip(start + (pixels + 0.5) * length / size - 0.5, start, start + length - 1)
    return jnp.maximum(1 - jnp.abs(source[:, None] - pixels[None, :]), 0)


def _gaussian(sigma: jax.Array, size: int) -> jax.Array:
    """(size, size): a Gaussian blur of ``sigma`` pixels, with the image's reflection around it."""
    weight = lambda distance: jnp.exp(-0.5 * (distance / jnp.maximum(sigma, _SHARPEST)) ** 2)
    i, j = jnp.arange(size)[:, None], jnp.arange(size)[None, :]
    before, after = (
        jnp.where(j > 0, weight(i + j), 0),
        jnp.where(j < size - 1, weight(2 * (size - 1) - i - j), 0),
    )
    weights = weight(i - j) + before + after
    return weights / weights.sum(1, keepdims=True)


def _luma(image: jax.Array) -> jax.Array:
    """(H, W, 1): the brightness of an image (H, W, 3); any other image itself."""
    if image.shape[-1] != 3:
        return image
    return sum(weight * image[..., c : c + 1] for c, weight in enumerate(_LUMA))


def _blend(image: jax.Array, e: Edits, chosen: Callable[[int], jax.Array]) -> jax.Array:
    """Brightness, contrast and saturation of an image (H, W, C) in [0, 1], in their order, at the
    places ``chosen``.

    Each leads away from, or to, a poorer image: black, the mean brightness, the brightness of each
    pixel.
    """
    for place in range(3):
        kind = e.order[place]
        luma = _luma(image)
        poorer = jnp.where(kind == 0, 0, jnp.where(kind == 1, luma.mean(), luma))
        factor = jnp.where(chosen(place), e.factors[kind], 1)
        image = jnp.clip(factor * image + (1 - factor) * poorer, 0, 1)
    return image


def _turn_hue(image: jax.Array, turns: jax.Array) -> jax.Array:
    """An image (H, W, 3) in [0, 1] with its hue, of the hexagonal colour wheel, moved by so many
    turns.
    """
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    top = image.max(-1)
    chroma = top - image.min(-1)
    divisor = jnp.where(chroma > 0, chroma, 1)
    sixths = jnp.where(green >= blue, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    # Not ``top == red``: XLA may compute either anew, rounded otherwise.
    sixths = jnp.where((red >= green) & (red >= blue), (green - blue) / divisor, sixths) + 6 * turns

    def channel(opposite: int) -> jax.Array:
        """It is lowest at ``opposite`` sixths from hue 0 backwards, and at two sixths on either
        side it has the top.
        """
        distance = (opposite + sixths) % 6
        return top - chroma * jnp.clip(jnp.minimum(distance, 4 - distance), 0, 1)

    return jnp.stack([channel(5), channel(3), channel(1)], axis=-1)
