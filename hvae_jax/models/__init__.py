"""The contents page: one model, one file."""

from hvae_jax.models.base import HVAE as HVAE
from hvae_jax.models.biva import BIVA as BIVA
from hvae_jax.models.conv_ladder import ConvLadderVAE as ConvLadderVAE
from hvae_jax.models.gated_ladder import GatedLadderVAE as GatedLadderVAE
from hvae_jax.models.ladder import LadderVAE as LadderVAE
from hvae_jax.models.resnet_vae import ResNetVAE as ResNetVAE
from hvae_jax.models.resnet_vae import iaf_cifar10 as iaf_cifar10
from hvae_jax.models.resnet_vae import iaf_cifar10_small as iaf_cifar10_small
from hvae_jax.models.resnet_vae import iaf_cifar10_two_resolutions as iaf_cifar10_two_resolutions
from hvae_jax.models.resnet_vae import iaf_mnist_small as iaf_mnist_small
from hvae_jax.models.top_down import TopDownVAE as TopDownVAE
from hvae_jax.models.two_level import TwoLevelVAE as TwoLevelVAE
from hvae_jax.models.vae import VAE as VAE
from hvae_jax.models.vdvae import VDVAE as VDVAE
