"""How the output of a layer becomes the scale of a distribution."""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from hvae_jax.records import checked


def log_softplus(a: Float[Array, "..."]) -> Float[Array, "..."]:
    """log log(1 + e^a), the logarithm of a softplus scale, also where the softplus itself underflows."""
    far = a < -15.0
    # Far below 0, log(1 + u) = u - u^2/2 with u = e^a gives a - e^a/2. Each branch is kept finite where it is not
    # taken, or its gradient would be NaN.
    below, near = jnp.where(far, a, 0.0), jnp.where(far, 0.0, a)
    return jnp.where(far, below - 0.5 * jnp.exp(below), jnp.log(jax.nn.softplus(near)))


@dataclasses.dataclass(frozen=True)
@checked
class ScaleHead:
    """How a layer's output a becomes the scale of a distribution.

    form                  meaning of a                         source
    "log_var"             log variance = a                     the article, BIVA's "none" and "clip"
    "softplus_log_var"    log variance = log(1 + e^a)          BIVA, vlievin/biva-pytorch
    "tanh_log_var"        log variance = tanh(a)               vlievin/biva-pytorch
    "softplus_var"        variance = log(1 + e^(1 + a)) + 1e-5 Soenderby et al. (2016)
    "log_std"             std = e^(beta a)                     VDVAE, beta = 1
    "softplus_std"        std = log(1 + e^(beta a))/beta       Efficient-VDVAE, beta = log 2

    Attributes:
      form: one of the above.
      beta: positive factor of a in "log_std" and "softplus_std"; the other forms do not use it.

    Raises ValueError for another form, or a beta that is not positive and finite.
    """

    form: Literal["log_var", "softplus_log_var", "tanh_log_var", "softplus_var", "log_std", "softplus_std"] = "log_var"
    beta: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise ValueError(f"ScaleHead(beta={self.beta}): it has to be positive and finite.")

    def log_std(self, a: Float[Array, "..."], clamp: tuple[float, float] | None = None) -> Float[Array, "..."]:
        """Computes the log standard deviation.

        `clamp` bounds the log standard deviation in the forms *_std, the log variance in the others.
        """
        match self.form:
            case "log_std":
                return _within(self.beta * a, clamp)
            case "softplus_std":
                return _within(log_softplus(self.beta * a) - math.log(self.beta), clamp)
            case "softplus_log_var":
                a = jax.nn.softplus(a)
            case "tanh_log_var":
                a = jnp.tanh(a)
            case "softplus_var":
                a = jnp.log(jax.nn.softplus(1.0 + a) + 1e-5)
        return 0.5 * _within(a, clamp)


def _within(values: Float[Array, "..."], clamp: tuple[float, float] | None) -> Float[Array, "..."]:
    """Clamps the values; None leaves them as they are."""
    return values if clamp is None else jnp.clip(values, *clamp)
