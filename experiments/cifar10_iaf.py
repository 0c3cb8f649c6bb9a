"""The ResNet VAE with inverse autoregressive flow on CIFAR-10.

    python experiments/cifar10_iaf.py                             # small: minutes on two cores
    python experiments/cifar10_iaf.py --preset paper              # 20 blocks at 16x16, 38.6 million parameters
    python experiments/cifar10_iaf.py --preset two_resolutions    # 10 at 8x8 and 10 at 16x16

Kingma et al. (2016) as their code trains it: Adamax at 0.002, 256 images over eight GPUs, averaged parameters, free
bits a channel, discretised logistic with one learned scale. Published: `paper` 3.15 bits per dimension, 3.111 with
10,000 samples; `two_resolutions` 3.28, trained with FreeBits(0.25, "channel", "batch"). `small` has 4 blocks, 8 latent
channels and 32 maps; expected of its two epochs on 10,800 images, 676 steps: 6 minutes of one core, 7.39 bits; four
times as many on all 45,000, not run here. 45,000 / 5,000 / 10,000 images.
"""

from hvae_jax.cli.script import main
from hvae_jax.experiment import Data, Evaluation, Experiment
from hvae_jax.models import iaf_cifar10, iaf_cifar10_small, iaf_cifar10_two_resolutions
from hvae_jax.models.resnet_vae import ResNetVAE
from hvae_jax.objectives import FreeBits, Regularised
from hvae_jax.training import Adamax, Training


def published(name: str, model: ResNetVAE, nats: float) -> Experiment:
    """The published training of a model."""
    return Experiment(
        name=name,
        data=Data("cifar10"),
        model=model,
        objective=Regularised(free_bits=FreeBits(nats, "channel", "batch")),
        optimiser=Adamax(learning_rate=0.002),
        training=Training(batch_size=256, epochs=2000, ema=0.999),
        evaluation=Evaluation(draws=1000, other_draws=10, chunk=1, size=100, train_examples=1000),
    )


presets = {
    "small": Experiment(
        name="cifar10_iaf",
        data=Data("cifar10"),
        model=iaf_cifar10_small(),
        objective=Regularised(free_bits=FreeBits(0.1, "channel", "batch")),
        optimiser=Adamax(learning_rate=0.002),
        training=Training(batch_size=32, epochs=2, per_dispatch=5, unroll=5, ema=0.999),
        evaluation=Evaluation(draws=10, other_draws=2, chunk=1, size=200, train_examples=500),
    ),
    "paper": published("cifar10_iaf_paper", iaf_cifar10(), 0.1),
    "two_resolutions": published("cifar10_iaf_two_resolutions", iaf_cifar10_two_resolutions(), 0.25),
}
experiment = presets["small"]

if __name__ == "__main__":
    main(presets, description=__doc__)
