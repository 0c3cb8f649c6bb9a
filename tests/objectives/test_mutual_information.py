"""A target for the mutual information: its gradient on all values, what it leaves alone, what it refuses."""

import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import jitter
from support.toys import Observed

from hvae_jax.experiment import Experiment, settings
from hvae_jax.likelihoods import Bernoulli, PixelCNN
from hvae_jax.models import VAE, CaGeM, LinearVAE, MixturePrior, TopDownVAE
from hvae_jax.objectives import Batch, FreeBits, MutualInformation, NegativeELBO, Regularised
from hvae_jax.objectives.mutual_information import Sample, estimate
from hvae_jax.objectives.protocol import without_own
from hvae_jax.training.state import own_parameters

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).integers(0, 2, (4, 3)), jnp.uint8)
DISCRETE = TopDownVAE((2,), hidden=4, likelihood=Bernoulli(), levels=("categorical",), categories=3)


def forward_of(model: Any) -> Any:
    def forward(variables: Any, x: Any, key: Any, **choices: Any) -> Any:
        return model.apply(variables, x, key, **choices), {}

    return forward


def with_own(model: Any, objective: MutualInformation, x: Any = X, y: Any = None) -> dict[str, Any]:
    """Fresh variables, r's among them."""
    variables = model.init(KEY, x, KEY, y=y)
    own = own_parameters(model, objective, variables, KEY, x, y)
    return {**variables, "params": {**variables["params"], "objective": own}}


def shapes(model: Any, objective: MutualInformation, x: Any = X, y: Any = None) -> Any:
    """(loss, metrics) of the first call, shapes alone."""

    def call() -> Any:
        variables = with_own(model, objective, x, y)
        return objective(forward_of(model), variables, Batch(x, y), KEY, jnp.int32(0), objective.init(variables))[:2]

    return jax.eval_shape(call)


@functools.cache
def discrete() -> dict[str, Any]:
    """Variables of the discrete model, all moved off their initialisation."""
    objective = MutualInformation(0.5, hidden=4, depth=1)
    variables = jax.jit(lambda: with_own(DISCRETE, objective))()
    return {**variables, "params": jitter(variables["params"], scale=0.5)}


def vector(tree: Any) -> jax.Array:
    """All leaves, end to end."""
    return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(tree)])


def test_the_score_function_is_unbiased() -> None:
    """Its mean over 25,600 samples is the gradient of I_r summed over all z and x, within 4.5 standard errors."""
    objective, variables = MutualInformation(0.5, hidden=4, depth=1, gradient="score"), discrete()
    own = variables["params"]["objective"]["mutual_information"]
    pairs = list(itertools.product(itertools.product(range(3), repeat=2), itertools.product((0, 1), repeat=3)))
    z = jax.nn.one_hot(jnp.asarray([z for z, _ in pairs]), 3)  # [72, 2, 3]
    x = jnp.asarray([x for _, x in pairs])

    def whole(params: Any) -> Any:
        trace = DISCRETE.apply({**variables, "params": params}, KEY, len(z), latents=(z,), method="decode")
        values = objective.values(own, Sample(trace.levels, x, jnp.zeros(len(z))))["z1"]
        return (jnp.exp(trace.levels[0].log_p + trace.x_dist.log_prob(x)) * values).sum()

    def one(params: Any, key: Any) -> Any:
        here = {**variables, "params": params}
        sample = objective.sample(forward_of(DISCRETE), here, Batch(jnp.zeros((256, 3))), key)
        return estimate(objective.values(own, sample), sample)

    @jax.jit
    def both(params: Any) -> Any:
        exact = jax.value_and_grad(whole)(params)
        found = jax.vmap(jax.value_and_grad(one), (None, 0))(params, jax.random.split(KEY, 100))
        return exact[0], found[0], vector(exact[1]), jax.vmap(vector)(found[1])

    value, values, exact, found = jax.device_get(both(variables["params"]))
    assert abs(values.mean() - value) < 4.5 * values.std() / 10 < 0.1
    moving = found.std(0) > 1e-6
    z_scores = (found.mean(0) - exact)[moving] / (found.std(0, ddof=1)[moving] / 10)
    assert moving.sum() > 40 and np.abs(exact).max() > 0.05
    assert np.abs(z_scores).max() < 4.5
    np.testing.assert_allclose(found.mean(0)[~moving], exact[~moving], atol=1e-5)


@pytest.mark.slow
def test_a_fresh_r_is_the_prior() -> None:
    """I_r is 0 before the first step, whatever the model is, and whatever the kinds of its levels."""
    model = TopDownVAE((2, 2), hidden=4, likelihood=Bernoulli(), levels=("bernoulli", "normal"))
    objective = MutualInformation(0.5, levels=("z2", "z1"), hidden=4)

    @jax.jit
    def look() -> Any:
        variables = with_own(model, objective)
        return objective.information(forward_of(model), variables, Batch(X), KEY)

    for values in look().values():
        np.testing.assert_allclose(values, 0.0, atol=1e-6)


@functools.cache
def beside_the_base() -> Any:
    """Loss, metrics and gradient of the base alone, and with a term of weight 0."""
    model, base = LinearVAE((2,)), Regularised(free_bits=FreeBits(0.3))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    objective = MutualInformation(2.0, 0.0, base=base, hidden=4, depth=0)

    def of(objective: Any, params: Any) -> Any:
        state = objective.init({"params": params})
        loss, metrics, *_ = objective(forward_of(model), {"params": params}, Batch(x), KEY, jnp.int32(0), state)
        return loss, metrics

    @jax.jit
    def both() -> Any:
        params = with_own(model, objective, x)["params"]
        return [jax.value_and_grad(functools.partial(of, one), has_aux=True)(params) for one in (base, objective)]

    return jax.device_get(both())


def test_a_weight_of_0_measures_and_no_more() -> None:
    """Loss, metrics and the model's gradient are the base's to the bit; r has a gradient, and 0 nats at the start."""
    ((loss, metrics), plain), ((same, found), measured) = beside_the_base()
    assert set(found) == {*metrics, "mutual_information"} and same == loss
    for name, value in metrics.items():
        np.testing.assert_array_equal(found[name], value)
    assert found["mutual_information"] == pytest.approx(0.0, abs=1e-6)
    own = [dict(gradient)["objective"]["mutual_information"]["levels"] for gradient in (plain, measured)]
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(own[0]))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(own[1]))
    jax.tree.map(np.testing.assert_array_equal, without_own(measured), without_own(plain))


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["straight_through", "score"])
def test_an_autoregressive_likelihood(gradient: Any) -> None:
    """Pixels of a PixelCNN pass a gradient to z and to its weights, with either estimator."""
    model = VAE(2, hidden=4, depth=1, likelihood=PixelCNN(Bernoulli(), None, 1, 4))
    objective = MutualInformation(1.0, hidden=4, depth=1, gradient=gradient)

    @jax.jit
    def slope() -> Any:
        variables = with_own(model, objective)

        def value(params: Any) -> Any:
            sample = objective.sample(forward_of(model), {"params": params}, Batch(X), KEY)
            own = jax.tree.map(lambda leaf: leaf + 0.3, params["objective"]["mutual_information"])
            return estimate(objective.values(own, sample), sample)

        return jax.grad(value)(variables["params"])

    found = slope()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert all(np.any(found[name]) for name in ("pixelcnn", "readout"))


def test_labels_and_classes() -> None:
    """A model with classes generates for the batch's labels; where the class is a latent, it is drawn."""
    y = jnp.asarray([0, 1, 2, 1], jnp.int32)
    objective = MutualInformation(1.0, hidden=4)
    assert shapes(TopDownVAE((2, 2), hidden=4, likelihood=Bernoulli(), classes=3), objective, y=y)[0].shape == ()
    cagem = CaGeM(latents=(2, 2), hidden=4, depth=1, clusters=3, likelihood=Bernoulli())
    several = MutualInformation(1.0, levels=("z2", "y"), hidden=4)
    assert set(shapes(cagem, several, y=y)[1]) >= {"mutual_information/z2", "mutual_information/y"}


def test_what_is_refused() -> None:
    """Numbers, sizes, names, and levels whose prior r cannot be compared with."""
    for wrong, why in (
        ({"target": -1.0}, r"target=-1.0\): .* of 0 or more"),
        ({"weight": -1.0}, r"weight=-1.0"),
        ({"target": math.inf}, "finite"),
        ({"hidden": 0}, "hidden=0"),
        ({"depth": -1}, "depth=-1"),
        ({"levels": ("z1", "z1")}, "each level once"),
    ):
        with pytest.raises(ValueError, match=why):
            MutualInformation(**{"target": 1.0, **wrong})
    two = TopDownVAE((2, 2), hidden=4, likelihood=Bernoulli())
    with pytest.raises(ValueError, match="no level 'z3'; its levels are z2, z1"):
        shapes(two, MutualInformation(1.0, levels=("z3",)))
    mixture = TopDownVAE((2, 2), hidden=4, likelihood=Bernoulli(), top_prior=MixturePrior(2))
    with pytest.raises(ValueError, match=r"level 'z2' has no density .* NormalMixture"):
        shapes(mixture, MutualInformation(1.0))
    shapes(mixture, MutualInformation(1.0, levels=("z1",), hidden=4))
    with pytest.raises(ValueError, match="level 'y' has no density"):
        shapes(Observed(), MutualInformation(1.0, levels=("y",)), jnp.zeros((4, 4), jnp.uint8))
    with pytest.raises(ValueError, match="has such a term already"):
        shapes(two, MutualInformation(1.0, base=MutualInformation(1.0)))


def test_a_target_that_no_discrete_level_can_hold() -> None:
    """Two variables of three classes hold log 9 nats; without a weight there is no target."""
    with pytest.warns(UserWarning, match="target=3.* cannot be reached: z1 can hold 2.2 nats"):
        shapes(DISCRETE, MutualInformation(3.0, hidden=4))
    shapes(DISCRETE, MutualInformation(2.0, hidden=4))
    shapes(DISCRETE, MutualInformation(3.0, 0.0, hidden=4))


def test_what_is_said_of_a_target_that_was_missed() -> None:
    """From the last tenth of the rows; nothing of a target that was met, or without a weight."""
    rows: list[dict[str, float | int]] = [{"mutual_information": value} for value in [0.0] * 18 + [1.2, 1.3]]
    (said,) = MutualInformation(5.0).conclude(rows)
    assert "asked for 5 nats and ended at 1.25, a lower bound: raise objective.weight, train longer, or" in said
    assert "raise objective.weight, or train longer" in MutualInformation(0.0).conclude(rows)[0]
    assert MutualInformation(1.3).conclude(rows) == MutualInformation(5.0, 0.0).conclude(rows) == ()
    assert MutualInformation(1.0).conclude([]) == ()


def test_settings() -> None:
    """What settings.json keeps is the objective, its base with it; r's scale is all that is not trained."""
    objective = MutualInformation(2.0, levels=("z2",), base=Regularised(beta=0.5), gradient="score", printed=True)
    experiment = Experiment("a", TopDownVAE(), objective=objective)
    assert settings.from_json(settings.to_json(experiment)) == experiment
    path = "objective/mutual_information/"
    assert objective.trains(f"{path}levels/z2/last/kernel") and objective.trains("px/kernel")
    assert not objective.trains(f"{path}inputs/std")
    assert NegativeELBO().parameters(forward_of(DISCRETE), {}, Batch(X), KEY) == {}
