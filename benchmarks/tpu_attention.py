r"""Compares XLA's attention with JAX's Pallas kernels, compiled for a TPU that need not be present.

    TPU_SKIP_MDS_QUERY=1 JAX_PLATFORMS=cpu python benchmarks/tpu_attention.py --topology=v5e:2x2

It needs libtpu. Each row has the gradient of the attention product of one shape, in bfloat16: the
compiler's estimated cycles, and the least cycles that a kernel's own products take at the peak
rate. The compiler estimates its own operations only, not a kernel. So what surrounds a kernel, plus
the kernel's products, is less than the kernel can take. Rows are appended to ``--out``, by default
benchmarks/results/tpu_attention.jsonl, as JSON lines.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import topologies
from jax.experimental.pallas.ops.tpu.flash_attention import BlockSizes, flash_attention
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import SingleDeviceSharding
from tpu_compile import CHIPS, estimated_cycles

# (images, tokens, heads, width of a head) of the attention in a chip's batch.
SHAPES = {
    "DiT-B/2": (32, 256, 12, 64),
    "DiT-XL/2": (32, 256, 16, 72),
    "DiT-XL/2, 512 pixels": (8, 1024, 16, 72),
}
QUERIES = 256  # queries of a kernel's block; keys and values are whole
PRODUCTS = 9  # of a kernel: 2 forward, 4 for the gradients of keys and values, 3 for the queries'
LANES = 128  # The kernels' products are as wide as this, or a multiple of it.


def xla(q: Array, k: Array, v: Array) -> Array:
    """Computes attention as XLA does; all arrays are (B, L, heads, D)."""
    return jax.nn.dot_product_attention(q, k, v, implementation="xla")


def flash(q: Array, k: Array, v: Array) -> Array:
    """Computes attention by JAX's flash attention kernel."""
    length, width = q.shape[1], q.shape[-1]
    sizes = BlockSizes(
        block_q=QUERIES,
        block_k_major=length,
        block_k=length,
        block_b=1,
        block_q_major_dkv=QUERIES,
        block_k_major_dkv=length,
        block_k_dkv=length,
        block_q_dkv=QUERIES,
        block_k_major_dq=length,
        block_k_dq=length,
        block_q_dq=QUERIES,
    )
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))
    out = flash_attention(q, k, v, sm_scale=width**-0.5, block_sizes=sizes)
    return out.transpose(0, 2, 1, 3)


def splashed(q: Array, k: Array, v: Array) -> Array:
    """Computes attention by JAX's Splash kernel, with heads padded to its lanes."""
    _, length, heads, width = q.shape
    sizes = splash.BlockSizes(
        block_q=QUERIES,
        block_kv=length,
        block_kv_compute=length,
        block_q_dkv=QUERIES,
        block_kv_dkv=length,
        block_kv_dkv_compute=length,
        block_q_dq=QUERIES,
        block_kv_dq=length,
    )
    mask = masks.MultiHeadMask([masks.FullMask((length, length))] * heads)
    kernel = splash.make_splash_mha(mask, head_shards=1, q_seq_shards=1, block_sizes=sizes)
    padding = ((0, 0),) * 3 + ((0, -width % LANES),)
    q, k, v = (jnp.pad(x.transpose(0, 2, 1, 3), padding) for x in (q * width**-0.5, k, v))
    return jax.vmap(kernel)(q, k, v)[..., :width].transpose(0, 2, 1, 3)


IMPLEMENTATIONS: dict[str, Callable[[Array, Array, Array], Array]] = {
    "xla": xla,
    "flash": flash,
    "splash": splashed,
}


def measure(name: str, shape: tuple[int, int, int, int], topology: str) -> dict[str, Any]:
    """Compiles the gradient of an implementation, and returns its figures."""
    device = topologies.get_topology_desc(topology, "tpu").devices[0]
    x = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=SingleDeviceSharding(device))
    loss = lambda *args: IMPLEMENTATIONS[name](*args).astype(jnp.float32).sum()
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(x, x, x).compile()
    cycles = estimated_cycles(compiled.as_text()).total()
    row = {"implementation": name, "shape": shape, "device": device.device_kind, "cycles": cycles}
    if name != "xla":
        batch, length, heads, width = shape
        flops = 2 * PRODUCTS * batch * heads * length**2 * (width + -width % LANES)
        row["kernel_products_cycles"] = flops / CHIPS[topology.partition(":")[0]].flops
    return row | {
        "temp_bytes": compiled.memory_analysis().temp_size_in_bytes,
        "jax": jax.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--topology", default="v5e:2x2", help="e.g. v5e:2x2 or v5p:2x2x1")
    results = Path(__file__).parent / "results"
    parser.add_argument("--out", type=Path, default=results / "tpu_attention.jsonl")
    args = parser.parse_args()
    for network, shape in SHAPES.items():
        for name in IMPLEMENTATIONS:
            row = {"network": network, **measure(name, shape, args.topology)}
            print(json.dumps(row), flush=True)
            with args.out.open("a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
