"""BIVA on static MNIST.

    python experiments/mnist_biva.py                              # small: minutes on two cores
    python experiments/mnist_biva.py --preset paper               # six stages, 31.6 million parameters

`paper` is Maaloe et al. (2019) as vlievin/biva-pytorch trains it: Adamax at 2e-3, times 0.999999 a step down to 1e-4,
two nats free a latent, 48 images, parameters averaged at 0.9995, initialised by a batch. Published: an -ELBO of 81.20
nats, 78.59 with 1000 samples. `small` has three stages of 16 maps, two blocks each, and kernels of 3x3. Larochelle's
binarisation and split, 50,000 / 10,000 / 10,000; the public codes select by the test split, which nothing here does.
Expected of `small --epochs 1`, one core, seed 0: 16 minutes, -ELBO 99.1, 94.8 with 10 samples. `paper` was not run
here.
"""

from hvae_jax.cli.script import main
from hvae_jax.experiment import Data, Evaluation, Experiment
from hvae_jax.models import BIVA
from hvae_jax.models.biva import Stage, biva_mnist
from hvae_jax.objectives import Exponential, FreeBits, Regularised
from hvae_jax.training import Adamax, Training

optimiser = Adamax(learning_rate=2e-3, schedule=Exponential(0.999999, floor=0.05))

presets = {
    "small": Experiment(
        name="mnist_biva",
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
        optimiser=optimiser,
        training=Training(batch_size=48, epochs=3, per_dispatch=5, unroll=5),
        evaluation=Evaluation(draws=10, other_draws=2, chunk=1, size=500, train_examples=1000),
    ),
    "paper": Experiment(
        name="mnist_biva_paper",
        data=Data("binarized_mnist"),
        model=biva_mnist(),
        objective=Regularised(free_bits=FreeBits(2.0, "level", "sample")),
        optimiser=optimiser,
        training=Training(batch_size=48, epochs=500, per_dispatch=1, ema=0.9995),
        evaluation=Evaluation(draws=1000, other_draws=10, chunk=1, size=100, train_examples=1000),
    ),
}
experiment = presets["small"]

if __name__ == "__main__":
    main(presets, description=__doc__)
