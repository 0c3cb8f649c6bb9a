"""The cost of bfloat16: bits per dimension of a trained model with products in float32 and in bfloat16.

    python experiments/benchmarks/precision.py runs/vdvae_cifar10_small --examples 1000

Parameters, latents, KLs and likelihoods are float32 either way. Each image has the same noise on both sides, so that
the difference has a far smaller standard error than either bound. Both are means over the first images of the test
split, which CIFAR-10 has in random order.
"""

import dataclasses
import functools
import math
import time
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro

import hvae_jax as hv
from hvae_jax.experiment.reopen import open_run
from hvae_jax.networks.computing import ComputeDtype
from hvae_jax.runtime.doctor import line


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the measurement.

    Attributes:
      run: folder of a finished run.
      examples: number of test images.
      size: number of images held in memory at once.
      data: another data set than the run's, by name or path.
    """

    run: Annotated[Path, tyro.conf.Positional]
    examples: int = 1000
    size: int = 50
    data: str | None = None


def main(settings: Settings) -> None:
    """Prints both bounds, and their difference."""
    print(line())
    found = open_run(settings.run, data=settings.data)
    model: Any = found.experiment.model
    x = np.asarray(found.dataset.splits["test"].x[: settings.examples])
    bits: dict[str, np.ndarray] = {}
    dtypes: tuple[ComputeDtype, ...] = (None, "bfloat16")
    for dtype in dtypes:
        elbo = jax.jit(functools.partial(_elbo, model.clone(dtype=dtype)))
        start, parts = time.perf_counter(), []
        for i in range(0, len(x), settings.size):
            key = jax.random.fold_in(jax.random.key(0), i)
            parts.append(np.asarray(elbo(found.variables, x[i : i + settings.size], key), np.float64))
        name = "float32" if dtype is None else dtype
        bits[name] = -np.concatenate(parts) / (math.log(2) * found.dataset.dimensions)
        seconds = time.perf_counter() - start
        print(f"{name}: {_mean(bits[name])} bits per dimension, {seconds:.0f} s with compilation", flush=True)
    print(f"bfloat16 - float32: {_mean(bits['bfloat16'] - bits['float32'])}")


def _elbo(model: Any, variables: Any, x: jax.Array, key: jax.Array) -> jax.Array:
    return hv.elbo(model.apply(variables, x, key))


def _mean(values: np.ndarray) -> str:
    """The mean with its standard error over images."""
    return f"{values.mean():.5f} ± {values.std(ddof=1) / math.sqrt(len(values)):.5f}"


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
