"""What every model checks when it is called: the values of x where they are known, and the shapes of its trace."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from support.cases import equations

from hvae_jax.distributions import Normal
from hvae_jax.likelihoods import Bernoulli, BernoulliRecord, Categorical, Likelihood
from hvae_jax.models import TopDownVAE
from hvae_jax.models.top_priors import TopPrior
from hvae_jax.models.top_priors.base import Ground

KEY = jax.random.key(0)
B = 4


class Elementwise(BernoulliRecord):
    """A record that does not sum over the event."""

    def log_prob(self, x: Array) -> Array:
        """`[B, D]`, although it has to be `[B]`."""
        return x * self.logits - jax.nn.softplus(self.logits)


@dataclasses.dataclass(frozen=True)
class Unsummed(Bernoulli):
    """Its family."""

    def __call__(self, h: Array) -> BernoulliRecord:
        """`[B, D, 1]` to a record."""
        return Elementwise(h[..., 0])


def small(likelihood: Likelihood) -> tuple[TopDownVAE, Any]:
    """A model and its variables."""
    model = TopDownVAE((2,), hidden=3, likelihood=likelihood)
    return model, jax.jit(model.init)(KEY, jnp.ones((B, B)), KEY)


def test_values_that_the_likelihood_does_not_allow() -> None:
    """Grey values 0..16 under Bernoulli, NaN, and a value too many for a Categorical: in every call that takes x."""
    model, variables = small(Bernoulli())
    grey = np.arange(B * B).reshape(B, B)
    with pytest.raises(ValueError, match=r"x holds 2 at index \(0, 2\).*Bernoulli"):
        model.apply(variables, grey, KEY)
    with pytest.raises(ValueError, match="Bernoulli"):
        model.apply(variables, grey, KEY, method="encode")
    with pytest.raises(ValueError, match="Bernoulli"):
        model.init(KEY, grey, KEY)
    with pytest.raises(ValueError, match="nan"):
        model.apply(variables, jnp.full((B, B), jnp.nan), KEY)
    with pytest.raises(ValueError, match=r"Categorical\(17\)"):
        small(Categorical(3))[0].init(KEY, jnp.full((B, B), 16), KEY)


def test_nothing_is_added_where_values_are_traced() -> None:
    """Under jit values are not known: the program has no check and no callback, and computes what it did."""
    model, variables = small(Bernoulli())
    grey = jnp.full((B, B), 16.0)
    assert jnp.isfinite(jax.jit(lambda x: model.apply(variables, x, KEY).log_px)(grey)).all()
    names = {str(one.primitive) for one in equations(jax.make_jaxpr(lambda x: model.apply(variables, x, KEY))(grey))}
    assert not any("callback" in name or "assert" in name for name in names)


def test_a_likelihood_that_does_not_sum_is_refused() -> None:
    """`[B, D]` would be broadcast against rates `[B]` if D = B."""
    with pytest.raises(ValueError, match=r"log p\(x \| z\) has shape \(4, 4\) for 4 examples: .* Elementwise"):
        small(Unsummed())


@dataclasses.dataclass(frozen=True)
class OneMore(TopPrior):
    """p(z_L) for one example too many."""

    def __call__(self, ground: Ground) -> Normal:
        """N(0, I), `[n + 1, *shape]`."""
        return Normal.standard((ground.n + 1, *ground.shape))


def test_a_level_of_another_batch_is_refused() -> None:
    """The error names the level and the number of examples."""
    model, variables = small(Bernoulli())
    with pytest.raises(ValueError, match=r"Level 'z1' has z, .* of shapes \(5, 2\), \(5,\) and \(5,\) for 4 examples"):
        model.clone(top_prior=OneMore()).apply(variables, KEY, B, method="decode")
