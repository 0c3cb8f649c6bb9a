"""Functions that the article's models share: networks of each level, networks next to x, and the top prior.

The networks next to x are dense or convolutional (`network`). With "conv", a `ConvEncoder`, the stem, precedes the
first bottom-up network, and a `ConvDecoder` replaces the last linear layer, the readout.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from flax import linen as nn
from jax import Array

from hvae_jax.distributions import Latent, Normal
from hvae_jax.likelihoods import Likelihood, LikelihoodRecord
from hvae_jax.models.pieces import gaussian
from hvae_jax.models.top_priors import Ground, NormalPrior, TopPrior
from hvae_jax.networks.activations import exact_gelu, identity, leaky_relu, sigmoid_gelu
from hvae_jax.networks.computing import ComputeDtype, Drawing, call, widen
from hvae_jax.networks.conv import ConvDecoder, ConvEncoder, NetworkKind
from hvae_jax.networks.mlp import MLP, Initialisation, Readout, join
from hvae_jax.records import check_sizes
from hvae_jax.runtime.prng import split


@runtime_checkable
class ArticleModel(Protocol):
    """Fields of the article's models that the functions of this file read."""

    network: NetworkKind
    width: int
    likelihood: Likelihood
    top_prior: TopPrior
    classes: int
    initialisation: Initialisation
    dtype: ComputeDtype
    remat: bool


@runtime_checkable
class Chain(ArticleModel, Protocol):
    """Fields of a model with one network per level."""

    latents: tuple[int, ...]
    hidden: int
    depth: int
    bottom_up: tuple[nn.Module | None, ...]
    prior: tuple[nn.Module | None, ...]
    prior_clamp: tuple[float, float] | None


def check_top_prior(model: ArticleModel) -> None:
    """Raise ValueError if there are both labels and a top prior: with labels, the top prior is learned from y."""
    if model.classes and model.top_prior != NormalPrior():
        raise ValueError(
            f"{type(model).__name__}(classes={model.classes}, top_prior={model.top_prior}): with labels the top prior "
            "is learned from y. Set only one of the two."
        )


def check_chain(model: Chain, **heads: tuple[nn.Module | None, ...]) -> None:
    """Check the fields of `Chain`, and the networks that replace the model's own.

    Args:
      heads: the networks that replace the model's heads, under the name of their field.

    Raises ValueError if a size is below 1, there are labels and a top prior, or the number of networks does not fit
    the number of levels.
    """
    check_sizes(model, "latents", "hidden", "depth", "width")
    check_top_prior(model)
    # keyed by the field's name, which the error gives back
    for name, networks in {"bottom_up": model.bottom_up, **heads, "prior": model.prior}.items():
        levels = len(model.latents)
        # p(z_L) is the top prior: it has no network that reads a latent above
        count = levels - 1 if name == "prior" else levels
        if len(networks) not in (0, count):
            raise ValueError(
                f"{type(model).__name__}({name}=...) has {len(networks)} networks, but {levels} levels need {count}, "
                "top first; None keeps the model's own, () keeps all."
            )


def stem_of(
    model: ArticleModel, replaced: bool, activation: Callable[[Array], Array] = sigmoid_gelu
) -> ConvEncoder | None:
    """Return the convolutions before the first bottom-up network; None for a dense model.

    Args:
      replaced: whether the user has replaced the first network, which then reads x itself: there is no stem.
      activation: nonlinearity of the convolutions.
    """
    if model.network == "dense" or replaced:
        return None
    return ConvEncoder(model.width, activation, dtype=model.dtype, name="stem")


def readout_of(
    model: ArticleModel, event: tuple[int, ...] | None, activation: Callable[[Array], Array] = sigmoid_gelu
) -> ConvDecoder | Readout:
    """Return the last layer, from the decoder's features to the parameters of p(x | z1).

    Args:
      event: shape of one x; None if the variables record it.
      activation: nonlinearity of the convolutions; not used by linear layers.
    """
    # how many numbers the last layer has to give for each element of x
    count, channels = model.likelihood.parameters, model.likelihood.channels
    if model.network == "dense":
        return Readout(count, model.dtype, channels, model.initialisation, name="readout")
    return ConvDecoder(count, event, model.width, activation, dtype=model.dtype, channels=channels, name="readout")


def likelihood_of(
    model: ArticleModel, decoder: nn.Module, readout: ConvDecoder | Readout, z: Array, x: Array | None, train: bool
) -> LikelihoodRecord:
    """Return p(x | z1).

    Args:
      decoder: the network before the readout.
      z: z1, with y appended if there are labels, `[B, d]`.
      x: the examples `[B, *event]`, or None. Under Glorot's initialisation the readout's biases start at their
        marginals.
    """
    h = call(decoder, z, train=train, remat=model.remat)  # [B, F]
    # the biases of a convolutional readout keep their initialiser even under "glorot"
    if isinstance(readout, ConvDecoder):
        return model.likelihood(widen(call(readout, h, train=train, remat=model.remat)))

    # a function, so that the marginals are computed at initialisation only
    def first_bias() -> Array | None:
        return None if x is None or model.initialisation == "pytorch" else model.likelihood.marginals(x)

    return model.likelihood(widen(readout(h, None if x is None else x.shape[1:], first_bias)))


def own_network(
    model: Chain, name: str, depth: int, features: int | None = None, last: Callable[[Array], Array] = identity
) -> MLP:
    """Return a dense network that ends with a linear layer to `features`, or with its last hidden layer for None."""
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
    replacements: tuple[nn.Module | None, ...],
    level: int,
    name: str,
    features: int,
    last: Callable[[Array], Array] = identity,
) -> nn.Module:
    """Return the user's replacement for this level's network, or the model's own."""
    # replacements are listed top first: the last one is that of level 1
    if replacements and (replacement := replacements[-level]) is not None:
        return replacement
    return own_network(model, name, model.depth, features, last)


def ascent_of(
    model: Chain, heads: tuple[nn.Module | None, ...], name: str
) -> tuple[ConvEncoder | None, dict[int, nn.Module], dict[int, nn.Module]]:
    """Return the bottom-up networks: the stem, and by level f_l to the features r_l and the head that reads r_l.

    Args:
      heads: the user's replacements for the heads, top first; a head returns mean and log variance, `[B, 2 d]`.
      name: name of the model's own heads without the level, "q" for q1, q2, ...
    """
    stem = stem_of(model, bool(model.bottom_up) and model.bottom_up[-1] is not None)
    paths: dict[int, nn.Module] = {}
    found: dict[int, nn.Module] = {}
    for level in range(1, len(model.latents) + 1):
        last = exact_gelu if level == 1 else leaky_relu  # as in the article's code
        paths[level] = network(model, model.bottom_up, level, f"r{level}", model.hidden, last)
        found[level] = network(model, heads, level, f"{name}{level}", 2 * model.latents[-level])
    return stem, paths, found


def prior_of(
    model: Chain, ground: Ground, level: int, above: Array | None, label: Array | None, key: Array, train: bool
) -> tuple[Latent, Array]:
    """Return p(z_level | z above, y), and the key for the level's sample.

    At the top, where `above` is None, that is the top prior, or a Gaussian learned from the labels. A network that
    draws (`Drawing`) gets a key that is split off the level's.
    """
    if above is not None:
        net = network(model, model.prior, level, f"prior{level}", 2 * model.latents[-level])
        given = join(above, label)
    elif label is not None:
        net, given = own_network(model, f"prior{level}", model.depth, 2 * model.latents[0]), label
    else:
        return model.top_prior(ground), key
    own_key = None
    # split only for a network that draws: a split would change the samples of all other models
    if isinstance(net, Drawing):
        own_key, key = split(key)
    h = call(net, given, train=train, remat=model.remat, key=own_key)
    return gaussian(h, clamp=model.prior_clamp), key


def base_of(prior: Latent, shape: tuple[int, ...]) -> Normal:
    """Return the Gaussian that a posterior is an offset from: the prior, or N(0, I) if the prior is not a Gaussian."""
    return prior if isinstance(prior, Normal) else Normal.standard(shape)
