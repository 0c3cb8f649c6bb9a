"""The commands of `hvae` as records: what each takes, and what its `--help` says."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from hvae_jax.convert.files import Weights
from hvae_jax.convert.published import THE_PRESETS, Structure, Unsaid
from hvae_jax.diagnosis import Effort

Run = Annotated[Path, tyro.conf.Positional]
Import = Annotated[tuple[str, ...], tyro.conf.arg(name="import")]


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Bounds, rates and active units of a run's best variables, as in training but with other draws or data.

    Attributes:
      run: the run folder.
      splits: which splits; validation and, where there is one, test if none is named.
      draws: K of the importance-weighted bound.
      examples: how many of each split are measured, its first ones; None takes all.
      data: another data set than the run's, by name; it is binarised, quantised and resized as the run's was.
      data_directory: where TFDS data is prepared.
      seed: of the draws.
      out: a JSON file to write to, as well as printing.
      import_: modules that settings.json may name beside hvae_jax.
    """

    run: Run
    splits: tuple[str, ...] = ()
    draws: int = 500
    examples: int | None = None
    data: str | None = None
    data_directory: str | None = None
    seed: int = 0
    out: Path | None = None
    import_: Import = ()


@dataclasses.dataclass(frozen=True)
class Sample:
    """New images from the prior.

    Attributes:
      run: the run folder.
      n: how many.
      temperature: of every latent's prior: 1 as trained, 0 the mode; or one number a level, top first.
      temperature_by_side: or one for each resolution, by the side of its maps: 1 1.0 4 0.9 8 0.8.
      label: of all samples, for a model with classes; otherwise labels in turn.
      seed: of the draws.
      out: the picture; samples_tTEMPERATURE.png in the run folder if it is not given (samples_labelN_t... of one
        label). An .npz keeps the arrays.
      import_: modules that settings.json may name beside hvae_jax.
    """

    run: Run
    n: int = 64
    temperature: tuple[float, ...] = (1.0,)
    temperature_by_side: dict[int, float] = dataclasses.field(default_factory=dict)
    label: int | None = None
    seed: int = 0
    out: Path | None = None
    import_: Import = ()


@dataclasses.dataclass(frozen=True)
class Reconstruct:
    """Test images beside what the top levels alone know of them.

    Attributes:
      run: the run folder.
      keep_top: levels, or in a model that has them stages, inferred from the image, from the top; the others are drawn
        from their priors. All if not given.
      by_level: a row an image instead: from no level, from the top one, and so on down to all, a dozen at most, the
        levels below at their priors' modes; last, the image itself.
      n: how many images; 36 if it is not given, 8 by level.
      split: which split they come from; the last one (test, where there is one) if it is not given.
      temperature: of the levels drawn from their priors; 1 if it is not given.
      seed: of the draws.
      out: the picture; reconstructions_topK.png in the run folder if it is not given, or level_by_level.png.
      import_: modules that settings.json may name beside hvae_jax.
    """

    run: Run
    keep_top: int | None = None
    by_level: bool = False
    n: int | None = None
    split: str | None = None
    temperature: float | None = None
    seed: int = 0
    out: Path | None = None
    import_: Import = ()


@dataclasses.dataclass(frozen=True)
class Show:
    """The run's numbers, with a table of its levels.

    Attributes:
      run: the run folder.
    """

    run: Run


@dataclasses.dataclass(frozen=True)
class Diagnose:
    """The whole report on a run: what its levels do, as one HTML page, as JSON and in words.

    Attributes:
      run: the run folder.
      split: which split is looked at; the last one (test, where there is one) if it is not given.
      effort: how much is computed.
      other: a data set that the model was not made for, to see whether it is noticed; a name or a path.
      other_directory: where it is, as --data.directory.
      seed: of the draws.
      out: the page; report.html in the run folder if it is not given. The JSON lies beside it.
      import_: modules that settings.json may name beside hvae_jax.
    """

    run: Run
    split: str | None = None
    effort: Effort = Effort()
    other: str | None = None
    other_directory: str | None = None
    seed: int = 0
    out: Path | None = None
    import_: Import = ()


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Versions, backend and devices, and whether an accelerator lies idle."""


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


@dataclasses.dataclass(frozen=True)
class Export:
    """The best variables of a run and its settings as one .safetensors file, which `hvae import hvae_jax` reads.

    Attributes:
      run: the run folder.
      file: where it is written; NAME.safetensors in the run folder if it is not given.
      overwrite: replace a file that is there.
      import_: modules that settings.json may name beside hvae_jax.
    """

    run: Run
    file: Annotated[Path | None, tyro.conf.Positional] = None
    overwrite: bool = False
    import_: Import = ()
