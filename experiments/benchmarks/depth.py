"""What depth costs VDVAE or NVAE: seconds to compile a training step, and memory, with blocks scanned or unrolled.

    python experiments/benchmarks/depth.py                                # 20 to 78 levels of width 512, compiled only
    python experiments/benchmarks/depth.py --width 64 --unrolled --remat
    python experiments/benchmarks/depth.py --model nvae --remat           # 5, 15 and 30 groups at two resolutions each

VDVAE is at the resolutions of its ImageNet preset (32, 16, 8, 4, 1), with `levels` blocks in the preset's proportions;
78 is the preset itself. NVAE has `levels` groups at 8x8 and as many at 16x16, for 32x32x3, with a pair of flow steps
each, and the step is the published one: balanced KL, spectral regularisation, Adamax.

Nothing is computed: the step is lowered from shapes and compiled without a compilation cache, each model in a process
of its own. Seconds are the clock's, and in brackets the processor's, which other work on the machine hardly changes.
The program is StableHLO, before XLA optimises it. Memory is that of a step's intermediate values, as XLA plans it;
parameters, averages and the optimiser's state are not in it. `--initialise` times the whole initialisation of every
preset instead, compilation included.
"""

import dataclasses
import itertools
import json
import subprocess
import sys
import time
from typing import Any, Literal

import jax
import jax.numpy as jnp
import tyro

from hvae_jax import models
from hvae_jax.objectives import Batch, Linear, NegativeELBO, NVAEBalance, Objective, Regularised, SpectralRegularised
from hvae_jax.runtime.doctor import line
from hvae_jax.training import Adamax, AdamW, initial_state, make_step

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
      model: the model.
      levels: numbers of levels of VDVAE, or of NVAE's groups at each resolution; None takes 20, 40 and 78, or 5, 15 and
        30.
      width: channels of the maps, of NVAE's next to x; None takes 512, or 32.
      batch: images per step.
      unrolled: also measure with all blocks written out.
      remat: also measure with a backward pass that recomputes the inside of each block.
      initialise: time the initialisation of every preset instead.
      presets: presets to initialise.
      only: (number, unroll, remat) of a single model, for the processes that this script starts; None measures all.
    """

    model: Literal["vdvae", "nvae"] = "vdvae"
    levels: tuple[int, ...] | None = None
    width: int | None = None
    batch: int = 8
    unrolled: bool = False
    remat: bool = False
    initialise: bool = False
    presets: tuple[str, ...] = PRESETS
    only: tuple[int, bool, bool] | None = None


def nvae_of(groups: int, width: int, unroll: bool, remat: bool) -> models.NVAE:
    """The CIFAR-10 preset's NVAE with that many groups at each of two resolutions."""
    return models.nvae_cifar10().clone(groups=(groups, groups), width=width, unroll=100 if unroll else 1, remat=remat)


def vdvae_of(levels: int, width: int, unroll: bool, remat: bool) -> models.VDVAE:
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
    if settings.model == "vdvae":
        model: Any = vdvae_of(levels, settings.width or 512, unroll, remat)
        objective: Objective = NegativeELBO()
        optimiser = AdamW(2e-4, b2=0.9).build()
    else:
        model = nvae_of(levels, settings.width or 32, unroll, remat)
        objective = SpectralRegularised(Regularised(warm_up=Linear(0, 1000), balance=NVAEBalance()))
        optimiser = Adamax(1e-2, eps=1e-3, weight_decay=3e-4).build()
    x: Any = jax.ShapeDtypeStruct((settings.batch, *model.image), jnp.uint8)
    key = jax.random.key(0)
    start, used = time.perf_counter(), time.process_time()
    state = jax.eval_shape(lambda x: initial_state(model, objective, optimiser, key, x), x)
    step = jax.jit(make_step(model, objective, optimiser), donate_argnums=0)
    lowered = step.lower(state, Batch(x), key)
    traced, traced_cpu = time.perf_counter() - start, time.process_time() - used
    program: Any = lowered.compile()
    seconds, cpu = time.perf_counter() - start, time.process_time() - used
    analysis = program.memory_analysis()
    return {
        "levels": model.num_levels,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "traced": traced,
        "traced_cpu": traced_cpu,
        "seconds": seconds,
        "cpu": cpu,
        "lines": lowered.as_text().count("\n"),
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
        "| levels | parameters | | program | tracing and lowering | all of compilation | memory |\n"
        "| --- | --- | --- | --- | --- | --- | --- |"
    )
    numbers = settings.levels or ((20, 40, 78) if settings.model == "vdvae" else (5, 15, 30))
    shared = ["--model", settings.model, "--batch", str(settings.batch)]
    shared += [] if settings.width is None else ["--width", str(settings.width)]
    for unroll in (False, True)[: 1 + settings.unrolled]:
        for remat in (False, True)[: 1 + settings.remat]:
            for levels in numbers:
                row = apart("--only", str(levels), str(unroll), str(remat), *shared)
                how = ("written out" if unroll else "scanned") + (", remat" if remat else "")
                print(
                    f"| {row['levels']:.0f} | {row['parameters'] / 1e6:.1f} M | {how} | {row['lines']:,.0f} lines | "
                    f"{row['traced']:.1f} s "
                    f"({row['traced_cpu']:.1f}) | {row['seconds']:.1f} s ({row['cpu']:.1f}) | "
                    f"{row['memory'] / 1e9:.2f} GB |",
                    flush=True,
                )


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
