"""Latents in bins of equal mass under a Gaussian, the grid: where the prior is the grid, its code is uniform and exact.

With K = 2^b bins, edges e_i = Phi^-1(i/K) and centres c_i = Phi^-1((i + 1/2)/K) in units of the grid N(m, s^2),

    z = m + s c_i          q(bin i) = Phi((m + s e_{i+1} - m_q)/s_q) - Phi((m + s e_i - m_q)/s_q).

Source: Townsend et al. (2019), section 2.5.1; Townsend et al. (2020), section 3.
"""

import dataclasses
import functools

import numpy as np
from scipy.special import ndtr, ndtri

from hvae_jax.codec.halving import Halving


@functools.cache
def edges(bits: int) -> np.ndarray:
    """Edges of 2^bits bins of equal mass under N(0, 1), from -inf to inf, `[2^bits + 1]`."""
    return ndtri(np.arange((1 << bits) + 1) / (1 << bits))


@functools.cache
def centres(bits: int) -> np.ndarray:
    """The median of each bin, `[2^bits]`."""
    return ndtri((np.arange(1 << bits) + 0.5) / (1 << bits))


@dataclasses.dataclass(frozen=True)
class Gaussians:
    """Means and log standard deviations of n examples, `[n, *event]` float32 as a model computed them."""

    mean: np.ndarray
    log_std: np.ndarray

    @property
    def std(self) -> np.ndarray:
        """Standard deviations in float64."""
        return np.exp(self.log_std.astype(np.float64))

    def repeated(self, count: int) -> "Gaussians":
        """The same Gaussians for each of `count` examples, where these are of one, `[*event]`."""
        shape = (count, *self.mean.shape)
        return Gaussians(np.broadcast_to(self.mean, shape), np.broadcast_to(self.log_std, shape))


@dataclasses.dataclass(frozen=True)
class Bins:
    """The bins of one level's latents.

    Attributes:
      grid: the Gaussians whose mass is the same in each bin.
      bits: b, of 2^b bins.
    """

    grid: Gaussians
    bits: int

    def cells(self, dist: Gaussians) -> Halving:
        """The probabilities of the bins under other Gaussians, for all latents in one row."""
        scale = self.grid.std / dist.std
        offset = (self.grid.mean.astype(np.float64) - dist.mean) / dist.std
        scale, offset, table = scale.ravel(), offset.ravel(), edges(self.bits)

        def tails(edge: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            at = table[edge] * scale + offset
            outer = ndtr(-np.abs(at))  # the smaller tail
            below = at < 0.0
            return np.where(below, outer, 1.0 - outer)[:, None], np.where(below, 1.0 - outer, outer)[:, None]

        return Halving(tails, offset.size, 1 << self.bits)

    def z(self, numbers: np.ndarray) -> np.ndarray:
        """The latents of bins `[n * event]`: their medians under the grid, `[n, *event]` float32."""
        middle = centres(self.bits)[numbers].reshape(self.grid.mean.shape)
        return (self.grid.mean + self.grid.std * middle).astype(np.float32)
