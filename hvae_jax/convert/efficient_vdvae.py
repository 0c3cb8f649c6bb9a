"""Weights of Efficient-VDVAE, Rayhane-mamah/Efficient-VDVAE at f779c40, as `EfficientVDVAE`: both of its trees.

The PyTorch tree's `state_dict()`, and the JAX tree's parameters, nested or with names joined by "/" or ".". Levels,
blocks, widths, kernels, strides and latents are read off; what no weight tells has to be said. A pool after the last
level, which nothing reads, is left out.

Its loss is in nats per dimension, and its standard scales have a beta of 0.6931472, seven digits of log 2. With
`distribution_base="logstd"` the JAX tree leaves beta out of one term of the KL, which is then none; here it is not.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hvae_jax.convert.state_dict import CONV, Entry, Misfits, enumerated, size, to_variables
from hvae_jax.likelihoods import Bernoulli, Likelihood, LogisticMixture
from hvae_jax.models import Down, EfficientVDVAE, Up
from hvae_jax.models.efficient_levels import down_stages_of_levels, up_stages_of_levels
from hvae_jax.models.stages import names

Entries = Iterator[tuple[str, Entry]]
BETA = 0.6931472

_BASES = {"std": "softplus", "logstd": "exp"}


def efficient_vdvae(
    state_dict: Mapping[str, Any],
    *,
    distribution_base: str = "std",
    gradient_smoothing_beta: float = BETA,
    use_residual_distribution: bool = False,
    output_distribution_base: str = "std",
    output_gradient_smoothing_beta: float = BETA,
    min_mol_logscale: float = -250.0,
    num_bits: int = 8,
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
        if base not in _BASES:
            raise ValueError(f"efficient_vdvae({name}={base!r}): {' or '.join(map(repr, _BASES))}.")
    if num_bits not in (5, 8):
        raise ValueError(f"efficient_vdvae(num_bits={num_bits}): 8 or 5.")
    arrays = _flat(state_dict)
    tree = _JaxTree(arrays) if any("block_up_level" in name for name in arrays) else _TorchTree(arrays)
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
            _BASES[output_distribution_base],  # type: ignore[arg-type]
            output_gradient_smoothing_beta,
        )
    levels = tree.levels()
    side = levels[1][-1].side - 2 * (pad or 0)
    last = tree.conv("top_down", "output_conv")
    model = EfficientVDVAE(
        image=(side, side, channels),
        ups=up_stages_of_levels(levels[0]),
        downs=down_stages_of_levels(levels[1]),
        likelihood=likelihood,
        pad=pad or 0,
        log_std=_BASES[distribution_base],  # type: ignore[arg-type]
        beta=gradient_smoothing_beta,
        residual_posterior=use_residual_distribution,
        stem_size=tree.kernel(tree.conv("bottom_up", "input_conv")),
        readout_size=tree.kernel(last),
        edge=_edge(tree),
    )
    return model, variables_of(state_dict, model)


def _edge(tree: "_TorchTree") -> int | None:
    """The size that all bottlenecks' first kernels have, or None where it changes with the level."""
    levels = range(tree.number(lambda i: tree.up(i, None)))
    sizes = {tree.kernel(tree.cell_conv(tree.up(level, None), 0, 0)) for level in levels}
    return sizes.pop() if len(sizes) == 1 else None


def variables_of(state_dict: Mapping[str, Any], model: EfficientVDVAE) -> dict[str, Any]:
    """The variables of a model that is known already, such as a preset. Raises ValueError as `efficient_vdvae` does."""
    arrays = _flat(state_dict)
    is_jax = any("block_up_level" in name for name in arrays)
    tree = _JaxTree(arrays) if is_jax else _TorchTree(arrays)
    unread = f"{tree.pool(tree.up(tree.number(lambda i: tree.up(i, None)) - 1, None))}."
    arrays = {name: value for name, value in arrays.items() if not name.startswith(unread)}
    template = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *model.image)), jax.random.key(0))
    if is_jax and isinstance(model.likelihood, LogisticMixture):
        arrays = _mixture_by_channel(arrays, model.image[2], model.likelihood.mixtures)
    table = dict(_entries(model, tree))
    _check_blocks(tree, table, arrays, Misfits.of(arrays, table, template))
    return to_variables(arrays, table, template)


_BLOCK = re.compile(
    r"(bottom_up|top_down)\.(levels_\w+_(down|up)sample\.\d+|levels_(up|down)\.\d+\.\d+"
    r"|block_(up|down)_level_\d+_(downsample|upsample|\d+))\."
)


def _blocks_of(names: Iterable[str]) -> dict[str, None]:
    """The blocks that arrays of these names are in, in their order."""
    return {found[0]: None for name in names if (found := _BLOCK.match(name))}


def _check_blocks(tree: "_TorchTree", table: Mapping[str, Entry], arrays: Mapping[str, Any], misfits: Misfits) -> None:
    """Raises ValueError where blocks are missing, not expected or of another width, with all else that does not fit."""
    wanted, found = _blocks_of(table), _blocks_of(arrays)
    said, odd = [], set()
    for way, name in (("bottom_up", "up"), ("top_down", "down")):
        here, there = ([block for block in blocks if block.startswith(way)] for blocks in (found, wanted))
        which = {
            "missing": [block for block in there if block not in found],
            "not expected": [block for block in here if block not in wanted],
        }
        parts = [f"{enumerated([b[:-1] for b in blocks])} {what}" for what, blocks in which.items() if blocks]
        if parts:
            said.append(f"it has {len(here)} blocks {way}, the configuration {len(there)} on the way {name}: ")
            said[-1] += ", ".join(parts)
        odd |= {block for blocks in which.values() for block in blocks}
    runs: dict[tuple[int, ...], list[str]] = {}
    for block in wanted:
        first = tree.cell_conv(block[:-1], 0, 0)
        if block in found and first in misfits.misshapen:
            trees = [type(tree)({first: np.broadcast_to(0, shape)}) for shape in misfits.misshapen[first]]
            sizes = tuple(size for one in trees for size in (one.inputs(first), one.outputs(first)))
            runs.setdefault(sizes, []).append(block[:-1])
    for (width, middle, our_width, our_middle), blocks in runs.items():
        said.append(
            f"{enumerated(blocks)} {'has' if len(blocks) == 1 else 'have'} width {width} and {middle} in between, "
            f"where the configuration has {our_width} and {our_middle}"
        )
        odd |= {f"{block}." for block in blocks}
    if said:
        others = misfits.outside(odd).told()
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


class _TorchTree:
    """Names and layouts of the PyTorch tree."""

    axes: tuple[int, ...] | None = CONV
    start = "top_down.trainable_h"

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self.arrays = arrays

    def conv(self, *parts: str) -> str:
        """A convolution's weight."""
        return ".".join((*parts, "weight"))

    def bias(self, *parts: str) -> str:
        """A convolution's bias."""
        return ".".join((*parts, "bias"))

    def up(self, level: int, block: int | None) -> str:
        """A block of the way up; None for the last of its level."""
        name = "levels_up_downsample" if block is None else "levels_up"
        return f"bottom_up.{name}.{level}" + ("" if block is None else f".{block}")

    def down(self, level: int, block: int | None) -> str:
        """A block of the way down; None for the first of its level."""
        name = "levels_down_upsample" if block is None else "levels_down"
        return f"top_down.{name}.{level}" + ("" if block is None else f".{block}")

    def cell(self, block: str, i: int) -> str:
        """A residual cell of a block."""
        return f"{block}.residual_block.{i}"

    def net(self, block: str, of: str) -> str:
        """A block's prior or posterior."""
        return f"{block}.{of}_net.0"

    def head(self, block: str, of: str) -> str:
        """From its features to mean and scale."""
        return f"{block}.{of}_layer.projection"

    def project(self, block: str) -> str:
        """From z to h."""
        return f"{block}.z_projection"

    def layer(self, cell: str, i: int) -> str:
        """A convolution of a cell; activations have places in between."""
        return f"{cell}.convs.{2 * i + 1}"

    def pool(self, block: str) -> str:
        """Of a block."""
        return f"{block}.pool.ops.0"

    def unpool(self, block: str) -> str:
        """Of a block."""
        return f"{block}.unpool.ops.0"

    def scale_bias(self, block: str) -> str:
        """What is added to maps that were enlarged."""
        return f"{block}.unpool.scale_bias"

    def maps(self, path: str, side: int, width: int) -> Entry:
        """Learned maps."""
        return Entry(path, (1, 2, 0), (1, width, side, side), (width, side, side))

    def cell_conv(self, block: str, cell: int, i: int) -> str:
        """The weight of a cell's convolution."""
        return self.conv(self.layer(self.cell(block, cell), i))

    def inputs(self, weight: str) -> int:
        """Channels that a convolution reads."""
        return size(self.arrays, weight, 1)

    def outputs(self, weight: str) -> int:
        """Channels that it makes."""
        return size(self.arrays, weight, 0)

    def kernel(self, weight: str) -> int:
        """Its size."""
        return size(self.arrays, weight, 3)

    def side(self, maps: str) -> int:
        """Of learned maps."""
        return size(self.arrays, maps, 2)

    def number(self, name: Any) -> int:
        """How many 0, 1, ... there are for which name(i) begins the name of an array."""
        i = 0
        while any(other.startswith(f"{name(i)}.") for other in self.arrays):
            i += 1
        return i

    def levels(self) -> tuple[tuple[Up, ...], tuple[Down, ...]]:
        """One `Up` and one `Down` a level, as `efficient_levels` takes them."""
        ups, downs, strides = [], [], []
        number = self.number(lambda i: self.up(i, None))
        for i in range(number):
            block = self.up(i, None)
            pool = self.conv(self.pool(block))
            strides.append(self.kernel(pool) if pool in self.arrays else 1)
            ups.append({"blocks": 1 + self.number(lambda j, i=i: self.up(i, j)), "pool": strides[-1]})
            ups[-1] |= self._cells(block) | {"skip": self.outputs(self.conv(f"{block}.skip_projection"))}
        side = self.side(self.start)
        for i in range(self.number(lambda i: self.down(i, None))):
            block = self.down(i, None)
            unpool = self.conv(self.unpool(block))
            above, stride = side, 1
            if unpool in self.arrays:
                maps = self.scale_bias(block)
                stride = self.side(maps) // side if maps in self.arrays else strides[number - 1 - i]
            side *= stride
            downs.append({"side": side, "blocks": 1 + self.number(lambda j, i=i: self.down(i, j))})
            downs[-1] |= self._cells(block) | {"latents": self.inputs(self.conv(self.project(block)))}
            posterior = self.outputs(self.conv(self.layer(self.net(block, "posterior"), 0)))
            downs[-1] |= {"mixes_in": above if stride > 1 else None, "posterior_middle": posterior}
        for up in ups:
            up["side"], side = side, side // up["pool"]
        ups[-1]["pool"] = 1
        return tuple(_tidy(Up(**up)) for up in ups), tuple(_tidy(Down(**down)) for down in downs)

    def _cells(self, block: str) -> dict[str, int]:
        """What a block's first cell says."""
        first = self.cell_conv(block, 0, 0)
        layers = self.number(lambda i: self.layer(self.cell(block, 0), i)) - 2
        return {
            "width": self.inputs(first),
            "middle": self.outputs(first),
            "layers": layers,
            "size": self.kernel(self.cell_conv(block, 0, 1)) if layers else 1,
            "cells": self.number(lambda i: self.cell(block, i)),
        }


class _JaxTree(_TorchTree):
    """Names and layouts of the JAX tree."""

    axes = None

    def conv(self, *parts: str) -> str:
        return ".".join((*parts, "conv.kernel"))

    def bias(self, *parts: str) -> str:
        return ".".join((*parts, "conv.bias"))

    def up(self, level: int, block: int | None) -> str:
        return f"bottom_up.block_up_level_{level}_{'downsample' if block is None else block}"

    def down(self, level: int, block: int | None) -> str:
        return f"top_down.block_down_level_{level}_{'upsample' if block is None else block}"

    def cell(self, block: str, i: int) -> str:
        return f"{block}.residual_block_{i}"

    def net(self, block: str, of: str) -> str:
        return f"{block}.{of}_net"

    def head(self, block: str, of: str) -> str:
        return f"{block}.{of}_gaussian_layer.projection"

    def project(self, block: str) -> str:
        return f"{block}.z_projection.z_projection"

    def layer(self, cell: str, i: int) -> str:
        return f"{cell}.conv_{i}"

    def pool(self, block: str) -> str:
        return f"{block}.pooling_layer.conv"

    def unpool(self, block: str) -> str:
        return f"{block}.unpooling_layer.conv"

    def scale_bias(self, block: str) -> str:
        return f"{block}.unpooling_layer.scale_bias"

    def maps(self, path: str, side: int, width: int) -> Entry:
        return Entry(path, shape=(1, side, side, width))

    def inputs(self, weight: str) -> int:
        return size(self.arrays, weight, 2)

    def outputs(self, weight: str) -> int:
        return size(self.arrays, weight, 3)

    def kernel(self, weight: str) -> int:
        return size(self.arrays, weight, 0)


def _tidy(stage: Any) -> Any:
    """Without what is as the stage would have it anyway, so that equal stages are equal."""
    none = {"middle": stage.width // 4, "size": 3 if stage.side > 2 else 1}
    if isinstance(stage, Down):
        none["posterior_middle"] = stage.between
    return dataclasses.replace(stage, **{name: None for name, usual in none.items() if getattr(stage, name) == usual})


def _entries(model: EfficientVDVAE, tree: _TorchTree) -> Entries:
    """Where every array of such a model is."""
    yield from _conv(tree, "bottom_up.input_conv", "params/stem")
    blocks = _blocks_up(model.ups)
    for stage, ours in zip(model.ups, names("up", model.ups), strict=True):
        theirs = ""
        for at in range(stage.blocks):
            theirs = tree.up(*next(blocks))
            for i in range(stage.cells):
                yield from _chain(tree, tree.cell(theirs, i), f"params/{ours}/bottleneck_{i}", stage.layers, at)
            if stage.skip:
                yield from _conv(tree, f"{theirs}.skip_projection", f"params/{ours}/skip", at)
        if stage.pool > 1:
            yield from _conv(tree, tree.pool(theirs), f"params/{ours.replace('up', 'pool')}/conv")

    first = model.downs[0]
    start = first.side if first.mixes_in is None else first.mixes_in
    yield tree.start, tree.maps(f"params/bias{start}", start, first.width)
    blocks = _blocks_down(model.downs)
    for stage, ours in zip(model.downs, names("down", model.downs), strict=True):
        for at in range(stage.blocks):
            theirs = tree.down(*next(blocks))
            if at == 0 and stage.mixes_in is not None:
                yield from _conv(tree, tree.unpool(theirs), f"params/{ours.replace('down', 'unpool')}/conv")
                yield tree.scale_bias(theirs), tree.maps(f"params/bias{stage.side}", stage.side, stage.width)
            for of in ("prior", "posterior"):
                yield from _chain(tree, tree.net(theirs, of), f"params/{ours}/{of}", stage.layers, at)
                yield from _conv(tree, tree.head(theirs, of), f"params/{ours}/{of}_head", at)
            yield from _conv(tree, tree.project(theirs), f"params/{ours}/project", at)
            for i in range(stage.cells):
                yield from _chain(tree, tree.cell(theirs, i), f"params/{ours}/bottleneck_{i}", stage.layers, at)
    yield from _conv(tree, "top_down.output_conv", "params/readout")


def _blocks_up(ups: Sequence[Up]) -> Iterator[tuple[int, int | None]]:
    """(level, which of its blocks) from x up: those before a tap are of the tap's level."""
    level, block = 0, 0
    for stage in ups:
        for _ in range(stage.blocks):
            yield (level, None) if stage.skip else (level, block)
            level, block = (level + 1, 0) if stage.skip else (level, block + 1)


def _blocks_down(downs: Sequence[Down]) -> Iterator[tuple[int, int | None]]:
    """(level, which of its blocks) from the top: those that share a tap are a level."""
    level = 0
    for stage in downs:
        for i in range(stage.blocks):
            yield level, (i - 1 if stage.shared and i else None)
            level += 0 if stage.shared and i < stage.blocks - 1 else 1


def _chain(tree: _TorchTree, theirs: str, ours: str, layers: int, at: int) -> Entries:
    """A bottleneck."""
    for i in range(layers + 2):
        yield from _conv(tree, tree.layer(theirs, i), f"{ours}/conv_{i}", at)


def _conv(tree: _TorchTree, theirs: str, ours: str, at: int | None = None) -> Entries:
    yield tree.conv(theirs), Entry(f"{ours}/kernel", tree.axes, at=at)
    yield tree.bias(theirs), Entry(f"{ours}/bias", at=at)
