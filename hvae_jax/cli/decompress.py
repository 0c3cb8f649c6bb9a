"""`hvae decompress`: the images of a file that `hvae compress` wrote."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated

import numpy as np
import tyro

from hvae_jax.cli.arguments import Import, Run
from hvae_jax.codec import Codec, read_container
from hvae_jax.experiment.reopen import open_variables
from hvae_jax.runtime.files import replacing
from hvae_jax.runtime.memory import memory_for
from hvae_jax.runtime.texts import say


@dataclasses.dataclass(frozen=True)
class Decompress:
    """Decodes a file of `hvae compress`, every image as it was, bit for bit; nothing is written unless all are.

    Attributes:
      run: the run folder, with the variables that the file was written with.
      file: the file, NAME.hvae.
      out: a new or empty folder for PNG files, or an .npz for the array `x`.
      import_: modules beside hvae_jax that settings.json may name.
    """

    run: Run
    file: Annotated[Path, tyro.conf.Positional]
    out: Path = Path("images")
    import_: Import = ()

    def __call__(self) -> None:
        """Runs the command."""
        into_folder = self.out.suffix != ".npz"
        _check_free(self.out, into_folder)
        if not self.file.is_file():
            raise FileNotFoundError(f"There is no file {self.file}.")
        container = read_container(self.file.read_bytes(), str(self.file))
        names = _names(container.names, container.shape[0], str(self.file)) if into_folder else []
        if into_folder:
            _check_pictures(container.shape[1:], container.dtype, str(self.file))
        experiment, variables, _ = open_variables(self.run, self.import_)
        codec = Codec(experiment.model.rolled, variables)
        with memory_for("decompressing", "The file was written with as many images at once: see --streams."):
            x = codec.decode(container, str(self.file))
        if into_folder:
            _write_pictures(self.out, x, names)
        else:
            with replacing(self.out) as partial, partial.open("wb") as stream:
                np.savez_compressed(stream, x=x)
        say(f"{self.out}: {len(x):,} images")


def _check_free(out: Path, into_folder: bool) -> None:
    """Raises ValueError if the output cannot have this path."""
    if not out.parent.is_dir():
        raise ValueError(f"--out {out}: there is no folder {out.parent}.")
    if not into_folder:
        if out.is_dir():
            raise ValueError(f"--out {out} is a folder: give the name of a file.")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} is there already: give a new folder, or NAME.npz.")


def _check_pictures(event: tuple[int, ...], dtype: str, name: str) -> None:
    """Raises ValueError for images that PNG does not hold as they are."""
    if len(event) != 3 or event[-1] not in (1, 3) or dtype != "uint8":
        raise ValueError(f"{name} holds {dtype} of shape {event}, no pictures of 8 bits: give --out NAME.npz.")


def _names(names: Sequence[str], count: int, file: str) -> list[str]:
    """Relative paths of the PNG files: those of the pictures that were compressed, or numbers.

    Raises ValueError for a name that leads out of the folder.
    """
    if not names:
        return [f"{number:05d}.png" for number in range(count)]
    for name in names:
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or PurePosixPath(name).is_absolute() or "\\" in name or ":" in name:
            raise ValueError(f"{file} names an image {name!a}, which does not lie in a folder: give --out NAME.npz.")
    plain = [str(PurePosixPath(name).with_suffix(".png")) for name in names]
    return plain if len(set(plain)) == count else [f"{name}.png" for name in names]


def _write_pictures(folder: Path, x: np.ndarray, names: Sequence[str]) -> None:
    """Writes PNG files beside the folder and then renames it: all files are there, or none."""
    from PIL import Image

    with replacing(folder) as partial:
        for picture, name in zip(x, names, strict=True):
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(path, "PNG")
        if folder.is_dir():
            folder.rmdir()
