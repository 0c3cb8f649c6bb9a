"""The order of pops and pushes: all latents first with top-down inference, level by level where it may be."""

import pytest

from hvae_jax.codec.order import Dependencies, Operation, X, order_of


def dependencies(posteriors: list[set[int]], priors: list[set[int]], likelihood: set[int]) -> Dependencies:
    sets = [tuple(frozenset(one) for one in many) for many in (posteriors, priors)]
    return Dependencies(*sets, frozenset(likelihood))


def words(operations: tuple[Operation, ...]) -> str:
    """The order in short: -1 is level 1 popped, +x is x pushed."""
    return " ".join(f"{'-' if one.pops else '+'}{'x' if one.variable == X else one.variable}" for one in operations)


@pytest.mark.parametrize(
    ("posteriors", "likelihood", "expected", "by_prior"),
    [
        ([{X}, {0, X}, {0, 1, X}], {2}, "-0 -1 -2 +x +2 +1 +0", (True, True, True)),  # top-down inference
        ([{1}, {2}, {X}], {2}, "-2 +x -1 +2 -0 +1 +0", (True, False, False)),  # bottom-up: Bit-Swap
        ([{1, X}, {2, X}, {X}], {2}, "-2 -1 -0 +x +2 +1 +0", (True, False, False)),  # bottom-up, all read x
        ([{X}, {X}, {X}], {0, 1, 2}, "-0 -1 -2 +x +2 +1 +0", (True, True, True)),  # independent given x
    ],
)
def test_orders(posteriors: list[set[int]], likelihood: set[int], expected: str, by_prior: tuple[bool, ...]) -> None:
    """Levels of a chain z0 -> z1 -> z2 -> x."""
    order = order_of(dependencies(posteriors, [set(), {0}, {1}], likelihood), ("a", "b", "c"))
    assert words(order.operations) == expected
    assert order.by_prior == by_prior


def test_circles_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="posteriors of a, b depend"):
        order_of(dependencies([{1}, {0}], [set(), {0}], {1}), ("a", "b"))
    with pytest.raises(ValueError, match="priors of a, b depend"):
        order_of(dependencies([{X}, {X}], [{1}, {0}], {1}), ("a", "b"))
