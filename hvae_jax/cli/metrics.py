"""`hvae metrics`: sample quality of two files of features."""

import dataclasses
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from hvae_jax.cli.arguments import check_out
from hvae_jax.experiment import settings
from hvae_jax.metrics import score_features
from hvae_jax.runtime.files import write_whole
from hvae_jax.runtime.memory import memory_for
from hvae_jax.runtime.npz import array_headers, check_sizes, read_arrays
from hvae_jax.runtime.texts import say

_USUAL = ("features", "x")  # names of arrays that are taken where a file has several


@dataclasses.dataclass(frozen=True)
class Metrics:
    """Compares generated with real examples: Frechet and kernel distance, precision, recall, density and coverage.

    On features of your own, `[N, D]`, such as those of an Inception network for FID and KID; nothing is fetched. Pixels
    are features too, of which `hvae sample --out samples.npz` makes a file, but distances of pixels say little of how
    images look.

    Attributes:
      real: .npz with the features of real examples.
      generated: .npz with those of generated examples.
      k: the neighbour that the balls of precision, recall, density and coverage reach to.
      subsets: number of subsets of the kernel distance.
      subset_size: number of examples in a subset, at most those in each file.
      real_name: array of REAL; by default the only one, or "features" or "x".
      generated_name: array of GENERATED, likewise.
      seed: seed of the subsets.
      out: a JSON file that the numbers are written to as well.
    """

    real: Annotated[Path, tyro.conf.Positional]
    generated: Annotated[Path, tyro.conf.Positional]
    k: int = 5
    subsets: int = 100
    subset_size: int = 1000
    real_name: str | None = None
    generated_name: str | None = None
    seed: int = 0
    out: Path | None = None

    def __call__(self) -> None:
        """Runs the command."""
        check_out(self.out)
        real, generated = (
            read_features(path, name, f"--{which}-name")
            for path, name, which in (
                (self.real, self.real_name, "real"),
                (self.generated, self.generated_name, "generated"),
            )
        )
        with memory_for("measuring", "Give fewer examples."):
            scores = score_features(
                real, generated, k=self.k, subsets=self.subsets, subset_size=self.subset_size, seed=self.seed
            )
        if self.out is not None:
            write_whole(self.out, settings.dumps(scores.to_json()))
        say(scores.table())


def read_features(path: Path, name: str | None, flag: str) -> np.ndarray:
    """One array of an .npz.

    Args:
      path: the file.
      name: name of the array; None takes the only one, or that of a usual name.
      flag: flag that names the array, for errors.
    Raises FileNotFoundError for a path that does not exist; ValueError, with the arrays there are, if the array is not
    there or none is usual, and as `runtime.npz` does.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}. Give the path of an .npz with an array of features [N, D].")
    headers = array_headers(path)
    there = ", ".join(list(headers)[:8]) or "no arrays"
    usual = list(headers) if len(headers) == 1 else [one for one in _USUAL if one in headers]
    if name is not None and name not in headers:
        raise ValueError(f"{path} has no array {name!r}; it holds {there}.")
    if name is None and not usual:
        raise ValueError(f"{path} holds {there}: name the one with the features by {flag}.")
    wanted = {(name or usual[0]): headers[name or usual[0]]}
    check_sizes(path, wanted)
    return next(array for _, array in read_arrays(path, wanted))
