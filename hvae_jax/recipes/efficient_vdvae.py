"""Efficient-VDVAE (Hazami et al., 2022).

    hvae train efficient_vdvae                      # digits: 7 levels, minutes on two cores
    hvae train efficient_vdvae --preset cifar10     # 47 levels, as published; also mnist (23),
                                                    # imagenet32 (73), imagenet64 (84), celeba64 (62)
    hvae train efficient_vdvae --preset cifar10_c1  # tapering widths; also *_compact
    hvae train efficient_vdvae --preset faces256 --data.name FOLDER_OF_IMAGES
    hvae train efficient_vdvae --width 32 --depth 12  # a size of your own; see --help

The published presets follow the settings of the public code (`egs/`): the rate of every level is scaled for 10,000
steps (gamma balancing) and warmed up over 5,000, the learning rate of Adamax falls from 1e-3 as a cosine, steps whose
gradient norm is too large are skipped, and evaluation uses averaged parameters (decay 0.9999). Weight decay is 0, as
in the public PyTorch code; the public JAX code has 0.01. As in `vdvae`, one step is taken after ten skipped in a
row, and limits are in nats per image. Published: MNIST 79.09 nats; bits per dimension: CIFAR-10 2.87, ImageNet 3.58
at 32x32 and 3.30 at 64x64 (the newer data sets of this name), CelebA 1.83, CelebA-HQ 0.51 (5 bits) and 1.35, FFHQ
0.53 and 2.17 at 256x256, 1.01 and 2.30 at 1024x1024; all by larger models than these settings describe, and CIFAR-10
and MNIST on half of the test split. docs/results has results and times of the small preset. Folders of images serve
`faces256`, `faces256_5_bits` and `faces1024`.
"""

from hvae_jax.experiment import Data, Evaluation, Experiment, Training
from hvae_jax.models import (
    EfficientVDVAE,
    efficient_vdvae_celeba64,
    efficient_vdvae_cifar10,
    efficient_vdvae_digits,
    efficient_vdvae_faces256,
    efficient_vdvae_faces256_5_bits,
    efficient_vdvae_faces1024,
    efficient_vdvae_imagenet32,
    efficient_vdvae_imagenet64,
    efficient_vdvae_mnist,
)
from hvae_jax.objectives import Cosine, GammaBalance, Linear, Product, Regularised
from hvae_jax.training import Adamax, Gradients

WARM_UP = Linear(-1, 99)  # factor 0.01 at the first step, 1 from the hundredth on


def published(
    name: str,
    data: Data,
    model: EfficientVDVAE,
    batch: int,
    steps: int,
    skip: int,
    clip: int | None = None,
    end: float = 0.1,
    decay_from: int = 50_000,
) -> Experiment:
    """The published training of a model.

    Args:
      batch: batch size.
      skip, clip: limits on the gradient norm of a loss in nats per dimension, as in the public code; `Gradients` takes
        them for nats per image. None does not clip.
      end: final learning rate, as a fraction of 1e-3.
      decay_from: step at which the learning rate begins to fall.
    """
    height, width, channels = model.image
    dimensions = height * width * channels
    return Experiment(
        name=f"efficient_vdvae_{name}",
        data=data,
        model=model,
        objective=Regularised(warm_up=Linear(20, 5041, floor=1e-4), balance=GammaBalance(10_000)),
        optimiser=Adamax(
            learning_rate=1e-3, schedule=Product((WARM_UP, Cosine(decay_from, steps, initial=1.0, final=end)))
        ),
        training=Training(
            batch_size=batch,
            epochs=steps,
            steps=steps,
            schedule_steps=steps,
            patience=steps,
            ema=0.9999,
            gradients=Gradients(None if clip is None else clip * dimensions, skip * dimensions),
            per_dispatch=20,
            validation_size=batch,
        ),
        evaluation=Evaluation(draws=1, other_draws=1, chunk=1, size=batch, train_examples=1000),
    )


MNIST = Data("mnist", binarise="static")
CIFAR10 = Data("cifar10", flip=True)
IMAGENET32, IMAGENET64, CELEB_A64 = Data("imagenet32"), Data("imagenet64"), Data("celeb_a64")
FACES256, FACES256_5_BITS, FACES1024 = (
    Data("faces", size=256),
    Data("faces", size=256, bits=5),
    Data("faces", size=1024),
)

# as in the recipe vdvae
on_accelerators = {"dtype": "bfloat16", "kept": "products", "unroll": 1}

presets = {
    "digits": Experiment(
        name="efficient_vdvae_digits",
        data=Data("digits"),
        model=efficient_vdvae_digits(unroll=2),
        objective=Regularised(warm_up=Linear(21, 500, floor=1e-4), balance=GammaBalance(1_000)),
        optimiser=Adamax(learning_rate=4e-3, schedule=Product((WARM_UP, Cosine(1_000, 3_200, initial=1.0, final=0.1)))),
        training=Training(
            batch_size=32,
            epochs=100,
            schedule_steps=3_200,
            patience=100,
            ema=0.995,
            gradients=Gradients(skip_factor=10.0),
            per_dispatch=32,
        ),
        evaluation=Evaluation(draws=100, other_draws=10),
    ),
    "mnist": published("mnist", MNIST, efficient_vdvae_mnist(), 32, 200_000, 800, decay_from=5_000),
    "cifar10": published("cifar10", CIFAR10, efficient_vdvae_cifar10(), 32, 800_000, 800, end=0.2),
    "cifar10_c1": published("cifar10_c1", CIFAR10, efficient_vdvae_cifar10("C1"), 32, 800_000, 800, end=0.2),
    "imagenet32": published("imagenet32", IMAGENET32, efficient_vdvae_imagenet32(), 64, 800_000, 800, end=0.2),
    "imagenet32_c1": published(
        "imagenet32_c1", IMAGENET32, efficient_vdvae_imagenet32("C1"), 64, 800_000, 800, end=0.2
    ),
    "imagenet32_compact": published(
        "imagenet32_compact", IMAGENET32, efficient_vdvae_imagenet32("compact"), 64, 800_000, 800, end=0.2
    ),
    "imagenet64": published("imagenet64", IMAGENET64, efficient_vdvae_imagenet64(), 32, 800_000, 800, end=0.2),
    "imagenet64_c1": published(
        "imagenet64_c1", IMAGENET64, efficient_vdvae_imagenet64("C1"), 32, 800_000, 800, end=0.2
    ),
    "imagenet64_compact": published(
        "imagenet64_compact", IMAGENET64, efficient_vdvae_imagenet64("compact"), 32, 800_000, 800, end=0.2
    ),
    "celeba64": published("celeba64", CELEB_A64, efficient_vdvae_celeba64(), 16, 800_000, 800),
    "celeba64_compact": published("celeba64_compact", CELEB_A64, efficient_vdvae_celeba64("compact"), 16, 800_000, 800),
    "faces256": published("faces256", FACES256, efficient_vdvae_faces256(), 8, 900_000, 500),
    "faces256_compact": published("faces256_compact", FACES256, efficient_vdvae_faces256("compact"), 8, 900_000, 500),
    "faces256_5_bits": published(
        "faces256_5_bits", FACES256_5_BITS, efficient_vdvae_faces256_5_bits(), 16, 900_000, 1000, clip=20
    ),
    "faces256_5_bits_c1": published(
        "faces256_5_bits_c1", FACES256_5_BITS, efficient_vdvae_faces256_5_bits("C1"), 16, 900_000, 1000, clip=20
    ),
    "faces1024": published("faces1024", FACES1024, efficient_vdvae_faces1024(), 8, 900_000, 1200, clip=300),
}
