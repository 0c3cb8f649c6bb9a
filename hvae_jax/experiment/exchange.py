"""Weights from outside as a run folder, and a run's as one file: what `hvae import` and `hvae export` do."""

import dataclasses
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import hvae_jax
from hvae_jax.convert.array_files import ArrayFile, Weights, read_arrays
from hvae_jax.convert.codes import THE_PRESETS, Code, Preset, Structure, Unsaid, preset_of, published
from hvae_jax.data import check_name
from hvae_jax.data.spec import Data
from hvae_jax.experiment import folder as run_folder
from hvae_jax.experiment import settings
from hvae_jax.experiment.records import Evaluation, Experiment
from hvae_jax.experiment.reopen import an_example, open_variables
from hvae_jax.runtime import doctor
from hvae_jax.training.checkpoint import Checkpoints, Progress
from hvae_jax.training.state import state_from

FORMAT = 1  # of exported files


def import_published(
    code: Code,
    path: Path,
    preset: str | None,
    folder: Path | None = None,
    overwrite: bool = False,
    *,
    weights: Weights | None = None,
    enc_blocks: str | None = None,
    dec_blocks: str | None = None,
    structure: Structure = "preset",
    unsaid: Unsaid = THE_PRESETS,
    data: str | None = None,
    data_directory: str | None = None,
) -> Path:
    """A run folder of published weights; what it holds was not measured.

    Args:
      code, enc_blocks, dec_blocks, structure, unsaid: as `convert.published.published` takes them.
      path, weights: as `read_arrays` does.
      preset: the configuration.
      folder: runs/CODE_PRESET for None.
      overwrite: delete what an earlier run left there.
      data, data_directory: the data set that the commands read; None is the preset's.
    Returns: the folder.
    Raises ValueError for an unknown preset or data set, a folder that holds a run, and a file that does not fit, with
    all that differs; FileNotFoundError, ImportError and ValueError as `read_arrays` does; OSError for a full disk.
    """
    known = preset_of(code, preset)
    assert preset is not None
    folder = folder or Path("runs") / f"{code}_{preset}"
    _check_free(folder, overwrite)
    source = _data(known, preset, data, data_directory, known.make().image[0])
    file = read_arrays(path, weights)
    options: dict[str, Any] = {"enc_blocks": enc_blocks, "dec_blocks": dec_blocks, "structure": structure}
    try:
        model, variables = published(code, file.arrays, preset, unsaid=unsaid, **options)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    odd = [name for name, leaf in _named(variables).items() if not np.isfinite(leaf).all()]
    if odd:
        what = f"{len(odd)} arrays hold values that are" if len(odd) > 1 else "one array holds values that are"
        warnings.warn(f"{path}: {what} not finite, {odd[0]} first.", stacklevel=2)
    template = _template(model, model.image)  # float32, whatever the file has
    variables = jax.tree.map(lambda leaf, ours: jnp.asarray(leaf, ours.dtype), variables, template)
    at_once = max(1, 2**16 // model.image[0] ** 2)
    evaluation = Evaluation(draws=1, other_draws=1, chunk=1, size=at_once)
    experiment = Experiment(f"{code}_{preset}", model, source, evaluation=evaluation)
    record = _record(code, path, file) | {"preset": preset}
    options |= dataclasses.asdict(unsaid)
    record |= {name: value for name, value in options.items() if value not in (None, "preset")}
    record["model"] = {name: getattr(model, name) for name in _TOLD if hasattr(model, name)}
    _write_run(folder, experiment, variables, Progress(), {"imported": record}, overwrite)
    return folder


def import_own(path: Path, folder: Path | None = None, overwrite: bool = False, modules: Sequence[str] = ()) -> Path:
    """A run folder of what `export` wrote: the same settings, and variables bit for bit.

    Args:
      folder: runs/NAME for None.
      overwrite: delete what an earlier run left there.
      modules: that the settings may name beside hvae_jax.
    Returns: the folder.
    Raises ValueError for a file that `export` did not write, or a newer one, and for arrays that do not fit its
    settings, with each; otherwise as `import_published`.
    """
    if folder is not None:
        _check_free(folder, overwrite)
    file = read_arrays(path)
    said = file.metadata
    if "hvae_jax" not in said or "settings" not in said:
        raise ValueError(f"{path} was not written by `hvae export`: there are no settings in it.")
    if said.get("format") != str(FORMAT):
        raise ValueError(
            f"{path} was written in format {said.get('format')} by hvae_jax {said['hvae_jax']}; this one, "
            f"{hvae_jax.__version__}, reads format {FORMAT}."
        )
    try:
        experiment = settings.from_json(json.loads(said["settings"]), tuple(modules))
        event, progress = tuple(json.loads(said["event"])), Progress(**json.loads(said["progress"]))
        result = json.loads(said.get("result", "{}"))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: its settings cannot be read ({error}).") from error
    if not isinstance(experiment, Experiment):
        raise ValueError(f"{path} describes a {type(experiment).__name__}, not an Experiment.")
    folder = folder or Path("runs") / experiment.name
    _check_free(folder, overwrite)
    variables = _fitting(path, experiment.model, event, file.arrays)
    result |= {"imported": _record("hvae_jax", path, file)}
    _write_run(folder, experiment, variables, progress, result, overwrite)
    return folder


def export(run: Path, file: Path | None = None, overwrite: bool = False, modules: Sequence[str] = ()) -> Path:
    """The best variables of a run, those that its numbers are of, as one .safetensors file.

    Names are paths such as "params/stem/kernel", dtypes stay, and the metadata is text: `settings` (settings.json),
    `hvae_jax` (the version), `format`, `event` (shape of one x), `progress`, and `result` (result.json) where there is
    one.

    Args:
      run: the run folder.
      file: NAME.safetensors in the run folder for None.
      overwrite: replace a file that is there.
      modules: that the settings may name beside hvae_jax.
    Returns: the file.
    Raises ValueError for a file that is there, FileNotFoundError and ValueError as `open_run` does, OSError where it
    cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    experiment, variables, progress = open_variables(run, modules)
    file = file or run / f"{experiment.name}.safetensors"
    if file.exists() and not overwrite:
        raise ValueError(f"{file} is there already: --overwrite replaces it.")
    result = run / "result.json"
    metadata = {
        "hvae_jax": hvae_jax.__version__,
        "format": str(FORMAT),
        "settings": json.dumps(settings.to_json(experiment)),
        "event": json.dumps(list(an_example(experiment).x.shape[1:])),
        "progress": json.dumps(vars(progress)),
    }
    if result.exists():
        metadata["result"] = result.read_text()
    arrays = {name: np.ascontiguousarray(leaf) for name, leaf in _named(variables).items()}
    partial = file.with_name(file.name + ".partial")
    try:
        save_file(arrays, partial, metadata)
    except SafetensorError as error:
        raise OSError(f"{file} cannot be written ({error}).") from error
    partial.replace(file)
    return file


def said_of_import(result: dict[str, Any], folder: Path) -> str:
    """Where the weights of a folder came from, what they became, and what is known of them."""
    source = result["imported"]
    which = ", ".join([source["code"]] + [f"{name} {source[name]}" for name in _OPTIONS if name in source])
    origin = f"{source['file']} ({which}; {source['kind']}, SHA-256 {source['sha256'][:16]})"
    lines = [f"{folder}: {result['parameters']:,} parameters of {origin}"]
    if source["code"] != "hvae_jax":
        lines.append(f"likelihood {source['likelihood']}; data {source['data']}")
        lines.append("what no weight tells: " + ", ".join(f"{name} {value}" for name, value in source["model"].items()))
    if "elbo" not in result:
        lines.append(f"Nothing has been measured here yet: `hvae evaluate {folder}` does.")
    return "\n".join(lines)


_OPTIONS = ("preset", "entry", "enc_blocks", "dec_blocks", "structure")
_TOLD = ("no_bias_above", "log_std", "beta", "residual_posterior")
"""Of a model, what no weight tells; beside its likelihood."""


def _record(code: str, path: Path, file: ArrayFile) -> dict[str, Any]:
    """What a result says of a file that was read."""
    record = {"code": code, "file": path.name, "kind": file.kind, "sha256": file.sha256}
    return record if file.entry is None else record | {"entry": file.entry}


def _check_free(folder: Path, overwrite: bool) -> None:
    """Raises ValueError for a folder that holds a run, unless it may be deleted."""
    if not overwrite and any((folder / name).exists() for name in run_folder.CONTENTS):
        raise ValueError(f"{folder} holds a run already. --overwrite replaces it, --folder takes another folder.")


def _data(preset: Preset, name: str, data: str | None, directory: str | None, side: int) -> Data:
    """The data set of a preset, or another in its place, prepared as the preset's."""
    chosen = data or preset.data
    if chosen is None:
        raise ValueError(
            f"The images of preset {name} are no data set with a name here: give a folder of pictures or an .npz with "
            "--data. It is read when something is measured."
        )
    check_name(chosen)
    is_folder = data is not None and not data.endswith(".npz") and ("/" in data or Path(data).is_dir())
    size = side if is_folder or chosen.startswith("tfds:") else None
    binarise: Any = preset.binarise
    return Data(chosen, directory, binarise=binarise, bits=preset.bits, size=size)


def _named(tree: Any) -> dict[str, Any]:
    """Leaves by their paths, "params/stem/kernel"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _template(model: nn.Module, event: tuple[int, ...]) -> Any:
    """Shapes and dtypes of a model's variables; nothing is computed."""
    x, y = jnp.zeros((1, *event)), jnp.zeros(1, jnp.int32) if model.classes else None
    key = jax.random.key(0)
    return jax.eval_shape(lambda: model.init(key, x, key, y=y))


def _fitting(path: Path, model: nn.Module, event: tuple[int, ...], arrays: Any) -> Any:
    """The variables of a model, from arrays by their paths. Raises ValueError that names each that does not fit."""
    template = _template(model, event)
    wanted = _named(template)
    problems = [f"{name} is missing" for name in wanted if name not in arrays]
    problems += [f"{name} is not expected" for name in arrays if name not in wanted]
    problems += [
        f"{name} is {arrays[name].dtype} {arrays[name].shape}, not {leaf.dtype} {leaf.shape}"
        for name, leaf in wanted.items()
        if name in arrays and (arrays[name].shape, arrays[name].dtype) != (leaf.shape, leaf.dtype)
    ]
    if problems:
        raise ValueError(f"{path} does not fit its settings: {'; '.join(problems)}.")
    return jax.tree.unflatten(jax.tree.structure(template), [jnp.asarray(arrays[name]) for name in wanted])


def _write_run(
    folder: Path, experiment: Experiment, variables: Any, progress: Progress, result: dict[str, Any], overwrite: bool
) -> None:
    """A run at step 0 whose best variables these are; `result.json` last."""
    model: Any = experiment.model
    optimiser, ema = experiment.optimiser.build(), experiment.training.ema is not None
    state = state_from(variables, experiment.objective, optimiser, ema)
    run_folder.check(folder, experiment, resume=False, overwrite=True)
    run_folder.check_space(folder, state, 1)
    if overwrite:
        run_folder.clear(folder)
    checkpoints = Checkpoints(folder / "checkpoints")
    try:
        checkpoints.save(0, state, variables, progress)
        checkpoints.wait()
    finally:
        checkpoints.close()
    settings.save(folder / "settings.json", experiment)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    source = result["imported"] | {"likelihood": str(model.likelihood), "data": experiment.data.name}
    known = {"parameters": parameters, "versions": doctor.versions()}
    settings.write_whole(folder / "result.json", settings.dumps(known | result | {"imported": source}))
