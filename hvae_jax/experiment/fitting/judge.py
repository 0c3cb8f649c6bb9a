"""The verdict on a program, by a compiler or from shapes; runs in the process of `worker`."""

import math
import time
from typing import Any

import jax
from jax.sharding import Mesh

from hvae_jax.experiment.fitting.examples import Example
from hvae_jax.experiment.fitting.programs import state_of, traced
from hvae_jax.experiment.fitting.verdict import Verdict
from hvae_jax.experiment.records import Experiment
from hvae_jax.runtime import ahead, estimate
from hvae_jax.runtime.chips import Chip
from hvae_jax.training.mesh import data_mesh, state_sharding

COUNTED = ("fusion", "convolution", "copy", "transpose")


def judged(program: str, experiment: Experiment, example: Example, chip: Chip, devices: int, compiles: bool) -> Verdict:
    """The verdict on one of `PROGRAMS`.

    Args:
      compiles: whether the chip's compiler is asked, rather than the shapes alone.
    Raises ValueError for a number of chips that does not exist, a batch that does not divide over them, and a libtpu
    that is not there or does not fit jax.
    """
    ahead_of_time = compiles and chip.platform == "tpu"
    mesh = ahead.chips_mesh(chip, devices) if ahead_of_time else data_mesh(devices)
    by = ""
    if compiles:
        by = f"libtpu {ahead.check_libtpu()}" if ahead_of_time else f"XLA of jax {jax.__version__}"
    start = time.perf_counter()
    program_traced = traced(program, experiment, example, mesh)
    tracing = time.perf_counter() - start
    split = 1 if program == "sampling" else devices
    operations = {
        dtype: count / split
        for dtype, count in estimate.flops(program_traced.jaxpr, chip.platform).items()
        if dtype in ("bfloat16", "float32", "float64")
    }
    best = 0.0
    if program == "training":  # the best variables so far are kept beside the state
        best = _laid_out(state_of(experiment, example).variables, experiment, mesh, chip)
    if not compiles:
        beside = best + _arguments(program, experiment, example, mesh, chip)
        return _estimate(program, program_traced, chip, split, operations, beside, tracing)
    found = ahead.compiled_for(chip.platform, program_traced)
    moved = found.traffic
    counts: dict[str, int] = {}
    if moved is not None:
        counts = {name: moved.instructions.get(name, 0) for name in COUNTED}
        counts |= {"loops": moved.loops, "host transfers": moved.host_transfers}
        counts |= {"custom calls": sum(moved.custom_calls.values())}
    return Verdict(
        program,
        by,
        found.memory + found.code + best if found.fits else max(found.memory, chip.usable * (1 + 1e-9)),
        operations,
        math.nan if moved is None else moved.bytes,
        0.0 if moved is None else math.fsum(moved.collective_bytes.values()),
        {} if moved is None else moved.collectives,
        counts,
        0 if moved is None else moved.aliased,
        tracing,
        found.seconds,
    )


def _estimate(
    program: str, traced: Any, chip: Chip, split: int, operations: dict[str, float], beside: float, tracing: float
) -> Verdict:
    """The verdict from shapes.

    Args:
      split: number of devices that the work is split over.
      beside: bytes of arguments that stay, and of what is kept beside the program.
    """
    found = estimate.estimated(traced.jaxpr, chip.platform)
    results = reduced = 0.0
    if program != "training":  # the state of a step is written over the one before
        results = math.fsum(_bytes(leaf, chip) for leaf in jax.tree.leaves(traced.out_info)) / split
    elif split > 1:
        reduced = math.fsum(_bytes(leaf, chip) for leaf in jax.tree.leaves(traced.args_info[0][0].params))
    return Verdict(
        program,
        "",
        beside + results + found.temporaries / split + found.program,
        operations,
        found.bytes / split,
        reduced,
        {"all-reduce": 1} if reduced else {},
        {},
        0,
        tracing,
        math.nan,
    )


def _arguments(program: str, experiment: Experiment, example: Example, mesh: Mesh, chip: Chip) -> float:
    """Bytes of a program's arguments on each device."""
    state = state_of(experiment, example)
    if program == "training":
        size, held = experiment.training.batch_size, _laid_out(state, experiment, mesh, chip)
    else:
        size = experiment.evaluation.size if program == "evaluation" else 0
        held = math.fsum(_bytes(leaf, chip) for leaf in jax.tree.leaves(state.variables))
    return held + _bytes(example.abstract(size)[0], chip) / mesh.size


def _laid_out(tree: Any, experiment: Experiment, mesh: Mesh, chip: Chip) -> float:
    """Bytes of a part of the training state on each device."""
    shardings = state_sharding(tree, mesh, experiment.devices.fsdp)
    return math.fsum(
        _bytes(jax.ShapeDtypeStruct(sharding.shard_shape(leaf.shape), leaf.dtype), chip)
        for leaf, sharding in zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True)
    )


def _bytes(leaf: Any, chip: Chip) -> float:
    """Bytes of an array, with what the chip's rows add to it."""
    return math.prod(leaf.shape) * leaf.dtype.itemsize * estimate.padding(leaf.shape, chip.platform)
