"""Flows: inverse autoregressive ones, posteriors richer than a diagonal Gaussian, and a Gaussian behind a network.

An autoregressive network computes m and s for each element of z from the elements before it and from a context, an
output of the encoder. The Jacobian of a step is triangular, so its log-determinant is a sum over elements:

    "gate"        z' = g z + (1 - g) m,  g = sigmoid(s + 1.5)          log |dz'/dz| = log g
    "mean_only"   z' = z + m                                           0
    "published"   z' = (z - 0.1 m)/exp(0.1 s)                          -0.1 s

The forward direction takes one pass of the network. The inverse needs z_1 before z_2: it starts from any point and
repeats the elementwise inverse of the step, z <- T^-1(z'; z), which makes one more element right each time. It is exact
after at most D passes, D the number of elements, and stops as soon as a pass changes nothing. Its derivative is that of
the solution, by the implicit function theorem, not of the iterations.

`FlowNormal` is a prior: a Gaussian seen through an invertible network, such as a RealNVP.

Source: Kingma et al. (2016), section 4 and algorithm 1; "published" is what their code for CIFAR-10 computes.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax import Array
from jaxtyping import Float, Key

from hvae_jax.descent import Flow
from hvae_jax.distributions import Normal, bounded, finite_exp, sum_event
from hvae_jax.networks.cells import CellStyle, LogNormConv
from hvae_jax.networks.computing import widen
from hvae_jax.networks.masked import MaskedLayers, apply_layers, check_order
from hvae_jax.networks.shift_network import EXPANSION, ShiftNetwork, ShiftWeights, shift
from hvae_jax.records import check_fields, check_sizes

StepForm = Literal["gate", "mean_only", "published"]

_OPEN = 1.5  # bias of the gate: at s = 0, sigmoid(1.5) = 0.82 of z passes; the paper advises 1 to 2


def autoregressive_step(network: Callable[[Array], Array], form: StepForm) -> Flow:
    """Make one step of the flow.

        "gate"        z' = g z + (1 - g) m,  g = sigmoid(s + 1.5)          log |dz'/dz| = log g
        "mean_only"   z' = z + m                                           0
        "published"   z' = (z - 0.1 m)/exp(0.1 s)                          -0.1 s

    Source: Kingma et al. (2016), section 4 and algorithm 1; "published" is what their code for CIFAR-10 computes.

    Args:
      network: function that computes m and s of each element from the elements before it, `[B, ..., C]` to
        `[B, ..., 2 C]`, m then s; for "mean_only" m alone, `[B, ..., C]`. Differentiable.
      form: form of the step, one of the above, where the second formula is log |dz'/dz|.

    Example:
        >>> before = lambda z: jnp.pad(z, ((0, 0), (1, 0)))[:, :-1]  # the element before, 0 at the start
        >>> step = hv.flows.autoregressive_step(before, "mean_only")
        >>> z, log_det = step.forward(jnp.ones((1, 3)))
        >>> print(z, log_det, step.inverse(z)[0])
        [[1. 2. 2.]] [[0. 0. 0.]] [[1. 1. 1.]]
    """

    def terms(z: Array) -> tuple[Array, Array, Array]:
        """b, a and log a of z' = a z + b, elementwise."""
        out = network(z)
        if form == "mean_only":
            return out, jnp.ones_like(z), jnp.zeros_like(z)
        m, s = jnp.split(out, 2, axis=-1)
        if form == "published":
            scale = finite_exp(-0.1 * s)
            # bounded, so that z' is not inf - inf
            most = 0.25 * float(jnp.finfo(scale.dtype).max)
            return bounded(-0.1 * m * scale, -most, most), scale, -0.1 * s
        # 1 - g is sigmoid(-s - 1.5), which does not cancel where g is close to 1.
        return jax.nn.sigmoid(-s - _OPEN) * m, jax.nn.sigmoid(s + _OPEN), jax.nn.log_sigmoid(s + _OPEN)

    def forward(z0: Array) -> tuple[Array, Array]:
        shift, scale, log_scale = terms(z0)
        return scale * z0 + shift, log_scale

    def inverse(z: Array) -> tuple[Array, Array]:
        def invert_at(z0: Array) -> Array:
            """Inverts the affine map whose terms the network computes at z0."""
            shift, _, log_scale = terms(z0)
            return (z - shift) * finite_exp(-log_scale)

        z0 = triangular_fixed_point(invert_at, z)
        # log |dz/dz0| at the solution: the fixed point returns z0 alone.
        return z0, terms(z0)[2]

    return Flow(forward, inverse)


def chain(flows: Sequence[Flow]) -> Flow:
    """Compose the flows, the first one first; their elementwise log-determinants add up.

    Example:
        >>> before = lambda z: jnp.pad(z, ((0, 0), (1, 0)))[:, :-1]
        >>> step = hv.flows.autoregressive_step(before, "mean_only")
        >>> print(hv.flows.chain([step, step]).forward(jnp.ones((1, 3)))[0])
        [[1. 3. 4.]]
    """

    def forward(z0: Array) -> tuple[Array, Array]:
        z, total = z0, jnp.zeros_like(z0)
        for flow in flows:
            z, log_det = flow.forward(z)
            total = total + log_det
        return z, total

    def inverse(z: Array) -> tuple[Array, Array]:
        z0, total = z, jnp.zeros_like(z)
        for flow in reversed(flows):
            z0, log_det = flow.inverse(z0)
            total = total + log_det
        return z0, total

    return Flow(forward, inverse)


def triangular_fixed_point(function: Callable[[Array], Array], start: Array) -> Array:
    """Solve z = function(z), where each element of function(z) depends only on elements before it, in some order.

    Exact after at most D passes, D the number of elements of an example; stops earlier if a pass changes nothing.
    Values that overflow on the way are set to 0. Derivatives with respect to whatever `function` closes over solve a
    linear system of the same triangular form by the same iteration.

    Example:
        >>> before = lambda z: jnp.pad(z, ((0, 0), (1, 0)))[:, :-1]
        >>> print(hv.flows.triangular_fixed_point(lambda z: 1 + before(z) / 2, jnp.zeros((1, 3))))
        [[1.   1.5  1.75]]
    """
    passes = start[0].size  # D

    def solve(_: Callable[[Array], Array], guess: Array) -> Array:
        def again(state: tuple[Array, Array, Array]) -> Array:
            count, _, changed = state
            return changed & (count < passes)

        def once(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            count, z, _ = state
            new = function(z)
            # Elements whose predecessors are still wrong may overflow, and inf times a masked weight of 0 is NaN.
            new = jnp.where(jnp.isfinite(new), new, 0.0)
            return count + 1, new, (new != z).any()

        return jax.lax.while_loop(again, once, (jnp.int32(0), guess, jnp.bool_(True)))[1]

    def solve_linear(matvec: Callable[[Array], Array], b: Array) -> Array:
        """Solves (1 - J) x = b, where matvec is 1 - J and J is nilpotent: x <- x + (b - matvec(x))."""
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
        # The transpose of a nilpotent J is nilpotent too: the same solver serves reverse mode.
        return jax.lax.custom_linear_solve(matvec, b, solve_linear, transpose_solve=solve_linear)

    # The solution does not depend on where the iteration starts, hence no gradient through `start`.
    return jax.lax.custom_root(lambda z: z - function(z), jax.lax.stop_gradient(start), solve, tangent_solve)


class InverseAutoregressive(nn.Module):
    """Autoregressive steps over feature maps of latents; every second step reverses rows, columns and channels.

    Attributes:
      steps: number of steps.
      hidden: widths of the hidden layers of each step's network, multiples or divisors of the number of channels of z.
      form: form of the steps; the module's docstring has the formulas.
      size: kernel size, odd and 3 or more.

    Raises ValueError for fewer than one step, another form or kernel size, and at the first call if the widths cannot
    keep the order of the channels of z.

    Source: Kingma et al. (2016), section 4 and algorithm 1.
    """

    steps: int = 1
    hidden: tuple[int, ...] = (160, 160)
    form: StepForm = "gate"
    size: int = 3

    def __post_init__(self) -> None:
        check_fields(self)
        super().__post_init__()
        check_sizes(self, "steps")
        # The channels of z are not known yet: with 1, widths and kernel size alone are checked.
        check_order("InverseAutoregressive", 1, self.hidden, self.size)

    @nn.compact
    def __call__(self, z: Float[Array, "b h w channels"], context: Float[Array, "b h w width"] | None) -> Flow:
        """Makes the flow given a context, which has as many channels as the first hidden layer.

        Args:
          z: sample of the base. Its number of channels decides the shapes of the weights, and at initialisation its
            values decide their gains and biases.
          context: output of the encoder; None for no context.

        Raises ValueError if the context has another number of channels.
        """
        if context is not None and context.shape[-1] != self.hidden[0]:
            raise ValueError(
                f"InverseAutoregressive: the context has {context.shape[-1]} channels, but is added to a hidden layer "
                f"of {self.hidden[0]}."
            )
        flows: list[Flow] = []
        heads = 1 if self.form == "mean_only" else 2
        for i in range(self.steps):
            odd = i % 2 == 1
            # The context is added to a hidden layer: its channels do not have the order of those of z, so only its
            # rows and columns are reversed.
            seen = None if context is None else widen(_reversed(context, odd, channels=False))
            layers = MaskedLayers(self.hidden, heads, self.size, name=f"step_{i}")(_reversed(z, odd), seen)

            def network(z: Array, layers: tuple = layers, seen: Array | None = seen, odd: bool = odd) -> Array:
                outputs = jnp.split(apply_layers(layers, _reversed(z, odd), seen), heads, axis=-1)  # m, or m and s
                return jnp.concatenate([_reversed(output, odd) for output in outputs], axis=-1)

            flows.append(autoregressive_step(network, self.form))
            # The next step's gains and biases are initialised on the output of this one.
            if self.is_initializing():
                z = flows[-1].forward(z)[0]
        return chain(flows)


class VolumePreserving(nn.Module):
    """NVAE's posterior flow: pairs of steps z' = z - m(z), in the order of the rows and then against it.

    Attributes:
      pairs: number of pairs of steps.
      epsilon: number added to the norms of weights, as in `networks.cells.CellStyle`.

    Source: Vahdat & Kautz (2020), section 3.2. In the published models the channels keep their order in the second step
    of a pair, and no step reads x.
    """

    pairs: int = 1
    epsilon: float = 0.0

    @nn.compact
    def __call__(self, z: Float[Array, "b h w channels"], context: Float[Array, "b h w width"] | None) -> Flow:
        """Makes the flow.

        Args:
          z: any array of the shape of z.
          context: features from the encoder, which a 1x1 convolution adds to each step's first layer; None for none.
        """
        flows: list[Flow] = []
        for i in range(2 * self.pairs):
            odd = i % 2 == 1
            weights = ShiftNetwork(z.shape[-1], self.epsilon, name=f"step_{i}")()
            seen = None
            if context is not None:
                style = CellStyle(epsilon=self.epsilon)
                reader = LogNormConv(EXPANSION * z.shape[-1], 1, style=style, name=f"context_{i}")
                seen = _reversed(reader(context), odd, channels=False)

            def network(z: Array, weights: ShiftWeights = weights, seen: Array | None = seen, odd: bool = odd) -> Array:
                return -_reversed(shift(weights, _reversed(z, odd, channels=False), seen), odd, channels=False)

            flows.append(autoregressive_step(network, "mean_only"))
        return chain(flows)


def _reversed(x: Array, odd: bool, *, channels: bool = True) -> Array:
    """Reverses rows, columns and channels of x if the step is odd."""
    return jnp.flip(x, (1, 2, 3) if channels else (1, 2)) if odd else x


class InvertibleNetwork(Protocol):
    """A network that computes an invertible map and its log-determinant: a Flax module without state, hashable."""

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """(e, log |de/dz|) of z, the second `[B]`; with `inverse=True`, (z, log |dz/de|) of e."""


@struct.dataclass
class FlowNormal:
    """A Gaussian seen through an invertible network: e = f(z) ~ base, log p(z) = log base(f(z)) + log |det df/dz|.

    Attributes:
      base: distribution of e, `[B, ...]`.
      weights: parameters of the network, the same for all examples.
      network: the network f.
    """

    base: Normal
    weights: Any
    network: InvertibleNetwork = struct.field(pytree_node=False)

    reparameterised = True

    def sample(self, key: Key[Array, ""], temperature: Array | float = 1.0) -> Array:
        """f^-1 of a sample of the base at this temperature; 0 gives `mode`."""
        return self._back(self.base.sample(key, temperature))

    def log_prob(self, z: Array) -> Array:
        """log p(z), `[B]`."""
        e, log_det = self.network.apply({"params": self.weights}, z)
        return sum_event(self.base.log_prob(e)) + log_det

    @property
    def mean(self) -> Array:
        """f^-1 of the base's mean: E[z] has no closed form."""
        return self._back(self.base.mean)

    @property
    def mode(self) -> Array:
        """f^-1 of the base's mode: the density of z, with its determinant, may be higher elsewhere."""
        return self._back(self.base.mode)

    def _back(self, e: Array) -> Array:
        return self.network.apply({"params": self.weights}, e, inverse=True)[0]
