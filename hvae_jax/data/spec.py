"""`Data`: which data set a run reads, and how its values are prepared."""

import dataclasses
from pathlib import Path
from typing import Literal

from hvae_jax.data.catalogue import load
from hvae_jax.data.dataset import BINARY, Dataset, integer
from hvae_jax.data.prepare import prepare


@dataclasses.dataclass(frozen=True)
class Data:
    """Which data set, and how its values are prepared.

    Attributes:
      name: digits, mnist, fashion_mnist, cifar10, binarized_mnist, omniglot, omniglot_resized, svhn_cropped,
        imagenet32, imagenet64, downsampled_imagenet32, downsampled_imagenet64, celeb_a64, tfds:NAME, the path of an
        .npz or of a folder of images.
      directory: where TFDS data is prepared or downloads are kept; None is the usual place.
      binarise: binary values from grey ones: "dynamic" draws x ~ Bernoulli(x / max) anew at each training step and
        once, for good, in evaluation; "static" draws once; "threshold" cuts at half. None is as the data set has it.
      flip: mirror training images from left to right with probability 1/2.
      bits: of each pixel that are kept, 1 to 8.
      size: images of a folder or of tfds:NAME are resized and cropped to this height and width; None leaves them.
      bad_files: whether a file of a folder that will not do is refused or skipped.
    """

    name: str = "digits"
    directory: str | None = None
    binarise: Literal["dynamic", "static", "threshold"] | None = None
    flip: bool = False
    bits: int = 8
    size: int | None = None
    bad_files: Literal["refuse", "skip"] = "refuse"

    def load(self) -> Dataset:
        """Reads it, or opens it where it is too large for that."""
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return load(**options)

    def of_other(self, name: str, directory: str | None = None) -> Dataset:
        """Another data set, prepared as this one: without what it has no need of, being binary or of 8 bits already."""
        resized = self.size if name.startswith("tfds:") or Path(name).is_dir() else None
        plain = dataclasses.replace(
            self, name=name, directory=directory, size=resized, binarise=None, bits=8, flip=False
        ).load()
        bits = self.bits if plain.kind == integer(256) else 8
        return prepare(plain, binarise=None if plain.kind == BINARY else self.binarise, flip=False, bits=bits)
