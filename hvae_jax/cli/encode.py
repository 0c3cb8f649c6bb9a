"""`hvae encode`: the latents of examples as arrays."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hvae_jax.cli.arguments import Import, Run, check_out
from hvae_jax.diagnostics.codes import What, check_levels
from hvae_jax.experiment.own import given_examples
from hvae_jax.experiment.pretrained import load
from hvae_jax.runtime.files import replacing
from hvae_jax.runtime.memory import memory_for
from hvae_jax.runtime.texts import say


@dataclasses.dataclass(frozen=True)
class Encode:
    """Writes the codes of examples, the latents of chosen levels, to an .npz.

    Its arrays: LEVEL_SPLIT `[N, ...]` for each level and split, labels_SPLIT where there are labels, names_SPLIT for
    files, and `levels`, the names of the levels, top first.

    Attributes:
      run: the run folder, or the name of a model in the box.
      data: pictures, a folder of them, an .npz, or the name of a data set; the run's own data by default.
      levels: names of the levels; all by default.
      what: mean of each posterior, with no noise in the levels above; a sample; or the standard normal noise that the
        sample is made of under its prior.
      posterior_temperature: temperature of the posteriors: 0 is no noise, the default for means, 1 the default for
        samples and noise.
      splits: splits of a data set; all by default.
      examples: number of examples of each split, its first ones; None takes all.
      invert: exchange black and white of pictures.
      data_directory: directory of prepared TFDS data.
      size: largest number of examples held in memory at once; another size draws other noise.
      seed: seed of the draws.
      out: the file.
      import_: modules beside hvae_jax that settings.json may name.
    """

    run: Run
    data: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()
    what: What = "mean"
    posterior_temperature: float | None = None
    splits: tuple[str, ...] = ()
    examples: int | None = None
    invert: bool = False
    data_directory: str | None = None
    size: int = 256
    seed: int = 0
    out: Path = Path("codes.npz")
    import_: Import = ()

    def __call__(self) -> None:
        """Runs the command."""
        check_out(self.out)
        if self.size < 1:
            raise ValueError(f"--size is {self.size}, but it has to be 1 or more.")
        trained = load(self.run, self.import_)
        levels = check_levels(trained.levels, self.levels or None)
        given = given_examples(
            trained.experiment,
            trained.event,
            self.data,
            splits=self.splits,
            examples=self.examples,
            directory=self.data_directory,
            invert=self.invert,
        )
        arrays: dict[str, Any] = {"levels": np.array(levels)}
        key = jax.random.key(self.seed)
        for i, (split, some) in enumerate(given.dataset.splits.items()):
            with memory_for("encoding", "Lower --size."):
                found = trained.encode(
                    some.x,
                    levels,
                    self.what,
                    y=some.y,
                    key=jax.random.fold_in(key, i),
                    posterior_temperature=self.posterior_temperature,
                    size=self.size,
                )
            arrays |= {f"{name}_{split}": code for name, code in found.items()}
            arrays |= {} if some.y is None else {f"labels_{split}": some.y}
            arrays |= {f"names_{split}": np.array(given.names)} if given.names else {}
        with replacing(self.out) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **arrays)
        if self.data:
            say(given.dataset.protocol)
        last = list(given.dataset.splits)[-1]
        shapes = ", ".join(f"{name} {'x'.join(map(str, arrays[f'{name}_{last}'].shape[1:]))}" for name in levels)
        counts = ", ".join(f"{len(some):,} {split}" for split, some in given.dataset.splits.items())
        say(f"{self.out}: {self.what} of {shapes}; {counts}")
