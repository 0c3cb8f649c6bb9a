"""Weights of VDVAE, openai/vdvae at ea35b49, as `VDVAE`.

What the `state_dict()` of its `VAE` holds is read by the names that it has there. The block strings say which blocks
are at which resolution; widths, latents, what is learned of the first maps and the size of the mixture are read off.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hvae_jax.convert.state_dict import CONV, Entry, Misfits, check_numbering, count, enumerated, size, to_variables
from hvae_jax.likelihoods import Likelihood, LogisticMixture
from hvae_jax.models import VDVAE
from hvae_jax.models.very_deep.block_strings import down_stages, up_stages
from hvae_jax.models.very_deep.stages import Down, Up, stage_names

Entries = Iterator[tuple[str, Entry]]


def vdvae(
    state_dict: Mapping[str, Any],
    enc_blocks: str,
    dec_blocks: str,
    image_size: int,
    *,
    standardise: tuple[float, float] | None = None,
    likelihood: Likelihood | None = None,
    no_bias_above: int | None = None,
) -> tuple[VDVAE, dict[str, Any]]:
    """(model, variables) of a state dict: what it scores there it scores here.

    Args:
      state_dict: arrays by name; CPU tensors will do.
      enc_blocks, dec_blocks, image_size: its settings of these names.
      standardise: mean and standard deviation of the data, (-shift, 1/scale) there; x is whole numbers here.
      likelihood: None for its mixture of discretised logistics with 8 bits. For the 5 bits of FFHQ-256 give
        `Quantised(LogisticMixture(values=32, form="vdvae_5_bits"), 8)`: x is 0..255, as the way up sees it.
      no_bias_above: its setting of this name, 64 as published. None takes the one that the first maps in the state dict
        tell, so that it cannot be told whether the last ones of them are missing.

    Raises ValueError for a state dict that does not fit: that says which blocks differ, or names all that is missing,
    not expected or of another shape.
    """
    state_dict = _plain(state_dict)
    ups, downs = up_stages(enc_blocks, 1), down_stages(dec_blocks, 1)
    _check_counts(state_dict, ups, downs)
    check_numbering(state_dict, "encoder.enc_blocks", "decoder.dec_blocks", "decoder.bias_xs")
    ups, downs = _widths_up(state_dict, ups), _widths_down(state_dict, downs)
    biased = count(state_dict, "decoder.bias_xs")
    sides = sorted({stage.side for stage in downs})
    told = 64 if biased == sum(side <= 64 for side in sides) else ([0, *sides])[min(biased, len(sides))]
    model = VDVAE(
        image=(image_size, image_size, size(state_dict, "encoder.in_conv.weight", 1)),
        ups=ups,
        downs=downs,
        likelihood=likelihood or LogisticMixture(mixtures(state_dict), form="published"),
        standardise=standardise,
        no_bias_above=told if no_bias_above is None else no_bias_above,
        clamp=None,
    )
    return model, variables_of(state_dict, model)


def variables_of(state_dict: Mapping[str, Any], model: VDVAE) -> dict[str, Any]:
    """The variables of a model that is known already, such as a preset. Raises ValueError as `vdvae` does."""
    state_dict, table = _plain(state_dict), dict(_entries(model))
    template = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *model.image)), jax.random.key(0))
    counts, differences = _counts(state_dict, model.ups, model.downs), {}
    for prefix, stages in (("encoder.enc_blocks", model.ups), ("decoder.dec_blocks", model.downs)):
        differences |= _differences(state_dict, prefix, stages)
    if counts or differences:
        odd = {f"{block}." for blocks in (*counts, *differences) for block in blocks}
        others = Misfits.of(state_dict, table, template).outside(odd)
        raise ValueError(f"{_OTHER.format('; '.join(_told(counts, differences)))} {others.told()}".rstrip())
    return to_variables(state_dict, table, template)


def mixtures(state_dict: Mapping[str, Any]) -> int:
    """How many discretised logistics a pixel's outputs are of, ten numbers each."""
    return size(_plain(state_dict), "decoder.out_net.out_conv.weight") // 10


def _plain(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Without what data-parallel training puts before every name."""
    return {name.removeprefix("module."): value for name, value in state_dict.items()}


def _widths_up(state_dict: Mapping[str, Any], ups: tuple[Up, ...]) -> tuple[Up, ...]:
    """The stages, with what each one's first block says."""
    read, at = [], 0
    for stage in ups:
        first = f"encoder.enc_blocks.{at}.c1.weight"
        width, middle = size(state_dict, first, 1), size(state_dict, first)
        read.append(Up(stage.side, stage.blocks, width, stage.pool, None if middle == width // 4 else middle))
        at += stage.blocks
    return tuple(read)


def _widths_down(state_dict: Mapping[str, Any], downs: tuple[Down, ...]) -> tuple[Down, ...]:
    """The same of the way down."""
    read, at = [], 0
    for stage in downs:
        block = f"decoder.dec_blocks.{at}"
        width, middle = (size(state_dict, f"{block}.prior.c1.weight", axis) for axis in (1, 0))
        latents = size(state_dict, f"{block}.z_proj.weight", 1)
        middle = None if middle == width // 4 else middle
        read.append(Down(stage.side, stage.blocks, width, stage.mixes_in, latents, middle))
        at += stage.blocks
    return tuple(read)


def _blocks(stages: tuple[Up, ...] | tuple[Down, ...]) -> list[Up | Down]:
    """The stage of each block."""
    return [stage for stage in stages for _ in range(stage.blocks)]


Said = dict[tuple[str, ...], str]  # of blocks, what is said of them


def _counts(state_dict: Mapping[str, Any], ups: tuple[Up, ...], downs: tuple[Down, ...]) -> Said:
    """Blocks that are missing or not expected."""
    said: Said = {}
    for prefix, stages in (("encoder.enc_blocks", ups), ("decoder.dec_blocks", downs)):
        found, wanted = count(state_dict, prefix), len(_blocks(stages))
        if found != wanted:
            by_side = ", ".join(f"{stage.blocks} at {stage.side}" for stage in stages)
            which = tuple(f"{prefix}.{i}" for i in range(min(found, wanted), max(found, wanted)))
            said[which] = (
                f"it has {found} blocks {prefix}.*, the configuration {wanted} ({by_side}): {enumerated(which)} "
                f"{'missing' if found < wanted else 'not expected'}"
            )
    return said


def _check_counts(state_dict: Mapping[str, Any], ups: tuple[Up, ...], downs: tuple[Down, ...]) -> None:
    """Raises ValueError where there are more or fewer blocks than there should be; kernels tell where that begins."""
    counts, differences = _counts(state_dict, ups, downs), {}
    for prefix, stages in (("encoder.enc_blocks", ups), ("decoder.dec_blocks", downs)):
        if any(blocks[0].startswith(prefix) for blocks in counts):
            differences |= dict(list(_differences(state_dict, prefix, stages).items())[:1])
    if counts:
        raise ValueError(f"{_OTHER.format('; '.join(_told(counts, differences)))} Give the blocks it has.")


_OTHER = "The state dict is of another configuration: {}."


def _told(*parts: Said) -> list[str]:
    """What is said, one after the other."""
    return [sentence for part in parts for sentence in part.values()]


def _shape_of(state_dict: Mapping[str, Any], prefix: str, at: int) -> tuple[int, int] | None:
    """(width, kernel) of a block, or None where that is not there."""
    inside = f"{prefix}.{at}." + ("prior." if prefix.startswith("decoder") else "")
    if not {f"{inside}c1.weight", f"{inside}c2.weight"} <= set(state_dict):
        return None
    return np.shape(state_dict[f"{inside}c1.weight"])[1], np.shape(state_dict[f"{inside}c2.weight"])[-1]


def _differences(state_dict: Mapping[str, Any], prefix: str, stages: tuple[Up, ...] | tuple[Down, ...]) -> Said:
    """Blocks in a row whose width or kernel is not their stage's, and what it is. A width of 1 is not known."""
    runs: dict[tuple[Any, ...], list[str]] = {}
    for at, stage in enumerate(_blocks(stages)):
        found, wanted = _shape_of(state_dict, prefix, at), (stage.width, stage.kernel)
        if found is not None and ((found[0] not in (1, wanted[0]) and wanted[0] > 1) or found[1] != wanted[1]):
            runs.setdefault((stage.side, *wanted, *found), []).append(f"{prefix}.{at}")
    return {
        tuple(blocks): (
            f"{enumerated(blocks)} {'has' if len(blocks) == 1 else 'have'} width {found} and {kernel}x{kernel} "
            f"kernels, where the configuration, at side {side}, has {f'{width} and ' if width > 1 else ''}{size}x{size}"
        )
        for (side, width, size, found, kernel), blocks in runs.items()
    }


def _entries(model: VDVAE) -> Entries:
    """Where every array of such a model is."""
    yield from _conv("encoder.in_conv", "params/stem")
    at = 0
    for stage, name in zip(model.ups, stage_names("up", model.ups), strict=True):
        for i in range(stage.blocks):
            yield from _chain(f"encoder.enc_blocks.{at}", f"params/{name}/bottleneck_0", i)
            at += 1
    at = 0
    for stage, name in zip(model.downs, stage_names("down", model.downs), strict=True):
        for i in range(stage.blocks):
            theirs = f"decoder.dec_blocks.{at}"
            yield from _chain(f"{theirs}.enc", f"params/{name}/posterior", i)
            yield from _chain(f"{theirs}.prior", f"params/{name}/prior", i)
            yield from _conv(f"{theirs}.z_proj", f"params/{name}/project", i)
            yield from _chain(f"{theirs}.resnet", f"params/{name}/bottleneck_0", i)
            at += 1
    widths = {stage.side: stage.width for stage in model.downs}
    biased = [side for side in sorted(widths) if side <= model.no_bias_above]
    for i, side in enumerate(biased):
        theirs = (1, widths[side], side, side)
        yield f"decoder.bias_xs.{i}", Entry(f"params/bias{side}", (1, 2, 0), theirs, theirs[1:])
    for name in ("gain", "bias"):
        yield f"decoder.{name}", Entry(f"params/{name}", shape=(1, widths[model.image[0]], 1, 1))
    yield from _conv("decoder.out_net.out_conv", "params/readout")


def _chain(theirs: str, ours: str, at: int) -> Entries:
    """A bottleneck of four convolutions."""
    for i in range(4):
        yield from _conv(f"{theirs}.c{i + 1}", f"{ours}/conv_{i}", at)


def _conv(theirs: str, ours: str, at: int | None = None) -> Entries:
    yield f"{theirs}.weight", Entry(f"{ours}/kernel", CONV, at=at)
    yield f"{theirs}.bias", Entry(f"{ours}/bias", at=at)
