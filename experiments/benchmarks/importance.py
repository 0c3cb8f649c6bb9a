"""Seconds for IW-5000 of 1,000 binary 28x28 images, beside a plain PyTorch loop over samples on the same cores.

    python experiments/benchmarks/importance.py --torch-python PYTHON_WITH_TORCH

The model is the IWAE paper's network of one stochastic layer, 50 latents and two tanh layers of 200 either way, in
float32. Images are random, since the time does not depend on them. A round runs each side once, PyTorch with fewer
draws and its time scaled up; the table has medians and quartiles over rounds. Both sides run the decoder for every
draw and image, 206,000 multiplications. The encoder runs once per `chunk` draws on our side, once per draw in
PyTorch.
"""

import dataclasses
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import hvae_jax as hv
from hvae_jax.runtime.compilation import keep_freed_memory
from hvae_jax.runtime.doctor import line


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the measurement.

    Attributes:
      torch_python: an interpreter whose environment has torch; without one only our side is timed.
      images: number of images.
      draws: draws in the bound.
      chunk: draws held in memory at once.
      torch_draws: draws that PyTorch takes in a round.
      rounds: number of rounds.
    """

    torch_python: str | None = None
    images: int = 1000
    draws: int = 5000
    chunk: int = 10
    torch_draws: int = 300
    rounds: int = 3


def main(settings: Settings) -> None:
    """Prints the table."""
    keep_freed_memory()
    print(line())
    model: Any = hv.models.VAE(latents=50, hidden=200, depth=2, activation=jnp.tanh, likelihood=hv.Bernoulli())
    x = np.random.default_rng(0).integers(0, 2, (settings.images, 784)).astype(np.uint8)
    key = jax.random.key(0)
    variables = jax.jit(model.init)(key, x[:2], key)

    def ours() -> float:
        start = time.perf_counter()
        jax.block_until_ready(hv.iwae(model, variables, x, key, settings.draws, settings.chunk))
        return time.perf_counter() - start

    def theirs(threads: int) -> float:
        script = Path(__file__).with_name("pytorch_importance.py")
        sizes = ["--images", str(settings.images), "--draws", str(settings.torch_draws), "--threads", str(threads)]
        command = [str(settings.torch_python), str(script), *sizes]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)["seconds"] * settings.draws / settings.torch_draws

    compiled = ours()
    sides = {"hvae_jax": ours} | (
        {f"PyTorch, {t} thread{'s' if t > 1 else ''}": lambda t=t: theirs(t) for t in (1, 2)}
        if settings.torch_python
        else {}
    )
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(settings.rounds):
        for name, side in sides.items():
            seconds[name].append(side())
    print(f"\nIW-{settings.draws} of {settings.images} images, {settings.rounds} rounds; first call {compiled:.1f} s")
    print("| | seconds | quartiles | times ours |\n| --- | --- | --- | --- |")
    for name, values in seconds.items():
        low, high = np.percentile(values, [25, 75])
        ratio = np.median(np.array(values) / np.array(seconds["hvae_jax"]))
        print(f"| {name} | {np.median(values):.1f} | {low:.1f} to {high:.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
