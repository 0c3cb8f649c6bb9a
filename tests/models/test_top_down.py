"""TopDownVAE: the article's sizes, errors, and the methods that every model has over its descent."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import case, integers

from hvae_jax.likelihoods import Bernoulli, Categorical
from hvae_jax.models import HVAE, TopDownVAE
from hvae_jax.networks.mlp import MLP, BatchNorm
from hvae_jax.objectives import elbo

KEY, OTHER_KEY = jax.random.split(jax.random.key(0))
MODEL = TopDownVAE(latents=(2, 3), hidden=5, likelihood=Categorical(4))
X = integers(4, 2, 2)


@functools.cache
def variables() -> dict[str, Any]:
    """Variables of MODEL, for x of 2x2."""
    return jax.jit(MODEL.init)(KEY, X, KEY)


def test_the_articles_size() -> None:
    """The defaults on 8x8 digits of 17 values have the 721,808 parameters of the article's networks."""
    shapes = jax.eval_shape(TopDownVAE().init, KEY, jnp.zeros((1, 8, 8, 1), jnp.uint8), KEY)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == 721_808


def test_names_are_the_papers() -> None:
    """Names are listed top first; z1 is next to x."""
    trace = jax.eval_shape(lambda v: MODEL.apply(v, X, KEY), variables())
    assert trace.names == ("z2", "z1")
    assert [level.z.shape for level in trace.levels] == [(8, 2), (8, 3)]


def test_wrappers_are_the_descent() -> None:
    """generate is decode and a draw; reconstruct is the mean; encode is the latents."""

    @jax.jit
    def both(variables: Any) -> tuple[Any, Any]:
        def of(*args: Any, **choices: Any) -> Any:
            return MODEL.apply(variables, *args, **choices)

        key_latents, key_x = jax.random.split(KEY)
        trace = of(X, KEY, keep_top=1, temperature=0.5)
        decoded = of(key_latents, 5, temperature=0.5, method="decode")
        return (
            of(KEY, 5, temperature=0.5, method="generate"),
            of(X, KEY, keep_top=1, temperature=0.5, method="reconstruct"),
            of(X, KEY, method="encode"),
        ), (decoded.x_dist.sample(key_x), trace.x_dist.mean, of(X, KEY).latents)

    wrapped, direct = both(variables())
    np.testing.assert_array_equal(wrapped[0], direct[0])
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), wrapped, direct)


def test_decoding_never_touches_the_inference_networks() -> None:
    """Without the parameters of r and delta a model still generates."""
    keep = {name: tree for name, tree in variables()["params"].items() if not name.startswith(("r1", "r2", "delta"))}
    shapes = jax.eval_shape(
        lambda: MODEL.apply({"params": keep, "batch_stats": variables()["batch_stats"]}, KEY, 5, method="generate")
    )
    assert shapes.shape == (5, 2, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latents": ()}, r"latents=\(\).*at least one"),
        ({"latents": (0, 3)}, r"latents=\(0, 3\).*1 or more"),
        ({"hidden": 0}, "hidden=0.*1 or more"),
        ({"depth": 0}, "depth=0.*1 or more"),
        ({"classes": 1}, "classes=1.*0 for no labels"),
        ({"bottom_up": (None,)}, "bottom_up.*1 networks.*2 levels need 2"),
        ({"prior": (None, None)}, "prior.*2 networks.*2 levels need 1"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    """Errors come at construction, with what was given and what is allowed."""
    with pytest.raises(ValueError, match=message):
        TopDownVAE(**settings)


def test_data_of_another_shape() -> None:
    """x of another shape than the variables' is an error that names both shapes."""
    with pytest.raises(ValueError, match=r"\(3, 2\).*initialised for examples of \(2, 2\)"):
        MODEL.apply(variables(), jnp.zeros((8, 3, 2), jnp.uint8), KEY)


def test_generating_before_there_are_variables() -> None:
    """Variables record the shape of x; without variables or an x generating is an error."""
    with pytest.raises(ValueError, match="initialise the model with an x first"):
        MODEL.init(KEY, KEY, 5, method="decode")


def test_labels_where_they_belong() -> None:
    """Missing labels, unexpected labels, and labels of another shape are errors."""
    with pytest.raises(ValueError, match="classes=0 and was given a y"):
        MODEL.apply(variables(), X, KEY, y=jnp.zeros(8, int))
    row = case("classes")
    for y, message in ((None, r"classes=3 and was given no y.*shape \[8\]"), (jnp.zeros((8, 1), int), r"\(8, 1\).*8")):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(lambda y=y: row.model.init(KEY, row.x, KEY, y=y))


def test_labels_change_what_is_generated() -> None:
    """Another class has another top prior and other probabilities of x."""
    row = case("classes")
    variables = jax.jit(row.model.init)(KEY, row.x, KEY, y=row.y)
    decode = jax.jit(lambda y: row.model.apply(variables, KEY, 4, y=y, method="decode"))
    zero, one = decode(jnp.zeros(4, int)), decode(jnp.ones(4, int))
    assert (zero.levels[0].p.mean != one.levels[0].p.mean).all()
    assert (zero.x_dist.logits != one.x_dist.logits).all()


def test_a_model_has_to_say_what_it_is() -> None:
    """Without num_levels or descend the error says what to define."""
    with pytest.raises(TypeError, match="HVAE has to say how many levels"):
        HVAE().apply({}, X, KEY)

    class Levels(HVAE):
        num_levels = 1

    with pytest.raises(TypeError, match="Levels has no forward pass: define descend"):
        Levels().apply({}, X, KEY)


def test_batch_norm_is_pytorchs() -> None:
    """Training normalises by the batch's biased variance, and averages 0.9 of the running, 0.1 of the unbiased one."""
    x = (3.0 + 2.0 * np.random.default_rng(0).normal(size=(6, 4))).astype(np.float32)
    mean, var = np.mean(x, 0, np.float64), np.var(x, 0, dtype=np.float64)
    layer = BatchNorm()
    fresh = layer.init(KEY, jnp.asarray(x), train=True)
    y, updates = layer.apply(fresh, jnp.asarray(x), train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["mean"], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["var"], 0.9 + 0.1 * var * 6 / 5, rtol=1e-5)
    evaluated = layer.apply({**fresh, **updates}, jnp.asarray(x), train=False)
    expected = (x - 0.1 * mean) / np.sqrt(0.9 + 0.1 * var * 6 / 5 + 1e-5)
    np.testing.assert_allclose(evaluated, expected, rtol=1e-4, atol=1e-5)


def test_batch_norm_far_from_zero() -> None:
    """The variance is computed from centred values: a mean of 1,000 loses no digits but those of x itself."""
    x = 1000.0 + jnp.arange(8.0)[:, None] / 8
    y, _ = BatchNorm().init_with_output(KEY, x, train=True)
    centred = np.arange(8.0) / 8 - 3.5 / 8
    np.testing.assert_allclose(y[:, 0], centred / np.sqrt(np.mean(centred**2) + 1e-5), rtol=1e-4)


def test_evaluation_goes_no_further_out_than_a_batch_can() -> None:
    """One of 1,024 examples that alone differs is sqrt(1023) from the mean; so is the most that evaluation makes."""
    layer, one = BatchNorm(), jnp.zeros((1024, 1)).at[0].set(70.0)
    y, _ = layer.init_with_output(KEY, one, train=True)
    np.testing.assert_allclose(y.max(), np.sqrt(1023), rtol=1e-4)
    silent = layer.init(KEY, one, train=False)
    silent["batch_stats"]["var"] = jnp.array([1e-12])
    near, far = jnp.array([[0.05], [-0.05]]), jnp.array([[7.0], [-7.0]])
    np.testing.assert_allclose(layer.apply(silent, near, train=False), near / np.sqrt(1e-5), rtol=1e-5)
    np.testing.assert_allclose(layer.apply(silent, far, train=False).ravel(), np.sqrt(1023) * np.array([1, -1]), 1e-5)
    # maps have four times as many values in a batch
    maps = layer.apply(silent, jnp.full((2, 2, 2, 1), 7.0), train=False)
    np.testing.assert_allclose(maps.max(), np.sqrt(4 * 1024 - 1), rtol=1e-5)


def test_a_unit_silent_in_training_does_not_decide_validation() -> None:
    """The ELBO of a picture that wakes a unit which was silent throughout training stays near that of the others."""
    x = X.at[:, 1, 1].set(0)  # the pixel that the unit reads
    fresh = variables()
    dense = fresh["params"]["r1"]["linear_0"]
    kernel = dense["kernel"].at[:, 0].set(jnp.array([0.0, 0.0, 0.0, 100.0]))
    params = {**fresh["params"], "r1": {**fresh["params"]["r1"]}}
    params["r1"]["linear_0"] = {"kernel": kernel, "bias": dense["bias"].at[0].set(-100.0)}

    @jax.jit
    def step(statistics: Any) -> Any:
        return MODEL.apply({"params": params, **statistics}, x, KEY, train=True, mutable=["batch_stats"])[1]

    statistics = {"batch_stats": fresh["batch_stats"]}
    for _ in range(150):
        statistics = step(statistics)
    assert statistics["batch_stats"]["r1"]["norm_0"]["var"][0] < 1e-6
    pictures = x.at[0, 1, 1].set(3)
    bounds = elbo(jax.jit(MODEL.apply)({"params": params, **statistics}, pictures, KEY))
    assert bounds[0] > 100 * bounds[1:].min()


def test_networks_take_images_and_integers() -> None:
    """Every axis but the first is flattened, and uint8 is promoted."""
    net, x = MLP((3,), 2), integers(200, 2, 2)
    variables = net.init(KEY, x)
    flat = net.apply(variables, x.reshape(8, 4).astype(jnp.float32))
    np.testing.assert_allclose(net.apply(variables, x), flat, rtol=1e-5)


def test_lists_are_taken_as_tuples() -> None:
    """Settings from a command line or JSON come as lists; the model stays hashable."""
    assert TopDownVAE(latents=[2, 3], likelihood=Bernoulli()) == TopDownVAE(latents=(2, 3), likelihood=Bernoulli())
    hash(TopDownVAE(latents=[2, 3]))
