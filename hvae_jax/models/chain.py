"""Functions that the article's models share: networks of each level, networks next to x, and the top prior.

The networks next to x are dense or convolutional (`network`). With "conv", a `ConvEncoder`, the stem, precedes the
first bottom-up network, and a `ConvDecoder` replaces the last linear layer, the readout.
"""

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from flax import linen as nn
from jax import Array

from hvae_jax.distributions import Latent, Normal
from hvae_jax.likelihoods import Likelihood, LikelihoodRecord
from hvae_jax.models.families import Family
from hvae_jax.models.top_priors import Ground, NormalPrior, TopPrior
from hvae_jax.networks.activations import exact_gelu, identity, leaky_relu, sigmoid_gelu
from hvae_jax.networks.computing import ComputeDtype, Drawing, call, widen
from hvae_jax.networks.conv import ConvDecoder, ConvEncoder, NetworkKind
from hvae_jax.networks.mlp import MLP, Initialisation, Readout, join
from hvae_jax.networks.smoothed import Above, Smoothed, Smoother, Smoothing, spread
from hvae_jax.records import check_sizes
from hvae_jax.runtime.prng import split
from hvae_jax.trace import Level


@runtime_checkable
class NextToX(Protocol):
    """Fields of a model whose layers next to x are made here."""

    network: NetworkKind
    width: int
    likelihood: Likelihood
    initialisation: Initialisation
    dtype: ComputeDtype
    remat: bool


@runtime_checkable
class ArticleModel(NextToX, Protocol):
    """Fields of the article's models that the functions of this file read."""

    top_prior: TopPrior
    classes: int


@runtime_checkable
class Chain(ArticleModel, Protocol):
    """Fields of a model with one network per level."""

    latents: tuple[int, ...]
    hidden: int
    depth: int
    bottom_up: tuple[nn.Module | None, ...]
    prior: tuple[nn.Module | None, ...]
    prior_clamp: tuple[float, float] | None
    smoothing: Smoothing


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

    Raises ValueError if a size is below 1, there are labels and a top prior, the number of networks does not fit the
    number of levels, or a learned top prior or a network that draws is to be smoothed.
    """
    check_sizes(model, "latents", "hidden", "depth", "width")
    check_top_prior(model)
    if model.smoothing.rho != 1.0:
        setting = f"{type(model).__name__}(smoothing={model.smoothing}"
        if model.top_prior != NormalPrior():
            raise ValueError(f"{setting}, top_prior={model.top_prior}): only Gaussian priors have this smoothing.")
        if any(isinstance(net, Drawing) for net in model.prior):
            raise ValueError(f"{setting}, prior=...): a network that draws is not smoothed; None is the model's own.")
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


def stem_of(model: NextToX, replaced: bool, activation: Callable[[Array], Array] = sigmoid_gelu) -> ConvEncoder | None:
    """Return the convolutions before the first bottom-up network; None for a dense model.

    Args:
      replaced: whether the user has replaced the first network, which then reads x itself: there is no stem.
      activation: nonlinearity of the convolutions.
    """
    if model.network == "dense" or replaced:
        return None
    return ConvEncoder(model.width, activation, dtype=model.dtype, name="stem")


def input_of(model: NextToX, x: Array) -> Array:
    """Return x as the first bottom-up network sees it, `[B, *event]`.

    That is x itself, as in the article, unless its values have no bounds: then `likelihood.as_input(x)`, which is
    log(1 + x) of counts and x of other real data.
    """
    return x if model.likelihood.value_range is not None else model.likelihood.as_input(x)


def readout_of(
    model: NextToX, event: tuple[int, ...] | None, activation: Callable[[Array], Array] = sigmoid_gelu
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
    model: NextToX, decoder: nn.Module, readout: ConvDecoder | Readout, z: Array, x: Array | None, train: bool
) -> LikelihoodRecord:
    """Return p(x | z1).

    Args:
      decoder: the network before the readout.
      z: z1, with y appended if there are labels, `[B, d]`.
      x: the examples `[B, *event]`, or None. Under Glorot's initialisation the readout's biases start at their
        marginals.
    """
    return model.likelihood(_parameters_of_x(model, decoder, readout, z, x, train))


def _parameters_of_x(
    model: NextToX, decoder: nn.Module, readout: ConvDecoder | Readout, z: Array, x: Array | None, train: bool
) -> Array:
    """The parameters of p(x | z1), `[B, ...]`, in float32 at least."""
    h = call(decoder, z, train=train, remat=model.remat)  # [B, F]
    # the biases of a convolutional readout keep their initialiser even under "glorot"
    if isinstance(readout, ConvDecoder):
        return widen(call(readout, h, train=train, remat=model.remat))

    # a function, so that the marginals are computed at initialisation only
    def first_bias() -> Array | None:
        return None if x is None or model.initialisation == "pytorch" else model.likelihood.marginals(x)

    return widen(readout(h, None if x is None else x.shape[1:], first_bias))


def likelihood_below(
    model: Chain,
    decoder: nn.Module,
    readout: ConvDecoder | Readout,
    level: Level,
    label: Array | None,
    x: Array | None,
    train: bool,
    smoother: Smoother | None,
    key: Array,
) -> LikelihoodRecord:
    """Return p(x | z1, y); where the decoder is smoothed, its parameters are a mean over points around z1.

    Args:
      decoder, readout, x: as in `likelihood_of`.
      level: level 1.
      label: y as one-hot rows, or None.
      smoother: smoothing of this pass; None for none.
      key: key of its noise.
    """
    if smoother is None or not smoother.decoder:
        return likelihood_of(model, decoder, readout, join(flat(level.z), label), x, train)
    prior = smoothed_prior(type(model).__name__, level)

    def f(points: Array) -> Array:
        return _parameters_of_x(model, decoder, readout, join(points, spread(label, smoother.draws)), x, train)

    return model.likelihood(smoother(f, level.z, prior.mean, prior.std, key))


def smoothed_prior(owner: str, level: Level) -> Normal:
    """Return the prior of a level that a smoothed network reads.

    Args:
      owner: name of the model.
    Raises ValueError, naming the level, for a prior that is no Gaussian.
    """
    if not isinstance(level.p, Normal):
        raise ValueError(
            f"{owner}(smoothing=...): level {level.name!r} has a {type(level.p).__name__} as its prior, and only "
            "Gaussian levels have this smoothing."
        )
    return level.p


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
    model: Chain, heads: tuple[nn.Module | None, ...], name: str, counts: Mapping[int, int]
) -> tuple[ConvEncoder | None, dict[int, nn.Module], dict[int, nn.Module]]:
    """Return the bottom-up networks: the stem, and by level f_l to the features r_l and the head that reads r_l.

    Args:
      heads: the user's replacements for the heads, top first; a head returns the parameters of its level's posterior,
        such as mean and log variance, `[B, 2 d]`.
      name: name of the model's own heads without the level, "q" for q1, q2, ...
      counts: number of outputs of each level's head, by level.
    """
    stem = stem_of(model, bool(model.bottom_up) and model.bottom_up[-1] is not None)
    paths: dict[int, nn.Module] = {}
    found: dict[int, nn.Module] = {}
    for level in range(1, len(model.latents) + 1):
        last = exact_gelu if level == 1 else leaky_relu  # as in the article's code
        paths[level] = network(model, model.bottom_up, level, f"r{level}", model.hidden, last)
        found[level] = network(model, heads, level, f"{name}{level}", counts[level])
    return stem, paths, found


def prior_of(
    model: Chain,
    ground: Ground,
    level: int,
    above: Level | None,
    label: Array | None,
    key: Array,
    train: bool,
    family: Family,
    smoother: Smoother | None,
) -> tuple[Latent, Array]:
    """Return p(z_level | z above, y), and the key for the level's sample.

    At the top, where `above` is None, that is the top prior, or one of the level's family learned from the labels. A
    network that draws (`Drawing`) or is smoothed gets a key that is split off the level's.

    Raises ValueError, naming the level, if the network is to be smoothed and the level above has another prior than a
    Gaussian, or the network draws.
    """
    if above is None:
        if label is None:
            return family.top(ground, model.top_prior), key
        net = own_network(model, f"prior{level}", model.depth, family.parameters)
        return family.prior(call(net, label, train=train, remat=model.remat)), key

    net, owner = network(model, model.prior, level, f"prior{level}", family.parameters), type(model).__name__
    # the key is split only for networks with noise: a split would change the samples of all other models
    if smoother is not None:
        if isinstance(net, Drawing):
            raise ValueError(f"{owner}: the network of p(z{level} | ...) draws, so that it cannot be smoothed as well.")
        p, draws = smoothed_prior(owner, above), smoother.draws

        def f(points: Array) -> Array:
            return call(net, join(points, spread(label, draws)), train=train, remat=model.remat)

        own_key, key = split(key)
        return family.prior(smoother(f, above.z, p.mean, p.std, own_key)), key
    own_key, given = None, join(flat(above.z), label)
    if isinstance(net, Drawing):
        own_key, key = split(key)
    if isinstance(net, Smoothed):
        p = smoothed_prior(owner, above)
        given = Above(above.z, p.mean, p.std, label)
    return family.prior(call(net, given, train=train, remat=model.remat, key=own_key)), key


def flat(z: Array) -> Array:
    """z `[B, ...]` as vectors `[B, d]`: one-hot variables side by side."""
    return z.reshape(z.shape[0], -1)
