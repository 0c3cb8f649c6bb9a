"""CIFAR-10, without TensorFlow."""

import gzip
import tarfile
import zlib
from pathlib import Path

import numpy as np

from hvae_jax.data.dataset import Dataset, Split, integer
from hvae_jax.data.fetch import Remote, fetch
from hvae_jax.data.prepare import split_off
from hvae_jax.data.tfds import is_prepared, original_order

ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR10 = Remote(
    "cifar10",
    ("https://www.cs.toronto.edu/~kriz/",),
    # TFDS 4.9.10, url_checksums/cifar10.txt
    {ARCHIVE: "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
)
_RECORD = 1 + 3 * 32 * 32


def cifar10(directory: str | None = None, *, remote: Remote = CIFAR10, held_out: int = 5_000) -> Dataset:
    """Images of ten classes of objects (Krizhevsky 2009), `[N, 32, 32, 3]` uint8 0..255, labels 0..9.

    45,000 train, 5,000 validation, 10,000 test: the validation split is the one that VDVAE draws from the 50,000
    (data.py of openai/vdvae: scikit-learn's train_test_split with random_state 11172018). NVAE trains on all 50,000
    and has no validation split; Efficient-VDVAE halves the test split. Published numbers are bits per dimension of
    8-bit pixels on the test split; NVAE and Efficient-VDVAE flip in training, VDVAE does not.

    The archive of raw bytes is fetched by pooch and kept in `directory`/cifar10; nothing is unpickled. If `directory`
    holds a copy that TFDS has prepared, that is read instead, in the order of the original files.

    Raises what `fetch` raises, and ValueError for an archive without the six files of whole records.
    """
    if is_prepared("cifar10", directory):
        splits = original_order("cifar10", directory)
    else:
        splits = read_archive(fetch(remote, directory)[ARCHIVE])
    count = len(splits["train"])
    # as scikit-learn's train_test_split does it
    held = np.random.RandomState(11172018).permutation(count)[:held_out]
    protocol = f"CIFAR-10, validation = the {held_out:,} train examples that VDVAE holds out"
    return Dataset("cifar10", split_off(splits, held), integer(256), protocol)


def read_archive(path: Path) -> dict[str, Split]:
    """Train and test splits of cifar-10-binary.tar.gz: records of a label and 3 x 32 x 32 bytes, red, green, blue."""
    names = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
    try:
        with tarfile.open(path, "r:gz") as archive:
            members = {Path(member.name).name: member for member in archive.getmembers() if member.isfile()}
            content = {
                part: b"".join(archive.extractfile(members[name]).read() for name in files)  # pyrefly: ignore
                for part, files in names.items()
            }
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, KeyError) as error:
        raise ValueError(f"{path} is no archive of CIFAR-10 ({error}). Remove it, and it is fetched anew.") from error
    return {part: _records(part, data, path) for part, data in content.items()}


def _records(part: str, data: bytes, path: Path) -> Split:
    if not data or len(data) % _RECORD:
        raise ValueError(f"{path}: {len(data):,} bytes of {part} are no whole records of {_RECORD:,}.")
    table = np.frombuffer(data, np.uint8).reshape(-1, _RECORD)
    x = np.ascontiguousarray(table[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return Split(x, table[:, 0].astype(np.int32))
