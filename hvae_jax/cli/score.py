"""`hvae score`: bounds and likelihood ratios of single examples, and how well they tell other data from the run's."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hvae_jax.cli.arguments import Import, Run, check_out
from hvae_jax.cli.metrics import read_features
from hvae_jax.diagnostics import auroc, standard_error
from hvae_jax.experiment.own import Given, given_examples
from hvae_jax.experiment.pretrained import Pretrained, load
from hvae_jax.metrics import score_features
from hvae_jax.runtime.columns import aligned
from hvae_jax.runtime.files import replacing
from hvae_jax.runtime.memory import memory_for
from hvae_jax.runtime.texts import say

_MOST = 8
"""Largest number of likelihood ratios that are measured unasked."""


@dataclasses.dataclass(frozen=True)
class Score:
    """Scores examples one by one: ELBO, importance-weighted bound, and LLR^{>k}, which is high for unusual examples.

    LLR^{>k} = L - L^{>k}, nats: what the bound gains from inferring the k lowest levels instead of drawing them from
    their priors (Havtorn et al., 2021, equation 10). AUROC is that of each score, minus bounds among them, at telling
    the data from the run's own split: 0.5 by chance, 1 at best.

    Attributes:
      run: the run folder, or the name of a model in the box.
      data: pictures, a folder of them, an .npz, or the name of a data set, to compare with the run's own split; none
        scores that split alone.
      split: split of the run's data, and of another data set that has it; the last one (test, if there is one) by
        default.
      draws: K of the importance-weighted bound; the ELBO is the mean over the same draws.
      above: values of k; by default 1 to L - 1, eight of them at most. Stages count in models that have them.
      above_draws: draws of each bound in LLR^{>k}.
      examples: number of examples of each side, the first ones; None takes all.
      invert: exchange black and white of pictures.
      data_directory: directory of prepared TFDS data.
      chunk: largest number of draws held in memory at once.
      size: largest number of examples held in memory at once; another size draws other noise.
      seed: seed of the draws.
      features: an .npz with features `real` and `generated`, `[N, D]`, of data and of samples of the run: their Frechet
        and kernel distance, precision, recall, density and coverage are said too, as `hvae metrics` does of two files.
      out: file of the scores: an .npz with arrays SCORE_run, of the run's own split, and SCORE_data; or a .jsonl with a
        line for each example, null for a score that is not finite.
      import_: modules beside hvae_jax that settings.json may name.
    """

    run: Run
    data: tuple[str, ...] = ()
    split: str | None = None
    draws: int = 100
    above: tuple[int, ...] = ()
    above_draws: int = 16
    examples: int | None = None
    invert: bool = False
    data_directory: str | None = None
    chunk: int = 10
    size: int = 256
    seed: int = 0
    features: Path | None = None
    out: Path | None = None
    import_: Import = ()

    def __call__(self) -> None:
        """Runs the command."""
        check_out(self.out)
        if self.out is not None and self.out.suffix not in (".npz", ".jsonl"):
            raise ValueError(f"--out {self.out}: scores are written as .npz or .jsonl.")
        for name in ("draws", "above_draws", "chunk", "size"):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} is {getattr(self, name)}, but it has to be 1 or more.")
        quality = None if self.features is None else _quality(self.features, self.seed)
        trained = load(self.run, self.import_)
        above = self.above or _usual(len(trained.model.levels_per_stage))
        stages = len(trained.model.levels_per_stage)
        if wrong := [k for k in above if not 1 <= k <= stages]:
            raise ValueError(f"--above is {wrong[0]}, but the model has {stages} levels to draw: 1 to {stages}.")
        sides = {"run": self._given(trained, ())}
        if self.data:
            sides["data"] = self._given(trained, self.data)
        key, scores = jax.random.key(self.seed), {}
        for i, (side, given) in enumerate(sides.items()):
            with memory_for("scoring", "Lower --size."):
                scores[side] = trained.score(
                    given.only.x,
                    y=given.only.y,
                    draws=self.draws,
                    above=above,
                    above_draws=self.above_draws,
                    chunk=self.chunk,
                    key=jax.random.fold_in(key, i),
                    size=self.size,
                )
        if self.out is not None:
            _write(self.out, sides, scores)
        if self.data:
            say(sides["data"].dataset.protocol)
        say(_table(sides, scores, self.draws))
        if quality is not None:
            say(f"\nSample quality on {self.features}\n{quality}")
        if self.out is not None:
            say(self.out)

    def _given(self, trained: Pretrained, data: Sequence[str]) -> Given:
        """The examples of one side, of one split."""
        given = given_examples(
            trained.experiment,
            trained.event,
            data,
            examples=self.examples,
            directory=self.data_directory,
            invert=self.invert,
        )
        splits = given.dataset.splits
        wanted = self.split or list(splits)[-1]
        if wanted not in splits:
            if not data:
                raise ValueError(f"{given.dataset.name} has no split {wanted!r}; it has {list(splits)}.")
            wanted = list(splits)[-1]
        return dataclasses.replace(given, dataset=dataclasses.replace(given.dataset, splits={wanted: splits[wanted]}))


def _quality(path: Path, seed: int) -> str:
    """The table of `hv.metrics` on the features in a file."""
    real, generated = (read_features(path, name, "--features, with an array of that name") for name in _SIDES)
    with memory_for("measuring", "Give fewer features."):
        return score_features(real, generated, seed=seed).table()


_SIDES = ("real", "generated")


def _usual(stages: int) -> tuple[int, ...]:
    """1 to L - 1, `_MOST` of them at most."""
    every = np.unique(np.linspace(1, stages - 1, min(stages - 1, _MOST)).round().astype(int)) if stages > 1 else ()
    return tuple(int(k) for k in every)


def _write(out: Path, sides: Mapping[str, Given], scores: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Writes the scores of every example, by side."""
    with replacing(out) as partial:
        if out.suffix == ".npz":
            arrays: dict[str, Any] = {
                f"{name}_{side}": values for side, found in scores.items() for name, values in found.items()
            }
            arrays |= {f"names_{side}": np.array(given.names) for side, given in sides.items() if given.names}
            with partial.open("wb") as file:
                np.savez_compressed(file, **arrays)
            return
        with partial.open("w", encoding="utf-8") as file:
            for side, found in scores.items():
                given = sides[side]
                (split,) = given.dataset.splits
                for i in range(len(given.only)):
                    row: dict[str, Any] = {"side": side, "data": given.dataset.name, "split": split, "example": i}
                    row |= {"name": given.names[i]} if given.names else {}
                    numbers = {name: float(values[i]) for name, values in found.items()}
                    row |= {name: number if math.isfinite(number) else None for name, number in numbers.items()}
                    file.write(json.dumps(row, allow_nan=False) + "\n")


def _table(sides: Mapping[str, Given], scores: Mapping[str, Mapping[str, np.ndarray]], draws: int) -> str:
    """A line for each score: its mean with the standard error on each side, and the AUROC between them."""
    titles = {"elbo": "-ELBO", "iw_bound": f"-log p(x) <= (K={draws})"}
    heads = [f"{next(iter(given.dataset.splits))} of {given.dataset.name}" for given in sides.values()]
    rows = [["", *heads, *(["AUROC"] if len(sides) > 1 else [])]]
    for name in scores["run"]:
        sign = -1.0 if name in titles else 1.0
        found = [sign * np.asarray(side[name], np.float64) for side in scores.values()]
        title = titles.get(name, f"LLR>{name.removeprefix('llr_')}")
        cells = [
            f"{one.mean():.2f} ± {float(standard_error(one)):.2f}" if len(one) > 1 else f"{one[0]:.2f}" for one in found
        ]
        if len(found) > 1:
            many = min(map(len, found)) > 1 and all(np.isfinite(one).all() for one in found)
            cells.append("{:.3f} ± {:.3f}".format(*auroc(*found)) if many else "-")
        rows.append([title, *cells])
    return "\n".join((*aligned(rows), "nats per example ± its standard error over the examples"))
