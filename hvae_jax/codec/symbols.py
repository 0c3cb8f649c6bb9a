"""How the elements of x become whole numbers on the stack: a `Halving` of p(x | z) for each likelihood.

A `Pixels` codes x in parts, each given those before it: all elements at once where they are independent given z, colour
by colour in a mixture, element by element in a PixelCNN.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from scipy.special import expit

from hvae_jax.codec.halving import Halving, Tails
from hvae_jax.likelihoods import (
    Bernoulli,
    BernoulliRecord,
    Categorical,
    CategoricalRecord,
    DiscretisedLogistic,
    DiscretisedLogisticRecord,
    Likelihood,
    LogisticMixture,
    LogisticMixtureRecord,
    NegativeBinomial,
    PixelCNN,
    PixelCNNRecord,
    Poisson,
    Quantised,
)

Conditionals = Callable[[np.ndarray, int], Any]
"""A function of x `[n, D]` and the index of an element that returns the element's record, `[n, 1]`, by a PixelCNN."""


@runtime_checkable
class Pixels(Protocol):
    """p(x | z) of a batch, as numbers on the stack."""

    @property
    def parts(self) -> int:
        """Number of parts that are coded one after the other."""
        ...

    def elements(self, part: int) -> slice:
        """The part's elements in x as `[n, D]`, D elements in the order of rows, columns and channels."""
        ...

    def cells(self, part: int, x: np.ndarray) -> Halving:
        """The probabilities of a part's elements, given x `[n, D]`, of which only earlier parts are read."""
        ...


def check_discrete(likelihood: Likelihood | None) -> None:
    """Raises ValueError, saying what is served, for a likelihood that gives no whole number a probability."""
    served = "Bernoulli, Categorical, DiscretisedLogistic, LogisticMixture, and PixelCNN over one of them"
    family = likelihood.base if isinstance(likelihood, PixelCNN) else likelihood
    if isinstance(family, Quantised):
        raise ValueError(f"{family} models the leading bits of x alone, so that x cannot be coded without loss.")
    if isinstance(family, LogisticMixture) and family.form.endswith("5_bits"):
        raise ValueError(
            f"LogisticMixture(form={family.form!r}): its bins overlap, so that its probabilities are no code. Take "
            "form='exact'."
        )
    if isinstance(family, NegativeBinomial | Poisson):
        raise ValueError(f"{family} has counts without a largest one, for which there is no code here: {served} have.")
    if not isinstance(family, Bernoulli | Categorical | DiscretisedLogistic | LogisticMixture):
        what = "a likelihood of its own" if family is None else str(family)
        raise ValueError(f"The model's likelihood is {what}, but lossless coding needs a discrete one: {served}.")


def check_values(likelihood: Likelihood, x: np.ndarray, name: str = "x") -> None:
    """Raises ValueError for missing values, values that the likelihood does not have, and what is no whole number."""
    if x.dtype == object or x.dtype.kind not in "biuf":
        raise ValueError(f"{name} has dtype {x.dtype}, but whole numbers are needed.")
    if x.dtype.kind == "f" and np.isnan(x).any():
        some = int(np.isnan(x.reshape(len(x), -1)).any(1).sum())
        raise ValueError(
            f"{name} has missing values, NaN, in {some:,} of {len(x):,} images: they have no code. Fill them in, as "
            "`hvae inpaint RUN --mask missing` does, or leave these images out."
        )
    likelihood.check(x, name)
    if (x != np.floor(x)).any():
        raise ValueError(f"{name} holds values that are no whole numbers, which have no code: round them.")


def pixels_of(record: Any, conditionals: Conditionals) -> Pixels:
    """The code of p(x | z).

    Args:
      record: what a likelihood after `check_discrete` made of the network's output, NumPy arrays of n examples.
      conditionals: for a PixelCNN.
    """
    if isinstance(record, PixelCNNRecord):
        return _OneByOne(record, conditionals)
    if isinstance(record, LogisticMixtureRecord):
        return _Colours(record)
    return _AtOnce(record)


class _AtOnce:
    """Elements that are independent given z: one part."""

    parts = 1

    def __init__(self, record: Any) -> None:
        self._record = record

    def elements(self, part: int) -> slice:
        """All elements."""
        return slice(None)

    def cells(self, part: int, x: np.ndarray) -> Halving:
        """The probabilities of all elements."""
        return _independent(self._record)


class _OneByOne:
    """Elements of a PixelCNN, a part each.

    The network runs for each element, with zeros in place of those after it, in either direction: its numbers are then
    the same whatever a convolution's algorithm makes of elements that it should not see.
    """

    def __init__(self, record: PixelCNNRecord, conditionals: Conditionals) -> None:
        self.parts = int(np.prod(record.context.shape[1:-1]))
        self._conditionals = conditionals

    def elements(self, part: int) -> slice:
        """The element with this index."""
        return slice(part, part + 1)

    def cells(self, part: int, x: np.ndarray) -> Halving:
        """The probabilities of the element given those before it."""
        seen = x.copy()
        seen[:, part:] = 0
        return pixels_of(self._conditionals(seen, part), self._conditionals).cells(0, x)


class _Colours:
    """Channels of a mixture, a part each: the second and third are shifted by those before them."""

    def __init__(self, record: LogisticMixtureRecord) -> None:
        family = record.family
        self.parts, self._values = family.channels, family.values
        self._logits, self._location, self._log_scale, self._coefficients = (
            np.asarray(leaf, np.float64)
            for leaf in (record.logits, record.location, record.log_scale, record.coefficients)
        )

    def elements(self, part: int) -> slice:
        """A channel of all pixels."""
        return slice(part, None, self.parts)

    def cells(self, part: int, x: np.ndarray) -> Halving:
        """The probabilities of a channel, with the components weighed by the channels before it."""
        # [n, *pixels, C]; with one channel x is not read, and may be more than this record is of
        colours = x.reshape(*self._logits.shape[:-1], self.parts) if part else x
        log_weights = self._logits - self._logits.max(-1, keepdims=True)
        seen: list[np.ndarray] = []
        for channel in range(part):
            value = colours[..., channel].astype(np.int64).ravel()
            low, high = (self._tails(channel, seen)(edge) for edge in (value, value + 1))
            mass = np.where(low[0] < 0.5, high[0] - low[0], low[1] - high[1]).reshape(log_weights.shape)
            with np.errstate(divide="ignore"):
                moved = log_weights + np.log(np.maximum(mass, 0.0))
            most = moved.max(-1, keepdims=True)
            # where no component has mass for the colour, each stays as likely as it was
            log_weights = np.where(np.isfinite(most), moved - np.where(np.isfinite(most), most, 0.0), log_weights)
            seen.append(2.0 * colours[..., channel, None] / (self._values - 1) - 1.0)
        weights = np.exp(log_weights)
        weights = (weights / weights.sum(-1, keepdims=True)).reshape(-1, weights.shape[-1])
        return Halving(self._tails(part, seen), len(weights), self._values, weights)

    def _tails(self, channel: int, seen: list[np.ndarray]) -> Tails:
        location = self._location[..., channel, :]
        for before, u in enumerate(seen):
            location = location + self._coefficients[..., channel * (channel - 1) // 2 + before, :] * u
        flat = location.reshape(-1, location.shape[-1])
        return _logistic_tails(flat, self._log_scale[..., channel, :].reshape(flat.shape), self._values)


def _independent(record: Any) -> Halving:
    """The cells of all elements of a record whose elements are independent."""
    if isinstance(record, BernoulliRecord):
        return _bernoulli(record)
    if isinstance(record, CategoricalRecord):
        return _categorical(record)
    assert isinstance(record, DiscretisedLogisticRecord)
    location, log_scale = (np.asarray(a, np.float64).reshape(-1, 1) for a in (record.location, record.log_scale))
    tails = _logistic_tails(location, log_scale, record.values)
    return Halving(tails, len(location), record.values, added=record.added)


def _bernoulli(record: BernoulliRecord) -> Halving:
    logits = np.asarray(record.logits, np.float64).reshape(-1, 1)
    least = record.min_probability
    one, zero = (np.clip(expit(sign * logits), least, 1.0 - least) for sign in (1.0, -1.0))

    def tails(edge: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        at = edge[:, None]
        return (
            np.choose(at, (np.zeros_like(zero), zero, np.ones_like(zero))),
            np.choose(at, (np.ones_like(one), one, np.zeros_like(one))),
        )

    return Halving(tails, len(logits), 2)


def _categorical(record: CategoricalRecord) -> Halving:
    logits = np.asarray(record.logits, np.float64)
    logits = logits.reshape(-1, logits.shape[-1])
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p = p / p.sum(-1, keepdims=True)
    if record.min_probability:
        p = np.clip(p, record.min_probability, 1.0 - record.min_probability)
        p = p / p.sum(-1, keepdims=True)
    nothing = np.zeros((len(p), 1))
    below = np.concatenate([nothing, np.cumsum(p, axis=-1)], axis=-1)  # [n, K + 1]
    above = np.concatenate([np.cumsum(p[:, ::-1], axis=-1)[:, ::-1], nothing], axis=-1)

    def tails(edge: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        at = edge[:, None]
        return np.take_along_axis(below, at, axis=-1), np.take_along_axis(above, at, axis=-1)

    return Halving(tails, len(p), p.shape[-1])


def _logistic_tails(location: np.ndarray, log_scale: np.ndarray, values: int) -> Tails:
    """Logistics `[n, M]` cut into the bins of `likelihoods.bins.Bins`: open at both ends."""
    inverse = np.exp(-log_scale)

    def tails(edge: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inner = (2.0 * edge - values) / (values - 1)
        at = np.where(edge <= 0, -np.inf, np.where(edge >= values, np.inf, inner))[:, None]
        scaled = (at - location) * inverse
        outer = np.exp(-np.abs(scaled))
        smaller = outer / (1.0 + outer)
        below = scaled < 0.0
        return np.where(below, smaller, 1.0 - smaller), np.where(below, 1.0 - smaller, smaller)

    return tails
