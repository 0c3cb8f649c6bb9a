"""Weights of VDVAE, openai/vdvae at ea35b49, as `VDVAE`.

The configuration is read off the names and shapes in the `state_dict()` of its `VAE`: widths, latents, the learned
first maps and the size of the mixture. Weights do not determine the resolution of a block; block strings do.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from hvae_jax import models
from hvae_jax.convert.converter import Converter, Preset
from hvae_jax.convert.state_dict import (
    CONV,
    Entries,
    Entry,
    MisfitError,
    Misfits,
    check_numbering,
    count,
    enumerated,
    size,
    template_of,
    to_variables,
    unwrapped,
)
from hvae_jax.likelihoods import Likelihood, LogisticMixture, Quantised
from hvae_jax.models import VDVAE, Down, Up, down_stages, up_stages
from hvae_jax.models.very_deep.block_strings import down_string, up_string
from hvae_jax.models.very_deep.stages import stage_names
from hvae_jax.records import checked

PRESETS: dict[str, Preset] = {
    "cifar10": Preset(models.vdvae_cifar10, "CIFAR-10, 39 million parameters", "cifar10"),
    "imagenet32": Preset(
        models.vdvae_imagenet32, "ImageNet 32x32, van den Oord's, 119 million parameters", "downsampled_imagenet32"
    ),
    "imagenet64": Preset(
        models.vdvae_imagenet64, "ImageNet 64x64, van den Oord's, 125 million parameters", "downsampled_imagenet64"
    ),
    # bits=8: five bits of FFHQ-256 are scored, but the bottom-up path reads all eight (`Quantised`).
    "ffhq256": Preset(models.vdvae_ffhq256, "FFHQ 256x256 at 5 bits, 115 million parameters; give --data", None),
    "ffhq1024": Preset(
        models.vdvae_ffhq1024, "FFHQ 1024x1024, 109 million parameters; give --data and --enc-blocks", None
    ),
    "digits": Preset(models.vdvae_digits, "scikit-learn's digits, for two cores; not published", "digits"),
    "mnist": Preset(models.vdvae_mnist, "binary MNIST, for two cores; not published", "mnist", binarise="dynamic"),
    "cifar10_small": Preset(models.vdvae_cifar10_small, "CIFAR-10, for two cores; not published", "cifar10"),
}


@dataclasses.dataclass(frozen=True)
@checked
class VDVAEOptions:
    """Settings of VDVAE's code in which a file differs from its preset.

    Attributes:
      enc_blocks: blocks of the bottom-up path, "32x11,32d2,..."; None takes the preset's. Widths are read off the file.
      dec_blocks: blocks of the top-down path, "1x1,4m1,..."; None takes the preset's.
      no_bias_above: largest resolution that begins with a learned feature map; None takes the preset's.
    """

    enc_blocks: str | None = None
    dec_blocks: str | None = None
    no_bias_above: int | None = None


def read(
    arrays: Mapping[str, Any], preset: Preset | None, options: VDVAEOptions = VDVAEOptions()
) -> tuple[VDVAE, dict[str, Any]]:
    """(model, variables) of a file, with the preset's blocks unless the options give others.

    The published weights of FFHQ-1024 have two bottom-up blocks fewer than the published settings.

    Raises ValueError if there is no preset or arrays do not fit, as `vdvae` does.
    """
    if preset is None:
        raise ValueError("The weights of VDVAE do not determine the resolutions and the data: give a preset.")
    model = as_published(preset.model())
    if options.no_bias_above is not None:
        model = model.clone(no_bias_above=options.no_bias_above)
    ups, downs = up_string(model.ups), down_string(model.downs)
    try:
        if options.enc_blocks is None and options.dec_blocks is None:
            return model, variables_of(arrays, model)
        found, variables = vdvae(
            arrays,
            ups if options.enc_blocks is None else options.enc_blocks,
            downs if options.dec_blocks is None else options.dec_blocks,
            model.image[0],
            standardise=model.standardise,
            likelihood=_with_mixtures(model.likelihood, mixtures(arrays)),
            no_bias_above=model.no_bias_above,
        )
    except MisfitError as error:
        raise MisfitError(
            f"{error} The preset has --enc-blocks {ups} --dec-blocks {downs}: for a file of other blocks, give its own."
        ) from error
    return found.clone(unroll=model.unroll, remat=model.remat), variables


def as_published(model: VDVAE) -> VDVAE:
    """A preset's model with the likelihood that VDVAE's code trains and evaluates, and without a clamp.

    A model of 32 values becomes one of 256 values that scores their five leading bits, as FFHQ-256 was measured.
    """
    family: Likelihood = model.likelihood
    if isinstance(family, LogisticMixture) and family.values == 32:
        assert model.standardise is not None  # every preset has it
        mean, deviation = model.standardise
        family = Quantised(dataclasses.replace(family, form="vdvae_5_bits"), 8)
        model = model.clone(likelihood=family, standardise=(8 * mean, 8 * deviation))
    elif isinstance(family, LogisticMixture):
        model = model.clone(likelihood=dataclasses.replace(family, form="published"))
    return model.clone(clamp=None)


def _with_mixtures(family: Likelihood, components: int) -> Likelihood:
    """The likelihood with this number of components, if it is a mixture."""
    if isinstance(family, Quantised):
        return dataclasses.replace(family, of=dataclasses.replace(family.of, mixtures=components))
    return dataclasses.replace(family, mixtures=components) if isinstance(family, LogisticMixture) else family


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
    """(model, variables) of a state dict; the model gives the numbers of the public code.

    Args:
      state_dict: arrays or CPU tensors by name.
      enc_blocks, dec_blocks, image_size: the settings of these names in VDVAE's code.
      standardise: mean and standard deviation of the data, (-shift, 1/scale) in that code; x is whole numbers here.
      likelihood: None takes that code's mixture of discretised logistics with 8 bits. For the 5 bits of FFHQ-256 give
        `Quantised(LogisticMixture(values=32, form="vdvae_5_bits"), 8)`: x is 0..255, as the bottom-up path reads it.
      no_bias_above: the setting of this name, 64 as published. None infers it from the learned first maps in the state
        dict, and so does not notice if the last of them are missing.

    Raises ValueError if the state dict does not fit, naming the blocks that differ and other arrays that are
    missing, not expected or of another shape.
    """
    state_dict = unwrapped(state_dict)
    ups, downs = up_stages(enc_blocks, 1), down_stages(dec_blocks, 1)
    _check_counts(state_dict, ups, downs)
    check_numbering(state_dict, "encoder.enc_blocks", "decoder.dec_blocks", "decoder.bias_xs")
    ups, downs = _widths_up(state_dict, ups), _widths_down(state_dict, downs)
    biased = count(state_dict, "decoder.bias_xs")
    sides = sorted({stage.side for stage in downs})
    # 64, as published, if the number of maps agrees with it; otherwise the largest side that has a map.
    inferred = 64 if biased == sum(side <= 64 for side in sides) else ([0, *sides])[min(biased, len(sides))]
    model = VDVAE(
        image=(image_size, image_size, size(state_dict, "encoder.in_conv.weight", 1)),
        ups=ups,
        downs=downs,
        likelihood=likelihood or LogisticMixture(mixtures(state_dict), form="published"),
        standardise=standardise,
        no_bias_above=inferred if no_bias_above is None else no_bias_above,
        clamp=None,
    )
    return model, variables_of(state_dict, model)


def variables_of(state_dict: Mapping[str, Any], model: VDVAE) -> dict[str, Any]:
    """The variables of a known model, such as a preset's. Raises ValueError as `vdvae` does."""
    state_dict, table = unwrapped(state_dict), dict(entries(model))
    template = template_of(model)
    counts, differences = _counts(state_dict, model.ups, model.downs), {}
    for prefix, stages in (("encoder.enc_blocks", model.ups), ("decoder.dec_blocks", model.downs)):
        differences |= _differences(state_dict, prefix, stages)
    if counts or differences:
        odd = {f"{block}." for blocks in (*counts, *differences) for block in blocks}
        others = Misfits.of(state_dict, table, template).outside(odd)
        raise MisfitError(f"{_another(counts, differences)} {others.listed()}".rstrip())
    return to_variables(state_dict, table, template)


def mixtures(state_dict: Mapping[str, Any]) -> int:
    """Number of discretised logistics in the mixture of a pixel; each has ten outputs."""
    return size(unwrapped(state_dict), "decoder.out_net.out_conv.weight") // 10


def _widths_up(state_dict: Mapping[str, Any], ups: tuple[Up, ...]) -> tuple[Up, ...]:
    """The bottom-up stages with the widths of their first blocks."""
    measured, at = [], 0
    for stage in ups:
        first = f"encoder.enc_blocks.{at}.c1.weight"
        width, middle = size(state_dict, first, 1), size(state_dict, first)
        measured.append(Up(stage.side, stage.blocks, width, stage.pool, None if middle == width // 4 else middle))
        at += stage.blocks
    return tuple(measured)


def _widths_down(state_dict: Mapping[str, Any], downs: tuple[Down, ...]) -> tuple[Down, ...]:
    """The top-down stages with the widths and latents of their first blocks."""
    measured, at = [], 0
    for stage in downs:
        block = f"decoder.dec_blocks.{at}"
        width, middle = (size(state_dict, f"{block}.prior.c1.weight", axis) for axis in (1, 0))
        latents = size(state_dict, f"{block}.z_proj.weight", 1)
        middle = None if middle == width // 4 else middle
        measured.append(Down(stage.side, stage.blocks, width, stage.mixes_in, latents, middle))
        at += stage.blocks
    return tuple(measured)


def _blocks(stages: tuple[Up, ...] | tuple[Down, ...]) -> list[Up | Down]:
    """The stage of each block."""
    return [stage for stage in stages for _ in range(stage.blocks)]


_MOST = 6  # largest number of remarks in an error
Remarks = dict[tuple[str, ...], str]  # a sentence about blocks, by their names


def _counts(state_dict: Mapping[str, Any], ups: tuple[Up, ...], downs: tuple[Down, ...]) -> Remarks:
    """Blocks that are missing or not expected."""
    remarks: Remarks = {}
    for prefix, stages in (("encoder.enc_blocks", ups), ("decoder.dec_blocks", downs)):
        found, wanted = count(state_dict, prefix), len(_blocks(stages))
        if found != wanted:
            by_side = ", ".join(f"{stage.blocks} at {stage.side}" for stage in stages)
            which = tuple(f"{prefix}.{i}" for i in range(min(found, wanted), max(found, wanted)))
            remarks[which] = (
                f"it has {found} blocks {prefix}.*, the configuration {wanted} ({by_side}): {enumerated(which)} "
                f"{'missing' if found < wanted else 'not expected'}"
            )
    return remarks


def _check_counts(state_dict: Mapping[str, Any], ups: tuple[Up, ...], downs: tuple[Down, ...]) -> None:
    """Check the number of blocks on both paths.

    Raises ValueError naming the blocks that are missing or not expected, and the first blocks whose kernels differ,
    where the configuration departs from the file.
    """
    counts, differences = _counts(state_dict, ups, downs), {}
    for prefix, stages in (("encoder.enc_blocks", ups), ("decoder.dec_blocks", downs)):
        if any(blocks[0].startswith(prefix) for blocks in counts):
            differences |= dict(list(_differences(state_dict, prefix, stages).items())[:1])
    if counts:
        raise MisfitError(f"{_another(counts, differences)} Give the blocks it has.")


def _another(*parts: Remarks) -> str:
    """A sentence of the first remarks, and the number of others."""
    remarks = [remark for part in parts for remark in part.values()]
    more = f"; and {len(remarks) - _MOST} such remarks more" if len(remarks) > _MOST else ""
    return f"The state dict is of another configuration: {'; '.join(remarks[:_MOST])}{more}."


def _shape_of(state_dict: Mapping[str, Any], prefix: str, at: int) -> tuple[int, int] | None:
    """(width, kernel size) of a block; None if it is not there, or its kernels have other than four axes."""
    inside = f"{prefix}.{at}." + ("prior." if prefix.startswith("decoder") else "")
    shapes = [np.shape(state_dict.get(f"{inside}{name}.weight", 0)) for name in ("c1", "c2")]
    return (shapes[0][1], shapes[1][-1]) if all(len(shape) == 4 for shape in shapes) else None


def _differences(state_dict: Mapping[str, Any], prefix: str, stages: tuple[Up, ...] | tuple[Down, ...]) -> Remarks:
    """Runs of blocks whose width or kernel size differs from their stage's. A stage of width 1 is of unknown width."""
    runs: dict[tuple[Any, ...], list[str]] = {}
    for at, stage in enumerate(_blocks(stages)):
        found, wanted = _shape_of(state_dict, prefix, at), (stage.width, stage.kernel)
        if found is not None and ((found[0] not in (1, wanted[0]) and wanted[0] > 1) or found[1] != wanted[1]):
            runs.setdefault((stage.side, *wanted, *found), []).append(f"{prefix}.{at}")
    return {
        tuple(blocks): (
            f"{enumerated(blocks)} {'has' if len(blocks) == 1 else 'have'} width {found} and {kernel}x{kernel} "
            f"kernels, where the configuration, at side {side}, has {f'{width} and ' if width > 1 else ''}{own}x{own}"
        )
        for (side, width, own, found, kernel), blocks in runs.items()
    }


def entries(model: VDVAE) -> Entries:
    """(public name, entry) of every array of a model."""
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
    """The four convolutions of a bottleneck."""
    for i in range(4):
        yield from _conv(f"{theirs}.c{i + 1}", f"{ours}/conv_{i}", at)


def _conv(theirs: str, ours: str, at: int | None = None) -> Entries:
    yield f"{theirs}.weight", Entry(f"{ours}/kernel", CONV, at=at)
    yield f"{theirs}.bias", Entry(f"{ours}/bias", at=at)


CONVERTER = Converter(
    code="vdvae",
    about="Weights of VDVAE (Child, 2021), openai/vdvae.",
    marks=("encoder.enc_blocks.", "decoder.dec_blocks."),
    presets=PRESETS,
    options=VDVAEOptions,
    read=read,
    names=lambda _, model: (name for name, _ in entries(model)),
    untold=("no_bias_above",),
    needs_preset=True,
)
