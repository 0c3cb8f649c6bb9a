"""Layers, blocks and networks: Flax modules that know of no distributions."""

from hvae_jax.networks.conv import ConvDecoder as ConvDecoder
from hvae_jax.networks.conv import ConvEncoder as ConvEncoder
from hvae_jax.networks.mlp import MLP as MLP
from hvae_jax.networks.mlp import BatchNorm as BatchNorm
from hvae_jax.networks.mlp import Dense as Dense
from hvae_jax.networks.mlp import Readout as Readout
from hvae_jax.networks.smoothed import Smoothed as Smoothed
from hvae_jax.networks.smoothed import Smoothing as Smoothing
