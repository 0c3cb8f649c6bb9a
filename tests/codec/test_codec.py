"""`Codec`: every image comes back, the net bits are the ELBO of the same draws, and what does not fit is refused."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import case
from support.contract import plausible_variables

from hvae_jax.codec import Codec, Encoded, codec
from hvae_jax.likelihoods import (
    Bernoulli,
    Categorical,
    DiscretisedLogistic,
    Gaussian,
    Likelihood,
    LogisticMixture,
    Missing,
    PixelCNN,
    Poisson,
    Quantised,
)
from hvae_jax.models import HVAE, VAE, VDVAE, BottomUpVAE, TopDownVAE, down_stages, up_stages
from hvae_jax.objectives import log_weight

KEY = jax.random.key(0)


def images(likelihood: Likelihood, count: int, *event: int) -> np.ndarray:
    """Random images that the likelihood has."""
    family = likelihood.base if isinstance(likelihood, PixelCNN) else likelihood
    values = int(family.value_range[1]) + 1 if family.value_range else 2
    return np.random.default_rng(1).integers(0, values, (count, *event)).astype(np.uint8)


@functools.cache
def coder(model: HVAE, *event: int) -> Codec:
    """A codec of eight images at once with made-up variables."""
    assert model.likelihood is not None
    x = jnp.asarray(images(model.likelihood, 4, *event))
    return Codec(model, plausible_variables(model, x, None), streams=8, initial=2)


def round_trip(model: HVAE, *event: int, count: int = 21) -> Encoded:
    """Encodes and decodes; asserts that all images are there and that the net bits are those of the bound."""
    made = coder(model, *event)
    assert model.likelihood is not None
    x = images(model.likelihood, count, *event)
    coded = made.encode(x)
    decoded = made.decode(coded.to_bytes())
    assert decoded.dtype == x.dtype
    np.testing.assert_array_equal(decoded, x)
    # counted in whole bits
    assert abs(coded.net_bits - coded.bound_bits) < 0.01 * coded.bound_bits + 2
    assert sum(coded.container.counts) == count and max(coded.container.counts) <= 8
    return coded


TOP_DOWN = TopDownVAE(latents=(2, 3), hidden=8, likelihood=Categorical(17))
MIXTURE = LogisticMixture(2, values=16, channels=3)


@pytest.mark.parametrize(
    ("model", "event"),
    [
        (TOP_DOWN, (4, 2, 1)),
        (BottomUpVAE(latents=(2, 2, 3), hidden=8, likelihood=DiscretisedLogistic(9)), (6,)),
        (VAE(latents=2, hidden=6, likelihood=MIXTURE), (2, 2, 3)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_round_trips(model: HVAE, event: tuple[int, ...]) -> None:
    round_trip(model, *event)


DEEP = VDVAE(
    image=(2, 2, 1),
    ups=up_stages("2d2,1x1", 3, middle=3, layers=0),
    downs=down_stages("1x2,2m1,2x2", 3, latents=1, middle=3, layers=0),
    likelihood=Categorical(5),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "event"),
    [
        (DEEP, (2, 2, 1)),  # scanned levels: runs of two and three
        (BottomUpVAE(latents=(2, 2), hidden=6, posteriors_see_x=True, likelihood=Bernoulli()), (5,)),
        (VAE(latents=2, hidden=5, likelihood=PixelCNN(Categorical(4), layers=2, width=4, context=2)), (2, 3, 1)),
        (VAE(latents=2, hidden=5, likelihood=PixelCNN(LogisticMixture(2, 9, 1), layers=2, width=4)), (2, 2, 2)),
        (VAE(latents=2, hidden=5, likelihood=PixelCNN(Bernoulli(), receptive_field=0, layers=1, width=4)), (2, 2, 1)),
        (VAE(latents=2, hidden=5, likelihood=LogisticMixture(2, 16, 1, form="published")), (2, 2, 1)),
        (VAE(latents=2, hidden=5, likelihood=DiscretisedLogistic(9, "global")), (2, 2, 1)),
        *(
            (case(name).model, case(name).x.shape[1:])
            for name in ("ladder", "ladder_conv", "resnet_vae", "biva", "gated_vae", "efficient_vdvae", "nvae")
        ),
        (case("greedy_image").model, (4, 4, 1)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_round_trips_of_every_family(model: HVAE, event: tuple[int, ...]) -> None:
    round_trip(model, *event)


def test_bottom_up_inference_swaps_bits() -> None:
    """x is pushed once z1 is known, z1 once z2 is, so that one level's bits have to be there at first."""
    made = coder(BottomUpVAE(latents=(2, 2, 3), hidden=8, likelihood=DiscretisedLogistic(9)), 6)
    _, order, grids = made._program((6,), 8)
    found = [(one.pops, one.variable) for one in order.operations]
    assert found == [(True, 2), (False, -1), (True, 1), (False, 2), (True, 0), (False, 1), (False, 0)]
    assert sorted(grids) == [1, 2] and order.by_prior == (True, False, False)


def test_the_net_bits_are_the_elbo_on_average() -> None:
    """The latents that are popped are draws from q: the mean of the bound is that of the model's own draws."""
    made, x = coder(TOP_DOWN, 4, 2, 1), images(Categorical(17), 4, 4, 2, 1)
    many = np.tile(x, (100, 1, 1, 1))
    coded = made.replace(seed=5).encode(many)

    def weights(variables: Any, x: jax.Array, key: jax.Array) -> jax.Array:
        return log_weight(TOP_DOWN.apply(variables, x, key))

    apply = jax.jit(jax.vmap(weights, (None, None, 0)))
    own = np.asarray(apply(made.variables, jnp.asarray(x), jax.random.split(KEY, 100))).ravel()
    error = math.sqrt(own.var() / own.size + coded.bound.var() / coded.bound.size)
    assert error < 0.05, "too few draws to notice anything"
    assert abs(own.mean() - coded.bound.mean()) < 4 * error


def test_settings_change_the_length_alone() -> None:
    """Coarse bins and frequencies cost bits; every setting gives the images back, and a file tells its own."""
    made, x = coder(TOP_DOWN, 4, 2, 1), images(Categorical(17), 30, 4, 2, 1)
    plain = made.encode(x)
    for changes in ({"prior_bits": 2}, {"precision": 8}, {"seed": 9}, {"initial": 8}):
        coded = made.replace(**changes).encode(x)
        np.testing.assert_array_equal(made.decode(coded), x)  # the settings of the file count
        assert coded.to_bytes() != plain.to_bytes()
    assert made.encode(x).to_bytes() == plain.to_bytes()
    assert plain.initial_bits < made.replace(initial=8).encode(x).initial_bits
    assert 8 * len(plain.container.words.tobytes()) <= plain.net_bits + plain.initial_bits + 64


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_dtypes_come_back(dtype: type) -> None:
    made, x = coder(TOP_DOWN, 4, 2, 1), images(Categorical(17), 3, 4, 2, 1).astype(dtype)
    assert made.decode(made.encode(x).to_bytes()).dtype == dtype


@pytest.mark.parametrize("dtype", [">u2", ">f4"])
def test_big_endian_numbers_come_back(dtype: str) -> None:
    """In the machine's own byte order, as the file's dtype has none; and -0.0 as the 0.0 that it equals."""
    made, x = coder(TOP_DOWN, 4, 2, 1), images(Categorical(17), 3, 4, 2, 1).astype(dtype)
    x.flat[0] = np.asarray(-0.0).astype(dtype)
    again = made.decode(made.encode(x).to_bytes())
    np.testing.assert_array_equal(again, x)
    assert again.dtype == x.dtype.newbyteorder("=")


def test_names_are_of_all_images() -> None:
    """A file with other numbers of names could not be read again."""
    made, x = coder(TOP_DOWN, 4, 2, 1), images(Categorical(17), 3, 4, 2, 1)
    with pytest.raises(ValueError, match="2 names for 3 images"):
        made.encode(x, ("a.png", "b.png"))


def test_a_batch_that_is_decoded_otherwise_is_refused() -> None:
    """Changed words of a file whose SHA-256 was made anew: the hash of the batch, of the content, or the reservoir."""
    made, x = coder(TOP_DOWN, 4, 2, 1), images(Categorical(17), 12, 4, 2, 1)
    container = made.encode(x).container
    for position in (0, len(container.words) // 2, len(container.words) - 1):
        words = container.words.copy()
        words[position] ^= np.uint32(1 << 7)
        with pytest.raises(ValueError, match="encoded"):
            made.decode(dataclasses.replace(container, words=words).to_bytes())
    for changes in ({"content": "0" * 32}, {"blocks": ("0" * 8,) * len(container.counts)}, {"seed": 4}):
        with pytest.raises(ValueError, match="encoded"):
            made.decode(dataclasses.replace(container, **changes))


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("jax", "written with jax other, but here it is"),
        ("backend", "written with backend other, but here it is cpu"),
        ("machine", "written with machine other"),
        ("parameters", "is of another model: the parameters"),
        ("program", "is of another model: the settings"),
        ("arithmetic", "computes other numbers"),
    ],
)
def test_another_writer_is_refused_before_decoding(key: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, x = coder(TOP_DOWN, 4, 2, 1), images(Categorical(17), 2, 4, 2, 1)
    container = made.encode(x).container
    other = dataclasses.replace(container, made_by={**container.made_by, key: "other"})
    monkeypatch.setattr(codec, "Stack", None)  # nothing is popped
    with pytest.raises(ValueError, match=line):
        made.decode(other.to_bytes(), "x.hvae")


def test_another_model_is_refused() -> None:
    """Other parameters, and images of another shape."""
    made, x = coder(TOP_DOWN, 4, 2, 1), images(Categorical(17), 2, 4, 2, 1)
    data = made.encode(x).to_bytes()
    other = Codec(TOP_DOWN, jax.tree.map(lambda a: a + 0.01, made.variables), streams=8)
    with pytest.raises(ValueError, match="of another model: the parameters"):
        other.decode(data)
    with pytest.raises(ValueError, match="of another model: images of"):
        coder(BottomUpVAE(latents=(2, 2, 3), hidden=8, likelihood=DiscretisedLogistic(9)), 6).decode(data)


@pytest.mark.parametrize(
    ("x", "line"),
    [
        (np.full((2, 4, 2, 1), 17, np.uint8), "17 at index"),
        (np.full((2, 4, 2, 1), 0.5), "0.5 at index"),
        (np.zeros((0, 4, 2, 1), np.uint8), "at least one example"),
        (np.zeros((2, 4, 0), np.uint8), "at least one example"),
        (np.array([["a"]]), "whole numbers are needed"),
    ],
)
def test_values_that_cannot_be_coded(x: np.ndarray, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        coder(TOP_DOWN, 4, 2, 1).encode(x)


def test_missing_values_have_no_code() -> None:
    """A model that was trained with them codes whole images, as the model of whole images that it is."""
    made = coder(TOP_DOWN, 4, 2, 1)
    assert Codec(TOP_DOWN.clone(likelihood=Missing(Categorical(17))), made.variables).model == TOP_DOWN
    x = images(Categorical(17), 3, 4, 2, 1).astype(np.float32)
    x[1, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"^x has missing values, NaN, in 1 of 3 images: .*`hvae inpaint RUN"):
        made.encode(x)
    with pytest.raises(ValueError, match="needs a discrete one"):
        Codec(TOP_DOWN.clone(likelihood=Missing(Gaussian())), {})


def test_a_bernoulli_codes_no_probabilities() -> None:
    made = Codec(VAE(likelihood=Bernoulli()), {})
    with pytest.raises(ValueError, match="no whole numbers"):
        made.encode(np.full((1, 3), 0.5))


@pytest.mark.parametrize(
    ("likelihood", "line"),
    [
        (Gaussian(), "needs a discrete one: Bernoulli, Categorical"),
        (Poisson(), "counts without a largest one"),
        (Quantised(), "leading bits"),
        (LogisticMixture(values=32, form="vdvae_5_bits"), "overlap"),
        (PixelCNN(Gaussian()), "needs a discrete one"),
    ],
    ids=str,
)
def test_likelihoods_without_a_code(likelihood: Likelihood, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        Codec(VAE(likelihood=likelihood), {})


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("categorical_levels", "Level 'z3' has a posterior that is no diagonal Gaussian but OneHotCategorical"),
        ("self_supervised", "Level 'y' has a posterior that is no diagonal Gaussian but Known"),
        ("mixture_prior", "Level 'z2' has a prior that is no diagonal Gaussian but NormalMixture"),
        ("cagem", "Level 'y' has a posterior"),
        ("classes", "conditioned on labels"),
    ],
)
def test_levels_that_are_refused_by_name(name: str, line: str) -> None:
    """From shapes alone: nothing is compiled."""
    row = case(name)
    variables = plausible_variables(row.model, row.x, row.y)
    with pytest.raises(ValueError, match=line):
        Codec(row.model, variables, streams=2).encode(np.asarray(row.x))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet_vae_flow", "nvae_flow"])
def test_flows_are_refused_by_name(name: str) -> None:
    row = case(name)
    with pytest.raises(ValueError, match=r"Level '[^']+' has a flow"):
        Codec(row.model, plausible_variables(row.model, row.x, None), streams=2).encode(np.asarray(row.x))


@pytest.mark.parametrize(
    "changes", [{"streams": 0}, {"initial": 0}, {"prior_bits": 19}, {"precision": 25}, {"precision": 7}, {"seed": -1}]
)
def test_settings_out_of_range(changes: dict[str, int]) -> None:
    (name,) = changes
    with pytest.raises(ValueError, match=f"{name} is {changes[name]}"):
        Codec(TOP_DOWN, {}, **changes)


def test_constriction_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "constriction", None)
    with pytest.raises(ImportError, match=r"The codec needs constriction: pip install 'constriction>=0\.5"):
        Codec(TOP_DOWN, {})
