"""Wrong calls, as a newcomer makes them: each is an error of ours that says what was given and what to do."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from support.cases import case

import hvae_jax as hv
from hvae_jax.diagnostics import information
from hvae_jax.models import HVAE, VDVAE, EfficientVDVAE, ResNetVAE, TopDownVAE

KEY = jax.random.key(0)
RAW = jax.random.PRNGKey(0)
# a top-down and a bottom-up chain with batch statistics, and blocks with an image in their settings
ROWS = {name: case(name) for name in ("top_down_2", "ladder", "vdvae")}
Call = Callable[[HVAE, Any, Any], Any]


@pytest.fixture(autouse=True)
def no_types(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside tests nothing checks annotations before our own checks do."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@functools.cache
def variables(name: str) -> Any:
    """Shapes of a row's variables."""
    row = ROWS[name]
    return jax.eval_shape(row.model.init, KEY, row.x, KEY)


def sampled(**arguments: Any) -> Call:
    """A call of `generate` with these arguments."""
    return lambda m, v, x: m.apply(v, **{"key": KEY, "n": 4, "method": "generate", **arguments})


def inferred(**arguments: Any) -> Call:
    """A call of the model with these arguments."""
    return lambda m, v, x: m.apply(v, **{"x": x, "key": KEY, **arguments})


def latents_of(m: HVAE, v: Any, x: Any) -> tuple[Any, ...]:
    return m.apply(v, x, KEY).latents


CALLS: dict[str, tuple[Call, type[Exception] | tuple[type[Exception], ...], str]] = {
    "x and key swapped": (lambda m, v, x: m.apply(v, KEY, x), TypeError, "x is a random key.*apply.variables, x, key"),
    "swapped at init": (lambda m, v, x: m.init(KEY, KEY, x), TypeError, "x is a random key"),
    "no method": (lambda m, v, x: m.apply(v, KEY, 4), TypeError, 'x is a random key.*method="generate"'),
    "no method, old key": (lambda m, v, x: m.apply(v, RAW, 4), ValueError, r"x has shape \(2,\)"),
    "int as key": (inferred(key=3), TypeError, r"the key is the number 3; give jax.random.key\(3\)"),
    "int as key of decode": (sampled(key=3, method="decode"), TypeError, r"number 3; give jax.random.key\(3\)"),
    "int as key of generate": (sampled(key=3), TypeError, r"number 3; give jax.random.key\(3\)"),
    "many keys": (inferred(key=jax.random.split(KEY, 4)), TypeError, r"array of keys, \(4,\).*vmap"),
    "floats as key": (inferred(key=np.zeros(2)), TypeError, "key is an array of float64"),
    "no key": (inferred(key=None), TypeError, "the key is a NoneType"),
    "n and key swapped": (sampled(key=4, n=KEY), TypeError, "n is a random key; the order is"),
    "x in place of the key": (
        lambda m, v, x: m.apply(v, x, 4, method="generate"),
        TypeError,
        "key is an array of uint8",
    ),
    "n of a fraction": (sampled(n=4.0), TypeError, "n is 4.0; it has to be a whole number"),
    "n of a shape": (sampled(n=(4,)), TypeError, r"n is \(4,\); it has to be a whole number"),
    "n of 0": (sampled(n=0), ValueError, "n is 0; .* 1 or more"),
    "n of -1": (sampled(n=-1, method="decode"), ValueError, "n is -1; .* 1 or more"),
    "n of True": (sampled(n=True), ValueError, "n is True"),
    "n traced": (
        lambda m, v, x: jax.eval_shape(lambda n: m.apply(v, KEY, n, method="generate"), 3),
        TypeError,
        "n, the number of examples, is traced.*static",
    ),
    "parameters alone": (
        lambda m, v, x: m.apply(v["params"], x, KEY),
        (TypeError, ValueError),
        "have no 'params'.*model.init|hold no dict .* parameters alone",
    ),
    "None as variables": (lambda m, v, x: m.apply(None, x, KEY), TypeError, "variables are of type NoneType"),
    "x and variables swapped": (lambda m, v, x: m.apply(x, v, KEY), TypeError, "variables are of type ndarray"),
    "no variables": (lambda m, v, x: m.apply({}, x, KEY), ValueError, "have no 'params'"),
    "one example": (lambda m, v, x: m.apply(v, x[0], KEY), ValueError, r"x\[None\]"),
    "a number": (inferred(x=1.0), ValueError, r"x has shape \(\), but"),
    "no example": (lambda m, v, x: m.apply(v, x[:0], KEY), ValueError, "no example in it"),
    "another rank": (lambda m, v, x: m.apply(v, x[..., None], KEY), ValueError, "x has shape .* takes|initialised for"),
    "no x": (inferred(x=None), TypeError, "x is a NoneType"),
    "words": (inferred(x=["a", "b"]), TypeError, "x is a list"),
    "a batch": (lambda m, v, x: m.apply(v, hv.Batch(x), KEY), TypeError, "x is a Batch.*batch.x"),
    "complex x": (lambda m, v, x: m.apply(v, x.astype(np.complex64), KEY), TypeError, "array of complex64"),
    "x beyond int32": (lambda m, v, x: m.apply(v, np.full(x.shape, 2**40), KEY), ValueError, "109951.*no int32"),
    "x beyond float32": (lambda m, v, x: m.apply(v, np.full(x.shape, 1e300), KEY), ValueError, "1e.300.*no float32"),
    "y to a model without": (inferred(y=np.zeros(8, int)), ValueError, "classes=0 and was given a y"),
    "latents of a number": (inferred(latents=3), TypeError, "latents is a int; it has to be a tuple"),
    "latents as an array": (inferred(latents=np.ones((8, 2))), TypeError, r"latents is an array of shape \(8, 2\)"),
    "latents by name": (sampled(latents={"z1": np.ones(2)}), TypeError, "latents is a dict.*top first"),
    "latents of words": (sampled(latents=("z2",)), TypeError, r"latents\[0\] is 'z2'"),
    "too many latents": (
        lambda m, v, x: m.apply(v, x, KEY, latents=(*latents_of(m, v, x), np.ones(2))),
        ValueError,
        "latents were given, but the model has",
    ),
    "latents of another batch": (
        lambda m, v, x: m.apply(v, KEY, 3, latents=latents_of(m, v, x), method="decode"),
        ValueError,
        "latent given for level .* has shape",
    ),
    "noise as an array": (inferred(noise=np.ones((8, 2))), TypeError, r"noise is an array of shape \(8, 2\)"),
    "noise of another shape": (inferred(noise=(np.ones((8, 9, 9)),)), ValueError, "noise .* has shape"),
    "a word as temperature": (sampled(temperature="hot"), TypeError, "temperature is 'hot'"),
    "no temperature": (sampled(temperature=None), TypeError, "temperature is None"),
    "many temperatures": (sampled(temperature=np.ones(9)), ValueError, r"temperature has shape \(9,\)"),
    "temperature below 0": (sampled(temperature=-1), ValueError, "temperature is -1"),
    "temperature of NaN": (sampled(temperature=np.nan), ValueError, "temperature is nan"),
    "elbo of a pair": (lambda m, v, x: hv.elbo((m.apply(v, x, KEY), {})), TypeError, "pair .trace, updates.*mutable"),
    "log_weight of an array": (lambda m, v, x: hv.log_weight(jnp.ones(3)), TypeError, "computed from a Trace.*of type"),
    "elbo without x": (lambda m, v, x: hv.elbo(m.apply(v, KEY, 4, method="decode")), ValueError, "trace has no x"),
    "elbo of a vmapped trace": (
        lambda m, v, x: hv.elbo(jax.vmap(lambda key: m.apply(v, x, key))(jax.random.split(KEY))),
        ValueError,
        r"vmapped Trace.*vmap\(lambda key",
    ),
    "iwae with an int as key": (lambda m, v, x: hv.iwae(m, v, x, 0, k=2), TypeError, r"give jax.random.key\(0\)"),
    "iwae without a model": (lambda m, v, x: hv.iwae(v, m, x, KEY, k=2), TypeError, "is no model; the order is"),
    "iwae in another order": (lambda m, v, x: hv.iwae(m, x, v, KEY, k=2), TypeError, "variables are of type"),
    "iwae of a batch": (lambda m, v, x: hv.iwae(m, v, hv.Batch(x), KEY, k=2), TypeError, "x is a Batch"),
    "iwae of words": (lambda m, v, x: hv.iwae(m, v, x, KEY, k="2"), ValueError, r"importance\(k=2\)"),
    "information of few": (lambda m, v, x: information(m, v, x, KEY), ValueError, "256 unless set.*from 2 to 8"),
}


@pytest.mark.parametrize(
    "name", ["top_down_2", *(pytest.param(n, marks=pytest.mark.slow) for n in ("ladder", "vdvae"))]
)
@pytest.mark.parametrize("wrong", CALLS)
def test_wrong_calls(wrong: str, name: str) -> None:
    call, error, words = CALLS[wrong]
    row = ROWS[name]
    x = np.asarray(row.x)
    with pytest.raises(error, match=words):
        jax.eval_shape(lambda v: call(row.model, v, x), variables(name))


@pytest.mark.parametrize("name", ["top_down_2", pytest.param("ladder", marks=pytest.mark.slow)])
def test_batch_statistics(name: str) -> None:
    """Training without `mutable=`, and variables without their statistics, are named with what to pass."""
    row, known = ROWS[name], variables(name)
    with pytest.raises(ValueError, match=r'train=True.*trace, updates = .*mutable=\["batch_stats"\]'):
        jax.eval_shape(lambda v: row.model.apply(v, row.x, KEY, train=True), known)
    with pytest.raises(ValueError, match=r"have no 'batch_stats'.*model\.init"):
        jax.eval_shape(lambda v: row.model.apply({"params": v["params"]}, row.x, KEY), known)


@pytest.mark.parametrize("name", ["vdvae", "efficient_vdvae", "resnet_vae"])
def test_another_image(name: str) -> None:
    """A model whose settings have the image is not told to be initialised on another one, which was tried."""
    row = case(name)
    x = np.concatenate([row.x, row.x], axis=1)
    with pytest.raises(ValueError, match=r"image=.*takes examples of .*or set image") as error:
        jax.eval_shape(row.model.init, KEY, x, KEY)
    assert "initialise" not in str(error.value)


@pytest.mark.parametrize("model", [TopDownVAE, VDVAE, EfficientVDVAE, ResNetVAE])
def test_likelihoods(model: Any) -> None:
    """A name, a class and nothing are no likelihoods."""
    with pytest.raises(ValueError, match=r"likelihood='bernoulli'\): .* of type Likelihood"):
        model(likelihood="bernoulli")
    with pytest.raises(ValueError, match=r"of type Likelihood .* An instance is needed: Bernoulli"):
        model(likelihood=hv.Bernoulli)
    with pytest.raises(ValueError, match=r"likelihood=None\)"):
        model(likelihood=None)


def test_what_is_right_stays_so() -> None:
    """Lists, Python numbers, old-style keys, whole numbers of NumPy, float64 and traced arguments are taken."""
    row, known = ROWS["top_down_2"], variables("top_down_2")
    shape, sizes = (8, *row.x.shape[1:]), (8, np.int64(8), jnp.int32(8))

    def calls(v: Any, temperature: Any) -> Any:
        apply = functools.partial(row.model.apply, v)
        trace = apply(np.asarray(row.x).tolist(), RAW, latents=[None], temperature=[1, 0.5])
        for n in sizes:
            assert apply(KEY, n, temperature=[temperature, 1.0], method="generate").shape == shape
        return trace, apply(np.asarray(row.x, np.float64), np.asarray(RAW), temperature=temperature)

    jax.eval_shape(calls, known, jnp.float32(1.0))
