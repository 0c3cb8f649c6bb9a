"""Reading a state dict: arrays by the names that a public code gave them, into our variables.

A converter writes a table, {public name: `Entry`}, that says for each array where it goes and how its axes lie there;
`to_variables` reads a state dict by that table and, where it does not fit, says of every name at once what is wrong.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
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
    if told := Misfits.of(state_dict, table, template, ignored).told():
        raise ValueError(f"The state dict does not fit. {told} Is it of this code, in this configuration?")
    filled = []
    for path, ours in shapes.items():
        parts = {table[name].at or 0: table[name].carry(np.asarray(state_dict[name]), ours) for name in names[path]}
        stacked = table[names[path][0]].at is not None
        filled.append(jnp.asarray(np.stack([parts[i] for i in sorted(parts)]) if stacked else parts[0]))
    return jax.tree.unflatten(structure, filled)


Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Misfits:
    """What of a state dict does not fit a table.

    Attributes:
      missing: arrays that should be there, with their shapes.
      unexpected: those that should not, likewise.
      misshapen: those of another shape, with theirs and the one they should have.
    """

    missing: Mapping[str, Shape]
    unexpected: Mapping[str, Shape]
    misshapen: Mapping[str, tuple[Shape, Shape]]

    @classmethod
    def of(
        cls, state_dict: Mapping[str, Any], table: Mapping[str, Entry], template: Any, ignored: Iterable[str] = ()
    ) -> "Misfits":
        """Arguments as `to_variables` takes them."""
        leaves, skipped = jax.tree_util.tree_leaves_with_path(template), set(ignored)
        ours = {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}
        wanted = {name: entry.expected(ours[entry.path]) for name, entry in table.items()}
        found = {name: tuple(np.shape(value)) for name, value in state_dict.items()}
        return cls(
            {name: shape for name, shape in wanted.items() if name not in found},
            {n: shape for n, shape in found.items() if n not in wanted and n.rpartition(".")[2] not in skipped},
            {name: (found[name], shape) for name, shape in wanted.items() if found.get(name, shape) != shape},
        )

    def outside(self, prefixes: Iterable[str]) -> "Misfits":
        """Those whose names begin otherwise."""
        known = tuple(prefixes)
        return Misfits(*({n: v for n, v in part.items() if not n.startswith(known)} for part in vars(self).values()))

    def told(self) -> str:
        """All of it as sentences; "" where all fits."""
        parts = {
            "missing": [f"{name} {shape}" for name, shape in self.missing.items()],
            "not expected": list(self.unexpected),
            "of another shape": [f"{name} is {is_}, not {wanted}" for name, (is_, wanted) in self.misshapen.items()],
        }
        text = "; ".join(f"{what}: {', '.join(names)}" for what, names in parts.items() if names)
        return f"{text[0].upper()}{text[1:]}." if text else ""


def enumerated(names: Sequence[str]) -> str:
    """Names in a row: all of up to three, the first and the last of more."""
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} to {names[-1]} ({len(names)} of them)"


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


def check_numbering(state_dict: Mapping[str, Any], *prefixes: str) -> None:
    """Raises ValueError where modules "prefix.0", "prefix.1", ... leave numbers out, naming all that do."""
    holes = [
        f"{prefix}.{i}"
        for prefix in prefixes
        for i in range(count(state_dict, prefix))
        if not any(name == f"{prefix}.{i}" or name.startswith(f"{prefix}.{i}.") for name in state_dict)
    ]
    if holes:
        raise ValueError(f"The state dict is not whole: {enumerated(holes)} missing.")


def size(state_dict: Mapping[str, Any], name: str, axis: int = 0) -> int:
    """How long an axis of a public array is: what tells a width.

    Raises ValueError where there is no such array, or it has no such axis.
    """
    shape = tuple(np.shape(state_dict[name])) if name in state_dict else None
    if shape is None or len(shape) <= axis:
        was = "there is none" if shape is None else f"its shape is {shape}"
        raise ValueError(
            f"The state dict should have {name} with {axis + 1} axes or more, but {was}.{_hint(state_dict)}"
        )
    return shape[axis]


def _hint(state_dict: Mapping[str, Any]) -> str:
    """What a state dict that is not one may be."""
    nested = [name for name, value in state_dict.items() if isinstance(value, Mapping)]
    if nested:
        return f" Is it a checkpoint that holds one? Then take one of its {', '.join(map(repr, nested))}."
    if state_dict and all(name.startswith("module.") for name in state_dict):
        return ' Its names begin with "module.", from DataParallel: take that off.'
    return ""
