"""Weights of NVAE, as `NVAE`.

Names and shapes determine the structure: halvings, groups, cells, widths and latents. The settings that a checkpoint
holds beside its arrays are not needed, and nothing in them is executed.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from hvae_jax.convert.state_dict import CONV, LINEAR, Entry, template_of, to_variables
from hvae_jax.models import NVAE

Entries = Iterator[tuple[str, Entry]]

# What a checkpoint keeps beside its weights: counters, and copies of kernels as they were last normalised.
IGNORED = ("num_batches_tracked", "weight_normalized")


def variables_of(state_dict: Mapping[str, Any], model: NVAE) -> dict[str, Any]:
    """The variables of a known model.

    Raises ValueError if arrays do not fit, naming each.
    """
    return to_variables(state_dict, dict(entries(model)), template_of(model), IGNORED)


def entries(model: NVAE) -> Entries:
    """(public name, entry) of every array of a model."""
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
    for i, count in enumerate(model.groups):
        rows = model.sides[i][0]
        if i:
            yield from _decoder_cell(f"dec_tower.{index}", f"grow{rows}", model.squeeze, doubles=True)
            index += 1
        for group in range(count - (i == 0)):
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
