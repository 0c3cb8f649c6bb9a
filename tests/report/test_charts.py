"""Examples as images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hvae_jax.report.charts import as_images, grid_picture, save_columns, save_grids
from hvae_jax.report.heat_maps import folded, is_table, scaled


@pytest.mark.parametrize(
    ("event", "image"),
    [
        ((4, 5, 1), (4, 5)),
        ((4, 5, 2), (4, 10)),
        ((4, 5, 3), (4, 5, 3)),
        ((4, 5, 4), (4, 5, 4)),
        ((4, 5), (4, 5)),
        ((16,), (4, 4)),
        ((15,), (1, 15)),
    ],
)
def test_examples_of_any_shape_are_drawn(event: tuple[int, ...], image: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).random((3, *event))
    assert as_images(x).shape == (3, *image)
    picture = grid_picture(x, 2, (0.0, 1.0))
    assert picture.dtype == np.uint8 and picture.shape[-1] == 3
    if event == (4, 5, 2):
        np.testing.assert_array_equal(as_images(x)[:, :, :5], x[..., 0])
        np.testing.assert_array_equal(as_images(x)[:, :, 5:], x[..., 1])


def test_labelled_columns(tmp_path: Path) -> None:
    """Panels side by side, each example as high as asked for; labels that are too few are refused."""
    x = np.zeros((2, 3, 4, 4, 1))
    panels = {"one": (x, ["a", "b", "c"]), "two": (x[:, :1], ["d"])}
    save_columns(tmp_path / "labels.png", panels, (0.0, 1.0), ["up", "down"], inch=0.5, dpi=100)
    picture = np.asarray(Image.open(tmp_path / "labels.png").convert("L"))
    black = (picture == 0).any(1)
    assert 2 * 45 < black.sum() < 2 * 75  # two rows of about 50 pixels each
    columns = (picture == 0).any(0)
    assert 4 * 45 < columns.sum() < 4 * 75
    with pytest.raises(ValueError, match="3 and 1 labels for 3 columns, 2 rows"):
        save_columns(tmp_path / "labels.png", {"one": (x, "abc")}, (0.0, 1.0), ["up"])


def test_rows_of_a_table(tmp_path: Path) -> None:
    """Vectors are rows of a table unless they may be images; counts are drawn by their logarithms, others linearly."""
    table = np.array([[0.0, 1.0, 1000.0, 3.0, 4.0], [9.0, 0.0, 0.0, 0.0, 0.0]])
    assert is_table(table) and is_table(np.zeros((2, 16))) and is_table(np.zeros((2, 65)))
    assert not is_table(np.zeros((2, 64))) and not is_table(np.zeros((2, 5, 5)))
    np.testing.assert_allclose(scaled(table, (0.0, 1000.0))[0, :3], [0.0, np.log(2) / np.log(1001), 1.0])
    np.testing.assert_allclose(scaled(table, (-1.0, 1.0))[0, :2], [0.5, 1.0])
    assert folded(table).shape == (2, 2, 3) and folded(table)[0, 1].tolist() == [3.0, 4.0, 0.0]
    assert grid_picture(table, 2, (0.0, 1000.0))[:, :, 0].max() == 255
    save_grids(tmp_path / "table.png", {"one": table, "two": table}, 1, (0.0, 1000.0))
    coloured = np.asarray(Image.open(tmp_path / "table.png").convert("RGB")).astype(int)
    assert (np.ptp(coloured, axis=-1) > 50).mean() > 0.2  # heat maps, where images are grey
