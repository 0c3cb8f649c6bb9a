"""BIVA, and the Ladder VAE and VAE that its code compares it with, over one skeleton of gated blocks."""

from hvae_jax.models.biva.biva import BIVA as BIVA
from hvae_jax.models.biva.biva import biva_cifar10 as biva_cifar10
from hvae_jax.models.biva.biva import biva_mnist as biva_mnist
from hvae_jax.models.biva.gated_ladder import GatedLadderVAE as GatedLadderVAE
from hvae_jax.models.biva.gated_ladder import gated_ladder_cifar10 as gated_ladder_cifar10
from hvae_jax.models.biva.gated_ladder import gated_ladder_mnist as gated_ladder_mnist
from hvae_jax.models.biva.stages import Stage as Stage
from hvae_jax.models.biva.stages import cifar10_stages as cifar10_stages
from hvae_jax.models.biva.stages import mnist_stages as mnist_stages
from hvae_jax.models.biva.stages import sides as sides
