"""`hvae`: what can be done with a finished run's folder, and `hvae doctor`."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import tyro

from hvae_jax import doctor, exchange, plots, results, settings
from hvae_jax.commands import Diagnose, Doctor, Evaluate, Export, ImportWeights, Reconstruct, Sample, Show
from hvae_jax.compilation import jit_once, keep_freed_memory, use_compilation_cache
from hvae_jax.convert.published import THE_PRESETS
from hvae_jax.descent import temperature_by_side
from hvae_jax.diagnosis import diagnose
from hvae_jax.diagnostics import level_by_level
from hvae_jax.ending import errors_said
from hvae_jax.evaluation import evaluate
from hvae_jax.experiment import Experiment
from hvae_jax.finished import an_example, open_run, open_variables
from hvae_jax.page import page
from hvae_jax.trace import level_sides, levels_per_stage
from hvae_jax.training.mesh import data_mesh
from hvae_jax.training.rows import level_names


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line. Exit codes: 0 done, 1 an error that is said, 2 arguments that do not parse."""
    commands: dict[str, Callable[..., Any]] = {
        "evaluate": Evaluate,
        "sample": Sample,
        "reconstruct": Reconstruct,
        "show": Show,
        "diagnose": Diagnose,
        "import": ImportWeights,
        "export": Export,
        "doctor": Doctor,
    }
    command = tyro.extras.subcommand_cli_from_dict(
        commands,
        args=arguments,
        prog="hvae",
        description=__doc__,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    actions: dict[type, Callable[[Any], None]] = {
        Evaluate: evaluate_run,
        Sample: sample,
        Reconstruct: reconstruct,
        Show: show,
        Diagnose: diagnose_run,
        ImportWeights: import_weights,
        Export: export_run,
        Doctor: doctor_report,
    }
    with errors_said():
        use_compilation_cache()
        keep_freed_memory()
        actions[type(command)](command)


def evaluate_run(command: Evaluate) -> None:
    """`hvae evaluate`."""
    run = open_run(command.run, command.import_, command.data, command.data_directory)
    splits = command.splits or [name for name in run.dataset.splits if name != "train"]
    draws = dict.fromkeys(splits, command.draws)
    if command.draws < 1:
        raise ValueError(f"--draws is {command.draws}, but it has to be 1 or more.")
    if command.examples is not None and command.examples < 2:
        raise ValueError(f"--examples is {command.examples}, but standard errors and active units need 2 or more.")
    wanted = run.experiment.evaluation
    key = jax.random.key(command.seed)
    first = {name: split.take(slice(command.examples)) for name, split in run.dataset.splits.items()}
    some = run.dataset if command.examples is None else dataclasses.replace(run.dataset, splits=first)
    model, notes = results.measured(run.experiment.model)
    numbers = evaluate(model, run.variables, some, key, draws, wanted.chunk, wanted.size, mesh=data_mesh())
    if notes:
        numbers["notes"] = notes
    numbers["examples"] = {name: len(some.splits[name]) for name in splits}
    numbers |= {"data": results.data_record(run.dataset), "seed": command.seed, "best_step": run.progress.best_step}
    if command.out is not None:
        settings.write_whole(command.out, settings.dumps(numbers))
    print("\n".join((results.table(numbers), *notes)))


def sample(command: Sample) -> None:
    """`hvae sample`."""
    if command.n < 1 or not command.temperature:
        raise ValueError(f"--n is {command.n} and --temperature {command.temperature}: at least one of each is needed.")
    experiment, variables, _ = open_variables(command.run, command.import_)
    model: Any = experiment.model
    values = results.range_of_model(model) or results.image_range(experiment.data.load())
    temperature, name = _temperature(command, experiment, variables)
    y = _labels(model, command.label, command.n)
    draw = jit_once(lambda v, key: model.apply(v, key, command.n, y=y, temperature=temperature, method="generate"))
    x = np.asarray(draw(variables, jax.random.key(command.seed)))
    label = "" if command.label is None else f"label{command.label}_"
    out = command.out or command.run / f"samples_{label}t{name}.png"
    if out.suffix == ".npz":
        arrays: dict[str, Any] = {"x": x} if y is None else {"x": x, "y": y}
        np.savez_compressed(out, **arrays)
    else:
        plots.save_grids(out, {f"temperature {name}": x}, _columns(command.n), values)
    print(out)


def reconstruct(command: Reconstruct) -> None:
    """`hvae reconstruct`."""
    run = open_run(command.run, command.import_)
    name = command.split or list(run.dataset.splits)[-1]
    if name not in run.dataset.splits:
        raise ValueError(f"{run.dataset.name} has no split {name!r}; it has {list(run.dataset.splits)}.")
    n = (8 if command.by_level else 36) if command.n is None else command.n
    if n < 1:
        raise ValueError(f"--n is {n}, but it has to be 1 or more.")
    if command.by_level and (command.keep_top, command.temperature) != (None, None):
        raise ValueError("--by-level keeps every number of levels and draws none: leave --keep-top, --temperature out.")
    model, split = run.experiment.model, run.dataset.splits[name]
    few = results.for_model(split.take(slice(n)), model)
    sizes = levels_per_stage(model, len(level_names(model, few)))
    levels, what = len(sizes), "levels" if max(sizes) == 1 else "stages"
    key, values = jax.random.key(command.seed), results.image_range(run.dataset)
    if command.by_level:
        counts = np.unique(np.linspace(0, levels, min(levels + 1, 12)).round().astype(int))
        drawn = np.asarray(
            jit_once(lambda v, key: level_by_level(model, v, few.x, key, few.y, counts))(run.variables, key)
        )
        rows = np.concatenate([drawn, np.asarray(few.x)[:, None].astype(drawn.dtype)], axis=1)
        out = command.out or command.run / "level_by_level.png"
        title = f"0 to {levels} {what} kept; the image"
        plots.save_grids(out, {title: rows.reshape(-1, *few.x.shape[1:])}, rows.shape[1], values)
        print(f"{out}: from the top {', '.join(map(str, counts))} of {levels} {what}, and the image")
        return
    keep = levels if command.keep_top is None else command.keep_top
    if not 0 <= keep <= levels:
        raise ValueError(f"--keep-top is {keep}, but the model has {levels} {what}: 0 to {levels}.")
    temperature = 1.0 if command.temperature is None else command.temperature
    mean = jit_once(
        lambda v, key: model.apply(v, few.x, key, y=few.y, keep_top=keep, temperature=temperature, method="reconstruct")
    )(run.variables, key)
    out = command.out or command.run / f"reconstructions_top{keep}.png"
    panels = {"real": few.x, f"top {keep} of {levels} {what}": np.asarray(mean)}
    plots.save_grids(out, panels, _columns(len(few)), values)
    print(out)


def show(command: Show) -> None:
    """`hvae show`."""
    path = command.run / "result.json"
    if not path.exists():
        known = (command.run / "settings.json").exists()
        raise FileNotFoundError(
            f"{command.run} holds {'an unfinished run' if known else 'no run'}: there is no result.json in it."
            + (" Run its script again to go on, or `hvae evaluate` it as it is." if known else "")
        )
    result = results.read(path)
    if "imported" in result:
        print(exchange.said_of_import(result, command.run))
    if "elbo" in result:
        print(results.summary(result, command.run))
        print()
        print(results.level_table(result))


def diagnose_run(command: Diagnose) -> None:
    """`hvae diagnose`."""
    run = open_run(command.run, command.import_)
    variables, dataset = run.variables, run.dataset
    model, notes = results.measured(run.experiment.model)
    other = None
    if command.other is not None:
        other = run.experiment.data.of_other(command.other, command.other_directory)
        results.check_fits(model, other)
        if other.event != dataset.event:
            raise ValueError(f"{other.name} has examples of shape {other.event}, but the run's have {dataset.event}.")
    key = jax.random.key(command.seed)
    report = diagnose(model, variables, dataset, key, command.split, command.effort, other)
    report["words"] = [*notes, *report["words"]]
    report |= {"run": run.experiment.name, "best_step": run.progress.best_step, "seed": command.seed}
    out = command.out or command.run / "report.html"
    charts = {
        "Rate of each level and all above it, and how much of it is information on x": plots.information_chart(report),
        "KL of each unit; below the dotted line it says next to nothing": plots.units_chart(report),
        "Rate and distortion": plots.plane_chart(report),
    }
    images = results.walk_pictures(model, variables, dataset, report, jax.random.fold_in(key, 1))
    title = f"{run.experiment.name}: what its levels do"
    out.write_text(page(title, report, charts, images))
    settings.write_whole(out.with_suffix(".json"), settings.dumps(report))
    print("\n".join(f"- {sentence}" for sentence in report["words"]))
    print(f"{out} and {out.with_suffix('.json')}")


def import_weights(command: ImportWeights) -> None:
    """`hvae import`."""
    names = ("weights", "enc_blocks", "dec_blocks", "structure", "unsaid", "data", "data_directory")
    options = {name: getattr(command, name) for name in names}
    if command.code == "hvae_jax":
        usual = (None, "preset", THE_PRESETS)
        given = [name for name, value in {"preset": command.preset, **options}.items() if value not in usual]
        if given:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ValueError(f"{flags}: a file of `hvae export` says that itself.")
        folder = exchange.import_own(command.checkpoint, command.folder, command.overwrite, command.import_)
    else:
        folder = exchange.import_published(
            command.code, command.checkpoint, command.preset, command.folder, command.overwrite, **options
        )
    print(exchange.said_of_import(results.read(folder / "result.json"), folder))


def export_run(command: Export) -> None:
    """`hvae export`."""
    print(exchange.export(command.run, command.file, command.overwrite, command.import_))


def doctor_report(command: Doctor) -> None:
    """`hvae doctor`. Exits with 1 where an accelerator lies idle."""
    print(doctor.report())
    if doctor.idle_accelerator():
        sys.exit(1)


def _temperature(command: Sample, experiment: Experiment, variables: Any) -> tuple[np.ndarray, str]:
    """One for all levels or one for each, and how that is called."""
    if command.temperature_by_side:
        if command.temperature != (1.0,):
            raise ValueError("--temperature and --temperature-by-side say the same thing: give one of them.")
        model: Any = experiment.model
        few = results.for_model(an_example(experiment), model)
        sides = level_sides(model, variables, few.x, few.y)
        by_side = {f"{side}x{side}": t for side, t in command.temperature_by_side.items()}
        name = "_".join(f"{side}_{t:g}" for side, t in by_side.items())
        return temperature_by_side(sides, command.temperature_by_side), name
    several = len(command.temperature) > 1
    name = "_".join(f"{t:g}" for t in command.temperature)
    return np.asarray(command.temperature if several else command.temperature[0]), name


def _labels(model: Any, label: int | None, n: int) -> np.ndarray | None:
    """Labels for n samples: none, one for all, or all in turn."""
    classes = getattr(model, "classes", 0)
    if label is not None and not 0 <= label < classes:
        allowed = f"0 to {classes - 1}" if classes else "none: it was trained without labels"
        raise ValueError(f"--label is {label}, but the model allows {allowed}.")
    if not classes:
        return None
    return np.full(n, label, np.int32) if label is not None else np.arange(n, dtype=np.int32) % classes


def _columns(n: int) -> int:
    """Of a grid about as wide as it is high."""
    return max(1, int(np.ceil(np.sqrt(n))))
