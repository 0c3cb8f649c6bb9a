"""Weights of V. Lievin's BIVA, Ladder VAE and VAE, vlievin/biva-pytorch at ba37aca, as `BIVA` and `GatedLadderVAE`.

Its stage 0 is z1, the one next to x. What the `state_dict()` of a `DeepVae` holds is read by the names that it has
there: from them follow which of the three it is, stages, blocks, widths, sizes of kernels, latents that are vectors or
maps, whether there are skips, a conditional bottom-up prior and a learned top prior. What no weight tells has to be
said. A layer without weight norm becomes one with: its weight is the direction, its norm the gain.

The KLs of that code are log-ratios at the sample, our `Trace.ratios`, and its ELBO is our log weight.
"""

import math
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hvae_jax.convert.state_dict import CONV, TRANSPOSED_CONV, Entry, count, size, to_variables
from hvae_jax.distributions import ScaleHead
from hvae_jax.likelihoods import Bernoulli, Likelihood, LogisticMixture
from hvae_jax.models import BIVA, GatedLadderVAE
from hvae_jax.models.biva import Stage, sides

LogVarAct = Literal["softplus", "none", "tanh"]
_HEADS = {
    "softplus": ScaleHead("softplus_log_var"),
    "none": ScaleHead("log_var"),
    "tanh": ScaleHead("tanh_log_var"),
}
Entries = Iterator[tuple[str, Entry]]

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"elu": jax.nn.elu, "relu": jax.nn.relu}


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
    """(model, variables) of a state dict: what it scores there it scores here.

    Args:
      state_dict: arrays by name; CPU tensors will do.
      image: height and width of x.
      likelihood: None for what the number of outputs tells: one for each channel, Bernoulli; otherwise a mixture of
        discretised logistics, for which x is whole numbers 0..255 here and from -1 to 1 there.
      strides: of every block, stage by stage from x up; None where each is 1, or 2 where the weights say there is one.
      pad: zeros around x, where it was given a `padded_shp`: half of what that adds.
      log_var_act: its `log_var_act`, "none" for None.
      nonlinearity: its name for the activation, "elu" or "relu".
      q_dropout, p_dropout: its shares.

    Raises ValueError for another activation, and for a state dict that does not fit, naming all that is missing, not
    expected or of another shape, or that has not been through its data-dependent initialisation.
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
    fitting = table(model)
    template = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *model.image)), jax.random.key(0))
    if not model.learn_top_prior:
        _check_top_prior(state_dict, model)
    ignored = ("initialized",) if model.learn_top_prior else ("initialized", "prior")
    return model, to_variables(_in_weight_norm(state_dict, fitting, len(stages)), fitting, template, ignored)


def _check_top_prior(state_dict: Mapping[str, Any], model: BIVA | GatedLadderVAE) -> None:
    """Raises ValueError where a prior that is N(0, I) is not of the size that the top's maps would have.

    It is the one array that tells, of a model whose latents are all maps, how large these are.
    """
    name, top = f"stages.{len(model.stages) - 1}.stochastic.prior", model.stages[0]
    place = sides(model.image, model.pad, model.stages)[0]
    wanted = (2 * top.latents, *(place if top.kernel else ()))
    found = tuple(np.shape(state_dict[name])) if name in state_dict else wanted
    if found != wanted:
        strides = [[stride for *_, stride in stage.blocks] for stage in reversed(model.stages)]
        raise ValueError(
            f"The state dict's {name} is {found}, but with image={model.image[:2]}, pad={model.pad} and strides="
            f"{strides} (stage by stage from x up) it would be {wanted}. Give deep_vae the ones it was made with."
        )


def _has(state_dict: Mapping[str, Any], pattern: str) -> bool:
    return any(re.match(pattern, name) for name in state_dict)


def _weight(state_dict: Mapping[str, Any], layer: str) -> str:
    """A layer's weight: "weight", or with weight norm "weight_v"."""
    return f"{layer}.weight" if f"{layer}.weight" in state_dict else f"{layer}.weight_v"


def _check_initialised(state_dict: Mapping[str, Any]) -> None:
    """Raises ValueError where weights are still to be drawn, at that code's first forward pass."""
    layers = [
        name.removesuffix(".initialized")
        for name, value in state_dict.items()
        if name.endswith(".initialized") and not np.all(np.asarray(value))
    ]
    waiting = [layer for layer in layers if _has(state_dict, rf"{re.escape(layer)}\.(conv|linear)\.weight_g$")]
    if waiting:
        raise ValueError(
            f"The state dict has not been initialised: the first forward pass there would draw {', '.join(waiting)} "
            "anew. Run one, and take the state dict after it."
        )


def _stages(state_dict: Mapping[str, Any], up: str, strides: Sequence[Sequence[int]] | None) -> tuple[Stage, ...]:
    """Top first. Of a stride above 1 it is known that there is one: its kernels on the way down have inputs first."""
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
            told = 2 if size(state_dict, down) < size(state_dict, down, 1) else 1
            stride = told if strides is None else strides[i][j]
            blocks.append((features, kernel, stride))
        two = up == "q_bu_convs" and i < number - 1
        head = f"stages.{i}.{'bu_stochastic' if two else 'stochastic'}.qx2z"
        vector = f"{head}.linear.bias" in state_dict
        of_latent = None if vector else size(state_dict, _weight(state_dict, f"{head}.conv"), 2)
        latents = size(state_dict, f"{head}.{'linear' if vector else 'conv'}.bias") // 2
        found.append(Stage(latents, tuple(blocks), of_latent))
    return tuple(reversed(found))


def _likelihood(channels: int, outputs: int) -> Likelihood:
    """The one whose numbers there are as many of."""
    if outputs == channels:
        return Bernoulli()
    colours = 3 if channels == 3 else 1
    each = 10 if channels == 3 else 3
    if outputs % each:
        raise ValueError(
            f"The state dict has {outputs} outputs for each pixel of {channels} channels: neither Bernoulli nor a "
            "mixture of discretised logistics. Give the likelihood."
        )
    return LogisticMixture(mixtures=outputs // each, channels=colours, form="published")


def table(model: BIVA | GatedLadderVAE) -> dict[str, Entry]:
    """Where every array of such a model is, by its name there."""
    return dict(_entries(model))


def _entries(model: BIVA | GatedLadderVAE) -> Entries:
    """The same, one after the other."""
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
    """What is between the paths of one of BIVA's stages."""
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
    """What is between the paths of a Ladder VAE's or VAE's stage."""
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
    """Blocks on the way up from maps of that side; `beside`: the side of what all of them read too."""
    for j, (features, _, stride) in enumerate(blocks):
        block = f"{theirs}.layers.{j}", f"{ours}/block_{j}", features
        yield from _block(*block, aux=beside is not None, aux_transposed=beside is not None and beside < side)
        side //= stride


def _way_down(
    theirs: str, ours: str, blocks: Sequence[tuple[int, int, int]], side: int, skips: list[int] | None
) -> Generator[tuple[str, Entry], None, list[int]]:
    """The same blocks the other way round; takes and returns the sides of the skips in the queue."""
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
    """From maps to mean and log variance; of a vector, a linear layer of maps flattened channel by channel."""
    features = 2 * stage.latents
    if stage.kernel is not None:
        yield from _layer(f"{theirs}.conv", f"{ours}/conv", features)
        return
    maps = (stage.channels, *place)
    shape, unfold = (features, math.prod(maps)), (features, *maps)
    yield f"{theirs}.linear.weight_v", Entry(f"params/{ours}/linear/kernel", (2, 3, 1, 0), shape, unfold)
    yield f"{theirs}.linear.weight_g", Entry(f"params/{ours}/linear/gain", shape=(features, 1))
    yield f"{theirs}.linear.bias", Entry(f"params/{ours}/linear/bias")


def _to_map(theirs: str, ours: str, stage: Stage, place: tuple[int, int], latents: int) -> Entries:
    """From so many vectors to maps, flattened channel by channel there. What are maps already needs none."""
    if stage.kernel is not None:
        return
    maps, inputs = (stage.channels, *place), latents * stage.latents
    whole = math.prod(maps)
    theirs, ours = f"{theirs}.linear.linear", f"params/{ours}/linear"
    yield f"{theirs}.weight_v", Entry(f"{ours}/kernel", (3, 1, 2, 0), (whole, inputs), (*maps, inputs))
    yield f"{theirs}.weight_g", Entry(f"{ours}/gain", (1, 2, 0), (whole, 1), maps)
    yield f"{theirs}.bias", Entry(f"{ours}/bias", (1, 2, 0), (whole,), maps)


def _in_weight_norm(state_dict: Mapping[str, Any], table: Mapping[str, Entry], stages: int) -> dict[str, Any]:
    """The state dict with weight norm everywhere, and without a layer of the VAE's that leads nowhere.

    That one would go on from the top latent's sample to a stage above it.
    """
    carried: dict[str, Any] = {}
    for name, value in state_dict.items():
        layer, _, last = name.rpartition(".")
        gain = table.get(f"{layer}.weight_g")
        if last == "weight" and gain is not None and gain.shape is not None and np.ndim(value) == len(gain.shape):
            weight = np.asarray(value)
            others = tuple(axis for axis, size in enumerate(gain.shape) if size == 1)
            carried[f"{layer}.weight_v"] = weight
            carried[f"{layer}.weight_g"] = np.sqrt(np.square(weight).sum(others, keepdims=True))
        elif not name.startswith(f"stages.{stages - 1}.q_proj."):
            carried[name] = value
    return carried
