"""What a network computes in, and what it remembers of it for the backward pass: settings that change no parameter."""

from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float, Num

# In Linen's sense, as a name that JSON and a command line can say: what products and activations are computed in,
# while parameters stay as they are. None is whatever parameters and inputs promote to.
ComputeDtype = Literal["bfloat16"] | None

# How exact products of float32 are on accelerators: "default", what the hardware does fastest (passes of bfloat16 on a
# TPU, TF32 on a GPU) unless `jax_default_matmul_precision` says otherwise, or "highest", float32. CPUs know one.
Precision = Literal["default", "highest"]


def widen(h: Num[Array, "..."]) -> Float[Array, "..."]:
    """h in float32 at least: what every output of a network goes through before a distribution sees it.

    bfloat16 has eight bits of precision: enough for a network, not for an exponential, a difference of logarithms or
    a sum over pixels. float64 stays.
    """
    return h.astype(jnp.promote_types(h.dtype, jnp.float32))


class Drawing(nn.Module):
    """A network that draws: called as `net(*inputs, key, train=train)`, with a key of its own.

    What it draws has the same distribution under q and p, so that any number of draws leaves a bound a bound.
    """


def call(net: nn.Module, *inputs: Any, train: bool, remat: bool = False, key: Array | None = None) -> Any:
    """`net(*inputs, train=train)`; with `remat` the backward pass recomputes what is inside instead of keeping it.

    Only the inputs are kept, for one more forward pass of the network. Parameters, their paths, the statistics and
    the answer are the same. It fits any bound module whose `__call__` takes `train`; blocks under a scan are wrapped as
    classes instead, by `networks.scan.scanned`.
    It holds on accelerators, and on CPUs with JAX 0.12; XLA's CPU backend of JAX 0.7 and 0.10 recomputes too, but at
    once, and so keeps as much as before.

    Args:
      key: of a network that draws; None for one that does not.
    Source: Chen et al. (2016), "Training Deep Nets with Sublinear Memory Cost".
    """
    if key is not None:
        inputs = (*inputs, key)
    if not remat:
        return net(*inputs, train=train)

    def run(net: nn.Module, *inputs: Any) -> Any:
        return net(*inputs, train=train)  # closed over, and so static

    return nn.remat(run)(net, *inputs)
