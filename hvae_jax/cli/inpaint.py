"""`hvae inpaint`: what is missing of images, drawn from the run's model given what is seen."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from hvae_jax.cli.arguments import Import, Run, check_out
from hvae_jax.experiment import Data
from hvae_jax.experiment.masks import read_mask
from hvae_jax.experiment.own import Given, given_examples
from hvae_jax.experiment.reopen import Stored, open_stored, outputs
from hvae_jax.filling import Imputed, impute
from hvae_jax.report import charts
from hvae_jax.runtime.files import replacing
from hvae_jax.runtime.memory import memory_for
from hvae_jax.runtime.texts import say

FILLINGS = 3
"""Fillings of each image that a picture shows, and a file holds."""
_HIDDEN = (0.35, 0.55, 0.85)  # colour of what is not seen, where images have colours: no grey value looks like it


@dataclasses.dataclass(frozen=True)
class Inpaint:
    """Fills in what is missing of images by a Markov chain, and draws it beside them.

    A row of the picture: what is seen, three fillings along the chain, their mean and standard deviation over all steps
    after the warm-up, and the image itself. Deviations are drawn from black, 0, to white, half the range of values.

    Attributes:
      run: the run folder, or the name of a model in the box.
      mask: "box" hides the middle, "half" the lower half, "missing" what the data itself lacks (NaN); or a file. A
        picture hides what is white in it, and is of the size of the images; an .npz holds an array `seen`, 1 where x is
        seen, or `missing`, 1 where it is not, for each image or for all.
      steps: length of the chain, of which the first tenth is its warm-up.
      method: "metropolis" is exact in the limit; "pseudo_gibbs" accepts every proposal, and is biased.
      n: number of images, the first ones.
      split: split that the images come from; the last one (test, if there is one) by default.
      seed: seed of the chains.
      out: the file to write, .png for the picture or .npz for arrays; inpainted_MASK.png in the run folder by default.
      data: pictures, a folder of them, an .npz, or the name of a data set; the run's own data by default. With --mask
        missing, NaN in an .npz is what is filled in; its values are taken as they are.
      invert: exchange black and white of pictures.
      import_: modules beside hvae_jax that settings.json may name.
    """

    run: Run
    mask: str = "box"
    steps: int = 1000
    method: Literal["metropolis", "pseudo_gibbs"] = "metropolis"
    n: int = 8
    split: str | None = None
    seed: int = 0
    out: Path | None = None
    data: tuple[str, ...] = ()
    invert: bool = False
    import_: Import = ()

    def __call__(self) -> None:
        """Runs the command."""
        check_out(self.out)
        if self.out is not None and self.out.suffix not in (".png", ".npz"):
            raise ValueError(f"--out {self.out}: its name has to end in .png, for a picture, or .npz, for arrays.")
        if self.n < 1 or self.steps < 2 * FILLINGS:
            raise ValueError(f"--n {self.n} --steps {self.steps}: it takes an image or more, and {2 * FILLINGS} steps.")
        run, given = self._open()
        model = run.experiment.model
        few = given.only.take(slice(self.n)).for_classes(model.classes)
        known = ~np.isnan(few.x) if few.x.dtype.kind == "f" else np.ones(few.x.shape, bool)
        seen = known if self.mask == "missing" else known & read_mask(self.mask, few.x.shape)
        if seen.all():
            if self.mask == "missing":
                raise ValueError(f"Nothing of these images of {given.dataset.name} is missing: give another --mask.")
            raise ValueError(f"--mask {self.mask} hides nothing of these images: there is nothing to fill in.")
        if not seen.any():
            raise ValueError(
                f"--mask {self.mask}: nothing is seen of these images, so that their fillings would be samples of the "
                "model alone, which `hvae sample` draws."
            )
        with memory_for("filling in", "Lower --n."):
            found = impute(
                model.rolled,
                run.variables,
                few.x,
                seen,
                jax.random.key(self.seed),
                self.steps,
                self.method,
                y=few.y,
                keep=FILLINGS,
            )
            found = jax.tree.map(np.asarray, found)
        stem = Path(self.mask).stem
        out = self.out or outputs(self.run, f"inpainted_{stem}.png")
        if out.suffix == ".npz":
            _save(out, few, seen, found)
        else:
            _draw(out, given.value_range, few.x, seen, known, found)
        if self.data:
            say(given.dataset.protocol)
        say(f"{out}: {_summary(seen, found, self.method, self.steps)}")

    def _open(self) -> tuple[Stored, Given]:
        """The run, and the examples; of an .npz with --mask missing, NaN is what is missing."""
        run = open_stored(self.run, self.import_)
        if self.mask != "missing" or len(self.data) != 1 or not self.data[0].endswith(".npz"):
            splits = (self.split,) if self.split is not None else ()
            return run, given_examples(run.experiment, run.card.event, self.data, splits=splits, invert=self.invert)
        dataset = Data(self.data[0], missing="nan").load()
        if dataset.event != run.card.event:
            raise ValueError(
                f"--data {self.data[0]} holds examples of shape {dataset.event}, but the model's are {run.card.event}."
            )
        if self.split is not None and self.split not in dataset.splits:
            raise ValueError(f"{dataset.name} has no split {self.split!r}; it has {list(dataset.splits)}.")
        chosen = {self.split: dataset.splits[self.split]} if self.split else dataset.splits
        return run, Given(dataclasses.replace(dataset, splits=chosen))


def _save(out: Path, few: Any, seen: np.ndarray, found: Imputed) -> None:
    """Writes arrays: x, seen, fillings, mean, deviation, acceptance, and y if there are labels."""
    arrays: dict[str, Any] = {"x": few.x, "seen": seen} | {
        name: getattr(found, name) for name in ("fillings", "mean", "deviation", "acceptance")
    }
    if few.y is not None:
        arrays["y"] = few.y
    with replacing(out) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _draw(
    out: Path, values: tuple[float, float], x: np.ndarray, seen: np.ndarray, known: np.ndarray, found: Imputed
) -> None:
    """Writes the picture; `values` are drawn black and white."""
    low, high = values

    def rows(*columns: Any) -> np.ndarray:
        return np.stack(columns, axis=1)

    def marked(shown: np.ndarray) -> np.ndarray:
        """x in which what is not shown has a colour of its own, or for other data than images the middle value."""
        if x.ndim != 4 or x.shape[-1] not in (1, 3):
            return np.where(shown, x, (low + high) / 2)
        colour = low + np.array(_HIDDEN) * (high - low)
        return np.where(np.broadcast_to(shown, (*x.shape[:3], 3)), np.broadcast_to(x, (*x.shape[:3], 3)), colour)

    deviation = low + 2.0 * found.deviation
    panels = {
        "": (rows(marked(seen)), ["seen"]),
        "fillings": (rows(*found.fillings), ["1", "2", "3"]),
        "of all steps": (rows(found.mean, deviation), ["mean", "deviation"]),
        " ": (rows(marked(known)), ["truth"]),
    }
    charts.save_columns(out, panels, (low, high))


def _summary(seen: np.ndarray, found: Imputed, method: str, steps: int) -> str:
    """How much was missing, and the acceptance, in words."""
    share, rates = 1.0 - seen.mean(), found.acceptance
    lines = [f"{share:.0%} of {len(seen):,} images filled in by {steps:,} steps of {method}"]
    if method == "metropolis":
        each = [f"{rate:.3f}" for rate in rates[:16]] + ["..."] * (len(rates) > 16)
        lines.append(f"accepted of the proposals: {rates.mean():.3f}; by image {' '.join(each)}")
        stuck = int((rates < 0.01).sum())
        if stuck:
            lines.append(
                f"warning: {stuck} of the chains accepted less than 1% of the proposals: their fillings are few and "
                "may be far from exact. Give more --steps."
            )
    else:
        lines.append("every proposal is accepted: the fillings are biased where q(z | x) is not p(z | x)")
    nothing = int((~seen.reshape(len(seen), -1).any(1)).sum())
    if nothing:
        lines.append(f"nothing is seen of {nothing} images: their fillings are draws of the model's own p(x)")
    return "\n".join(lines)
