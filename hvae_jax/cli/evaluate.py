"""`hvae evaluate`: bounds, rates and active units."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hvae_jax.cli.arguments import Import, Run, check_out
from hvae_jax.experiment import settings, tables
from hvae_jax.experiment.evaluation import evaluate
from hvae_jax.experiment.own import given_examples
from hvae_jax.experiment.reopen import open_stored
from hvae_jax.runtime.files import replacing, write_whole
from hvae_jax.runtime.memory import memory_for
from hvae_jax.runtime.texts import say
from hvae_jax.training.mesh import data_mesh


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Measures bounds, rates and active units of a run's best variables, as training does, with other draws or data.

    Attributes:
      run: the run folder, or the name of a model in the box.
      splits: splits that are measured; all but train by default.
      draws: K of the importance-weighted bound.
      examples: number of examples of each split that are measured, its first ones; None takes all.
      chunk: largest number of draws held in memory at once; the run's by default. Changes no number.
      size: largest number of examples held in memory at once; the run's by default. Another size draws other noise.
      data: another data set in place of the run's, by name; binarised, quantised and resized as the run's was. Or
        pictures, a folder of them, or an .npz of one array x, fitted to the model, all as one split.
      invert: exchange black and white of pictures.
      data_directory: directory of prepared TFDS data.
      seed: seed of the draws.
      out: a JSON file that the numbers are written to as well.
      each: an .npz for the bounds of every example: elbo_SPLIT and iw_bound_SPLIT, with names_SPLIT of files.
      import_: modules beside hvae_jax that settings.json may name.
    """

    run: Run
    splits: tuple[str, ...] = ()
    draws: int = 500
    examples: int | None = None
    chunk: int | None = None
    size: int | None = None
    data: tuple[str, ...] = ()
    invert: bool = False
    data_directory: str | None = None
    seed: int = 0
    out: Path | None = None
    each: Path | None = None
    import_: Import = ()

    def __call__(self) -> None:
        """Runs the command."""
        check_out(self.out)
        check_out(self.each, "--each")
        run = open_stored(self.run, self.import_)
        given = given_examples(
            run.experiment, run.card.event, self.data, directory=self.data_directory, invert=self.invert
        )
        dataset = given.dataset
        splits = self.splits or [name for name in dataset.splits if name != "train"] or list(dataset.splits)
        draws = dict.fromkeys(splits, self.draws)
        if self.draws < 1:
            raise ValueError(f"--draws is {self.draws}, but it has to be 1 or more.")
        if self.examples is not None and self.examples < 2:
            raise ValueError(f"--examples is {self.examples}, but standard errors and active units need 2 or more.")
        changed = {name: value for name in ("chunk", "size") if (value := getattr(self, name)) is not None}
        wanted = dataclasses.replace(run.experiment.evaluation, **changed)
        key = jax.random.key(self.seed)
        first = {name: split.take(slice(self.examples)) for name, split in dataset.splits.items()}
        some = dataset if self.examples is None else dataclasses.replace(dataset, splits=first)
        each: dict[str, Any] = {}
        with memory_for("measuring", "Lower --size."):
            numbers = evaluate(
                run.experiment.model,
                run.variables,
                some,
                key,
                draws,
                wanted.chunk,
                wanted.size,
                mesh=data_mesh(),
                each=each,
            )
        numbers["examples"] = {name: len(some.splits[name]) for name in splits}
        numbers |= {"data": tables.data_record(dataset), "seed": self.seed, "best_step": run.progress.best_step}
        if self.out is not None:
            write_whole(self.out, settings.dumps(numbers))
        if self.each is not None:
            each |= {f"names_{name}": np.array(given.names[: self.examples]) for name in splits if given.names}
            with replacing(self.each) as partial, partial.open("wb") as file:
                np.savez_compressed(file, **each)
        if self.data:
            say(dataset.protocol)
        say(tables.table(numbers))
