"""The contents page: one model, one file; a family of models, one folder."""

from hvae_jax.models.base import HVAE as HVAE
from hvae_jax.models.biva import BIVA as BIVA
from hvae_jax.models.biva import GatedLadderVAE as GatedLadderVAE
from hvae_jax.models.biva import Stage as Stage
from hvae_jax.models.biva import biva_cifar10 as biva_cifar10
from hvae_jax.models.biva import biva_mnist as biva_mnist
from hvae_jax.models.biva import gated_ladder_cifar10 as gated_ladder_cifar10
from hvae_jax.models.biva import gated_ladder_mnist as gated_ladder_mnist
from hvae_jax.models.bottom_up import BottomUpVAE as BottomUpVAE
from hvae_jax.models.conv_ladder import ConvLadderVAE as ConvLadderVAE
from hvae_jax.models.conv_ladder import addtt_cifar10 as addtt_cifar10
from hvae_jax.models.conv_ladder import addtt_mnist as addtt_mnist
from hvae_jax.models.ladder import LadderVAE as LadderVAE
from hvae_jax.models.ladder import casperkaae_mnist as casperkaae_mnist
from hvae_jax.models.nvae import NVAE as NVAE
from hvae_jax.models.nvae import halving_groups as halving_groups
from hvae_jax.models.resnet_vae import ResNetVAE as ResNetVAE
from hvae_jax.models.resnet_vae import iaf_cifar10 as iaf_cifar10
from hvae_jax.models.resnet_vae import iaf_cifar10_small as iaf_cifar10_small
from hvae_jax.models.resnet_vae import iaf_cifar10_two_resolutions as iaf_cifar10_two_resolutions
from hvae_jax.models.resnet_vae import iaf_mnist_small as iaf_mnist_small
from hvae_jax.models.top_down import TopDownVAE as TopDownVAE
from hvae_jax.models.top_priors import MixturePrior as MixturePrior
from hvae_jax.models.top_priors import NormalPrior as NormalPrior
from hvae_jax.models.top_priors import VampPrior as VampPrior
from hvae_jax.models.vae import VAE as VAE
from hvae_jax.models.very_deep.block_strings import down_stages as down_stages
from hvae_jax.models.very_deep.block_strings import up_stages as up_stages
from hvae_jax.models.very_deep.efficient_vdvae import EfficientVDVAE as EfficientVDVAE
from hvae_jax.models.very_deep.efficient_vdvae_presets import efficient_vdvae_celeba64 as efficient_vdvae_celeba64
from hvae_jax.models.very_deep.efficient_vdvae_presets import efficient_vdvae_cifar10 as efficient_vdvae_cifar10
from hvae_jax.models.very_deep.efficient_vdvae_presets import efficient_vdvae_digits as efficient_vdvae_digits
from hvae_jax.models.very_deep.efficient_vdvae_presets import efficient_vdvae_faces256 as efficient_vdvae_faces256
from hvae_jax.models.very_deep.efficient_vdvae_presets import (
    efficient_vdvae_faces256_5_bits as efficient_vdvae_faces256_5_bits,
)
from hvae_jax.models.very_deep.efficient_vdvae_presets import efficient_vdvae_faces1024 as efficient_vdvae_faces1024
from hvae_jax.models.very_deep.efficient_vdvae_presets import efficient_vdvae_imagenet32 as efficient_vdvae_imagenet32
from hvae_jax.models.very_deep.efficient_vdvae_presets import efficient_vdvae_imagenet64 as efficient_vdvae_imagenet64
from hvae_jax.models.very_deep.efficient_vdvae_presets import efficient_vdvae_mnist as efficient_vdvae_mnist
from hvae_jax.models.very_deep.stages import Down as Down
from hvae_jax.models.very_deep.stages import Up as Up
from hvae_jax.models.very_deep.vdvae import VDVAE as VDVAE
from hvae_jax.models.very_deep.vdvae_presets import vdvae_cifar10 as vdvae_cifar10
from hvae_jax.models.very_deep.vdvae_presets import vdvae_cifar10_small as vdvae_cifar10_small
from hvae_jax.models.very_deep.vdvae_presets import vdvae_digits as vdvae_digits
from hvae_jax.models.very_deep.vdvae_presets import vdvae_ffhq256 as vdvae_ffhq256
from hvae_jax.models.very_deep.vdvae_presets import vdvae_ffhq1024 as vdvae_ffhq1024
from hvae_jax.models.very_deep.vdvae_presets import vdvae_imagenet32 as vdvae_imagenet32
from hvae_jax.models.very_deep.vdvae_presets import vdvae_imagenet64 as vdvae_imagenet64
from hvae_jax.models.very_deep.vdvae_presets import vdvae_mnist as vdvae_mnist
