"""The VAE of one latent vector, the baseline of the hierarchies.

    hvae train vae                                   # digits; two cores: 20 s
    hvae train vae --model.network conv              # convolutions next to x: minutes on a CPU
    hvae train vae --preset mnist_iwae --epochs 121  # K = 1, the VAE
    hvae train vae --preset mnist_iwae --epochs 40 --objective.k 50 --folder runs/vae_50
    hvae train vae --preset digits_information --objective.target 5

`digits`: 16 latents, 440,416 parameters, dense layers of 256 with leaky ReLUs and no batch norm; all else as in
`top_down`. Expected: test -ELBO 96.7 ± 1.0 nats (500 draws), IW-500 bound about 93.3, KL about 7.7. These are five
seeds of another implementation; five seeds here gave 96.8, 93.5 and 7.4 (docs/results/digits.md).

`digits_information`: the same with a PixelCNN that sees all earlier pixels, which would ignore z, and a target for the
information of x and z in the model: docs/results/mutual_information.md has what it does.

`mnist_iwae`: the IWAE paper's network of one stochastic layer on static MNIST, trained on the bound of K draws. 50
latents, two tanh layers of 200 either way, batches of 20, Adam(0.99, 0.999, 1e-4). The learning rate falls from 1e-3
to 1e-4 in eight stages of 1, 3, 9, ... epochs, 3,280 in all; `--epochs` ends it early, best at the end of a stage,
such as 40, 121 or 364. The last variables are measured, by IW-5000 on all 10,000 test images. Larochelle's split of
50,000 / 10,000 / 10,000; the paper trains on 60,000. Published: 88.71 nats for K = 1, 87.10 for K = 50. docs/results
has results and times of fewer epochs. Departure from the paper: log variances are clamped to [-14, 14].
"""

import jax.numpy as jnp

from hvae_jax.experiment import Data, Evaluation, Experiment, Training
from hvae_jax.likelihoods import Bernoulli, Categorical, PixelCNN
from hvae_jax.models import VAE
from hvae_jax.objectives import ImportanceWeighted, MutualInformation, Tripling
from hvae_jax.training import Adamax, AdamW

EPOCHS = 3280  # length of the IWAE paper's schedule; an epoch is 2,500 steps

presets = {
    "digits": Experiment(
        name="vae_digits",
        data=Data("digits"),
        model=VAE(latents=16, hidden=256, likelihood=Categorical(17)),
        optimiser=Adamax(learning_rate=1e-3),
        training=Training(batch_size=64, epochs=1000, patience=20),
    ),
    "mnist_iwae": Experiment(
        name="vae_mnist_iwae",
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
            batch_size=20,
            epochs=EPOCHS,
            schedule_steps=2500 * EPOCHS,
            init_examples=10_000,
            select="last",
            per_dispatch=500,
            pictures_every=None,
        ),
        evaluation=Evaluation(draws=5000, other_draws=50, train_examples=1000),
    ),
    "digits_information": Experiment(
        name="vae_digits_information",
        data=Data("digits"),
        model=VAE(latents=16, hidden=128, likelihood=PixelCNN(Categorical(17), None, 3, 16)),
        objective=MutualInformation(target=2.0),
        optimiser=Adamax(learning_rate=1e-3),
        training=Training(batch_size=64, epochs=60, select="last"),
    ),
}
