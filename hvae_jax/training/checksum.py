"""The checksum of a checkpoint's arrays."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def checksum(tree: Any) -> int:
    """A hash of the bits of every leaf; Orbax does not notice a flipped bit in an array.

    sum_i (2 i + 1) w_i mod 2^32 over a leaf's 32-bit words w_i; leaves are combined likewise. Every weight is odd, so
    that one changed word always changes the sum; and a sum can be computed where the words lie, on any mesh.
    """
    total = 0
    for leaf in jax.tree.leaves(tree):
        whole = not isinstance(leaf, jax.Array) or leaf.is_fully_replicated or leaf.is_fully_addressable
        words = _sum_of_words(np.asarray(leaf)) if whole else int(_sum_on_devices(leaf))
        # Multiplied by an odd number first, so that leaves cannot change places.
        total = (total * 0x9E3779B1 + words) % 2**32
    return total


def _sum_of_words(array: np.ndarray) -> int:
    """The sum of one leaf on the host, a block of 2^20 words at a time."""
    raw = np.ascontiguousarray(array).reshape(-1)
    # Items of 8 bytes are two words each; smaller ones are a word each, so that no padding is needed.
    words = raw.view(np.dtype(f"u{min(raw.itemsize, 4)}")) if raw.dtype != bool else raw.view(np.uint8)
    total, block = 0, 2**20
    for start in range(0, len(words), block):
        part = words[start : start + block].astype(np.uint32, copy=False)
        weights = np.arange(2 * start + 1, 2 * (start + len(part)) + 1, 2, dtype=np.uint64).astype(np.uint32)
        total += int((part * weights).sum(dtype=np.uint32))
    return total % 2**32


@jax.jit
def _sum_on_devices(array: jax.Array) -> jax.Array:
    """The sum of one leaf, parts of which lie on devices of other processes."""
    # As `_sum_of_words` reads them; an item of 8 bytes becomes a last axis of two words.
    array = array.astype(jnp.uint8) if array.dtype == bool else array
    unsigned = {1: jnp.uint8, 2: jnp.uint16}.get(array.dtype.itemsize, jnp.uint32)
    words = jax.lax.bitcast_convert_type(array, unsigned).astype(jnp.uint32).reshape(-1)
    return (words * (2 * jnp.arange(words.size, dtype=jnp.uint32) + 1)).sum(dtype=jnp.uint32)
