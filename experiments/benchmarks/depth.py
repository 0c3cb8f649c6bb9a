"""What depth costs a very deep VAE: seconds to compile a training step, and memory, with blocks scanned or unrolled.

    python experiments/benchmarks/depth.py                                # 20 to 78 levels of width 512, compiled only
    python experiments/benchmarks/depth.py --width 64 --unrolled --remat

The model is VDVAE at the resolutions of its ImageNet preset (32, 16, 8, 4, 1), with `levels` blocks in the preset's
proportions; 78 is the preset itself. Nothing is computed: the step is lowered from shapes and compiled without a
compilation cache, each model in a process of its own. Memory is that of a step's intermediate values, as XLA plans it;
parameters, averages and the optimiser's state are not in it. `--initialise` times the whole initialisation of every
preset instead, compilation included.
"""

import dataclasses
import itertools
import json
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import tyro

from hvae_jax import models
from hvae_jax.objectives import Batch, NegativeELBO
from hvae_jax.runtime.doctor import line
from hvae_jax.training import AdamW, initial_state, make_step

UPS, DOWNS = ((32, 16), (16, 10), (8, 9), (4, 7), (1, 6)), ((1, 2), (4, 5), (8, 10), (16, 20), (32, 41))
PRESETS = (
    *("vdvae_digits", "vdvae_mnist", "vdvae_cifar10_small", "vdvae_cifar10", "vdvae_imagenet32", "vdvae_imagenet64"),
    *("vdvae_ffhq256", "vdvae_ffhq1024", "efficient_vdvae_digits", "efficient_vdvae_mnist", "efficient_vdvae_cifar10"),
    *("efficient_vdvae_imagenet32", "efficient_vdvae_imagenet64", "efficient_vdvae_celeba64"),
    *("efficient_vdvae_faces256", "efficient_vdvae_faces256_5_bits", "efficient_vdvae_faces1024"),
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the measurement.

    Attributes:
      levels: numbers of levels.
      width: channels of the maps.
      batch: images per step.
      unrolled: also measure with all blocks written out.
      remat: also measure with a backward pass that recomputes the inside of each block.
      initialise: time the initialisation of every preset instead.
      presets: presets to initialise.
      only: (levels, unroll, remat) of a single model, for the processes that this script starts; None measures all.
    """

    levels: tuple[int, ...] = (20, 40, 78)
    width: int = 512
    batch: int = 8
    unrolled: bool = False
    remat: bool = False
    initialise: bool = False
    presets: tuple[str, ...] = PRESETS
    only: tuple[int, bool, bool] | None = None


def model_of(levels: int, width: int, unroll: bool, remat: bool) -> models.VDVAE:
    """A VDVAE of that many levels in the preset's proportions, at least two at each resolution but 1x1."""

    def blocks(stages: tuple[tuple[int, int], ...]) -> dict[int, int]:
        fraction = levels / 78
        counts = {side: max(1 if side == 1 else 2, round(fraction * count)) for side, count in stages}
        # the difference that rounding leaves is added at 32x32
        return counts | {32: counts[32] + (levels - sum(counts.values()) if stages is DOWNS else 0)}

    up, down = blocks(UPS), blocks(DOWNS)
    ups, downs = [], [f"1x{down[1]}"]
    for side, below in itertools.pairwise(up):
        ups += [f"{side}x{up[side] - 1}", f"{side}d{side // below}"]
    for above, side in itertools.pairwise(down):
        downs += [f"{side}m{above}", f"{side}x{down[side] - 1}"]
    return models.vdvae_imagenet32().clone(
        ups=models.up_stages(",".join([*ups, f"1x{up[1]}"]), width),
        downs=models.down_stages(",".join(downs), width),
        unroll=100 if unroll else 1,
        remat=remat,
    )


def compiled(settings: Settings, levels: int, unroll: bool, remat: bool) -> dict[str, float]:
    """Compiles one training step, and returns its seconds and memory."""
    model = model_of(levels, settings.width, unroll, remat)
    objective, optimiser = NegativeELBO(), AdamW(2e-4, b2=0.9).build()
    x: Any = jax.ShapeDtypeStruct((settings.batch, *model.image), jnp.uint8)
    key = jax.random.key(0)
    start = time.perf_counter()
    state = jax.eval_shape(lambda x: initial_state(model, objective, optimiser, key, x), x)
    step = jax.jit(make_step(model, objective, optimiser), donate_argnums=0)
    lowered = step.lower(state, Batch(x), key)
    traced = time.perf_counter() - start
    program: Any = lowered.compile()
    seconds = time.perf_counter() - start
    analysis = program.memory_analysis()
    return {
        "levels": model.num_levels,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "traced": traced,
        "seconds": seconds,
        "memory": analysis.temp_size_in_bytes,
    }


def initialised(name: str) -> float:
    """Seconds until every parameter is computed."""
    model = getattr(models, name)()
    key, x = jax.random.key(0), jnp.zeros((1, *model.image), jnp.uint8)
    start = time.perf_counter()
    jax.block_until_ready(jax.jit(model.init)(key, x, key))
    return time.perf_counter() - start


def apart(*arguments: str) -> dict[str, float]:
    """Runs this script in a process of its own, and returns the JSON of its last line."""
    run = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def main(settings: Settings) -> None:
    """Prints the table that the settings ask for."""
    if settings.only is not None:
        print(json.dumps(compiled(settings, *settings.only)))
        return
    if settings.initialise and len(settings.presets) == 1:
        print(json.dumps({"seconds": initialised(settings.presets[0])}))
        return
    print(line())
    if settings.initialise:
        print("| preset | initialised in |\n| --- | --- |")
        for name in settings.presets:
            print(f"| `{name}` | {apart('--initialise', '--presets', name)['seconds']:.0f} s |", flush=True)
        return
    print(
        "| levels | parameters | | tracing and lowering | all of compilation | memory |\n"
        "| --- | --- | --- | --- | --- | --- |"
    )
    for unroll in (False, True)[: 1 + settings.unrolled]:
        for remat in (False, True)[: 1 + settings.remat]:
            for levels in settings.levels:
                flags = ["--only", str(levels), str(unroll), str(remat)]
                row = apart(*flags, "--width", str(settings.width), "--batch", str(settings.batch))
                how = ("written out" if unroll else "scanned") + (", remat" if remat else "")
                print(
                    f"| {row['levels']:.0f} | {row['parameters'] / 1e6:.1f} M | {how} | {row['traced']:.1f} s | "
                    f"{row['seconds']:.1f} s | {row['memory'] / 1e9:.2f} GB |",
                    flush=True,
                )


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
