"""Weights of I. Gatopoulos' self-supervised VAE, ioangatop/srVAE at dfee765, as `SelfSupervisedVAE`.

The configuration is read off the names and shapes in the `state_dict()` of an `srVAE`: growth and steps of every
network, latent channels, and the prior of u, N(0, I), a mixture or RealNVP. Its images are 32x32 in three colours and
its y 16x16, as that code fixes them.

A component's variance is log(1 + e^h) + 1e-8 in that code, and its weights are all equal: both are what the imported
mixture starts from, and its log variances and weights are parameters. In that code sampling takes the mean of the
likeliest component; here that is temperature 0, up to rounding to whole numbers.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from hvae_jax.convert.converter import Converter, Preset, check_is_preset
from hvae_jax.convert.state_dict import (
    CONV,
    TRANSPOSED_CONV,
    Entries,
    Entry,
    MisfitError,
    count,
    size,
    template_of,
    to_variables,
    unwrapped,
)
from hvae_jax.likelihoods import LogisticMixture
from hvae_jax.models import (
    BilinearHalf,
    DenselyConnectedNetworks,
    MixturePrior,
    NormalPrior,
    RealNVPPrior,
    SelfSupervisedVAE,
    srvae_cifar10,
)
from hvae_jax.models.top_priors import TopPrior
from hvae_jax.records import checked

PRESETS: dict[str, Preset] = {
    "cifar10": Preset(srvae_cifar10, "the model of CIFAR-10 with 1000 components, y of 16x16", "cifar10"),
}
# beginnings of the eight networks, and the field of `DenselyConnectedNetworks` with their growth and steps
_NETWORKS = {
    "q_u_size": "q_u.core_nn.0",
    "p_y_size": "p_y.core_nn.0",
    "q_z_size": "q_z.core_nn.0",
    "p_z_y": "p_z.y_nn.0",
    "p_z_above": "p_z.u_nn.0",
    "p_z_joint": "p_z.core_nn.0",
    "p_x_z": "p_x.z_nn.0",
    "p_x_joint": "p_x.core_nn.0",
}
_COLOURS = 3


@dataclasses.dataclass(frozen=True)
@checked
class SrVAEOptions:
    """Settings that weights do not determine: there are none."""


def read(
    arrays: Mapping[str, Any], preset: Preset | None, options: SrVAEOptions = SrVAEOptions()
) -> tuple[SelfSupervisedVAE, dict[str, Any]]:
    """(model, variables) of a file; with a preset, its configuration has to be the preset's.

    Raises ValueError if the configuration is not the preset's, naming every setting that differs, and as `srvae` does.
    """
    model, variables = srvae(unwrapped(arrays))
    if preset is not None:
        wanted = preset.model()
        prior = wanted.top_prior
        if isinstance(prior, MixturePrior) and isinstance(model.top_prior, MixturePrior):
            prior = dataclasses.replace(prior, spread=model.top_prior.spread)  # of initial means, which no file has
        check_is_preset(model, wanted.clone(top_prior=prior))
    return model, variables


def srvae(state_dict: Mapping[str, Any]) -> tuple[SelfSupervisedVAE, dict[str, Any]]:
    """(model, variables) of a state dict; the model gives the numbers of the public code.

    x is whole numbers 0..255 here, and those over 255 in that code.

    Args:
      state_dict: arrays or CPU tensors by name.
    Raises ValueError if the state dict does not fit, naming arrays that are missing, not expected or of another shape.
    """
    model = _model(state_dict)
    arrays = _in_our_layout(state_dict, model)
    return model, to_variables(arrays, dict(entries(model)), template_of(model), ("pi",))


def _model(state_dict: Mapping[str, Any]) -> SelfSupervisedVAE:
    """The model that names and shapes determine."""
    sizes: dict[str, Any] = {field: _size_of(state_dict, f"{name}.core_nn.0") for field, name in _NETWORKS.items()}
    blocks = max(count(state_dict, "p_z.u_nn.0.core_nn") - 1, 1)
    halvings = max(count(state_dict, "q_u.core_nn.0.core_nn") // 2 - 1, 1)
    of_u = size(state_dict, f"q_u.core_nn.0.core_nn.{2 * halvings + 1}.conv.bias") // 2
    of_z = size(state_dict, f"p_z.core_nn.0.core_nn.{blocks}.conv.bias") // 2
    outputs = size(state_dict, f"p_x.core_nn.0.core_nn.{blocks}.conv.bias")
    return SelfSupervisedVAE(
        image=(32, 32, _COLOURS),
        reductions=(BilinearHalf(),),
        latents=(of_u, of_z),
        networks=DenselyConnectedNetworks(**sizes, blocks=blocks),
        posterior_sees_y=False,
        likelihood=LogisticMixture(max(outputs // 10, 1), form="srvae"),
        top_prior=_prior(state_dict),
        scale=255.0,
    )


def _prior(state_dict: Mapping[str, Any]) -> TopPrior:
    """The prior of u; the standard one of that code has no arrays."""
    if any(name.startswith("p_u.flows.") for name in state_dict):
        scales = 1 + max((name.count("next_block.") for name in state_dict), default=0)
        return RealNVPPrior(scales, *_size_of(state_dict, "p_u.flows.in_couplings.0.st_net.0"))
    if any(name.startswith("p_u.") for name in state_dict):
        return MixturePrior(size(state_dict, "p_u.z_pre", 1) // 2, spread=0.001, clamp=None)
    return NormalPrior()


def _size_of(state_dict: Mapping[str, Any], layer: str) -> tuple[int, int]:
    """(growth, steps) of a layer of dense blocks."""
    # blocks and activations take turns, and the attention is last
    steps = max(count(state_dict, f"{layer}.core_nn") // 2, 1)
    return size(state_dict, f"{layer}.core_nn.0.dense_block.1.conv.bias"), steps


def _in_our_layout(state_dict: Mapping[str, Any], model: SelfSupervisedVAE) -> dict[str, Any]:
    """The state dict with outputs in our order, the mixture in parts, and signs in the gains of the couplings.

    An output layer gives M logits, and then means, log scales and coefficients, component by component and for each its
    three colours; ours goes colour by colour.
    """
    arrays = dict(state_dict)
    assert isinstance(model.likelihood, LogisticMixture)
    m = model.likelihood.mixtures
    # theirs: (part, component, colour) after the logits; ours: (colour, part, component)
    order = np.arange(3 * m * _COLOURS).reshape(3, m, _COLOURS).transpose(2, 0, 1).ravel()
    order = np.concatenate([np.arange(m), m + order])
    for layer in _outputs(model):
        for name in (f"{layer}.weight_v", f"{layer}.weight_g", f"{layer}.bias"):
            if name in arrays and len(np.asarray(arrays[name])) == len(order):
                arrays[name] = np.asarray(arrays[name])[order]
    if isinstance(model.top_prior, MixturePrior):
        both = np.asarray(arrays.pop("p_u.z_pre"))
        channels, units = model.latents[0], model.latents[0] * 8 * 8
        if both.shape != (1, 2 * model.top_prior.components, units):
            raise MisfitError(
                f"The state dict's p_u.z_pre is {both.shape}, not {(1, 2 * model.top_prior.components, units)}."
            )
        mean, h = (half.reshape(-1, channels, 8, 8) for half in np.split(both[0], 2))
        arrays["p_u.z_pre.mean"] = mean
        arrays["p_u.z_pre.log_var"] = np.log(np.logaddexp(0.0, h) + 1e-8).astype(h.dtype)
        arrays["p_u.z_pre.logits"] = np.zeros(len(mean), h.dtype)
    for name in [name for name in arrays if name.endswith(".rescale.weight_v")]:
        gain = name.removesuffix("v") + "g"
        if gain in arrays:
            # weight norm of a single number: gain v/|v|
            arrays[gain] = np.asarray(arrays[gain]) * np.sign(np.asarray(arrays.pop(name)))
    return arrays


def _outputs(model: SelfSupervisedVAE) -> tuple[str, str]:
    """Names of the layers whose outputs are the parameters of p(y | u) and of p(x | y, z)."""
    networks = model.networks
    assert isinstance(networks, DenselyConnectedNetworks)
    return "p_y.core_nn.0.core_nn.2.conv", f"p_x.core_nn.0.core_nn.{networks.blocks}.conv"


def entries(model: SelfSupervisedVAE) -> Entries:
    """(public name, entry) of every array of a model, in the layout of `_in_our_layout`."""
    networks = model.networks
    assert isinstance(networks, DenselyConnectedNetworks)
    of_u, of_z = model.latents
    yield from _prior_entries(model)
    yield from _encoder("q_u.core_nn.0", "q_u", networks.q_u_size, 1)
    yield from _decoder("p_y.core_nn.0", "p_y", networks.p_y_size, 1, of_u)
    yield from _encoder("q_z.core_nn.0", "q_z/encoder", networks.q_z_size, 2)
    yield from _encoder("p_z.y_nn.0", "p_z/of_y", networks.p_z_y, 1)
    yield from _network("p_z.u_nn.0", "p_z/of_above", networks.p_z_above, networks.blocks)
    yield from _network("p_z.core_nn.0", "p_z/joint", networks.p_z_joint, networks.blocks)
    yield from _decoder("p_x.z_nn.0", "p_x/of_z", networks.p_x_z, 2, of_z)
    yield from _network("p_x.core_nn.0", "p_x/joint", networks.p_x_joint, networks.blocks)


def _prior_entries(model: SelfSupervisedVAE) -> Entries:
    """The prior of u."""
    prior = model.top_prior
    if isinstance(prior, MixturePrior):
        yield "p_u.z_pre.mean", Entry("params/top_prior_mean", (0, 2, 3, 1))
        yield "p_u.z_pre.log_var", Entry("params/top_prior_log_var", (0, 2, 3, 1))
        yield "p_u.z_pre.logits", Entry("params/top_prior_logits")
    if isinstance(prior, RealNVPPrior):
        for scale in range(prior.scales):
            last = scale == prior.scales - 1
            theirs, ours = "p_u.flows." + scale * "next_block.", "top_prior/" + scale * "next/"
            for i in range(4 if last else 3):
                yield from _coupling(f"{theirs}in_couplings.{i}", f"{ours}in_{i}", prior.steps)
            for i in range(0 if last else 3):
                yield from _coupling(f"{theirs}out_couplings.{i}", f"{ours}out_{i}", prior.steps)


def _coupling(theirs: str, ours: str, steps: int) -> Entries:
    yield from _blocks(f"{theirs}.st_net.0", f"{ours}/dense", steps)
    yield from _conv(f"{theirs}.st_net.1", f"{ours}/last")
    yield f"{theirs}.rescale.weight_g", Entry(f"params/{ours}/gain", ones=2)


def _encoder(theirs: str, ours: str, growing: tuple[int, int], halvings: int) -> Entries:
    for i in range(halvings):
        yield from _blocks(f"{theirs}.core_nn.{2 * i}", f"{ours}/dense_{i}", growing[1])
        yield from _conv(f"{theirs}.core_nn.{2 * i + 1}.core_nn.0", f"{ours}/down_{i}")
    yield from _blocks(f"{theirs}.core_nn.{2 * halvings}", f"{ours}/dense_{halvings}", growing[1])
    yield from _conv(f"{theirs}.core_nn.{2 * halvings + 1}", f"{ours}/last")


def _decoder(theirs: str, ours: str, growing: tuple[int, int], doublings: int, channels: int) -> Entries:
    """A decoder of maps with that many channels; it has no layer of blocks before its last convolution."""
    growth, steps = growing
    for i in range(doublings):
        yield from _blocks(f"{theirs}.core_nn.{2 * i}", f"{ours}/dense_{i}", steps)
        channels, growth = (channels + steps * growth) // 2, max(1, growth // 2)
        up, path = f"{theirs}.core_nn.{2 * i + 1}.core_nn.0.conv", f"params/{ours}/up_{i}"
        yield f"{up}.weight_v", Entry(f"{path}/kernel", TRANSPOSED_CONV)
        yield f"{up}.weight_g", Entry(f"{path}/gain", shape=(1, channels, 1, 1))
        yield f"{up}.bias", Entry(f"{path}/bias")
    yield from _conv(f"{theirs}.core_nn.{2 * doublings}", f"{ours}/last")


def _network(theirs: str, ours: str, growing: tuple[int, int], blocks: int) -> Entries:
    for i in range(blocks):
        yield from _blocks(f"{theirs}.core_nn.{i}", f"{ours}/dense_{i}", growing[1])
    yield from _conv(f"{theirs}.core_nn.{blocks}", f"{ours}/last")


def _blocks(theirs: str, ours: str, steps: int) -> Entries:
    """A layer of dense blocks, numbered together with their activations, and its attention."""
    for i in range(steps):
        yield from _conv(f"{theirs}.core_nn.{2 * i}.dense_block.0", f"{ours}/wide_{i}")
        yield from _conv(f"{theirs}.core_nn.{2 * i}.dense_block.1", f"{ours}/grow_{i}")
    for i, name in enumerate(("reduce", "expand")):
        attention, path = f"{theirs}.core_nn.{2 * steps}.ca_block.{i}.conv", f"params/{ours}/attention/{name}"
        # a convolution of one pixel there, a linear layer here
        yield f"{attention}.weight_v", Entry(f"{path}/kernel", (1, 0), ones=2)
        yield f"{attention}.weight_g", Entry(f"{path}/gain", ones=3)
        yield f"{attention}.bias", Entry(f"{path}/bias")


def _conv(theirs: str, ours: str) -> Entries:
    """A convolution with weight norm."""
    path = f"params/{ours}"
    yield f"{theirs}.conv.weight_v", Entry(f"{path}/kernel", CONV)
    yield f"{theirs}.conv.weight_g", Entry(f"{path}/gain", ones=3)
    yield f"{theirs}.conv.bias", Entry(f"{path}/bias")


def _names(arrays: Mapping[str, Any], model: SelfSupervisedVAE) -> list[str]:
    """Names of a model's arrays in that code."""
    names = [name for name, _ in entries(model) if not name.startswith("p_u.z_pre.")]
    names += [f"{name.removesuffix('g')}v" for name in names if name.endswith(".rescale.weight_g")]
    return names + (["p_u.z_pre", "p_u.pi"] if isinstance(model.top_prior, MixturePrior) else [])


CONVERTER = Converter(
    code="srvae",
    about="Weights of the self-supervised VAE (Gatopoulos & Tomczak, 2021), ioangatop/srVAE.",
    marks=("q_u.core_nn.", "p_z.u_nn.", "p_x.z_nn."),
    presets=PRESETS,
    options=SrVAEOptions,
    read=read,
    names=_names,
    untold=(),
    needs_preset=False,
)
