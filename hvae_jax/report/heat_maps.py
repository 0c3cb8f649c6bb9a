"""Pictures of examples that are no images: rows of a table, as heat maps or folded into blocks."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

_PICTURE_FROM = 64  # values of a vector that may be a flattened square image
_COUNTS_FROM = 32.0  # largest value from which on those from 0 are drawn by their logarithms


def is_table(x: np.ndarray) -> bool:
    """Whether examples `[N, ...]` are rows of a table: vectors, but for square numbers of 64 values and more.

    Those are taken for flattened images.
    """
    if x.ndim != 2:
        return False
    return x.shape[1] < _PICTURE_FROM or int(x.shape[1] ** 0.5) ** 2 != x.shape[1]


def scaled(x: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """x from 0 to 1 over the range, by log(1 + x) for counts, that is from 0 to 32 or more."""
    low, high = value_range
    if _is_logarithmic(value_range):
        x, high = np.log1p(np.maximum(x, 0.0)), np.log1p(high)
    return (np.asarray(x, np.float64) - low) / max(high - low, 1e-12)


def folded(x: np.ndarray) -> np.ndarray:
    """Rows `[N, D]` as blocks `[N, h, w]` about as wide as high, filled up with 0."""
    height = max(1, int(x.shape[1] ** 0.5))
    width = -(-x.shape[1] // height)
    filled = np.pad(x, ((0, 0), (0, height * width - x.shape[1])))
    return filled.reshape(len(x), height, width)


def save_heat_maps(
    path: Path, panels: Mapping[str, np.ndarray], value_range: tuple[float, float], dpi: int = 150
) -> None:
    """Writes one PNG with a heat map for each panel, side by side, an example a row, with one scale of colours.

    Args:
      panels: examples `[N, D]` by title.
      value_range: values at the ends of the scale, which is logarithmic for counts (`scaled`).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import FuncNorm, Normalize
    from matplotlib.figure import Figure

    low, high = value_range
    norm: Normalize = Normalize(low, high)
    if _is_logarithmic(value_range):
        norm = FuncNorm((lambda v: np.log1p(np.maximum(v, 0.0)), np.expm1), low, high)
    rows, columns = next(iter(panels.values())).shape
    width, height = min(max(2.6, 0.11 * columns), 7.0), min(max(2.4, 0.07 * rows), 9.0)
    figure = Figure(figsize=(width * len(panels) + 1.0, height + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, (title, x) in zip(axes, panels.items(), strict=True):
        axis.imshow(x, cmap="viridis", norm=norm, interpolation="nearest", aspect="auto")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("column", fontsize=9)
        axis.tick_params(labelsize=8)
    axes[0].set_ylabel("example", fontsize=9)
    bar = figure.colorbar(axes[0].images[0], ax=list(axes), fraction=0.05, pad=0.02)
    if _is_logarithmic(value_range):
        ticks = [0, *(10**power for power in range(12) if 10**power <= high)]
        bar.set_ticks(ticks, labels=[f"{tick:,}" for tick in ticks])
    bar.ax.tick_params(labelsize=8)
    figure.savefig(path, dpi=dpi)


def _is_logarithmic(value_range: tuple[float, float]) -> bool:
    return value_range[0] == 0.0 and value_range[1] >= _COUNTS_FROM
