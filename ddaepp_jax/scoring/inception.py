"""Inception-v3 in the release of 2015-12-05, which defines FID, sFID and the Inception Score.

The architecture is that of arXiv 1512.00567 as the released graph has it: average pools exclude the
padding, and the last block has a max pool. It is for inference only. Convolutions, the resizing and
the classifier use the highest precision: TF32 or bfloat16, the defaults of accelerators, would
change the features and so FID.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jax.lax import Precision

SIZE = 299  # Images are resized to this height and width.
# For each resizing, the position of a pixel's centre, and the factor of x in [0, 1] before 1 is
# subtracted.
RESIZING = {"pytorch": (0.5, 2.0), "tensorflow1": (0.0, 255 / 128)}

# A layer is (features, kernel height, kernel width), or two layers side by side. A branch is a
# chain of layers.
Layer = tuple[Any, ...]


def resizing_matrix(resizing: str, size: int, out: int = SIZE) -> np.ndarray:
    """Returns the matrix (out, size) of bilinear interpolation along one axis, float64.

    There is no antialiasing; each row sums to 1.

    Args:
      resizing: with "pytorch" pixels are areas, as in ``F.interpolate(mode="bilinear",
        align_corners=False)``; with "tensorflow1" pixel i lies at i, as in TensorFlow 1's
        ``resize_bilinear``.
      size: number of pixels before.
      out: number of pixels after.
    """
    centre, _ = RESIZING[resizing]
    source = np.clip((np.arange(out) + centre) * size / out - centre, 0, size - 1)
    return np.maximum(0, 1 - np.abs(source[:, None] - np.arange(size)))


class BatchNorm(nn.Module):
    """Batch norm with stored statistics, which are parameters here, as nothing is trained."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        zeros = nn.initializers.zeros
        ones = nn.initializers.ones
        parameter = lambda name, init: self.param(name, init, x.shape[-1:])[None, None, None]
        scale = parameter("scale", ones)
        bias = parameter("bias", zeros)
        mean = parameter("mean", zeros)
        var = parameter("var", ones)
        return (x - mean) * (scale * jax.lax.rsqrt(var + 1e-3)) + bias


class Conv(nn.Module):
    """A convolution without bias, batch norm, and ReLU."""

    features: int
    kernel: tuple[int, int]
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        options = dict(use_bias=False, precision=Precision.HIGHEST, name="conv")
        x = nn.Conv(self.features, self.kernel, self.stride, self.padding, **options)(x)
        return nn.relu(BatchNorm(name="bn")(x))


class Mixed(nn.Module):
    """Branches whose outputs are concatenated along the channels, that of a pool last.

    Attributes:
      branches: the branches by name. Layers of a longer branch are numbered; those side by side
        have letters.
      pool: "average" or "max": a 3x3 pool and a convolution to ``pooled`` features. With "" the
        block halves the resolution, by a max pool and by the stride of each branch's last layer.
      pooled: number of features after the pool.
    """

    branches: Mapping[str, Sequence[Layer]]
    pool: str = ""
    pooled: int = 0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        outputs = [self._branch(x, name, layers) for name, layers in self.branches.items()]
        if not self.pool:
            pooled = _halved(x)
        elif self.pool == "max":
            pooled = nn.max_pool(x, (3, 3), padding="SAME")
        else:
            pooled = nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)
        if self.pool:
            pooled = Conv(self.pooled, (1, 1), name="branch_pool")(pooled)
        return jnp.concatenate([*outputs, pooled], axis=-1)

    def _branch(self, x: Array, name: str, layers: Sequence[Layer]) -> Array:
        for i, layer in enumerate(layers, 1):
            numbered = name if len(layers) == 1 else f"{name}_{i}"
            two = isinstance(layer[0], tuple)
            side_by_side = dict(zip("ab", layer, strict=True)) if two else {"": layer}
            halves = not self.pool and i == len(layers)
            stride, padding = (2, "VALID") if halves else (1, "SAME")
            outputs = [
                Conv(features, kernel, stride, padding, name=numbered + letter)(x)
                for letter, (features, *kernel) in side_by_side.items()
            ]
            x = jnp.concatenate(outputs, axis=-1)
        return x


def _halved(x: Array) -> Array:
    return nn.max_pool(x, (3, 3), (2, 2))


def _a(pooled: int) -> partial[Mixed]:
    branches = {
        "branch1x1": [(64, 1, 1)],
        "branch5x5": [(48, 1, 1), (64, 5, 5)],
        "branch3x3dbl": [(64, 1, 1), (96, 3, 3), (96, 3, 3)],
    }
    return partial(Mixed, branches, "average", pooled)


def _b() -> partial[Mixed]:
    branches = {"branch3x3": [(384, 3, 3)], "branch3x3dbl": [(64, 1, 1), (96, 3, 3), (96, 3, 3)]}
    return partial(Mixed, branches)


def _c(inner: int) -> partial[Mixed]:
    flat = (inner, 1, 7)
    tall = (inner, 7, 1)
    branches = {
        "branch1x1": [(192, 1, 1)],
        "branch7x7": [(inner, 1, 1), flat, (192, 7, 1)],
        "branch7x7dbl": [(inner, 1, 1), tall, flat, tall, (192, 1, 7)],
    }
    return partial(Mixed, branches, "average", 192)


def _d() -> partial[Mixed]:
    branches = {
        "branch3x3": [(192, 1, 1), (320, 3, 3)],
        "branch7x7x3": [(192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3)],
    }
    return partial(Mixed, branches)


def _e(pool: str) -> partial[Mixed]:
    cross = ((384, 1, 3), (384, 3, 1))
    branches = {
        "branch1x1": [(320, 1, 1)],
        "branch3x3": [(384, 1, 1), cross],
        "branch3x3dbl": [(448, 1, 1), (384, 3, 3), cross],
    }
    return partial(Mixed, branches, pool, 192)


BLOCKS = dict(Mixed_5b=_a(32), Mixed_5c=_a(64), Mixed_5d=_a(64), Mixed_6a=_b())
BLOCKS |= dict(Mixed_6b=_c(128), Mixed_6c=_c(160), Mixed_6d=_c(160), Mixed_6e=_c(192))
BLOCKS |= dict(Mixed_7a=_d(), Mixed_7b=_e("average"), Mixed_7c=_e("max"))


class Inception(nn.Module):
    """The network; it computes the features of FID, of sFID and of the Inception Score.

    Attributes:
      resizing: how images are resized to 299x299; see ``resizing_matrix``. "pytorch" then scales to
        2 x - 1, as pytorch-fid does. "tensorflow1" scales to (255 x - 128) / 128 as the released
        graph does, which torch-fidelity and the evaluators of ADM and EDM follow: they run the
        graph or a copy of it. The literature has figures of both.
      num_classes: the released network has 1008 classes, of which 1000 are ImageNet's.
    """

    resizing: str = "pytorch"
    num_classes: int = 1008

    @nn.compact
    def __call__(self, images: Array) -> dict[str, Array]:
        """Computes the features of a batch.

        Args:
          images: (B, H, W, 3) of any size, floating in [0, 1] or uint8.

        Returns:
          Arrays in float32: "pool" (B, 2048), the means over the last block's positions; "spatial"
          (B, 2023), the first 7 channels of Mixed_6d, 17 x 17 x 7 (``mixed_6/conv:0[..., :7]`` of
          the graph); "logits" (B, num_classes).

        Raises:
          ValueError: the images have another shape or dtype, or there is no such resizing.
        """
        if self.resizing not in RESIZING:
            raise ValueError(f"resizing: no {self.resizing!r}; give one of {', '.join(RESIZING)}")
        integer = images.dtype == jnp.uint8
        number = integer or jnp.issubdtype(images.dtype, jnp.floating)
        if images.ndim != 4 or images.shape[3] != 3 or not number:
            raise ValueError(
                f"images: {images.shape} {images.dtype}; give (B, H, W, 3), floating or uint8"
            )
        rows, columns = (
            jnp.asarray(resizing_matrix(self.resizing, n), jnp.float32) for n in images.shape[1:3]
        )
        x = images.astype(jnp.float32) / (255 if integer else 1)
        x = jnp.einsum("ih,bhwc,jw->bijc", rows, x, columns, precision=Precision.HIGHEST)
        x = x * RESIZING[self.resizing][1] - 1

        x = Conv(32, (3, 3), 2, "VALID", name="Conv2d_1a_3x3")(x)
        x = Conv(32, (3, 3), 1, "VALID", name="Conv2d_2a_3x3")(x)
        x = _halved(Conv(64, (3, 3), name="Conv2d_2b_3x3")(x))
        x = Conv(80, (1, 1), name="Conv2d_3b_1x1")(x)
        x = _halved(Conv(192, (3, 3), 1, "VALID", name="Conv2d_4a_3x3")(x))
        for name, block in BLOCKS.items():
            x = block(name=name)(x)
            if name == "Mixed_6d":
                spatial = x[..., :7].reshape(len(x), -1)  # The 1x1 branch comes first.
        pool = x.mean((1, 2))
        logits = nn.Dense(self.num_classes, precision=Precision.HIGHEST, name="fc")(pool)
        return {"pool": pool, "spatial": spatial, "logits": logits}
