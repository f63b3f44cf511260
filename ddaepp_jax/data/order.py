"""The order of examples: a pure function of (seed, step), the same on the device and on the host.

Every epoch is a permutation of the examples, computed index by index: a Feistel network permutes
the smallest power-of-two domain that holds them, and cycle walking brings indices outside the range
back into it. So a batch costs O(batch_size) work for a data set of any size, nothing is stored, and
there is no iterator state to save or to lose.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = np.ndarray | jax.Array

_ROUNDS = 8
_GOLDEN = 0x9E3779B9  # 2**32 / golden ratio: spreads the round numbers over the words


def max_steps(batch_size: int) -> int:
    """Returns the number of steps whose positions ``step * batch_size + i`` fit in 32 bits.

    Beyond it, the order would repeat.
    """
    return 2**32 // batch_size


def batch_indices(
    seed: int | Array, step: int | Array, batch_size: int, num_examples: int
) -> Array:
    """Returns the examples of a step's global batch, in order.

    Position ``p = step * batch_size + i`` of the endless stream lies in ``epoch = p //
    num_examples`` and is example ``permutation(seed, epoch)[p % num_examples]``; a batch may span
    epochs.

    Args:
      seed: any integer, taken modulo 2**32; may be traced.
      step: number of the batch from 0, below ``max_steps(batch_size)``; may be traced.
      batch_size: size B of the global batch, static.
      num_examples: size of the data set, 1 to 2**31 - 1, static.

    Returns:
      (B,) int32 in [0, num_examples): a JAX array if seed or step is one, else a NumPy array with
      the same values.

    Raises:
      ValueError: ``batch_size`` or ``num_examples`` is out of range.
    """
    if batch_size < 1 or not 1 <= num_examples < 2**31:
        raise ValueError(f"batch_size {batch_size} or num_examples {num_examples} is out of range")
    xp: Any = jnp if isinstance(seed, jax.Array) or isinstance(step, jax.Array) else np
    first = _word(step, xp) * xp.full((1,), batch_size, xp.uint32)
    position = first + xp.arange(batch_size, dtype=xp.uint32)
    epoch, offset = position // np.uint32(num_examples), position % np.uint32(num_examples)
    keys = [
        _mix(_mix(_word(seed, xp) + np.uint32(_GOLDEN * (i + 1) % 2**32)) + epoch)
        for i in range(_ROUNDS)
    ]
    return _permute(offset, keys, num_examples, xp).astype(xp.int32)


def _word(value: int | Array, xp: Any) -> Array:
    """Returns an integer as a (1,) uint32 array; NumPy's scalars would warn when they wrap."""
    if isinstance(value, jax.Array):
        return value.astype(jnp.uint32).reshape(1)
    return xp.full((1,), int(value) % 2**32, xp.uint32)


def _mix(x: Array) -> Array:
    """Maps 32-bit words one-to-one, so that every output bit depends on every input bit.

    This is Wellons' lowbias32.
    """
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def _permute(x: Array, keys: list[Array], num_examples: int, xp: Any) -> Array:
    """Permutes each x (B,) in [0, num_examples) by the permutation of its keys.

    Args:
      x: (B,) uint32.
      keys: a (B,) uint32 array for each round.
      num_examples: size of the range.
      xp: NumPy or ``jax.numpy``.
    """
    bits = (num_examples - 1).bit_length()
    # With an odd number of bits the halves differ by one bit, so that the domain stays below 2 N.
    low_bits = np.uint32((bits + 1) // 2)
    low_mask = np.uint32(2 ** int(low_bits) - 1)
    high_mask = np.uint32(2 ** (bits - int(low_bits)) - 1)
    size = np.uint32(num_examples)

    def feistel(x: Array) -> Array:
        low, high = x & low_mask, x >> low_bits
        for i, key in enumerate(keys):
            if i % 2:
                low = low ^ (_mix(high ^ key) & low_mask)
            else:
                high = high ^ (_mix(low ^ key) & high_mask)
        return (high << low_bits) | low

    # The walk follows a cycle of a bijection that began inside the range, so it returns to the
    # range: in fewer than 2 steps on average, as more than half of the domain is inside.
    def outside(x: Array) -> Any:
        return xp.any(x >= size)

    def walk(x: Array) -> Array:
        return xp.where(x >= size, feistel(x), x)

    x = feistel(x)
    if xp is jnp:
        return jax.lax.while_loop(outside, walk, x)
    while outside(x):
        x = walk(x)
    return x
