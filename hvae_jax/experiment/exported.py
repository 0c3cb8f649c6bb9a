"""Files of `hvae export`, read: settings, shape of one x, progress, results and variables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hvae_jax
from hvae_jax.convert.array_files import ArrayFile
from hvae_jax.convert.state_dict import few, template_of
from hvae_jax.experiment import settings
from hvae_jax.experiment.records import Experiment
from hvae_jax.experiment.schema import check_result, record_of, shown
from hvae_jax.models import HVAE
from hvae_jax.runtime.errors import first_line
from hvae_jax.runtime.json_files import parse_json
from hvae_jax.runtime.trees import leaves_by_path
from hvae_jax.training.checkpoint import Progress

FORMAT = 2  # version of exported files; 1 named modules of an earlier layout


def is_exported(file: ArrayFile) -> bool:
    """Whether `export` wrote the file."""
    return {"hvae_jax", "settings"} <= set(file.metadata)


def described(
    path: Path, metadata: Mapping[str, str], modules: Sequence[str]
) -> tuple[Experiment, tuple[int, ...], Progress, dict[str, Any]]:
    """Settings, shape of one x, progress and results in the metadata of an export.

    Raises ValueError for another format, and, naming the entry and the place in it, for whatever `export` would not
    have written.
    """
    if metadata.get("format") != str(FORMAT):
        raise ValueError(
            f"{path} was written in format {metadata.get('format')!s:.20} by hvae_jax {metadata['hvae_jax']:.20}; this "
            f"one, {hvae_jax.__version__}, reads format {FORMAT}."
        )
    try:
        parsed = {name: parse_json(metadata.get(name, "{}"), name) for name in ("settings", "progress", "result")}
        event = parse_json(metadata.get("event", "[]"), "event")
        experiment = settings.from_json(parsed["settings"], tuple(modules))
        if not isinstance(experiment, Experiment):
            raise ValueError(f"settings describe a {type(experiment).__name__}, not an Experiment.")
        whole = isinstance(event, list) and event and all(type(size) is int and 0 < size < 2**31 for size in event)
        if not whole or tuple(event) != (experiment.model.image or tuple(event)):
            like = list(experiment.model.image or (28, 28, 1))
            raise ValueError(f"event is {shown(event)}, but it has to be the shape of one x, such as {like}.")
        if not isinstance(parsed["progress"], dict):
            raise ValueError(f"progress is {shown(parsed['progress'])}, but it has to be an object.")
        progress = record_of(Progress, parsed["progress"], "progress")
        result = check_result(parsed["result"], "result")
    except ValueError as error:
        raise ValueError(f"{path}: its metadata cannot be read: {error}") from error
    return experiment, tuple(event), progress, result


def fitting(path: Path, model: HVAE, event: tuple[int, ...], arrays: Mapping[str, np.ndarray]) -> Any:
    """A model's variables from arrays by path. Raises ValueError if arrays do not fit, naming them."""
    try:
        template = template_of(model, event)
    except Exception as error:  # whatever layers trip over whose sizes do not fit each other
        raise ValueError(f"{path}: no model can be made of its settings ({first_line(error)}).") from error
    wanted = leaves_by_path(template)
    problems = [f"{name} is missing" for name in wanted if name not in arrays]
    problems += [f"{name} is not expected" for name in arrays if name not in wanted]
    problems += [
        f"{name} is {arrays[name].dtype} {arrays[name].shape}, not {leaf.dtype} {leaf.shape}"
        for name, leaf in wanted.items()
        if name in arrays and (arrays[name].shape, arrays[name].dtype) != (leaf.shape, leaf.dtype)
    ]
    if problems:
        raise ValueError(f"{path} does not fit its settings: {few(problems)}.")
    return jax.tree.unflatten(jax.tree.structure(template), [jnp.asarray(arrays[name]) for name in wanted])
