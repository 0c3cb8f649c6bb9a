"""`Data`: the settings of a run's data set."""

import dataclasses
from pathlib import Path
from typing import Literal

from hvae_jax.data.catalogue import load
from hvae_jax.data.clips import MOVING
from hvae_jax.data.dataset import BINARY, Dataset, integer
from hvae_jax.data.few_labels import few_labels
from hvae_jax.data.missing import hide
from hvae_jax.data.prepare import prepare
from hvae_jax.records import checked


@dataclasses.dataclass(frozen=True)
@checked
class Data:
    """The data set, and how its values are prepared.

    Attributes:
      name: digits, moving_digits (or moving_digits:6, of six frames), count_table, mnist, fashion_mnist, cifar10,
        binarized_mnist, omniglot, omniglot_resized, svhn_cropped, imagenet32, imagenet64, downsampled_imagenet32,
        downsampled_imagenet64, celeb_a64, tfds:NAME, the path of an .npz or of a folder of images.
      directory: directory of prepared TFDS data, the folder that it lies in, or directory of downloads; None is the
        usual one.
      binarise: how grey values are made binary: "dynamic" draws x ~ Bernoulli(x / max) anew at each training step, and
        once for every evaluation; "static" draws once; "threshold" cuts at half. None leaves values as they are.
      flip: whether training mirrors images from left to right with probability 1/2.
      bits: number of bits of each pixel that are kept, 1 to 8.
      size: height and width that images of a folder or of tfds:NAME are resized and cropped to, at most 8,192, or those
        of a frame of moving_digits, 16 by default; None leaves them.
      bad_files: whether a bad file of a folder is refused or skipped; to find those to skip, every file is decoded.
      labels: number of labels of each class that training sees; the others are hidden from it. 0 hides all, None none.
      label_share: fraction of an epoch's examples that have a label, by repeating those; None repeats none.
      label_seed: seed of the draw of the labels that are kept.
      missing: how an .npz says which elements are missing: "nan" takes NaN in x for that, "mask" reads arrays
        seen_train, seen_validation and seen_test, 1 where an element or pixel is seen. None refuses NaN. The model's
        likelihood becomes likelihoods.Missing, whose bounds are of what is seen.
      missing_fill: value that networks read in place of a missing one, in units of x; None takes the middle of the
        likelihood's range, or 0.
      hidden: fraction of the elements of train and validation that are hidden at random, each by itself and for good;
        the test split stays whole, to measure with.
      hidden_seed: seed of the draw of what is hidden.

    Example:
        >>> from hvae_jax.experiment import Data
        >>> Data("digits", binarise="threshold").load().kind.name
        'binary'
    """

    name: str = "digits"
    directory: str | None = None
    binarise: Literal["dynamic", "static", "threshold"] | None = None
    flip: bool = False
    bits: int = 8
    size: int | None = None
    bad_files: Literal["refuse", "skip"] = "refuse"
    labels: int | None = None
    label_share: float | None = None
    label_seed: int = 0
    missing: Literal["nan", "mask"] | None = None
    missing_fill: float | None = None
    hidden: float = 0.0
    hidden_seed: int = 0

    def __post_init__(self) -> None:
        if self.label_share is not None and self.labels is None:
            raise ValueError(f"label_share={self.label_share} repeats labelled examples: set labels to their number.")
        if self.label_seed < 0:
            raise ValueError(f"label_seed={self.label_seed}: a seed is 0 or more.")
        if not 0.0 <= self.hidden < 1.0 or self.hidden_seed < 0:
            raise ValueError(
                f"hidden={self.hidden}, hidden_seed={self.hidden_seed}: the first is a fraction, 0 to below 1, the "
                "second 0 or more."
            )
        if self.missing is not None and (self.binarise is not None or self.bits != 8):
            raise ValueError(
                f"missing={self.missing!r} with binarise={self.binarise!r} and bits={self.bits}: what is missing has "
                "no value to binarise or shorten. Prepare the arrays before they are saved."
            )
        if self.hidden and self.binarise == "dynamic":
            raise ValueError(
                f"hidden={self.hidden} with binarise='dynamic': pixels drawn anew at each step would be seen in part "
                "again and again. Take binarise='static' or 'threshold'."
            )
        if self.missing_fill is not None and not self.has_missing:
            raise ValueError(f"missing_fill={self.missing_fill}: nothing is missing. Set missing or hidden.")

    @property
    def has_missing(self) -> bool:
        """Whether elements of x may be missing."""
        return self.missing is not None or self.hidden > 0.0

    def load(self) -> Dataset:
        """Reads the data set, or opens it if it is too large for memory."""
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        labels, share, seed = (options.pop(name) for name in ("labels", "label_share", "label_seed"))
        hidden, hidden_seed, _ = (options.pop(name) for name in ("hidden", "hidden_seed", "missing_fill"))
        dataset = load(**options)
        if hidden:  # before examples are repeated for their labels, so that copies lack the same
            dataset = hide(dataset, hidden, hidden_seed)
        return dataset if labels is None else few_labels(dataset, labels, share, seed)

    def of_other(self, name: str, directory: str | None = None) -> Dataset:
        """Another data set, prepared as this one, as far as its values allow.

        Binary data is not binarised again, bits are dropped of 8-bit data alone, and nothing is mirrored or hidden. Of
        an .npz what is missing may be missing, as in the run's own.
        """
        resized = self.size if name.startswith(("tfds:", MOVING)) or Path(name).is_dir() else None
        plain = dataclasses.replace(
            self,
            name=name,
            directory=directory,
            size=resized,
            binarise=None,
            bits=8,
            flip=False,
            labels=None,
            label_share=None,
            missing=self.missing if name.endswith(".npz") else None,
            missing_fill=None,
            hidden=0.0,
        ).load()
        bits = self.bits if plain.kind == integer(256) else 8
        return prepare(plain, binarise=None if plain.kind == BINARY else self.binarise, flip=False, bits=bits)
