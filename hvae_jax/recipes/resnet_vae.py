"""The ResNet VAE with an inverse autoregressive flow at each level (Kingma et al., 2016).

    hvae train resnet_vae                         # mnist_small: minutes on two cores
    hvae train resnet_vae --preset mnist_plain    # the same without flow, diagonal posteriors
    hvae train resnet_vae --preset mnist_large    # the network of the paper's CIFAR-10 model
    hvae train resnet_vae --preset cifar10_small  # minutes on two cores
    hvae train resnet_vae --preset cifar10_paper  # 20 blocks at 16x16, 38.6 million parameters
    hvae train resnet_vae --preset cifar10_two_resolutions  # 10 blocks at 8x8 and 10 at 16x16

MNIST is Larochelle's static binarisation, 50,000 / 10,000 / 10,000. No MNIST preset here is the paper's, whose MNIST
models have a single latent vector and dynamic binarisation (an -ELBO of 80.80 nats with eight steps of flow, 84.08
without). Here latents are feature maps, in two blocks at 7x7 and two at 14x14 (`mnist_small`), or ten and ten of width
160 with the published training (`mnist_large`). Expected of `mnist_small --epochs 2`, one core, seed 0: 7
minutes, -ELBO 105.4, 102.4 with 10 samples. `mnist_plain` and `mnist_large` were not run here.

CIFAR-10 (45,000 / 5,000 / 10,000 images) is trained as the paper's code does: Adamax at 0.002, 256 images over eight
GPUs, averaged parameters, free bits per channel, discretised logistic with one learned scale. Published:
`cifar10_paper` 3.15 bits per dimension, 3.111 with 10,000 samples; `cifar10_two_resolutions` 3.28, trained with
FreeBits(0.25, "channel", "batch"). `cifar10_small` has 4 blocks, 8 latent channels and width 32; expected of its two
epochs on 10,800 images, 676 steps: 6 minutes of one core, 7.39 bits; two epochs of all 45,000 images take four times as
long and were not run here.
"""

import dataclasses

from hvae_jax.experiment import Data, Evaluation, Experiment, Training
from hvae_jax.models import ResNetVAE, iaf_cifar10, iaf_cifar10_small, iaf_cifar10_two_resolutions, iaf_mnist_small
from hvae_jax.objectives import FreeBits, Regularised
from hvae_jax.training import Adamax

mnist_small = Experiment(
    name="resnet_vae_mnist_small",
    data=Data("binarized_mnist"),
    model=iaf_mnist_small(),
    objective=Regularised(free_bits=FreeBits(0.1, "channel", "batch")),
    optimiser=Adamax(learning_rate=0.002),
    training=Training(epochs=4, per_dispatch=5, unroll=5, ema=0.999),
    evaluation=Evaluation(draws=10, other_draws=2, chunk=1, size=500, train_examples=1000),
)


def published(preset: str, model: ResNetVAE, nats: float) -> Experiment:
    """The published training of a CIFAR-10 model, with free bits of `nats` per channel."""
    return Experiment(
        name=f"resnet_vae_{preset}",
        data=Data("cifar10"),
        model=model,
        objective=Regularised(free_bits=FreeBits(nats, "channel", "batch")),
        optimiser=Adamax(learning_rate=0.002),
        training=Training(batch_size=256, epochs=2000, ema=0.999),
        evaluation=Evaluation(draws=1000, other_draws=10, chunk=1, size=100, train_examples=1000),
    )


# Loops run as fast there as blocks that are written out, and compile sooner.
on_accelerators = {"unroll": 1}

presets = {
    "mnist_small": mnist_small,
    "mnist_plain": dataclasses.replace(
        mnist_small, name="resnet_vae_mnist_plain", model=iaf_mnist_small().clone(flow=None)
    ),
    "mnist_large": dataclasses.replace(
        mnist_small,
        name="resnet_vae_mnist_large",
        model=iaf_mnist_small().clone(blocks=(10, 10), latents=(32, 32), width=160, flow_hidden=(160, 160), unroll=1),
        training=Training(batch_size=256, epochs=500, ema=0.999),
        evaluation=Evaluation(draws=1000, other_draws=10, chunk=1, size=100, train_examples=1000),
    ),
    "cifar10_small": Experiment(
        name="resnet_vae_cifar10_small",
        data=Data("cifar10"),
        model=iaf_cifar10_small(),
        objective=Regularised(free_bits=FreeBits(0.1, "channel", "batch")),
        optimiser=Adamax(learning_rate=0.002),
        training=Training(batch_size=32, epochs=2, per_dispatch=5, unroll=5, ema=0.999),
        evaluation=Evaluation(draws=10, other_draws=2, chunk=1, size=200, train_examples=500),
    ),
    "cifar10_paper": published("cifar10_paper", iaf_cifar10(), 0.1),
    "cifar10_two_resolutions": published("cifar10_two_resolutions", iaf_cifar10_two_resolutions(), 0.25),
}
