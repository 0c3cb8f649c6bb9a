"""What the article's models share: dense or convolutional networks next to x, a network a level, the top prior."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
from flax import linen as nn
from jax import Array

from hvae_jax.distributions import Latent, Normal
from hvae_jax.likelihoods import Likelihood, LikelihoodRecord
from hvae_jax.models.pieces import gaussian
from hvae_jax.models.top_priors import Ground, NormalPrior, TopPrior
from hvae_jax.networks.activations import identity
from hvae_jax.networks.computing import ComputeDtype, Drawing, call, widen
from hvae_jax.networks.conv import ConvDecoder, ConvEncoder, NetworkKind
from hvae_jax.networks.mlp import MLP, Initialisation, Readout, join


@runtime_checkable
class Settings(Protocol):
    """Fields that the functions of this file read off a model."""

    network: NetworkKind
    width: int
    likelihood: Likelihood
    initialisation: Initialisation
    dtype: ComputeDtype
    remat: bool


@runtime_checkable
class Chain(Settings, Protocol):
    """Fields of a model with a network a level."""

    latents: tuple[int, ...]
    hidden: int
    depth: int
    prior: tuple[nn.Module | None, ...]
    prior_clamp: tuple[float, float] | None
    top_prior: TopPrior


def read_out(
    model: Settings, event: tuple[int, ...] | None, **style: Callable[[Array], Array]
) -> ConvDecoder | Readout:
    """The last layer, from features to the parameters of p(x | z1). `style`: the activation of convolutions."""
    count, channels = model.likelihood.parameters, model.likelihood.channels
    if model.network == "dense":
        return Readout(count, model.dtype, channels, model.initialisation, name="readout")
    return ConvDecoder(count, event, model.width, dtype=model.dtype, channels=channels, name="readout", **style)


def stem_of(model: Settings, replaced: bool, **style: Callable[[Array], Array]) -> ConvEncoder | None:
    """The convolutions between x and the first network; None where there are none.

    Args:
      replaced: whether the user put a network in place of the first one, which then sees x itself.
    """
    if model.network == "dense" or replaced:
        return None
    return ConvEncoder(model.width, dtype=model.dtype, name="stem", **style)


def likelihood_of(
    model: Settings, readout: ConvDecoder | Readout, h: Array, x: Array | None, train: bool
) -> LikelihoodRecord:
    """p(x | z1) from the decoder's features `[B, F]`.

    With Glorot's initialisation the last biases begin as the marginals of the x that the model is initialised on.
    """
    if isinstance(readout, ConvDecoder):
        return model.likelihood(widen(call(readout, h, train=train, remat=model.remat)))

    def first_bias() -> Array | None:
        return None if x is None or model.initialisation == "pytorch" else model.likelihood.marginals(x)

    return model.likelihood(widen(readout(h, None if x is None else x.shape[1:], first_bias)))


def own_network(
    model: Chain, name: str, depth: int, features: int | None = None, last: Callable[[Array], Array] = identity
) -> MLP:
    """A dense network of the model's own, with a last linear layer to `features` or without one."""
    return MLP(
        (model.hidden,) * depth,
        features,
        last_activation=last,
        dtype=model.dtype,
        initialisation=model.initialisation,
        name=name,
    )


def network(
    model: Chain,
    replaced: tuple[nn.Module | None, ...],
    level: int,
    name: str,
    features: int,
    last: Callable[[Array], Array] = identity,
) -> nn.Module:
    """The network that the user put in this level's place, or the model's own."""
    if replaced and (module := replaced[-level]) is not None:
        return module
    return own_network(model, name, model.depth, features, last)


def prior_of(
    model: Chain,
    ground: Ground,
    level: int,
    above: Array | None,
    label: Array | None,
    key: Array,
    train: bool,
) -> tuple[Latent, Array]:
    """p(z_level | z above, y), and the key that the level's sample has left.

    At the top that is the top prior, or with labels a network's Gaussian. A network that draws (`Drawing`) takes its
    key off the level's.
    """
    if above is not None:
        size = model.latents[-level]
        net, given = network(model, model.prior, level, f"prior{level}", 2 * size), join(above, label)
    elif label is not None:
        net, given = own_network(model, f"prior{level}", model.depth, 2 * model.latents[0]), label
    else:
        return model.top_prior(ground), key
    own_key = None
    if isinstance(net, Drawing):
        own_key, key = jax.random.split(key)
    h = call(net, given, train=train, remat=model.remat, key=own_key)
    return gaussian(h, clamp=model.prior_clamp), key


def base_of(prior: Latent, shape: tuple[int, ...]) -> Normal:
    """What a posterior is an offset from: the prior, or N(0, I) where the prior is no Gaussian."""
    return prior if isinstance(prior, Normal) else Normal.standard(shape)


def check_top_prior(model: Chain, classes: int) -> None:
    """Raises ValueError for labels beside a top prior of its own: with labels the top prior is learned from them."""
    if classes and model.top_prior != NormalPrior():
        raise ValueError(
            f"{type(model).__name__}(classes={classes}, top_prior={model.top_prior}): with labels the top prior is "
            "learned from y. Leave one of the two out."
        )
