"""Seconds to sample from a PixelCNN decoder by image size, with its cache and by whole passes, interleaved.

    python experiments/benchmarks/pixelcnn.py

Without a cache each of the n pixels costs a pass over all n. With the cache an image costs two or three passes,
so that seconds grow linearly with n. The table has medians over rounds, and the median of the ratios taken round by
round.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import hvae_jax as hv
from hvae_jax.likelihoods import PixelCNNRecord
from hvae_jax.runtime.doctor import line


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the measurement.

    Attributes:
      sides: heights of square images.
      images: images at a time.
      rounds: number of rounds.
      naive_up_to: largest height that is sampled by whole passes too.
      field: receptive field of the PixelCNN, in pixels.
      layers: layers of the PixelCNN.
      width: channels of the PixelCNN.
    """

    sides: tuple[int, ...] = (8, 16, 28)
    images: int = 16
    rounds: int = 5
    naive_up_to: int = 16
    field: int = 4
    layers: int = 4
    width: int = 16


def by_passes(record: PixelCNNRecord, key: jax.Array) -> jax.Array:
    """The same draws as `record.sample`, with one pass over the whole image for each pixel."""

    def pixel(i: Any, x: jax.Array) -> jax.Array:
        drawn = record.conditionals(x).sample(jax.random.fold_in(key, i))
        flat, new = x.reshape(len(x), -1), drawn.reshape(len(x), -1)
        return flat.at[:, i].set(new[:, i]).reshape(x.shape)

    event = record.context.shape[:-1]
    return jax.lax.fori_loop(0, int(np.prod(event[1:])), pixel, jnp.zeros(event, jnp.uint8))


def seconds(function: Callable[[], Any]) -> float:
    """Seconds of one call, until its result is computed."""
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def main(settings: Settings) -> None:
    """Prints the table."""
    print(line())
    print(f"\n{settings.images} images, {settings.rounds} rounds\n")
    print("| side | pixels | one pass | sampled with cache | by whole passes | ratio |\n|" + " --- |" * 6)
    for side in settings.sides:
        family = hv.PixelCNN(receptive_field=settings.field, layers=settings.layers, width=settings.width)
        model: Any = hv.models.VAE(latents=4, hidden=32, likelihood=family)
        x = jnp.zeros((settings.images, side, side, 1), jnp.uint8)
        variables = jax.jit(model.init)(jax.random.key(0), x, jax.random.key(1))
        record = jax.jit(lambda v, x=x, m=model: m.apply(v, x, jax.random.key(2)).x_dist)(variables)
        key = jax.random.key(3)
        programs = {
            "pass": jax.jit(lambda r, x=x: r.log_prob(x)),
            "walk": jax.jit(lambda r, k=key: r.sample(k)),
        }
        if side <= settings.naive_up_to:
            programs["passes"] = jax.jit(lambda r, k=key: by_passes(r, k))
        for program in programs.values():
            jax.block_until_ready(program(record))
        taken = {name: [] for name in programs}
        for _ in range(settings.rounds):
            for name, program in programs.items():
                taken[name].append(seconds(lambda p=program, r=record: p(r)))
        cells = [f"{np.median(taken[name]):.4f} s" if name in taken else "" for name in ("pass", "walk", "passes")]
        ratio = f"{np.median(np.array(taken['passes']) / taken['walk']):.1f}" if "passes" in taken else ""
        print(f"| {side} | {side * side} | {' | '.join(cells)} | {ratio} |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
