"""`hvae push`: a run on the Hugging Face Hub."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import tyro

from hvae_jax.cli.arguments import Import, Run
from hvae_jax.experiment import box, hub
from hvae_jax.experiment.packing import pack
from hvae_jax.runtime.files import write_whole
from hvae_jax.runtime.texts import say


@dataclasses.dataclass(frozen=True)
class Push:
    """Uploads a run's settings, best weights and card to the Hugging Face Hub, from where `hf://user/name` reads them.

    Needs the extra `hub` and a token of the user's own, as `hf auth login` keeps it. Nothing else of the run is
    uploaded.

    Attributes:
      run: the run folder, or the name of a model in the box.
      repository: user/name; made if it is not there.
      weights: dtype of the uploaded parameters.
      recipe: command that trained the run, for the card.
      licence: licence of the weights, for the card; none is said by default.
      private: make a new repository private.
      import_: modules beside hvae_jax that settings.json may name.
    """

    run: Run
    repository: Annotated[str, tyro.conf.Positional]
    weights: Literal["float32", "bfloat16"] = "float32"
    recipe: str = ""
    licence: str = ""
    private: bool = False
    import_: Import = ()

    def __call__(self) -> None:
        """Runs the command."""
        repository = hub.check_repository(self.repository)
        with tempfile.TemporaryDirectory() as parent:
            name = "".join(char if char.isalnum() else "_" for char in repository.partition("/")[2].lower())
            name = name if name[0].isalpha() else f"model_{name}"
            folder = pack(
                self.run,
                name,
                Path(parent),
                weights=self.weights,
                recipe=self.recipe,
                licence=self.licence,
                draws=0 if self.weights == "float32" else None,  # as measured by the run, unless they are rounded
                most_bytes=2**40,
                modules=self.import_,
            )
            card = (folder / box.PAGE).read_text(encoding="utf-8")
            write_whole(folder / "README.md", f"---\nlibrary_name: hvae_jax\n---\n\n{card}")
            say(hub.upload(folder, repository, private=self.private))
