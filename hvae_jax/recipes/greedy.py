"""The Greedy Hierarchical VAE: modules trained one after the other, of images and of the next frame of a clip.

    hvae train greedy                                 # digits, two modules in two stages: minutes
    hvae train greedy --preset digits_joint           # the same model, all modules at once
    hvae train greedy --preset moving_digits          # three frames in, the next one out
    hvae train greedy --preset moving_digits_actions  # the prior knows the push before that frame
    hvae train greedy --preset mnist_small            # static MNIST, two modules
    hvae train greedy --stages 800:trains=module1:modules=1 800:trains=module2  # other stages

A stage trains one module; those before it are frozen, and have neither gradient nor optimiser state. Stages are words,
STEPS:trains=PATHS:frozen=PATHS:modules=N, and any model can be trained in stages. A run that is killed in its second
stage goes on there.

`moving_digits`: -ELBO is of whole clips. The rate of "past" is -log p of the first three frames, so that -ELBO less
this rate bounds the last frame's -log p given the others. reconstructions.png keeps the past and shows the last frame
of three kinds: with z inferred, and with z from its prior, which is the prediction.
docs/results/greedy.md has the numbers to expect, greedy against joint.

Wu et al. (2021) train six modules on robots' videos, and report FVD, which needs a network's weights: it is left out.
"""

import dataclasses

from hvae_jax.experiment import Data, Evaluation, Experiment, Training
from hvae_jax.likelihoods import Bernoulli, Categorical
from hvae_jax.models import GreedyVAE
from hvae_jax.training import Adamax, Stage


def greedy(modules: int, steps: int) -> tuple[Stage, ...]:
    """One stage for each module, of so many steps; what is not in a module is trained in the first."""
    first = Stage(steps, frozen=tuple(f"module{k}" for k in range(2, modules + 1)), modules=1)
    return first, *(Stage(steps, trains=(f"module{k}",), modules=k) for k in range(2, modules + 1))


def jointly(experiment: Experiment, name: str) -> Experiment:
    """The same model, trained as a whole for as many steps in all."""
    steps = sum(stage.steps for stage in experiment.training.stages)
    training = dataclasses.replace(experiment.training, stages=(), steps=steps)
    return dataclasses.replace(experiment, name=name, training=training)


# one step a dispatch: convolutions are slow in loops on CPUs, and compiling several steps takes longer than they save
TRAINING = Training(batch_size=64, epochs=1000, patience=1000, per_dispatch=1, validate_every=80)
MEASURED = Evaluation(draws=100, other_draws=10, chunk=5, size=200, train_examples=1000)

digits = Experiment(
    name="greedy_digits",
    data=Data("digits"),
    model=GreedyVAE((8, 8, 1), modules=2, likelihood=Categorical(17)),
    optimiser=Adamax(learning_rate=2e-3),
    training=dataclasses.replace(TRAINING, stages=greedy(2, 800)),
    evaluation=MEASURED,
)
moving_digits = Experiment(
    name="greedy_moving_digits",
    data=Data("moving_digits"),
    model=GreedyVAE((16, 64, 1), frames=4, modules=2, likelihood=Categorical(17)),
    optimiser=Adamax(learning_rate=2e-3),
    training=dataclasses.replace(TRAINING, validate_every=125, stages=greedy(2, 1000)),
    evaluation=dataclasses.replace(MEASURED, draws=20, other_draws=2, train_examples=500),
)
presets = {
    "digits": digits,
    "digits_joint": jointly(digits, "greedy_digits_joint"),
    "moving_digits": moving_digits,
    "moving_digits_joint": jointly(moving_digits, "greedy_moving_digits_joint"),
    "moving_digits_actions": dataclasses.replace(
        moving_digits, name="greedy_moving_digits_actions", model=moving_digits.model.clone(classes=5)
    ),
    "mnist_small": Experiment(
        name="greedy_mnist_small",
        data=Data("binarized_mnist"),
        model=GreedyVAE((28, 28, 1), modules=2, latents=2, likelihood=Bernoulli()),
        optimiser=Adamax(learning_rate=2e-3),
        training=dataclasses.replace(TRAINING, validate_every=400, stages=greedy(2, 2000)),
        evaluation=dataclasses.replace(MEASURED, draws=10, other_draws=2),
    ),
}
