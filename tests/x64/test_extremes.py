"""Every function of distributions, likelihoods, flows and heads at arguments up to +-1e30, in float32 and bfloat16.

One argument at a time runs through EXTREMES while the others stay ordinary: value and gradient are those of float64, up
to rounding. Then all arguments at once are extreme, where float64 may overflow as well: nothing is NaN.

Legitimately infinite, or bounded by the largest number, is what float64 has beyond float32's range (3.4e38):

- squares of a distance in units of a scale: log-densities and KLs of Gaussians from distances of 1e20, or from log
  scales of -44, whose derivatives are 0 there;
- scales and precisions themselves: e^log_std from 88.7, and what is proportional to them, such as the derivative of a
  sample in log_std or of a log-density in z;
- the log-probability of a bin that lies away from the mean of a logistic of scale e^-89 or less.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from hvae_jax.distributions import (
    BernoulliLatent,
    Normal,
    NormalMixture,
    OneHotCategorical,
    finite_exp,
    hard_clamp,
    kl,
    kl_residual,
    precision_weighted,
    residual,
    soft_clamp,
)
from hvae_jax.flows import autoregressive_step
from hvae_jax.likelihoods import (
    Bernoulli,
    Categorical,
    DiscretisedLogistic,
    Gaussian,
    Likelihood,
    LogisticMixture,
    Quantised,
)
from hvae_jax.networks.scale_head import ScaleHead, log_softplus

POSITIVE = (0.0, 1e-30, 1e-6, 0.1, 1.0, 7.0, 15.5, 17.0, 30.0, 60.0, 88.0, 89.0, 104.0, 150.0, 1e4, 1e10, 1e20, 1e30)
EXTREMES = np.array([*(-number for number in POSITIVE[:0:-1]), *POSITIVE])
JOINT = 400  # points with all arguments extreme

# A row: a function of arrays [N] to [N], and the ordinary values of its arguments.
Row = tuple[Callable[..., Array], tuple[float, ...]]


def pair(a: Array, b: Array) -> Array:
    """Both side by side, `[N, 2]`."""
    return jnp.stack([a, b], axis=-1)


def distributions() -> dict[str, Row]:
    """Densities, samples, KLs, merges, clamps and heads."""

    def mixture(z: Array, logit: Array, mean: Array, log_std: Array) -> Array:
        """Two components over one element, the second of them N(1, 1)."""
        components = Normal(pair(mean, jnp.ones_like(z))[..., None], pair(log_std, jnp.zeros_like(z))[..., None])
        return NormalMixture(pair(logit, jnp.zeros_like(z)), components).log_prob(z[:, None])

    def one_hot(a: Array, b: Array) -> OneHotCategorical:
        return OneHotCategorical(pair(a, b))

    first = jnp.array([[1.0, 0.0]], jnp.bfloat16)
    rows: dict[str, Row] = {
        "finite_exp": (finite_exp, (0.5,)),
        "log_softplus": (log_softplus, (0.5,)),
        "soft_clamp": (lambda a: soft_clamp(a, 5.0), (0.5,)),
        "hard_clamp": (lambda a: hard_clamp(a, -7.0, 2.0), (0.5,)),
        "Normal.log_prob": (lambda z, mean, log_std: Normal(mean, log_std).log_prob(z), (1.0, 0.3, 0.5)),
        "Normal.log_prob at the mean": (lambda mean, log_std: Normal(mean, log_std).log_prob(mean), (0.3, 0.5)),
        "Normal.from_noise": (lambda mean, log_std, eps: Normal(mean, log_std).from_noise(eps), (0.3, 0.5, 1.5)),
        "Normal.from_noise of 0": (lambda m, s: Normal(m, s).from_noise(jnp.zeros_like(m)), (0.3, 0.5)),
        "Normal at temperature 0": (lambda m, s, eps: Normal(m, s).from_noise(eps, 0.0), (0.3, 0.5, 1.5)),
        "Normal.to_noise": (lambda z, mean, log_std: Normal(mean, log_std).to_noise(z), (1.0, 0.3, 0.5)),
        "NormalMixture.log_prob": (mixture, (0.2, 0.3, -0.5, 0.5)),
        "OneHotCategorical.log_prob": (lambda a, b: one_hot(a, b).log_prob(first.astype(a.dtype)), (0.3, -0.5)),
        "BernoulliLatent.log_prob of 0": (lambda a: BernoulliLatent(a).log_prob(jnp.zeros_like(a)), (0.3,)),
        "BernoulliLatent.log_prob of 1": (lambda a: BernoulliLatent(a).log_prob(jnp.ones_like(a)), (0.3,)),
        "kl of Normals": (lambda a, b, c, d: kl(Normal(a, b), Normal(c, d)), (1.0, 0.2, 0.3, 0.5)),
        "kl of Normals of one mean": (lambda a, b, c: kl(Normal(a, b), Normal(a, c)), (0.3, 0.2, 0.5)),
        "kl of OneHotCategoricals": (lambda a, b, c, d: _closed(one_hot(a, b), one_hot(c, d)), (1.0, 0.2, 0.3, 0.5)),
        "kl of BernoulliLatents": (lambda a, b: _closed(BernoulliLatent(a), BernoulliLatent(b)), (1.0, 0.2)),
        "kl_residual": (lambda a, b, c, d: kl_residual(Normal(a, b), Normal(c, d)), (1.0, 0.2, 0.3, 0.5)),
        "residual": (lambda a, b, c, d: residual(Normal(a, b), Normal(c, d)).log_std, (1.0, 0.2, 0.3, 0.5)),
    }
    for name in ("mean", "log_std"):
        rows[f"precision_weighted: {name}"] = (
            lambda a, b, c, d, name=name: getattr(precision_weighted(Normal(a, b), Normal(c, d)), name),
            (1.0, 0.2, 0.3, 0.5),
        )
    for form in ("log_var", "softplus_log_var", "tanh_log_var", "softplus_var", "log_std", "softplus_std"):
        rows[f"head {form}"] = (ScaleHead(form, beta=0.7).log_std, (0.5,))
    return rows


def _closed(q: Any, p: Any) -> Array:
    found = kl(q, p)
    assert found is not None
    return found


def likelihoods() -> dict[str, Row]:
    """log p(x) of one pixel as a function of the network's outputs; the logistic's E[x]."""
    eight_bits = ScaleHead("softplus_std", math.log(2.0))  # with min_log_scale=-250 as Efficient-VDVAE's presets
    mixtures: dict[str, LogisticMixture] = {
        "exact": LogisticMixture(2, channels=1),
        "exact, softplus": LogisticMixture(2, channels=1, min_log_scale=-250.0, head=eight_bits),
        "exact, e^-250": LogisticMixture(2, channels=1, min_log_scale=-250.0),
        "published": LogisticMixture(2, channels=1, form="published"),
        "published, softplus": LogisticMixture(2, channels=1, min_log_scale=-250.0, form="published", head=eight_bits),
        "vdvae_5_bits": LogisticMixture(2, 32, channels=1, min_log_scale=-250.0, form="vdvae_5_bits"),
        "efficient_vdvae_5_bits": LogisticMixture(
            2, 32, channels=1, min_log_scale=-250.0, form="efficient_vdvae_5_bits", head=eight_bits
        ),
    }
    colours = LogisticMixture(1, channels=3)
    families: list[tuple[str, Likelihood, tuple[float, ...], tuple[float, ...]]] = [
        *(("Bernoulli of", Bernoulli(), (x,), (0.3,)) for x in (0.0, 0.4, 1.0)),
        *(("Bernoulli(1e-7) of", Bernoulli(1e-7), (x,), (0.3,)) for x in (0.0, 1.0)),
        ("Categorical of", Categorical(3), (1.0,), (0.3, -0.5, 0.1)),
        ("Categorical(1e-7) of", Categorical(3, 1e-7), (1.0,), (0.3, -0.5, 0.1)),
        ("Gaussian of", Gaussian(), (0.7,), (0.3, 0.5)),
        ("Gaussian(None) of", Gaussian(None), (0.7,), (0.3, 0.5)),
        *(("DiscretisedLogistic of", DiscretisedLogistic(), (x,), (0.3, -2.0)) for x in (0.0, 90.0, 255.0)),
        ("DiscretisedLogistic(-250) of", DiscretisedLogistic(min_log_scale=-250.0), (90.0,), (0.3, -2.0)),
        ("DiscretisedLogistic(added) of", DiscretisedLogistic(added=1e-7), (90.0,), (0.3, -2.0)),
        *(
            (f"LogisticMixture({name}) of", family, (x,), (0.3, -0.5, 0.1, 0.6, -2.0, -1.0))
            for name, family in mixtures.items()
            for x in (0.0, 11.0, family.values - 1.0)
        ),
        ("LogisticMixture of colours", colours, (90.0, 0.0, 255.0), (0.3, *(0.1, -2.0, 0.4) * 3)),
        ("Quantised of", Quantised(LogisticMixture(1, 32, 1)), (90.0,), (0.3, 0.1, -2.0)),
    ]

    def log_prob(*outputs: Array, family: Likelihood, x: tuple[float, ...]) -> Array:
        h = jnp.stack(outputs, axis=-1)[:, None]  # [N, 1, parameters]
        return family(h).log_prob(jnp.broadcast_to(jnp.asarray(x, h.dtype)[None], (h.shape[0], len(x))))

    def expectation(mean: Array, log_scale: Array, values: int) -> Array:
        return DiscretisedLogistic(values, min_log_scale=-250.0)(pair(mean, log_scale)[:, None]).mean[:, 0]

    rows: dict[str, Row] = {
        f"{name} {x}": (functools.partial(log_prob, family=family, x=x), ordinary)
        for name, family, x, ordinary in families
    }
    for values in (8, 256):  # the sum itself, and in float32 a few of its terms
        rows[f"E[x] of DiscretisedLogistic({values})"] = functools.partial(expectation, values=values), (0.1, -2.0)
    return rows


def flows() -> dict[str, Row]:
    """One step for one element, given what its network says: z, the log-determinant, and z0 of the inverse."""
    rows: dict[str, Row] = {}

    def add(form: Any, outputs: int) -> None:
        def step(z: Array, *network: Array) -> Any:
            says = jnp.stack(network, axis=-1)
            return autoregressive_step(lambda _: says, form)

        ordinary = (1.0, 0.3, 0.5)[: 1 + outputs]
        rows[f"flow {form}: z"] = lambda z, *network: step(z, *network).forward(z[:, None])[0][:, 0], ordinary
        rows[f"flow {form}: log-det"] = lambda z, *network: step(z, *network).forward(z[:, None])[1][:, 0], ordinary
        rows[f"flow {form}: z0"] = lambda z, *network: step(z, *network).inverse(z[:, None])[0][:, 0], ordinary

    add("gate", 2)
    add("published", 2)
    add("mean_only", 1)
    return rows


ROWS = distributions() | likelihoods() | flows()
# Forms of public codes that take a difference of two probabilities, and so lose digits.
DIFFERENCES = ("published", "5_bits", "added")


def points(ordinary: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Arguments with one of them extreme, `[P, A]`, and with all of them extreme, `[JOINT, A]`."""
    single = np.tile(ordinary, (len(ordinary), len(EXTREMES), 1))
    for i in range(len(ordinary)):
        single[i, :, i] = EXTREMES
    joint = np.random.default_rng(0).choice(EXTREMES, (JOINT, len(ordinary)))
    joint[: len(EXTREMES)] = EXTREMES[:, None]  # and all of them the same number
    return single.reshape(-1, len(ordinary)), joint


@functools.cache
def values(name: str, dtype: Any, rounded: Any) -> np.ndarray:
    """Value and gradient of a row, computed in `dtype`, `[1 + A, P + JOINT]`; arguments are rounded to `rounded`."""
    function, ordinary = ROWS[name]

    def both(*arguments: Array) -> Array:
        value, back = jax.vjp(function, *arguments)
        assert value.dtype == dtype
        return jnp.stack([value, *back(jnp.ones_like(value))])

    arguments = np.concatenate(points(ordinary)).astype(rounded)
    return np.asarray(jax.jit(both)(*jnp.asarray(arguments, dtype).T), np.float64)


def check(name: str, dtype: Any, rtol: float, atol: float, derivatives: bool = True) -> None:
    """The row in `dtype` against the row in float64; derivatives only have to be finite if they are not compared."""
    got, exact = values(name, dtype, dtype), values(name, jnp.float64, dtype)
    arguments = np.concatenate(points(ROWS[name][1]))
    single = len(points(ROWS[name][1])[0])
    if name.endswith(": z0"):
        # Where z, b and 1/a of z = a z0 + b are extreme at once, derivatives are products of 0 and of what overflows.
        got, exact = got[:, :single], exact[:, :single]
    for output, point in np.argwhere(np.isnan(got))[:1]:
        pytest.fail(f"NaN at {arguments[point]}, {f'derivative {output}' if output else 'value'}")
    got, exact = got[:, :single], exact[:, :single]
    held = np.abs(exact) < 0.01 * float(jnp.finfo(dtype).max)
    held &= held[0]  # no derivative where the value overflows
    atol = atol + 0.1 * rtol * np.where(held, np.abs(exact), 0.0).max(
        0
    )  # of a difference, the larger number is rounded
    with np.errstate(invalid="ignore"):  # inf - inf where it is not held
        near = np.abs(got - exact) <= atol + rtol * np.abs(exact)
    if not derivatives:
        near[1:] = np.isfinite(got[1:])
    wrong = held & ~near
    for output, point in np.argwhere(wrong)[:1]:
        pytest.fail(f"{got[output, point]} is not {exact[output, point]} at {arguments[point]}, output {output}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_float32_at_its_extremes(name: str) -> None:
    """Value and gradient of float64, wherever float32 can hold them; nowhere NaN."""
    digits = 2e-3 if any(word in name for word in DIFFERENCES) else 1e-4
    check(name, jnp.float32, rtol=digits, atol=max(1e-5, digits / 10))


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_bfloat16_at_its_extremes(name: str) -> None:
    """In bfloat16 values agree to one digit, unless a form takes differences; derivatives, which do, are numbers."""
    vague = any(word in name for word in DIFFERENCES)
    check(name, jnp.bfloat16, rtol=0.2, atol=math.inf if vague else 0.1, derivatives=False)
