"""Training step, ELBO, samples and memory of the Ladder VAE, BIVA, VDVAE or NVAE beside its public PyTorch code.

    python experiments/benchmarks/public_codes.py --model ladder --torch-python PYTHON --code CLONE_OF_THE_PUBLIC_CODE
    python experiments/benchmarks/public_codes.py --model vdvae --batch 8 --unroll 0 --torch-python ... --code ...
    python experiments/benchmarks/public_codes.py --model nvae --batch 16 --torch-python ... --code ...

The Ladder VAE and BIVA are the published MNIST models, on 28x28. VDVAE, on 32x32x3, has 16 blocks on the way down and
525,780 parameters (`vdvae`), or is the published CIFAR-10 model (`vdvae_cifar10`). NVAE, on 32x32x3, has five groups at
8x8 and at 16x16, 32 channels and 4,228,036 parameters.

Each side runs in a process of its own, on all cores or on one GPU. The sides take turns: in a round each does each task
`repeats` times. The table has medians over all repeats, and the median of the ratios taken round by round. A training
step is the published one, with its optimiser, free bits, clipping and averages, and ends when its parameters are
computed. Peak memory is that of the process, PyTorch's since its start, ours since the end of compilation; on a GPU,
that of the device. Prints the seconds of compilation as well, and floating-point operations as XLA counts them.
"""

import ctypes
import dataclasses
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro

import hvae_jax as hv
from hvae_jax.likelihoods import LogisticMixture
from hvae_jax.models import NVAE, VDVAE, down_stages, up_stages
from hvae_jax.models.biva import biva_mnist
from hvae_jax.models.conv_ladder import addtt_mnist
from hvae_jax.models.very_deep.vdvae_presets import vdvae_cifar10
from hvae_jax.networks.computing import ComputeDtype, Kept
from hvae_jax.objectives import (
    Batch,
    Constant,
    FreeBits,
    NegativeELBO,
    NVAEBalance,
    Objective,
    Regularised,
    SpectralRegularised,
)
from hvae_jax.runtime.compilation import keep_freed_memory
from hvae_jax.runtime.doctor import line
from hvae_jax.training import Adamax, AdamW, Gradients, init_state, make_step

TASKS = ("step", "elbo", "sample")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the measurement.

    Attributes:
      model: the model to measure.
      torch_python: an interpreter whose environment has torch; without one only our side is timed.
      code: folder of the cloned public code.
      batch: batch size.
      rounds: number of rounds.
      repeats: runs of each task in a round.
      tasks: tasks to measure.
      unroll: blocks of VDVAE, or groups of NVAE, written out per turn of a loop; 0 writes out all of them.
      dtype: VDVAE's or NVAE's compute dtype.
      remat: whether VDVAE's or NVAE's backward pass recomputes the inside of each block or group.
      kept: what VDVAE or NVAE stores of them otherwise.
      keep_memory: call `keep_freed_memory` first, as every recipe does.
      torch_options: options of the PyTorch side, such as --torch-options=--compile or --device=cuda.
    """

    model: Literal["ladder", "biva", "vdvae", "vdvae_cifar10", "nvae"] = "ladder"
    torch_python: str | None = None
    code: Path | None = None
    batch: int = 48
    rounds: int = 5
    repeats: int = 2
    tasks: tuple[str, ...] = TASKS
    unroll: int = 0
    dtype: ComputeDtype = None
    remat: bool = False
    kept: Kept = "all"
    keep_memory: bool = True
    torch_options: tuple[str, ...] = ()


def small_vdvae() -> VDVAE:
    """A VDVAE of 16 blocks on the way down and 64 channels: 525,780 parameters."""
    return VDVAE(
        image=(32, 32, 3),
        ups=up_stages("32x3,32d2,16x2,16d2,8x2,8d2,4x1,4d4,1x1", 64),
        downs=down_stages("1x1,4m1,4x1,8m4,8x2,16m8,16x3,32m16,32x5", 64),
        likelihood=LogisticMixture(),
        standardise=(120.63838, 64.16736),
    )


def small_nvae() -> NVAE:
    """An NVAE of five groups at each of two resolutions, one cell a group: 4,228,036 parameters."""
    return NVAE((32, 32, 3), groups=(5, 5), width=32, up_cells=1, down_cells=1)


def recipe(settings: Settings) -> tuple[Any, Objective, Any, dict[str, Any]]:
    """The model, its objective and optimiser, and other arguments of `make_step`."""
    if settings.model == "ladder":
        return addtt_mnist(), Regularised(free_bits=FreeBits(0.5, "level", "sample")), Adamax(3e-4), {}
    if settings.model == "biva":
        return biva_mnist(), Regularised(free_bits=FreeBits(2.0, "level", "sample")), Adamax(2e-3), {}
    stored: dict[str, Any] = {name: getattr(settings, name) for name in ("dtype", "remat", "kept")}
    if settings.model == "nvae":
        model = small_nvae().clone(unroll=settings.unroll or 5, **stored)
        base = Regularised(warm_up=Constant(0.5), balance=NVAEBalance())  # half way through the warm-up
        return model, SpectralRegularised(base), Adamax(1e-3, eps=1e-3, weight_decay=3e-4), {}
    model = small_vdvae() if settings.model == "vdvae" else vdvae_cifar10()
    most = max(stage.blocks for stage in (*model.ups, *model.downs))
    model = model.clone(unroll=settings.unroll or most, **stored)
    limits = Gradients(clip=200.0 * 32 * 32 * 3)
    optimiser = AdamW(2e-4, b1=0.9, b2=0.9, weight_decay=0.01)
    return model, NegativeELBO(), optimiser, {"ema_decay": 0.9999, "gradients": limits}


class Ours:
    """Our side, with every task compiled once."""

    def __init__(self, settings: Settings) -> None:
        model, objective, optimiser, options = recipe(settings)
        optimiser = optimiser.build()
        values, shape = (2, (28, 28, 1)) if settings.model in ("ladder", "biva") else (256, (32, 32, 3))
        x = np.random.default_rng(0).integers(0, values, (settings.batch, *shape)).astype(np.uint8)
        key = jax.random.key(0)
        start = time.perf_counter()
        self.state = init_state(model, objective, optimiser, key, x, ema="ema_decay" in options)
        jax.block_until_ready(self.state)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self.state.params))
        print(f"{parameters:,} parameters, initialised in {time.perf_counter() - start:.1f} s")
        self.batch, self.key = Batch(jax.device_put(x), None), key
        step = jax.jit(make_step(model, objective, optimiser, **options), donate_argnums=0)
        elbo = jax.jit(lambda v, x, key: hv.elbo(model.apply(v, x, key)))
        sample = jax.jit(lambda v, key: model.apply(v, key, settings.batch, method="generate"))
        self.compiled = {}
        for name, lowered in {
            "step": lambda: step.lower(self.state, self.batch, key),
            "elbo": lambda: elbo.lower(self.state.variables, self.batch.x, key),
            "sample": lambda: sample.lower(self.state.variables, key),
        }.items():
            if name in settings.tasks:
                start = time.perf_counter()
                program: Any = lowered().compile()
                self.compiled[name] = program
                costs, memory = program.cost_analysis(), program.memory_analysis()
                print(
                    f"{name}: compiled in {time.perf_counter() - start:.1f} s, {costs['flops'] / 1e9:,.0f} GFLOP, "
                    f"{memory.temp_size_in_bytes / 2**20:,.0f} MiB of intermediate values"
                )

    def run(self, task: str, repeats: int) -> list[float]:
        """Seconds of each of `repeats` runs."""
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            if task == "step":
                self.state, _ = jax.block_until_ready(self.compiled["step"](self.state, self.batch, self.key))
            elif task == "elbo":
                jax.block_until_ready(self.compiled["elbo"](self.state.variables, self.batch.x, self.key))
            else:
                jax.block_until_ready(self.compiled["sample"](self.state.variables, self.key))
            seconds.append(time.perf_counter() - start)
        return seconds


class Theirs:
    """pytorch_public_codes.py in a process of its own."""

    def __init__(self, settings: Settings) -> None:
        script = Path(__file__).with_name("pytorch_public_codes.py")
        command = [str(settings.torch_python), str(script), "--model", settings.model, "--code", str(settings.code)]
        command += settings.torch_options
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.batch, self.peak = settings.batch, 0
        print(f"PyTorch: {self.answer()}")

    def answer(self) -> dict[str, Any]:
        """Reads its next answer."""
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def run(self, task: str, repeats: int) -> list[float]:
        """Seconds of each of `repeats` runs."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"task": task, "repeats": repeats, "batch": self.batch}) + "\n")
        self.process.stdin.flush()
        answer = self.answer()
        self.peak = max(self.peak, answer["peak"])
        return answer["seconds"]


def peak_memory() -> Callable[[], int]:
    """Resets the peak of this process's memory, and returns a function that reads it, in bytes (Linux).

    An accelerator's peak cannot be reset: it is that since the process began.
    """
    if jax.default_backend() != "cpu":
        return lambda: jax.local_devices()[0].memory_stats()["peak_bytes_in_use"]
    Path("/proc/self/clear_refs").write_text("5")

    def peak() -> int:
        rows = dict(row.split(":", 1) for row in Path("/proc/self/status").read_text().splitlines())
        return 1024 * int(rows["VmHWM"].split()[0])

    return peak


def main(settings: Settings) -> None:
    """Prints the table and peak memory."""
    if settings.keep_memory:
        keep_freed_memory()
    print(line())
    ours = Ours(settings)
    theirs = Theirs(settings) if settings.torch_python else None
    sides = {"hvae_jax": ours} | ({"PyTorch": theirs} if theirs else {})
    ctypes.CDLL(None).malloc_trim(0)  # gives back what compilation freed, which is no part of a step
    peak = peak_memory()
    for task in settings.tasks:
        for side in sides.values():
            side.run(task, 2)
    print(
        "| | hvae_jax ms | quartiles | PyTorch ms | quartiles | ours / theirs |\n| --- | --- | --- | --- | --- | --- |"
    )
    for task in settings.tasks:
        times: dict[str, list[list[float]]] = {name: [] for name in sides}
        for _ in range(settings.rounds):
            for name, side in sides.items():
                times[name].append(side.run(task, settings.repeats))
        cells = []
        for rounds in times.values():
            low, middle, high = 1e3 * np.percentile(np.concatenate(rounds), [25, 50, 75])
            cells += [f"{middle:,.0f}", f"{low:,.0f} to {high:,.0f}"]
        if theirs:
            ratios = [np.median(a) / np.median(b) for a, b in zip(*times.values(), strict=True)]
            cells.append(f"{np.median(ratios):.2f}")
        print(f"| {task} | {' | '.join(cells)} |", flush=True)
    print(f"peak memory: {peak() / 1e9:.2f} GB" + (f", PyTorch {theirs.peak / 1e9:.2f} GB" if theirs else ""))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
