"""Validation and evaluation: means over every example of a split, none twice, however it comes to whichever devices."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hvae_jax.data import REAL, Dataset, Split
from hvae_jax.data.rows import LazyRows
from hvae_jax.experiment.evaluation import evaluate
from hvae_jax.likelihoods import Gaussian
from hvae_jax.models import LinearVAE, TopDownVAE
from hvae_jax.objectives import elbo
from hvae_jax.runtime import memory
from hvae_jax.training import Feeding, data_mesh
from hvae_jax.training.mesh import replicated
from hvae_jax.training.validate import make_validate

pytestmark = pytest.mark.leg

REAL_MEMORY = memory.program_memory
KEY = jax.random.key(8)
X = np.random.default_rng(0).normal(size=(21, 3)).astype(np.float32) * np.arange(1, 22)[:, None]  # each its own ELBO
Y = np.arange(21, dtype=np.int32) % 3
MODELS = {
    "plain": LinearVAE((2, 2), "shifted"),
    "labelled": TopDownVAE(latents=(2,), hidden=4, likelihood=Gaussian(), classes=3),
}


class Lazy(LazyRows):
    """The examples, read."""

    shape = X.shape
    dtype = X.dtype
    fingerprint = "lazy"

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Some of them."""
        return X[numbers]


@functools.cache
def variables(kind: str) -> Any:
    """Of a fresh model."""
    y = None if kind == "plain" else Y[:2]
    return jax.jit(lambda: MODELS[kind].init(KEY, X[:2], KEY, y=y))()


@functools.cache
def apply(kind: str) -> Any:
    """ELBO and rates of one batch."""

    def measure(x: jax.Array, y: jax.Array | None, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        trace = MODELS[kind].apply(variables(kind), x, key, y=y)
        return elbo(trace), trace.rates

    return jax.jit(measure)


@functools.cache
def by_hand(kind: str, size: int) -> tuple[float, np.ndarray]:
    """Batch by batch, with whatever in the places that are left over in the last one."""
    bounds, rates = [], []
    for start in range(0, 21, size):
        x, y = np.full((size, 3), 7.0, np.float32), np.zeros(size, np.int32)
        count = min(size, 21 - start)
        x[:count], y[:count] = X[start : start + count], Y[start : start + count]
        found = apply(kind)(x, None if kind == "plain" else y, jax.random.fold_in(KEY, start))
        bounds.append(found[0][:count])
        rates.append(found[1][:, :count])
    return float(np.concatenate(bounds).astype(np.float64).mean()), np.concatenate(rates, 1).mean(1)


@pytest.mark.parametrize("streamed", [None, Feeding("streamed", threads=2, ahead=2)], ids=["resident", "streamed"])
@pytest.mark.parametrize(
    ("kind", "devices", "size", "rounded"),
    [
        ("plain", 1, 8, 8),  # two batches and five left over
        ("plain", 8, 100, 24),  # more than there is
        ("labelled", 8, 6, 8),
    ],
)
def test_validation_is_the_mean_over_all_examples(
    kind: str, devices: int, size: int, rounded: int, streamed: Feeding | None
) -> None:
    """ELBO and rates, whatever the size of a batch, the devices and the feed."""
    y, mesh = (None if kind == "plain" else Y), data_mesh(devices)
    validate = make_validate(MODELS[kind], X if streamed is None else Lazy(), y, size, mesh, streamed)
    bound, rates = validate(jax.device_put(variables(kind), replicated(mesh)), KEY)
    expected = by_hand(kind, rounded)
    assert float(bound) == pytest.approx(expected[0], rel=1e-5)
    np.testing.assert_allclose(rates, expected[1], rtol=1e-5)
    assert rates.shape == (1 if kind == "labelled" else 2,)


def test_one_example_more_or_less_is_noticed() -> None:
    """What the tests above compare with does depend on each example."""
    bound = by_hand("plain", 8)[0]
    one = make_validate(MODELS["plain"], X[:20], None, 8, data_mesh(1))
    assert abs(float(one(variables("plain"), KEY)[0]) - bound) > 0.01 * abs(bound)


# ---- evaluation


@functools.cache
def evaluated(devices: int, lazy: bool = False, here: bool = True) -> dict[str, Any]:
    """Of a labelled model, eight examples at a time; on a mesh, or where the variables lie."""
    splits = {"train": Split(Lazy() if lazy else X, Y), "test": Split(X[:5], Y[:5])}
    dataset = Dataset("toy", splits, REAL, "made up")
    mesh = data_mesh(devices)
    where = jax.device_put(variables("labelled"), replicated(mesh))
    options: dict[str, Any] = {"mesh": mesh} if here else {}
    draws = {"train": 3, "test": 4}
    return evaluate(MODELS["labelled"], where, dataset, KEY, draws, chunk=2, size=8, usage_draws=2, **options)


def measured(free: float, monkeypatch: pytest.MonkeyPatch, **pieces: int) -> tuple[dict[str, Any], list[int]]:
    """Numbers of the plain model with so much free memory, and what its programs take; both in bytes.

    Programs are taken to need a MiB for each of their bytes, since that is the unit in which processes agree.
    """
    needed: list[int] = []

    def needs(compiled: Any) -> int:
        needed.append(REAL_MEMORY(compiled))
        return needed[-1] * 2**20

    monkeypatch.setattr(memory, "free_device_memory", lambda: int(free * 2**20))
    monkeypatch.setattr(memory, "program_memory", needs)
    dataset, mesh = Dataset("toy", {"train": Split(X[:16])}, REAL, "made up"), data_mesh(1)
    sizes = {"chunk": 6, "size": 8} | pieces
    found = evaluate(MODELS["plain"], variables("plain"), dataset, KEY, {"train": 6}, usage_draws=2, mesh=mesh, **sizes)
    return found, needed


def test_short_memory_takes_fewer_draws_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which changes no number."""
    ample, (_, most) = measured(1e9, monkeypatch)
    short, _ = measured(2 * (most - 1), monkeypatch)
    assert (ample.pop("pieces"), short.pop("pieces")) == ({"size": 8, "chunk": 6}, {"size": 8, "chunk": 3})
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), short, ample)


@pytest.mark.slow
def test_very_short_memory_takes_fewer_examples_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where even one draw does not fit: as if so few had been wanted, with a warning."""
    with pytest.warns(UserWarning, match="8 examples at once do not fit .* 1 are measured at once"):
        least, _ = measured(0, monkeypatch)
    assert least.pop("pieces") == {"size": 1, "chunk": 1}
    as_wanted, _ = measured(1e9, monkeypatch, chunk=1, size=1)
    as_wanted.pop("pieces")
    assert least == as_wanted


def test_short_memory_validates_fewer_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if so many had been wanted; without a limit, as many as are wanted."""
    needed: list[int] = []
    monkeypatch.setattr(memory, "program_memory", lambda c: needed.append(REAL_MEMORY(c)) or needed[-1])

    def found(size: int, device_memory: int | None) -> float:
        validate = make_validate(MODELS["plain"], X, None, size, data_mesh(1), None, device_memory)
        return float(validate(variables("plain"), KEY)[0])

    assert found(8, None) != found(4, None)
    assert not needed and found(8, 2**30) == found(8, None)
    assert found(8, 2 * (needed[0] - 1)) == found(4, None)


@pytest.mark.slow
def test_eight_devices_measure_as_one() -> None:
    """Every number of the report, over examples that are read; without a mesh, where a run left the variables."""
    found, expected = evaluated(8, lazy=True, here=False), evaluated(1)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=1e-6), found, expected)


def test_the_bound_is_that_of_every_example() -> None:
    """The ELBO over the whole split, 21 examples in batches of eight, is within its error of a long average's."""
    report = evaluated(1)
    keys = jax.random.split(KEY, 300)
    long = jnp.mean(jax.lax.map(lambda key: apply("labelled")(X, Y, key)[0].mean(), keys))
    spread = np.std([float(apply("labelled")(X, Y, key)[0].mean()) for key in keys[:20]]) / np.sqrt(3)
    assert abs(report["elbo"]["train"] - float(long)) < 5 * spread
    assert report["k"] == {"train": 3, "test": 4}
    assert report["iw_bound"]["train"] > report["elbo"]["train"] - 5 * spread
