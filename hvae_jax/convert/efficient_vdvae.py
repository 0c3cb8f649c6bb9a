"""Weights of Efficient-VDVAE, Rayhane-mamah/Efficient-VDVAE at f779c40, as `EfficientVDVAE`: both of its trees.

The PyTorch tree's `state_dict()`, and the JAX tree's parameters, nested or with names joined by "/" or ".". Levels,
blocks, widths, kernels, strides and latents are read off; what no weight tells has to be said. A pool after the last
level, which nothing reads, is left out.

Its loss is in nats per dimension, and its standard scales have a beta of 0.6931472, seven digits of log 2. With
`distribution_base="logstd"` the JAX tree leaves beta out of one term of the KL, which is then none; here it is not.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hvae_jax.convert.efficient_trees import TREES, TorchTree, blocks_of, entries
from hvae_jax.convert.state_dict import Entry, Misfits, enumerated, size, to_variables
from hvae_jax.distributions import ScaleHead
from hvae_jax.likelihoods import Bernoulli, Likelihood, LogisticMixture
from hvae_jax.models import EfficientVDVAE
from hvae_jax.models.very_deep.efficient_levels import down_stages_of_levels, up_stages_of_levels

BETA = 0.6931472

FORMS = {"std": "softplus_std", "logstd": "log_std"}  # of `ScaleHead`, by the names of its settings


def efficient_vdvae(
    state_dict: Mapping[str, Any],
    *,
    distribution_base: str = "std",
    gradient_smoothing_beta: float = BETA,
    use_residual_distribution: bool = False,
    output_distribution_base: str = "std",
    output_gradient_smoothing_beta: float = BETA,
    min_mol_logscale: float = -250.0,
    num_bits: int | float = 8,
    likelihood: Likelihood | None = None,
    pad: int | None = None,
) -> tuple[EfficientVDVAE, dict[str, Any]]:
    """(model, variables) of a state dict: what it scores there it scores here.

    Args:
      state_dict: arrays by name, of either tree; CPU tensors will do.
      distribution_base to num_bits: its settings of these names. x is whole numbers here, 0..31 with 5 bits.
      likelihood: None for what the outputs tell: one for a channel, Bernoulli of images of 28x28 in frames of 32x32;
        otherwise its mixture of discretised logistics.
      pad: zeros around x; None for 2 with one output, and 0 otherwise.

    Raises ValueError for a base that is not known, other bits than 5 and 8, and for a state dict that does not fit,
    naming all that is missing, not expected or of another shape.
    """
    for name, base in (
        ("distribution_base", distribution_base),
        ("output_distribution_base", output_distribution_base),
    ):
        if base not in FORMS:
            raise ValueError(f"efficient_vdvae({name}={base!r}): {' or '.join(map(repr, FORMS))}.")
    if num_bits not in (5, 8):
        raise ValueError(f"efficient_vdvae(num_bits={num_bits}): 8 or 5.")
    num_bits = int(num_bits)  # its settings have 8.
    arrays = _flat(state_dict)
    tree = TREES["jax" if any("block_up_level" in name for name in arrays) else "torch"](arrays)
    outputs = size(arrays, tree.bias("top_down", "output_conv"))
    channels = tree.inputs(tree.conv("bottom_up", "input_conv"))
    mixtures = outputs // (3 * channels + 1)
    form = "published" if num_bits == 8 else "efficient_vdvae_5_bits"
    if likelihood is None and outputs == channels:
        likelihood, pad = Bernoulli(), 2 if pad is None else pad
    elif likelihood is None:
        likelihood = LogisticMixture(
            mixtures,
            2**num_bits,
            channels,
            min_mol_logscale,
            form,
            ScaleHead(FORMS[output_distribution_base], output_gradient_smoothing_beta),  # type: ignore[arg-type]
        )
    tree.check_whole()
    levels = tree.levels()
    side = levels[1][-1].side - 2 * (pad or 0)
    last = tree.conv("top_down", "output_conv")
    ups, downs = up_stages_of_levels(levels[0]), down_stages_of_levels(levels[1], [up.skip for up in levels[0]][::-1])
    model = EfficientVDVAE(
        image=(side, side, channels),
        ups=ups,
        downs=downs,
        likelihood=likelihood,
        pad=pad or 0,
        head=ScaleHead(FORMS[distribution_base], gradient_smoothing_beta),  # type: ignore[arg-type]
        residual_posterior=use_residual_distribution,
        stem_size=tree.kernel(tree.conv("bottom_up", "input_conv")),
        readout_size=tree.kernel(last),
        edge=_edge(tree),
    )
    return model, variables_of(state_dict, model)


def _edge(tree: TorchTree) -> int | None:
    """The size that all bottlenecks' first kernels have, or None where it changes with the level."""
    levels = range(tree.number(lambda i: tree.up(i, None)))
    sizes = {tree.kernel(tree.cell_conv(tree.up(level, None), 0, 0)) for level in levels}
    return sizes.pop() if len(sizes) == 1 else None


def variables_of(state_dict: Mapping[str, Any], model: EfficientVDVAE) -> dict[str, Any]:
    """The variables of a model that is known already, such as a preset. Raises ValueError as `efficient_vdvae` does."""
    arrays = _flat(state_dict)
    is_jax = any("block_up_level" in name for name in arrays)
    tree = TREES["jax" if is_jax else "torch"](arrays)
    unread = f"{tree.pool(tree.up(tree.number(lambda i: tree.up(i, None)) - 1, None))}."
    arrays = {name: value for name, value in arrays.items() if not name.startswith(unread)}
    template = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *model.image)), jax.random.key(0))
    if is_jax and isinstance(model.likelihood, LogisticMixture):
        arrays = _mixture_by_channel(arrays, model.image[2], model.likelihood.mixtures)
    table = dict(entries(model, tree))
    _check_blocks(tree, table, arrays, Misfits.of(arrays, table, template))
    return to_variables(arrays, table, template)


def _check_blocks(tree: TorchTree, table: Mapping[str, Entry], arrays: Mapping[str, Any], misfits: Misfits) -> None:
    """Raises ValueError where blocks are missing, not expected or of another width, with all else that does not fit."""
    wanted, found = blocks_of(table), blocks_of(arrays)
    said, odd = [], set()  # of blocks whose arrays are not told besides
    for way, name in (("bottom_up", "up"), ("top_down", "down")):
        here, there = ([block for block in blocks if block.startswith(way)] for blocks in (found, wanted))
        which = {
            "missing": [block for block in there if block not in found],
            "not expected": [block for block in here if block not in wanted],
        }
        parts = [f"{enumerated(blocks)} {what}" for what, blocks in which.items() if blocks]
        if parts:
            said.append(f"it has {len(here)} blocks {way}, the configuration {len(there)} on the way {name}: ")
            said[-1] += ", ".join(parts)
        odd |= {block for blocks in which.values() for block in blocks}
    runs: dict[tuple[int, ...], list[str]] = {}
    for block in wanted:
        first = tree.cell_conv(block, 0, 0)
        if block in found and first in misfits.misshapen:
            trees = [type(tree)({first: np.broadcast_to(0, shape)}) for shape in misfits.misshapen[first]]
            sizes = tuple(size for one in trees for size in (one.inputs(first), one.outputs(first), one.kernel(first)))
            runs.setdefault(sizes, []).append(block)
    for (width, middle, kernel, our_width, our_middle, our_kernel), blocks in runs.items():
        kernels = [f", and first kernels of {k}x{k}" if kernel != our_kernel else "" for k in (kernel, our_kernel)]
        have = "has" if len(blocks) == 1 else "have"
        said.append(
            f"{enumerated(blocks)} {have} width {width} and {middle} in between{kernels[0]}, where the configuration "
            f"has {our_width} and {our_middle}{kernels[1]}"
        )
        odd |= set(blocks)
    if said:
        others = misfits.outside(f"{block}." for block in odd).told()
        raise ValueError(f"The state dict is of another configuration: {'; '.join(said)}. {others}".rstrip())


def _flat(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Names joined by ".", without what parallel training or a checkpoint puts before every name."""
    flat: dict[str, Any] = {}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                add(f"{prefix}{name}.", inner)
        else:
            flat[re.sub(r"^((module|params|model)\.)*", "", prefix[:-1].replace("/", "."))] = value

    add("", state_dict)
    return flat


def _mixture_by_channel(arrays: dict[str, Any], channels: int, mixtures: int) -> dict[str, Any]:
    """The JAX tree's last layer has [3 M, C] numbers after the logits; ours, as the PyTorch tree's, [C, 3 M]."""
    carried = dict(arrays)
    for name in ("top_down.output_conv.conv.kernel", "top_down.output_conv.conv.bias"):
        value = np.asarray(arrays[name]) if name in arrays else None
        if value is not None and value.shape[-1] == mixtures * (3 * channels + 1):
            rest = value[..., mixtures:].reshape(*value.shape[:-1], 3 * mixtures, channels)
            rest = rest.swapaxes(-1, -2).reshape(*value.shape[:-1], -1)
            carried[name] = np.concatenate([value[..., :mixtures], rest], axis=-1)
    return carried
