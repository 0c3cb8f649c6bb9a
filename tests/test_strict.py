"""The rules of conftest.py hold: each refuses what it should."""

import warnings

import jax
import jax.numpy as jnp
import jaxtyping
import pytest

from hvae_jax.distributions import Normal, sum_event


def test_eight_devices() -> None:
    """Sharding is tested over eight simulated devices."""
    assert jax.device_count() == 8


def test_rank_promotion_raises() -> None:
    """[3] + [2, 3] is refused."""
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.ones(3) + jnp.ones((2, 3))


def test_types_of_functions_are_checked() -> None:
    """A bool array where numbers belong, and a float where an array belongs, are refused."""
    with pytest.raises(jaxtyping.TypeCheckError, match="values"):
        sum_event(jnp.ones((2, 3), bool))
    with pytest.raises(jaxtyping.TypeCheckError, match="log_var"):
        Normal.from_log_var(jnp.ones(3), 1.0)


def test_fields_of_records_are_not_checked() -> None:
    """JAX fills records with shapes, None and shardings."""
    record = Normal.standard((2, 3))
    assert jax.eval_shape(lambda: record).mean.shape == (2, 3)
    assert jax.tree.map(lambda leaf: None, record).mean is None


@pytest.mark.parametrize("module", ["hvae_jax", "hvae_jax.models.top_down"])
def test_own_warnings_are_errors(module: str) -> None:
    """A warning whose module is in hvae_jax is raised."""
    with pytest.raises(UserWarning, match="ours"):
        warnings.warn_explicit("ours", UserWarning, "file.py", 1, module=module)


@pytest.mark.parametrize("module", ["optax", "optax.hvae_jax", "hvae_jaxen"])
def test_warnings_of_others_are_not_errors(module: str) -> None:
    """Another library's deprecations do not fail the suite."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.warn_explicit("theirs", DeprecationWarning, "file.py", 1, module=module)
    assert len(seen) == 1
