"""`hvae export`: a run as one file, of its weights or of a program."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from hvae_jax.cli.arguments import Import, Run
from hvae_jax.experiment import exchange, serving
from hvae_jax.runtime.texts import say


@dataclasses.dataclass(frozen=True)
class Export:
    """A run's best variables as one file: weights, or a program with the weights inside.

    NAME.safetensors holds settings and weights, which `hvae import hvae_jax` reads. NAME.stablehlo holds one program of
    the model for any number of examples, which JAX runs without hvae_jax: docs/guide/exports.md has the ten lines.

    Attributes:
      run: the run folder, or the name of a model in the box.
      file: the file to write, .safetensors or .stablehlo; NAME.safetensors in the run folder if it is not given, or
        NAME_WHAT.stablehlo with --what.
      what: the program: "generate" (keys to new examples), "encode" (examples and keys to latents) or "elbo" (examples
        and keys to the ELBO and its terms).
      platforms: platforms that the program runs on; none of them has to be here.
      overwrite: replace an existing file.
      import_: modules beside hvae_jax that settings.json may name.
    """

    run: Run
    file: Annotated[Path | None, tyro.conf.Positional] = None
    what: serving.What | None = None
    platforms: tuple[str, ...] = serving.PLATFORMS
    overwrite: bool = False
    import_: Import = ()

    def __call__(self) -> None:
        """Write the file and print its path, and of a program its inputs, outputs, size and time."""
        if self.what is None and (self.file is None or self.file.suffix != serving.SUFFIX):
            say(exchange.export(self.run, self.file, self.overwrite, self.import_))
            return
        serving.check_serving(self.file, self.what, self.platforms)
        assert self.what is not None
        say(serving.serve(self.run, self.file, self.what, self.platforms, self.overwrite, self.import_))
