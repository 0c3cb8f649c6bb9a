"""Pictures of a report: grids of images as PNGs without margins of their own colour, with labels as text."""

import dataclasses
import io
from collections.abc import Sequence
from typing import Literal

import numpy as np

from hvae_jax.report import charts

Kind = Literal["levels", "changes", "data", "samples", "classes", "walk", "circle"]

_LOWER, _HIGHER = (42, 120, 214), (226, 88, 34)  # colours of a value that falls and of one that rises


@dataclasses.dataclass(frozen=True)
class Picture:
    """A grid of images, and all that is written around it.

    Attributes:
      kind: what it shows; it decides where on the page it stands.
      title: heading, a noun phrase.
      note: what is seen, in a sentence or two.
      png: the grid.
      columns: a label for each column; () for none.
      rows: a label for each row; () for none.
      across: what the columns have in common, written beside them; "" for nothing.
    """

    kind: Kind
    title: str
    note: str
    png: bytes
    columns: Sequence[str] = ()
    rows: Sequence[str] = ()
    across: str = ""


def grid_png(images: np.ndarray, value_range: tuple[float, float]) -> bytes:
    """The PNG of images `[rows, columns, *event]`, with transparent margins.

    Args:
      value_range: values that are drawn black and white.
    """
    rows, columns = images.shape[:2]
    picture = charts.grid_picture(images.reshape(-1, *images.shape[2:]), columns, value_range)
    return _png(np.concatenate([picture, _inside(picture, rows, columns)], axis=-1))


def changes_png(images: np.ndarray, value_range: tuple[float, float]) -> tuple[bytes, float] | None:
    """The PNG of what each column of images changes in the one before, and the largest change, a part of the range.

    A pixel that falls is blue, one that rises is orange, and one that stays is transparent; in colour images their
    channels are averaged. Tables, which have no pixels, and images that never change have none.

    Args:
      images: `[rows, columns, *event]`.
    """
    before = charts.as_images(images.reshape(-1, *images.shape[2:]))
    if charts.heat_maps.is_table(images.reshape(-1, *images.shape[2:])):
        return None
    before = before.reshape(*images.shape[:2], *before.shape[1:]).astype(np.float64)
    if before.ndim == 5:
        before = before[..., :3].mean(-1)
    change = np.diff(before, axis=1) / max(value_range[1] - value_range[0], 1e-12)
    most = float(np.abs(change).max(initial=0.0))
    if not 0.0 < most < np.inf:
        return None
    rows, columns = change.shape[:2]
    flat = charts.tile(change.reshape(-1, *change.shape[2:]) / most + 1.0, columns, 0.0, 2.0)
    change = 2.0 * flat - 1.0
    colour = np.where((change < 0)[..., None], np.array(_LOWER), np.array(_HIGHER)).astype(np.uint8)
    # the square root, so that small changes are seen as well
    opaque = np.round(255.0 * np.sqrt(np.abs(change)))[..., None].astype(np.uint8)
    return _png(np.concatenate([colour, np.minimum(opaque, _inside(colour, rows, columns))], axis=-1)), most


def _inside(picture: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """255 inside of the images of a grid and 0 on its margins, `[H, W, 1]` uint8."""
    down, right = ((size - 1) // count for size, count in zip(picture.shape[:2], (rows, columns), strict=True))
    inside = np.full((*picture.shape[:2], 1), 255, np.uint8)
    inside[::down] = 0
    inside[:, ::right] = 0
    return inside


def _png(picture: np.ndarray) -> bytes:
    """A picture `[H, W, 4]` uint8 as the bytes of a PNG, small ones enlarged by a whole number."""
    from PIL import Image

    factor = max(1, 640 // picture.shape[1])
    buffer = io.BytesIO()
    Image.fromarray(picture.repeat(factor, axis=0).repeat(factor, axis=1)).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
