"""A folder of images: what is read, how it is split, and every bad file."""

import pickle
import struct
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from hvae_jax import data
from hvae_jax.data.dataset import integer
from hvae_jax.data.images import CentreSquare

RNG = np.random.default_rng(0)


def picture(height: int = 6, width: int = 6, channels: int = 3) -> np.ndarray:
    x = RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)
    return x[..., 0] if channels == 1 else x


def save(path: Path, x: np.ndarray | None = None, **settings: object) -> np.ndarray:
    x = picture() if x is None else x
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(x).save(path, **settings)
    return x


def fill(folder: Path, n: int = 12, **settings: int) -> dict[str, np.ndarray]:
    """n pictures named 00.png and so on, by name."""
    return {f"{i:02d}.png": save(folder / f"{i:02d}.png", picture(**settings)) for i in range(n)}


def test_pixels_order_and_split(tmp_path: Path) -> None:
    pictures = fill(tmp_path, 30)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.png").write_bytes(b"")
    dataset = data.load(str(tmp_path))
    assert dataset.kind == integer(256) and dataset.event == (6, 6, 3) and dataset.classes == 0
    assert {part: len(split) for part, split in dataset.splits.items()} == {"train": 27, "validation": 3}
    everything = np.stack([pictures[name] for name in sorted(pictures)])
    found = np.concatenate([split.x for split in dataset.splits.values()])
    assert {x.tobytes() for x in found} == {x.tobytes() for x in everything}
    rows = [everything.tolist().index(x.tolist()) for x in dataset.splits["train"].x]
    assert rows == sorted(rows)
    assert data.load(f"{tmp_path}/").content_hash == dataset.content_hash
    assert "by hash of their names" in dataset.protocol


def test_more_files_barely_change_the_split(tmp_path: Path) -> None:
    pictures = fill(tmp_path, 40)
    before = {x.tobytes() for x in data.load(str(tmp_path)).splits["validation"].x}
    pictures |= {"new.png": save(tmp_path / "new.png")}
    after = {x.tobytes() for x in data.load(str(tmp_path)).splits["validation"].x}
    assert len(before & after) >= len(before) - 1


def test_split_folders_and_classes(tmp_path: Path) -> None:
    wanted: dict[str, list[np.ndarray]] = {}
    for part, n in (("train", 4), ("val", 2), ("test", 3)):
        for kind in ("cat", "ant/winged", "bee"):
            wanted.setdefault(part, []).extend(save(tmp_path / part / kind / f"{i}.bmp") for i in range(n))
    save(tmp_path / "beside.png", picture(9, 9))
    with pytest.warns(UserWarning, match=r"images beside the folders of the splits \(1\)"):
        dataset = data.from_folder(tmp_path)
    (tmp_path / "beside.png").unlink()
    assert list(dataset.splits) == ["train", "validation", "test"] and dataset.classes == 3
    for part, split in zip(wanted, dataset.splits.values(), strict=True):
        n = len(wanted[part]) // 3
        np.testing.assert_array_equal(split.y, np.repeat([0, 1, 2], n))  # ant, bee, cat
        order = [*range(n, 2 * n), *range(2 * n, 3 * n), *range(n)]
        np.testing.assert_array_equal(split.x, np.stack([wanted[part][i] for i in order]))
    save(tmp_path / "train" / "classless.bmp")
    assert data.from_folder(tmp_path).classes == 0


def test_classes_without_split_folders_and_one_folder_is_no_class(tmp_path: Path) -> None:
    for kind in ("a", "b"):
        fill(tmp_path / kind, 10)
    dataset = data.from_folder(tmp_path)
    assert dataset.classes == 2 and len(dataset.splits["validation"]) == 2
    fill(tmp_path / "other" / "train" / "train_32x32", 5)
    fill(tmp_path / "other" / "test" / "valid_32x32", 3)
    nested = data.from_folder(tmp_path / "other")
    assert nested.classes == 0
    assert [len(split) for split in nested.splits.values()] == [4, 1, 3]


def test_a_link_in_a_circle_ends(tmp_path: Path) -> None:
    fill(tmp_path / "a", 4)
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert sum(len(split) for split in data.from_folder(tmp_path).splits.values()) == 4


def test_every_common_format(tmp_path: Path) -> None:
    x = picture(8, 8)
    for suffix in ("png", "bmp", "tif", "ppm", "webp", "gif", "jpg", "JPEG"):
        save(tmp_path / f"x.{suffix}", x, **({"lossless": True} if suffix == "webp" else {}))
    dataset = data.load(str(tmp_path))
    found = np.concatenate([split.x for split in dataset.splits.values()]).astype(int)
    assert found.shape == (8, 8, 8, 3)
    assert (np.abs(found - x).max((1, 2, 3)) == 0).sum() == 6  # all but the JPEGs


def test_grey_pictures_have_one_channel_unless_one_is_coloured(tmp_path: Path) -> None:
    fill(tmp_path, 4, channels=1)
    Image.fromarray(picture(channels=1)).convert("1").save(tmp_path / "bits.png")
    dataset = data.from_folder(tmp_path)
    assert dataset.event == (6, 6, 1)
    assert data.load(str(tmp_path), binarise="dynamic").augment.binarise == 256
    save(tmp_path / "colour.png")
    assert data.from_folder(tmp_path).event == (6, 6, 3)
    with pytest.raises(ValueError, match="grey images"):
        data.load(str(tmp_path), binarise="static")


def test_palettes_and_transparency_are_converted(tmp_path: Path) -> None:
    rgba = np.zeros((6, 6, 4), np.uint8)
    rgba[:3] = [200, 100, 50, 255]
    rgba[3:, :, 3] = 0
    Image.fromarray(rgba, "RGBA").save(tmp_path / "a.png")
    Image.fromarray(rgba[..., :3]).quantize(4).save(tmp_path / "b.png")
    Image.fromarray(rgba[..., [0, 3]], "LA").save(tmp_path / "c.png")
    dataset = data.from_folder(tmp_path)
    by_size = {x.tobytes() for split in dataset.splits.values() for x in split.x}
    seen = rgba[..., :3].copy()
    seen[3:] = 255  # on white
    grey = np.repeat(np.where(np.arange(6)[:, None, None] < 3, 200, 255), 6, 1).repeat(3, 2).astype(np.uint8)
    assert by_size == {seen.tobytes(), rgba[..., :3].tobytes(), grey.tobytes()}


def test_exif_turns_pictures(tmp_path: Path) -> None:
    x = picture(4, 6)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.png", "b.png"):
        save(tmp_path / name, x, exif=exif)
    dataset = data.from_folder(tmp_path)
    assert dataset.event == (6, 4, 3)
    np.testing.assert_array_equal(dataset.splits["train"].x[0], np.rot90(x, -1))


def test_size_resizes_the_shorter_side_and_crops_the_centre(tmp_path: Path) -> None:
    wide, tall, same = picture(8, 20), picture(30, 10), picture(4, 4)
    for name, x in (("a", wide), ("b", tall), ("c", same)):
        save(tmp_path / f"{name}.png", x)
    dataset = data.load(str(tmp_path), size=4)
    found = {x.tobytes() for split in dataset.splits.values() for x in split.x}
    small = Image.fromarray(wide).resize((10, 4), Image.Resampling.BICUBIC).crop((3, 0, 7, 4))
    narrow = Image.fromarray(tall).resize((4, 12), Image.Resampling.BICUBIC).crop((0, 4, 4, 8))
    assert found == {np.asarray(small).tobytes(), np.asarray(narrow).tobytes(), same.tobytes()}
    assert "resized to 4 (bicubic), centre cropped" in dataset.protocol
    assert data.load(str(tmp_path), size=9).event == (9, 9, 3)
    for size in (0, -3):
        with pytest.raises(ValueError, match="1 or more"):
            data.load(str(tmp_path), size=size)


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (100, 33), (33, 100), (3, 1000)])
def test_any_shape_comes_out_square(shape: tuple[int, int]) -> None:
    assert CentreSquare(16)(Image.new("L", shape)).size == (16, 16)


def test_mixed_sizes_are_named(tmp_path: Path) -> None:
    fill(tmp_path, 4)
    save(tmp_path / "z.png", picture(7, 9))
    with pytest.raises(ValueError, match=r"00\.png has 6 x 6 .*z\.png has 7 x 9: .*--data\.size N"):
        data.load(str(tmp_path))


def deep_png(path: Path) -> None:
    """A PNG of 16 bits a channel in colour, which Pillow would cut to 8 without a word."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + bytes(6 * 6) for _ in range(6))
    header = struct.pack(">IIBBBBB", 6, 6, 16, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def cut(path: Path, keep: float = 0.6) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def truncated(path: Path) -> None:
    save(path)
    cut(path, 0.95 if path.suffix == ".jpg" else 0.6)  # behind the header


def animated(path: Path) -> None:
    frames = [Image.fromarray(picture()) for _ in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def bomb(path: Path) -> None:
    Image.new("1", (20_000, 10_000)).save(path)


BAD: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "empty": ("x.png", lambda path: path.write_bytes(b""), "is empty"),
    "no picture": ("x.jpg", lambda path: path.write_bytes(b"hello" * 30), "no image that Pillow can read"),
    "truncated PNG": ("x.png", truncated, "cannot be"),
    "truncated JPEG": ("x.jpg", truncated, "cannot be decoded"),
    "16 bits": ("x.png", lambda path: Image.fromarray(picture(channels=1).astype(np.uint16)).save(path), "16 bits"),
    "16 bits a colour": ("x.png", deep_png, "16 bits"),
    "16 bits in a PPM": ("x.ppm", lambda path: path.write_bytes(b"P6 6 6 65535 " + bytes(216)), "16 bits"),
    "floats": ("x.tif", lambda path: Image.fromarray(picture(channels=1) / np.float32(9)).save(path), "floating point"),
    "animated GIF": ("x.gif", animated, "3 frames"),
    "animated WebP": ("x.webp", animated, "3 frames"),
    "pages": ("x.tif", animated, "3 frames"),
    "CMYK": ("x.jpg", lambda path: Image.fromarray(picture()).convert("CMYK").save(path), "CMYK"),
    "too large": ("x.png", bomb, "pixels"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_named_and_refused_or_skipped(kind: str, tmp_path: Path) -> None:
    name, make, reason = BAD[kind]
    fill(tmp_path, 5)
    make(tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(ValueError, match=rf"{tmp_path / name} .*{reason}") as raised:
            data.load(str(tmp_path))
        assert "--data.bad-files skip" in str(raised.value)
        with pytest.warns(UserWarning, match=rf"(?s)Left out: one file is.*{tmp_path / name} .*{reason}"):
            dataset = data.load(str(tmp_path), bad_files="skip")
    assert sum(len(split) for split in dataset.splits.values()) == 5
    assert "bad files skipped: 1" in dataset.protocol


def test_many_bad_files_are_counted_and_a_few_named(tmp_path: Path) -> None:
    fill(tmp_path, 5)
    for i in range(8):
        (tmp_path / f"bad{i}.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="Left out") as caught:
        data.load(str(tmp_path), bad_files="skip")
    said = [str(warning.message) for warning in caught]
    assert len(said) == 1 and "8 files are" in said[0] and "and 3 more" in said[0] and said[0].count("bad") >= 5


def test_folders_that_will_not_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        data.load(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="holds no images"):
        data.load(str(tmp_path))
    save(tmp_path / "one.png")
    with pytest.raises(ValueError, match="at least 2"):
        data.load(str(tmp_path))
    (tmp_path / "one.png").write_bytes(b"")
    with pytest.raises(ValueError, match="will do"):
        data.load(str(tmp_path), bad_files="skip")
    with pytest.raises(ValueError, match="refuse and skip"):
        data.load(str(tmp_path), bad_files="ignore")


@pytest.mark.parametrize("size", [None, 4])
@pytest.mark.parametrize("settings", [{}, {"bits": 5, "flip": True}])
def test_lazy_is_as_in_memory(size: int | None, settings: dict[str, int], tmp_path: Path) -> None:
    fill(tmp_path, 25)
    plain = data.load(str(tmp_path), size=size, **settings)
    lazy = data.load(str(tmp_path), size=size, in_memory_bytes=10 * 6 * 6 * 3, **settings)
    assert not isinstance(lazy.splits["train"].x, np.ndarray) and isinstance(lazy.splits["validation"].x, np.ndarray)
    rows = pickle.loads(pickle.dumps(lazy.splits["train"].x))
    np.testing.assert_array_equal(rows[:], plain.splits["train"].x)
    orders = [np.random.default_rng(seed).integers(0, len(rows), 9) for seed in range(12)]
    with ThreadPoolExecutor(6) as pool:
        for order, x in zip(orders, pool.map(rows.__getitem__, orders), strict=True):
            np.testing.assert_array_equal(x, plain.splits["train"].x[order])
    assert lazy.event == plain.event and lazy.protocol == plain.protocol


def test_a_file_that_goes_bad_later_is_named(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    rows = data.load(str(tmp_path), in_memory_bytes=0).splits["train"].x
    before = rows.fingerprint
    name = rows.names[3]
    cut(tmp_path / name)
    for break_it in (lambda: None, lambda: save(tmp_path / name, picture(9, 9)), (tmp_path / name).unlink):
        break_it()
        with pytest.raises(ValueError, match=rf"{tmp_path / name} .*header was fine"):
            rows[np.array([2, 3])]
    np.testing.assert_array_equal(rows[:3].shape, (3, 6, 6, 3))
    fill(tmp_path, 10)
    assert data.load(str(tmp_path), in_memory_bytes=0).splits["train"].x.fingerprint != before


def test_turning_agrees_with_pillow(tmp_path: Path) -> None:
    """All eight orientations: the header's size is the picture's."""
    x = picture(4, 6)
    for way in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = way
        folder = tmp_path / str(way)
        for name in ("a.jpg", "b.jpg"):
            save(folder / name, x, exif=exif, quality=95)
        turned = ImageOps.exif_transpose(Image.open(folder / "a.jpg"))
        np.testing.assert_array_equal(data.from_folder(folder).splits["train"].x[0], np.asarray(turned))
