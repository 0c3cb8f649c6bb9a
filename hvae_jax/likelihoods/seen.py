"""p(x | z) where only some elements of x are seen: the probability of those, and draws of the others given them.

    log p(x_seen | z) = log sum over x_missing of p(x_seen, x_missing | z)        x_missing ~ p(x_missing | x_seen, z)

Where the elements of x are independent given z, the first is a sum over the seen elements and the second a draw of the
others alone, which the functions here do for any record. A record whose elements depend on each other has methods of
its own (`Partial`), and its family refuses, by `Likelihood.check_seen`, what has no closed form.
"""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hvae_jax.distributions import sum_event
from hvae_jax.likelihoods.base import Likelihood


@runtime_checkable
class Partial(Protocol):
    """A record that knows p(x_seen | z) and p(x_missing | x_seen, z), though its elements are not independent."""

    def log_prob_seen(self, x: Array, seen: Array) -> Array:
        """log p(x_seen | z), `[B]`, nats; arguments as in the function of this name."""
        ...

    def fill(self, x: Array, seen: Array, key: Array) -> Array:
        """x with a draw from p(x_missing | x_seen, z) where it is not seen."""
        ...


def log_prob_seen(record: Any, x: Array, seen: Array) -> Array:
    """log p(x_seen | z), `[B]`, nats; 0 where nothing is seen.

    Args:
      record: p(x | z).
      x: `[B, *event]`; what is not seen has to be a possible value (`possible_value`), which changes no result: beside
        an impossible one the gradient would be NaN.
      seen: bool `[B, *event]`, of a pattern that the family allows (`Likelihood.check_seen`).
    Raises ValueError for a record without one set of parameters for each element.
    """
    if isinstance(record, Partial):
        return record.log_prob_seen(x, seen)
    return sum_event(jnp.where(seen, elementwise(record, x), 0.0))


def fill(record: Any, x: Array, seen: Array, key: Array) -> Array:
    """x with a draw from p(x_missing | x_seen, z) where it is not seen, in the dtype of x; arguments as above."""
    if isinstance(record, Partial):
        return record.fill(x, seen, key)
    return jnp.where(seen, x, record.sample(key).astype(x.dtype))


def elementwise(record: Any, x: Array) -> Array:
    """log p(x_i | z) of each element, `[B, *event]`, nats, for a record whose elements are independent given z.

    Each element becomes an example of its own, so that a record needs no second formula.

    Raises ValueError for a record with arrays that do not begin with the shape of x.
    """
    shape = x.shape
    for leaf in jax.tree.leaves(record):
        if leaf.shape[: len(shape)] != shape:
            raise ValueError(
                f"{type(record).__name__} has parameters of shape {leaf.shape} for x of shape {shape}: not one set for "
                "each element. A record whose elements share parameters needs log_prob_seen and fill "
                "(likelihoods.Partial)."
            )
    single = jax.tree.map(lambda leaf: leaf.reshape(-1, 1, *leaf.shape[len(shape) :]), record)  # [B D, 1, ...]
    return single.log_prob(x.reshape(-1, 1)).reshape(shape)


def possible_value(family: Likelihood | None) -> float:
    """A value that every element can take: the middle of the range; 0 without a range.

    It is rounded down in a range wider than 1, and where the family refuses it, as `Categorical(2)` does one half. Of a
    range with one end, 1 from that end.
    """
    if family is None or family.value_range is None:
        return 0.0
    low, high = family.value_range
    if not np.isfinite([low, high]).all():
        return low + 1.0 if np.isfinite(low) else high - 1.0 if np.isfinite(high) else 0.0
    middle = (low + high) / 2
    return float(np.floor(middle)) if high - low > 1.0 or not _allows(family, middle) else middle


def _allows(family: Likelihood, value: float) -> bool:
    """Whether an element can have the value."""
    try:
        family.check(np.full((1, family.channels), value))
    except ValueError:
        return False
    return True


def check_in_order(seen: np.ndarray, owner: str, unit: str, remedy: str, name: str = "seen") -> None:
    """Raises ValueError if an element is seen though one before it in the order is not.

    Args:
      seen: bool `[..., D]`, in the order of the elements.
      unit: what has the order, in words.
    """
    bad = (seen[..., 1:] & ~seen[..., :-1]).any(-1)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{name}: {owner} takes {unit} one after the other, so that p(x_seen | z) has a closed form only if all "
            f"that is missing comes last, but at index {where} something is seen behind what is missing. {remedy}"
        )
