"""Examples as images."""

import numpy as np
import pytest

from hvae_jax.report.charts import as_images, grid_picture


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
