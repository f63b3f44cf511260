"""The time below which a machine cannot do a piece of work: its products and its bytes."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import linen as nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ddaepp_jax.models.unet import UNet

TRIAD = 2**25  # float32 numbers of an array of the triad, beyond every cache


def product_shapes(
    network: nn.Module, image_shape: tuple[int, int, int], batch_size: int
) -> list[tuple[int, int, int]]:
    """Returns (m, k, n) of the largest matrix products of a network's forward and backward pass.

    A convolution counts as the product of its patches with its kernel.
    """
    height, width, _ = image_shape
    if isinstance(network, UNet):
        forward = [
            (batch_size * (height >> i) * (width >> i), 9 * channels, channels)
            for i, channels in enumerate(network.channels * m for m in network.mults[:2])
        ]
    else:
        rows = batch_size * network.attention_shapes(height, width)[0][0]
        hidden = int(network.width * network.mlp_ratio)
        forward = [(rows, network.width, hidden), (rows, hidden, network.width)]
    return [*forward, *((k, m, n) for m, k, n in forward)]


def peak(shapes: Sequence[tuple[int, int, int]], device: torch.device) -> float:
    """Measures the FLOPs a second of the fastest matrix product of these shapes, in either library.

    On a GPU the products are in bfloat16.
    """
    kind = jnp.float32 if device.type == "cpu" else jnp.bfloat16
    torch_kind = torch.float32 if device.type == "cpu" else torch.bfloat16
    product = jax.jit(lambda a, b: a @ b)
    rates = []
    for m, k, n in shapes:
        # A GPU draws less power for ones, and runs faster.
        a, b = (jax.random.normal(jax.random.key(0), shape, kind) for shape in ((m, k), (k, n)))
        seconds = _best(lambda a=a, b=b: jax.block_until_ready(product(a, b)))
        x, y = (torch.randn(*shape, device=device).to(torch_kind) for shape in ((m, k), (k, n)))
        seconds = min(seconds, _best(lambda x=x, y=y: synchronised(x @ y)))
        rates.append(2 * m * k * n / seconds)
    return max(rates)


def bandwidth(device: torch.device) -> float:
    """Measures the bytes a second of a triad, a = b + s c, the faster of both libraries."""
    b, c = jnp.ones(TRIAD), jnp.ones(TRIAD)
    triad = jax.jit(lambda b, c: b + 3 * c)
    seconds = _best(lambda: jax.block_until_ready(triad(b, c)))
    x, y, out = (torch.ones(TRIAD, device=device) for _ in range(3))
    seconds = min(seconds, _best(lambda: synchronised(torch.add(x, y, alpha=3, out=out))))
    return 3 * 4 * TRIAD / seconds


def synchronised(result: Any) -> Any:
    """Waits for PyTorch's GPU, if it runs on one, and returns ``result``."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result


def _best(call: Callable[[], Any], repeats: int = 7) -> float:
    call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def count_products(call: Callable[[], Any]) -> int:
    """Counts the FLOPs of the matrix products and convolutions of a PyTorch computation."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()
