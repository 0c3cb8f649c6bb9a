"""What families of a location and a scale share, as Gaussian, Laplace and Student's t."""

import abc

import numpy as np
from jax import Array

from hvae_jax.distributions import soft_clamp
from hvae_jax.likelihoods.base import Likelihood, check_bound, describe


class LocatedRecord:
    """A record whose `location` is mean and mode, with the whole gradient in its samples."""

    location: Array

    reparameterised = True

    @property
    def mean(self) -> Array:
        """The location."""
        return self.location

    @property
    def mode(self) -> Array:
        """The location."""
        return self.location


class LocationScale(Likelihood):
    """A family of real data: a location and the logarithm of a scale for each element."""

    @property
    @abc.abstractmethod
    def bound(self) -> float | None:
        """Bound of the logarithm, soft-clamped to (-bound, bound); None does not clamp it. A setting of the family."""

    def __post_init__(self) -> None:
        check_bound(self)

    @property
    def parameters(self) -> int:
        """Location and log scale."""
        return 2

    def location_and_log_scale(self, h: Array) -> tuple[Array, Array]:
        """The first two network outputs of each element, the second one clamped."""
        return h[..., 0], h[..., 1] if self.bound is None else soft_clamp(h[..., 1], self.bound)

    def check(self, x: np.ndarray, name: str = "x") -> None:
        """Raises ValueError for a value that is not finite."""
        bad = ~np.isfinite(x)
        if bad.any():
            family = type(self).__name__
            raise ValueError(f"{name} holds {describe(x, bad)}, but {family}() allows finite numbers only.")
