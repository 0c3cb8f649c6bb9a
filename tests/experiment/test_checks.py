"""Numbers that no machine could build are refused before anything is traced or allocated."""

import dataclasses
import warnings
from typing import Any

import jax
import numpy as np
import pytest

from hvae_jax.data import BINARY, Dataset, Split, integer
from hvae_jax.experiment import Devices, Evaluation, Experiment, Feeding, Training, abstract_state
from hvae_jax.experiment.checks import check_fits, check_numbers, check_state_fits
from hvae_jax.likelihoods import Categorical
from hvae_jax.models import ResNetVAE, TopDownVAE, vdvae_mnist

pytestmark = pytest.mark.leg

PLAIN = Experiment("plain", TopDownVAE(latents=(2, 3), hidden=4))
ONE = Split(np.zeros((1, 5), np.float32))
HUGE = 10**9


def with_model(**fields: Any) -> Experiment:
    """The experiment with other settings of its model."""
    return dataclasses.replace(PLAIN, model=TopDownVAE(**{"latents": (2, 3), "hidden": 4, **fields}))


@pytest.mark.parametrize(
    ("experiment", "path"),
    [
        (with_model(hidden=HUGE), "model.hidden"),
        (with_model(depth=HUGE), "model.depth"),
        (with_model(latents=(2, HUGE)), r"model.latents\[1\]"),
        (with_model(latents=(2,) * 2000), "model.latents has 2000 items"),
        (with_model(classes=HUGE), "model.classes"),
        (with_model(likelihood=Categorical(HUGE)), "model.likelihood.num_values"),
        (dataclasses.replace(PLAIN, model=ResNetVAE(blocks=(HUGE,))), r"model.blocks\[0\]"),
        (dataclasses.replace(PLAIN, training=Training(batch_size=10**12)), "training.batch_size"),
        (dataclasses.replace(PLAIN, training=Training(unroll=HUGE)), "training.unroll"),
        (dataclasses.replace(PLAIN, evaluation=Evaluation(draws=10**12)), "evaluation.draws"),
        (dataclasses.replace(PLAIN, feed=Feeding(workers=HUGE)), "feed.workers"),
        (dataclasses.replace(PLAIN, devices=Devices(count=10**12)), "devices.count"),
        (dataclasses.replace(PLAIN, seed=2**32), "seed"),  # JAX would take 0
        (dataclasses.replace(PLAIN, seed=-(2**40)), "seed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_numbers_beyond_any_machine(experiment: Experiment, path: str) -> None:
    """Also where a run is read: before the model is traced, which might take for ever."""
    for check in (check_numbers, lambda experiment: abstract_state(experiment, ONE)):
        with pytest.raises(ValueError, match=rf"{path}.* it can (be at|have at) (most|least)"):
            check(experiment)


def test_a_depth_that_takes_minutes_is_said_before() -> None:
    """A warning, since such a network may be what is wanted; none for usual depths."""
    with pytest.warns(UserWarning, match=r"model\.depth is 1000: .* minutes before the first step"):
        check_numbers(with_model(depth=1000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_numbers(with_model(depth=20))


def test_values_that_the_data_does_not_have() -> None:
    """A warning with the likelihood that fits; none where the numbers are close."""
    split = Split(np.arange(17, dtype=np.uint8).reshape(1, 17))
    data = Dataset("mine.npz", {"train": split, "validation": split}, integer(17), "made up")
    with pytest.warns(UserWarning, match=r"has 256 values, but those of mine\.npz are 17 .*categorical:17"):
        check_fits(TopDownVAE(latents=(2, 3), hidden=4, likelihood=Categorical(256)), data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_fits(TopDownVAE(latents=(2, 3), hidden=4, likelihood=Categorical(20)), data)


def test_a_grey_image_without_its_channel() -> None:
    """The error says how to add the axis."""
    split = Split(np.zeros((4, 28, 28), np.uint8))
    data = Dataset("mine.npz", {"train": split, "validation": split}, BINARY, "made up")
    with pytest.raises(ValueError, match=r"28x28x1, but .* are 28x28\. Grey .* channel, 28x28x1: save x\[\.\.\., None"):
        check_fits(vdvae_mnist(), data)


def test_limits_that_need_never_be_reached() -> None:
    """Steps and intervals may be as large as one likes."""
    training = Training(epochs=10**12, steps=10**12, patience=10**12, validate_every=10**12, save_every=10**12)
    check_numbers(dataclasses.replace(PLAIN, training=training, seed=2**32 - 1))


def test_a_state_larger_than_the_memory() -> None:
    """Weights and Adamax' two moments, mostly; they may be split over several devices."""
    state = abstract_state(with_model(hidden=20_000), ONE)
    weights = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    needed = 4 * 3 * weights
    with pytest.raises(ValueError, match=rf"{weights:,} parameters.* GiB, but a device has .*--devices\.fsdp"):
        check_state_fits(state, int(0.99 * needed), 1)
    check_state_fits(state, int(1.01 * needed), 1)
    check_state_fits(state, int(0.51 * needed), 2)
    with pytest.raises(ValueError, match=r"2 devices have .* Lower the model's sizes"):
        check_state_fits(state, int(0.49 * needed), 2)
