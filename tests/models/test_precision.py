"""bfloat16 and remat: what they change, and what they must not."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import Array
from support.cases import case, equations
from support.contract import (
    PROMISES,
    Row,
    each_parameter_learns,
    jit_equals_eager,
    mean_rate_is_mean_ratio,
    mean_weight_is_one,
    sharded_is_the_same,
    weights_sum_to_one,
)

from hvae_jax.experiment import settings
from hvae_jax.likelihoods import Categorical
from hvae_jax.models import TopDownVAE
from hvae_jax.networks import MLP, BatchNorm, Dense, Readout
from hvae_jax.objectives import elbo
from hvae_jax.trace import Trace

KEY = jax.random.key(5)
X = jnp.asarray(np.random.default_rng(1).integers(0, 5, (64, 12)), jnp.uint8)
PLAIN = TopDownVAE(latents=(3, 4), hidden=32, depth=2, likelihood=Categorical(5))
HALF = PLAIN.clone(dtype="bfloat16")
REMAT = PLAIN.clone(remat=True)
# The promises that are quick to check: the others need programs of their own.
IN_SHORT = (each_parameter_learns, mean_rate_is_mean_ratio, mean_weight_is_one, weights_sum_to_one)


@functools.cache
def variables(model: TopDownVAE = PLAIN) -> dict[str, Any]:
    """Variables of a model, from one key."""
    return jax.jit(model.init)(KEY, X, KEY)


def loss_of(model: TopDownVAE, x: Array = X) -> Callable[[Any], tuple[Array, tuple[Trace, Any]]]:
    """params -> (-mean elbo, (trace, updates)) in training mode."""

    def loss(params: Any) -> tuple[Array, tuple[Trace, Any]]:
        trace, updates = model.apply(
            {"params": params, "batch_stats": variables()["batch_stats"]}, x, KEY, train=True, mutable=["batch_stats"]
        )
        return -elbo(trace).mean(), (trace, updates)

    return loss


@functools.cache
def gradient_of(model: TopDownVAE) -> Callable[[Any], Any]:
    """Compiled: params -> (gradient, (trace, updates)), in training mode."""
    return jax.jit(jax.grad(loss_of(model), has_aux=True))


@functools.cache
def trained(model: TopDownVAE) -> tuple[Trace, Any, Any]:
    """Trace, updates and gradient at the same parameters for every model."""
    gradient, (trace, updates) = gradient_of(model)(variables()["params"])
    return trace, updates, gradient


def primitives(function: Callable[..., Any], *arguments: Any) -> list[tuple[str, set[str]]]:
    """Each primitive of a function's innermost jaxprs, and the dtypes it reads."""
    return [
        (equation.primitive.name, {str(operand.aval.dtype) for operand in equation.invars})
        for equation in equations(jax.make_jaxpr(function)(*arguments))
        if not any(hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr") for leaf in jax.tree.leaves(equation.params))
    ]


# ---- bfloat16


@pytest.mark.slow
def test_everything_that_is_kept_is_float32() -> None:
    """Parameters, gradients, statistics and every array of a trace (z, KLs, densities, distributions) are float32.

    The mask of the levels that were inferred is bool.
    """
    made = variables()
    drawn = jax.eval_shape(lambda: HALF.apply(made, KEY, 4, method="decode"))
    for tree in (variables(HALF), *trained(HALF), drawn):
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(tree)} - {"bool"} == {"float32"}


def test_the_same_parameters() -> None:
    """Initialisation does not depend on dtype."""
    jax.tree.map(np.testing.assert_array_equal, variables(HALF), variables())


@pytest.mark.parametrize("train", [False, True])
def test_networks_compute_in_bfloat16_and_distributions_do_not(train: bool) -> None:
    """All products of the forward pass read bfloat16; of other operations only activations and reshapes do.

    The products are those of 5 networks of 2 hidden layers and a last one, of a decoder of 3, and of the readout.
    """

    def forward(variables: Any) -> Any:
        return HALF.apply(variables, X, KEY, train=train, mutable=["batch_stats"] if train else [])

    found = primitives(forward, variables())
    products = [dtypes for name, dtypes in found if name == "dot_general"]
    assert products == [{"bfloat16"}] * (5 * 3 + 3 + 1)
    others = {name for name, dtypes in found if "bfloat16" in dtypes} - {"dot_general"}
    shapes = {"convert_element_type", "reshape", "broadcast_in_dim", "concatenate", "squeeze", "copy"}
    assert others <= shapes | {"mul", "add", "neg", "logistic", "erf", "ge", "select_n"}
    assert {"exp", "log", "reduce_sum"} <= {name for name, _ in found}


def test_the_gradient_computes_in_bfloat16_too() -> None:
    """Each layer has three products, or two where x has no gradient; sums (biases, statistics) are float32."""
    found = primitives(jax.grad(loss_of(HALF), has_aux=True), variables()["params"])
    products = [dtypes for name, dtypes in found if name == "dot_general"]
    assert products == [{"bfloat16"}] * (3 * 19 - 1)
    assert all(dtypes == {"float32"} for name, dtypes in found if name.startswith("reduce_sum"))


@pytest.mark.slow
def test_bfloat16_is_near_float32() -> None:
    """Terms of the ELBO within 1%; statistics and gradient off by what rounding to eight bits explains.

    The effect of one rounding is measured in float32 at parameters rounded to bfloat16. In bfloat16 each product has
    three more (its input, its output, the activation), and independent errors add in squares: twice as much, bounded
    by three times.
    """
    trace, updates, gradient = trained(PLAIN)
    half_trace, half_updates, half_gradient = trained(HALF)
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), variables()["params"])
    rounded_gradient, (_, rounded_updates) = gradient_of(PLAIN)(rounded)
    np.testing.assert_allclose(half_trace.log_px.mean(), trace.log_px.mean(), rtol=0.01)
    np.testing.assert_allclose(half_trace.rates.mean(1), trace.rates.mean(1), rtol=0.01)
    for half, once, full in (
        (half_updates, rounded_updates, updates),
        (half_gradient, rounded_gradient, gradient),
    ):
        off, off_once = (optax.tree.norm(optax.tree.sub(tree, full)) for tree in (half, once))
        assert 0.5 * off_once < off < 3 * off_once < 0.2 * optax.tree.norm(full)


@functools.cache
def half_row() -> Row:
    """A row of the contract: two levels in bfloat16."""
    row = case("top_down_2")
    return Row(dataclasses.replace(row, name="bfloat16", model=row.model.clone(dtype="bfloat16")))


@pytest.mark.parametrize(
    "promise",
    [
        pytest.param(promise, marks=[] if promise in IN_SHORT else [pytest.mark.slow])
        for promise in PROMISES
        if promise not in (jit_equals_eager, sharded_is_the_same)
    ],
)
def test_bfloat16_keeps_the_contract(promise: Callable[[Row], None]) -> None:
    """Bounds hold for the model with its rounding: every promise but two, to the tolerances of float32.

    These two promises compare different programs of the same pass, and XLA may omit a rounding to bfloat16 and back
    where it fuses two operations: they agree to bfloat16's precision alone, a tolerance that would show nothing.
    """
    promise(half_row())


def test_networks_that_replace_others_keep_their_own_precision() -> None:
    """A bfloat16 network in a float32 model, or the reverse, keeps its dtype; distributions are float32."""
    nets = {"delta": (MLP((), 6), None), "prior": (MLP((5,), 8),), "decoder": MLP((7,))}
    wide = HALF.clone(**nets)
    narrow = PLAIN.clone(
        delta=(MLP((), 6, dtype="bfloat16"), None),
        prior=(MLP((5,), 8, dtype="bfloat16"),),
        decoder=MLP((7,), dtype="bfloat16"),
    )
    counts = []
    for model in (wide, narrow):
        found = primitives(lambda model=model: model.init_with_output(KEY, X, KEY)[0])
        counts.append(sum(name == "dot_general" and dtypes == {"bfloat16"} for name, dtypes in found))
        trace = jax.eval_shape(lambda model=model: model.init_with_output(KEY, X, KEY)[0])
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(trace)} == {"float32"}
    own = 3 * 3 + 1  # r1, r2, delta1 and the readout; those of the replaced: 1 + 2 + 1
    assert counts == [own, 4]


def test_batch_norm_of_bfloat16() -> None:
    """Statistics and normalisation are those of the values in float32, rounded once, at the end."""
    x = (100.0 + jax.random.normal(KEY, (256, 3))).astype(jnp.bfloat16)
    layer = BatchNorm()
    fresh = layer.init(KEY, x, train=True)
    y, updates = layer.apply(fresh, x, train=True, mutable=["batch_stats"])
    wide, wide_updates = layer.apply(fresh, x.astype(jnp.float32), train=True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, wide.astype(jnp.bfloat16))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), updates, wide_updates)
    evaluated = layer.apply({**fresh, **updates}, x, train=False)
    assert evaluated.dtype == jnp.bfloat16


def test_layers_in_bfloat16() -> None:
    """A linear layer returns bfloat16; the readout, whose bias is not rounded, returns float32."""
    h = jax.random.normal(KEY, (4, 6))
    y, _ = Dense(3, "bfloat16").init_with_output(KEY, h)
    assert y.dtype == jnp.bfloat16
    layer = Readout(2, "bfloat16")
    made = layer.init(KEY, h, (5,))
    bias = made["params"]["bias"]
    logits = layer.apply(made, jnp.zeros_like(h), None)
    assert logits.dtype == jnp.float32
    np.testing.assert_array_equal(logits, jnp.broadcast_to(bias, logits.shape))
    exact = Readout(2).apply(made, h, None)
    np.testing.assert_allclose(layer.apply(made, h, None), exact, atol=0.02)


def test_other_dtypes_are_refused() -> None:
    """The error names what was given and what is allowed."""
    with pytest.raises(ValueError, match=r"TopDownVAE\(dtype='half'\): it has to be 'bfloat16' or None"):
        TopDownVAE(dtype="half")
    with pytest.raises(ValueError, match="it has to be 'bfloat16' or None"):
        TopDownVAE(dtype=jnp.bfloat16)


def test_settings_round_trip(tmp_path: Path) -> None:
    """dtype and remat come back from JSON like other settings."""
    model = HALF.clone(remat=True, decoder=MLP((7,), dtype="bfloat16"))
    settings.save(tmp_path / "model.json", model)
    assert settings.load(tmp_path / "model.json") == model
    assert settings.differences(*map(settings.to_json, (PLAIN, model)))[1:] == [
        'dtype: null -> "bfloat16"',
        "remat: false -> true",
    ]


# ---- remat


@pytest.mark.slow
def test_remat_changes_nothing_but_memory() -> None:
    """Initial parameters, their paths, the trace, statistics and gradient are the same."""
    jax.tree.map(np.testing.assert_array_equal, variables(REMAT), variables())
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, trained(REMAT), trained(PLAIN))
    moved = [(a != b).any() for a, b in zip(*map(jax.tree.leaves, (trained(REMAT)[1], statistics())), strict=True)]
    assert all(moved)


def statistics() -> Any:
    """Fresh batch statistics."""
    return {"batch_stats": variables()["batch_stats"]}


@pytest.mark.slow
def test_remat_outside_training() -> None:
    """In evaluation, in generation and under vmap the model equals the one without remat."""
    row = case("top_down_2")
    made = jax.jit(row.model.init)(KEY, row.x, KEY)

    def answers(model: Any) -> Any:
        keys = jax.random.split(KEY, 3)
        many = jax.vmap(lambda key: elbo(model.apply(made, row.x, key)))(keys)
        return many, model.apply(made, KEY, 4, method="generate"), model.apply(made, row.x, KEY, keep_top=1)

    plain, remat = (jax.jit(functools.partial(answers, model))() for model in (row.model, row.model.clone(remat=True)))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6), remat, plain)


def test_remat_computes_again() -> None:
    """The gradient has each product once more, except in last layers whose output the backward pass does not need."""
    counts = []
    for model in (PLAIN, REMAT):
        found = primitives(jax.grad(loss_of(model), has_aux=True), variables()["params"])
        counts.append(sum(name == "dot_general" for name, _ in found))
    hidden, last_with_activation = 5 * 2 + 3, 2
    assert counts == [3 * 19 - 1, 3 * 19 - 1 + hidden + last_with_activation]


def test_remat_of_networks_that_replace_others() -> None:
    """Paths of their parameters stay the same."""
    row = case("replaced")
    plain, remat = (jax.eval_shape(model.init, KEY, row.x, KEY) for model in (row.model, row.model.clone(remat=True)))
    assert jax.tree.structure(plain) == jax.tree.structure(remat)


def test_remat_remembers_less() -> None:
    """The backward pass gets fewer residuals, and the compiled gradient needs less memory, with seven deep networks.

    XLA's CPU backend of JAX 0.7 and 0.10 computes the second forward pass together with the first, so that its memory
    does not show it; the residuals are the same on every version.
    """
    x = jnp.zeros((512, 12), jnp.uint8)
    remembered, compiled = [], []
    for model in (PLAIN.clone(depth=6, hidden=64), REMAT.clone(depth=6, hidden=64)):
        params = jax.eval_shape(model.init, KEY, x, KEY)

        def loss(params: Any, model: TopDownVAE = model) -> Array:
            trace, _ = model.apply(params, x, KEY, train=True, mutable=["batch_stats"])
            return -elbo(trace).mean()

        residuals = jax.eval_shape(lambda params, loss=loss: jax.vjp(loss, params)[1], params)
        weights = sum(leaf.size for leaf in jax.tree.leaves(params))
        remembered.append(sum(leaf.size for leaf in jax.tree.leaves(residuals)) - weights)
        if jax.__version_info__ >= (0, 12):
            compiled.append(jax.jit(jax.grad(loss)).lower(params).compile().memory_analysis().temp_size_in_bytes)
    assert remembered[1] < remembered[0] / 10
    if compiled:
        assert compiled[1] < compiled[0] / 2
