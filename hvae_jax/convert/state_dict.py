"""Reading of state dicts, arrays by the names of a public code, as variables of our models.

A converter writes a table {public name: `Entry`} with the path and the axes of each array. `to_variables` reads a state
dict by that table, and raises one error that names the arrays that do not fit.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hvae_jax.convert.casts import cast_weights
from hvae_jax.convert.formats import FLOATS
from hvae_jax.models import HVAE
from hvae_jax.runtime.trees import leaves_by_path

Shape = tuple[int, ...]

# `Entry.axes` of PyTorch's layers
CONV = (2, 3, 1, 0)  # [outputs, inputs, height, width] -> [height, width, inputs, outputs]
TRANSPOSED_CONV = (2, 3, 0, 1)  # [inputs, outputs, height, width] -> [height, width, inputs, outputs]
LINEAR = (1, 0)  # [outputs, inputs] -> [inputs, outputs]


class MisfitError(ValueError):
    """Arrays that do not fit a model: they are of another code, another configuration, or not whole."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where one public array goes, and how its axes are rearranged.

    The array is reshaped to `unfold`, transposed by `axes` and reshaped to our shape, which has as many elements. Most
    arrays need `axes` alone.

    Attributes:
      path: path of our leaf, "params/stem/kernel".
      axes: the public axes in our order; None keeps the order.
      shape: shape of the public array; None derives it from ours and `axes`.
      unfold: shape of the public array with its flattened axes written out, such as (outputs, C, H, W) for a linear
        layer that reads a flattened map; None if no axes are flattened.
      at: index of the block, for leaves that stack the blocks of a stage along their first axis; None for others.
      ones: number of axes of length 1 behind those of ours, in the public array.

    Example:
        >>> from hvae_jax import convert
        >>> entry = convert.Entry("params/dense/kernel", axes=(1, 0))  # PyTorch has `[outputs, inputs]`
        >>> entry.carry(np.ones((2, 3)), (3, 2)).shape
        (3, 2)
    """

    path: str
    axes: tuple[int, ...] | None = None
    shape: Shape | None = None
    unfold: Shape | None = None
    at: int | None = None
    ones: int = 0

    def expected(self, ours: Shape) -> Shape:
        """The shape of the public array, given the shape of our leaf."""
        if self.shape is not None:
            return self.shape
        ours = ours if self.at is None else ours[1:]
        ours = ours if self.axes is None else tuple(ours[self.axes.index(i)] for i in range(len(ours)))
        return ours + (1,) * self.ones

    def carry(self, value: np.ndarray, ours: Shape) -> np.ndarray:
        """The public array in the layout of our leaf, or of the one block of it that `at` names."""
        ours = ours if self.at is None else ours[1:]
        value = value.reshape(value.shape[: value.ndim - self.ones])  # `axes` are those of the others
        value = value if self.unfold is None else value.reshape(self.unfold)
        return (value if self.axes is None else value.transpose(self.axes)).reshape(ours)


Entries = Iterator[tuple[str, Entry]]  # (public name, entry) of each array


def template_of(model: HVAE, event: Shape | None = None) -> Any:
    """Shapes and dtypes of a model's variables; nothing is computed.

    Args:
      event: shape of one x; None takes `model.image`.
    """
    event = event or model.image
    assert event is not None
    # an abstract x: the shape may come from a file, and take any amount of memory
    x, y = jax.ShapeDtypeStruct((1, *event), jnp.float32), jnp.zeros(1, jnp.int32) if model.classes else None
    return jax.eval_shape(lambda key, x: model.init(key, x, key, y=y), jax.random.key(0), x)


def to_variables(
    state_dict: Mapping[str, Any], table: Mapping[str, Entry], template: Any, ignored: Iterable[str] = ()
) -> dict[str, Any]:
    """Our variables, filled from a state dict; dtypes are kept where JAX allows them, else as `cast_weights` casts.

    Args:
      state_dict: arrays, or anything NumPy makes an array of, by their public names.
      table: the entry of every public array.
      template: our variables or their shapes, as `template_of` gives them.
      ignored: last parts of the names of arrays that are not weights, such as "num_batches_tracked".

    Raises ValueError, naming arrays that are missing, not expected or of another shape, if there are any; and as
    `cast_weights` does, for arrays that are no floats or beyond the range of floats here.

    Example:
        >>> from hvae_jax import convert
        >>> template = {"params": {"kernel": jax.ShapeDtypeStruct((3, 2), np.float32)}}
        >>> table = {"weight": convert.Entry("params/kernel", axes=(1, 0))}
        >>> variables = convert.to_variables({"weight": np.ones((2, 3), np.float32)}, table, template)
        >>> variables["params"]["kernel"].shape
        (3, 2)
    """
    shapes = {path: tuple(leaf.shape) for path, leaf in leaves_by_path(template).items()}
    names: dict[str, list[str]] = {path: [] for path in shapes}
    for name, entry in table.items():
        names.setdefault(entry.path, []).append(name)
    odd = [path for path, found in names.items() if not _complete(shapes.get(path), [table[name] for name in found])]
    if odd:
        raise ValueError(f"The table and our variables differ in {sorted(odd)}.")
    if misfits := Misfits.of(state_dict, table, template, ignored).listed():
        raise MisfitError(f"The state dict does not fit. {misfits} Is it of this code, in this configuration?")
    filled = []
    for path, ours in shapes.items():
        given = {name: np.asarray(state_dict[name]) for name in names[path]}
        dtype = _common_dtype(given)
        blocks = {
            table[name].at or 0: table[name].carry(cast_weights(name, value, dtype), ours)
            for name, value in given.items()
        }
        stacked = table[names[path][0]].at is not None
        filled.append(jnp.asarray(np.stack([blocks[i] for i in sorted(blocks)]) if stacked else blocks[0]))
    return jax.tree.unflatten(jax.tree.structure(template), filled)


def _common_dtype(arrays: Mapping[str, np.ndarray]) -> np.dtype:
    """The dtype of the leaf that arrays are stacked in: theirs, as JAX promotes and allows it; float32 for integers."""
    kinds = {array.dtype.newbyteorder("=") for array in arrays.values()}
    floats = [jax.dtypes.canonicalize_dtype(kind) for kind in kinds if kind in FLOATS]
    return np.dtype(jnp.result_type(*floats) if floats else jnp.float32)


@dataclasses.dataclass(frozen=True)
class Misfits:
    """The arrays of a state dict that do not fit a table.

    Attributes:
      missing: shapes of arrays that are wanted and not there, by name.
      unexpected: shapes of arrays that are there and not wanted, by name.
      misshapen: the shape that is there and the one that is wanted, by name.
    """

    missing: Mapping[str, Shape]
    unexpected: Mapping[str, Shape]
    misshapen: Mapping[str, tuple[Shape, Shape]]

    @classmethod
    def of(
        cls, state_dict: Mapping[str, Any], table: Mapping[str, Entry], template: Any, ignored: Iterable[str] = ()
    ) -> "Misfits":
        """Compare names and shapes. The arguments are those of `to_variables`."""
        ours, skipped = {path: tuple(leaf.shape) for path, leaf in leaves_by_path(template).items()}, set(ignored)
        wanted = {name: entry.expected(ours[entry.path]) for name, entry in table.items()}
        found = {name: tuple(np.shape(value)) for name, value in state_dict.items()}
        return cls(
            {name: shape for name, shape in wanted.items() if name not in found},
            {n: shape for n, shape in found.items() if n not in wanted and n.rpartition(".")[2] not in skipped},
            {name: (found[name], shape) for name, shape in wanted.items() if found.get(name, shape) != shape},
        )

    def outside(self, prefixes: Iterable[str]) -> "Misfits":
        """The misfits whose names begin with none of the prefixes."""
        known = tuple(prefixes)
        return Misfits(*({n: v for n, v in part.items() if not n.startswith(known)} for part in vars(self).values()))

    def listed(self) -> str:
        """A sentence with the misfits, of each kind the first dozen and the number of others; "" if there are none."""
        parts = {
            "missing": [f"{name} {shape}" for name, shape in self.missing.items()],
            "not expected": list(self.unexpected),
            "of another shape": [f"{name} is {is_}, not {wanted}" for name, (is_, wanted) in self.misshapen.items()],
        }
        text = "; ".join(f"{what}: {few(names)}" for what, names in parts.items() if names)
        return f"{text[0].upper()}{text[1:]}." if text else ""


def _complete(ours: Shape | None, entries: list[Entry]) -> bool:
    """Whether the entries fill one leaf of ours: a single array, or one array for each block that it stacks."""
    if ours is None or not entries:
        return False
    if entries[0].at is None:
        return len(entries) == 1
    return sorted(-1 if entry.at is None else entry.at for entry in entries) == list(range(ours[0]))


_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_PREFIXES = ("module.", "model.", "params.")


def unwrapped(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict under the names that the code's own model has.

    Taken off are the names of `torch.compile`, of FSDP and of checkpointed layers wherever they stand; and, as long as
    all names begin with one of them, the "module." of DataParallel, the "model." of Lightning and of other trainers,
    and the "params." of Flax.

    Raises ValueError if two arrays would have one name.
    """
    names = {name: _WRAPPERS.sub("", name) for name in state_dict}
    while prefix := next((p for p in _PREFIXES if names and all(n.startswith(p) for n in names.values())), None):
        names = {name: inner.removeprefix(prefix) for name, inner in names.items()}
    if len(set(names.values())) < len(names):
        inner = list(names.values())
        twice = next(name for name in inner if inner.count(name) > 1)
        both = " and ".join(name for name, one in names.items() if one == twice)
        raise ValueError(f"The state dict has {twice} twice, as {both}.")
    return {inner: state_dict[name] for name, inner in names.items()}


def check_unread(state_dict: Mapping[str, Any], name: str, wanted: Shape, settings: str) -> None:
    """Check the shape of an array that is not read, such as a top prior that is N(0, I).

    In a model whose latents are all maps, no other array depends on the image size.

    Args:
      wanted: shape of the array in the model.
      settings: the settings that it follows from, such as "image=(28, 28)".
    Raises ValueError with both shapes and the settings.
    """
    found = tuple(np.shape(state_dict[name])) if name in state_dict else wanted
    if found != wanted:
        raise MisfitError(
            f"The state dict's {name} is {found}, but with {settings} it would be {wanted}. Give the ones that it was "
            "made with."
        )


def few(names: Sequence[str], most: int = 12) -> str:
    """Names separated by commas; of more than `most` the first ones, and the number of others."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def enumerated(names: Sequence[str]) -> str:
    """Names separated by commas; if there are more than three, the first, the last and their number."""
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} to {names[-1]} ({len(names)} of them)"


def count(state_dict: Mapping[str, Any], prefix: str) -> int:
    """Number of modules "prefix.0", "prefix.1", ...: 1 + the largest index, 0 if there are none."""
    numbers = [
        name.removeprefix(prefix + ".").partition(".")[0] for name in state_dict if name.startswith(prefix + ".")
    ]
    return max((int(number) + 1 for number in numbers if number.isdecimal()), default=0)


def check_numbering(state_dict: Mapping[str, Any], *prefixes: str) -> None:
    """Check that the modules "prefix.0", "prefix.1", ... have consecutive indices.

    Raises ValueError naming every module that is left out.
    """
    holes = [
        f"{prefix}.{i}"
        for prefix in prefixes
        for i in range(count(state_dict, prefix))
        if not any(name == f"{prefix}.{i}" or name.startswith(f"{prefix}.{i}.") for name in state_dict)
    ]
    if holes:
        raise MisfitError(f"The state dict is not whole: {enumerated(holes)} missing.")


def size(state_dict: Mapping[str, Any], name: str, axis: int = 0) -> int:
    """Length of one axis of a public array, from which a width is read.

    Raises ValueError if there is no such array or axis.
    """
    shape = tuple(np.shape(state_dict[name])) if name in state_dict else None
    if shape is None or len(shape) <= axis:
        was = "there is none" if shape is None else f"its shape is {shape}"
        raise MisfitError(
            f"The state dict should have {name} with {axis + 1} axes or more, but {was}.{_hint(state_dict)}"
        )
    return shape[axis]


def _hint(state_dict: Mapping[str, Any]) -> str:
    """Advice for a checkpoint, or for names of which most begin with "module." or the like; "" for neither."""
    nested = [name for name, value in state_dict.items() if isinstance(value, Mapping)]
    if nested:
        return f" Is it a checkpoint that holds one? Then take one of its {', '.join(map(repr, nested))}."
    names = list(state_dict)
    for prefix in sorted({name.partition(".")[0] for name in names}):
        if 2 * sum(name.startswith(f"{prefix}.") for name in names) > len(names) and f"{prefix}." in _PREFIXES:
            others = [name for name in names if not name.startswith(f"{prefix}.")]
            return f' Most of its names begin with "{prefix}.", but {enumerated(others)} do not.'
    return ""
