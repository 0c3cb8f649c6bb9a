"""Inverse autoregressive flows: posteriors beyond a diagonal Gaussian, in one pass one way.

With m and s at each element of z from the elements before it, and from a context that the encoder gives, a step is

    "gate"        z' = g z + (1 - g) m,  g = sigmoid(s + 1.5)          log |dz'/dz| = log g
    "mean_only"   z' = z + m                                           0
    "published"   z' = (z - 0.1 m)/exp(0.1 s)                          -0.1 s

elementwise, since the Jacobian is triangular. Forward is one pass of the network. The inverse has to know z_1 before
z_2: it starts anywhere and repeats the step's own inverse, z <- T(z; z'), which makes one more element right each time,
D passes at the most, and stops when a pass changes nothing. Its derivative is that of the solution, by the implicit
function theorem, and not of the way there.

Source: Kingma et al. (2016), section 4 and algorithm 1; "published" is what their code for CIFAR-10 computes.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from hvae_jax.descent import Flow
from hvae_jax.networks.computing import widen
from hvae_jax.networks.masked import MaskedLayers, check_order, evaluate
from hvae_jax.records import check_choices

StepForm = Literal["gate", "mean_only", "published"]

_OPEN = 1.5  # of the gate at s = 0: sigmoid(1.5) = 0.82 of z passes; the paper advises 1 to 2


def step(network: Callable[[Array], Array], form: StepForm) -> Flow:
    """One step, from a network that gives each element's m and s, or m alone for "mean_only", from those before it.

    Args:
      network: `[B, ..., C]` to `[B, ..., 2 C]`, m then s; to `[B, ..., C]` for "mean_only". Differentiable.
    """

    def terms(z: Array) -> tuple[Array, Array, Array]:
        """z' = a z + b and log a, elementwise: (b, a, log a)."""
        out = network(z)
        if form == "mean_only":
            return out, jnp.ones_like(z), jnp.zeros_like(z)
        m, s = jnp.split(out, 2, axis=-1)
        if form == "published":
            return -0.1 * m * jnp.exp(-0.1 * s), jnp.exp(-0.1 * s), -0.1 * s
        return jax.nn.sigmoid(-s - _OPEN) * m, jax.nn.sigmoid(s + _OPEN), jax.nn.log_sigmoid(s + _OPEN)

    def forward(z0: Array) -> tuple[Array, Array]:
        shift, scale, log_scale = terms(z0)
        return scale * z0 + shift, log_scale

    def inverse(z: Array) -> tuple[Array, Array]:
        def back(z0: Array) -> Array:
            shift, _, log_scale = terms(z0)
            return (z - shift) * jnp.exp(-log_scale)

        z0 = triangular_fixed_point(back, z)
        return z0, terms(z0)[2]

    return forward, inverse


def chain(flows: Sequence[Flow]) -> Flow:
    """One after the other: log-determinants add, elementwise."""

    def forward(z0: Array) -> tuple[Array, Array]:
        z, total = z0, jnp.zeros_like(z0)
        for one, _ in flows:
            z, log_det = one(z)
            total = total + log_det
        return z, total

    def inverse(z: Array) -> tuple[Array, Array]:
        z0, total = z, jnp.zeros_like(z)
        for _, one in reversed(flows):
            z0, log_det = one(z0)
            total = total + log_det
        return z0, total

    return forward, inverse


def triangular_fixed_point(function: Callable[[Array], Array], start: Array) -> Array:
    """The z of z = function(z), where each element of function(z) depends on elements before it alone, in some order.

    Exact after as many passes as an example has elements, D, or before that once nothing changes any more. What
    overflows on the way is set to 0. Derivatives, in whatever `function` closes over, solve the linear system of the
    same shape in the same way.
    """
    passes = start[0].size

    def solve(_: Callable[[Array], Array], guess: Array) -> Array:
        def again(state: tuple[Array, Array, Array]) -> Array:
            count, _, changed = state
            return changed & (count < passes)

        def once(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            count, z, _ = state
            new = function(z)
            new = jnp.where(jnp.isfinite(new), new, 0.0)
            return count + 1, new, (new != z).any()

        return jax.lax.while_loop(again, once, (jnp.int32(0), guess, jnp.bool_(True)))[1]

    def solve_linear(matvec: Callable[[Array], Array], b: Array) -> Array:
        """Of matvec = 1 - J, J nilpotent: x <- x + (b - matvec(x))."""
        tolerance = jnp.finfo(b.dtype).eps

        def again(state: tuple[Array, Array, Array]) -> Array:
            count, x, residual = state
            return (jnp.abs(residual).max() > tolerance * jnp.abs(x).max()) & (count < passes)

        def once(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            count, x, residual = state
            x = x + residual
            return count + 1, x, b - matvec(x)

        return jax.lax.while_loop(again, once, (jnp.int32(0), b, b - matvec(b)))[1]

    def tangent_solve(matvec: Callable[[Array], Array], b: Array) -> Array:
        return jax.lax.custom_linear_solve(matvec, b, solve_linear, transpose_solve=solve_linear)

    return jax.lax.custom_root(lambda z: z - function(z), jax.lax.stop_gradient(start), solve, tangent_solve)


class InverseAutoregressive(nn.Module):
    """Steps over a map, the order reversed between them: rows, columns and channels.

    Attributes:
      steps: how many.
      hidden: widths of the hidden layers of each step's network, multiples or divisors of z's channels.
      form: of the steps.
      size: of the kernels.

    Raises ValueError for no steps, another form, or widths that z's channels do not divide.
    """

    steps: int = 1
    hidden: tuple[int, ...] = (160, 160)
    form: StepForm = "gate"
    size: int = 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        super().__post_init__()
        if self.steps < 1:
            raise ValueError(f"InverseAutoregressive(steps={self.steps}): 1 or more.")
        check_choices(self)
        check_order("InverseAutoregressive", 1, self.hidden, self.size)

    @nn.compact
    def __call__(self, z: Float[Array, "b h w channels"], context: Float[Array, "b h w width"] | None) -> Flow:
        """The flow at a context of as many channels as the first hidden layer has.

        Args:
          z: a draw that the flow starts from: its channels, and at initialisation its values, decide the weights.
        """
        if context is not None and context.shape[-1] != self.hidden[0]:
            raise ValueError(
                f"InverseAutoregressive: the context has {context.shape[-1]} channels, but joins a hidden layer of "
                f"{self.hidden[0]}."
            )
        flows: list[Flow] = []
        for i in range(self.steps):
            odd = i % 2 == 1
            seen = None if context is None else widen(_turned(context, odd, channels=False))
            heads = 1 if self.form == "mean_only" else 2
            layers = MaskedLayers(self.hidden, heads, self.size, name=f"step_{i}")(_turned(z, odd), seen)

            def network(z: Array, layers: tuple = layers, seen: Array | None = seen, odd: bool = odd) -> Array:
                heads = jnp.split(
                    evaluate(layers, _turned(z, odd), seen), 1 if self.form == "mean_only" else 2, axis=-1
                )
                return jnp.concatenate([_turned(head, odd) for head in heads], axis=-1)

            flows.append(step(network, self.form))
            if self.is_initializing():
                z = flows[-1][0](z)[0]
        return chain(flows)


def _turned(x: Array, odd: bool, *, channels: bool = True) -> Array:
    """x in the opposite order of rows, columns and channels, if the step is an odd one."""
    return jnp.flip(x, (1, 2, 3) if channels else (1, 2)) if odd else x
