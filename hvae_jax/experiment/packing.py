"""A trained run as a packed folder: its weights rounded, measured once more, with a card."""

import dataclasses
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import ml_dtypes
import numpy as np

from hvae_jax.experiment import box, settings
from hvae_jax.experiment.evaluation import evaluate
from hvae_jax.experiment.records import Experiment
from hvae_jax.experiment.reopen import open_stored
from hvae_jax.experiment.tables import data_record
from hvae_jax.runtime.files import replacing
from hvae_jax.runtime.trees import leaves_by_path

MOST_BYTES = 1_500_000
"""Largest size of the weights of a model in the box."""


def pack(
    run: Path,
    name: str,
    into: Path | None = None,
    *,
    weights: Literal["float32", "bfloat16"] = "bfloat16",
    recipe: str = "",
    commit: str = "",
    licence: str = "Apache-2.0",
    draws: int | None = None,
    most_bytes: int = MOST_BYTES,
    overwrite: bool = False,
    modules: Sequence[str] = (),
) -> Path:
    """Writes a packed folder of a run's best variables: into the box, or into another folder.

    Everything is written beside the folder and then renamed. Parameters are stored as float32 or rounded to bfloat16 (8
    bits of precision: by 2^-9 of each number at most); batch statistics stay float32. The numbers on the card are
    measured with the weights as they are stored.

    Args:
      run: the run folder.
      name: name of the model, and of the folder: lower-case letters, digits and underscores.
      into: folder that the packed one is made in; None takes the box.
      weights: dtype of the stored parameters.
      recipe, commit, licence: as `Card` has them.
      draws: K of the importance-weighted bound on the card; None takes the experiment's, 0 measures nothing.
      most_bytes: largest size of the weights.
      overwrite: replace a packed folder of that name.
      modules: modules beside hvae_jax that settings.json may name.
    Returns: the packed folder.
    Raises ValueError for another name, a folder that is there already, weights larger than `most_bytes` or beyond the
    range of the dtype; and as `open_run` does. Nothing is written then.
    """
    from safetensors import numpy as safetensors

    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"A model in the box is named by lower-case letters, digits and _, and not {name!r}.")
    folder = (box.BOX if into is None else into) / name
    if folder.exists() and not overwrite:
        raise ValueError(f"{folder} is there already: overwrite=True replaces it.")
    stored = open_stored(run, modules)
    kept = leaves_by_path(jax.device_get(stored.variables))
    arrays = {path: _rounded(path, leaf, weights) for path, leaf in kept.items()}
    size = sum(array.nbytes for array in arrays.values())
    if size > most_bytes:
        raise ValueError(
            f"The weights of {run} take {size:,} bytes as {weights}, but at most {most_bytes:,} are allowed. Take a "
            f"smaller model{', or bfloat16' if weights == 'float32' else ''}."
        )
    whole = jax.tree.unflatten(
        jax.tree.structure(stored.variables),
        [array.astype(leaf.dtype) for array, leaf in zip(arrays.values(), kept.values(), strict=True)],
    )
    k = stored.experiment.evaluation.draws if draws is None else draws
    known = _measured(stored.experiment, whole, k) if k else {}
    with replacing(folder) as partial:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        # save_file makes a file that its owner alone can read
        (partial / box.WEIGHTS).write_bytes(safetensors.save(arrays))
        settings.save(partial / box.SETTINGS, stored.experiment)
        card = dataclasses.replace(
            stored.card,
            name=name,
            recipe=recipe,
            commit=commit,
            licence=licence,
            weights=weights,
            sha256=box.checksum(partial / box.WEIGHTS),
            parameters=sum(leaf.size for path, leaf in kept.items() if path.startswith("params/")),
            **known,
        )
        box.write_card(partial, card)
        if folder.exists():
            shutil.rmtree(folder)
    return folder


def _rounded(path: str, leaf: Any, weights: str) -> np.ndarray:
    """A parameter in the dtype of the file. Raises ValueError where a finite number would become infinite."""
    array = np.asarray(leaf, order="C")
    if weights == "float32" or array.dtype != np.float32 or not path.startswith("params/"):
        return array
    with np.errstate(over="ignore"):
        rounded = array.astype(ml_dtypes.bfloat16)
    if (np.isfinite(array) & ~np.isfinite(rounded.astype(np.float32))).any():
        raise ValueError(f"{path} holds numbers that bfloat16 does not have: keep float32.")
    return rounded


def _measured(experiment: Experiment, variables: Any, draws: int) -> dict[str, Any]:
    """`data` and `numbers` of the card, on the last split of the run's data."""
    dataset, wanted = experiment.data.load(), experiment.evaluation
    split = list(dataset.splits)[-1]
    key = jax.random.fold_in(jax.random.key(experiment.seed), 1)
    found = evaluate(experiment.model, variables, dataset, key, {split: draws}, wanted.chunk, wanted.size)
    numbers = {name: found[name][split] for name in ("elbo", "iw_bound", "k")}
    numbers |= {"split": split, "examples": len(dataset.splits[split])}
    return {"data": data_record(dataset), "numbers": json.loads(settings.dumps(numbers))}
