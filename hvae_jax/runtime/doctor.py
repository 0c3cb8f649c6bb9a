"""Diagnosis of the machine: versions, backend, devices, and whether an accelerator is idle."""

import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

import jax

from hvae_jax.runtime.columns import aligned
from hvae_jax.runtime.compilation import FAST_CONVOLUTIONS
from hvae_jax.runtime.errors import first_line

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "chex", "tensorflow-datasets")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on; "missing" if a package is not installed."""
    found = {"python": platform.python_version(), "hvae-jax": _version("hvae-jax")}
    return found | {name: _version(name) for name in (*_PACKAGES, "libtpu")}


def devices() -> dict[str, Any]:
    """Backend, kind and number of the devices that JAX sees."""
    found = jax.devices()
    return {
        "backend": jax.default_backend(),
        "kind": found[0].device_kind,
        "count": len(found),
        "processes": jax.process_count(),
    }


def platform_problem() -> str | None:
    """Advice if JAX has no devices, mostly because JAX_PLATFORMS names a platform that is not here; None if it has."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # it asserts where it knows a platform but has no plugin for it
        wanted = jax.config.values["jax_platforms"]
        why = f" ({first_line(error)})" if str(error) else ""
        named = f"JAX_PLATFORMS is {wanted!r}, and JAX cannot use that here" if wanted else "JAX finds no device"
        return (
            f"{named}{why}. JAX_PLATFORMS=cpu takes the CPU, and without JAX_PLATFORMS it takes what there is; an "
            "accelerator needs its package: pip install 'jax[cuda13]', 'jax[cuda12]' or 'jax[tpu]'."
        )
    return None


def idle_accelerator() -> str | None:
    """Advice if this machine has a TPU or a GPU that JAX does not use; None if all is well."""
    if jax.default_backend() != "cpu":
        return None
    # libtpu alone says nothing: `hvae fit` has it for its compiler
    if (
        list(Path("/dev").glob("accel*"))
        or list(Path("/dev/vfio").glob("[0-9]*"))
        or os.environ.get("TPU_ACCELERATOR_TYPE")
    ):
        return (
            "a TPU seems to be here, but JAX fell back to the CPU. Often a pip install has parted jax from libtpu: "
            'pip install -U "jax[tpu]", then restart the runtime. Only one process may hold a TPU.'
        )
    if list(Path("/dev").glob("nvidia[0-9]*")):
        return 'an NVIDIA GPU is here, but JAX fell back to the CPU: pip install -U "jax[cuda12]", then start again.'
    return None


def slow_convolutions() -> str | None:
    """Advice if a newer JAX computes convolutions faster on this CPU; None if this one does, or on other backends.

    Measured, 3x3 on `[48, 28, 28, 64]`, two cores: 98 GFLOP/s with JAX 0.10.2, 185 with 0.12.0.1; with gradients 98 and
    170.
    """
    if jax.default_backend() != "cpu" or jax.__version_info__ >= FAST_CONVOLUTIONS:
        return None
    newest = ".".join(map(str, FAST_CONVOLUTIONS))
    how = "pip install -U jax" if sys.version_info >= (3, 12) else "an environment with Python 3.12 or newer has it"
    return f"JAX {newest} and newer are nearly twice as fast at convolutions on CPUs: {how}"


def line() -> str:
    """Versions and devices on one line, which a training script prints first, with a warning if one is due."""
    here, found = devices(), versions()
    text = (
        f"hvae_jax {found['hvae-jax']}, jax {found['jax']}, flax {found['flax']}, python {found['python']}: "
        f"{here['count']} x {here['kind']} ({here['backend']})"
    )
    warning = idle_accelerator()
    return text if warning is None else f"{text}\nwarning: {warning}"


def table() -> str:
    """Versions, devices and the state of the accelerator, a line each: the output of `hvae doctor`."""
    rows = list(versions().items())
    if problem := platform_problem():
        rows.append(("backend", f"none: {problem}"))
    else:
        here = devices()
        rows += [(name, str(value)) for name, value in here.items()]
        rows.append(("accelerator", idle_accelerator() or ("in use" if here["backend"] != "cpu" else "none found")))
        if advice := slow_convolutions():
            rows.append(("convolutions", advice))
    return "\n".join(aligned(rows, left=(0, 1)))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"
