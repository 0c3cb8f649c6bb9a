"""MNIST, Fashion-MNIST and Larochelle's binarised MNIST, without TensorFlow."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from hvae_jax.data.dataset import BINARY, Dataset, Split, integer
from hvae_jax.data.fetch import Remote, fetch
from hvae_jax.data.prepare import split_off
from hvae_jax.data.tfds import is_prepared, original_order

# Checksums: those of TFDS 4.9.10 (url_checksums/, datasets/binarized_mnist/checksums.tsv).
MNIST = Remote(
    "mnist",
    ("https://storage.googleapis.com/cvdf-datasets/mnist/", "https://ossci-datasets.s3.amazonaws.com/mnist/"),
    {
        "train-images-idx3-ubyte.gz": "sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte.gz": "sha256:3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte.gz": "sha256:8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "sha256:f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
)
FASHION_MNIST = Remote(
    "fashion_mnist",
    (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    ),
    {
        "train-images-idx3-ubyte.gz": "sha256:3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte.gz": "sha256:a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte.gz": "sha256:346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte.gz": "sha256:67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
)
BINARIZED_MNIST = Remote(
    "binarized_mnist",
    ("http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",),
    {
        "binarized_mnist_train.amat": "sha256:ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
        "binarized_mnist_valid.amat": "sha256:1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
        "binarized_mnist_test.amat": "sha256:e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
    },
)


def mnist(directory: str | None = None, *, remote: Remote = MNIST, held_out: int = 10_000) -> Dataset:
    """Handwritten digits (LeCun et al. 1998), `[N, 28, 28, 1]` uint8 grey 0..255, labels 0..9.

    50,000 train, 10,000 validation, 10,000 test: the last `held_out` of the file's 60,000 train digits are the
    validation split, as in the literature since Larochelle & Murray (2011). Papers that train on all 60,000 (Burda et
    al. 2016 keep 400 to validate on) have 20% more data.

    Pixels are grey as stored. Hierarchical VAEs are compared on binary pixels, by one of two protocols that differ by
    several nats: `binarise="dynamic"` here, or the fixed pixels of `binarized_mnist`.

    The four files are fetched by pooch and kept in `directory`/mnist. If `directory` holds a copy that TFDS has
    prepared, that is read instead, in the order of the original files: the data set is the same, bit for bit.

    Raises what `fetch` raises, and ValueError for files that are not of the idx format.
    """
    return _of_idx(directory, remote, held_out, "MNIST")


def fashion_mnist(directory: str | None = None, *, remote: Remote = FASHION_MNIST, held_out: int = 10_000) -> Dataset:
    """Images of clothes (Xiao et al. 2017), `[N, 28, 28, 1]` uint8 grey 0..255, labels 0..9.

    50,000 train, 10,000 validation (the last of the file's 60,000 train images), 10,000 test. Pixels are grey as
    stored; papers binarise them dynamically or at 1/2, so say which. Otherwise as `mnist`.
    """
    return _of_idx(directory, remote, held_out, "Fashion-MNIST")


def binarized_mnist(directory: str | None = None, *, remote: Remote = BINARIZED_MNIST) -> Dataset:
    """MNIST with the fixed binarisation of Larochelle & Murray (2011), `[N, 28, 28, 1]` uint8 0 and 1, no labels.

    50,000 train, 10,000 validation, 10,000 test. Each pixel was drawn once with its grey value as the probability,
    which is the static protocol. Models over-fit it by several nats more than dynamically binarised MNIST, so that
    numbers of the two do not compare (Burda et al. 2016).

    The three files are fetched by pooch and kept in `directory`/binarized_mnist, or TFDS's copy is read, as for
    `mnist`.

    Raises what `fetch` raises, and ValueError for files that do not hold 784 zeros and ones a line.
    """
    protocol = "MNIST, Larochelle & Murray's static binarisation, 50,000/10,000/10,000"
    if is_prepared("binarized_mnist", directory):
        splits = original_order("binarized_mnist", directory)
    else:
        files = fetch(remote, directory)
        splits = {
            part: Split(read_amat(files[f"binarized_mnist_{short}.amat"]))
            for part, short in (("train", "train"), ("validation", "valid"), ("test", "test"))
        }
    return Dataset("binarized_mnist", splits, BINARY, protocol)


def _of_idx(directory: str | None, remote: Remote, held_out: int, called: str) -> Dataset:
    if is_prepared(remote.name, directory):
        splits = original_order(remote.name, directory)
    else:
        files = fetch(remote, directory)
        splits = {
            part: Split(
                read_idx(files[f"{short}-images-idx3-ubyte.gz"])[..., None],
                read_idx(files[f"{short}-labels-idx1-ubyte.gz"]).astype(np.int32),
            )
            for part, short in (("train", "train"), ("test", "t10k"))
        }
    protocol = f"{called}, validation = last {held_out:,} train examples in the order of the original files"
    return Dataset(remote.name, split_off(splits, held_out), integer(256), protocol)


def read_idx(path: Path) -> np.ndarray:
    """The array of a gzipped file in MNIST's idx format.

    Two zeros, an 8 for bytes, the number of axes, their lengths as big-endian 32-bit numbers, and the bytes.

    Raises ValueError for anything else.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be decompressed ({error}). Remove it, and it is fetched anew.") from error
    axes = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    start = 4 + 4 * axes
    shape = tuple(int(n) for n in np.frombuffer(content[4:start], ">u4")) if len(content) >= start else ()
    if not axes or len(content) - start != np.prod(shape):
        raise ValueError(f"{path} is not of the idx format, or is cut short. Remove it, and it is fetched anew.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def read_amat(path: Path) -> np.ndarray:
    """The array of lines of 784 digits 0 and 1 with spaces between, uint8 `[N, 28, 28, 1]`.

    Raises ValueError for anything else.
    """
    content = np.frombuffer(path.read_bytes(), np.uint8)
    if content.size % (2 * 784) == 0:
        table = content.reshape(-1, 784, 2)  # a digit, and a space or, after the last of a line, its end
        ends = table[:, :, 1]
        if np.isin(table[:, :, 0], (48, 49)).all() and (ends[:, :-1] == 32).all() and (ends[:, -1] == 10).all():
            return (table[:, :, 0] - 48).reshape(-1, 28, 28, 1)
    raise ValueError(f"{path} does not hold lines of 784 digits 0 and 1. Remove it, and it is fetched anew.")
