"""Codes of whole numbers by halving: one decision for each binary digit, from the most significant one.

A number k in 0..V-1 with V <= 2^b is b decisions. Each asks whether k lies in the upper half of the cell that the
decisions before it left, and its probability is a ratio of two masses of the cell's halves,

    P(upper) = mass(mid, high)/(mass(low, mid) + mass(mid, high)),

so that a distribution over 65,536 bins takes 16 evaluations of its distribution function instead of 65,537, in either
direction. A mass is a difference of distribution functions F or of their complements S = 1 - F, whichever is small,
which does not cancel in the tails. Everything is float64 on the host.
"""

from collections.abc import Callable

import numpy as np

Tails = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""A function of edges `[n]`, whole numbers 0..V, that returns F and 1 - F below each edge, `[n, M]` each."""


class Halving:
    """The cells of n numbers that are being coded, halved by each decision.

    Attributes:
      bits: number of decisions, b.
    """

    def __init__(
        self, tails: Tails, count: int, values: int, weights: np.ndarray | None = None, added: float = 0.0
    ) -> None:
        """Begin with the cell of all values.

        Args:
          tails: the distribution functions of the M components, 0 at edge 0 and 1 at edge V.
          count: how many numbers there are, n.
          values: V, 2 or more.
          weights: of the components, `[n, M]`; None for one component.
          added: number that is added to the probability of each value.
        """
        self.bits = max(1, (values - 1).bit_length())
        self._tails, self._values, self._weights, self._added = tails, values, weights, added
        self._low = np.zeros(count, np.int64)
        self._width = 1 << self.bits
        self._at_low, self._at_high = tails(self._low), tails(np.full(count, values, np.int64))
        self._at_middle = self._at_low

    def upper(self) -> np.ndarray:
        """P(the number lies in the upper half of its cell), `[n]`; 1/2 where neither half has mass."""
        middle, high = self._low + self._width // 2, self._low + self._width
        self._at_middle = self._tails(np.minimum(middle, self._values))
        left = self._mass(self._at_low, self._at_middle, self._low, middle)
        right = self._mass(self._at_middle, self._at_high, middle, high)
        total = left + right
        return np.divide(right, total, out=np.full_like(total, 0.5), where=total > 0.0)

    def go(self, upper: np.ndarray) -> None:
        """Keep the upper or the lower half of each cell, after `upper` has been asked for."""
        self._width //= 2
        self._low = self._low + upper.astype(np.int64) * self._width
        chosen = upper.astype(bool)[:, None]
        lows = zip(self._at_middle, self._at_low, strict=True)
        highs = zip(self._at_high, self._at_middle, strict=True)
        first, second = (np.where(chosen, middle, low) for middle, low in lows)
        third, fourth = (np.where(chosen, high, middle) for high, middle in highs)
        self._at_low, self._at_high = (first, second), (third, fourth)

    @property
    def found(self) -> np.ndarray:
        """The numbers, int64 `[n]`, once all decisions are taken."""
        return self._low

    def _mass(
        self,
        at_low: tuple[np.ndarray, np.ndarray],
        at_high: tuple[np.ndarray, np.ndarray],
        low: np.ndarray,
        high: np.ndarray,
    ) -> np.ndarray:
        """Probability of each cell, `[n]`."""
        below = at_low[0] < 0.5
        each = np.where(below, at_high[0] - at_low[0], at_low[1] - at_high[1])
        mass = np.maximum(each, 0.0)
        mass = mass[:, 0] if self._weights is None else (self._weights * mass).sum(-1)
        if self._added:
            held = np.minimum(high, self._values) - np.minimum(low, self._values)
            mass = mass + self._added * held
        return mass
