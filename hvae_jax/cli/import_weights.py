"""`hvae import`: weights from outside as a run folder."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from hvae_jax.cli.arguments import Import, Run
from hvae_jax.convert.array_files import Weights
from hvae_jax.convert.codes import THE_PRESETS, Structure, Unsaid
from hvae_jax.experiment import exchange, tables


@dataclasses.dataclass(frozen=True)
class ImportWeights:
    """Published weights, or a file of `hvae export`, as a run folder that every command takes.

    They come with the likelihood that their public code trains and measures, so that published numbers come out again.
    Nothing in the file is executed; a PyTorch file needs PyTorch.

    Attributes:
      code: that the weights are of: vdvae, efficient_vdvae (either tree), or hvae_jax for a file of `hvae export`.
      checkpoint: a PyTorch file, a .safetensors, an .npz of arrays by name, or a Flax checkpoint.
      preset: the published configuration: cifar10, imagenet32, imagenet64, ffhq256, ffhq1024, ...; a wrong name lists
        them all.
      weights: of a checkpoint that holds both, the averaged or the plain ones; averaged if it is not given.
      enc_blocks: of vdvae, the blocks of the way up that the file has, where they are not the preset's:
        "32x11,32d2,...". The published ffhq1024 has two fewer than its preset.
      dec_blocks: of the way down, likewise: "1x1,4m1,...".
      structure: of efficient_vdvae, "file" to read blocks and widths off the file where they are not the preset's.
      unsaid: settings that no weight tells, where they are not the preset's.
      data: the data set, by name or path; the preset's if it is not given.
      data_directory: where it is, as --data.directory.
      folder: the run folder; runs/CODE_PRESET if it is not given.
      overwrite: delete what an earlier run left in the folder.
      import_: modules that a file of `hvae export` may name beside hvae_jax.
    """

    code: Annotated[Literal["vdvae", "efficient_vdvae", "hvae_jax"], tyro.conf.Positional]
    checkpoint: Run
    preset: str | None = None
    weights: Weights | None = None
    enc_blocks: str | None = None
    dec_blocks: str | None = None
    structure: Structure = "preset"
    unsaid: Unsaid = THE_PRESETS
    data: str | None = None
    data_directory: str | None = None
    folder: Path | None = None
    overwrite: bool = False
    import_: Import = ()

    def __call__(self) -> None:
        """Carries it out."""
        names = ("weights", "enc_blocks", "dec_blocks", "structure", "unsaid", "data", "data_directory")
        options = {name: getattr(command, name) for name in names}
        if self.code == "hvae_jax":
            usual = (None, "preset", THE_PRESETS)
            given = [name for name, value in {"preset": self.preset, **options}.items() if value not in usual]
            if given:
                flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
                raise ValueError(f"{flags}: a file of `hvae export` says that itself.")
            folder = exchange.import_own(self.checkpoint, self.folder, self.overwrite, self.import_)
        else:
            folder = exchange.import_published(
                self.code, self.checkpoint, self.preset, self.folder, self.overwrite, **options
            )
        print(exchange.said_of_import(tables.read(folder / "result.json"), folder))
