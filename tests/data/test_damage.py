"""Files damaged at random: whatever is refused is refused by an error of ours, in a line that names the file."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hvae_jax import data
from hvae_jax.data.images import BadImageError, CentreSquare, read_header, read_image

pytestmark = pytest.mark.slow

FORMATS = ("PNG", "JPEG", "GIF", "TIFF", "BMP", "PPM", "WEBP", "JPEG2000", "TGA")


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Cut short, with wrong bytes, with more bytes, or with a piece missing."""
    start, stop = sorted(rng.integers(0, len(content), 2))
    match rng.integers(4):
        case 0:
            return content[:stop]
        case 1:
            wrong = bytearray(content)
            for i in rng.integers(0, len(content), 4):
                wrong[i] = rng.integers(256)
            return bytes(wrong)
        case 2:
            return content[:start] + rng.bytes(20) + content[start:]
        case _:
            return content[:start] + content[stop:]


@pytest.mark.parametrize("seed", range(100))
def test_damaged_arrays(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 200, (30, 6, 6, 1)).astype((np.uint8, np.int64, np.float32, np.float64)[seed % 4])
    stream = io.BytesIO()
    (np.savez if seed % 3 else np.savez_compressed)(stream, x_train=x, y_train=np.arange(30) % 3)
    path = tmp_path / "mine.npz"
    path.write_bytes(damaged(stream.getvalue(), rng))
    try:
        dataset = data.load(str(path))
    except ValueError as error:
        said = str(error)
    else:
        assert len(dataset.splits["train"]) == 27
        return
    assert str(path) in said and "\n" not in said and len(said) < 700


@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_images(kind: str) -> None:
    rng = np.random.default_rng(0)
    stream = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(stream, kind)
    for _ in range(60):
        content = damaged(stream.getvalue(), rng)
        try:
            header, x = read_header(content), read_image(content, 3)
        except BadImageError:
            continue
        assert x.shape == (header.height, header.width, 3)
        assert read_image(content, 3, CentreSquare(8)).shape == (8, 8, 3)
