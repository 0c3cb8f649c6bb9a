"""Weights of the convolutional Ladder VAE of A. Dittadi, addtt/ladder-vae-pytorch at a27d45c, as `ConvLadderVAE`.

Its layer 0 is z1, the level next to x. What its `state_dict()` holds is read by the names that it has there: from them
follow levels, widths, halvings, whether there are skips, gates, batch norms and dropout, the order of the layers in a
residual block and how bottom-up and top-down are merged. What no weight tells has to be said.

Its Bernoulli log-likelihood is made of p, and not of the logit: log (1 - p) has the rounding of p, which is 1 from a
logit of 17 on in float32 and of 37 in float64, and is cut off at -100. `Bernoulli(form="of_p")`, which the converter
sets, is the same; training goes better on the exact form.
"""

import collections
import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hvae_jax.convert.state_dict import CONV, TRANSPOSED_CONV, Entry, count, size, to_variables
from hvae_jax.likelihoods import Bernoulli, DiscretisedLogistic, Gaussian, Likelihood, LogisticMixture
from hvae_jax.models import ConvLadderVAE
from hvae_jax.networks.activations import leaky_relu
from hvae_jax.networks.residual import BlockStyle

_FORMS = ("bernoulli", "gaussian", "discr_log", "discr_log_mix")
_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "leakyrelu": leaky_relu,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
}
_ORDERS = ("bacdbacd", "bacdbac", "cabdcabd")
_NORM = {
    "weight": "params/{}/scale",
    "bias": "params/{}/bias",
    "running_mean": "batch_stats/{}/mean",
    "running_var": "batch_stats/{}/var",
}


def ladder_vae(
    state_dict: Mapping[str, Any], image: tuple[int, int], likelihood: str, nonlin: str = "elu", dropout: float = 0.2
) -> tuple[ConvLadderVAE, dict[str, Any]]:
    """(model, variables) of a state dict: what it scores there it scores here.

    Args:
      state_dict: arrays by name; CPU tensors will do.
      image: height and width of x.
      likelihood: its `likelihood_form`. With the two discretised ones x is whole numbers 0..255 here and those over 255
        there; otherwise it is the same.
      nonlin: its name for the activation, "relu", "leakyrelu", "elu" or "selu".
      dropout: share of the maps, where it has dropout.

    Raises ValueError for another form or activation, and for a state dict that does not fit, naming all that is
    missing, not expected or of another shape.
    """
    if likelihood not in _FORMS:
        raise ValueError(f"ladder_vae(likelihood={likelihood!r}): one of {', '.join(_FORMS)}.")
    if nonlin not in _ACTIVATIONS:
        raise ValueError(f"ladder_vae(nonlin={nonlin!r}): one of {', '.join(_ACTIVATIONS)}.")
    family, gains, shifts = _in_our_units(likelihood)
    plain = _model(state_dict, image, family, BlockStyle(activation=_ACTIVATIONS[nonlin], dropout=dropout))

    # The numbers of a block's layers depend on their order and on whether dropout is one of them: what fits best is it.
    fits = []
    for order, drops in itertools.product(_ORDERS, (True, False)):
        if drops or order != "bacdbacd":  # this one cannot do without
            style = dataclasses.replace(plain.block, order=order, dropout=dropout if drops else 0.0)
            model = plain.clone(block=style)
            table = dict(_table(model, drops, len(gains)))
            fits.append((_misfits(state_dict, table), len(fits), model, table))
    _, _, model, table = min(fits)

    if not model.learn_top_prior:
        _check_top_prior(state_dict, model)
    x = jnp.zeros((1, *model.image))
    template = jax.eval_shape(model.init, jax.random.key(0), x, jax.random.key(0))
    variables = to_variables(state_dict, table, template, _ignored(model))
    readout = variables["params"]["readout"]
    for name, shift in (("kernel", 0.0), ("bias", jnp.asarray(shifts)[None])):
        by_parameter = readout[name].reshape(-1, len(gains)) * jnp.asarray(gains)[None] + shift
        readout[name] = by_parameter.reshape(readout[name].shape)
    return model, variables


def _check_top_prior(state_dict: Mapping[str, Any], model: ConvLadderVAE) -> None:
    """Raises ValueError where a prior that is N(0, I) is not of the size that the top's maps would have."""
    name = f"top_down_layers.{model.num_levels - 1}.top_prior_params"
    wanted = (1, 2 * model.latents[0], *model.top_shape)
    found = tuple(np.shape(state_dict[name])) if name in state_dict else wanted
    if found != wanted:
        raise ValueError(
            f"The state dict's {name} is {found}, but with image={model.image[:2]} it would be {wanted}. Give "
            "ladder_vae the height and width that it was made for."
        )


def _in_our_units(likelihood: str) -> tuple[Likelihood, tuple[float, ...], tuple[float, ...]]:
    """Our family, and for each number it wants, what theirs is multiplied by and then moved by.

    Of the Gaussian theirs is the log variance. Their logistics are cut into 256 bins that fill [0, 1], ours into bins
    around 0, 1, ..., 255 as reals from -1 to 1: the same ones, about 0 instead of 1/2 and 512/255 times as wide. They
    add a mean of 1/2 and a log-scale of -1 to what their network gives.
    """
    wider = 512.0 / 255.0
    if likelihood == "bernoulli":
        return Bernoulli(form="of_p"), (1.0,), (0.0,)
    if likelihood == "gaussian":
        return Gaussian(bound=None), (1.0, 0.5), (0.0, 0.0)
    if likelihood == "discr_log":
        family = DiscretisedLogistic(min_log_scale=math.log(wider) - 7.0, added=1e-7)
        return family, (wider, 1.0), (0.0, math.log(wider) - 1.0)
    return LogisticMixture(form="published"), (1.0,) * 100, (0.0,) * 100


def _model(
    state_dict: Mapping[str, Any], image: tuple[int, int], family: Likelihood, block: BlockStyle
) -> ConvLadderVAE:
    """The settings that the names and shapes tell, but for the order of a block's layers."""
    levels = range(count(state_dict, "top_down_layers"))
    blocks = range(count(state_dict, "bottom_up_layers.0.net"))

    def has(pattern: str) -> bool:
        return any(re.match(pattern, name) for name in state_dict)

    halvings = [sum(has(rf"bottom_up_layers\.{i}\.net\.{j}\.pre_conv\.") for j in blocks) for i in levels]
    latents = [size(state_dict, f"top_down_layers.{i}.stochastic.conv_out.weight", 1) for i in levels]
    prior = state_dict.get(f"top_down_layers.{len(levels) - 1}.top_prior_params")
    return ConvLadderVAE(
        image=(*image, size(state_dict, "first_bottom_up.0.weight", 1)),
        latents=tuple(latents[::-1]),
        downsample=tuple(halvings[::-1]),
        channels=size(state_dict, "first_bottom_up.0.weight"),
        blocks=len(blocks),
        block=dataclasses.replace(
            block,
            gated=has(r"bottom_up_layers\..*\.res\.block\.\d+\.conv\."),
            normalise=has(r".*\.running_(mean|var)$"),
        ),
        halve_first=not has(r"final_top_down\.0\."),
        merge="concat_linear" if has(r"top_down_layers\.\d+\.merge\.layer\.(weight|bias)$") else "concat",
        skip=has(r"top_down_layers\.\d+\.skip_connection_merger\."),
        learn_top_prior=prior is None or bool(np.any(np.asarray(prior))),
        clamp=None,
        scale=255.0 if isinstance(family, DiscretisedLogistic | LogisticMixture) else None,
        likelihood=family,
    )


def _misfits(state_dict: Mapping[str, Any], table: Mapping[str, Entry]) -> int:
    """How many names, and numbers of axes, a table and a state dict do not have in common."""
    axes = [np.ndim(state_dict[name]) != len(table[name].axes or (0,)) for name in table if name in state_dict]
    return len(set(table) ^ set(state_dict)) + sum(axes)


def _ignored(model: ConvLadderVAE) -> tuple[str, ...]:
    """Names that carry nothing: counters, and a prior that is N(0, I)."""
    return ("num_batches_tracked",) if model.learn_top_prior else ("num_batches_tracked", "top_prior_params")


def _table(model: ConvLadderVAE, drops: bool, parameters: int) -> Iterator[tuple[str, Entry]]:
    """Every array of that configuration, by its name there."""
    block = functools.partial(_block, model.block, drops)
    yield from _conv("first_bottom_up.0", "stem")
    yield from block("first_bottom_up.2.res.block", "stem_block", False)
    top = model.num_levels - 1
    for i, halvings in enumerate(reversed(model.downsample)):
        theirs, level = f"top_down_layers.{i}", i + 1
        for j in range(model.blocks):
            up, down = f"bottom_up_layers.{i}.net.{j}", f"{theirs}.deterministic_block.{j}"
            yield from block(f"{up}.res.block", f"up{level}/block_{j}", model.block.gated)
            yield from block(f"{down}.res.block", f"down{level}/block_{j}", model.block.gated)
            if j < halvings:
                yield from _conv(f"{up}.pre_conv", f"up{level}/down_{j}")
                yield from _conv(f"{down}.pre_conv", f"down{level}/up_{j}", TRANSPOSED_CONV)
        yield from _conv(f"{theirs}.stochastic.conv_in_q", f"q{level}")
        yield from _conv(f"{theirs}.stochastic.conv_out", f"z{level}")
        if i == top:
            continue
        yield from _conv(f"{theirs}.stochastic.conv_in_p", f"p{level}")
        if model.merge == "concat_linear":
            yield from _conv(f"{theirs}.merge.layer", f"merge{level}/join")
        else:
            yield from _merge(block, f"{theirs}.merge.layer", f"merge{level}")
        if model.skip:
            yield from _merge(block, f"{theirs}.skip_connection_merger.layer", f"skip{level}")
    if model.learn_top_prior:
        shape = model.top_shape
        both = 2 * model.latents[0]
        yield (
            f"top_down_layers.{top}.top_prior_params",
            Entry("params/top_prior", (1, 2, 0), shape=(1, both, *shape), unfold=(both, *shape)),
        )
    for j in range(model.blocks):
        yield from block(f"final_top_down.{j + model.halve_first}.res.block", f"px/block_{j}", model.block.gated)
    yield from _readout(model, parameters)


def _conv(theirs: str, ours: str, axes: tuple[int, ...] = CONV) -> Iterator[tuple[str, Entry]]:
    yield f"{theirs}.weight", Entry(f"params/{ours}/kernel", axes)
    yield f"{theirs}.bias", Entry(f"params/{ours}/bias")


def _block(style: BlockStyle, drops: bool, theirs: str, ours: str, gated: bool) -> Iterator[tuple[str, Entry]]:
    """A residual block, whose layers are numbered there, those without weights too."""
    letters = [c for c in style.order if (c != "b" or style.normalise) and (c != "d" or drops)]
    seen: collections.Counter[str] = collections.Counter()
    for number, letter in enumerate(letters):
        if letter == "c":
            yield from _conv(f"{theirs}.{number}", f"{ours}/conv_{seen[letter]}")
        elif letter == "b":
            for name, path in _NORM.items():
                yield f"{theirs}.{number}.{name}", Entry(path.format(f"{ours}/norm_{seen[letter]}"))
        seen[letter] += 1
    if gated:
        yield from _conv(f"{theirs}.{len(letters)}.conv", f"{ours}/gate")


def _merge(block: Callable[..., Iterator[tuple[str, Entry]]], theirs: str, ours: str) -> Iterator[tuple[str, Entry]]:
    yield from _conv(f"{theirs}.0", f"{ours}/join")
    yield from block(f"{theirs}.1.block", f"{ours}/block", True)


def _readout(model: ConvLadderVAE, parameters: int) -> Iterator[tuple[str, Entry]]:
    """The last convolution: its outputs go parameter by parameter there and pixel's channel by channel here."""
    sets = model.image[-1] // model.likelihood.channels
    outputs, inputs = sets * parameters, model.channels
    kernel = Entry("params/readout/kernel", (3, 4, 2, 1, 0), (outputs, inputs, 3, 3), (parameters, sets, inputs, 3, 3))
    yield "likelihood.parameter_net.weight", kernel
    yield "likelihood.parameter_net.bias", Entry("params/readout/bias", (1, 0), (outputs,), (parameters, sets))
