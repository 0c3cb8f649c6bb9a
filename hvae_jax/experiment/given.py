"""Values of levels that a user gives, from a file of arrays or a folder of pictures: `hvae sample --given y=FILE`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hvae_jax.data.images import BadImageError, read_image
from hvae_jax.data.layout import SUFFIXES
from hvae_jax.likelihoods import Likelihood
from hvae_jax.runtime.npz import array_headers, check_sizes, entry_names, read_arrays
from hvae_jax.trace import Model


def given_levels(model: Model, variables: Any, entries: Sequence[str], most: int) -> dict[str, np.ndarray | None]:
    """The value of each level by its name, top first, None where not given, from entries "NAME=PATH".

    A file is an .npz with one array, or with one under the name of the level or "x". A folder is of pictures, read in
    the order of their names. Of both the first `most` examples are taken.

    Raises ValueError, with what would fit, for an entry of another form, an unknown level, a level given twice, arrays
    of another shape or of values that an observed level cannot take, or different numbers of examples; and
    FileNotFoundError for a path that does not exist.
    """
    shapes = _shapes(model, variables)
    found: dict[str, np.ndarray] = {}
    for entry in entries:
        name, separator, path = entry.partition("=")
        if not separator or not path:
            raise ValueError(f"--given {entry}: it has to be LEVEL=FILE.npz, or LEVEL=FOLDER, such as y=small.npz.")
        if name not in shapes:
            raise ValueError(f"--given {entry}: the model has no level {name!r}; it has {', '.join(shapes)}.")
        if name in found:
            raise ValueError(f"--given {entry}: level {name} was given before.")
        values = _read(Path(path).expanduser(), name, shapes[name])[:most]
        if not len(values) or values.shape[1:] != shapes[name]:
            raise ValueError(
                f"--given {entry}: it holds {values.shape}, but level {name} is {shapes[name]} for each example."
            )
        if not np.isfinite(values).all():
            raise ValueError(f"--given {entry}: it holds numbers that are not finite.")
        if name in model.observed:
            _check_observed(values, name, model.observed[name], f"--given {entry}")
        found[name] = values
    counts = {name: len(values) for name, values in found.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"--given: the levels have different numbers of examples, {counts}.")
    return {name: found.get(name) for name in shapes}


def _check_observed(values: np.ndarray, name: str, family: Likelihood, entry: str) -> None:
    """Raises ValueError for values that an observed level does not take: the model is trained, the values are wrong."""
    low, high = family.value_range or (-np.inf, np.inf)
    whole = values == np.round(values) if family.discrete else np.isfinite(values)
    wrong = values[~whole | (values < low) | (values > high)]
    if wrong.size:
        kind = "whole numbers" if family.discrete else "numbers"
        allowed = kind if family.value_range is None else f"the {kind} {low:g}..{high:g}"
        raise ValueError(
            f"{entry} holds {wrong[0]:g} ({wrong.size:,} such values), but level {name} takes {allowed}, as trained."
        )
    family.check(values, entry)


def _shapes(model: Model, variables: Any) -> Mapping[str, tuple[int, ...]]:
    """Shape of one latent by level, top first, from shapes alone. Raises ValueError for a model of classes."""
    if model.classes:
        raise ValueError("--given: a model of classes draws all of its levels. Leave --given out.")

    def latents(variables: Any) -> Any:
        return model.apply(variables, jax.random.key(0), 1, method="decode").unstack()

    return {level.name: tuple(level.z.shape[1:]) for level in jax.eval_shape(latents, variables)}


def _read(path: Path, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The array of a file, or the pictures of a folder."""
    if path.is_dir():
        return _pictures(path, name, shape)
    if not path.exists():
        raise FileNotFoundError(f"--given {name}={path}: there is no such file or folder.")
    if path.suffix != ".npz":
        raise ValueError(f"--given {name}={path}: a file has to be an .npz, as np.savez writes it.")
    names = entry_names(path)
    wanted = next((one for one in (name, "x") if one in names), names[0] if len(names) == 1 else None)
    if wanted is None:
        raise ValueError(f"--given {name}={path}: it holds {names}; name the array {name!r}.")
    headers = array_headers(path, [wanted])
    check_sizes(path, headers)
    return next(array for _, array in read_arrays(path, headers))


def _pictures(folder: Path, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Pictures of one size as `[N, H, W, C]`, 0..255."""
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise ValueError(f"--given {name}={folder}: level {name} is {shape}, which is no picture. Give an .npz.")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"--given {name}={folder}: no file in it ends in {', '.join(sorted(SUFFIXES))}.")
    pictures = []
    for path in paths:
        try:
            pictures.append(read_image(str(path), shape[2]))
        except BadImageError as error:
            raise ValueError(f"--given {name}={folder}: {path.name} {error}.") from error
        if pictures[-1].shape != shape:
            raise ValueError(
                f"--given {name}={folder}: {path.name} is {pictures[-1].shape}, but level {name} is {shape}: resize it."
            )
    return np.stack(pictures)
