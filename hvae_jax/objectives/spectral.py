"""Spectral regularisation: the largest singular values of convolutions and the gains of batch norm, kept small.

    loss = base loss + lambda(t) (sum over kernels of sigma_max(W) + sum over batch norms of max |gain|)

W is a convolution's weight as it is applied, after weight normalisation, as a matrix `[outputs, height * width *
inputs]`. sigma_max bounds how much a layer can change its output, and with it how far posterior and prior can move
apart in one step of training.

sigma_max comes from power iterations that go on from step to step, as in spectral normalisation: v <- W^T u, u <- W v,
each divided by its norm, and sigma = u^T W v, whose gradient takes u and v for constants. Kernels of equal shape are
iterated as one batch.

Source: Vahdat & Kautz (2020), section 3.2, "Spectral Regularization (SR)", and their published models; Yoshida & Miyato
(2017) for the term, Miyato et al. (2018) for the iteration.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from hvae_jax.networks.cells import normalised
from hvae_jax.objectives.around import Around
from hvae_jax.objectives.per_level import check_numbers
from hvae_jax.objectives.protocol import Batch, Forward, NegativeELBO, Objective
from hvae_jax.objectives.schedules import Constant, Schedule
from hvae_jax.records import check_sizes, checked
from hvae_jax.runtime.trees import leaves_by_path

_LEAST_NORM = 1e-3  # norms below it are not divided by, as in the published code


@dataclasses.dataclass(frozen=True)
@checked
class SpectralRegularised(Around):
    """Spectral regularisation around a loss, for any model with convolutions.

        loss = base loss + lambda(t) (sum over kernels of sigma_max(W) + sum over batch norms of max |gain|)

    W is a kernel as it is applied, as a matrix `[outputs, height * width * inputs]`.
    Source: Vahdat & Kautz (2020), section 3.2, and their published models; Yoshida & Miyato (2017) for the term.

    Every parameter named `kernel` or `..._kernel` with four axes counts as a convolution; with five, as a stack of
    them. One with a `log_norm` beside it is normalised first.

    Attributes:
      base: objective that the terms are added to.
      weight: lambda, a schedule; nats of the loss for each unit of a singular value.
      first: power iterations at the start of a run, from random vectors.
      iterations: power iterations at each step.
      epsilon: number added to the norms of weights in the model, as in `networks.cells.CellStyle`.

    Metrics: those of the base; `spectral`, the sum of singular values; `largest_gains`, the sum over batch norms;
    `lambda_sr`.
    Raises ValueError for a negative epsilon or less than one iteration, and at the start for a model without
    convolutions.

    Example:
        >>> objective = hv.objectives.SpectralRegularised(first=100)
        >>> variables = {"params": {"kernel": jnp.array([3.0, 1.0]).reshape(1, 1, 1, 2)}}  # from one channel to two
        >>> total, _ = objective.spectral(variables, objective.init(variables)["left"])
        >>> print(total.round(3))  # the norm of (3, 1)
        3.162
    """

    base: Objective = NegativeELBO()
    weight: Schedule = Constant(1e-2)
    first: int = 40
    iterations: int = 4
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        check_sizes(self, "first", "iterations")
        check_numbers(self, "epsilon", low=0.0)

    def init(self, variables: Any) -> dict[str, Any]:
        """The base's state, and left singular vectors of every stack of matrices after the first iterations."""
        matrices = self.matrices(variables)
        if not matrices:
            raise ValueError(
                "SpectralRegularised: the model has no convolutions (parameters named kernel with four axes). Train on "
                f"{type(self.base).__name__} itself."
            )
        # a fixed key: the vectors after 40 iterations hardly depend on those they began with
        keys = jax.random.split(jax.random.key(0), len(matrices))
        left = {
            name: _iterate(w, _unit(jax.random.normal(key, w.shape[:2], w.dtype)), self.first)[0]
            for key, (name, w) in zip(keys, matrices.items(), strict=True)
        }
        return {"base": self.base.init(variables), "left": left}

    def __call__(
        self, forward: Forward, variables: Any, batch: Batch, key: Array, step: Array, state: Any
    ) -> tuple[Array, dict[str, Array], Any, Any]:
        """Computes the loss; the state goes on by `iterations` power iterations."""
        loss, metrics, base_state, updates = self.base(forward, variables, batch, key, step, state["base"])
        spectral, left = self.spectral(variables, state["left"])
        gains = largest_gains(variables)
        weight = jnp.asarray(self.weight(step), loss.dtype)
        metrics = {**metrics, "spectral": spectral, "largest_gains": gains, "lambda_sr": weight}
        return loss + weight * (spectral + gains), metrics, {"base": base_state, "left": left}, updates

    def spectral(self, variables: Any, left: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
        """The sum of sigma_max over all convolutions, and the left vectors `[N, outputs]` of each stack after this."""
        total, moved = jnp.zeros(()), {}
        for name, w in self.matrices(variables).items():
            u, v = _iterate(jax.lax.stop_gradient(w), left[name], self.iterations)
            moved[name] = u
            total = total + jnp.einsum("no,nor,nr->", u, w, v)
        return total, moved

    def matrices(self, variables: Any) -> dict[str, Array]:
        """The weights of all convolutions as matrices, those of equal shape stacked: `[N, outputs, rest]`."""
        leaves = leaves_by_path(variables["params"])
        stacks: dict[str, list[Array]] = {}
        for path, kernel in leaves.items():
            owner, _, name = path.rpartition("/")
            if not (name == "kernel" or name.endswith("_kernel")) or kernel.ndim not in (4, 5):
                continue
            beside = f"{owner}/{name.removesuffix('kernel')}log_norm"
            if beside in leaves:
                kernel = normalised(kernel, leaves[beside], self.epsilon)
            # [(N,) height, width, inputs, outputs] to [N, outputs, height * width * inputs]
            w = kernel.reshape(-1 if kernel.ndim == 5 else 1, *_matrix(kernel)).swapaxes(1, 2)
            stacks.setdefault(f"{w.shape[1]}x{w.shape[2]}", []).append(w)
        return {name: jnp.concatenate(found) for name, found in stacks.items()}


def largest_gains(variables: Any) -> Array:
    """The sum over all batch norms of the largest magnitude of their gains."""
    params = leaves_by_path(variables["params"])
    owners = [path.removesuffix("/var") for path in leaves_by_path(variables.get("batch_stats", {})) if "/var" in path]
    # the axis of channels is the last one; a stack of batch norms has one more
    return sum((jnp.abs(params[f"{owner}/scale"]).max(-1).sum() for owner in owners), jnp.zeros(()))


def _matrix(kernel: Array) -> tuple[int, int]:
    """(height * width * inputs, outputs) of a kernel."""
    height, width, inputs, outputs = kernel.shape[-4:]
    return height * width * inputs, outputs


def _unit(vectors: Array) -> Array:
    """Vectors `[N, d]` of length 1, except those much shorter."""
    norm = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / jnp.maximum(norm, _LEAST_NORM)


def _iterate(w: Array, u: Array, times: int) -> tuple[Array, Array]:
    """Left and right singular vectors `[N, outputs]`, `[N, rest]` after that many power iterations."""

    def once(_: Any, pair: tuple[Array, Array]) -> tuple[Array, Array]:
        u, _ = pair
        v = _unit(jnp.einsum("no,nor->nr", u, w))
        return _unit(jnp.einsum("nor,nr->no", w, v)), v

    # v is made from u at once; the one it begins with is not read
    return jax.lax.fori_loop(0, times, once, (u, jnp.zeros((w.shape[0], w.shape[2]), w.dtype)))
