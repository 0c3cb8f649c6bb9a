"""Names and layouts of the arrays in Efficient-VDVAE's two trees, and the levels read off them."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from hvae_jax.convert.state_dict import CONV, Entries, Entry, MisfitError, enumerated, size
from hvae_jax.models import Down, EfficientVDVAE, Up
from hvae_jax.models.very_deep.stages import stage_names

_BLOCK = re.compile(
    r"(bottom_up|top_down)\.(levels_\w+_(down|up)sample\.\d+|levels_(up|down)\.\d+\.\d+"
    r"|block_(up|down)_level_\d+_(downsample|upsample|\d+))(?=\.)"
)


def blocks_of(names: Iterable[str]) -> dict[str, None]:
    """The blocks that arrays of these names belong to, in order, in either tree."""
    return {found[0]: None for name in names if (found := _BLOCK.match(name))}


class TorchTree:
    """Names and layouts of the PyTorch tree.

    Attributes:
      axes: `Entry.axes` of a kernel.
      start: name of the learned maps that the top-down path starts from.
      arrays: arrays by name, for the methods that read sizes.
    """

    axes: tuple[int, ...] | None = CONV
    start = "top_down.trainable_h"

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self.arrays = arrays

    def conv(self, *parts: str) -> str:
        """Name of a convolution's weight."""
        return ".".join((*parts, "weight"))

    def bias(self, *parts: str) -> str:
        """Name of a convolution's bias."""
        return ".".join((*parts, "bias"))

    def up(self, level: int, block: int | None) -> str:
        """Name of a bottom-up block; a `block` of None is the last one of its level, which pools."""
        name = "levels_up_downsample" if block is None else "levels_up"
        return f"bottom_up.{name}.{level}" + ("" if block is None else f".{block}")

    def down(self, level: int, block: int | None) -> str:
        """Name of a top-down block; a `block` of None is the first one of its level, which unpools."""
        name = "levels_down_upsample" if block is None else "levels_down"
        return f"top_down.{name}.{level}" + ("" if block is None else f".{block}")

    def cell(self, block: str, i: int) -> str:
        """Name of a residual cell of a block."""
        return f"{block}.residual_block.{i}"

    def net(self, block: str, of: str) -> str:
        """Name of a block's prior or posterior network; `of` is "prior" or "posterior"."""
        return f"{block}.{of}_net.0"

    def head(self, block: str, of: str) -> str:
        """Name of the layer from that network's features to mean and scale."""
        return f"{block}.{of}_layer.projection"

    def project(self, block: str) -> str:
        """Name of the layer from z to h."""
        return f"{block}.z_projection"

    def layer(self, cell: str, i: int) -> str:
        """Name of a cell's i-th convolution."""
        # an activation lies before each of them in the list
        return f"{cell}.convs.{2 * i + 1}"

    def pool(self, block: str) -> str:
        """Name of a block's pooling layer."""
        return f"{block}.pool.ops.0"

    def unpool(self, block: str) -> str:
        """Name of a block's unpooling layer."""
        return f"{block}.unpool.ops.0"

    def scale_bias(self, block: str) -> str:
        """Name of the learned maps that are added after a block unpools."""
        return f"{block}.unpool.scale_bias"

    def maps(self, path: str, side: int, width: int) -> Entry:
        """The entry of learned maps."""
        return Entry(path, (1, 2, 0), (1, width, side, side), (width, side, side))

    def cell_conv(self, block: str, cell: int, i: int) -> str:
        """Name of the weight of a cell's i-th convolution."""
        return self.conv(self.layer(self.cell(block, cell), i))

    def inputs(self, weight: str) -> int:
        """Number of input channels of a convolution."""
        return size(self.arrays, weight, 1)

    def outputs(self, weight: str) -> int:
        """Number of output channels of a convolution."""
        return size(self.arrays, weight, 0)

    def kernel(self, weight: str) -> int:
        """Kernel size of a convolution."""
        return size(self.arrays, weight, 3)

    def side(self, maps: str) -> int:
        """Height and width of learned maps."""
        return size(self.arrays, maps, 2)

    def number(self, name: Callable[[int], str]) -> int:
        """Number of i = 0, 1, ... for which modules called name(i) exist."""
        i = 0
        while any(other.startswith(f"{name(i)}.") for other in self.arrays):
            i += 1
        return i

    def check_whole(self) -> None:
        """Check that levels, and blocks of a level, have consecutive indices.

        Raises ValueError naming every block that is left out.
        """
        blocks = set(blocks_of(self.arrays))
        numbers = range(1 + max((int(n) for block in blocks for n in re.findall(r"\d+", block)), default=-1))
        holes: list[str] = []
        for name in (self.up, self.down):
            found = [[b for b in (None, *numbers) if name(level, b) in blocks] for level in numbers]
            while found and not found[-1]:
                found.pop()
            for level, here in enumerate(found):
                wanted = (None, *range(1 + max((b for b in here if b is not None), default=-1)))
                holes += [name(level, b) for b in wanted if b not in here]
        if holes:
            raise MisfitError(f"The state dict is not whole: {enumerated(holes)} missing.")

    def levels(self) -> tuple[tuple[Up, ...], tuple[Down, ...]]:
        """One `Up` and one `Down` for each level, as `efficient_levels` takes them."""
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
            # The resolution after unpooling is that of the learned maps; without any, the opposite pool has the stride.
            if unpool in self.arrays:
                maps = self.scale_bias(block)
                stride = self.side(maps) // side if maps in self.arrays else strides[number - 1 - i]
            side *= stride
            downs.append({"side": side, "blocks": 1 + self.number(lambda j, i=i: self.down(i, j))})
            downs[-1] |= self._cells(block) | {"latents": self.inputs(self.conv(self.project(block)))}
            posterior = self.outputs(self.conv(self.layer(self.net(block, "posterior"), 0)))
            downs[-1] |= {"mixes_in": above if stride > 1 else None, "posterior_middle": posterior}
        for up in ups:  # from the resolution of x, at which the top-down path has ended
            up["side"], side = side, side // up["pool"]
        ups[-1]["pool"] = 1
        return tuple(_tidy(Up(**up)) for up in ups), tuple(_tidy(Down(**down)) for down in downs)

    def _cells(self, block: str) -> dict[str, int]:
        """The settings that follow from the shapes of a block's first cell."""
        first = self.cell_conv(block, 0, 0)
        layers = self.number(lambda i: self.layer(self.cell(block, 0), i)) - 2
        return {
            "width": self.inputs(first),
            "middle": self.outputs(first),
            "layers": layers,
            "size": self.kernel(self.cell_conv(block, 0, 1)),
            "cells": self.number(lambda i: self.cell(block, i)),
        }


class _JaxTree(TorchTree):
    """Names and layouts of the JAX tree."""

    axes = None  # the JAX tree has our layouts

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


TREES: Mapping[str, type[TorchTree]] = {"torch": TorchTree, "jax": _JaxTree}


def _tidy(stage: Any) -> Any:
    """The stage with None for every setting that equals its default, so that equal stages compare equal."""
    none = {"middle": stage.width // 4, "size": 3 if stage.side > 2 else 1}
    if isinstance(stage, Down):
        none["posterior_middle"] = stage.between
    return dataclasses.replace(stage, **{name: None for name, usual in none.items() if getattr(stage, name) == usual})


def entries(model: EfficientVDVAE, tree: TorchTree) -> Entries:
    """(public name, entry) of every array of a model."""
    yield from _conv(tree, "bottom_up.input_conv", "params/stem")
    blocks = _blocks_up(model.ups)
    for stage, ours in zip(model.ups, stage_names("up", model.ups), strict=True):
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
    for stage, ours in zip(model.downs, stage_names("down", model.downs), strict=True):
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
    """(level, block) of each block, from x up: a level ends with a block that has a tap, and that block is None."""
    level, block = 0, 0
    for stage in ups:
        for _ in range(stage.blocks):
            yield (level, None) if stage.skip else (level, block)
            level, block = (level + 1, 0) if stage.skip else (level, block + 1)


def _blocks_down(downs: Sequence[Down]) -> Iterator[tuple[int, int | None]]:
    """(level, block) of each block, from the top: blocks that share a tap are one level, and the first one is None."""
    level = 0
    for stage in downs:
        for i in range(stage.blocks):
            yield level, (i - 1 if stage.shared and i else None)
            level += 0 if stage.shared and i < stage.blocks - 1 else 1


def _chain(tree: TorchTree, theirs: str, ours: str, layers: int, at: int) -> Entries:
    """The convolutions of a bottleneck."""
    for i in range(layers + 2):
        yield from _conv(tree, tree.layer(theirs, i), f"{ours}/conv_{i}", at)


def _conv(tree: TorchTree, theirs: str, ours: str, at: int | None = None) -> Entries:
    yield tree.conv(theirs), Entry(f"{ours}/kernel", tree.axes, at=at)
    yield tree.bias(theirs), Entry(f"{ours}/bias", at=at)
