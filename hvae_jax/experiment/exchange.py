"""`hvae import` and `hvae export`: run folders from published weights, and a run as one file."""

import dataclasses
import json
import operator
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

import hvae_jax
from hvae_jax.convert.array_files import ArrayFile, WhichWeights, read_arrays
from hvae_jax.convert.casts import cast_weights
from hvae_jax.convert.codes import CONVERTERS, converter_of
from hvae_jax.convert.converter import Binarise, Converter, Preset
from hvae_jax.convert.nearest import likely_cause
from hvae_jax.convert.state_dict import MisfitError, template_of
from hvae_jax.data.catalogue import NAMES, check_name
from hvae_jax.data.spec import Data
from hvae_jax.experiment import contents, settings
from hvae_jax.experiment import folder as run_folder
from hvae_jax.experiment.exported import FORMAT, described, fitting, is_exported
from hvae_jax.experiment.records import Evaluation, Experiment
from hvae_jax.experiment.reopen import open_stored, outputs
from hvae_jax.objectives import Objective
from hvae_jax.runtime import doctor
from hvae_jax.runtime.compilation import jit_once
from hvae_jax.runtime.files import replacing
from hvae_jax.runtime.trees import leaves_by_path
from hvae_jax.training.checkpoint import Checkpoints, Progress
from hvae_jax.training.lock import FolderLock
from hvae_jax.training.stages import optimiser_in
from hvae_jax.training.state import own_parameters, state_from

Options = TypeVar("Options")


def import_published(
    converter: Converter[Options],
    path: Path,
    preset: str | None = None,
    options: Options | None = None,
    *,
    folder: Path | None = None,
    overwrite: bool = False,
    weights: WhichWeights | None = None,
    data: str | None = None,
    data_directory: str | None = None,
    binarise: Binarise | None = None,
) -> Path:
    """Make a run folder from published weights; nothing is evaluated.

    Args:
      converter: the code that the weights are of.
      path: the file.
      preset: name of the configuration, one of `converter.presets`; None reads it off the file, if the code allows it.
      options: settings that differ from the preset's or that weights do not determine; None gives none.
      folder: the run folder; None takes runs/CODE_PRESET.
      overwrite: delete what an earlier run left in the folder.
      weights: averaged or plain weights, as `read_arrays` takes them.
      data, data_directory, binarise: `name`, `directory` and `binarise` of the run's `Data`; None takes the preset's.

    Returns: the run folder.

    Raises ValueError if the preset or data set is unknown, the folder holds a run, the weights are of another code
    (naming the command that takes them), arrays do not fit (naming the preset that they fit or the nearest one, and
    arrays), or numbers are beyond the range of the model's floats, as `cast_weights` says; FileNotFoundError,
    ImportError and ValueError as `read_arrays` does; OSError if the folder cannot be written.
    """
    known, options = converter.preset(preset), converter.options() if options is None else options
    name = converter.code if preset is None else f"{converter.code}_{preset}"
    folder = folder or Path("runs") / name
    _check_free(folder, overwrite)
    source = _data(known, data, data_directory, binarise)
    file = read_arrays(path, weights)
    _check_code(converter, path, file)
    try:
        model, variables = converter.read(file.arrays, known, options)
    except MisfitError as error:
        cause = ": "
        if preset is not None:
            cause = f" does not fit the preset {preset}. {likely_cause(converter, preset, file.arrays, options)}\n"
        raise ValueError(f"{path}{cause}{error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    _warn_not_finite(path, variables)
    variables = _in_our_dtypes(path, variables, template_of(model))
    assert model.image is not None
    side = model.image[0]
    if source.name not in NAMES and not source.name.endswith(".npz"):  # a folder of pictures, or "tfds:NAME"
        source = dataclasses.replace(source, size=side)
    # about 2^16 pixels in memory at once, and one draw: the plain ELBO
    evaluation = Evaluation(draws=1, other_draws=1, chunk=1, size=max(1, 2**16 // side**2))
    record = _record(converter.code, path, file) | ({} if preset is None else {"preset": preset})
    if given := _given(options):
        record["options"] = given
    record["model"] = {field: _plain(operator.attrgetter(field)(model)) for field in converter.untold}
    experiment = Experiment(name, model, source, evaluation=evaluation)
    _write_run(folder, experiment, variables, Progress(), {"imported": record}, overwrite)
    return folder


def import_own(path: Path, folder: Path | None = None, overwrite: bool = False, modules: Sequence[str] = ()) -> Path:
    """Make a run folder from a file of `export`: the same settings, and the same variables bit for bit.

    Args:
      path: the file.
      folder: the run folder; None takes runs/NAME.
      overwrite: delete what an earlier run left in the folder.
      modules: modules beside hvae_jax that the settings may name.

    Returns: the run folder.

    Raises ValueError if `export` did not write the file (naming the command that takes it), its format is another, its
    metadata is damaged or names a run as no run may be named, or arrays do not fit the settings (naming them);
    otherwise as `import_published`.
    """
    if folder is not None:
        _check_free(folder, overwrite)
    file = read_arrays(path)
    metadata = file.metadata
    if not is_exported(file):
        raise ValueError(f"{path} was not written by `hvae export`: it has no settings. {_looks_like(path, file)}")
    experiment, event, progress, result = described(path, metadata, modules)
    folder = folder or Path("runs") / experiment.name
    _check_free(folder, overwrite)
    variables = fitting(path, experiment.model, event, file.arrays)
    result |= {"imported": _record("hvae_jax", path, file)}
    _write_run(folder, experiment, variables, progress, result, overwrite)
    return folder


def export(run: Path, file: Path | None = None, overwrite: bool = False, modules: Sequence[str] = ()) -> Path:
    """Write the best variables of a run, those that its results are of, as one .safetensors file.

    Names are paths such as "params/stem/kernel", and dtypes are kept. The metadata is text: `settings` (settings.json),
    `hvae_jax` (the version), `format`, `event` (shape of one x), `progress`, and `result` (result.json) if there is
    one.

    Args:
      run: the run folder.
      file: the file to write; None takes NAME.safetensors in the run folder (`reopen.outputs`).
      overwrite: replace an existing file.
      modules: modules beside hvae_jax that the settings may name.

    Returns: the file.

    Raises ValueError if the file exists, FileNotFoundError and ValueError as `open_run` does, OSError if it cannot be
    written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    stored = open_stored(run, modules)
    experiment, variables = stored.experiment, stored.variables
    file = file or outputs(run, f"{experiment.name}.safetensors")
    if file.is_dir():
        raise ValueError(f"{file} is a folder: give the name of a file, such as {file / 'NAME'}.safetensors.")
    if file.exists() and not overwrite:
        raise ValueError(f"{file} is there already: --overwrite replaces it.")
    result = stored.card.result
    metadata = {
        "hvae_jax": hvae_jax.__version__,
        "format": str(FORMAT),
        "settings": json.dumps(settings.to_json(experiment)),
        "event": json.dumps(list(stored.card.event)),
        "progress": json.dumps(vars(stored.progress)),
    }
    if result:
        metadata["result"] = settings.dumps(result)
    # not ascontiguousarray, which gives a scalar an axis
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in leaves_by_path(variables).items()}
    try:
        with replacing(file) as partial:
            # safetensors makes a file that nobody else may read; this one has the mode that the user's files have
            partial.touch()
            mode = partial.stat().st_mode
            save_file(arrays, partial, metadata)
            partial.chmod(mode)
    except SafetensorError as error:
        raise OSError(f"{file} cannot be written ({error}).") from error
    return file


def import_summary(result: dict[str, Any], folder: Path) -> str:
    """A text on an imported run: source of its weights, settings of its model, and whether it was evaluated."""
    source = result["imported"]
    given = {name: source[name] for name in ("preset", "entry") if name in source} | source.get("options", {})
    which = ", ".join([source["code"], *(f"{name} {value}" for name, value in given.items())])
    origin = f"{source['file']} ({which}; {source['kind']}, SHA-256 {source['sha256'][:16]})"
    lines = [f"{folder}: {result['parameters']:,} parameters of {origin}"]
    if source["code"] != "hvae_jax":
        lines.append(f"likelihood {source['likelihood']}; data {source['data']}")
        untold = ", ".join(f"{name} {value}" for name, value in source.get("model", {}).items())
        lines.append(f"what no weight tells: {untold or 'nothing'}")
    if "elbo" not in result:
        lines.append(f"Nothing has been measured here yet: `hvae evaluate {folder}` does.")
    return "\n".join(lines)


def _record(code: str, path: Path, file: ArrayFile) -> dict[str, Any]:
    """The entry of result.json that describes the file."""
    record = {"code": code, "file": path.name, "kind": file.kind, "sha256": file.sha256}
    return record if file.entry is None else record | {"entry": file.entry}


def _given(options: Any) -> dict[str, Any]:
    """The options that differ from their defaults, by name."""
    usual = type(options)()
    return {name: _plain(value) for name, value in vars(options).items() if value != getattr(usual, name)}


def _plain(value: Any) -> Any:
    """A setting as a number or text, such as "28x28x1" for a tuple and "elu" for a function."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return "x".join(map(str, value)) if all(isinstance(part, int) for part in value) else " ".join(map(str, value))
    return value.__name__ if callable(value) and hasattr(value, "__name__") else str(value)


def _check_free(folder: Path, overwrite: bool) -> None:
    """Raise ValueError if the folder holds a run, unless it may be overwritten, or anything that no run wrote."""
    contents.check_ours(folder)
    if not overwrite and contents.there(folder):
        raise ValueError(f"{folder} holds a run already. --overwrite replaces it, --folder takes another folder.")


def _check_code(converter: Converter[Any], path: Path, file: ArrayFile) -> None:
    """Raise ValueError if the code did not write the file, naming the command that takes it or what it holds."""
    if not converter.wrote(file.arrays):
        raise ValueError(f"{path} holds no weights of {converter.code}. {_looks_like(path, file)}")


def _looks_like(path: Path, file: ArrayFile) -> str:
    """A sentence that names the code that wrote a file and the command that takes it, or else what it holds."""
    found = converter_of(file.arrays)
    code = "hvae_jax" if is_exported(file) else found and found.code
    if code is not None:
        return f"It looks like weights of {code}: `hvae import {code} {path}` takes it."
    some = ", ".join(f"{name} {np.shape(array)}" for name, array in list(file.arrays.items())[:4])
    more = f" and {len(file.arrays) - 4} more" if len(file.arrays) > 4 else ""
    known = ", ".join(converter.code for converter in CONVERTERS)
    return f"It holds the arrays {some}{more}, and is of none of the codes known here: {known}."


def _data(preset: Preset | None, data: str | None, directory: str | None, binarise: Binarise | None) -> Data:
    """The given data set or else the preset's, prepared as the preset's. Raises ValueError if there is neither."""
    name = data or (None if preset is None else preset.data)
    if name is None:
        which = "Without a preset no data set is known" if preset is None else "The preset's images have no name here"
        raise ValueError(
            f"{which}: give a data set, a folder of pictures or an .npz with --data. It is read when something is "
            "measured."
        )
    check_name(name)
    if preset is None:
        return Data(name, directory, binarise)
    return Data(name, directory, binarise or preset.binarise, bits=preset.bits)


def _in_our_dtypes(path: Path, variables: Any, template: Any) -> Any:
    """The variables in the model's dtypes, float32, whatever the file has. Raises ValueError as `cast_weights` does."""
    wanted = leaves_by_path(template)
    try:
        leaves = [
            leaf if leaf.dtype == wanted[name].dtype else jnp.asarray(cast_weights(name, leaf, wanted[name].dtype))
            for name, leaf in leaves_by_path(variables).items()
        ]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return jax.tree.unflatten(jax.tree.structure(variables), leaves)


def _warn_not_finite(path: Path, variables: Any) -> None:
    """Warn if arrays hold values that are not finite."""
    odd = [name for name, leaf in leaves_by_path(variables).items() if not np.isfinite(leaf).all()]
    if odd:
        what = f"{len(odd)} arrays hold values that are" if len(odd) > 1 else "one array holds values that are"
        warnings.warn(f"{path}: {what} not finite, {odd[0]} first.", stacklevel=3)


def _own_parameters(experiment: Experiment, variables: Any) -> dict[str, Any]:
    """Fresh parameters of the objective's own, on samples of the model in place of the data; {} if it has none."""
    model, objective, key, n = experiment.model, experiment.objective, jax.random.key(experiment.seed), 64
    if type(objective).parameters is Objective.parameters:
        return {}
    y = jnp.arange(n) % model.classes if model.classes else None

    @jit_once
    def make(variables: Any) -> dict[str, Any]:
        x = model.apply(variables, key, n, y=y, method="generate")
        return own_parameters(model, objective, variables, key, x, y)

    return make(variables)


def _write_run(
    folder: Path, experiment: Experiment, variables: Any, progress: Progress, result: dict[str, Any], overwrite: bool
) -> None:
    """Write a run at step 0 with these as its best variables; `result.json` comes last."""
    training, objective = experiment.training, experiment.objective
    optimiser = optimiser_in(experiment.optimiser.build(), training.stage(0), objective)
    own = _own_parameters(experiment, variables)
    state = state_from(variables, objective, optimiser, training.ema is not None, own)
    run_folder.check(folder, experiment, resume=False, overwrite=True)
    with FolderLock(folder).held():  # refused while a run trains there, and no run begins before all is written
        run_folder.check_space(folder, state, 1)
        if overwrite:
            contents.clear(folder)
        contents.claim(folder)
        checkpoints = Checkpoints(folder / "checkpoints")
        try:
            checkpoints.save(0, state, variables, progress)
            checkpoints.wait()
        finally:
            checkpoints.close()
        settings.save(folder / "settings.json", experiment)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        source = result["imported"] | {"likelihood": str(experiment.model.likelihood), "data": experiment.data.name}
        known = {"parameters": parameters, "versions": doctor.versions()}
        settings.write_whole(folder / "result.json", settings.dumps(known | result | {"imported": source}))
