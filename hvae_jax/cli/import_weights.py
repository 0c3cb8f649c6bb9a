"""`hvae import CODE FILE`: a run folder from published weights or an exported file."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Union, cast

import tyro

from hvae_jax.cli.arguments import Import, Run
from hvae_jax.convert.array_files import WhichWeights
from hvae_jax.convert.codes import CONVERTERS
from hvae_jax.convert.converter import Binarise, Converter
from hvae_jax.experiment import exchange, tables
from hvae_jax.runtime.texts import say


@dataclasses.dataclass(frozen=True)
class PublishedFile:
    """Arguments that the commands of all public codes share.

    Attributes:
      file: a PyTorch file, a .safetensors, an .npz of arrays by name, or a Flax checkpoint.
      preset: the published configuration, one of those above.
      weights: averaged ("ema") or plain weights, of a checkpoint that holds both; the averaged ones if it is not given.
      data: the data set, by name or path; the preset's if it is not given.
      data_directory: where the data set is, as --data.directory.
      binarise: how grey values become binary, as --data.binarise; the preset's way if it is not given.
      folder: the run folder; runs/CODE_PRESET if it is not given.
      overwrite: delete what an earlier run left in the folder.
    """

    file: Run
    preset: str | None = None
    weights: WhichWeights | None = None
    data: str | None = None
    data_directory: str | None = None
    binarise: Binarise | None = None
    folder: Path | None = None
    overwrite: bool = False


@dataclasses.dataclass(frozen=True)
class ImportPublished:
    """The command of one public code.

    Attributes:
      converter: the code.
      given: arguments that the commands of all codes share.
      options: an instance of `converter.options`.
    """

    converter: Converter[Any]
    given: PublishedFile
    options: Any

    def __call__(self) -> None:
        """Make the run folder and print a summary."""
        others = {name: value for name, value in vars(self.given).items() if name not in ("file", "preset")}
        folder = exchange.import_published(self.converter, self.given.file, self.given.preset, self.options, **others)
        say(exchange.import_summary(tables.read(folder / "result.json"), folder))


@dataclasses.dataclass(frozen=True)
class ImportOwn:
    """A file of `hvae export`: the same settings, and the same variables bit for bit.

    Attributes:
      file: the .safetensors file.
      folder: the run folder; runs/NAME if it is not given.
      overwrite: delete what an earlier run left in the folder.
      import_: modules beside hvae_jax that the file's settings may name.
    """

    file: Run
    folder: Path | None = None
    overwrite: bool = False
    import_: Import = ()

    def __call__(self) -> None:
        """Make the run folder and print a summary."""
        folder = exchange.import_own(self.file, self.folder, self.overwrite, self.import_)
        say(exchange.import_summary(tables.read(folder / "result.json"), folder))


def _command(converter: Converter[Any]) -> Callable[..., ImportPublished]:
    """The function whose arguments are the command line of a code."""

    def command(
        given: Annotated[PublishedFile, tyro.conf.arg(name="")],
        options: Annotated[Any, tyro.conf.arg(name="", constructor=converter.options)],
    ) -> ImportPublished:
        return ImportPublished(converter, given, options)

    return command


def _help(converter: Converter[Any]) -> str:
    """The text of `hvae import CODE --help`: the code, and a line for each preset."""
    need = "needed" if converter.needs_preset else "without one the configuration is read off the file"
    width = max(map(len, converter.presets))
    presets = [f"  {name:{width}}  {preset.about}" for name, preset in converter.presets.items()]
    return "\n".join([converter.about, "", f"Presets ({need}):", *presets])


def _subcommand(name: str, constructor: Callable[..., Any], description: str | None = None) -> Any:
    """A subcommand, as an annotation of tyro's."""
    return Annotated[Any, tyro.conf.subcommand(name, constructor=constructor, description=description)]


_COMMANDS = [_subcommand(converter.code, _command(converter), _help(converter)) for converter in CONVERTERS]
_COMMANDS.append(_subcommand("hvae_jax", ImportOwn))


@dataclasses.dataclass(frozen=True)
class ImportWeights:
    """Published weights, or a file of `hvae export`, as a run folder that every command takes.

    A model comes with the likelihood that its public code trains and measures, so that published numbers come out
    again. Nothing in the file is executed; a PyTorch file needs PyTorch.

    Attributes:
      code: the public code that the weights are of.
    """

    # tyro makes a subcommand of each member of a union
    code: Annotated[Any, tyro.conf.arg(name="", constructor=cast(Any, Union)[tuple(_COMMANDS)])]

    def __call__(self) -> None:
        """Run the subcommand."""
        self.code()
