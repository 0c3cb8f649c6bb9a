"""Training steps and samples per second on the digits, beside PyTorch, both sides interleaved in one run.

    python experiments/benchmarks/digits_speed.py --torch-python PATH_OF_A_PYTHON_THAT_HAS_TORCH

The PyTorch side is pytorch_top_down.py (eager PyTorch): `article`, the article's code with its DataLoader and checks,
and `lean`, the same maths without them; each with one and with two threads. All sides have the same model (721,808
parameters) and batches (fifteen of 64 and one of 40 an epoch), batch normalisation and float32. A round runs every
side once, for `--steps` steps or `--samples` images. The tables give medians and quartiles over rounds, and the
median of the ratios taken round by round. Nothing else should run on the machine meanwhile.
"""

import dataclasses
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import tyro

import hvae_jax as hv
from hvae_jax.runtime.compilation import keep_freed_memory
from hvae_jax.training import Adamax, Plan, data_mesh, init_state, make_dispatch, make_step
from hvae_jax.training.feeds import Resident


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the measurement.

    Attributes:
      torch_python: an interpreter whose environment has torch 2.13 (CPU), numpy and scikit-learn.
      rounds: number of rounds.
      steps: training steps of each side in a round, rounded up to epochs of 16.
      samples: images that each side draws in a round.
      out: JSON file of the tables; empty writes none.
    """

    torch_python: str
    rounds: int = 9
    steps: int = 320
    samples: int = 20_000
    out: str = ""


class Torch:
    """pytorch_top_down.py in a process of its own."""

    def __init__(self, python: str, threads: int) -> None:
        script = Path(__file__).with_name("pytorch_top_down.py")
        command = [python, str(script), "--threads", str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.info = self.ask("info")

    def ask(self, command: str) -> dict[str, float]:
        """Sends one command, and returns its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(f"{command}: {answer['error']}")
        return answer

    def train(self, mode: str, steps: int) -> float:
        """Steps per second."""
        answer = self.ask(f"train {mode} {steps}")
        return answer["steps"] / answer["seconds"]

    def sample(self, mode: str, images: int, batch: int) -> float:
        """Images per second."""
        answer = self.ask(f"sample {images} {batch} {mode}")
        return answer["images"] / answer["seconds"]


def jax_train() -> Callable[[int], float]:
    """Returns our side's training: a number of steps, in dispatches of one epoch, to steps per second."""
    split = hv.data.digits().splits["train"]
    model, objective, optimiser, mesh = hv.models.TopDownVAE(), hv.NegativeELBO(), Adamax().build(), data_mesh()
    state = init_state(model, objective, optimiser, jax.random.key(0), split.x[:64])
    feed = Resident(split.x, None, Plan(len(split), 64, per_dispatch=100, last_step=10**9), mesh)
    portions = feed.portions(0)
    dispatch = make_dispatch(make_step(model, objective, optimiser), mesh)

    def train(steps: int) -> float:
        nonlocal state
        seconds, taken = 0.0, 0
        for epoch in range(1 + -(-steps // feed.plan.epoch_steps)):  # the first warms up, as on the other side
            start = time.perf_counter()
            state, metrics = dispatch(state, feed.data, next(portions), jax.random.key(1))
            losses = jax.device_get(metrics["loss"])  # as the training loop does after every dispatch
            if epoch:
                seconds, taken = seconds + time.perf_counter() - start, taken + len(losses)
        return taken / seconds

    return train


def jax_sample() -> Callable[[int, int], float]:
    """Returns our side's sampling: images per second of `generate`, `batch` at a time, results fetched."""
    x = hv.data.digits().splits["train"].x[:64]
    model = hv.models.TopDownVAE()
    variables = jax.jit(model.init)(jax.random.key(0), x, jax.random.key(1))
    draw = jax.jit(lambda v, key, n: model.apply(v, key, n, method="generate"), static_argnums=2)

    def sample(images: int, batch: int) -> float:
        np.asarray(draw(variables, jax.random.key(0), batch))
        start, count = time.perf_counter(), -(-images // batch)
        for i in range(count):
            np.asarray(draw(variables, jax.random.key(i), batch))
        return count * batch / (time.perf_counter() - start)

    return sample


def main(settings: Settings) -> None:
    """Prints both tables."""
    keep_freed_memory()
    torch = {threads: Torch(settings.torch_python, threads) for threads in (1, 2)}
    train, sample = jax_train(), jax_sample()
    training: dict[str, Callable[[], float]] = {"hvae_jax": lambda: train(settings.steps)}
    sampling: dict[str, Callable[[], float]] = {}
    for threads, worker in torch.items():
        for mode in ("article", "lean"):
            name = f"PyTorch {mode}, {threads} thread{'s' if threads > 1 else ''}"
            training[name] = lambda w=worker, m=mode: w.train(m, settings.steps)
    for batch in (64, 1024):
        sampling[f"hvae_jax, {batch} at a time"] = lambda b=batch: sample(settings.samples, b)
        for threads, worker in torch.items():
            name = f"PyTorch, {threads} thread{'s' if threads > 1 else ''}, {batch} at a time"
            sampling[name] = lambda w=worker, b=batch: w.sample("lean", settings.samples, b)

    tables = {}
    for title, sides in (("training steps per second", training), ("images sampled per second", sampling)):
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(settings.rounds):
            for name, run in sides.items():
                rates[name].append(run())
        ours = np.array(next(iter(rates.values())))
        tables[title] = {
            name: {
                "median": float(np.median(values)),
                "quartiles": np.percentile(values, [25, 75]).tolist(),
                "ratio": float(np.median(ours / np.array(values))),
            }
            for name, values in rates.items()
        }
        print(f"\n{title}, {settings.rounds} rounds (ratio: the first row over this one, median of rounds)")
        for name, row in tables[title].items():
            low, high = row["quartiles"]
            print(f"  {name:36s} {row['median']:10,.0f}   [{low:,.0f}, {high:,.0f}]   x{row['ratio']:.2f}")
    if settings.out:
        Path(settings.out).write_text(json.dumps(tables, indent=2))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
