"""Data sets as records, and the ways to them."""

from hvae_jax.data.dataset import BINARY as BINARY
from hvae_jax.data.dataset import REAL as REAL
from hvae_jax.data.dataset import Dataset as Dataset
from hvae_jax.data.dataset import Kind as Kind
from hvae_jax.data.dataset import Split as Split
from hvae_jax.data.dataset import integer as integer
from hvae_jax.data.sources import digits as digits
from hvae_jax.data.sources import from_npz as from_npz
from hvae_jax.data.sources import from_tfds as from_tfds
from hvae_jax.data.sources import load as load
