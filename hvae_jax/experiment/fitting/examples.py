"""What one example of a data set looks like, without the data."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hvae_jax.data.catalogue import check_name, check_size
from hvae_jax.data.clips import frames_of
from hvae_jax.data.count_table import COUNTS
from hvae_jax.data.dataset import Split
from hvae_jax.data.spec import Data
from hvae_jax.experiment.records import Experiment
from hvae_jax.runtime.npz import array_headers

_SHAPES = {
    "digits": (8, 8, 1),
    **dict.fromkeys(("mnist", "fashion_mnist", "binarized_mnist", "omniglot_resized"), (28, 28, 1)),
    "omniglot": (28, 28, 1),
    **dict.fromkeys(("cifar10", "svhn_cropped", "imagenet32", "downsampled_imagenet32"), (32, 32, 3)),
    **dict.fromkeys(("imagenet64", "downsampled_imagenet64", "celeb_a64"), (64, 64, 3)),
}
_COUNTS_SHAPE = (24,)


@dataclasses.dataclass(frozen=True)
class Example:
    """Shape and dtype of one example.

    Attributes:
      event: shape of one x.
      dtype: name of x's dtype.
      labelled: whether the model takes labels.
    """

    event: tuple[int, ...]
    dtype: str
    labelled: bool

    def blank(self, count: int = 1) -> Split:
        """So many examples of zeros, for functions that look at shapes."""
        y = np.zeros(count, np.int32) if self.labelled else None
        return Split(np.zeros((count, *self.event), self.dtype), y)

    def abstract(self, count: int, sharding: Any = None) -> tuple[Any, Any]:
        """x and y of so many examples, shapes and dtypes alone."""
        x = jax.ShapeDtypeStruct((count, *self.event), self.dtype, sharding=sharding)
        y = jax.ShapeDtypeStruct((count,), jnp.int32, sharding=sharding) if self.labelled else None
        return x, y


def example_of(experiment: Experiment) -> Example:
    """What the experiment's examples look like; nothing is fetched.

    Raises ValueError, saying what to give, for data whose shape neither its name nor the model's image says, for an
    unknown name, with the nearest, and for a size of data that has its own.
    """
    data, model = experiment.data, experiment.model
    check_size(data.name, data.size)
    event = model.image or _event(data)
    dtype = "float32" if data.has_missing else "int32" if data.name == COUNTS else "uint8"
    if data.name.endswith(".npz") and (found := _of_npz(Path(data.name))) is not None:
        event, dtype = (model.image or found[0]), "float32" if data.has_missing else found[1]
    if event is None:
        raise ValueError(
            f"Neither the model nor the name of its data, {data.name}, says what an image looks like: give "
            f"{'the path of a file that exists' if data.name.endswith('.npz') else '--data.size'}."
        )
    return Example(tuple(event), dtype, bool(model.classes or model.clusters))


def _event(data: Data) -> tuple[int, ...] | None:
    if data.name.endswith(".npz"):
        return None
    check_name(data.name)
    if (frames := frames_of(data.name)) is not None:
        side = data.size or 16
        return side, frames * side, 1
    if data.name == COUNTS:
        return _COUNTS_SHAPE
    if data.name in _SHAPES:
        return _SHAPES[data.name]
    return None if data.size is None else (data.size, data.size, 3)


def _of_npz(path: Path) -> tuple[tuple[int, ...], str] | None:
    """Shape and dtype of an example of an .npz, from its header; None if it is not there or has no x_train."""
    if not path.exists():
        return None
    headers = array_headers(path)
    name = next((name for name in headers if name.startswith("x_train")), None)
    if name is None:
        return None
    shape, kind = headers[name].shape, headers[name].dtype
    return tuple(shape[1:]), "float32" if kind.kind == "f" else "uint8" if kind == np.uint8 else "int32"
