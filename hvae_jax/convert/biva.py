"""Weights of V. Lievin's BIVA, Ladder VAE and VAE, vlievin/biva-pytorch at ba37aca, as `BIVA` and `GatedLadderVAE`.

The configuration is read off the names and shapes in the `state_dict()` of a `DeepVae`: which of the three models it
is, stages, blocks, widths, kernel sizes, whether latents are vectors or maps, skips, a conditional bottom-up prior and
a learned top prior. Its stage 0 is z1, the one next to x. A layer without weight norm becomes one with weight norm: its
weight becomes the direction, and the norm of its weight the gain.

The KLs of that code are log-ratios at the sample, our `Trace.ratios`, and its ELBO is our log weight.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax import Array

from hvae_jax.convert.converter import Converter, Preset, check_is_preset
from hvae_jax.convert.state_dict import (
    CONV,
    TRANSPOSED_CONV,
    Entries,
    Entry,
    check_unread,
    count,
    few,
    size,
    template_of,
    to_variables,
    unwrapped,
)
from hvae_jax.likelihoods import Bernoulli, Likelihood, LogisticMixture
from hvae_jax.models import BIVA, GatedLadderVAE
from hvae_jax.models.biva import (
    Stage,
    biva_cifar10,
    biva_mnist,
    gated_ladder_cifar10,
    gated_ladder_mnist,
    sides,
)
from hvae_jax.networks.scale_head import ScaleHead
from hvae_jax.records import checked

# heads and activations by the names in that code's settings
_HEADS = {
    "softplus": ScaleHead("softplus_log_var"),
    "none": ScaleHead("log_var"),
    "tanh": ScaleHead("tanh_log_var"),
}
_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"elu": jax.nn.elu, "relu": jax.nn.relu}

PRESETS: dict[str, Preset] = {
    "mnist": Preset(biva_mnist, "BIVA on static MNIST, 32 million parameters", "binarized_mnist"),
    "cifar10": Preset(biva_cifar10, "BIVA on CIFAR-10, 103 million parameters", "cifar10"),
    "ladder_mnist": Preset(
        gated_ladder_mnist, "its Ladder VAE on static MNIST, 17 million parameters", "binarized_mnist"
    ),
    "ladder_cifar10": Preset(gated_ladder_cifar10, "its Ladder VAE on CIFAR-10, 60 million parameters", "cifar10"),
    "vae_mnist": Preset(
        functools.partial(gated_ladder_mnist, "bottom_up"),
        "its VAE on static MNIST, 18 million parameters",
        "binarized_mnist",
    ),
    "vae_cifar10": Preset(
        functools.partial(gated_ladder_cifar10, "bottom_up"), "its VAE on CIFAR-10, 54 million parameters", "cifar10"
    ),
}


@dataclasses.dataclass(frozen=True)
@checked
class BIVAOptions:
    """Settings that weights do not determine. None takes the preset's, or without a preset that of BIVA's code.

    Attributes:
      image: height and width of x; needed without a preset.
      strides: stride of every block, one word for each stage from x up, such as 1,1,2 1,1,1; None takes 2 where the
        weights show that there is a stride, 1 elsewhere.
      pad: zeros on each side of x: half of what `padded_shp` adds.
      log_var_act: activation of the log variances; that code's None is "none".
      nonlinearity: activation of the layers.
      q_dropout: dropout rate of the inference network.
      p_dropout: dropout rate of the generative network.
    """

    image: tuple[int, int] | None = None
    strides: tuple[str, ...] | None = None
    pad: int | None = None
    log_var_act: Literal["softplus", "none", "tanh"] | None = None
    nonlinearity: Literal["elu", "relu"] | None = None
    q_dropout: float | None = None
    p_dropout: float | None = None


def read(
    arrays: Mapping[str, Any], preset: Preset | None, options: BIVAOptions = BIVAOptions()
) -> tuple[BIVA | GatedLadderVAE, dict[str, Any]]:
    """(model, variables) of a file; with a preset, its configuration has to be the preset's.

    Raises ValueError if neither preset nor options give the size of x, if the configuration is not the preset's, naming
    every setting that differs, and as `deep_vae` does.
    """
    wanted = None if preset is None else preset.model()
    settings: dict[str, Any] = {}
    if wanted is not None:
        settings = {
            "image": wanted.image[:2],
            "pad": wanted.pad,
            "log_var_act": next(name for name, head in _HEADS.items() if head == wanted.head),
            "nonlinearity": next(name for name, act in _ACTIVATIONS.items() if act is wanted.activation),
            "q_dropout": wanted.q_dropout,
            "p_dropout": wanted.p_dropout,
        }
    settings |= {name: value for name, value in vars(options).items() if value is not None}
    if "image" not in settings:
        raise ValueError("The weights of BIVA do not determine the size of x: give --image HEIGHT WIDTH, or --preset.")
    if options.strides is not None:
        settings["strides"] = _parsed(options.strides)
    model, variables = deep_vae(unwrapped(arrays), **settings)
    if wanted is not None:
        # Settings that weights do not determine were just made equal; the file has to agree in all others.
        untold = {name: vars(model)[name] for name in CONVERTER.untold if name != "image"}
        check_is_preset(model, wanted.clone(image=(*model.image[:2], wanted.image[2]), **untold))
    return model, variables


def _parsed(strides: tuple[str, ...]) -> list[list[int]]:
    """Strides of each stage's blocks, from words such as "1,1,2". Raises ValueError if a word does not parse."""
    try:
        return [[int(stride) for stride in stage.split(",")] for stage in strides]
    except ValueError as error:
        raise ValueError(f"--strides {' '.join(strides)}: one word for each stage, such as 1,1,2 1,1,1.") from error


def deep_vae(
    state_dict: Mapping[str, Any],
    image: tuple[int, int],
    likelihood: Likelihood | None = None,
    *,
    strides: Sequence[Sequence[int]] | None = None,
    pad: int = 0,
    log_var_act: str = "softplus",
    nonlinearity: str = "elu",
    q_dropout: float = 0.5,
    p_dropout: float = 0.5,
) -> tuple[BIVA | GatedLadderVAE, dict[str, Any]]:
    """(model, variables) of a state dict; the model gives the numbers of the public code.

    Args:
      state_dict: arrays or CPU tensors by name.
      image: height and width of x.
      likelihood: None infers it from the number of outputs: Bernoulli if there is one for each channel; otherwise a
        mixture of discretised logistics, for which x is whole numbers 0..255 here and from -1 to 1 in that code.
      strides: stride of every block, stage by stage from x up; None takes 2 where the weights show that there is a
        stride, 1 elsewhere.
      pad, log_var_act, nonlinearity, q_dropout, p_dropout: as in `BIVAOptions`.

    Raises ValueError if an activation is unknown or the state dict does not fit, naming arrays that are missing,
    not expected or of another shape, or every layer that its data-dependent initialisation still has to set.
    """
    if nonlinearity not in _ACTIVATIONS:
        raise ValueError(f"deep_vae(nonlinearity={nonlinearity!r}): one of {', '.join(_ACTIVATIONS)}.")
    if log_var_act not in _HEADS:
        raise ValueError(f"deep_vae(log_var_act={log_var_act!r}): one of {', '.join(_HEADS)}.")
    _check_initialised(state_dict)
    up = "q_bu_convs" if any(name.startswith("stages.0.q_bu_convs.") for name in state_dict) else "q_convs"
    stages = _stages(state_dict, up, strides)
    channels = size(state_dict, _weight(state_dict, f"stages.0.{up}.layers.0.conv1.conv"), 1)
    settings: dict[str, Any] = {
        "image": (*image, channels),
        "stages": stages,
        "pad": pad,
        "skip": len(stages) == 1 or _has(state_dict, rf"stages\.\d+\.({up}|p_convs)\..*\.aux_op\."),
        "learn_top_prior": bool(np.any(np.asarray(state_dict.get(f"stages.{len(stages) - 1}.stochastic.prior", 0)))),
        "head": _HEADS[log_var_act],
        "clamp": None,
        "activation": _ACTIVATIONS[nonlinearity],
        "q_dropout": q_dropout,
        "p_dropout": p_dropout,
        "likelihood": likelihood or _likelihood(channels, size(state_dict, "projection.1.conv.bias")),
    }
    if up == "q_bu_convs":
        merge = _weight(state_dict, "stages.0.merge.conv1.conv")
        settings["conditional_bu"] = _has(state_dict, r"stages\.\d+\.bu_condition\.")
        settings["merge_kernel"] = size(state_dict, merge, 2) if len(stages) > 1 else 3
        model: BIVA | GatedLadderVAE = BIVA(**settings)
    else:
        ladder = _has(state_dict, r"stages\.\d+\.merge\.")
        model = GatedLadderVAE(**settings, inference="top_down" if ladder else "bottom_up")
    table = dict(entries(model))
    if not model.learn_top_prior:
        _check_top_prior(state_dict, model)
    ignored = ("initialized",) if model.learn_top_prior else ("initialized", "prior")
    arrays = _in_weight_norm(state_dict, table, len(stages))
    return model, to_variables(arrays, table, template_of(model), ignored)


def _check_top_prior(state_dict: Mapping[str, Any], model: BIVA | GatedLadderVAE) -> None:
    """Check the shape of a top prior that is N(0, I), as `check_unread` does."""
    top = model.stages[0]
    place = sides(model.image, model.pad, model.stages)[0]
    wanted = (2 * top.latents, *(place if top.kernel else ()))
    strides = [[stride for *_, stride in stage.blocks] for stage in reversed(model.stages)]
    settings = f"image={model.image[:2]}, pad={model.pad} and strides={strides} (stage by stage from x up)"
    check_unread(state_dict, f"stages.{len(model.stages) - 1}.stochastic.prior", wanted, settings)


def _has(state_dict: Mapping[str, Any], pattern: str) -> bool:
    return any(re.match(pattern, name) for name in state_dict)


def _weight(state_dict: Mapping[str, Any], layer: str) -> str:
    """Name of a layer's weight: "weight", or "weight_v" with weight norm."""
    return f"{layer}.weight" if f"{layer}.weight" in state_dict else f"{layer}.weight_v"


def _check_initialised(state_dict: Mapping[str, Any]) -> None:
    """Check that data-dependent initialisation has run.

    Raises ValueError naming layers that the next forward pass of that code would initialise anew.
    """
    layers = [
        name.removesuffix(".initialized")
        for name, value in state_dict.items()
        if name.endswith(".initialized") and not np.all(np.asarray(value))
    ]
    waiting = [layer for layer in layers if _has(state_dict, rf"{re.escape(layer)}\.(conv|linear)\.weight_g$")]
    if waiting:
        raise ValueError(
            f"The state dict has not been initialised: that code's first forward pass would do it for "
            f"{few(waiting)}. Run one, and take the state dict after it."
        )


def _stages(state_dict: Mapping[str, Any], up: str, strides: Sequence[Sequence[int]] | None) -> tuple[Stage, ...]:
    """The stages, top first."""
    found: list[Stage] = []
    number = max(count(state_dict, "stages"), 1)
    if strides is not None and len(strides) != number:
        raise ValueError(f"deep_vae(strides={strides}): {len(strides)} stages, but the state dict has {number}.")
    for i in range(number):
        length = max(count(state_dict, f"stages.{i}.{up}.layers"), 1)
        if strides is not None and len(strides[i]) != length:
            raise ValueError(f"deep_vae(strides={strides}): stage {i} of the state dict has {length} blocks.")
        blocks: list[tuple[int, int, int]] = []
        for j in range(length):
            conv1 = _weight(state_dict, f"stages.{i}.{up}.layers.{j}.conv1.conv")
            down = _weight(state_dict, f"stages.{i}.p_convs.layers.{length - 1 - j}.conv2.conv")
            features, kernel = size(state_dict, conv1), size(state_dict, conv1, 2)
            # With a stride the top-down twin is a transposed convolution, whose kernel begins [f inputs, 2 f outputs].
            inferred = 2 if size(state_dict, down) < size(state_dict, down, 1) else 1
            stride = inferred if strides is None else strides[i][j]
            blocks.append((features, kernel, stride))
        # below the top a stage of BIVA has two latents, of one size
        two = up == "q_bu_convs" and i < number - 1
        head = f"stages.{i}.{'bu_stochastic' if two else 'stochastic'}.qx2z"
        vector = f"{head}.linear.bias" in state_dict
        of_latent = None if vector else size(state_dict, _weight(state_dict, f"{head}.conv"), 2)
        latents = size(state_dict, f"{head}.{'linear' if vector else 'conv'}.bias") // 2
        found.append(Stage(latents, tuple(blocks), of_latent))
    return tuple(reversed(found))


def _likelihood(channels: int, outputs: int) -> Likelihood:
    """The likelihood that has this number of outputs for each pixel."""
    if outputs == channels:
        return Bernoulli()
    colours = 3 if channels == 3 else 1
    # outputs per component: a logit, means and log scales, and in colour three coefficients between channels
    each = 10 if channels == 3 else 3
    if outputs % each:
        raise ValueError(
            f"The state dict has {outputs} outputs for each pixel of {channels} channels: neither Bernoulli nor a "
            "mixture of discretised logistics. Give the likelihood."
        )
    return LogisticMixture(mixtures=outputs // each, channels=colours, form="published")


def entries(model: BIVA | GatedLadderVAE) -> Entries:
    """(public name, entry) of every array of a model."""
    top = len(model.stages)
    places = dict(zip(range(top, 0, -1), sides(model.image, model.pad, model.stages), strict=True))
    places[0] = (model.image[0] + 2 * model.pad, model.image[1] + 2 * model.pad)
    skips: list[int] = []
    for number, stage in zip(range(top, 0, -1), model.stages, strict=True):
        theirs, place, start = f"stages.{number - 1}", places[number], places[number - 1][0]
        beside = start if number > 1 and model.skip else None
        if isinstance(model, BIVA):
            yield from _run(f"{theirs}.q_bu_convs", f"up{number}_bu", stage.blocks, start, beside)
            yield from _run(f"{theirs}.q_td_convs", f"up{number}_td", stage.blocks, start, place[0])
            yield from _biva_latents(model, theirs, number, stage, place)
        else:
            yield from _run(f"{theirs}.q_convs", f"up{number}", stage.blocks, start, beside)
            yield from _ladder_latents(model, theirs, number, stage, place)
        if number == top and model.learn_top_prior:
            shape = (2 * stage.latents, *place) if stage.kernel else (2 * stage.latents,)
            yield f"{theirs}.stochastic.prior", Entry("params/top_prior", (1, 2, 0) if stage.kernel else None, shape)
        taken = skips if number < top and model.skip else None
        skips = yield from _way_down(f"{theirs}.p_convs", f"down{number}", stage.blocks, place[0], taken)
    yield from _layer("projection.1.conv", "readout", model.likelihood.outputs(model.image[-1]))


def _biva_latents(model: BIVA, theirs: str, number: int, stage: Stage, place: tuple[int, int]) -> Entries:
    """The latents of one of BIVA's stages, and the layers between them and the paths."""
    if number == len(model.stages):
        yield from _block(f"{theirs}.q_top", f"merge{number}", stage.channels)
        yield from _head(f"{theirs}.stochastic.qx2z", f"q{number}", stage, place)
    else:
        for way in ("td", "bu"):
            yield from _head(f"{theirs}.{way}_stochastic.qx2z", f"q{number}_{way}", stage, place)
            yield from _head(f"{theirs}.{way}_stochastic.px2z", f"p{number}_{way}", stage, place)
        yield from _to_map(f"{theirs}.bu_proj", f"up{number}_z", stage, place, 1)
        yield from _block(f"{theirs}.merge", f"merge{number}", stage.channels, aux=True)
        if model.conditional_bu:
            yield from _block(f"{theirs}.bu_condition", f"condition{number}", stage.channels, aux=True)
    yield from _to_map(f"{theirs}.z_proj", f"down{number}_z", stage, place, 1 if number == len(model.stages) else 2)


def _ladder_latents(model: GatedLadderVAE, theirs: str, number: int, stage: Stage, place: tuple[int, int]) -> Entries:
    """The latent of a stage of the Ladder VAE or VAE, and the layers between it and the paths."""
    top = number == len(model.stages)
    yield from _head(f"{theirs}.stochastic.qx2z", f"q{number}", stage, place)
    if not top:
        yield from _head(f"{theirs}.stochastic.px2z", f"p{number}", stage, place)
    if model.inference == "top_down":
        yield from _block(f"{theirs}.merge", f"merge{number}", stage.channels, aux=not top)
    elif not top:
        yield from _to_map(f"{theirs}.q_proj", f"up{number}_z", stage, place, 1)
    yield from _to_map(f"{theirs}.p_proj", f"down{number}_z", stage, place, 1)


def _run(theirs: str, ours: str, blocks: Sequence[tuple[int, int, int]], side: int, beside: int | None) -> Entries:
    """Bottom-up blocks.

    Args:
      side: height of the maps that the first block reads.
      beside: height of the auxiliary input that all blocks read; None if there is none.
    """
    for j, (features, _, stride) in enumerate(blocks):
        block = f"{theirs}.layers.{j}", f"{ours}/block_{j}", features
        yield from _block(*block, aux=beside is not None, aux_transposed=beside is not None and beside < side)
        side //= stride


def _way_down(
    theirs: str, ours: str, blocks: Sequence[tuple[int, int, int]], side: int, skips: list[int] | None
) -> Generator[tuple[str, Entry], None, list[int]]:
    """The same blocks top-down, in reverse order; takes and returns the heights of the skips in the queue."""
    queue = list(skips or ())
    for j, (features, _, stride) in enumerate(reversed(blocks)):
        beside = None if skips is None else queue.pop(0)
        block = f"{theirs}.layers.{j}", f"{ours}/block_{j}", features
        enlarges = beside is not None and beside < side
        yield from _block(*block, aux=beside is not None, aux_transposed=enlarges, transposed=stride > 1)
        side *= stride
        queue.append(side)
    return queue


def _block(
    theirs: str,
    ours: str,
    features: int,
    *,
    aux: bool = False,
    aux_transposed: bool = False,
    transposed: bool = False,
) -> Entries:
    yield from _layer(f"{theirs}.conv1.conv", f"{ours}/conv1", features)
    yield from _layer(f"{theirs}.conv2.conv", f"{ours}/conv2", 2 * features, transposed=transposed)
    if aux:
        yield from _layer(f"{theirs}.aux_op.conv", f"{ours}/aux", features, transposed=aux_transposed)


def _layer(theirs: str, ours: str, features: int, *, transposed: bool = False) -> Entries:
    """A convolution with weight norm."""
    gain = (1, features, 1, 1) if transposed else (features, 1, 1, 1)
    yield f"{theirs}.weight_v", Entry(f"params/{ours}/kernel", TRANSPOSED_CONV if transposed else CONV)
    yield f"{theirs}.weight_g", Entry(f"params/{ours}/gain", shape=gain)
    yield f"{theirs}.bias", Entry(f"params/{ours}/bias")


def _head(theirs: str, ours: str, stage: Stage, place: tuple[int, int]) -> Entries:
    """The layer from feature maps to mean and log variance: a convolution, or linear if the latent is a vector."""
    features = 2 * stage.latents
    if stage.kernel is not None:
        yield from _layer(f"{theirs}.conv", f"{ours}/conv", features)
        return
    # flattened as [C, H, W] in that code, as [H, W, C] here
    maps = (stage.channels, *place)
    shape, unfold = (features, math.prod(maps)), (features, *maps)
    yield f"{theirs}.linear.weight_v", Entry(f"params/{ours}/linear/kernel", (2, 3, 1, 0), shape, unfold)
    yield f"{theirs}.linear.weight_g", Entry(f"params/{ours}/linear/gain", shape=(features, 1))
    yield f"{theirs}.linear.bias", Entry(f"params/{ours}/linear/bias")


def _to_map(theirs: str, ours: str, stage: Stage, place: tuple[int, int], latents: int) -> Entries:
    """The linear layer from `latents` vectors to feature maps; there is none for latents that are maps."""
    if stage.kernel is not None:
        return
    maps, inputs = (stage.channels, *place), latents * stage.latents
    whole = math.prod(maps)
    theirs, ours = f"{theirs}.linear.linear", f"params/{ours}/linear"
    yield f"{theirs}.weight_v", Entry(f"{ours}/kernel", (3, 1, 2, 0), (whole, inputs), (*maps, inputs))
    yield f"{theirs}.weight_g", Entry(f"{ours}/gain", (1, 2, 0), (whole, 1), maps)
    yield f"{theirs}.bias", Entry(f"{ours}/bias", (1, 2, 0), (whole,), maps)


def _in_weight_norm(state_dict: Mapping[str, Any], table: Mapping[str, Entry], stages: int) -> dict[str, Any]:
    """The state dict with weight norm in every layer, and without the VAE's layer above its top latent.

    That layer would lead to one more stage; nothing reads its output.
    """
    carried: dict[str, Any] = {}
    for name, value in state_dict.items():
        layer, _, last = name.rpartition(".")
        gain = table.get(f"{layer}.weight_g")
        if last == "weight" and gain is not None and gain.shape is not None and np.ndim(value) == len(gain.shape):
            weight = np.asarray(value)
            others = tuple(axis for axis, size in enumerate(gain.shape) if size == 1)
            carried[f"{layer}.weight_v"] = weight
            carried[f"{layer}.weight_g"] = _norms(weight, others)
        elif not name.startswith(f"stages.{stages - 1}.q_proj."):
            carried[name] = value
    return carried


def _norms(weight: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Norms of a weight over axes, in its dtype, float32 at least; in float64 where squares leave the range of that."""
    weight = weight.astype(np.float32) if weight.dtype.itemsize < 4 else weight
    with np.errstate(over="ignore", under="ignore"):
        norms = np.sqrt(np.square(weight).sum(axes, keepdims=True))
    unsure = ~np.isfinite(norms) | (norms < 1e-15)
    if unsure.any():
        exact = np.sqrt(np.square(weight.astype(np.float64)).sum(axes, keepdims=True))
        norms = np.where(unsure, exact.astype(norms.dtype), norms)
    return norms


CONVERTER = Converter(
    code="biva",
    about="Weights of BIVA (Maaloe et al., 2019), and of the Ladder VAE and VAE beside it, vlievin/biva-pytorch.",
    marks=("stages.0.q_bu_convs.", "stages.0.q_convs.", "stages.0.p_convs."),
    presets=PRESETS,
    options=BIVAOptions,
    read=read,
    names=lambda _, model: (name for name, _ in entries(model)),
    untold=("image", "pad", "head", "activation", "q_dropout", "p_dropout"),
    needs_preset=False,
)
