"""The self-supervised VAE: y = d(x), a smaller or simpler picture, is a level between two latents.

    p(x, y, z, u) = p(u) p(y | u) p(z | y, u) p(x | y, z)
    q(y, z, u | x) = [y = d(x)] q(u | y) q(z | x, y)                 or q(z | x), as in the public code

    elbo(x) = log p(x | y, z) + log p(y | u) - KL(q(u | y) || p(u)) - KL(q(z | x, y) || p(z | y, u)),      y = d(x)

d is deterministic, so that q(y | x) has all its mass on d(x), and the rate of the level y is -log p(y | u). With
several d, y_k = d_k(y_{k-1}) and y_0 = x:

    p = p(u) p(y_K | u) prod_k p(z_k | y_k, z_{k+1}) p(y_{k-1} | y_k, z_k)            z_{K+1} = u

Levels, top first: u, y_K, z_K, ..., y_1, z_1; with one d they are u, y and z.

    generate                       u, y, z, x
    keep_top=1, keep_top=2         compression: x from u alone; from u and y
    decode(latents=(None, y))      super-resolution: u from q(u | y), z from p(z | y, u), x
    decode(latents=(u, None, z))   x from u and z, with a y drawn from p(y | u)

p(x) = sum_y p(x, y) >= p(x, d(x)): the bound of log p(x) leaves out all other y, and y has to be discrete.

Source: Gatopoulos & Tomczak (2021), "Self-Supervised Variational Auto-Encoders", section 3; the article's figure 7. The
paper's q(z | x, y) is the default, its code has q(z | x): `posterior_sees_y`. With several d, what z_k depends on above
itself, y_k and z_{k+1}, is a choice made here.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import linen as nn
from jax import Array
from jax.core import Tracer

from hvae_jax.descent import Pick, draw
from hvae_jax.distributions import Known, Latent, Normal
from hvae_jax.likelihoods import Categorical, Likelihood, LogisticMixture
from hvae_jax.models.base import HVAE
from hvae_jax.models.pieces import check_image, gaussian
from hvae_jax.models.reductions import (
    AveragePool,
    BilinearHalf,
    Reduction,
    check_discrete,
    likelihood_of_y,
    number_of_values,
)
from hvae_jax.models.self_supervised_networks import (
    DenselyConnectedNetworks,
    DenseNetworks,
    Event,
    SelfSupervisedNetworks,
)
from hvae_jax.models.top_priors import Ground, MixturePrior, NormalPrior, TopPrior
from hvae_jax.networks.computing import widen
from hvae_jax.networks.mlp import one_hot
from hvae_jax.records import check_sizes
from hvae_jax.runtime.prng import split
from hvae_jax.trace import Level, Trace


class SelfSupervisedVAE(HVAE):
    """The self-supervised VAE. The defaults are for 8x8 digits, of which y is the rounded 4x4 mean.

        p(x, y, z, u) = p(u) p(y | u) p(z | y, u) p(x | y, z)
        q(y, z, u | x) = [y = d(x)] q(u | y) q(z | x, y)

    Source: Gatopoulos & Tomczak (2021), section 3; the article's figure 7.

    Attributes:
      image: shape of one x, `(H, W, C)`.
      reductions: d_1, ..., d_K from x up: the first takes x to y_1, the next y_1 to y_2.
      latents: sizes of u, z_K, ..., z_1, top first: units of vectors, channels of maps.
      networks: `DenseNetworks`, whose latents are vectors, or `DenselyConnectedNetworks`, whose latents are maps.
      posterior_sees_y: whether q(z_k | y_{k-1}, y_k) reads y_k, which it could work out, beside y_{k-1}.
      likelihood: p(x | y_1, z_1), of whole numbers.
      y_likelihoods: families of p(y_1 | .), ..., p(y_K | .), from x up; None, or () for all, is the likelihood's family
        with the values and channels of y.
      top_prior: p(u). A VampPrior's pseudo-inputs are of the shape of y_K.
      clamp: bounds of the log variances of q(u | y), q(z | x, y) and p(z | y, u).
      scale: divisor of x and y where they enter a network; None takes what their likelihood makes of them.

    Raises ValueError if there is no d, a d is not discrete or does not take its image, the number of latents or
    likelihoods of y does not fit the number of d's, a size is below 1, scale is not positive, the likelihood is not of
    whole numbers or does not take the image's channels, or the networks cannot take the shapes.

    Example:
        >>> model = hv.models.SelfSupervisedVAE()
        >>> model.num_levels, sorted(model.observed)  # u, y and z
        (3, ['y'])
    """

    image: tuple[int, int, int] = (8, 8, 1)
    reductions: tuple[Reduction, ...] = (AveragePool(2),)
    latents: tuple[int, ...] = (8, 16)
    networks: SelfSupervisedNetworks = DenseNetworks()
    posterior_sees_y: bool = True
    likelihood: Likelihood = Categorical(17)
    y_likelihoods: tuple[Likelihood | None, ...] = ()
    top_prior: TopPrior = NormalPrior()
    clamp: tuple[float, float] = (-7.0, 7.0)
    scale: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "image", "latents")
        count = len(self.reductions)
        if not count:
            raise ValueError("SelfSupervisedVAE(reductions=()): at least one d is needed, such as AveragePool(2).")
        if len(self.latents) != count + 1:
            raise ValueError(
                f"SelfSupervisedVAE(latents={self.latents}): {count} reductions need {count + 1} sizes, those of u and "
                "of a z for each, top first."
            )
        if len(self.y_likelihoods) not in (0, count):
            raise ValueError(
                f"SelfSupervisedVAE(y_likelihoods=...) has {len(self.y_likelihoods)} families, but there are {count} "
                "reductions: one for each, from x up, None for the likelihood's own; () for all."
            )
        if self.scale is not None and self.scale <= 0.0:
            raise ValueError(f"SelfSupervisedVAE(scale={self.scale}): it has to be positive, or None.")
        for d, event in zip(self.reductions, self._events(), strict=False):
            check_discrete(d, event)
        for family, event in zip(self._families(), self._events(), strict=True):
            family.outputs(event[-1])
        self.networks.check(self._events())

    @property
    def num_levels(self) -> int:
        """u, and a y and a z for each d."""
        return 1 + 2 * len(self.reductions)

    @property
    def observed(self) -> Mapping[str, Likelihood]:
        """The family of each y, by the name of its level."""
        families = self._families()
        return {self._name("y", k): families[k] for k in range(1, len(families))}

    @nn.nowrap
    def _events(self) -> tuple[Event, ...]:
        """Shapes of x, y_1, ..., y_K."""
        events = [self.image]
        for d in self.reductions:
            events.append(d.shape(events[-1]))
        return tuple(events)

    @nn.nowrap
    def _families(self) -> tuple[Likelihood, ...]:
        """Likelihoods of x, y_1, ..., y_K."""
        families: list[Likelihood] = [self.likelihood]
        given = self.y_likelihoods or (None,) * len(self.reductions)
        for d, event, one in zip(self.reductions, self._events()[1:], given, strict=True):
            values = d.values(number_of_values(families[-1])) if one is None else 0
            families.append(likelihood_of_y(self.likelihood, values, event[-1]) if one is None else one)
        return tuple(families)

    @nn.nowrap
    def _name(self, kind: str, k: int) -> str:
        """Name of a level or network: "y" with one d, "y2" with several."""
        return kind if len(self.reductions) == 1 else f"{kind}{k}"

    @nn.compact
    def descend(
        self, x: Array | None, n: int, key: Array, *, y: Array | None, picks: tuple[Pick, ...], train: bool
    ) -> Trace:
        one_hot(y, 0, n)  # raises ValueError for labels
        nets, events, families, top = self.networks, self._events(), self._families(), len(self.reductions)
        # of y_k is pick 2 (K - k) + 1, of z_k the one after it
        pick_y, pick_z = (dict(zip(range(top, 0, -1), picks[start::2], strict=True)) for start in (1, 2))
        known = self._known(x, pick_y)  # y_k by k, those that x or a given y determines; x itself at 0
        keys = iter(split(key, self.num_levels))

        def seen(k: int, value: Array) -> Array:
            """y_k as the input of a network."""
            return widen(families[k].as_input(value) if self.scale is None else value / self.scale)

        def of_network(h: Array) -> Normal:
            return gaussian(h, clamp=self.clamp)

        # made outside `encode`, so that its two calls share it: a top prior sends inputs of its own through it
        q_u = nets.q_u(self.latents[0], name="q_u")

        def encode(y: Array, train: bool) -> Normal:
            return of_network(q_u(seen(top, y), train=train))

        shape = nets.latent(events[top], self.latents[0])
        posterior: Latent | None = encode(known[top], train) if top in known else None
        value_range = families[top].value_range
        ground = Ground(self, n, shape, lambda u: encode(u, False), known.get(top), value_range)
        u = self._level(next(keys), self.top_prior(ground), posterior, picks[0], "u", x, _side(shape))
        levels, above = [u], u.z

        # p(y_K | u), and then, for each k, p(y_{k-1} | y_k, z_k)
        net = nets.p_y(families[top].outputs(events[top][-1]), events[top], name=self._name("p_y", top))
        p_below = families[top].from_map(widen(net(above, train=train)))
        for k in range(top, 0, -1):
            posterior = Known(known[k]) if k in known else None
            level = self._level(next(keys), p_below, posterior, pick_y[k], self._name("y", k), x, events[k][0])
            levels.append(level)
            y_k = seen(k, level.z)
            size, pair = self.latents[-k], (events[k - 1], events[k])
            prior = of_network(nets.p_z(size, name=self._name("p_z", k))(y_k, above, train=train))
            posterior = None
            if k - 1 in known:
                q_z = nets.q_z(size, pair, name=self._name("q_z", k))
                below = seen(k - 1, known[k - 1])
                posterior = of_network(q_z(below, y_k if self.posterior_sees_y else None, train=train))
            side = _side(prior.mean.shape[1:])
            levels.append(self._level(next(keys), prior, posterior, pick_z[k], self._name("z", k), x, side))
            above = levels[-1].z
            outputs = families[k - 1].outputs(events[k - 1][-1])
            net = nets.p_x(outputs, pair, name="p_x" if k == 1 else self._name("p_y", k - 1))
            p_below = families[k - 1].from_map(widen(net(y_k, above, train=train)))
        return Trace(None if x is None else p_below.log_prob(x), tuple(levels), p_below)

    @nn.nowrap
    def _level(
        self, key: Array, prior: Any, posterior: Latent | None, pick: Pick, name: str, x: Array | None, side: int
    ) -> Level:
        """A level. Without x, one that is given is not inferred: it is scored under its prior, with a rate of 0."""
        if x is None and pick.given is not None:
            posterior = None
        return draw(key, prior, posterior, pick, name=name, side=side)

    @nn.nowrap
    def _known(self, x: Array | None, pick_y: Mapping[int, Pick]) -> dict[int, Array]:
        """x and every y that it determines; without x, the given y next to x and every y above that it determines.

        Raises ValueError for an x or a given y of another shape, or a given y with values that its likelihood does not
        allow, unless it is traced.
        """
        for k, pick in pick_y.items():
            if pick.given is not None:
                self._check_given(k, pick.given)
        start, value = 0, x
        if x is None:
            start = min((k for k, pick in pick_y.items() if pick.given is not None), default=-1)
            if start < 0:
                return {}
            value = pick_y[start].given
        else:
            check_image(self, x)
        assert value is not None
        known = {start: value}
        for k in range(start + 1, len(self.reductions) + 1):
            known[k] = self.reductions[k - 1](known[k - 1])
        return known

    @nn.nowrap
    def _check_given(self, k: int, y: Array) -> None:
        name, event = self._name("y", k), self._events()[k]
        if y.shape[1:] != event:
            raise ValueError(
                f"The given {name} has shape {y.shape}, but {name} = d(x) is {event} for each example: reduce the "
                "images by the model's own d, or choose a model of this size."
            )
        if not isinstance(y, Tracer) and y.is_fully_addressable:
            values = np.asarray(y)
            self._families()[k].check(values, f"the given {name}")
            if (values != np.round(values)).any():
                raise ValueError(f"The given {name} has to be whole numbers, as {name} = d(x) is: round it.")


def _side(shape: tuple[int, ...]) -> int:
    """Height of a latent's maps; 1 for a vector."""
    return shape[0] if len(shape) == 3 else 1


def srvae_cifar10() -> SelfSupervisedVAE:
    """The published model of 32x32 colour images: y of 16x16, u and z of 8x8x16, 1000 components at the top.

    Trained with Adamax at 2e-3, batches of 32, 2000 epochs, a validation split of 15%.

    Source: Gatopoulos & Tomczak (2021), their code (ioangatop/srVAE).

    Example:
        >>> hv.models.srvae_cifar10().num_levels
        3
    """
    return SelfSupervisedVAE(
        image=(32, 32, 3),
        reductions=(BilinearHalf(),),
        latents=(16, 16),
        networks=DenselyConnectedNetworks(),
        posterior_sees_y=False,
        likelihood=LogisticMixture(form="srvae"),
        top_prior=MixturePrior(1000, spread=0.001, clamp=None),
        scale=255.0,
    )
