"""OMNIGLOT at 28x28: the IWAE paper's file, and TFDS's drawings resized, which are another data set."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from hvae_jax.data.dataset import Dataset, Split, integer
from hvae_jax.data.fetch import Remote, fetch
from hvae_jax.data.prepare import split_off
from hvae_jax.data.rows import in_memory
from hvae_jax.data.tfds import open_tfds, read_split
from hvae_jax.records import checked

FILE = "chardata.mat"
OMNIGLOT = Remote(
    "omniglot",
    (
        "https://github.com/yburda/iwae/raw/master/datasets/OMNIGLOT/",
        "https://raw.githubusercontent.com/yburda/iwae/master/datasets/OMNIGLOT/",
    ),
    {FILE: "git:016a3536ffe5e1d38e42563a18d7a78bfaf643ec"},  # its id in that repository, commit 78a6075
)


def omniglot(directory: str | None = None, *, remote: Remote = OMNIGLOT, held_out: int = 1_345) -> Dataset:
    """Letters of fifty alphabets (Lake et al. 2015) as in Burda et al. (2016), `[N, 28, 28, 1]` uint8 grey 0..255.

    23,000 train, 1,345 validation, 8,070 test: the file has 24,345 and 8,070, and the validation split is that of the
    IWAE code (yburda/iwae, datasets.py: the last 1,345 of a permutation with seed 123). Ink is bright. The file's
    reals in [0, 1] are rounded to multiples of 1/255; labels are alphabets, 0..49. Published numbers are nats of
    binary pixels, drawn anew at each training step: `binarise="dynamic"`.

    `chardata.mat` is read from `directory` if it exists there, otherwise fetched by pooch into `directory`/omniglot.

    Raises what `fetch` raises, and ValueError for a file without data [784, N] and testdata [784, N].
    """
    own = None if directory is None else Path(directory).expanduser() / FILE
    path = own if own is not None and own.exists() else fetch(remote, directory)[FILE]
    splits = read_chardata(path)
    held = np.random.RandomState(123).permutation(len(splits["train"]))[-held_out:]
    protocol = f"OMNIGLOT 28x28 of Burda et al. (2016), validation = the {held_out:,} train examples that they hold out"
    return Dataset("omniglot", split_off(splits, held), integer(256), protocol)


def read_chardata(path: Path) -> dict[str, Split]:
    """Train and test splits of chardata.mat, whose columns are images in column-major order."""
    import scipy.io

    try:
        file = scipy.io.loadmat(path)
    except Exception as error:  # SciPy raises whatever it trips over
        raise ValueError(f"{path} cannot be read as a MATLAB file ({error}).") from error
    splits = {}
    for part, prefix in (("train", ""), ("test", "test")):
        data, target = file.get(f"{prefix}data"), file.get(f"{prefix}target")
        if data is None or not _is_grey(data):
            held = {name: value.shape for name, value in file.items() if isinstance(value, np.ndarray)}
            raise ValueError(f"{path} holds {held}, where {prefix}data [784, N] with values in [0, 1] is needed.")
        x = np.rint(255 * data.T).astype(np.uint8).reshape(-1, 28, 28).transpose(0, 2, 1)[..., None]
        y = None
        if target is not None and target.ndim == 2 and target.shape[1] == len(x):
            y = target.argmax(0).astype(np.int32)
        splits[part] = Split(np.ascontiguousarray(x), y)
    return splits


def _is_grey(data: np.ndarray) -> bool:
    if data.ndim != 2 or len(data) != 784 or not data.size or data.dtype.kind not in "biuf":
        return False
    return bool(data.min() >= 0 and data.max() <= 1)  # NaN is neither


def omniglot_resized(directory: str | None = None, *, in_memory_bytes: int = 2**30) -> Dataset:
    """TFDS's OMNIGLOT at 28x28, `[N, 28, 28, 1]` uint8 grey 0..255; its numbers do not compare with the IWAE paper's.

    18,000 train, 1,280 validation, 13,180 test: TFDS's train (30 alphabets, "background") and test ("evaluation", 20
    other alphabets); the last 1,280 train drawings in TFDS's order are the validation split. Burda et al. mix the
    alphabets over both splits, which makes an easier test. Each drawing of 105x105 is inverted (ink is bright) and
    resized by averaging over areas (PIL's box filter). Labels are characters, 0..1622.

    Raises what `from_tfds` raises.
    """
    rows = open_tfds("omniglot", directory, ("train", "test"), BrightInk(28), (28, 28), channels=1)
    splits = {part: read_split(source, in_memory_bytes) for part, source in rows.items()}
    held_out = min(1_280, max(1, len(splits["train"]) // 6))
    splits = {part: Split(in_memory(s.x, in_memory_bytes), s.y) for part, s in split_off(splits, held_out).items()}
    protocol = (
        f"TFDS {rows['train'].full_name}, inverted, box-filtered to 28x28, validation = last {held_out:,} train "
        "examples; not the file of Burda et al. (2016)"
    )
    return Dataset("omniglot_resized", splits, integer(256), protocol)


@dataclasses.dataclass(frozen=True)
@checked
class BrightInk:
    """Turns a drawing, dark on white, into grey with bright ink at `size` x `size` pixels."""

    size: int

    def __call__(self, image: Any) -> Any:
        """The drawing in a PIL image."""
        from PIL import Image, ImageOps

        return ImageOps.invert(image.convert("L")).resize((self.size, self.size), Image.Resampling.BOX)
