"""The Ladder VAE on MNIST: maps as latents, as published and small, and the vectors of the paper.

    python experiments/mnist_ladder.py                            # small: minutes on two cores
    python experiments/mnist_ladder.py --preset published         # three layers of maps, 3.2 million parameters
    python experiments/mnist_ladder.py --preset paper             # five vectors, precision-weighted

`small` and `published` (and `published6`, `published12`) are the convolutional ladder of addtt/ladder-vae-pytorch on
Larochelle's static binarisation, 50,000 / 10,000 / 10,000: Adamax at 3e-4, half a nat free a layer (one above six
layers), initialised by a batch. Published for 3, 6 and 12 layers: an -ELBO of 82.14, 80.74 and 80.50 nats, 79.24, 78.52
and 78.30 with 1000 samples, means of four seeds after some hundred thousand steps. `small` has 16 maps in place of 64,
one block a layer in place of four and a rate ten times as high.

`paper` is Soenderby et al. (2016) on MNIST binarised anew at each step: latents of 64-32-16-8-4, Adam(0.9, 0.999, 1e-4)
at 1e-3, 256 images, warm-up over 200 of 2,000 epochs. Published: 81.74 nats by IW-5000, on all 60,000 training images;
here they are 50,000. The paper's batch statistics are collected anew before evaluation; ours are running means.

Expected on the static binarisation, one core, seed 0: `small --epochs 2` 13 minutes, -ELBO 99.1, 94.2 with 10 samples;
`paper --epochs 30 --data.name binarized_mnist` 7 minutes, 94.3, 88.9 with 100. The `published` ones were not run here.
"""

from hvae_jax.cli.script import main
from hvae_jax.experiment import Data, Evaluation, Experiment
from hvae_jax.models import ConvLadderVAE, LadderVAE
from hvae_jax.models.conv_ladder import addtt_mnist
from hvae_jax.networks.residual import BlockStyle
from hvae_jax.objectives import FreeBits, Linear, Regularised
from hvae_jax.training import Adamax, AdamW, Training

EPOCH = 196  # steps of 256 images


def published(layers: int) -> Experiment:
    """The README's command of the public code. It counts a run's length in steps: some 400 thousand."""
    return Experiment(
        name=f"mnist_ladder_published{layers}",
        data=Data("binarized_mnist"),
        model=addtt_mnist(layers),
        objective=Regularised(free_bits=FreeBits(0.5 if layers <= 6 else 1.0, "level", "sample")),
        optimiser=Adamax(learning_rate=3e-4),
        training=Training(epochs=500, per_dispatch=1),
        evaluation=Evaluation(draws=1000, other_draws=10, chunk=1, size=100, train_examples=1000),
    )


presets = {
    "small": Experiment(
        name="mnist_ladder",
        data=Data("binarized_mnist"),
        model=ConvLadderVAE(latents=(16, 16, 16), channels=16, blocks=1, block=BlockStyle(dropout=0.0)),
        objective=Regularised(free_bits=FreeBits(0.5, "level", "sample")),
        optimiser=Adamax(learning_rate=3e-3),
        training=Training(epochs=4, per_dispatch=5, unroll=5),
        evaluation=Evaluation(draws=10, other_draws=2, chunk=1, size=500, train_examples=1000),
    ),
    "published": published(3),
    "published6": published(6),
    "published12": published(12),
    "paper": Experiment(
        name="mnist_ladder_paper",
        data=Data("mnist", binarise="dynamic"),
        model=LadderVAE(),
        objective=Regularised(warm_up=Linear(0, 200 * EPOCH)),
        optimiser=AdamW(learning_rate=1e-3, eps=1e-4),
        training=Training(batch_size=256, epochs=2000, select="last"),
        evaluation=Evaluation(draws=5000, other_draws=50, train_examples=1000),
    ),
}
experiment = presets["small"]

if __name__ == "__main__":
    main(presets, description=__doc__)
