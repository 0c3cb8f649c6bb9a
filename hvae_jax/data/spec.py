"""`Data`: the settings of a run's data set."""

import dataclasses
from pathlib import Path
from typing import Literal

from hvae_jax.data.catalogue import load
from hvae_jax.data.dataset import BINARY, Dataset, integer
from hvae_jax.data.prepare import prepare
from hvae_jax.records import checked


@dataclasses.dataclass(frozen=True)
@checked
class Data:
    """The data set, and how its values are prepared.

    Attributes:
      name: digits, mnist, fashion_mnist, cifar10, binarized_mnist, omniglot, omniglot_resized, svhn_cropped,
        imagenet32, imagenet64, downsampled_imagenet32, downsampled_imagenet64, celeb_a64, tfds:NAME, the path of an
        .npz or of a folder of images.
      directory: directory of prepared TFDS data, the folder that it lies in, or directory of downloads; None is the
        usual one.
      binarise: how grey values are made binary: "dynamic" draws x ~ Bernoulli(x / max) anew at each training step, and
        once for every evaluation; "static" draws once; "threshold" cuts at half. None leaves values as they are.
      flip: whether training mirrors images from left to right with probability 1/2.
      bits: number of bits of each pixel that are kept, 1 to 8.
      size: height and width that images of a folder or of tfds:NAME are resized and cropped to, at most 8,192; None
        leaves them.
      bad_files: whether a bad file of a folder is refused or skipped; to find those to skip, every file is decoded.
    """

    name: str = "digits"
    directory: str | None = None
    binarise: Literal["dynamic", "static", "threshold"] | None = None
    flip: bool = False
    bits: int = 8
    size: int | None = None
    bad_files: Literal["refuse", "skip"] = "refuse"

    def load(self) -> Dataset:
        """Reads the data set, or opens it if it is too large for memory."""
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return load(**options)

    def of_other(self, name: str, directory: str | None = None) -> Dataset:
        """Another data set, prepared as this one, as far as its values allow.

        Binary data is not binarised again, bits are dropped of 8-bit data alone, and nothing is mirrored.
        """
        resized = self.size if name.startswith("tfds:") or Path(name).is_dir() else None
        plain = dataclasses.replace(
            self, name=name, directory=directory, size=resized, binarise=None, bits=8, flip=False
        ).load()
        bits = self.bits if plain.kind == integer(256) else 8
        return prepare(plain, binarise=None if plain.kind == BINARY else self.binarise, flip=False, bits=bits)
