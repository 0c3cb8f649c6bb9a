"""Requirements of objectives: closed-form KLs, reparameterised samples; the printed formula and its definition."""

from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from support.cases import case, integers, jitter
from support.hand_made import LOG_PX, VARIABLES, B, call, forward
from support.toys import BottomUp, CategoricalTop

from hvae_jax.likelihoods import Bernoulli
from hvae_jax.models import MixturePrior, TopDownVAE
from hvae_jax.objectives import (
    Batch,
    FreeBits,
    GammaBalance,
    ImportanceWeighted,
    NegativeELBO,
    NVAEBalance,
    Objective,
    PrintedELBO,
    Regularised,
)
from hvae_jax.objectives.schedules import Linear

KEY = jax.random.key(0)
X = integers(2, 4)
MIXTURE = TopDownVAE(latents=(2, 2), hidden=4, likelihood=Bernoulli(), top_prior=MixturePrior(3))


def value(objective: Objective, model: Any, key: Any = KEY) -> tuple[Any, dict[str, Any]]:
    """(loss, metrics) of a model's first batch."""
    variables = jax.eval_shape(model.init, KEY, X, KEY)

    def at(variables: Any) -> tuple[Any, Any]:
        def applied(variables: Any, x: Any, key: Any, **choices: Any) -> Any:
            return model.apply(variables, x, key, **choices), {}

        loss, metrics, *_ = objective(applied, variables, Batch(X), key, jnp.int32(0), objective.init(variables))
        return loss, metrics

    return jax.eval_shape(at, variables)


@pytest.mark.parametrize(
    ("objective", "who"),
    [
        (Regularised(warm_up=Linear(0, 10), balance=NVAEBalance()), "NVAEBalance"),
        (Regularised(balance=GammaBalance()), "GammaBalance"),
        (PrintedELBO(), "PrintedELBO"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_a_level_without_a_closed_kl_is_refused(objective: Any, who: str) -> None:
    """The error names the level, the kinds of q and p, and what to do."""
    with pytest.raises(ValueError, match=rf"{who} needs the KL.*closed form.*level 'z2'.*Normal and its p a NormalMix"):
        value(objective, MIXTURE)


@pytest.mark.parametrize("gradient", ["stl", "dreg"])
def test_a_level_that_is_not_reparameterised_is_refused(gradient: Any) -> None:
    """A categorical sample has no path to its parameters; gradient="plain" works."""
    with pytest.raises(ValueError, match=rf"gradient='{gradient}'.*level 'c' come from a OneHotC.*'plain'"):
        value(ImportanceWeighted(3, gradient), CategoricalTop())
    value(ImportanceWeighted(3, "plain"), CategoricalTop())
    value(ImportanceWeighted(3, gradient), MIXTURE)  # its q is Gaussian: a mixture of p's is no hindrance


@pytest.mark.parametrize("group", ["channel", "element"])
def test_free_bits_of_parts_that_are_none(group: Any) -> None:
    """A joint density has no rate per channel or element."""
    with pytest.raises(ValueError, match=r"level 'z2' is one number an example.*NormalMixture.*group='level'"):
        value(Regularised(free_bits=FreeBits(0.1, group)), MIXTURE)
    value(Regularised(free_bits=FreeBits(0.1, "level")), MIXTURE)


def test_the_printed_formula_top_down_is_the_elbo() -> None:
    """With top-down inference, where every KL is analytic, it equals NegativeELBO to rounding."""
    row = case("top_down_2")
    variables = jax.jit(row.model.init)(KEY, row.x, KEY)

    def applied(variables: Any, x: Any, key: Any, **choices: Any) -> Any:
        return row.model.apply(variables, x, key, **choices), {}

    losses = [o(applied, variables, Batch(row.x), KEY, jnp.int32(0), ())[0] for o in (PrintedELBO(), NegativeELBO())]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_the_printed_formula_bottom_up_is_not() -> None:
    """It is log p(x | z) minus the closed-form KLs of the records; the bare metrics have the true rates."""
    model = BottomUp()
    variables = jax.jit(model.init)(KEY, X, KEY)
    variables = {**variables, "params": jitter(variables["params"], scale=0.3)}

    def applied(variables: Any, x: Any, key: Any, **choices: Any) -> Any:
        return model.apply(variables, x, key, **choices), {}

    loss, metrics, *_ = PrintedELBO()(applied, variables, Batch(X), KEY, jnp.int32(0), ())
    trace = model.apply(variables, X, KEY)
    rates = []
    for level in trace.levels:
        d = level.q.log_std - level.p.log_std
        offset = ((level.q.mean - level.p.mean) / level.p.std) ** 2
        rates.append(float((0.5 * (jnp.exp(2 * d) - 1 + offset) - d).sum(1).mean()))
    np.testing.assert_allclose(loss, -(trace.log_px.mean() - sum(rates)), rtol=1e-5)
    np.testing.assert_allclose([metrics[f"printed_rate/z{i}"] for i in (2, 1)], rates, rtol=1e-4)
    np.testing.assert_allclose(metrics["rates"], trace.rates.mean(1), rtol=1e-5)
    assert abs(float(metrics["printed_elbo"] - metrics["elbo"])) > 0.01


def test_defaults_of_an_objective() -> None:
    """No state, all parameters trained, no comment on a run."""
    objective = NegativeELBO()
    assert objective.init({}) == () and objective.trains("a/b") and objective.conclude([]) == ()
    np.testing.assert_allclose(call(objective)[1]["log_px"], LOG_PX.mean(), rtol=1e-6)
    assert forward(VARIABLES, jnp.zeros((B, 6)), KEY)[1] == {}


@pytest.mark.parametrize(
    "objective",
    [NegativeELBO(), Regularised(), PrintedELBO(), ImportanceWeighted(2)],
    ids=lambda one: type(one).__name__,
)
def test_a_wrong_call_is_refused(objective: Objective, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model in place of its forward pass, and x in place of a batch, are refused with what to pass instead."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as it is for users
    state = objective.init(VARIABLES)
    with pytest.raises(TypeError, match=r"TopDownVAE itself: .*functools.partial\(model.apply, train=True"):
        objective(MIXTURE, VARIABLES, Batch(X), KEY, jnp.int32(0), state)
    with pytest.raises(TypeError, match=r"an? ArrayImpl as its batch: pass Batch\(x\)"):
        objective(forward, VARIABLES, X, KEY, jnp.int32(0), state)  # type: ignore[arg-type]
