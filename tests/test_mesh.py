"""Devices as a sharding: which meshes there are, how states and batches lie on them, and that it changes no number."""

import functools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec
from toys import Block  # noqa: F401
