"""BIVA on CIFAR-10.

    python experiments/cifar10_biva.py                            # small: minutes on two cores
    python experiments/cifar10_biva.py --preset paper             # fifteen stages, 103 million parameters

`paper` is Maaloe et al. (2019) as vlievin/biva-pytorch trains it: Adamax at 2e-3, times 0.999999 a step down to 1e-4,
two nats free a latent, 48 images, parameters averaged at 0.9995, a mixture of ten discretised logistics (in the public
code's form, whose probabilities do not quite sum to one). Published: 3.08 bits per dimension with importance weights.
`small` has three stages of 24 maps and the likelihood whose probabilities do; expected of its two epochs on 10,800
images, 676 steps: 21 minutes of one core, 6.47 bits; four times as many on all 45,000, not run here. 45,000 / 5,000 /
10,000 images.
"""

from hvae_jax.cli.script import main
from hvae_jax.experiment import Data, Evaluation, Experiment
from hvae_jax.likelihoods import LogisticMixture
from hvae_jax.models import BIVA
from hvae_jax.models.biva import Stage, biva_cifar10
from hvae_jax.objectives import Exponential, FreeBits, Regularised
from hvae_jax.training import Adamax, Training

optimiser = Adamax(learning_rate=2e-3, schedule=Exponential(0.999999, floor=0.05))

presets = {
    "small": Experiment(
        name="cifar10_biva",
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
        optimiser=optimiser,
        training=Training(batch_size=32, epochs=2, per_dispatch=5, unroll=5),
        evaluation=Evaluation(draws=10, other_draws=2, chunk=1, size=200, train_examples=500),
    ),
    "paper": Experiment(
        name="cifar10_biva_paper",
        data=Data("cifar10"),
        model=biva_cifar10(),
        objective=Regularised(free_bits=FreeBits(2.0, "level", "sample")),
        optimiser=optimiser,
        training=Training(batch_size=48, epochs=500, per_dispatch=1, ema=0.9995),
        evaluation=Evaluation(draws=1000, other_draws=10, chunk=1, size=100, train_examples=1000),
    ),
}
experiment = presets["small"]

if __name__ == "__main__":
    main(presets, description=__doc__)
