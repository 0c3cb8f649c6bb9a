"""`hvae export`: a run as one file."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from hvae_jax.cli.arguments import Import, Run
from hvae_jax.experiment import exchange
from hvae_jax.runtime.texts import say


@dataclasses.dataclass(frozen=True)
class Export:
    """A run's settings and best variables as one .safetensors file, which `hvae import hvae_jax` reads.

    Attributes:
      run: the run folder.
      file: the file to write; NAME.safetensors in the run folder if it is not given.
      overwrite: replace an existing file.
      import_: modules beside hvae_jax that settings.json may name.
    """

    run: Run
    file: Annotated[Path | None, tyro.conf.Positional] = None
    overwrite: bool = False
    import_: Import = ()

    def __call__(self) -> None:
        """Write the file and print its path."""
        say(exchange.export(self.run, self.file, self.overwrite, self.import_))
