"""BIVA (Maaloe et al., 2019): bottom-up and top-down inference paths, and skip connections from all levels to x.

    hvae train biva                         # mnist_small: minutes on two cores
    hvae train biva --preset mnist_paper    # six stages, 31.6 million parameters
    hvae train biva --preset cifar10_small  # minutes on two cores
    hvae train biva --preset cifar10_paper  # fifteen stages, 103 million parameters

The `paper` presets are the paper's models as vlievin/biva-pytorch trains them: Adamax with a learning rate of 2e-3,
multiplied by 0.999999 per step down to 1e-4; batches of 48 images; free bits of two nats per latent; parameters
averaged with a decay of 0.9995; data-dependent initialisation from a batch. They were not run here.

MNIST is Larochelle's static binarisation, 50,000 / 10,000 / 10,000. The public codes select variables on the test
split; nothing here does. Published: an -ELBO of 81.20 nats, 78.59 with 1000 samples. `mnist_small` has three stages
of width 16, two blocks each, and kernels of 3x3. Expected of `mnist_small --epochs 1`, one core, seed 0: 16 minutes,
-ELBO 99.1, 94.8 with 10 samples.

CIFAR-10: 45,000 / 5,000 / 10,000 images. Published: 3.08 bits per dimension with importance weights. `cifar10_paper`
has a mixture of ten discretised logistics in the public code's form, whose probabilities do not quite sum to one;
`cifar10_small` has three stages of width 24 and the exact form. Expected of its two epochs on 10,800 images, 676
steps: 21 minutes of one core, 6.47 bits; two epochs of all 45,000 images take four times as long and were not run
here.
"""

from hvae_jax.experiment import Data, Evaluation, Experiment, Training
from hvae_jax.likelihoods import LogisticMixture
from hvae_jax.models import BIVA
from hvae_jax.models.biva import Stage, biva_cifar10, biva_mnist
from hvae_jax.objectives import Exponential, FreeBits, Regularised
from hvae_jax.training import Adamax

OPTIMISER = Adamax(learning_rate=2e-3, schedule=Exponential(0.999999, floor=0.05))


def published(data: str, name: str, model: BIVA) -> Experiment:
    """The public code's training of a published model."""
    return Experiment(
        name=name,
        data=Data(data),
        model=model,
        objective=Regularised(free_bits=FreeBits(2.0, "level", "sample")),
        optimiser=OPTIMISER,
        training=Training(batch_size=48, epochs=500, per_dispatch=1, ema=0.9995),
        evaluation=Evaluation(draws=1000, other_draws=10, chunk=1, size=100, train_examples=1000),
    )


presets = {
    "mnist_small": Experiment(
        name="biva_mnist_small",
        data=Data("binarized_mnist"),
        model=BIVA(
            stages=(
                Stage(8, ((16, 3, 1), (16, 3, 2))),
                Stage(16, ((16, 3, 1), (16, 3, 1))),
                Stage(24, ((16, 3, 1), (16, 3, 2))),
            ),
            q_dropout=0.0,
            p_dropout=0.0,
        ),
        objective=Regularised(free_bits=FreeBits(0.5, "level", "sample")),
        optimiser=OPTIMISER,
        training=Training(batch_size=48, epochs=3, per_dispatch=5, unroll=5),
        evaluation=Evaluation(draws=10, other_draws=2, chunk=1, size=500, train_examples=1000),
    ),
    "mnist_paper": published("binarized_mnist", "biva_mnist_paper", biva_mnist()),
    "cifar10_small": Experiment(
        name="biva_cifar10_small",
        data=Data("cifar10"),
        model=BIVA(
            image=(32, 32, 3),
            stages=(
                Stage(8, ((24, 3, 1), (24, 3, 2)), 4),
                Stage(8, ((24, 3, 1), (24, 3, 2)), 8),
                Stage(8, ((24, 3, 1), (24, 3, 2)), 16),
            ),
            q_dropout=0.0,
            p_dropout=0.0,
            likelihood=LogisticMixture(),
        ),
        objective=Regularised(free_bits=FreeBits(2.0, "level", "sample")),
        optimiser=OPTIMISER,
        training=Training(batch_size=32, epochs=2, per_dispatch=5, unroll=5),
        evaluation=Evaluation(draws=10, other_draws=2, chunk=1, size=200, train_examples=500),
    ),
    "cifar10_paper": published("cifar10", "biva_cifar10_paper", biva_cifar10()),
}
