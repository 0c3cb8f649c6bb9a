"""The Ladder VAE of the paper on OMNIGLOT: five vectors, precision-weighted, or three small ones.

    python experiments/omniglot_ladder.py                         # small: minutes on two cores
    python experiments/omniglot_ladder.py --preset paper

The 28x28 images of the IWAE paper, 24,345 for training, the last 1,345 of them for validation, and 8,070 test images,
binarised anew at each step. `paper` is Soenderby et al. (2016): latents of 64-32-16-8-4, Adam(0.9, 0.999, 1e-4) at
1e-3, 256 images, warm-up over 200 of 2,000 epochs; published: 102.11 nats by IW-5000, and 102.63 with two levels.
`small` has latents of 32-16-8, networks half as wide, warm-up over 5 of 60 epochs. Neither was run here, for want of
the data: nothing is known of them but the published numbers.
"""

from hvae_jax.cli.script import main
from hvae_jax.experiment import Data, Evaluation, Experiment
from hvae_jax.models import LadderVAE
from hvae_jax.objectives import Linear, Regularised
from hvae_jax.training import AdamW, Training

EPOCH = 90  # steps of 256 images

presets = {
    "small": Experiment(
        name="omniglot_ladder",
        data=Data("omniglot", binarise="dynamic"),
        model=LadderVAE(latents=(8, 16, 32), hidden=(64, 128, 256)),
        objective=Regularised(warm_up=Linear(0, 5 * EPOCH)),
        optimiser=AdamW(learning_rate=2e-3, eps=1e-4),
        training=Training(batch_size=256, epochs=60),
        evaluation=Evaluation(draws=100, other_draws=10, train_examples=1000),
    ),
    "paper": Experiment(
        name="omniglot_ladder_paper",
        data=Data("omniglot", binarise="dynamic"),
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
