"""TFDS's real builders, run without TensorFlow on small raw files of the right format."""

import importlib.resources.abc
import io
import sys
import tarfile
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (16, 28, 28, 1), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (13, 32, 32, 3), dtype=np.uint8)
LABELS = RNG.integers(0, 10, 16, dtype=np.uint8)
FACES = RNG.integers(0, 256, (6, 218, 178, 3), dtype=np.uint8)
STROKES = 255 * RNG.integers(0, 2, (9, 105, 105), dtype=np.uint8)


def png(x: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(x.squeeze()).save(stream, "PNG")
    return stream.getvalue()


class GFile(io.FileIO):
    """A file like TensorFlow's, which can be read after `with` has closed it."""

    def __exit__(self, *_: object) -> None:
        pass


def prepare(name: str, raw: dict[str, Path], where: Path) -> None:
    """Runs the builder of that name on raw files; `raw` maps the end of each URL or archive name to a path.

    The builders use TensorFlow to read files and encode PNGs: Python and Pillow do that here. Downloading and
    extracting are replaced by a look-up in `raw`.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import extractor
    from tensorflow_datasets.core.features import image_feature
    from tensorflow_datasets.image_classification import mnist

    def found(self: Any, resources: Any) -> Any:
        if isinstance(resources, dict):
            return {key: found(self, resource) for key, resource in resources.items()}
        if isinstance(resources, list):
            return [found(self, resource) for resource in resources]
        return next(path for end, path in raw.items() if str(resources).endswith(end))

    def listdir(folder: str) -> list[str]:
        return sorted(path.name for path in Path(folder).iterdir())

    gfile = types.SimpleNamespace(GFile=GFile, listdir=listdir)
    tensorflow = types.SimpleNamespace(io=types.SimpleNamespace(gfile=gfile))
    resources = types.ModuleType("importlib_resources")
    resources.abc = importlib.resources.abc
    own_module = sys.modules[tfds.builder_cls(name.partition("/")[0]).__module__]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "importlib_resources", resources)
        for module in (extractor, mnist, own_module):
            patch.setattr(module, "tf", tensorflow, raising=False)
        for module, constant, count in (
            (mnist, "_TRAIN_EXAMPLES", 11), (mnist, "_TEST_EXAMPLES", 5),
            (own_module, "_NUM_CLASSES", len(STROKES)), (own_module, "_NUM_ALPHABETS", 2),
        ):  # fmt: skip
            patch.setattr(module, constant, count, raising=False)
        for method in ("download", "download_and_extract", "extract"):
            patch.setattr(tfds.download.DownloadManager, method, found)
        patch.setattr(image_feature._ImageEncoder, "_encode_image", lambda self, x: png(x))
        tfds.builder(name, data_dir=where, file_format="array_record").download_and_prepare()


def file(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def raw_mnist(folder: Path) -> dict[str, Path]:
    parts = {"train": (GREY[:11], LABELS[:11]), "t10k": (GREY[11:], LABELS[11:])}
    raw = {}
    for part, (x, y) in parts.items():
        raw[f"{part}-images-idx3-ubyte.gz"] = file(folder / f"{part}-images", idx(x[..., 0]))
        raw[f"{part}-labels-idx1-ubyte.gz"] = file(folder / f"{part}-labels", idx(y))
    return raw


def raw_binarized_mnist(folder: Path) -> dict[str, Path]:
    x = (GREY > 127).astype(int).reshape(16, 784)
    parts = {"train": x[:9], "valid": x[9:13], "test": x[13:]}
    lines = {part: "".join(" ".join(map(str, row)) + "\n" for row in rows) for part, rows in parts.items()}
    return {f"{part}.amat": file(folder / f"{part}.amat", text.encode()) for part, text in lines.items()}


def raw_cifar10(folder: Path) -> dict[str, Path]:
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    for i, name in enumerate(names):
        x, y = COLOUR[2 * i : 2 * i + 2], LABELS[2 * i : 2 * i + 2]
        flat = x.transpose(0, 3, 1, 2).reshape(2, -1)
        file(folder / "cifar-10-batches-bin" / name, np.concatenate([y[:, None], flat], 1).tobytes())
    file(folder / "cifar-10-batches-bin" / "batches.meta.txt", "\n".join("abcdefghij").encode())
    return {"cifar-10-binary.tar.gz": folder}


def raw_svhn_cropped(folder: Path) -> dict[str, Path]:
    import scipy.io

    raw = {}
    for part, rows in {"train": slice(0, 9), "test": slice(9, 13), "extra": slice(0, 2)}.items():
        stream = io.BytesIO()
        y = np.where(LABELS[rows] == 0, 10, LABELS[rows])[: len(COLOUR[rows]), None]
        scipy.io.savemat(stream, {"X": COLOUR[rows].transpose(1, 2, 3, 0), "y": y})
        raw[f"{part}_32x32.mat"] = file(folder / f"{part}_32x32.mat", stream.getvalue())
    return raw


def raw_imagenet_resized(folder: Path) -> dict[str, Path]:
    raw = {}
    for part, rows in {"train": slice(0, 9), "val": slice(9, 13)}.items():
        stream = io.BytesIO()
        flat = COLOUR[rows].transpose(0, 3, 1, 2).reshape(-1, 3 * 32 * 32)
        np.savez(stream, data=flat, labels=LABELS[rows].astype(int)[: len(flat)] + 1)
        name = f"Imagenet32_{part}_npz.zip"
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr(f"{part}.npz", stream.getvalue())
        raw[name] = folder / name
    return raw


def raw_downsampled_imagenet(folder: Path) -> dict[str, Path]:
    raw = {}
    for part, rows in {"train": slice(0, 9), "valid": slice(9, 13)}.items():
        name = f"{part}_32x32.tar"
        with tarfile.open(folder / name, "w") as archive:
            for i, x in enumerate(COLOUR[rows]):
                member = tarfile.TarInfo(f"{part}_32x32/{i:07d}.png")
                member.size = len(png(x))
                archive.addfile(member, io.BytesIO(png(x)))
        raw[name] = folder / name
    return raw


def raw_celeb_a(folder: Path) -> dict[str, Path]:
    from tensorflow_datasets.datasets.celeb_a import celeb_a_dataset_builder as celeb_a

    names = [f"{i:06d}.jpg" for i in range(len(FACES))]
    with zipfile.ZipFile(folder / "faces.zip", "w") as archive:
        for name, x in zip(names, FACES, strict=True):
            archive.writestr(f"img_align_celeba/{name}", png(x))  # lossless, to compare pixels

    def table(headings: list[str], value: str) -> bytes:
        rows = (" ".join([name, *[value] * len(headings)]) for name in names)
        return "\n".join([str(len(names)), " ".join(headings), *rows, ""]).encode()

    parts = "".join(f"{name} {part}\n" for name, part in zip(names, [0, 0, 0, 1, 2, 2], strict=True))
    identity = "".join(f"{name} 7\n" for name in names)
    return {
        celeb_a.IMG_ALIGNED_DATA: folder / "faces.zip",
        celeb_a.EVAL_LIST: file(folder / "parts.txt", parts.encode()),
        celeb_a.ATTR_DATA: file(folder / "attributes.txt", table(celeb_a.ATTR_HEADINGS, "-1")),
        celeb_a.LANDMARKS_DATA: file(folder / "landmarks.txt", table(celeb_a.LANDMARK_HEADINGS, "5")),
        celeb_a.IDENTITY_DATA: file(folder / "identity.txt", identity.encode()),
    }


def raw_omniglot(folder: Path) -> dict[str, Path]:
    """One alphabet in each archive, one drawing of each letter."""
    parts = {"background": range(6), "evaluation": range(6, 9), "background_small1": [0], "background_small2": [1]}
    for part, rows in parts.items():
        for i in rows:
            alphabet = folder / part / "images" / ("Alphabet" if i < 6 else "Another")
            file(alphabet / f"character{i + 1:02d}" / f"{i + 1:04d}_01.png", png(STROKES[i]))
    return {f"images_{part}.zip": folder / part for part in parts}


RAW = {
    "mnist": raw_mnist,
    "fashion_mnist": raw_mnist,
    "binarized_mnist": raw_binarized_mnist,
    "omniglot": raw_omniglot,
    "cifar10": raw_cifar10,
    "svhn_cropped": raw_svhn_cropped,
    "imagenet_resized/32x32": raw_imagenet_resized,
    "downsampled_imagenet/32x32": raw_downsampled_imagenet,
    "celeb_a": raw_celeb_a,
}
