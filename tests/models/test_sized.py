"""Deep models of another size: stages, levels and parameters; what cannot be built."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from hvae_jax import recipes
from hvae_jax.data import Split
from hvae_jax.experiment import abstract_state
from hvae_jax.models import NVAE, TopDownVAE, resized, vdvae_cifar10
from hvae_jax.models.sized import described, halved, spread
from hvae_jax.trace import level_names


def test_the_published_top_down_path() -> None:
    """Width 384 and depth 43 at side 32 are those of VDVAE's model for CIFAR-10."""
    model = vdvae_cifar10()
    assert resized(model).downs == model.downs
    assert resized(recipes.experiment_of("vdvae", "cifar10_small").model, width=384, depth=43).downs == model.downs
    assert described(model) == "1 at 1x1, 3 at 4x4, 6 at 8x8, 11 at 16x16, 22 at 32x32"


@pytest.mark.parametrize(
    ("side", "sides"),
    [(32, (32, 16, 8, 4, 1)), (28, (28, 14, 7, 1)), (8, (8, 4, 1)), (40, (40, 20, 10, 5, 1)), (3, (3, 1))],
)
def test_sides(side: int, sides: tuple[int, ...]) -> None:
    assert halved(side, and_one=True) == sides
    assert halved(side) == sides[:-1]


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_levels_are_spread(count: int) -> None:
    """All of them, one at least a side, never more at a coarser side than at a finer one."""
    sides = tuple(2**i for i in reversed(range(count)))
    for depth in range(count, 90):
        counts = list(spread(depth, sides).values())
        assert sum(counts) == depth and min(counts) >= 1 and counts == sorted(counts, reverse=True)
    with pytest.raises(ValueError, match=f"too few for {count} resolutions"):
        spread(count - 1, sides)


@pytest.mark.parametrize(
    ("recipe", "preset", "width", "depth"),
    [
        ("vdvae", "mnist", 8, 4),
        pytest.param("efficient_vdvae", "digits", 8, 7, marks=pytest.mark.slow),
        pytest.param("nvae", "cifar10_small", 4, 5, marks=pytest.mark.slow),
    ],
)
def test_what_is_built_fits(recipe: str, preset: str, width: int, depth: int) -> None:
    """The state follows from shapes; as many levels as asked for; nothing else of the model changes."""
    experiment = recipes.experiment_of(recipe, preset)
    model: Any = resized(experiment.model, side=16, width=width, depth=max(depth, 4))
    image = (16, 16, experiment.model.image[2])
    assert model.image == image and model.likelihood == experiment.model.likelihood and resized(model) == model
    data = Split(np.zeros((2, *image), np.uint8))
    state = abstract_state(dataclasses.replace(experiment, model=model), data)
    assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) > 1000
    assert len(level_names(model, data)) == model.num_levels == depth


def test_nvae_keeps_its_halvings() -> None:
    """Groups lie at the sides that the first halvings leave, and at their halves."""
    small = recipes.experiment_of("nvae", "cifar10_small").model
    assert isinstance(small, NVAE)
    assert resized(small, side=32, width=48, depth=15).groups == (2, 4, 9)
    padded = recipes.experiment_of("nvae", "mnist_small").model
    assert resized(padded, depth=9).groups == (3, 6) and resized(padded, depth=9).image == (28, 28, 1)
    with pytest.raises(ValueError, match="cannot be halved 2 times: take a multiple of 4"):
        resized(padded, side=30)


@pytest.mark.parametrize(
    ("size", "match"),
    [
        ({"side": 30}, "30 cannot be halved to 8 pixels or fewer: take 24 or 32"),
        ({"side": 1}, "1 cannot be halved"),
        ({"depth": 3}, "A depth of 3 is too few for 5 resolutions .32, 16, 8, 4, 1 pixels."),
        ({"width": 2}, "width is 2"),
    ],
)
def test_bad_sizes(size: dict[str, int], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        resized(recipes.experiment_of("vdvae", "cifar10_small").model, **size)


def test_other_models_have_no_stages() -> None:
    with pytest.raises(ValueError, match="TopDownVAE has no stages to build"):
        resized(TopDownVAE(), depth=3)
