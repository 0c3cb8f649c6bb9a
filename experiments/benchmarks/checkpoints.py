"""Seconds to save and to restore by size, and what saving costs a run at its default settings.

    python experiments/benchmarks/checkpoints.py
    python experiments/benchmarks/checkpoints.py --folder /somewhere/new      # another disk

A save is timed twice: until training continues (copy, checksum, and Orbax's work before its threads take over) and
until it is on disk. The cost of saving is measured on the article's experiment, in turns of `--save-seconds`: one with
a save at its start, the next without.
"""

import dataclasses
import shutil
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import hvae_jax as hv
from hvae_jax.runtime.doctor import line
from hvae_jax.training import Adamax, Plan, data_mesh, init_state, make_dispatch, make_step
from hvae_jax.training.checkpoint import Checkpoints, Progress
from hvae_jax.training.feeds import Resident

LEAVES = 32  # arrays in the state


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the measurement.

    Attributes:
      sizes: sizes of the state, MiB.
      rounds: number of times each is saved and restored.
      save_seconds: time between two saves of the run, as `Training.save_seconds`.
      minutes: duration of the comparison of the two runs.
      folder: folder in which a new one is made, and deleted at the end; None takes the system's for temporary files.
    """

    sizes: tuple[int, ...] = (1, 10, 100, 400)
    rounds: int = 5
    save_seconds: float = 60.0
    minutes: float = 4.0
    folder: Path | None = None


def by_size(settings: Settings, folder: Path) -> None:
    """Prints the table of seconds by size."""
    mesh = data_mesh(1)
    print("\n| state | training waits | on disk after | restored in |\n| --- | --- | --- | --- |")
    for size in settings.sizes:
        keys = enumerate(jax.random.split(jax.random.key(0), LEAVES))
        state = {str(i): jax.random.normal(key, (size * 2**18 // LEAVES,)) for i, key in keys}
        best = {"w": jnp.zeros(1)}
        seconds = []
        checkpoints = Checkpoints(folder / f"size_{size}")
        for step in range(settings.rounds + 1):  # the first one, which starts Orbax's threads, does not count
            start = time.perf_counter()
            checkpoints.save(step, state, best, Progress())
            continued = time.perf_counter()
            checkpoints.wait()
            written = time.perf_counter()
            wanted = jax.eval_shape(lambda s=state: s), jax.eval_shape(lambda b=best: b)
            checkpoints.restore(*wanted, mesh)
            seconds.append((continued - start, written - start, time.perf_counter() - written))
        checkpoints.close()
        cells = " | ".join(f"{value:.3f} s" for value in np.median(seconds[1:], axis=0))
        print(f"| {size} MiB | {cells} |", flush=True)


def cost_of_saving(settings: Settings, folder: Path) -> None:
    """Prints steps per second with and without saves, in turns of `save_seconds`."""
    split = hv.data.digits().splits["train"]
    model, objective, optimiser, mesh = hv.models.TopDownVAE(), hv.NegativeELBO(), Adamax().build(), data_mesh(1)
    state = init_state(model, objective, optimiser, jax.random.key(0), split.x[:64])
    feed = Resident(split.x, None, Plan(len(split), 64, 100, last_step=10**9), mesh)
    portions = feed.portions(0)
    dispatch = make_dispatch(make_step(model, objective, optimiser), mesh)
    copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))
    checkpoints = Checkpoints(folder / "run")

    def turn(saves: bool) -> float:
        nonlocal state
        taken, start = 0, time.perf_counter()
        if saves:
            checkpoints.save(int(state.step), copy(state), copy(state.variables), Progress())
        while time.perf_counter() - start < settings.save_seconds:
            state, metrics = dispatch(state, feed.data, next(portions), jax.random.key(1))
            taken += len(jax.device_get(metrics["loss"]))
        return taken / (time.perf_counter() - start)

    dispatch(copy(state), feed.data, next(portions), jax.random.key(1))
    turn(saves=True) if settings.save_seconds < 5 else None
    rates = {True: [], False: []}
    for _ in range(max(1, round(settings.minutes * 60 / settings.save_seconds / 2))):
        for saves in (True, False):
            rates[saves].append(turn(saves))
    checkpoints.close()
    with_saves, without = (float(np.median(rates[saves])) for saves in (True, False))
    cost = float(np.median(1.0 - np.array(rates[True]) / np.array(rates[False])))
    print(
        f"\nThe article's experiment, a save every {settings.save_seconds:g} s: {with_saves:.1f} steps/s, without "
        f"{without:.1f}; saving costs {cost:.1%} (median of {len(rates[True])} pairs)"
    )


def main(settings: Settings) -> None:
    """Prints both tables."""
    print(line())
    if settings.folder is not None:
        settings.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="hvae_jax_checkpoints_", dir=settings.folder))
    try:
        by_size(settings, folder)
        cost_of_saving(settings, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
