"""MoCo v3's augmentation inside the training step.

Source: arXiv 2104.02057; facebookresearch/moco-v3, ``main_moco.py``. A resized crop, colour jitter,
greyscale, blur, solarisation and a flip follow each other as in torchvision, except that images are
not rounded to 256 levels in between.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ddaepp_jax.base.streams import named

_MAX_ASPECT = 4 / 3  # largest ratio of a crop's width to its height, and of height to width
_TRIES = 10
_REFERENCE_SIZE = 224  # pixels; size of the images for which MoCo v3 states its blur
# Weights of red, green and blue as torchvision rounds them; the first one of PIL is 0.299.
_LUMA = (0.2989, 0.587, 0.114)
_SHARPEST = 0.05  # pixels; a Gaussian this narrow is 0 in float32 one pixel away


@dataclasses.dataclass(frozen=True)
class Photometric:
    """Settings of the augmentation; the defaults are MoCo v3's for ViT.

    Attributes:
      crop_min: smallest share of the image's area in a crop; the share is uniform in (crop_min, 1).
      brightness, contrast, saturation: the factor of each is uniform in (1 - value, 1 + value), but
        not below 0.
      hue: largest shift of the hue, in turns of the colour wheel; the shift is uniform in
        (-hue, hue), and ``hue`` is at most 0.5.
      jitter: probability of these four, which come together and in a random order.
      grey: probability of greyscale.
      blur: probability of a Gaussian blur in the first view and in the second.
      blur_sigma: range of the blur's standard deviation, which is uniform, in 224ths of the image's
        height and width: MoCo v3's 2 pixels of 224 would leave little of an image of 32.
      solarise: probability that the brighter half of the levels is inverted, in the first view and
        in the second.
      flip: probability of mirroring left to right.

    Raises:
      ValueError: a field is out of its range; the message begins with its name.
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
            pair = getattr(self, name)
            if len(pair) != 2 or not all(isinstance(value, int | float) for value in pair):
                raise ValueError(f"{name}: {pair} is not two numbers")
        if not 0 < self.crop_min <= 1:
            raise ValueError(f"crop_min: {self.crop_min} is not a share of an image, in (0, 1]")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"hue: {self.hue} is not in 0..0.5")
        for name in ("brightness", "contrast", "saturation"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)} is negative; 0 is none")
        for name in ("jitter", "grey", "blur", "solarise", "flip"):
            value = getattr(self, name)
            probabilities = value if isinstance(value, tuple) else (value,)
            if not all(0 <= p <= 1 for p in probabilities):
                raise ValueError(f"{name}: {value} is not a probability")
        if not 0 <= self.blur_sigma[0] <= self.blur_sigma[1]:
            raise ValueError(f"blur_sigma: {self.blur_sigma} is not a range")


class Edits(NamedTuple):
    """Edits drawn for B images, in the order of their application.

    Attributes:
      box: (B, 4) int; top, left, height and width of the crop in pixels.
      factors: (B, 3); factors of brightness, contrast and saturation, 1 for no change.
      order: (B, 3) int; order of these three, by their position in ``factors``.
      hue: (B,); shift of the hue in turns of the colour wheel, 0 for no change.
      hue_after: (B,) int; how many of the three come before the hue, 0 to 3.
      grey: (B,) bool; whether the image becomes grey.
      sigma: (B,); standard deviation of the blur in 224ths of height and width, 0 for no blur.
      solarise: (B,) bool; whether the brighter half of the levels is inverted.
      flip: (B,) bool; whether the image is mirrored left to right.
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
    """Edits images (B, H, W, C), float in [-1, 1], as drawn by ``draw``; float32 in [-1, 1]."""
    return apply(images, draw(photometric, seed, step, index, view, images.shape[1:3]))


def draw(
    photometric: Photometric,
    seed: int | jax.Array,
    step: int | jax.Array,
    index: jax.Array,
    view: int,
    size: tuple[int, int],
) -> Edits:
    """Draws the edits of B images, which depend on (seed, step, index, view) alone.

    Args:
      photometric: probabilities and ranges of the edits.
      seed, step: integers, may be traced.
      index: (B,) int, the images' numbers in the data set.
      view: number of the view, 0 or 1.
      size: height and width of the images in pixels.
    """
    p = photometric
    key = jax.random.fold_in(named(jax.random.key(seed), f"photometric_{view}"), step)
    chances = jnp.array([p.jitter, p.grey, p.blur[view], p.solarise[view], p.flip], jnp.float32)
    strengths = jnp.array([p.brightness, p.contrast, p.saturation], jnp.float32)

    def one(i: jax.Array) -> Edits:
        # One call draws all numbers: a call for each would take longer to compile than the rest.
        uniform = jax.random.uniform(jax.random.fold_in(key, i), (16 + 2 * _TRIES,), jnp.float32)
        coins, factors, order, (hue, hue_after, sigma), place, tries = jnp.split(
            uniform, (5, 8, 11, 14, 16)
        )
        jitter, grey, blur, solarise, flip = coins < chances
        factors = _between(jnp.maximum(1 - strengths, 0), 1 + strengths, factors)
        return Edits(
            box=_box(tries.reshape(2, _TRIES), place, p.crop_min, size),
            factors=jnp.where(jitter, factors, 1),
            order=jnp.argsort(order).astype(jnp.int32),
            hue=jnp.where(jitter, _between(-p.hue, p.hue, hue), 0),
            hue_after=(hue_after * 4).astype(jnp.int32),
            grey=grey,
            sigma=jnp.where(blur, _between(*p.blur_sigma, sigma), 0),
            solarise=solarise,
            flip=flip,
        )

    return jax.vmap(one)(index)


def apply(images: jax.Array, edits: Edits) -> jax.Array:
    """Edits images.

    Saturation, hue and greyscale need three channels; they leave other images unchanged.

    Args:
      images: (B, H, W, C) float in [-1, 1].
      edits: edits of the B images.

    Returns:
      (B, H, W, C) float32 in [-1, 1].
    """

    def one(image: jax.Array, e: Edits) -> jax.Array:
        height, width, channels = image.shape
        top, left, box_height, box_width = e.box
        rows, columns = _enlarge(top, box_height, height), _enlarge(left, box_width, width)
        image = _along_axes(rows, columns, image)
        image = _blend(image, e, lambda place: place < e.hue_after)
        if channels == 3:
            image = _shift_hue(image, e.hue)
        image = _blend(image, e, lambda place: place >= e.hue_after)
        image = jnp.where(e.grey, _luma(image), image)
        sigma = e.sigma / _REFERENCE_SIZE
        rows, columns = _gaussian(sigma * height, height), _gaussian(sigma * width, width)
        image = _along_axes(rows, columns, image)
        # A level of exactly 1/2 counts as bright, as it rounds up to 128 of 255.
        image = jnp.where(e.solarise, jnp.minimum(image, 1 - image), image)
        return jnp.where(e.flip, image[:, ::-1], image)

    return 2 * jax.vmap(one)((images + 1) / 2, edits) - 1


def _between(low: float | jax.Array, high: float | jax.Array, uniform: jax.Array) -> jax.Array:
    """Maps numbers that are uniform in [0, 1) to [low, high)."""
    return low + (high - low) * uniform


def _box(tries: jax.Array, place: jax.Array, crop_min: float, size: tuple[int, int]) -> jax.Array:
    """Returns a crop, distributed as torchvision's ``RandomResizedCrop``.

    All ten tries are computed, and the first that fits is taken; torchvision makes a try only if
    those before do not fit.

    Args:
      tries: (2, 10) uniform in [0, 1), for the areas and the aspect ratios.
      place: (2,) uniform in [0, 1), for the place from top and left.
      crop_min: smallest share of the area.
      size: height and width of the image in pixels.

    Returns:
      (4,) int: top, left, height and width in pixels.
    """
    height, width = size
    side = jnp.sqrt(height * width * _between(crop_min, 1, tries[0]))
    root_aspect = jnp.exp(math.log(_MAX_ASPECT) * (tries[1] - 0.5))
    boxes = jnp.stack([jnp.round(side / root_aspect), jnp.round(side * root_aspect)], axis=1)
    boxes = boxes.astype(jnp.int32)
    whole = jnp.array(size, jnp.int32)
    fits = ((boxes > 0) & (boxes <= whole[None])).all(1)
    # If no try fits, take the middle, as large as the aspect ratio allows.
    middle = jnp.array(
        [min(height, round(width * _MAX_ASPECT)), min(width, round(height * _MAX_ASPECT))],
        jnp.int32,
    )
    box = jnp.where(fits.any(), boxes[jnp.argmax(fits)], middle)
    corner = jnp.where(
        fits.any(), (place * (whole - box + 1)).astype(jnp.int32), (whole - box) // 2
    )
    return jnp.concatenate([corner, box])


def _along_axes(rows: jax.Array, columns: jax.Array, image: jax.Array) -> jax.Array:
    """Filters an image (H, W, C) by a matrix (H, H) and a matrix (W, W)."""
    # A TPU's default precision would round the pixels to bfloat16.
    return jnp.einsum("uh,hwc,vw->uvc", rows, image, columns, precision="highest")


def _enlarge(start: jax.Array, length: jax.Array, size: int) -> jax.Array:
    """Returns a matrix (size, size) that enlarges ``length`` pixels from ``start`` to ``size``.

    The interpolation is bilinear. A crop is never shrunk, so no smoothing is needed.
    """
    pixels = jnp.arange(size, dtype=jnp.float32)
    source = jnp.clip(start + (pixels + 0.5) * length / size - 0.5, start, start + length - 1)
    return jnp.maximum(1 - jnp.abs(source[:, None] - pixels[None, :]), 0)


def _gaussian(sigma: jax.Array, size: int) -> jax.Array:
    """Returns a matrix (size, size) that blurs by ``sigma`` pixels; the image is reflected."""
    weight = lambda distance: jnp.exp(-0.5 * (distance / jnp.maximum(sigma, _SHARPEST)) ** 2)
    pixels = jnp.arange(size, dtype=jnp.float32)
    i, j = pixels[:, None], pixels[None, :]
    before = jnp.where(j > 0, weight(i + j), 0)
    after = jnp.where(j < size - 1, weight(2 * (size - 1) - i - j), 0)
    weights = weight(i - j) + before + after
    return weights / weights.sum(1, keepdims=True)


def _luma(image: jax.Array) -> jax.Array:
    """Returns the brightness (H, W, 1) of an image (H, W, 3); any other image is returned as is."""
    if image.shape[-1] != 3:
        return image
    return sum(weight * image[..., c : c + 1] for c, weight in enumerate(_LUMA))


def _blend(image: jax.Array, e: Edits, chosen: Callable[[int], jax.Array]) -> jax.Array:
    """Changes brightness, contrast and saturation of an image (H, W, C) in [0, 1].

    Each change blends the image with a poorer one: black, its mean brightness, or the brightness of
    each pixel.

    Args:
      image: (H, W, C) in [0, 1].
      e: edits of this image.
      chosen: tells which places in the order of the three are applied.
    """
    for place in range(3):
        kind = e.order[place]
        luma = _luma(image)
        poorer = jnp.where(kind == 0, 0, jnp.where(kind == 1, luma.mean(), luma))
        factor = jnp.where(chosen(place), e.factors[kind], 1)
        image = jnp.clip(factor * image + (1 - factor) * poorer, 0, 1)
    return image


def _shift_hue(image: jax.Array, turns: jax.Array) -> jax.Array:
    """Shifts the hue of an image (H, W, 3) in [0, 1] on the hexagonal colour wheel."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    top = image.max(-1)
    chroma = top - image.min(-1)
    divisor = jnp.where(chroma > 0, chroma, 1)
    sixths = jnp.where(green >= blue, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    # Don't compare top with red: XLA may recompute either one and round it differently.
    sixths = jnp.where((red >= green) & (red >= blue), (green - blue) / divisor, sixths) + 6 * turns

    def channel(opposite: int) -> jax.Array:
        """Returns the channel that is lowest ``opposite`` sixths of a turn backwards from hue 0.

        It is highest from two sixths on either side of there.
        """
        distance = (opposite + sixths) % 6
        return top - chroma * jnp.clip(jnp.minimum(distance, 4 - distance), 0, 1)

    return jnp.stack([channel(5), channel(3), channel(1)], axis=-1)
