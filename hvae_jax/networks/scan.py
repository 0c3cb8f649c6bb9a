"""Runs of equal blocks: one scan over stacked parameters, whatever collections the blocks keep."""

from collections.abc import Sequence
from typing import Any

from flax import linen as nn

from hvae_jax.networks.computing import Kept, recomputing


def scanned(
    parent: nn.Module,
    block: type[nn.Module],
    length: int,
    in_axes: Sequence[Any],
    *,
    unroll: int = 1,
    remat: bool = False,
    kept: Kept = "all",
) -> Any:
    """Return a module class that applies `length` equal blocks one after the other, `h = block_i(h, inputs_i)`.

    Every collection (parameters, batch statistics, whatever else the blocks keep) is stacked, `[length, ...]`, so that
    compile time is that of one block. The block's `__call__` takes the carry and then `len(in_axes)` inputs, by
    position, and returns `(carry, outputs)`; outputs are stacked.

    Args:
      parent: the module that the run is a part of; while it initialises, nothing is unrolled, since a loop initialises
        in a tenth of the time.
      in_axes: for each input the axis that is scanned, or `nn.broadcast` for an input that all blocks share.
      unroll: number of blocks unrolled per iteration of the loop. 1 compiles fastest; on a CPU, where XLA's
        convolutions are slow inside loops, unrolling all blocks runs several times as fast.
      remat: whether the backward pass recomputes the activations inside a block instead of storing them.
      kept: without `remat`, what is stored of a block: "all" that its backward pass reads, or "products", what it has
        passed to `computing.product`, from which everything else is recomputed.
    """
    return nn.scan(
        # The barrier against common subexpressions is not needed: none can be shared across iterations of a scan.
        recomputing(block, remat, kept, prevent_cse=False),
        variable_axes={True: 0},  # every collection there is
        split_rngs={"params": True},
        in_axes=tuple(in_axes),
        length=length,
        unroll=1 if parent.is_initializing() else min(unroll, length),
        # No collection is broadcast: the check that one does not change would trace every block a second time. At
        # initialisation it decides how often keys are split, and thereby the parameters that a seed gives.
        check_constancy_invariants=parent.is_initializing(),
    )


def once(block: type[nn.Module], remat: bool) -> Any:
    """The module class of a single block outside a run; with `remat` its backward pass recomputes activations."""
    return nn.remat(block) if remat else block
