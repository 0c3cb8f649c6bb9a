"""Smoothing as a setting of models: its two ends to the bit, what it shares, schedules, and what it refuses."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import integers, plain
from support.toys import NoisyPrior

from hvae_jax.likelihoods import Bernoulli
from hvae_jax.models import VAE, BottomUpVAE, LinearVAE, MixturePrior, Smoothed, Smoothing, TopDownVAE
from hvae_jax.objectives import Batch, Constant, Linear, NegativeELBO, ScheduledSmoothing, elbo, smoothed_by

KEY = jax.random.key(0)
X = integers(2, 4)
SMALL: dict[str, Any] = {"hidden": 5, "likelihood": Bernoulli()}
TOP_DOWN = TopDownVAE((2, 3), **SMALL)
SOME = Smoothing(0.6, 2)


@functools.cache
def variables() -> dict[str, Any]:
    """Fresh variables of TOP_DOWN, under any smoothing: it has no parameters."""
    return jax.jit(TOP_DOWN.init)(KEY, X, KEY)


@functools.cache
def passes(name: str) -> dict[str, Any]:
    """Traces of x by TOP_DOWN under several smoothings, by one program, which also serves other variables.

    Args:
      name: "fresh" for those of `variables`; "quiet" for ones whose q(z2 | x) is the prior.
    """
    v = variables()
    if name == "quiet":
        v = {**v, "params": {**v["params"], "delta2": jax.tree.map(jnp.zeros_like, v["params"]["delta2"])}}
    return all_passes(v)


@jax.jit
def all_passes(v: Any) -> dict[str, Any]:
    """Traces of x by TOP_DOWN: plain, with rho = 1, 0 and 0.6, and with a rho of 0.6 from a schedule."""
    settings = {"plain": Smoothing(), "one": Smoothing(1.0, 3, True), "none": Smoothing(0.0, 2), "some": SOME}
    found = {setting: TOP_DOWN.clone(smoothing=one).apply(v, X, KEY) for setting, one in settings.items()}
    rising = scheduled(Linear(0, 10, 0.2, 1.0))
    seen = rising(forward(TOP_DOWN.clone(smoothing=SOME), train=False), v, Batch(X), KEY, jnp.int32(5), ())
    return found | {"scheduled": seen[:2]}


def forward(model: Any, train: bool = True) -> Any:
    """The forward pass that objectives are given."""
    return functools.partial(model.apply, train=train, mutable=["batch_stats"])


def scheduled(schedule: Any) -> ScheduledSmoothing:
    """The negative ELBO at a schedule of rho."""
    return ScheduledSmoothing(NegativeELBO(), schedule)


def program(model: Any, *objectives: Any) -> list[str]:
    """What is compiled for a model's trace, or for the loss and statistics of each objective."""
    shapes = jax.eval_shape(model.init, KEY, X, KEY)

    def of(objective: Any) -> Callable[[Any], Any]:
        def loss(v: Any) -> Any:
            value, _, _, updates = objective(forward(model), v, Batch(X), KEY, jnp.int32(0), ())
            return value, updates

        return loss

    functions = [of(one) for one in objectives] or [lambda v: model.apply(v, X, KEY)]
    return [jax.jit(f).lower(shapes).as_text() for f in functions]


def test_one_is_the_plain_model() -> None:
    """With rho = 1 every array of the trace is that of the plain model, whatever the other settings."""
    found = passes("fresh")
    jax.tree.map(np.testing.assert_array_equal, found["one"], found["plain"])
    assert (found["some"].levels[1].p.mean != found["plain"].levels[1].p.mean).all()


BOTTOM_UP = pytest.param(BottomUpVAE((2, 3), **SMALL), marks=pytest.mark.slow)


@pytest.mark.parametrize("model", [BOTTOM_UP, LinearVAE((2, 3))])
def test_one_is_the_plain_program(model: Any) -> None:
    """With rho = 1 the program of the other models is the plain one."""
    assert program(model.clone(smoothing=Smoothing(1.0, 3, True))) == program(model)


@pytest.mark.parametrize("model", [TOP_DOWN, BOTTOM_UP, LinearVAE((2, 3))])
def test_none_cuts_the_level_off(model: Any) -> None:
    """With rho = 0 nothing below depends on z2, and x neither; with rho = 0.6 everything does."""
    shapes, rng = jax.eval_shape(model.init, KEY, X, KEY), np.random.default_rng(0)
    v = jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.5, 1.0, leaf.shape), leaf.dtype), shapes)

    @jax.jit
    def below(z: jax.Array) -> list[Any]:
        settings = [model.clone(smoothing=Smoothing(rho, 2)) for rho in (0.0, 0.6)]
        traces = [one.apply(v, KEY, 8, latents=(z,), method="decode") for one in settings]
        return [(trace.levels[1].p, trace.levels[1].z, trace.x_dist) for trace in traces]

    z = jnp.full((8, 2), 0.5)
    (none, some), (other_none, other_some) = below(z), below(-z)
    jax.tree.map(np.testing.assert_array_equal, none, other_none)
    for part, other in zip(some, other_some, strict=True):
        assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (part, other)), strict=True))


def test_posterior_and_prior_share_the_function() -> None:
    """A posterior that is an offset from its prior moves with the smoothed prior of the same pass, top down."""
    plain_pass, some = passes("fresh")["plain"], passes("fresh")["some"]
    offsets = [trace.levels[1].q.mean - trace.levels[1].p.mean for trace in (plain_pass, some)]
    np.testing.assert_allclose(*offsets, rtol=1e-4, atol=1e-5)
    assert (plain_pass.levels[1].q.mean != some.levels[1].q.mean).all()


def test_a_level_that_is_cut_off_can_have_no_rate() -> None:
    """With rho = 0 and q(z2 | x) at its prior the top rate is 0, and that of z1 is what it was."""
    none, other = passes("quiet")["none"], passes("fresh")["none"]
    np.testing.assert_array_equal(none.rates[0], 0.0)
    np.testing.assert_allclose(none.rates[1], other.rates[1], rtol=1e-5)
    assert (other.rates[0] > 0).all()


def test_a_constant_schedule_is_the_setting() -> None:
    """The same program, and so the same bits, at 0.6 and at 1."""
    some = TOP_DOWN.clone(smoothing=SOME)
    setting, constant, one = program(some, NegativeELBO(), scheduled(Constant(0.6)), scheduled(Constant(1.0)))
    assert constant == setting != one == program(TOP_DOWN, NegativeELBO())[0]


def test_a_schedule_has_the_value_of_its_step() -> None:
    """Halfway from 0.2 to 1 the loss is that of rho = 0.6."""
    loss, metrics = passes("fresh")["scheduled"]
    assert float(metrics["rho"]) == np.float32(0.6)
    np.testing.assert_allclose(loss, -elbo(passes("fresh")["some"]).mean(), rtol=1e-5)


@pytest.mark.slow
def test_three_levels_labels_decoder_and_replacements() -> None:
    """Shapes with labels, a smoothed decoder, and networks of the user's, smoothed by the model or on their own."""
    y = jnp.arange(len(X)) % 3
    model = TopDownVAE((2, 2, 3), classes=3, prior=(None, plain(5, 6)), smoothing=Smoothing(0.5, 3, True), **SMALL)
    own = TopDownVAE((2, 3), prior=(Smoothed(plain(5, 6), 0.5, 2),), **SMALL)
    for one, label in ((model, y), (own, None)):
        shapes = jax.eval_shape(one.init, KEY, X, KEY, y=label)
        trace = jax.eval_shape(lambda v, one=one, label=label: one.apply(v, X, KEY, y=label), shapes)
        assert [level.p.mean.shape for level in trace.levels] == [(8, size) for size in one.latents]
        assert trace.log_px.shape == (8,)
    unsmoothed = jax.eval_shape(model.clone(smoothing=Smoothing()).init, KEY, X, KEY, y=y)
    assert jax.tree.structure(jax.eval_shape(model.init, KEY, X, KEY, y=y)) == jax.tree.structure(unsmoothed)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: TopDownVAE((2, 2), smoothing=Smoothing(0.5), top_prior=MixturePrior(2)), r"only Gaussian priors"),
        (lambda: TopDownVAE((2, 2), smoothing=Smoothing(0.5), prior=(NoisyPrior(),)), "a network that draws"),
        (lambda: TopDownVAE((2, 2), smoothing=Smoothing(0.5), levels=("bernoulli", "normal")), "have to be normal"),
        (
            lambda: TopDownVAE((2, 2), smoothing=Smoothing(0.5, decoder=True), levels=("normal", "bernoulli")),
            "have to be normal",
        ),
        (lambda: LinearVAE((2, 2), "exact", smoothing=Smoothing(0.5)), "take linear posteriors"),
        (lambda: scheduled(Constant(1.5)), r"its value is 1.5.*from 0 to 1"),
        (lambda: scheduled(Linear(initial=(0.5, 1.0), final=(1.0, 1.0))), r"its initial is \(0.5, 1.0\)"),
        (lambda: at_half(VAE(2, **SMALL)), "VAE was given a rho of smoothing, but does not have that setting"),
        (lambda: at_half(TopDownVAE((2, 2), top_prior=MixturePrior(2), **SMALL)), "level 'z2' has a NormalMixture"),
        (lambda: at_half(TopDownVAE((2, 2), prior=(NoisyPrior(),), **SMALL)), r"p\(z1 \| ...\) draws"),
        (lambda: at_half(LinearVAE((2, 2), "exact")), "only linear posteriors"),
    ],
)
def test_refused(make: Callable[[], Any], said: str) -> None:
    """What has no such smoothing is refused in one line, when it is set or at the first trace."""
    with pytest.raises(ValueError, match=said) as error:
        make()
    assert "\n" not in str(error.value)


def at_half(model: Any) -> None:
    """A trace of shapes at a rho of 0.5, by the collection."""
    shapes = jax.eval_shape(model.init, KEY, X, KEY)
    jax.eval_shape(lambda v: smoothed_by(forward(model), 0.5)(v, X, KEY), shapes)


def test_discrete_levels_that_no_smoothed_network_reads() -> None:
    """Bits at the bottom are served: the network that gives their logits reads a Gaussian level."""
    model = TopDownVAE((2, 2), levels=("normal", "bernoulli"), smoothing=Smoothing(0.5), **SMALL)
    shapes = jax.eval_shape(model.init, KEY, X, KEY)
    assert jax.eval_shape(lambda v: model.apply(v, X, KEY), shapes).levels[1].z.shape == (8, 2)
