"""Weights of NVAE, as `NVAE`.

Names and shapes determine the structure: halvings, groups, cells, flows, widths and latents. They do not determine the
number of bits of the data nor whether posteriors are residual. The settings that a checkpoint holds beside its arrays
are not needed, and nothing in them is executed.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from hvae_jax import models
from hvae_jax.convert.converter import Converter, Preset, check_is_preset
from hvae_jax.convert.state_dict import CONV, LINEAR, Entries, Entry, count, size, template_of, to_variables, unwrapped
from hvae_jax.likelihoods import Bernoulli, Likelihood, LogisticMixture
from hvae_jax.models import NVAE
from hvae_jax.networks.shift_network import EXPANSION
from hvae_jax.records import checked

# What a checkpoint keeps beside its weights: counters, and copies of kernels as they were last normalised.
IGNORED = ("num_batches_tracked", "weight_normalized")

PRESETS: dict[str, Preset] = {
    "mnist": Preset(models.nvae_mnist, "binary MNIST, 33 million parameters", "mnist", binarise="dynamic"),
    "cifar10": Preset(models.nvae_cifar10, "CIFAR-10 with flows, 131 million parameters", "cifar10"),
    "cifar10_no_flows": Preset(
        lambda: models.nvae_cifar10(flows=0), "CIFAR-10 without flows, 129 million parameters", "cifar10"
    ),
    "celeba64": Preset(models.nvae_celeba64, "CelebA 64x64, 153 million parameters", "celeb_a64"),
    "celeba_hq256": Preset(
        models.nvae_faces256, "CelebA-HQ 256x256 at 5 bits, 331 million parameters; give --data", None, bits=5
    ),
    "ffhq256": Preset(
        models.nvae_faces256, "FFHQ 256x256 at 5 bits, 331 million parameters; give --data", None, bits=5
    ),
}


@dataclasses.dataclass(frozen=True)
@checked
class NVAEOptions:
    """Settings of NVAE's code that its weights do not determine.

    Attributes:
      bits: bits of each pixel of colour images; None takes the preset's, or 8.
      residual: whether posteriors are offsets from their priors (`--res_dist`), as in all published models.
      pad: width of the frame of zeros around x; None takes the preset's, or 2 for one channel (28x28 in 32x32) and 0
        for colours.
    """

    bits: int | None = None
    residual: bool = True
    pad: int | None = None


def read(
    arrays: Mapping[str, Any], preset: Preset | None, options: NVAEOptions = NVAEOptions()
) -> tuple[NVAE, dict[str, Any]]:
    """(model, variables) of a file; with a preset, its configuration has to be the preset's.

    Raises ValueError, naming every setting that differs from the preset's or every array that does not fit.
    """
    state_dict = unwrapped(arrays)
    wanted = None if preset is None else as_published(preset.model())
    bits = options.bits
    if bits is None and wanted is not None and isinstance(wanted.likelihood, LogisticMixture):
        bits = wanted.likelihood.values.bit_length() - 1
    pad = wanted.pad if options.pad is None and wanted is not None else options.pad
    found = structure(state_dict, bits=bits or 8, residual=options.residual, pad=pad)
    if wanted is not None:
        check_is_preset(found, wanted.clone(residual=options.residual, unroll=found.unroll, remat=found.remat))
    return found, variables_of(state_dict, found)


def as_published(model: NVAE) -> NVAE:
    """A preset's model with the likelihood, the top prior and the norms of NVAE's code."""
    family: Likelihood = model.likelihood
    if isinstance(family, LogisticMixture):
        family = dataclasses.replace(family, form="nvae")
    return model.clone(likelihood=family, published=True)


def structure(state_dict: Mapping[str, Any], *, bits: int = 8, residual: bool = True, pad: int | None = None) -> NVAE:
    """The model that a state dict is of, read off names and shapes.

    Raises ValueError for arrays that are missing, or an order of cells that is not NVAE's.
    """
    kinds = [_kind(state_dict, f"enc_tower.{i}") for i in range(count(state_dict, "enc_tower"))]
    groups, up_cells = _groups("".join(kinds))
    pre = [_kind(state_dict, f"pre_process.{i}") for i in range(count(state_dict, "pre_process"))]
    halvings = pre.count("R")
    colours = size(state_dict, "stem.weight", 1)
    latents = size(state_dict, "enc_sampler.0.weight") // 2
    pad = (2 if colours == 1 else 0) if pad is None else pad
    side, columns = _top(state_dict)
    factor = 2 ** (halvings + len(groups) - 1)
    outputs = size(state_dict, "image_conditional.1.weight")
    likelihood: Likelihood = Bernoulli()
    if colours > 1:
        likelihood = LogisticMixture(outputs // 10, values=2**bits, form="nvae")
    return NVAE(
        image=(side * factor - 2 * pad, columns * factor - 2 * pad, colours),
        groups=groups,
        latents=latents,
        width=size(state_dict, "stem.weight"),
        halvings=halvings,
        pre_cells=max(1, len(pre) // max(halvings, 1)),
        post_cells=max(1, count(state_dict, "post_process") // max(halvings, 1)),
        up_cells=up_cells,
        down_cells=_down_cells(state_dict),
        residual=residual,
        flows=len(_flow_layers(state_dict, 0, latents)["first"]) // 2,
        squeeze=any(".se." in name for name in state_dict),
        likelihood=likelihood,
        pad=pad,
        published=True,
    )


def _kind(state_dict: Mapping[str, Any], prefix: str) -> str:
    """What a module of a tower is: "R" changes the resolution, "N" is another cell, "C" a combiner."""
    if f"{prefix}.conv.weight" in state_dict:
        return "C"
    return "R" if any(name.startswith(f"{prefix}.skip.") for name in state_dict) else "N"


def _groups(kinds: str) -> tuple[tuple[int, ...], int]:
    """Groups of each resolution, top first, and the cells of each, from the kinds of the tower's modules."""
    cells = len(kinds) - len(kinds.lstrip("N"))
    # the last group of all has no combiner
    scales = [scale.count("C") for scale in kinds.split("R")]
    scales[-1] += 1
    # one text of all modules, so that whatever deviates from NVAE's order is found
    expected = "R".join(("N" * cells + "C") * n for n in scales)[:-1]
    if not cells or kinds != expected:
        raise ValueError(
            f"The modules enc_tower.* come in the order {kinds!r} (N a cell, C a combiner, R a cell that halves). That "
            "is not the order of NVAE: groups of equally many cells, a combiner after each but the last."
        )
    return tuple(reversed(scales)), cells


def _down_cells(state_dict: Mapping[str, Any]) -> int:
    """Cells before each latent of the top-down tower; 1 for a model of one group, which has none."""
    kinds = "".join(_kind(state_dict, f"dec_tower.{i}") for i in range(count(state_dict, "dec_tower")))
    return max((len(run) for run in re.findall("N+", kinds)), default=1)


def _top(state_dict: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of the first state."""
    if "prior_ftr0" not in state_dict:
        raise ValueError(
            "The state dict has no prior_ftr0: a model of a single group does not say the size of its images, and is "
            "not read without its settings."
        )
    return size(state_dict, "prior_ftr0", 1), size(state_dict, "prior_ftr0", 2)


def variables_of(state_dict: Mapping[str, Any], model: NVAE) -> dict[str, Any]:
    """The variables of a known model.

    Raises ValueError if arrays do not fit, naming each.
    """
    table = dict(entries(model))
    for level in range(model.num_levels if model.flows else 0):
        table |= dict(_flow(state_dict, model, level))
    return to_variables(state_dict, table, template_of(model), IGNORED)


def entries(model: NVAE) -> Entries:
    """(public name, entry) of every array of a model, except those of flows, whose names do not follow from it."""
    yield from _conv("stem", "stem")
    for i in range(model.halvings):
        for j in range(model.pre_cells):
            halves = j == model.pre_cells - 1
            yield from _encoder_cell(f"pre_process.{i * model.pre_cells + j}", f"pre_{i}_{j}", model.squeeze, halves)
    taps = yield from _tower(model)
    yield from _conv("enc0.1", "top")
    yield from _conv("enc_sampler.0", "top_posterior")
    yield from _descent(model, taps[::-1])
    for i in range(model.halvings):
        for j in range(model.post_cells):
            name, ours = f"post_process.{i * model.post_cells + j}", f"post_{i}_{j}"
            yield from _decoder_cell(name, ours, model.squeeze, doubles=j == 0)
    yield from _conv("image_conditional.1", "readout")


def _tower(model: NVAE) -> Iterator[Any]:
    """The entries of the bottom-up tower; returns the indices of its combiners, in the order of the taps."""
    index, taps = 0, []
    for i in reversed(range(len(model.groups))):
        rows = model.sides[i][0]
        for group in range(model.groups[i]):
            for j in range(model.up_cells):
                yield from _encoder_cell(f"enc_tower.{index}", f"up{rows}/cell_{j}", model.squeeze, False, group)
                index += 1
            # the output of the last group is not tapped: it goes to the top
            if len(taps) < model.num_levels - 1:
                taps.append(index)
                index += 1
        if i:
            yield from _encoder_cell(f"enc_tower.{index}", f"shrink{rows}", model.squeeze, True)
            index += 1
    return taps


def _descent(model: NVAE, taps: list[int]) -> Entries:
    """The entries of the top-down tower; `taps` are the indices of the combiners that its groups read."""
    if not model.chained:
        yield from _conv("stem_decoder", "join")
        return
    yield "prior_ftr0", Entry("params/start", (1, 2, 0))
    yield from _conv("dec_tower.0.conv", "join")
    index, level = 1, 1
    for i, groups in enumerate(model.groups):
        rows = model.sides[i][0]
        if i:
            yield from _decoder_cell(f"dec_tower.{index}", f"grow{rows}", model.squeeze, doubles=True)
            index += 1
        for group in range(groups - (i == 0)):
            ours = f"down{rows}"
            for j in range(model.down_cells):
                yield from _decoder_cell(
                    f"dec_tower.{index}", f"{ours}/cell_{j}", model.squeeze, doubles=False, at=group
                )
                index += 1
            yield from _conv(f"dec_sampler.{level - 1}.1", f"{ours}/prior", group)
            yield from _conv(f"enc_tower.{taps[level - 1]}.conv", f"{ours}/meet", group)
            yield from _conv(f"enc_sampler.{level}", f"{ours}/posterior", group)
            yield from _conv(f"dec_tower.{index}.conv", f"{ours}/join", group)
            index, level = index + 1, level + 1


def _encoder_cell(theirs: str, ours: str, squeeze: bool, halves: bool, at: int | None = None) -> Entries:
    for i in range(2):
        yield from _norm(f"{theirs}._ops.{i}.bn_act", f"{ours}/norm_{i}", at)
        yield from _conv(f"{theirs}._ops.{i}.conv_0", f"{ours}/conv_{i}", at)
    if halves:
        for i in range(4):
            yield from _conv(f"{theirs}.skip.conv_{i + 1}", f"{ours}/skip/conv_{i}", at)
    if squeeze:
        yield from _squeeze(theirs, ours, at)


def _decoder_cell(theirs: str, ours: str, squeeze: bool, *, doubles: bool, at: int | None = None) -> Entries:
    inner, first = f"{theirs}._ops.0.conv", int(doubles)  # the upsampling takes an index of its own
    yield from _norm(f"{inner}.{first}.bn", f"{ours}/norm_0", at)
    yield f"{inner}.{first + 1}.conv.0.weight", Entry(f"params/{ours}/expand_kernel", CONV, at=at)
    yield from _norm(f"{inner}.{first + 1}.conv.1", f"{ours}/norm_1", at)
    yield f"{inner}.{first + 2}.conv.0.weight", Entry(f"params/{ours}/depthwise_kernel", CONV, at=at)
    yield from _norm(f"{inner}.{first + 2}.conv.1", f"{ours}/norm_2", at)
    yield f"{inner}.{first + 3}.weight", Entry(f"params/{ours}/project_kernel", CONV, at=at)
    yield from _norm(f"{inner}.{first + 4}.bn", f"{ours}/norm_3", at)
    if doubles:
        yield from _conv(f"{theirs}.skip.1", f"{ours}/skip", at, bias=False)
    if squeeze:
        yield from _squeeze(theirs, ours, at)


def _squeeze(theirs: str, ours: str, at: int | None) -> Entries:
    for i, name in ((0, "reduce"), (2, "expand")):
        yield f"{theirs}.se.se.{i}.weight", Entry(f"params/{ours}/squeeze/{name}/kernel", LINEAR, at=at)
        yield f"{theirs}.se.se.{i}.bias", Entry(f"params/{ours}/squeeze/{name}/bias", at=at)


def _norm(theirs: str, ours: str, at: int | None) -> Entries:
    yield f"{theirs}.weight", Entry(f"params/{ours}/scale", at=at)
    yield f"{theirs}.bias", Entry(f"params/{ours}/bias", at=at)
    yield f"{theirs}.running_mean", Entry(f"batch_stats/{ours}/mean", at=at)
    yield f"{theirs}.running_var", Entry(f"batch_stats/{ours}/var", at=at)


def _conv(theirs: str, ours: str, at: int | None = None, *, bias: bool = True) -> Entries:
    yield f"{theirs}.weight", Entry(f"params/{ours}/kernel", CONV, at=at)
    if bias:
        yield f"{theirs}.bias", Entry(f"params/{ours}/bias", at=at)
    yield f"{theirs}.log_weight_norm", Entry(f"params/{ours}/log_norm", at=at, ones=3)


def _flow_layers(state_dict: Mapping[str, Any], level: int, latents: int) -> dict[str, list[str]]:
    """Names of the convolutions of a level's flow by what they are, in the order of the steps.

    Their shapes tell them apart: masked 3x3, depthwise 5x5 and 1x1 kernels between z and six times its channels.
    """
    inside = EXPANSION * latents
    shapes = {(inside, latents, 3, 3): "first", (inside, 1, 5, 5): "middle", (latents, inside, 1, 1): "out"}
    found: dict[str, list[str]] = {"first": [], "middle": [], "out": []}

    def natural(name: str) -> list[Any]:
        """A key by which 10 comes after 2."""
        return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]

    for name in sorted(state_dict, key=natural):
        kind = shapes.get(tuple(np.shape(state_dict[name])))
        if name.startswith(f"nf_cells.{level}.") and name.endswith(".weight") and kind is not None:
            found[kind].append(name.removesuffix(".weight"))
    return found


def flow_owner(model: NVAE, level: int) -> tuple[str, int | None]:
    """Path of the run that a level's flow is in, such as "down8/", and its index there; ("", None) for the top one."""
    first = 1  # the top group is no part of a run
    for i, groups in enumerate(model.groups if level else ()):
        groups -= i == 0
        if level < first + groups:
            return f"down{model.sides[i][0]}/", level - first
        first += groups
    return "", None


def _flow(state_dict: Mapping[str, Any], model: NVAE, level: int) -> Entries:
    """The entries of one level's flow."""
    owner, at = flow_owner(model, level)
    for kind, names in _flow_layers(state_dict, level, model.latents).items():
        for step, name in enumerate(names):
            ours = f"params/{owner}flow/step_{step}/{kind}"
            yield f"{name}.weight", Entry(f"{ours}_kernel", CONV, at=at)
            yield f"{name}.log_weight_norm", Entry(f"{ours}_log_norm", at=at, ones=3)
            if kind == "out":
                yield f"{name}.bias", Entry(f"{ours}_bias", at=at)


CONVERTER = Converter(
    code="nvae",
    about="Weights of NVAE (Vahdat & Kautz, 2020), NVlabs/NVAE.",
    marks=("enc_tower.", "dec_tower.", "prior_ftr0"),
    presets=PRESETS,
    options=NVAEOptions,
    read=read,
    names=lambda _, model: (name for name, _ in entries(model)),
    untold=("residual", "pad"),
    needs_preset=False,
)
