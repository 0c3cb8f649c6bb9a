"""Compilation for a chip that is not here: the TPU compiler of libtpu, which needs no TPU.

To be used in a process that does nothing else, with `ENVIRONMENT` set before JAX starts: libtpu is then loaded for its
compiler alone, and no device of this machine is touched.
"""

import dataclasses
import fnmatch
import importlib.metadata
import importlib.util
import re
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from hvae_jax.runtime import hlo
from hvae_jax.runtime.chips import Chip
from hvae_jax.runtime.memory import is_exhausted

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",  # asks no metadata server what machine this is
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # a training on this machine's TPU keeps it
}
"""Variables of the compiler's process."""


@dataclasses.dataclass(frozen=True)
class Compilation:
    """A program, compiled for a chip.

    Attributes:
      fits: whether the compiler found room for it.
      memory: bytes a device: arguments, results that are not written over them, and intermediate values.
      temporaries: bytes of intermediate values; 0 where the program does not fit, since the compiler gives the sum.
      code: bytes of the program itself.
      traffic: what the program moves; None if it does not fit.
      seconds: seconds of compilation, without tracing.
    """

    fits: bool
    memory: float
    temporaries: float
    code: float
    traffic: hlo.Traffic | None
    seconds: float


def libtpu_needed() -> str:
    """The versions of libtpu that the installed jax asks for, such as "0.0.42.*"; "*" if it names none."""
    for requirement in importlib.metadata.requires("jax") or []:
        if (found := re.match(r"libtpu\s*==\s*([\w.*]+)", requirement)) and "tpu" in requirement.partition(";")[2]:
            return found[1]
    return "*"


def libtpu_version() -> str | None:
    """The version of libtpu; None if it is not installed."""
    if importlib.util.find_spec("libtpu") is None:
        return None
    try:
        return importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        return None


def check_libtpu() -> str:
    """The version of libtpu.

    Raises ValueError, saying what to install, if there is none or it is of another version than jax asks for.
    """
    here, needed = libtpu_version(), libtpu_needed()
    install = f'pip install "jax[tpu]=={jax.__version__}"'
    if here is None:
        raise ValueError(f"libtpu, the TPU's compiler, is not installed: {install}")
    if not fnmatch.fnmatchcase(here, needed):
        raise ValueError(f"libtpu is {here}, but jax {jax.__version__} needs libtpu {needed}: {install}")
    return here


def chips_mesh(chip: Chip, count: int) -> Mesh:
    """A mesh of so many TPU chips that are not here, with the one axis "data".

    Raises ValueError as `Chip.layout` and `check_libtpu` do.
    """
    layout = chip.layout(count)
    check_libtpu()
    from jax.experimental import topologies

    options = {"chip_config_name": "megacore"} if chip.megacore else {}
    found = topologies.get_topology_desc(platform=chip.platform, topology_name=layout, **options).devices
    return Mesh(np.array(found[:count]), ("data",), axis_types=(AxisType.Auto,))


def compiled_for(platform: str, traced: Any) -> Compilation:
    """Compiles a traced program, `jax.jit(...).trace(...)`, for the devices of its shardings."""
    start = time.perf_counter()
    try:
        program = traced.lower(lowering_platforms=(platform,)).compile()
    except jax.errors.JaxRuntimeError as error:
        if not is_exhausted(error):
            raise
        return Compilation(False, needed_memory(str(error)), 0.0, 0.0, None, time.perf_counter() - start)
    seconds = time.perf_counter() - start
    found = program.memory_analysis()
    results = found.output_size_in_bytes - found.alias_size_in_bytes
    memory = found.argument_size_in_bytes + results + found.temp_size_in_bytes
    moved = hlo.traffic(program.as_text())
    code = float(found.generated_code_size_in_bytes)
    return Compilation(True, float(memory), float(found.temp_size_in_bytes), code, moved, seconds)


_NEEDED = (
    re.compile(r"Used ([\d.]+)([KMGT]?)i?B? of [\d.]+[KMGT]?i?B? (?:hbm|HBM)"),
    re.compile(r"total memory required for [^(]*\(([\d.]+)([KMGT]?)\) exceeds"),
)
_UNITS = {"": 1.0, "K": 2.0**10, "M": 2.0**20, "G": 2.0**30, "T": 2.0**40}


def needed_memory(message: str) -> float:
    """Bytes that a program would take at least, from the compiler's refusal; NaN if it does not say."""
    found = next((match for pattern in _NEEDED if (match := pattern.search(message))), None)
    return float(found[1]) * _UNITS[found[2]] if found else float("nan")
