"""The IWAE paper's network of one stochastic layer on static MNIST, trained on the bound of K draws.

    python experiments/mnist_iwae.py --epochs 121                                              # K = 1, the VAE
    python experiments/mnist_iwae.py --epochs 40 --objective.k 50 --folder runs/mnist_iwae_50

50 latents, two tanh layers of 200 either way, batches of 20, Adam(0.99, 0.999, 1e-4). The learning rate falls from 1e-3
to 1e-4 in eight stages of 1, 3, 9, ... epochs, 3,280 in all; `--epochs` ends it early, and 40, 121, 364 are ends of
stages. The last variables are measured, by IW-5000 on all 10,000 test images. Larochelle's split of 50,000 / 10,000 /
10,000; the paper trains on 60,000. Published: 88.71 nats for K = 1, 87.10 for K = 50. What fewer epochs reach, and how
long they take, is in the README.

Departures: log variances cut to [-14, 14].
"""

import jax.numpy as jnp

from hvae_jax.cli.script import main
from hvae_jax.experiment import Data, Evaluation, Experiment
from hvae_jax.likelihoods import Bernoulli
from hvae_jax.models import VAE
from hvae_jax.objectives import ImportanceWeighted, Tripling
from hvae_jax.training import AdamW, Training

EPOCHS = 3280  # of 2,500 steps each

experiment = Experiment(
    name="mnist_iwae",
    data=Data("binarized_mnist"),
    model=VAE(
        latents=50,
        hidden=200,
        activation=jnp.tanh,
        clamp=(-14.0, 14.0),
        initialisation="glorot",
        likelihood=Bernoulli(),
    ),
    objective=ImportanceWeighted(k=1),
    optimiser=AdamW(learning_rate=1e-3, b1=0.99, eps=1e-4, schedule=Tripling(2500 * EPOCHS)),
    training=Training(
        batch_size=20, epochs=EPOCHS, init_examples=10_000, select="last", per_dispatch=500, pictures_every=None
    ),
    evaluation=Evaluation(draws=5000, other_draws=50, train_examples=1000),
)

if __name__ == "__main__":
    main(experiment, description=__doc__)
