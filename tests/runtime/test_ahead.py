"""The TPU's compiler: its version, and what it says when a program is too large."""

import math

import jax
import jax.numpy as jnp
import pytest

from hvae_jax.runtime import ahead


def test_memory_from_a_refusal() -> None:
    message = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
        "Used 16.43G of 15.75G hbm. Exceeded hbm capacity by 697.0M."
    )
    assert ahead.needed_memory(message) == 16.43 * 2**30
    message = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (18.64G) exceeds "
        "available HBM (15.75G)."
    )
    assert ahead.needed_memory(message) == 18.64 * 2**30
    assert math.isnan(ahead.needed_memory("RESOURCE_EXHAUSTED: something else"))


def test_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    install = rf'pip install "jax\[tpu\]=={jax.__version__}"'
    monkeypatch.setattr(ahead, "libtpu_needed", lambda: "0.0.42.*")
    monkeypatch.setattr(ahead, "libtpu_version", lambda: "0.0.52")
    with pytest.raises(ValueError, match=rf"libtpu is 0\.0\.52, but jax {jax.__version__} needs .*: {install}"):
        ahead.check_libtpu()
    monkeypatch.setattr(ahead, "libtpu_version", lambda: None)
    with pytest.raises(ValueError, match=rf"not installed: {install}"):
        ahead.check_libtpu()
    monkeypatch.setattr(ahead, "libtpu_version", lambda: "0.0.42.1")
    assert ahead.check_libtpu() == "0.0.42.1"


def test_jax_names_a_version() -> None:
    needed = ahead.libtpu_needed()
    assert needed == "*" or needed[0].isdigit()


def test_the_machines_own_compiler() -> None:
    """A CPU's program goes the same way as a TPU's."""
    traced = jax.jit(lambda x: (x @ x, x + 1.0), donate_argnums=0).trace(jax.ShapeDtypeStruct((64, 64), jnp.float32))
    found = ahead.compiled_for("cpu", traced)
    assert found.fits and found.traffic is not None and found.traffic.aliased == 1
    assert found.memory >= 2 * 64 * 64 * 4 and found.seconds > 0
