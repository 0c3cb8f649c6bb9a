"""Weights of the convolutional Ladder VAE of A. Dittadi, addtt/ladder-vae-pytorch at a27d45c, as `ConvLadderVAE`.

The configuration is read off the names and shapes in its `state_dict()`: levels, widths, resolutions, skips, gates,
batch norms, dropout, the order of the layers in a residual block, the merge of the bottom-up and top-down paths, and
the number of components of a mixture. Its layer 0 is z1, the level next to x.

That code computes its Bernoulli log-likelihood from p instead of the logit: log(1 - p) inherits the rounding of p,
which is 1 from a logit of 17 in float32 and of 37 in float64, and is bounded below by -100. `Bernoulli(form="of_p")`,
which the converter sets, does the same; training goes better with the exact form.
"""

import collections
import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
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
    size,
    template_of,
    to_variables,
    unwrapped,
)
from hvae_jax.likelihoods import Bernoulli, DiscretisedLogistic, Gaussian, Likelihood, LogisticMixture
from hvae_jax.models import ConvLadderVAE
from hvae_jax.models.conv_ladder import addtt_cifar10, addtt_mnist
from hvae_jax.networks.activations import leaky_relu
from hvae_jax.networks.residual import BlockStyle
from hvae_jax.records import checked

# likelihoods and activations by the names in that code's settings
_FORMS: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "gaussian": Gaussian,
    "discr_log": DiscretisedLogistic,
    "discr_log_mix": LogisticMixture,
}
_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "leakyrelu": leaky_relu,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
}
# orders of the layers in a residual block, letters as in `BlockStyle`
_ORDERS = ("bacdbacd", "bacdbac", "cabdcabd")
_NORM = {
    "weight": "params/{}/scale",
    "bias": "params/{}/bias",
    "running_mean": "batch_stats/{}/mean",
    "running_var": "batch_stats/{}/var",
}

_MILLIONS = {"mnist": {3: 3.2, 6: 6.0, 12: 11.6}, "cifar10": {3: 3.3, 6: 6.1, 15: 14.5}}  # parameters by layers
PRESETS: dict[str, Preset] = {
    f"mnist_{layers}": Preset(
        functools.partial(addtt_mnist, layers),
        f"static MNIST, {layers} layers, {millions} million parameters",
        "binarized_mnist",
    )
    for layers, millions in _MILLIONS["mnist"].items()
} | {
    f"cifar10_{layers}": Preset(
        functools.partial(addtt_cifar10, layers), f"CIFAR-10, {layers} layers, {millions} million parameters", "cifar10"
    )
    for layers, millions in _MILLIONS["cifar10"].items()
}


@dataclasses.dataclass(frozen=True)
@checked
class AddttOptions:
    """Settings that weights do not determine. None takes the preset's, or without a preset the public code's default.

    Attributes:
      image: height and width of x; needed without a preset.
      likelihood: the setting `likelihood_form`; needed without a preset.
      nonlin: activation of the layers.
      dropout: rate of channel dropout, if the model has dropout.
    """

    image: tuple[int, int] | None = None
    likelihood: Literal["bernoulli", "gaussian", "discr_log", "discr_log_mix"] | None = None
    nonlin: Literal["relu", "leakyrelu", "elu", "selu"] | None = None
    dropout: float | None = None


def read(
    arrays: Mapping[str, Any], preset: Preset | None, options: AddttOptions = AddttOptions()
) -> tuple[ConvLadderVAE, dict[str, Any]]:
    """(model, variables) of a file; with a preset, its configuration has to be the preset's.

    Raises ValueError if neither preset nor options give the size of x and the likelihood, if the configuration is not
    the preset's, naming every setting that differs, and as `ladder_vae` does.
    """
    wanted = None if preset is None else preset.model()
    settings: dict[str, Any] = {}
    if wanted is not None:
        settings = {
            "image": wanted.image[:2],
            "likelihood": next(name for name, family in _FORMS.items() if isinstance(wanted.likelihood, family)),
            "nonlin": next(name for name, act in _ACTIVATIONS.items() if act is wanted.block.activation),
            "dropout": wanted.block.dropout,
        }
        family = wanted.likelihood
        mixtures = family.mixtures if isinstance(family, LogisticMixture) else LogisticMixture().mixtures
        wanted = wanted.clone(likelihood=_in_our_units(settings["likelihood"], mixtures)[0])
    settings |= {name: value for name, value in vars(options).items() if value is not None}
    if not {"image", "likelihood"} <= set(settings):
        raise ValueError(
            "The weights of this code do not determine the size of x and the likelihood: give --image HEIGHT WIDTH "
            "and --likelihood, or --preset."
        )
    model, variables = ladder_vae(unwrapped(arrays), **settings)
    if wanted is not None:
        # Settings that weights do not determine were just made equal; the file has to agree in all others.
        block = dataclasses.replace(
            wanted.block,
            activation=model.block.activation,
            dropout=wanted.block.dropout if options.dropout is None else options.dropout,
        )
        check_is_preset(model, wanted.clone(image=(*model.image[:2], wanted.image[2]), block=block))
    return model, variables


def ladder_vae(
    state_dict: Mapping[str, Any], image: tuple[int, int], likelihood: str, nonlin: str = "elu", dropout: float = 0.2
) -> tuple[ConvLadderVAE, dict[str, Any]]:
    """(model, variables) of a state dict; the model gives the numbers of the public code.

    Args:
      state_dict: arrays or CPU tensors by name.
      image: height and width of x.
      likelihood: the setting `likelihood_form` of that code. With the two discretised ones x is whole numbers 0..255
        here, and those over 255 in that code.
      nonlin: name of the activation in that code: "relu", "leakyrelu", "elu" or "selu".
      dropout: rate of channel dropout; not used for a state dict without dropout.

    Raises ValueError if the form or the activation is unknown or the state dict does not fit, naming arrays that
    are missing, not expected or of another shape.
    """
    if likelihood not in _FORMS:
        raise ValueError(f"ladder_vae(likelihood={likelihood!r}): one of {', '.join(_FORMS)}.")
    if nonlin not in _ACTIVATIONS:
        raise ValueError(f"ladder_vae(nonlin={nonlin!r}): one of {', '.join(_ACTIVATIONS)}.")
    # ten outputs for a component of three colours: its logit, and three numbers for each colour
    outputs = size(state_dict, "likelihood.parameter_net.weight") if likelihood == "discr_log_mix" else 0
    family, gains, shifts = _in_our_units(likelihood, max(outputs // 10, 1))
    plain = _model(state_dict, image, family, BlockStyle(activation=_ACTIVATIONS[nonlin], dropout=dropout))

    # The layers of a block are only numbered: try every order, with dropout and without, and take what fits best.
    fits = []
    for order, drops in itertools.product(_ORDERS, (True, False)):
        if drops or order != "bacdbacd":  # that code has no "bacdbacd" without dropout
            style = dataclasses.replace(plain.block, order=order, dropout=dropout if drops else 0.0)
            model = plain.clone(block=style)
            table = dict(entries(model, drops, len(gains)))
            fits.append((_misfits(state_dict, table), len(fits), model, table))
    _, _, model, table = min(fits)

    if not model.learn_top_prior:
        name, shape = (
            f"top_down_layers.{model.num_levels - 1}.top_prior_params",
            (2 * model.latents[0], *model.top_shape),
        )
        check_unread(state_dict, name, (1, *shape), f"image={model.image[:2]}")
    variables = to_variables(state_dict, table, template_of(model), _ignored(model))
    readout = variables["params"]["readout"]
    for name, shift in (("kernel", 0.0), ("bias", jnp.asarray(shifts)[None])):
        by_parameter = readout[name].reshape(-1, len(gains)) * jnp.asarray(gains)[None] + shift
        readout[name] = by_parameter.reshape(readout[name].shape)
    return model, variables


def _in_our_units(likelihood: str, mixtures: int) -> tuple[Likelihood, tuple[float, ...], tuple[float, ...]]:
    """Our family, and the factor and the offset that turn each parameter of that code into ours.

    `mixtures` is the number of components of a mixture.
    Gaussian: that code has a log variance, we have a log standard deviation. Logistics: its 256 bins fill [0, 1], ours
    lie around 0, 1, ..., 255 scaled to [-1, 1]; they are the same bins around 0 instead of 1/2, 512/255 times as wide.
    That code adds 1/2 to the mean and -1 to the log scale that its network gives.
    """
    wider = 512.0 / 255.0
    if likelihood == "bernoulli":
        return Bernoulli(form="of_p"), (1.0,), (0.0,)
    if likelihood == "gaussian":
        return Gaussian(bound=None), (1.0, 0.5), (0.0, 0.0)
    if likelihood == "discr_log":
        family = DiscretisedLogistic(min_log_scale=math.log(wider) - 7.0, added=1e-7)
        return family, (wider, 1.0), (0.0, math.log(wider) - 1.0)
    family = LogisticMixture(mixtures, form="published")
    return family, (1.0,) * family.parameters, (0.0,) * family.parameters


def _model(
    state_dict: Mapping[str, Any], image: tuple[int, int], family: Likelihood, block: BlockStyle
) -> ConvLadderVAE:
    """The model that names and shapes determine, all but the order of the layers in a block."""
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
    """Number of arrays that only one of table and state dict has, or that differ in the number of axes."""
    axes = [np.ndim(state_dict[name]) != len(table[name].axes or (0,)) for name in table if name in state_dict]
    return len(set(table) ^ set(state_dict)) + sum(axes)


def _ignored(model: ConvLadderVAE) -> tuple[str, ...]:
    """Last parts of names that carry no weights: counters, and a prior that is N(0, I)."""
    return ("num_batches_tracked",) if model.learn_top_prior else ("num_batches_tracked", "top_prior_params")


def entries(model: ConvLadderVAE, drops: bool, parameters: int) -> Entries:
    """(public name, entry) of every array of a model.

    Args:
      drops: whether the blocks have dropout layers, which are numbered as the others.
      parameters: number of outputs of that code for each value of x.
    """
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


def _conv(theirs: str, ours: str, axes: tuple[int, ...] = CONV) -> Entries:
    yield f"{theirs}.weight", Entry(f"params/{ours}/kernel", axes)
    yield f"{theirs}.bias", Entry(f"params/{ours}/bias")


def _block(style: BlockStyle, drops: bool, theirs: str, ours: str, gated: bool) -> Entries:
    """A residual block; that code numbers all its layers, including those without weights."""
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


def _merge(block: Callable[..., Entries], theirs: str, ours: str) -> Entries:
    yield from _conv(f"{theirs}.0", f"{ours}/join")
    yield from block(f"{theirs}.1.block", f"{ours}/block", True)


def _readout(model: ConvLadderVAE, parameters: int) -> Entries:
    """The last convolution."""
    # outputs are ordered [parameters, channels] in that code, [channels, parameters] here
    sets = model.image[-1] // model.likelihood.channels
    outputs, inputs = sets * parameters, model.channels
    kernel = Entry("params/readout/kernel", (3, 4, 2, 1, 0), (outputs, inputs, 3, 3), (parameters, sets, inputs, 3, 3))
    yield "likelihood.parameter_net.weight", kernel
    yield "likelihood.parameter_net.bias", Entry("params/readout/bias", (1, 0), (outputs,), (parameters, sets))


CONVERTER = Converter(
    code="addtt",
    about="Weights of the convolutional Ladder VAE of A. Dittadi, addtt/ladder-vae-pytorch.",
    marks=("first_bottom_up.", "bottom_up_layers.", "top_down_layers."),
    presets=PRESETS,
    options=AddttOptions,
    read=read,
    names=lambda _, model: (name for name, _ in entries(model, model.block.dropout > 0, 1)),
    untold=("image", "block.activation", "block.dropout"),
    needs_preset=False,
)
