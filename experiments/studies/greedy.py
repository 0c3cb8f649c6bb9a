"""Greedy against joint training of the Greedy Hierarchical VAE, at equal steps and at equal time, and its memory.

    python experiments/studies/greedy.py
    python experiments/studies/greedy.py --tasks digits --modules 2 --scale 0.1  # a tenth of the steps

For each task (a preset of the recipe) and number of modules: the greedy run, a stage for each module; the joint
run of as many steps; and the joint run of as many steps as take the processor time of the greedy run. The processor
time of each training step is measured before training, in turns, the least of many steps each: seconds on the clock
would measure what else the machine does. Memory is XLA's: the state that a step is given, and what it needs beside it.

Clips are measured by their last frame: the bound is -ELBO less the rate of the frames before it; PSNR and SSIM compare
it with E[x' | z], z from its prior, with the mean of that over 16 draws of z, and with the frame before, which is the
guess that nothing moves.

Writes greedy.json with every number, a table, predicted_MODULES.png with true frames and frames predicted one from the
other, and a run folder for each run. An interrupted study resumes.
"""

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from hvae_jax.data.clips import MOVING
from hvae_jax.diagnostics import psnr, ssim
from hvae_jax.experiment import Experiment, run
from hvae_jax.experiment.exits import errors_said
from hvae_jax.experiment.reopen import OpenedRun, open_run
from hvae_jax.experiment.settings import dumps
from hvae_jax.models import GreedyVAE, roll_out
from hvae_jax.objectives import Batch
from hvae_jax.recipes import experiment_of
from hvae_jax.report import charts
from hvae_jax.runtime.columns import aligned
from hvae_jax.runtime.compilation import keep_freed_memory, use_compilation_cache
from hvae_jax.runtime.files import write_whole
from hvae_jax.runtime.prng import split
from hvae_jax.training import Stage, init_state, make_step
from hvae_jax.training.stages import optimiser_in, trains_in

PREDICTED = (
    *(("PSNR", "predicted psnr"), ("of the mean", "averaged psnr"), ("unmoved", "unmoved psnr")),
    *(("SSIM", "predicted ssim"), ("of the mean", "averaged ssim"), ("unmoved", "unmoved ssim")),
)
"""Columns of the table for clips, and the numbers that they show."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the study.

    Attributes:
      tasks: presets of the recipe.
      modules: numbers of modules.
      seeds: seeds of the runs; time and memory do not depend on them, and none measures these alone.
      scale: factor of the presets' steps in each stage.
      rounds: steps behind the processor time of each training step, of which the least counts.
      directory: as --data.directory.
      folder: folder of the runs, the table, the picture and the numbers.
    """

    tasks: tuple[str, ...] = ("digits", "moving_digits")
    modules: tuple[int, ...] = (2, 3)
    seeds: tuple[int, ...] = (0,)
    scale: float = 1.0
    rounds: int = 50
    directory: str | None = None
    folder: Path = Path("runs/greedy")


def of_modules(task: str, modules: int, scale: float, directory: str | None = None) -> Experiment:
    """The greedy experiment of a preset, with another number of modules."""
    plain = experiment_of("greedy", task)
    assert isinstance(plain.model, GreedyVAE)
    steps = max(1, round(scale * plain.training.stages[0].steps))
    first = Stage(steps, frozen=tuple(f"module{k}" for k in range(2, modules + 1)), modules=1)
    stages = (first, *(Stage(steps, trains=(f"module{k}",), modules=k) for k in range(2, modules + 1)))
    training = dataclasses.replace(plain.training, stages=stages, pictures_every=None)
    data = dataclasses.replace(plain.data, directory=directory)
    return dataclasses.replace(plain, model=plain.model.clone(modules=modules), data=data, training=training)


def costs(experiment: Experiment, rounds: int) -> list[dict[str, float]]:
    """Memory and processor time of the training step of each stage, and of joint training, which comes last.

    Returns: `state_mib`, memory of the state; `temporary_mib`, what the step needs beside it; `trained`, number of
      parameters that are trained; `seconds`, of a processor.
    """
    train = experiment.data.load().train.for_classes(experiment.model.classes)
    few = train.take(slice(experiment.training.batch_size))
    batch, key = Batch(jnp.asarray(few.x), None if few.y is None else jnp.asarray(few.y)), jax.random.key(0)
    objective, optimiser = experiment.objective, experiment.optimiser.build()
    steps, states, found = [], [], []
    for stage in (*experiment.training.stages, None):
        own = optimiser_in(optimiser, stage, objective)
        state = init_state(experiment.model, objective, own, key, batch.x, batch.y)
        running = experiment.model if stage is None else stage.model(experiment.model)
        step = make_step(running, objective, optimiser, trains=trains_in(stage, objective))
        compiled = jax.jit(step, donate_argnums=0).lower(state, batch, key).compile()
        memory: Any = compiled.memory_analysis()
        sizes = {
            "trained": sum(leaf.size for leaf in jax.tree.leaves(state.opt_state)) // 2,  # of two moments
            "state_mib": sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 2**20,
            "temporary_mib": memory.temp_size_in_bytes / 2**20,
        }
        found.append(sizes | {"seconds": float("inf")})
        states.append(state)
        steps.append(compiled)
    for _ in range(rounds):
        for i, step in enumerate(steps):
            start = time.process_time()  # of all threads
            states[i], _ = jax.block_until_ready(step(states[i], batch, key))
            found[i]["seconds"] = min(found[i]["seconds"], time.process_time() - start)
    return found


def runs_of(greedy: Experiment, cost: list[dict[str, float]]) -> dict[str, Experiment]:
    """The greedy run, and joint runs of as many steps and of as many as take as long."""
    stages = greedy.training.stages
    steps = sum(stage.steps for stage in stages)
    seconds = sum(stage.steps * each["seconds"] for stage, each in zip(stages, cost, strict=False))
    found = {"greedy": greedy}
    for name, number in (("joint, equal steps", steps), ("joint, equal time", seconds / cost[-1]["seconds"])):
        training = dataclasses.replace(greedy.training, stages=(), steps=max(1, round(number)))
        found[name] = dataclasses.replace(greedy, training=training)
    return found


def numbers_of(folder: Path) -> dict[str, float]:
    """What the table has of a finished run, on its test split."""
    result, opened = json.loads((folder / "result.json").read_text()), open_run(folder)
    rates, elbo, bound = (result[name]["test"] for name in ("rates", "elbo", "iw_bound"))
    past = rates.get("past", 0.0)
    numbers = {
        "-elbo": -elbo - past,
        "error": result["standard_error"]["test"]["elbo"],
        "-bound": -bound - past,
        "rate": rates["z"],
        "steps": result["steps"],
        "best_step": result["best_step"],
    }
    return numbers | (predictions(opened) if past else {})


def predictions(opened: OpenedRun, examples: int = 500, draws: int = 16) -> dict[str, float]:
    """PSNR and SSIM of last frames of test clips: by one z, by the mean over draws of z, and by the frame before."""
    model: Any = opened.experiment.model
    split = opened.dataset.splits["test"].take(slice(examples)).for_classes(model.classes)
    x, width, high = jnp.asarray(split.x), model.frame, opened.dataset.kind.num_values - 1.0
    predict = jax.jit(lambda v, x, k: model.apply(v, x, k, y=split.y, keep_top=1, method="reconstruct"))
    # one draw of z, as a frame is predicted; the mean over draws has the smallest expected error
    drawn = [predict(opened.variables, x, key)[:, :, -width:] for key in jax.random.split(jax.random.key(0), draws)]
    guess, average = drawn[0], jnp.stack(drawn).mean(0)
    true, before = x[:, :, -width:], x[:, :, -2 * width : -width]
    found = {}
    for name, frame in (("predicted", guess), ("averaged", average), ("unmoved", before)):
        # a digit that does not move is predicted without an error: the mean of decibels would be infinite
        error = float(jnp.square(frame.astype(jnp.float32) - true.astype(jnp.float32)).mean())
        found[f"{name} psnr"] = float(20 * np.log10(high) - 10 * np.log10(error))
        found[f"{name} ssim"] = float(ssim(frame, true, high).mean())
    found["median psnr"] = float(jnp.median(psnr(guess, true, high)))
    return found


def picture(opened: OpenedRun, path: Path, clips: int = 4, steps: int = 6) -> None:
    """Draws frames predicted one from the other: for each clip its true frames, and predictions of two keys.

    Predicted are modes, as the next frame is made of whole values. Beside them are the expectations of the first
    predicted frame with the same z, which PSNR and SSIM are of.
    """
    model: Any = opened.experiment.model
    given = model.frames - 1
    longer = dataclasses.replace(opened.experiment.data, name=f"{MOVING}:{given + steps}").load()
    true = np.asarray(longer.splits["test"].take(slice(clips)).x)
    past = jnp.asarray(true[:, :, : given * model.frame])
    y = None if not model.classes else np.zeros((clips, steps), np.int32)
    roll = jax.jit(lambda v, k: roll_out(model, v, past, k, steps, y=y))
    drawn = [jax.random.key(seed) for seed in range(2)]
    strips = np.stack([true, *(np.concatenate([past, roll(opened.variables, k)], axis=2) for k in drawn)], axis=1)

    def expectation(variables: Any, key: Any) -> Any:
        action = None if y is None else y[:, 0]
        given = {"y": action, "latents": (past, None), "method": "decode"}
        return model.apply(variables, split(key, steps)[0], clips, **given).x_dist.mean[:, :, -model.frame :]

    expect, following = jax.jit(expectation), true[:, :, past.shape[2] :][:, :, : model.frame]
    first = np.stack([following, *(expect(opened.variables, k) for k in drawn)], axis=1)
    # [clips, 3, H, F W, C] to frames [3 clips, F, H, W, C]
    frames = strips.reshape(-1, strips.shape[2], given + steps, model.frame, strips.shape[-1]).swapaxes(1, 2)
    labels = [f"{i}, given" if i <= given else str(i) for i in range(1, given + steps + 1)]
    title = f"Frames of {clips} clips; of the predictions each frame is made from the {given} before it"
    names = [name for i in range(1, clips + 1) for name in (f"clip {i}, true", "predicted", "and again")]
    shown = (0.0, opened.dataset.kind.num_values - 1.0)
    panels = {title: (frames, labels), "expected": (first.reshape(-1, 1, *first.shape[2:]), [str(given + 1)])}
    charts.save_columns(path, panels, shown, names)


def table(rows: list[dict[str, Any]]) -> str:
    """Lines for each task and number of modules: one for each way to train, and one for each training step."""
    lines = [["task", "modules", "training", "steps", "test -ELBO", "-bound", "KL z", *(name for name, _ in PREDICTED)]]
    costs = [["task", "modules", "step of", "trained", "state, MiB", "temporary, MiB", "processor ms"]]
    for row in rows:
        for name, runs in row["runs"].items():
            mean = {key: [one[key] for one in runs if key in one] for key in {key for one in runs for key in one}}

            def cell(key: str, digits: int = 2, mean: dict[str, Any] = mean) -> str:
                if not mean.get(key):
                    return ""
                spread = f" ± {np.std(mean[key], ddof=1):.{digits}f}" if len(mean[key]) > 1 else ""
                return f"{np.mean(mean[key]):.{digits}f}{spread}"

            cells = [cell("steps", 0), cell("-elbo"), cell("-bound"), cell("rate")]
            predicted = [cell(key, 3 if key.endswith("ssim") else 2) for _, key in PREDICTED]
            lines.append([row["task"], str(row["modules"]), name, *cells, *predicted])
        for i, cost in enumerate(row["costs"]):
            name = "joint" if i == len(row["costs"]) - 1 else f"stage {i + 1}"
            memory = (f"{cost[key]:.2f}" for key in ("state_mib", "temporary_mib"))
            trained, milliseconds = f"{cost['trained']:,}", f"{1e3 * cost['seconds']:.1f}"
            costs.append([row["task"], str(row["modules"]), name, trained, *memory, milliseconds])
    return "\n".join((*aligned(lines, left=(0, 2)), "", *aligned(costs, left=(0, 2))))


def main(chosen: Settings) -> None:
    """Runs the study."""
    chosen.folder.mkdir(parents=True, exist_ok=True)
    file, rows = chosen.folder / "greedy.json", []
    known: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    for task in chosen.tasks:
        for modules in chosen.modules:
            name = f"{task}_{modules}_{chosen.scale:g}"
            greedy = of_modules(task, modules, chosen.scale, chosen.directory)
            # measured once, since the steps of equal time follow from it
            cost = next((row["costs"] for row in known if row["name"] == name), None) or costs(greedy, chosen.rounds)
            row: dict[str, Any] = {"name": name, "task": task, "modules": modules, "costs": cost, "runs": {}}
            known = [*(other for other in known if other["name"] != name), row]
            write_whole(file, dumps(known))
            for way, experiment in runs_of(greedy, cost).items():
                for seed in chosen.seeds:
                    folder = chosen.folder / f"{name}_{way.replace(', ', '_').replace(' ', '_')}_{seed}"
                    if run(dataclasses.replace(experiment, name=folder.name, seed=seed), folder).interrupted:
                        sys.exit(f"Interrupted in {folder}. The same command goes on from there.")
                    row["runs"].setdefault(way, []).append(numbers_of(folder))
                    write_whole(file, dumps(known))
            rows.append(row)
            if task.startswith("moving_digits") and chosen.seeds:
                folder = chosen.folder / f"{name}_greedy_{chosen.seeds[0]}"
                picture(open_run(folder), chosen.folder / f"predicted_{modules}.png")
    print(table(rows))


if __name__ == "__main__":
    with errors_said():
        settings = tyro.cli(Settings, description=__doc__)
        use_compilation_cache()
        keep_freed_memory()
        main(settings)
