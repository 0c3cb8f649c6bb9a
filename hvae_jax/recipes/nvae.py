"""NVAE, a deep hierarchy of residual cells with batch norm (Vahdat & Kautz, 2020).

    hvae train nvae                         # digits: 5 groups, minutes on two cores
    hvae train nvae --preset mnist_small    # 6 groups, binary images
    hvae train nvae --preset cifar10_small  # 9 groups
    hvae train nvae --preset cifar10        # 30 groups with flows, as published; also mnist (15),
                                            # celeba64 (35), imagenet32 (28), celeba_hq256 and
                                            # ffhq256 (36)
    hvae train nvae --preset ffhq256 --data.name FOLDER_OF_IMAGES
    hvae train nvae --preset cifar10_small --data.name FOLDER --side 64 --width 16 --depth 12  # a size of your own

Presets train as the public code does: Adamax with an L2 term added to the gradients; a learning rate of 1e-2 at the
published batch size, rising over five epochs and falling as a cosine to a hundredth; over the first 30% of training the
weight of the KL rises to 1 while the levels are balanced and the spectral regularisation falls to its final lambda. A
batch other than the published one takes a learning rate in proportion. The loss is in nats per image, so that lambda is
too; what is reported is the ELBO, without any of these terms.

Published, nats or bits per dimension: MNIST 78.01 (dynamic binarisation), CIFAR-10 2.91, CelebA 64 2.03, ImageNet 32
3.92 (the older data set of this name), CelebA-HQ 0.70 and FFHQ 0.69 at 5 bits.

On a TPU or a GPU a run begins with `--model.dtype bfloat16`, `--model.kept products` and `--model.unroll 1`, and says
so; each of these flags, given by hand, has its way. `--model.remat` takes less memory still, and more time.
"""

from hvae_jax.experiment import Data, Evaluation, Experiment, Training
from hvae_jax.models import (
    NVAE,
    nvae_celeba64,
    nvae_cifar10,
    nvae_cifar10_small,
    nvae_digits,
    nvae_faces256,
    nvae_imagenet32,
    nvae_mnist,
    nvae_mnist_small,
)
from hvae_jax.objectives import Cosine, Geometric, Linear, NVAEBalance, Product, Regularised, SpectralRegularised
from hvae_jax.training import Adamax


def objective(steps: int, weight: float, first_weight: float | None = None) -> SpectralRegularised:
    """The published loss over so many steps; lambda falls from `first_weight`, where it is given, to `weight`."""
    warm_up = Linear(1e-4 * steps, 0.3001 * steps, floor=1e-4)
    base = Regularised(warm_up=warm_up, balance=NVAEBalance())
    return SpectralRegularised(base, Geometric(warm_up, first_weight or weight, weight))


def published(
    name: str,
    data: Data,
    model: NVAE,
    examples: int,
    batch: int,
    epochs: int,
    weight: float,
    first_weight: float | None = None,
    rate: float = 1e-2,
    rising: int = 5,
    trained: int | None = None,
) -> Experiment:
    """The published training of a model.

    Args:
      examples, batch, epochs: size of the train split, examples per step over all devices, passes over the data.
      weight, first_weight: as `objective` takes them.
      rate, rising: learning rate, and the epochs over which it rises.
      trained: size of our train split, without the validation split; `examples` by default. The schedules are those
        of the published number of steps, and a run of these epochs ends that much earlier.
    """
    per_epoch = -(-examples // batch)
    steps = epochs * per_epoch
    schedule = Product((Linear(-1, rising * per_epoch - 1), Cosine(rising * per_epoch, steps, initial=1.0, final=0.01)))
    return Experiment(
        name=f"nvae_{name}",
        data=data,
        model=model,
        objective=objective(steps, weight, first_weight),
        optimiser=Adamax(learning_rate=rate, eps=1e-3, weight_decay=3e-4, schedule=schedule),
        training=Training(
            batch_size=batch,
            epochs=epochs,
            schedule_steps=epochs * -(-(trained or examples) // batch),
            select="last",
            per_dispatch=20,
            validation_size=batch,
        ),
        evaluation=Evaluation(draws=1, other_draws=1, chunk=1, size=batch, train_examples=1000),
    )


def small(name: str, data: Data, model: NVAE, steps: int, batch: int, dispatch: int) -> Experiment:
    """A training for two cores."""
    schedule = Product((Linear(-1, 99), Cosine(100, steps, initial=1.0, final=0.01)))
    return Experiment(
        name=f"nvae_{name}",
        data=data,
        model=model,
        objective=objective(steps, 1e-2),
        optimiser=Adamax(learning_rate=1e-2, eps=1e-3, weight_decay=3e-4, schedule=schedule),
        training=Training(
            batch_size=batch, epochs=steps, steps=steps, schedule_steps=steps, patience=steps, per_dispatch=dispatch
        ),
        evaluation=Evaluation(draws=10, other_draws=2, chunk=1, size=200, train_examples=500),
    )


# Products in bfloat16, and of groups and cells little more than these stored; loops, which run as fast there as blocks
# that are written out.
on_accelerators = {"dtype": "bfloat16", "kept": "products", "unroll": 1}

presets = {
    "digits": small("digits", Data("digits"), nvae_digits(unroll=3), steps=3_200, batch=32, dispatch=32),
    "mnist_small": small(
        "mnist_small", Data("binarized_mnist"), nvae_mnist_small(unroll=4), steps=3_000, batch=64, dispatch=20
    ),
    "cifar10_small": small(
        "cifar10_small", Data("cifar10"), nvae_cifar10_small(unroll=4), steps=7_000, batch=16, dispatch=20
    ),
    "mnist": published(
        "mnist",
        Data("mnist", binarise="dynamic"),
        nvae_mnist(),
        examples=60_000,
        batch=400,
        epochs=400,
        weight=1e-2,
        trained=50_000,
    ),
    "cifar10": published(
        "cifar10",
        Data("cifar10", flip=True),
        nvae_cifar10(),
        examples=50_000,
        batch=256,
        epochs=400,
        weight=1e-2,
        trained=45_000,
    ),
    "celeba64": published(
        "celeba64", Data("celeb_a64", flip=True), nvae_celeba64(), examples=162_770, batch=128, epochs=90, weight=1e-1
    ),
    "imagenet32": published(
        "imagenet32",
        Data("downsampled_imagenet32", flip=True),
        nvae_imagenet32(),
        examples=1_281_149,
        batch=576,
        epochs=45,
        weight=1e-2,
        first_weight=1.0,
        rising=1,
        trained=1_276_149,
    ),
    "celeba_hq256": published(
        "celeba_hq256",
        Data("faces", size=256, bits=5, flip=True),
        nvae_faces256(),
        examples=27_000,
        batch=96,
        epochs=300,
        weight=1e-2,
        first_weight=1.0,
    ),
    "ffhq256": published(
        "ffhq256",
        Data("ffhq", size=256, bits=5, flip=True),
        nvae_faces256(),
        examples=63_000,
        batch=96,
        epochs=200,
        weight=1e-1,
        first_weight=1.0,
        rate=8e-3,
    ),
}
