"""VDVAE, the very deep VAE (Child, 2021).

    hvae train vdvae                         # digits: 10 levels, minutes on two cores
    hvae train vdvae --preset mnist          # 10 levels, binary images
    hvae train vdvae --preset cifar10_small  # 15 levels, an hour on two cores
    hvae train vdvae --preset cifar10        # 43 levels, as published; also imagenet32 (78),
                                             # imagenet64 (75), ffhq256 (66), ffhq1024 (70)
    hvae train vdvae --preset ffhq256 --data.name FOLDER_OF_IMAGES
    hvae train vdvae --preset cifar10_small --data.name FOLDER --side 64 --width 48 --depth 20  # a size of your own

The published presets train as the public code does: AdamW with betas (0.9, 0.9), weight decay 0.01, 100 steps of
warm-up and then a constant learning rate, clipped gradients, skipped steps where the gradient norm is too large, and
averaged parameters in evaluation. Batch sizes and limits are those of its `hps.py`, the limits in nats per image. Two
things are ours: one step is taken after ten skipped in a row, so that a run cannot stall for good, and a skipped step
does not count towards the warm-up. Published, bits per dimension: CIFAR-10 2.87 (about a million steps), ImageNet
3.80 at 32x32 and 3.52 at 64x64 (1.7 and 1.6 million; the older of the two data sets of this name), FFHQ 0.61 at
256x256 with 5 bits, by bins that overlap, and 2.42 at 1024x1024. docs/results/very_deep.md has small presets.

On a TPU or a GPU a run begins with `--model.dtype bfloat16`, `--model.kept products` and `--model.unroll 1`, and says
so; each of these flags, given by hand, has its way. `--model.remat` takes less memory still, and more time.
"""

from hvae_jax.experiment import Data, Evaluation, Experiment, Training
from hvae_jax.models import (
    VDVAE,
    vdvae_cifar10,
    vdvae_cifar10_small,
    vdvae_digits,
    vdvae_ffhq256,
    vdvae_ffhq1024,
    vdvae_imagenet32,
    vdvae_imagenet64,
    vdvae_mnist,
)
from hvae_jax.objectives import Cosine, Linear, Product
from hvae_jax.training import AdamW, Gradients

WARM_UP = Linear(-1, 99)  # factor 0.01 at the first step, 1 from the hundredth on


def published(
    name: str, data: Data, model: VDVAE, rate: float, batch: int, clip: int, skip: int, ema: float, epochs: int
) -> Experiment:
    """The published training of a model.

    Args:
      clip, skip: limits on the gradient norm of a loss in nats per dimension, as in the public code; `Gradients` takes
        them for nats per image.
    """
    height, width, channels = model.image
    dimensions = height * width * channels
    return Experiment(
        name=f"vdvae_{name}",
        data=data,
        model=model,
        optimiser=AdamW(learning_rate=rate, b1=0.9, b2=0.9, weight_decay=0.01, schedule=WARM_UP),
        training=Training(
            batch_size=batch,
            epochs=epochs,
            patience=epochs,
            ema=ema,
            gradients=Gradients(clip=clip * dimensions, skip_above=skip * dimensions),
            per_dispatch=20,
            validation_size=batch,
        ),
        evaluation=Evaluation(draws=1, other_draws=1, chunk=1, size=batch, train_examples=1000),
    )


def small(name: str, data: Data, model: VDVAE, steps: int, batch: int, dispatch: int) -> Experiment:
    """A training for two cores: a larger learning rate, falling to a twentieth; a skip limit by the usual norm."""
    falling = Product((WARM_UP, Cosine(0, steps, initial=1.0, final=0.05)))
    return Experiment(
        name=f"vdvae_{name}",
        data=data,
        model=model,
        optimiser=AdamW(learning_rate=2e-3, b1=0.9, b2=0.9, weight_decay=0.01, schedule=falling),
        training=Training(
            batch_size=batch,
            epochs=steps,
            steps=steps,
            schedule_steps=steps,
            patience=steps,
            ema=0.995,
            gradients=Gradients(skip_factor=10.0),
            per_dispatch=dispatch,
        ),
        evaluation=Evaluation(draws=10, other_draws=2, chunk=1, size=200, train_examples=500),
    )


# Products in bfloat16; activations computed again rather than read; loops, which are as fast there as written-out runs.
on_accelerators = {"dtype": "bfloat16", "kept": "products", "unroll": 1}

presets = {
    "digits": small("digits", Data("digits"), vdvae_digits(unroll=4), steps=3_200, batch=32, dispatch=32),
    "mnist": small("mnist", Data("binarized_mnist"), vdvae_mnist(unroll=4), steps=3_000, batch=32, dispatch=20),
    "cifar10_small": small(
        "cifar10_small", Data("cifar10"), vdvae_cifar10_small(unroll=5), steps=7_000, batch=16, dispatch=20
    ),
    "cifar10": published("cifar10", Data("cifar10"), vdvae_cifar10(), 2e-4, 32, 200, 400, 0.9999, 800),
    "imagenet32": published(
        "imagenet32", Data("downsampled_imagenet32"), vdvae_imagenet32(), 1.5e-4, 256, 200, 300, 0.999, 340
    ),
    "imagenet64": published(
        "imagenet64", Data("downsampled_imagenet64"), vdvae_imagenet64(), 1.5e-4, 128, 220, 380, 0.999, 160
    ),
    "ffhq256": published("ffhq256", Data("ffhq", size=256, bits=5), vdvae_ffhq256(), 1.5e-4, 32, 130, 180, 0.999, 860),
    "ffhq1024": published("ffhq1024", Data("ffhq", size=1024), vdvae_ffhq1024(), 7e-5, 32, 360, 500, 0.999, 780),
}
