"""Steps per second by feed, steps per dispatch and devices, interleaved in one run; images per second read by Grain.

    python experiments/benchmarks/feeds.py                                   # random images
    python experiments/benchmarks/feeds.py --data cifar10_subset.npz         # x_train of a file

The model is the article's top-down VAE, widened, on 32x32 colour images: about 60 ms per step of 128 on two CPU
cores. A round runs every row of a table once; the table gives medians and quartiles over rounds, and the median of
the ratios to the first row, taken round by round. Nothing else should run on the machine meanwhile.
"""

import dataclasses
import io
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

import hvae_jax as hv
from hvae_jax.runtime.doctor import line
from hvae_jax.training import Adamax, Feeding, Plan, data_mesh, init_state, make_dispatch, make_step
from hvae_jax.training.feeds import Resident, Streamed, read


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the measurement.

    Attributes:
      data: an .npz with x_train of 32x32x3 uint8 images; random images if it is not given.
      rounds: number of rounds.
      steps: training steps of each row in a round.
      batch: examples per step.
      hidden: width of the model.
      devices: number of CPU devices to simulate, 1 or 8; more than 1 prints the table by devices alone.
      out: JSON file of the tables; None writes none.
    """

    data: str | None = None
    rounds: int = 7
    steps: int = 40
    batch: int = 128
    hidden: int = 512
    devices: int = 1
    out: Path | None = None


class Encoded:
    """PNG or JPEG images in memory, decoded as they are read."""

    def __init__(self, x: np.ndarray, form: str) -> None:
        from PIL import Image

        self.shape, self.dtype, self._files = x.shape, x.dtype, []
        for image in x:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, form)
            self._files.append(buffer.getvalue())

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, rows: Any) -> np.ndarray:
        from PIL import Image

        chosen = range(len(self))[rows] if isinstance(rows, slice) else rows
        return np.stack([np.asarray(Image.open(io.BytesIO(self._files[i]))) for i in chosen])


def trainer(x: Any, settings: Settings, kind: str, per_dispatch: int, devices: int) -> Callable[[int], float]:
    """Returns a function of a number of steps that trains, after one untimed dispatch, and returns steps per second."""
    model = hv.models.TopDownVAE(latents=(16, 32), hidden=settings.hidden, likelihood=hv.Gaussian())
    objective, optimiser, mesh = hv.NegativeELBO(), Adamax().build(), data_mesh(devices)
    plan = Plan(len(x), settings.batch, per_dispatch, last_step=10**9)
    feed = Resident(x, None, plan, mesh) if kind == "resident" else Streamed(x, None, plan, mesh, Feeding())
    state = init_state(model, objective, optimiser, jax.random.key(0), np.asarray(x[:2]))
    dispatch = make_dispatch(make_step(model, objective, optimiser), mesh)
    portions = feed.portions(0)
    portion = next(portions)

    def once() -> int:
        nonlocal state, portion
        state, metrics = dispatch(state, feed.data, portion, jax.random.key(1))
        portion = next(portions)  # a dispatch returns at once, so this reads while the devices compute
        return len(jax.device_get(metrics["loss"]))

    def train(steps: int) -> float:
        once()
        start, taken = time.perf_counter(), 0
        while taken < steps:
            taken += once()
        return taken / (time.perf_counter() - start)

    while int(state.step) < 2 * feed.plan.epoch_steps and int(state.step) < 100:
        once()  # compiles the program of full batches and that of the last, partial one
    return train


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """An endless Grain source of batches of random rows."""

    x: Any
    batch: int

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, i: Any) -> np.ndarray:
        return self.x[np.random.default_rng(int(i)).integers(0, len(self.x), self.batch)]


def reader(x: Any, batch: int, workers: int, images: int) -> float:
    """Images per second that Grain reads in batches while nothing else runs."""
    elements = read(Batches(x, batch), Feeding(workers=workers))
    next(elements)
    start, taken = time.perf_counter(), 0
    while taken < images:
        taken += len(next(elements))
    seconds = time.perf_counter() - start
    elements.close()  # type: ignore[attr-defined]
    return taken / seconds


def compare(title: str, rows: dict[str, Callable[[], float]], rounds: int) -> dict[str, Any]:
    """Runs the rows in turn, and prints their table."""
    rates: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(rounds):
        for name, run in rows.items():
            rates[name].append(run())
    first = np.array(next(iter(rates.values())))
    print(f"\n{title}, {rounds} rounds\n\n| | median | quartiles | to the first |\n| --- | --- | --- | --- |")
    table = {}
    for name, values in rates.items():
        low, median, high = np.percentile(values, [25, 50, 75])
        ratio = float(np.median(np.array(values) / first))
        print(f"| {name} | {median:,.1f} | {low:,.1f} to {high:,.1f} | {ratio:.3f} |", flush=True)
        table[name] = {"median": median, "quartiles": [low, high], "ratio": ratio}
    return table


def main(settings: Settings) -> None:
    """Prints the tables."""
    if settings.devices > 1:
        jax.config.update("jax_num_cpu_devices", settings.devices)
    print(line())
    generator = np.random.default_rng(0)
    if settings.data is None:
        x = generator.integers(0, 256, (12_000, 32, 32, 3), dtype=np.uint8)
    else:
        x = np.load(settings.data)["x_train"]
    tables = {}
    if settings.devices == 1:
        runs = {
            "resident": trainer(x, settings, "resident", 20, 1),
            "streamed, array": trainer(x, settings, "streamed", 20, 1),
            "streamed, PNG decoded": trainer(Encoded(x, "PNG"), settings, "streamed", 20, 1),
            "resident, one step a dispatch": trainer(x, settings, "resident", 1, 1),
            "streamed, array, one step a dispatch": trainer(x, settings, "streamed", 1, 1),
        }
        tables["feeds"] = compare(
            "training steps per second, 32x32x3, 20 steps a dispatch unless said",
            {name: partial(run, settings.steps) for name, run in runs.items()},
            settings.rounds,
        )
        # Blocks of one colour and not noise, which does not compress as images do and takes longer to decode.
        large = np.repeat(np.repeat(generator.integers(0, 256, (512, 16, 16, 3), dtype=np.uint8), 16, 1), 16, 2)
        png, jpeg = Encoded(x[:4000], "PNG"), Encoded(large, "JPEG")
        sources: dict[str, tuple[Any, int, int]] = {
            "32x32x3, array": (x, 0, 50_000),
            "32x32x3, PNG": (png, 0, 5_000),
            "32x32x3, PNG, 2 worker processes": (png, 2, 5_000),
            "256x256x3, array": (large, 0, 3_000),
            "256x256x3, JPEG": (jpeg, 0, 1_000),
            "256x256x3, JPEG, 2 worker processes": (jpeg, 2, 1_000),
        }
        tables["reading"] = compare(
            "images per second read by Grain, 8 threads, batches of 64",
            {name: partial(reader, x, 64, workers, images) for name, (x, workers, images) in sources.items()},
            settings.rounds,
        )
    else:
        counts = [n for n in (1, 2, 4, 8) if n <= settings.devices]
        runs = {f"{n} devices": trainer(x, settings, "resident", 20, n) for n in counts}
        tables["devices"] = compare(
            f"training steps per second on simulated CPU devices, batch {settings.batch} over all of them",
            {name: partial(run, settings.steps) for name, run in runs.items()},
            settings.rounds,
        )
    if settings.out is not None:
        settings.out.write_text(json.dumps(tables, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
