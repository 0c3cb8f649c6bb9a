"""Files from a server on loopback: right, wrong, cut short, kept; and the data sets that are made of them."""

import gzip
import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hvae_jax import data
from hvae_jax.data.cifar import ARCHIVE
from hvae_jax.data.dataset import BINARY
from hvae_jax.data.fetch import Remote, fetch, matches
from hvae_jax.data.mnist_family import MNIST, read_amat, read_idx
from hvae_jax.data.omniglot28 import FILE

RNG = np.random.default_rng(0)


class Server:
    """Serves `files`; `cut` says how many of the next transfers end half way; `asked` are the paths, in order."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut = 0
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rpartition("/")[2]
                outer.asked.append(self.path)
                content = outer.files.get(name)
                self.send_response(404 if content is None else 200)
                content = content or b""
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if outer.cut > 0:
                    outer.cut -= 1
                    content = content[: len(content) // 2]
                self.wfile.write(content)

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def remote(self, name: str = "mine", **contents: bytes) -> Remote:
        """Serves these files under their names, with their own checksums."""
        self.files |= contents
        return Remote(name, (self.url,), {file: sha256(content) for file, content in contents.items()})


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.stop()


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def left_over(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_file_is_fetched_once_and_kept(server: Server, tmp_path: Path) -> None:
    remote = server.remote(a=b"content of a", b=b"content of b")
    for _ in range(2):
        found = fetch(remote, tmp_path)
        assert {name: path.read_bytes() for name, path in found.items()} == {"a": b"content of a", "b": b"content of b"}
    assert server.asked == ["/a", "/b"]
    assert left_over(tmp_path) == ["mine/a", "mine/b"]
    server.stop()
    assert fetch(remote, str(tmp_path))["a"] == tmp_path / "mine" / "a"  # no network is needed any more


def test_a_file_beside_is_used(server: Server, tmp_path: Path) -> None:
    remote = server.remote(a=b"content of a")
    (tmp_path / "a").write_bytes(b"content of a")
    assert fetch(remote, tmp_path)["a"] == tmp_path / "a" and not server.asked
    (tmp_path / "a").write_bytes(b"something else")
    assert fetch(remote, tmp_path)["a"] == tmp_path / "mine" / "a"


def test_a_kept_file_that_went_bad_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    remote = server.remote(a=b"content of a")
    fetch(remote, tmp_path)["a"].write_bytes(b"content of b")
    assert fetch(remote, tmp_path)["a"].read_bytes() == b"content of a"
    assert server.asked == ["/a", "/a"]


def test_a_wrong_file_is_refused_and_removed(server: Server, tmp_path: Path) -> None:
    remote = server.remote(a=b"content of a")
    server.files["a"] = b"another content"
    with pytest.raises(ValueError, match="did not arrive as it should be") as raised:
        fetch(remote, tmp_path)
    said = str(raised.value)
    for what in (sha256(b"content of a")[7:], sha256(b"another content")[7:], f"{server.url}a", str(tmp_path / "mine")):
        assert what in said
    assert left_over(tmp_path) == []


def test_a_transfer_that_breaks_is_tried_again(server: Server, tmp_path: Path) -> None:
    remote = server.remote(a=b"content of a" * 1000)
    server.cut = 1
    assert matches(fetch(remote, tmp_path)["a"], remote.checksums["a"])
    assert server.asked == ["/a", "/a"] and left_over(tmp_path) == ["mine/a"]


def test_a_transfer_that_keeps_breaking_leaves_nothing(server: Server, tmp_path: Path) -> None:
    remote = server.remote(a=b"content of a" * 1000)
    server.cut = 100
    with pytest.raises((ValueError, FileNotFoundError), match="by hand") as raised:
        fetch(remote, tmp_path)
    assert f"{server.url}a" in str(raised.value) and str(tmp_path / "mine" / "a") in str(raised.value)
    assert left_over(tmp_path) == []


def test_the_next_mirror_is_asked(server: Server, tmp_path: Path) -> None:
    remote = server.remote(a=b"content of a")
    server.files["moved"] = b""
    mirrors = (f"{server.url}gone/no-", server.url)
    assert fetch(Remote("mine", mirrors, remote.checksums), tmp_path)["a"].read_bytes() == b"content of a"
    assert server.asked == ["/gone/no-a", "/gone/no-a", "/a"]


def test_without_a_network_the_address_and_the_place_are_named(server: Server, tmp_path: Path) -> None:
    server.stop()
    remote = Remote("mnist", (server.url, f"{server.url}other/"), MNIST.checksums)
    with pytest.raises(FileNotFoundError, match="could not be fetched") as raised:
        data.mnist(str(tmp_path), remote=remote)
    name = "train-images-idx3-ubyte.gz"
    for what in (f"{server.url}{name}", f"{server.url}other/{name}", str(tmp_path / "mnist" / name), "by hand"):
        assert what in str(raised.value)


def test_a_git_id_is_a_checksum(server: Server, tmp_path: Path) -> None:
    remote = server.remote(a=b"hello\n")
    remote = Remote("mine", remote.mirrors, {"a": "git:ce013625030ba8dba906f756967f9e9ca394464a"})  # git hash-object
    assert fetch(remote, tmp_path)["a"].read_bytes() == b"hello\n"
    server.files["a"] = b"Hello\n"
    (tmp_path / "mine" / "a").unlink()
    with pytest.raises(ValueError, match="ce013625030ba8dba906f756967f9e9ca394464a is expected"):
        fetch(remote, tmp_path)
    assert left_over(tmp_path) == []


def idx(array: np.ndarray) -> bytes:
    header = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(header + array.tobytes())


def mnist_files(n: int = 12, test: int = 5) -> tuple[dict[str, bytes], np.ndarray, np.ndarray]:
    x = RNG.integers(0, 256, (n + test, 28, 28), dtype=np.uint8)
    y = RNG.integers(0, 10, n + test, dtype=np.uint8)
    x[0, 0, 0] = 255
    files = {
        "train-images-idx3-ubyte.gz": idx(x[:n]),
        "train-labels-idx1-ubyte.gz": idx(y[:n]),
        "t10k-images-idx3-ubyte.gz": idx(x[n:]),
        "t10k-labels-idx1-ubyte.gz": idx(y[n:]),
    }
    return files, x[..., None], y


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mnist_from_its_files(name: str, server: Server, tmp_path: Path) -> None:
    files, x, y = mnist_files()
    remote = server.remote(name, **files)
    dataset = getattr(data, name)(str(tmp_path), remote=remote, held_out=3)
    assert {part: len(split) for part, split in dataset.splits.items()} == {"train": 9, "validation": 3, "test": 5}
    assert dataset.name == name and dataset.kind == data.integer(256) and dataset.event == (28, 28, 1)
    np.testing.assert_array_equal(np.concatenate([split.x for split in dataset.splits.values()]), x)
    np.testing.assert_array_equal(np.concatenate([split.y for split in dataset.splits.values()]), y)
    assert dataset.splits["train"].x.dtype == np.uint8 and "last 3 train examples" in dataset.protocol


def test_binarized_mnist_from_its_files(server: Server, tmp_path: Path) -> None:
    x = RNG.integers(0, 2, (6, 784), dtype=np.uint8)
    lines = [(" ".join(map(str, row)) + "\n").encode() for row in x]
    parts = {"train": lines[:3], "valid": lines[3:5], "test": lines[5:]}
    remote = server.remote(
        "binarized_mnist", **{f"binarized_mnist_{part}.amat": b"".join(content) for part, content in parts.items()}
    )
    dataset = data.binarized_mnist(str(tmp_path), remote=remote)
    assert dataset.kind == BINARY and dataset.event == (28, 28, 1) and dataset.classes == 0
    np.testing.assert_array_equal(np.concatenate([s.x for s in dataset.splits.values()]).reshape(6, 784), x)
    bad = tmp_path / "bad.amat"
    for content in (b"0 1 2\n", lines[0][:-2], lines[0].replace(b"1", b"2"), b""):
        bad.write_bytes(content)
        if content:
            with pytest.raises(ValueError, match=r"bad\.amat"):
                read_amat(bad)


@pytest.mark.parametrize(
    "content",
    [b"no gzip", gzip.compress(b"\0\0\x0d\1\0\0\0\1x"), idx(np.zeros(9, np.uint8))[:-9]],
    ids=["no gzip", "of floats", "cut short"],  # the contents hold the time
)
def test_idx_files_that_are_none(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.gz .*Remove it"):
        read_idx(path)
    path.write_bytes(gzip.compress(b"\0\0\x08\1\0\0\0\5abc"))
    with pytest.raises(ValueError, match="cut short"):
        read_idx(path)


def cifar_archive(x: np.ndarray, y: np.ndarray, without: str = "") -> bytes:
    """cifar-10-binary.tar.gz of six files with as many images each."""
    stream = io.BytesIO()
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, images, labels in zip(names, np.split(x, 6), np.split(y, 6), strict=True):
            flat = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
            content = np.concatenate([labels[:, None], flat], 1).astype(np.uint8).tobytes()
            if name != without:
                member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def test_cifar10_from_its_archive(server: Server, tmp_path: Path) -> None:
    """The validation split is scikit-learn's, as VDVAE draws it."""
    from sklearn.model_selection import train_test_split

    x, y = RNG.integers(0, 256, (24, 32, 32, 3), dtype=np.uint8), RNG.integers(0, 10, 24, dtype=np.uint8)
    dataset = data.cifar10(str(tmp_path), remote=server.remote("cifar10", **{ARCHIVE: cifar_archive(x, y)}), held_out=4)
    assert {part: len(split) for part, split in dataset.splits.items()} == {"train": 16, "validation": 4, "test": 4}
    train, validation = train_test_split(np.arange(20), test_size=4, random_state=11172018)
    for part, rows in (("train", train), ("validation", validation), ("test", np.arange(20, 24))):
        np.testing.assert_array_equal(dataset.splits[part].x, x[np.sort(rows)])
        np.testing.assert_array_equal(dataset.splits[part].y, y[np.sort(rows)])


def test_cifar10_archives_that_will_not_do(server: Server, tmp_path: Path) -> None:
    x, y = np.zeros((6, 32, 32, 3), np.uint8), np.zeros(6, np.uint8)
    whole = cifar_archive(x, y)
    for name, content in (("a", whole[:-200]), ("b", b"nothing"), ("c", cifar_archive(x, y, "data_batch_3.bin"))):
        with pytest.raises(ValueError, match=r"is no archive of CIFAR-10"):
            data.cifar10(str(tmp_path / name), remote=server.remote(name, **{ARCHIVE: content}))


def test_omniglot_from_chardata(server: Server, tmp_path: Path) -> None:
    """As the IWAE code reads it: columns of column-major pictures, and its own split."""
    import scipy.io

    grey = RNG.integers(0, 256, (13, 28, 28), dtype=np.uint8)
    letters = np.eye(5)[:, RNG.integers(0, 5, 13)]
    columns = grey.transpose(0, 2, 1).reshape(13, 784).T / 255
    stream = io.BytesIO()
    scipy.io.savemat(
        stream,
        {
            "data": columns[:, :10],
            "testdata": columns[:, 10:],
            "target": letters[:, :10],
            "testtarget": letters[:, 10:],
        },
    )
    remote = server.remote("omniglot", **{FILE: stream.getvalue()})
    dataset = data.omniglot(str(tmp_path / "cache"), remote=remote, held_out=3)
    order = np.random.RandomState(seed=123).permutation(10)
    for part, rows in (("train", order[:-3]), ("validation", order[-3:]), ("test", np.arange(10, 13))):
        np.testing.assert_array_equal(dataset.splits[part].x[..., 0], grey[np.sort(rows)])
        np.testing.assert_array_equal(dataset.splits[part].y, letters.argmax(0)[np.sort(rows)])

    asked = len(server.asked)
    (tmp_path / FILE).write_bytes(stream.getvalue())  # a user's own copy
    assert data.omniglot(str(tmp_path), held_out=3).content_hash == dataset.content_hash and len(server.asked) == asked
    scipy.io.savemat(tmp_path / FILE, {"data": columns * 2})
    with pytest.raises(ValueError, match=r"values in \[0, 1\]"):
        data.omniglot(str(tmp_path))
    scipy.io.savemat(tmp_path / FILE, {"data": columns * np.nan})
    with pytest.raises(ValueError, match=r"values in \[0, 1\]"):
        data.omniglot(str(tmp_path))
    (tmp_path / FILE).write_bytes(b"MATLAB 5.0 but not really")
    with pytest.raises(ValueError, match="cannot be read as a MATLAB file"):
        data.omniglot(str(tmp_path))
