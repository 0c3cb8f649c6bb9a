"""Numbers drawn in one kernel are JAX's own, bit for bit; what users write gets JAX's own keys."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax import linen as nn
from flax import struct
from jax import Array
from support.toys import NoisyPrior

import hvae_jax
from hvae_jax.descent import Pick
from hvae_jax.likelihoods import Likelihood
from hvae_jax.models import HVAE, TopDownVAE
from hvae_jax.objectives import Batch, NegativeELBO
from hvae_jax.runtime.prng import fold_in, fused, split
from hvae_jax.trace import Trace

pytestmark = pytest.mark.leg

DRAWS: dict[str, Callable[[Array], Array]] = {
    "normal": lambda key: jax.random.normal(key, (3, 5, 7)),
    "a single one": lambda key: jax.random.normal(key, ()),
    "none": lambda key: jax.random.normal(key, (2, 0)),
    "bfloat16": lambda key: jax.random.normal(key, (5,), jnp.bfloat16),
    "uniform": lambda key: jax.random.uniform(key, (4, 3), minval=-2.0),
    "gumbel": lambda key: jax.random.gumbel(key, (9,)),
    "logistic": lambda key: jax.random.logistic(key, (2, 3)),
    "bernoulli": lambda key: jax.random.bernoulli(key, 0.3, (11,)),
    "bits of 8": lambda key: jax.random.bits(key, (9,), "uint8"),
    "permutation": lambda key: jax.random.permutation(key, 10),
    "split": lambda key: jax.random.key_data(jax.random.split(key)),
    "split to a shape": lambda key: jax.random.key_data(jax.random.split(key, (3, 4))),
    "folded": lambda key: jax.random.key_data(jax.random.fold_in(key, 2**32 - 7)),
    "over keys": lambda key: jax.vmap(lambda k: jax.random.normal(k, (3,)))(jax.random.split(key, 4)),
    "over numbers": lambda key: jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i)))(jnp.arange(4)),
    "in a scan": lambda key: jax.lax.scan(lambda _, k: (0, jax.random.normal(k, (3,))), 0, jax.random.split(key, 4))[1],
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_the_same_numbers(draw: Callable[[Array], Array]) -> None:
    for seed in (0, 1, 2**31 + 5):
        key = jax.random.key(seed)
        np.testing.assert_array_equal(draw(fused(key)), draw(key))
        np.testing.assert_array_equal(jax.jit(draw)(fused(key)), draw(key))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other backends draw as JAX does")
def test_no_reader_repeats_the_cipher() -> None:
    """A barrier stands between the numbers and those who read them: without it some programs compile for minutes."""
    program = jax.jit(lambda key: jax.random.normal(fused(key), (3,))).lower(jax.random.key(0)).as_text()
    assert program.count("optimization_barrier") == 1


def test_other_keys_are_left_alone() -> None:
    key = jax.random.key(0)
    for other in (jax.random.key(0, impl="rbg"), jax.random.PRNGKey(0), fused(key)):
        assert fused(other) is other
    with jax.threefry_partitionable(False):  # a setting under which JAX's numbers are others
        assert fused(key) is key


def test_one_kernel() -> None:
    """No loop is left in a program that draws; JAX's own has one on a CPU, else this test tells nothing."""

    def loops(make: Callable[[Array], Array]) -> int:
        lowered = jax.jit(lambda key: jax.random.normal(make(key), (64, 16))).lower(jax.random.key(0))
        return lowered.as_text().count("stablehlo.while")

    assert loops(fused) == 0
    assert loops(lambda key: key) > 0


@pytest.mark.parametrize("key", [jax.random.key(3), jax.random.PRNGKey(3), jax.random.key(3, impl="rbg")], ids=str)
def test_made_keys_are_of_the_same_kind(key: Array) -> None:
    """`split` and `fold_in` return JAX's own keys, of the kind they were given and with JAX's numbers."""
    for ours, theirs in ((split(key, 5), jax.random.split(key, 5)), (fold_in(key, 9), jax.random.fold_in(key, 9))):
        assert ours.dtype == theirs.dtype
        assert jnp.all(ours == theirs)


def test_models_draw_so() -> None:
    """What a model draws is drawn so, whichever way it is asked, and with the numbers of JAX's own cipher."""
    model = TopDownVAE(latents=(2, 3), hidden=8)
    x, key = jnp.zeros((4, 5), jnp.int32), jax.random.key(1)
    variables = jax.jit(model.init)(key, x, key)
    for call in (
        lambda key: model.apply(variables, x, key).latents,
        lambda key: model.apply(variables, key, 4, method="decode").latents,
        lambda key: model.apply(variables, key, 4, method="generate"),
    ):
        assert "stablehlo.while" not in jax.jit(call).lower(key).as_text()
    top = jax.jit(lambda key: model.apply(variables, key, 4, method="decode").latents)(key)[0]
    np.testing.assert_array_equal(top, jax.random.normal(jax.random.split(key)[0], (4, 2)))


def test_all_our_draws_are_fused() -> None:
    """No draw of the maths or the models is made of a plain key, which would cost a loop; initialisers are."""
    package = Path(hvae_jax.__file__).parent
    plain = re.compile(r"jax\.random\.(split|fold_in|(normal|gumbel|logistic|bernoulli|uniform)\((?!fused\())")
    rooms = [package / "distributions.py", *(package / "likelihoods").glob("*.py"), *package.glob("models/**/*.py")]
    found = [f"{file.name}: {line}" for file in rooms for line in file.read_text().splitlines() if plain.search(line)]
    assert [line for line in found if "vamp.py" not in line] == []


def draw_anything(key: Array, shape: tuple[int, ...]) -> Array:
    """What a user may do with a key: draws of all kinds, keys chosen, stacked with others, carried through a loop."""
    other = jax.random.key(5) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.PRNGKey(5)
    chosen = jnp.where(jnp.array(True), key, other)
    both = jnp.stack([chosen, other])
    carried, _ = jax.lax.scan(lambda key, i: (jax.random.fold_in(key, i), None), both[0], jnp.arange(2))
    some = jax.random.poisson(carried, 2.0, shape) + jax.random.categorical(carried, jnp.zeros(3), shape=shape)
    some = some + jax.random.choice(carried, 4, shape) + jax.random.binomial(carried, 3.0, 0.5, shape)
    return some + jnp.floor(jax.random.gamma(carried, 2.0, shape)).astype(some.dtype)


@struct.dataclass
class Counted:
    """A user's record of counts: Poisson, at least in what matters here."""

    log_mean: Array

    def log_prob(self, x: Array) -> Array:
        each = x * self.log_mean - jnp.exp(self.log_mean) - jax.lax.lgamma(x + 1.0)
        return each.reshape(each.shape[0], -1).sum(-1)

    def sample(self, key: Array, temperature: Array | float = 1.0) -> Array:
        return draw_anything(key, self.log_mean.shape)

    @property
    def mean(self) -> Array:
        return jnp.exp(self.log_mean)

    @property
    def mode(self) -> Array:
        return jnp.floor(self.mean)


@dataclasses.dataclass(frozen=True)
class Counts(Likelihood):
    """The family of these records."""

    @property
    def parameters(self) -> int:
        return 1

    def __call__(self, h: Array) -> Counted:
        return Counted(h[..., 0])

    def check(self, x: np.ndarray, name: str = "x") -> None:
        """Everything is allowed."""


class DrawingPrior(NoisyPrior):
    """A user's network that draws."""

    @nn.compact
    def __call__(self, v: Array, key: Array, *, train: bool = False) -> Array:
        return super().__call__(v + draw_anything(key, v.shape), key, train=train)


class Own(TopDownVAE):
    """A user's model, which draws in its forward pass."""

    def descend(
        self, x: Array | None, n: int, key: Array, *, y: Array | None, picks: tuple[Pick, ...], train: bool
    ) -> Trace:
        draw_anything(key, (n,))
        return super().descend(x, n, key, y=y, picks=picks, train=train)


@dataclasses.dataclass(frozen=True)
class DrawingObjective(NegativeELBO):
    """A user's objective, which draws and chooses keys."""

    def __call__(self, forward: Any, variables: Any, batch: Batch, key: Array, step: Array, state: Any) -> Any:
        draw_anything(key, batch.x.shape)
        return super().__call__(forward, variables, batch, key, step, state)


MAKERS = pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey], ids=["typed", "old style"])
USERS: HVAE = Own(latents=(2, 2), hidden=4, likelihood=Counts(), prior=(DrawingPrior(),))
COUNTS = jnp.ones((4, 3), jnp.int32)


@pytest.fixture
def any_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Old-style keys are let in, as they are outside tests: our annotations mean typed ones."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@MAKERS
@pytest.mark.usefixtures("any_keys")
def test_users_get_plain_keys(make: Callable[[int], Array]) -> None:
    """Likelihoods, networks, models and objectives of a user's own may do with their key what JAX allows."""

    def run(key: Array) -> tuple[Array, Array]:
        variables = USERS.init(key, COUNTS, key)

        def forward(variables: Any, x: Array, key: Array, **choices: Any) -> tuple[Trace, Any]:
            return USERS.apply(variables, x, key, **choices), {}

        loss, *_ = DrawingObjective()(forward, variables, Batch(COUNTS), key, jnp.int32(0), ())
        return USERS.apply(variables, key, 4, method="generate"), loss

    # the errors were those of tracing
    drawn, loss = jax.eval_shape(run, make(1))
    assert drawn.shape == COUNTS.shape and loss.shape == ()


@MAKERS
@pytest.mark.slow
@pytest.mark.usefixtures("any_keys")
def test_a_user_draws_what_jax_draws(make: Callable[[int], Array]) -> None:
    """A likelihood's sample is what its draws are with the key that JAX's own split gives."""
    key = make(1)
    variables = jax.jit(USERS.init)(key, COUNTS, key)
    drawn = jax.jit(lambda key: USERS.apply(variables, key, 4, method="generate"))(key)
    expected = jax.jit(lambda key: draw_anything(jax.random.split(key)[1], COUNTS.shape))(key)
    np.testing.assert_array_equal(drawn, expected)
