"""Wide residual networks with GroupNorm, which classify small images.

Zagoruyko & Komodakis 2016, arXiv 1605.07146.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.lax import Precision, rsqrt

GROUP = 8  # Channels that are normalised together.


class _Norm(nn.Module):
    """GroupNorm of ``GROUP`` channels with PyTorch's epsilon, and ReLU.

    It is one multiply-add for each element, with factors from the means of channels. Flax's takes
    five times as long on a CPU, with gradients.
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))

        def grouped(means: Array) -> Array:
            means = means.reshape(-1, channels // GROUP, GROUP).mean(axis=2)
            return jnp.repeat(means, GROUP, axis=1)

        mean = grouped(x.mean(axis=(1, 2)))
        square = grouped(jnp.square(x).mean(axis=(1, 2)))
        factor = scale[None] * rsqrt(jnp.maximum(square - jnp.square(mean), 0) + 1e-5)
        offset = bias[None] - mean * factor
        return nn.relu(x * factor[:, None, None] + offset[:, None, None])


def _conv(x: Array, width: int, name: str, size: int = 3, stride: int = 1) -> Array:
    """Applies a convolution with ``size // 2`` zeros on every side.

    It is initialised for a ReLU after it (He et al. 2015).
    """
    init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    # With less than full float32, features would differ by a thousandth between accelerators, and
    # from a CPU's.
    options = dict(padding=size // 2, use_bias=False, kernel_init=init, precision=Precision.HIGHEST)
    return nn.Conv(width, (size, size), stride, **options, name=name)(x)


class WideResNet(nn.Module):
    """WRN-``depth``-``width``: three stages of pre-activation blocks.

    The stages have 16, 32 and 64 times ``width`` channels. Stages 2 and 3 halve the image, rounding
    up: 8x8 ends as 2x2. GroupNorm replaces batch norm: an image's features depend on that image
    only, also in training, and there is no state beside the parameters.

    Attributes:
      num_classes: number of classes.
      depth: 6 n + 4, with n blocks of two convolutions in each stage.
      width: factor of the channels.
      stride: stride of the first convolution, 1 in the paper; 2 takes a quarter of the time.
    """

    num_classes: int
    depth: int = 16
    width: int = 2
    stride: int = 1

    @nn.compact
    def __call__(self, images: Array) -> dict[str, Array]:
        """Computes the features before the last layer, and the logits.

        Args:
          images: (B, H, W, C) float32 in [-1, 1], of any size.

        Returns:
          "pool" (B, 64 * width) and "logits" (B, num_classes), float32.

        Raises:
          ValueError: there is no network of this depth.
        """
        blocks, rest = divmod(self.depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth {self.depth} is not 6 n + 4")
        x = _conv(images, 16, "conv", 3, self.stride)
        for stage, channels in enumerate((16, 32, 64), 1):
            for block in range(1, blocks + 1):
                stride = 2 if stage > 1 and block == 1 else 1
                x = self._block(x, channels * self.width, stride, f"block_{stage}_{block}")
        pool = _Norm(name="norm")(x).mean(axis=(1, 2))
        logits = nn.Dense(self.num_classes, precision=Precision.HIGHEST, name="fc")(pool)
        return {"pool": pool, "logits": logits}

    def _block(self, x: Array, width: int, stride: int, name: str) -> Array:
        """Applies norm, ReLU and a convolution, twice, and adds the shortcut.

        If the shape changes, the shortcut starts after the first ReLU.
        """
        active = _Norm(name=f"{name}_norm1")(x)
        changed = stride > 1 or x.shape[-1] != width
        shortcut = _conv(active, width, f"{name}_shortcut", 1, stride) if changed else x
        hidden = _Norm(name=f"{name}_norm2")(_conv(active, width, f"{name}_conv1", 3, stride))
        return shortcut + _conv(hidden, width, f"{name}_conv2")
