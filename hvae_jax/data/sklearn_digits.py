"""The embedded data set: handwritten digits of 8x8 pixels that come with scikit-learn."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from hvae_jax.data.dataset import Dataset, Split, integer


def digits() -> Dataset:
    """The 1,797 handwritten 8x8 digits that scikit-learn ships, values 0..16, `[N, 8, 8, 1]` uint8.

    1,000 train, 350 validation, 447 test, in the file's order as in the article. The writers of the test digits are
    not those of the train digits.

    Example:
        >>> x = hv.data.digits().splits["train"].x
        >>> x.shape, int(x.max())
        ((1000, 8, 8, 1), 16)
    """
    table = _digits_table()
    x = table[:, :-1].reshape(-1, 8, 8, 1).astype(np.uint8)
    y = table[:, -1].astype(np.int32)
    parts = {"train": slice(0, 1000), "validation": slice(1000, 1350), "test": slice(1350, None)}
    splits = {part: Split(x[where], y[where]) for part, where in parts.items()}
    return Dataset("digits", splits, integer(17), "8x8 digits of scikit-learn, unshuffled 1000/350/447 as the article")


def _digits_table() -> np.ndarray:
    """The table of 64 pixels and a label, `[1797, 65]`. Raises ImportError if scikit-learn is not installed."""
    # From its file, since importing scikit-learn takes a second.
    found = importlib.util.find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise ImportError("scikit-learn ships the digits: pip install scikit-learn.")
    path = Path(found.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    if path.exists():
        return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits

    raw: Any = load_digits()
    return np.column_stack([raw.data, raw.target])
