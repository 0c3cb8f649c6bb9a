"""Reading a state dict: arrays by the names that a public code gave them, into our variables.

A converter writes a table, {public name: `Entry`}, that says for each array where it goes and how its axes lie there;
`to_variables` reads a state dict by that table and, where it does not fit, says of every name at once what is wrong.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Axes of PyTorch's weights in our order: what `Entry.axes` takes.
CONV = (2, 3, 1, 0)  # [outputs, inputs, height, width] to [height, width, inputs, outputs]
TRANSPOSED_CONV = (2, 3, 0, 1)  # [inputs, outputs, height, width], likewise
LINEAR = (1, 0)  # [outputs, inputs] to [inputs, outputs]
NCHW = (0, 2, 3, 1)  # to NHWC


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where one public array goes, and how.

    It is reshaped to `unfold`, its axes are put in the order `axes`, and the result is reshaped to our shape, which
    has as many elements. Nearly always `axes` alone is needed.

    Attributes:
      path: in our variables, "params/stem/kernel".
      axes: public axes in our order; None keeps theirs.
      shape: of the public array; None where it follows from ours by `axes`.
      unfold: the public shape with axes that were flattened there written out, such as (outputs, C, H, W) for the
        linear layer that reads a flattened map; None where none were.
      at: which of the blocks that are stacked along our first axis it is of; None where none are.
    """

    path: str
    axes: tuple[int, ...] | None = None
    shape: tuple[int, ...] | None = None
    unfold: tuple[int, ...] | None = None
    at: int | None = None

    def expected(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the public array, where ours is this."""
        if self.shape is not None:
            return self.shape
        ours = ours if self.at is None else ours[1:]
        return ours if self.axes is None else tuple(ours[self.axes.index(i)] for i in range(len(ours)))

    def carry(self, value: np.ndarray, ours: tuple[int, ...]) -> np.ndarray:
        """The public array as ours, or as one block's of ours."""
        ours = ours if self.at is None else ours[1:]
        value = value if self.unfold is None else value.reshape(self.unfold)
        return (value if self.axes is None else value.transpose(self.axes)).reshape(ours)


def to_variables(
    state_dict: Mapping[str, Any], table: Mapping[str, Entry], template: Any, ignored: Iterable[str] = ()
) -> dict[str, Any]:
    """Our variables, filled from a state dict; floating point keeps its width where JAX allows it.

    Args:
      state_dict: arrays, or anything NumPy makes an array of, by their public names.
      table: for every public array, where it goes.
      template: our variables or their shapes, as `jax.eval_shape(model.init, ...)` gives them.
      ignored: last parts of names that carry nothing, "num_batches_tracked".

    Raises ValueError that names every array that is missing, not expected, or of another shape.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(template)
    shapes = {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}
    names: dict[str, list[str]] = {path: [] for path in shapes}
    for name, entry in table.items():
        names.setdefault(entry.path, []).append(name)
    odd = [path for path, found in names.items() if not _complete(shapes.get(path), [table[name] for name in found])]
    if odd:
        raise ValueError(f"The table and our variables differ in {sorted(odd)}.")

    skipped = set(ignored)
    unexpected = [name for name in state_dict if name not in table and name.rpartition(".")[2] not in skipped]
    missing = [f"{name} {table[name].expected(shapes[table[name].path])}" for name in table if name not in state_dict]
    misshapen, filled = [], []
    for path, ours in shapes.items():
        parts: dict[int, np.ndarray] = {}
        for name in names[path]:
            if name not in state_dict:
                continue
            entry, value = table[name], np.asarray(state_dict[name])
            wanted = entry.expected(ours)
            if value.shape == wanted:
                parts[entry.at or 0] = entry.carry(value, ours)
            else:
                misshapen.append(f"{name} is {value.shape}, not {wanted}")
        if len(parts) == len(names[path]):
            stacked = table[names[path][0]].at is not None
            filled.append(jnp.asarray(np.stack([parts[i] for i in sorted(parts)]) if stacked else parts[0]))
    problems = {"missing": missing, "not expected": unexpected, "of another shape": misshapen}
    if any(problems.values()):
        told = "; ".join(f"{what}: {', '.join(which)}" for what, which in problems.items() if which)
        raise ValueError(
            f"The state dict does not fit. {told[0].upper()}{told[1:]}. Is it of this code, in this configuration?"
        )
    return jax.tree.unflatten(structure, filled)


def _complete(ours: tuple[int, ...] | None, entries: list[Entry]) -> bool:
    """Whether an array of ours, of this shape, comes from one public array, or from one for each block."""
    if ours is None or not entries:
        return False
    if entries[0].at is None:
        return len(entries) == 1
    return sorted(-1 if entry.at is None else entry.at for entry in entries) == list(range(ours[0]))


def count(state_dict: Mapping[str, Any], prefix: str) -> int:
    """How many modules "prefix.0...", "prefix.1...", ... there are: 1 + the largest number, 0 for none."""
    numbers = [
        name.removeprefix(prefix + ".").partition(".")[0] for name in state_dict if name.startswith(prefix + ".")
    ]
    return max((int(number) + 1 for number in numbers if number.isdecimal()), default=0)


def size(state_dict: Mapping[str, Any], name: str, axis: int = 0) -> int:
    """How long an axis of a public array is: what tells a width.

    Raises ValueError where there is no such array, or it has no such axis.
    """
    shape = tuple(np.shape(state_dict[name])) if name in state_dict else None
    if shape is None or len(shape) <= axis:
        was = "there is none" if shape is None else f"its shape is {shape}"
        raise ValueError(f"The state dict should have {name} with {axis + 1} axes or more, but {was}.")
    return shape[axis]
