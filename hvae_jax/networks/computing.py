"""Computation of layers: settings of dtype, precision and recomputation, which change no parameter, and helpers."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Float, Num

# Dtype of products and activations, as a name for JSON and the command line; parameters keep theirs. None is
# what parameters and inputs promote to.
ComputeDtype = Literal["bfloat16"] | None

# Precision of float32 products on accelerators: "default" is what the hardware does fastest (passes of bfloat16 on a
# TPU, TF32 on a GPU) unless `jax_default_matmul_precision` says otherwise, "highest" is float32. CPUs have only that.
Precision = Literal["default", "highest"]

# What a run of blocks stores for its backward pass: "all" values that this reads, or the outputs of "products" alone,
# and the statistics of batches, from which activations, Gaussians and noise are computed again.
Kept = Literal["all", "products"]

_PRODUCT = "product"


def widen(h: Num[Array, "..."]) -> Float[Array, "..."]:
    """h in float32 at least; every output of a network passes through it before it parametrises a distribution.

    bfloat16 has eight bits of precision: enough for a network, not for an exponential, a difference of logarithms or
    a sum over pixels. float64 stays.
    """
    return h.astype(jnp.promote_types(h.dtype, jnp.float32))


def prepend_axes(v: Num[Array, "..."], ndim: int) -> Num[Array, "..."]:
    """v with axes of size 1 in front, `ndim` axes in all: `[C]` becomes `[1, ..., 1, C]`.

    Broadcasting would add them silently, even if an axis is missing by mistake; the tests forbid that
    (`jax_numpy_rank_promotion="raise"`).
    """
    return v.reshape((1,) * (ndim - v.ndim) + v.shape)


@jax.custom_jvp
def stored_in_order(x: Array) -> Array:
    """x; where its gradient is computed on a TPU, x and the gradient lie in memory in the order of their axes.

    A TPU stores the last axis in tiles of 128 numbers, so that ten of them take the room of 128. To transpose x is not
    enough: XLA may take that for another name of the order that x was computed in. Programs without gradients are left
    as they are, since `jax.export` refuses programs that ask for an order.
    """
    return x


@stored_in_order.defjvp
def _stored_in_order_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _ordered(primals[0]), _ordered(tangents[0])


def _ordered(x: Array) -> Array:
    def constrained(x: Array) -> Array:
        return with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))

    return jax.lax.platform_dependent(x, tpu=constrained, default=lambda x: x)


class Drawing(nn.Module):
    """A network that draws random numbers: called as `net(*inputs, key, train=train)`, with a key of its own.

    Its draws have the same distribution under q and p, so that a bound stays a bound whatever it draws.
    """


def product(x: Array) -> Array:
    """x, marked as worth storing for the backward pass of what has kept="products"; else without effect."""
    return checkpoint_name(x, _PRODUCT)


def recomputing(target: Any, remat: bool, kept: Kept, **settings: Any) -> Any:
    """A module class, or a function of a module, of which the backward pass recomputes what is not stored.

    Args:
      settings: of `nn.remat`.
    """
    if remat:
        return nn.remat(target, **settings)
    if kept == "all":
        return target
    return nn.remat(target, policy=jax.checkpoint_policies.save_only_these_names(_PRODUCT), **settings)


def call(
    net: nn.Module, *inputs: Any, train: bool, remat: bool = False, kept: Kept = "all", key: Array | None = None
) -> Any:
    """Call `net(*inputs, train=train)`; with `remat` the backward pass recomputes activations instead of storing them.

    With `remat` only the inputs are stored, at the cost of one more forward pass. Parameters, their paths, the
    statistics and the outputs are the same. `net` is any bound module whose `__call__` takes `train`; blocks under a
    scan are wrapped as classes instead, by `networks.scan.scanned`.

    Memory is saved on accelerators, and on CPUs with JAX 0.12. XLA's CPU backend of JAX 0.7 and 0.10 recomputes as
    early as it can, and so needs as much memory as without `remat`.

    Args:
      kept: without `remat`, what is stored: "all" that the backward pass reads, or what has passed through `product`.
      key: key for a network that draws; None for one that does not.
    Source: Chen et al. (2016), "Training Deep Nets with Sublinear Memory Cost".
    """
    if key is not None:
        inputs = (*inputs, key)
    if not remat and kept == "all":
        return net(*inputs, train=train)

    def run(net: nn.Module, *inputs: Any) -> Any:
        return net(*inputs, train=train)  # train is closed over, and so static

    return recomputing(run, remat, kept)(net, *inputs)
