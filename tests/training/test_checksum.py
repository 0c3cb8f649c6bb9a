"""The checksum of arrays: any flipped bit changes it, wherever it is computed."""

from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest

from hvae_jax.training import checksum as module
from hvae_jax.training import data_mesh, mesh
from hvae_jax.training.checksum import checksum

pytestmark = pytest.mark.leg


DTYPES = [
    np.float32,
    np.int32,
    ml_dtypes.bfloat16,
    np.float16,
    np.uint8,
    np.int8,
    np.uint16,
    bool,
    np.float64,
    np.int64,
]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_any_flipped_bit_changes_the_checksum(dtype: Any) -> None:
    """Every bit of a small array of every dtype; and leaves do not stand in for each other."""
    rng = np.random.default_rng(0)
    array = rng.integers(0, 2, 6).astype(bool) if dtype is bool else rng.normal(size=6).astype(np.float64).astype(dtype)
    tree = {"a": np.zeros(3, np.float32), "b": array.reshape(2, 3), "c": np.float32(2.7)}
    whole = checksum(tree)
    assert checksum(jax.tree.map(np.copy, tree)) == whole
    for byte in range(array.nbytes):
        for bit in range(1 if dtype is bool else 8):
            harmed = array.copy()
            harmed.view(np.uint8)[byte] ^= 1 << bit
            assert checksum(tree | {"b": harmed.reshape(2, 3)}) != whole
    assert checksum({"a": tree["c"], "b": tree["b"], "c": tree["a"]}) != whole


def test_large_arrays_are_summed_in_blocks() -> None:
    """Blocks of a million words: as one sum over all of it, and a bit beyond the first block counts."""
    words = np.random.default_rng(0).integers(0, 2**32, 2**20 + 1234, dtype=np.uint64)
    expected = sum(int(w) * (2 * i + 1) for i, w in enumerate(words[:1000].tolist()))
    assert module._sum_of_words(words[:1000].astype(np.uint32)) == expected % 2**32
    weights = 2 * np.arange(len(words), dtype=np.uint64) + 1
    total = int((words * weights % 2**32).sum() % 2**32)
    array = words.astype(np.uint32).view(np.float32)
    assert module._sum_of_words(array) == total
    array.view(np.uint32)[2**20 + 7] ^= 1
    assert module._sum_of_words(array) != total


@pytest.mark.parametrize(
    "dtype", [d for d in DTYPES if np.dtype(d).itemsize < 8], ids=lambda dtype: np.dtype(dtype).name
)
def test_devices_sum_as_the_host_does(dtype: Any) -> None:
    """Where an array is split over processes, devices compute the checksum of it: here, split over eight."""
    array = (np.random.default_rng(0).normal(size=(16, 5)) * 50).astype(np.int32).astype(dtype)
    split = jax.device_put(array, mesh.rows_sharding(16, data_mesh(8)))
    assert int(module._sum_on_devices(split)) == module._sum_of_words(array)
    assert module._sum_of_words(array) != 0
