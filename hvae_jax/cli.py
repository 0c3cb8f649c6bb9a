"""`hvae`: what can be done with a finished run's folder, and `hvae doctor`."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro

from hvae_jax import doctor, exchange, plots, results, settings
from hvae_jax.compilation import jit_once, use_compilation_cache
from hvae_jax.convert.files import Weights
from hvae_jax.convert.published import Structure
from hvae_jax.diagnosis import Effort, diagnose
from hvae_jax.ending import errors_said
from hvae_jax.evaluation import evaluate
from hvae_jax.finished import open_run, open_variables
from hvae_jax.page import page
from hvae_jax.trace import levels_per_stage
from hvae_jax.training.mesh import data_mesh
from hvae_jax.training.rows import level_names

Run = Annotated[Path, tyro.conf.Positional]
Import = Annotated[tuple[str, ...], tyro.conf.arg(name="import")]


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Bounds, rates and active units of a run's best variables, as in training but with other draws or data.

    Attributes:
      run: the run folder.
      splits: which splits; validation and, where there is one, test if none is named.
      draws: K of the importance-weighted bound.
      examples: how many of each split are measured, its first ones; None takes all.
      data: another data set than the run's, by name; it is binarised, quantised and resized as the run's was.
      data_directory: where TFDS data is prepared.
      seed: of the draws.
      out: a JSON file to write to, as well as printing.
      import_: modules that settings.json may name beside hvae_jax.
    """

    run: Run
    splits: tuple[str, ...] = ()
    draws: int = 500
    examples: int | None = None
    data: str | None = None
    data_directory: str | None = None
    seed: int = 0
    out: Path | None = None
    import_: Import = ()


@dataclasses.dataclass(frozen=True)
class Sample:
    """New images from the prior.

    Attributes:
      run: the run folder.
      n: how many.
      temperature: of every latent's prior: 1 as trained, 0 the mode; or one number a level, top first.
      label: of all samples, for a model with classes; otherwise labels in turn.
      seed: of the draws.
      out: the picture; samples_tTEMPERATURE.png in the run folder if it is not given. An .npz keeps the arrays.
      import_: modules that settings.json may name beside hvae_jax.
    """

    run: Run
    n: int = 64
    temperature: tuple[float, ...] = (1.0,)
    label: int | None = None
    seed: int = 0
    out: Path | None = None
    import_: Import = ()


@dataclasses.dataclass(frozen=True)
class Reconstruct:
    """Test images beside what the top levels alone know of them.

    Attributes:
      run: the run folder.
      keep_top: levels, or in a model that has them stages, inferred from the image, from the top; the others are drawn
        from their priors. All if not given.
      n: how many images.
      split: which split they come from; the last one (test, where there is one) if it is not given.
      temperature: of the levels drawn from their priors.
      seed: of the draws.
      out: the picture; reconstructions_topK.png in the run folder if it is not given.
      import_: modules that settings.json may name beside hvae_jax.
    """

    run: Run
    keep_top: int | None = None
    n: int = 36
    split: str | None = None
    temperature: float = 1.0
    seed: int = 0
    out: Path | None = None
    import_: Import = ()


@dataclasses.dataclass(frozen=True)
class Show:
    """The run's numbers, with a table of its levels.

    Attributes:
      run: the run folder.
    """

    run: Run


@dataclasses.dataclass(frozen=True)
class Diagnose:
    """The whole report on a run: what its levels do, as one HTML page, as JSON and in words.

    Attributes:
      run: the run folder.
      split: which split is looked at; the last one (test, where there is one) if it is not given.
      effort: how much is computed.
      other: a data set that the model was not made for, to see whether it is noticed; a name or a path.
      other_directory: where it is, as --data.directory.
      seed: of the draws.
      out: the page; report.html in the run folder if it is not given. The JSON lies beside it.
      import_: modules that settings.json may name beside hvae_jax.
    """

    run: Run
    split: str | None = None
    effort: Effort = Effort()
    other: str | None = None
    other_directory: str | None = None
    seed: int = 0
    out: Path | None = None
    import_: Import = ()


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Versions, backend and devices, and whether an accelerator lies idle."""


@dataclasses.dataclass(frozen=True)
class ImportWeights:
    """Published weights, or a file of `hvae export`, as a run folder that every command takes.

    They come with the likelihood that their public code trains and measures, so that published numbers come out again.
    Nothing in the file is executed; a PyTorch file needs PyTorch.

    Attributes:
      code: that the weights are of: vdvae, efficient_vdvae (either tree), or hvae_jax for a file of `hvae export`.
      checkpoint: a PyTorch file, a .safetensors, an .npz of arrays by name, or a Flax checkpoint.
      preset: the published configuration: cifar10, imagenet32, imagenet64, ffhq256, ffhq1024, ...; a wrong name lists
        them all.
      weights: of a checkpoint that holds both, the averaged or the plain ones; averaged if it is not given.
      enc_blocks: of vdvae, the blocks of the way up that the file has, where they are not the preset's:
        "32x11,32d2,...". The published ffhq1024 has two fewer than its preset.
      dec_blocks: of the way down, likewise: "1x1,4m1,...".
      structure: of efficient_vdvae, "file" to read blocks and widths off the file where they are not the preset's.
      data: the data set, by name or path; the preset's if it is not given.
      data_directory: where it is, as --data.directory.
      folder: the run folder; runs/CODE_PRESET if it is not given.
      overwrite: delete what an earlier run left in the folder.
      import_: modules that a file of `hvae export` may name beside hvae_jax.
    """

    code: Annotated[Literal["vdvae", "efficient_vdvae", "hvae_jax"], tyro.conf.Positional]
    checkpoint: Run
    preset: str | None = None
    weights: Weights | None = None
    enc_blocks: str | None = None
    dec_blocks: str | None = None
    structure: Structure = "preset"
    data: str | None = None
    data_directory: str | None = None
    folder: Path | None = None
    overwrite: bool = False
    import_: Import = ()


@dataclasses.dataclass(frozen=True)
class Export:
    """The best variables of a run and its settings as one .safetensors file, which `hvae import hvae_jax` reads.

    Attributes:
      run: the run folder.
      file: where it is written; NAME.safetensors in the run folder if it is not given.
      overwrite: replace a file that is there.
      import_: modules that settings.json may name beside hvae_jax.
    """

    run: Run
    file: Annotated[Path | None, tyro.conf.Positional] = None
    overwrite: bool = False
    import_: Import = ()


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
        actions[type(command)](command)


def evaluate_run(command: Evaluate) -> None:
    """`hvae evaluate`."""
    run = open_run(command.run, command.import_, command.data, command.data_directory)
    splits = command.splits or [name for name in run.dataset.splits if name != "train"]
    draws = dict.fromkeys(splits, command.draws)
    if command.draws < 1:
        raise ValueError(f"--draws is {command.draws}, but it has to be 1 or more.")
    if command.examples is not None and command.examples < 1:
        raise ValueError(f"--examples is {command.examples}, but it has to be 1 or more.")
    wanted = run.experiment.evaluation
    key = jax.random.key(command.seed)
    first = {name: split.take(slice(command.examples)) for name, split in run.dataset.splits.items()}
    some = run.dataset if command.examples is None else dataclasses.replace(run.dataset, splits=first)
    numbers = evaluate(
        run.experiment.model, run.variables, some, key, draws, wanted.chunk, wanted.size, mesh=data_mesh()
    )
    numbers["examples"] = {name: len(some.splits[name]) for name in splits}
    numbers |= {"data": results.data_record(run.dataset), "seed": command.seed, "best_step": run.progress.best_step}
    if command.out is not None:
        settings.write_whole(command.out, settings.dumps(numbers))
    print(results.table(numbers))


def sample(command: Sample) -> None:
    """`hvae sample`."""
    if command.n < 1 or not command.temperature:
        raise ValueError(f"--n is {command.n} and --temperature {command.temperature}: at least one of each is needed.")
    experiment, variables, _ = open_variables(command.run, command.import_)
    model: Any = experiment.model
    values = results.range_of_model(model) or results.image_range(experiment.data.load())
    temperature = np.asarray(command.temperature if len(command.temperature) > 1 else command.temperature[0])
    y = _labels(model, command.label, command.n)
    draw = jit_once(lambda v, key: model.apply(v, key, command.n, y=y, temperature=temperature, method="generate"))
    x = np.asarray(draw(variables, jax.random.key(command.seed)))
    name = "_".join(f"{t:g}" for t in command.temperature)
    out = command.out or command.run / f"samples_t{name}.png"
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
    if command.n < 1:
        raise ValueError(f"--n is {command.n}, but it has to be 1 or more.")
    model, split = run.experiment.model, run.dataset.splits[name]
    few = results.for_model(split.take(slice(command.n)), model)
    sizes = levels_per_stage(model, len(level_names(model, few)))
    levels, what = len(sizes), "levels" if max(sizes) == 1 else "stages"
    keep = levels if command.keep_top is None else command.keep_top
    if not 0 <= keep <= levels:
        raise ValueError(f"--keep-top is {keep}, but the model has {levels} {what}: 0 to {levels}.")
    mean = jit_once(
        lambda v, key: model.apply(
            v, few.x, key, y=few.y, keep_top=keep, temperature=command.temperature, method="reconstruct"
        )
    )(run.variables, jax.random.key(command.seed))
    out = command.out or command.run / f"reconstructions_top{keep}.png"
    panels = {"real": few.x, f"top {keep} of {levels} {what}": np.asarray(mean)}
    plots.save_grids(out, panels, _columns(len(few)), results.image_range(run.dataset))
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
    model, variables, dataset = run.experiment.model, run.variables, run.dataset
    other = None
    if command.other is not None:
        other = run.experiment.data.of_other(command.other, command.other_directory)
        results.check_fits(model, other)
        if other.event != dataset.event:
            raise ValueError(f"{other.name} has examples of shape {other.event}, but the run's have {dataset.event}.")
    key = jax.random.key(command.seed)
    report = diagnose(model, variables, dataset, key, command.split, command.effort, other)
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
    names = ("weights", "enc_blocks", "dec_blocks", "structure", "data", "data_directory")
    options = {name: getattr(command, name) for name in names}
    if command.code == "hvae_jax":
        given = [name for name, value in {"preset": command.preset, **options}.items() if value not in (None, "preset")]
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
