"""Charts and grids of images, as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hvae_jax.report import heat_maps

_GREY = "#52514e"
_SERIES = ("#2a78d6", "#1baf7a", "#eda100", "#4a3aa7", "#e34948", "#008300", "#e87ba4", "#eb6834")


def as_images(x: np.ndarray) -> np.ndarray:
    """Examples as images, `[N, H, W]` if grey and `[N, H, W, 3 or 4]` in colour.

    Two channels are drawn side by side, `[N, H, 2 W]`; vectors become squares or rows.
    """
    x = np.asarray(x)
    if x.ndim == 4 and x.shape[-1] == 1:
        return x[..., 0]
    if x.ndim == 3 or (x.ndim == 4 and x.shape[-1] in (3, 4)):
        return x
    if x.ndim == 4 and x.shape[-1] == 2:
        return np.concatenate([x[..., 0], x[..., 1]], axis=-1)
    flat = x.reshape(len(x), -1)
    side = int(flat.shape[1] ** 0.5)
    return flat.reshape(len(x), side, side) if side * side == flat.shape[1] else flat[:, None, :]


def tile(images: np.ndarray, columns: int, low: float, high: float) -> np.ndarray:
    """Images `[N, H, W(, 3)]` in rows as one picture, with margins of a pixel; low to high is scaled to 0..1."""
    scaled = np.clip((images.astype(np.float64) - low) / max(high - low, 1e-12), 0.0, 1.0)
    rows = -(-len(images) // columns)
    height, width = images.shape[1:3]
    picture = np.ones((rows * (height + 1) + 1, columns * (width + 1) + 1, *images.shape[3:]))
    for i, image in enumerate(scaled):
        top, left = i // columns * (height + 1) + 1, i % columns * (width + 1) + 1
        picture[top : top + height, left : left + width] = image
    return picture


def grid_picture(x: np.ndarray, columns: int, value_range: tuple[float, float]) -> np.ndarray:
    """Examples as one picture `[H, W, 3]` uint8, as sinks take it; values that are not finite are drawn black.

    Rows of a table (`heat_maps.is_table`) are folded into blocks.

    Args:
      x: `[N, *event]`.
      columns: number of images in a row.
      value_range: values that are drawn black and white.
    """
    if heat_maps.is_table(x):
        x, value_range = heat_maps.folded(heat_maps.scaled(x, value_range)), (0.0, 1.0)
    low, high = value_range
    picture = tile(np.nan_to_num(as_images(x), nan=low, posinf=low, neginf=low), columns, low, high)
    picture = np.repeat(picture[..., None], 3, axis=-1) if picture.ndim == 2 else picture[..., :3]
    return np.round(255.0 * picture).astype(np.uint8)


def save_picture(path: Path, picture: np.ndarray) -> None:
    """Writes a picture `[H, W, 3]` uint8 without resampling, in the format that the path ends in, such as PNG."""
    from PIL import Image

    Image.fromarray(picture).save(path)


def save_grids(
    path: Path, panels: dict[str, np.ndarray], columns: int, value_range: tuple[float, float], dpi: int = 150
) -> None:
    """Writes one PNG with a titled grid of images for each panel, side by side; heat maps of the rows of a table.

    Args:
      panels: examples `[N, *event]` by title.
      columns: number of images in a row of a grid.
      value_range: values that are drawn black and white.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if all(heat_maps.is_table(x) for x in panels.values()):
        heat_maps.save_heat_maps(path, panels, value_range, dpi)
        return
    pictures = {title: tile(as_images(x), columns, *value_range) for title, x in panels.items()}
    height, width = next(iter(pictures.values())).shape[:2]
    size = 3.2
    figure = Figure(figsize=(size * len(pictures), size * height / width + 0.35), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(pictures), squeeze=False)[0]
    for axis, (title, picture) in zip(axes, pictures.items(), strict=True):
        axis.imshow(picture, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
        axis.set_title(title, fontsize=10)
        axis.axis("off")
    figure.savefig(path, dpi=dpi)


def save_columns(
    path: Path,
    panels: Mapping[str, tuple[np.ndarray, Sequence[str]]],
    value_range: tuple[float, float],
    rows: Sequence[str] = (),
    inch: float = 0.55,
    dpi: int = 150,
) -> None:
    """Writes one PNG with titled panels side by side, with a label above each column and one beside each row.

    Args:
      panels: examples `[rows, columns, *event]`, all with as many rows, and the columns' labels, by title.
      value_range: values that are drawn black and white.
      rows: labels of the rows, left of the first panel; () for none.
      inch: height of an example.
    Raises ValueError if the number of labels differs from that of columns or rows.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pictures = []
    for title, (x, labels) in panels.items():
        if len(labels) != x.shape[1] or (rows and len(rows) != len(x)):
            raise ValueError(f"{title}: {len(labels)} and {len(rows)} labels for {x.shape[1]} columns, {len(x)} rows.")
        images = as_images(x.reshape(-1, *x.shape[2:]))
        pictures.append((title, labels, images.shape[1:3], tile(images, x.shape[1], *value_range)))
    # inches; places are computed, since matplotlib's layouts cut titles above labels off
    scale = inch / pictures[0][2][0]
    left, between, above, margin = 0.8 if rows else 0.1, 0.25, 0.55, 0.1
    high, widths = pictures[0][-1].shape[0] * scale, [picture.shape[1] * scale for *_, picture in pictures]
    size = left + sum(widths) + between * (len(widths) - 1) + margin, above + high + margin
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    for (title, labels, (rows_of, columns_of), picture), width in zip(pictures, widths, strict=True):
        axis = figure.add_axes((left / size[0], margin / size[1], width / size[0], high / size[1]))
        axis.imshow(picture, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest", aspect="auto")
        figure.text((left + width / 2) / size[0], 1 - 0.18 / size[1], title, ha="center", va="center", fontsize=9)
        axis.xaxis.tick_top()
        axis.set_xticks([columns_of / 2 + i * (columns_of + 1) for i in range(len(labels))], labels, fontsize=8)
        named = rows if title == pictures[0][0] else ()
        axis.set_yticks([rows_of / 2 + i * (rows_of + 1) for i in range(len(named))], named, fontsize=8)
        axis.tick_params(length=0, colors=_GREY)
        axis.spines[:].set_visible(False)
        left += width + between
    figure.savefig(path, dpi=dpi)


def save_curve(path: Path, rows: Sequence[dict[str, float | int]], best_step: int, dpi: int = 150) -> None:
    """Writes one PNG: minus the ELBO in training and validation, and the validation rate of each level, by epoch.

    If there are more levels than colours, those of a scanned run ("z8.0", "z8.1", ...) are summed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    validated = [row for row in rows if row.get("validation/elbo") is not None]
    epochs = [row["epoch"] for row in validated]
    loss = [-row["validation/elbo"] for row in validated]
    trained = [row for row in rows if row.get("elbo") is not None]
    left.plot([row["epoch"] for row in trained], [-row["elbo"] for row in trained], color=_SERIES[0], label="train")
    left.plot(epochs, loss, color=_SERIES[1], label="validation")
    best = [row for row in validated if row["step"] == best_step]
    if best:
        point = (best[0]["epoch"], -best[0]["validation/elbo"])
        left.plot(*point, "o", color=_SERIES[1], markersize=6, markeredgecolor="white")
        left.annotate(f"best {point[1]:.1f}", point, (0, 8), textcoords="offset points", ha="center", fontsize=9)
    # The axis fits all but the first tenth of the curve, so that its end can be read.
    settled = [-row["elbo"] for row in trained[len(trained) // 10 :]] + loss[len(loss) // 10 :]
    if settled:
        margin = 0.05 * (max(settled) - min(settled)) + 1e-3
        left.set_ylim(min(settled) - margin, max(settled) + margin)
    left.set_ylabel("-ELBO, nats")
    names = [key for key in (validated[-1] if validated else {}) if key.startswith("validation/rate/")]
    groups: dict[str, list[str]] = {}
    for name in names:
        level = name.rsplit("/", 1)[1]
        groups.setdefault(level if len(names) <= len(_SERIES) else level.rpartition(".")[0] or level, []).append(name)
    for (label, levels), colour in zip(groups.items(), _SERIES * (len(groups) // len(_SERIES) + 1), strict=False):
        text = label if len(levels) == 1 else f"{label}.0 to {label}.{len(levels) - 1}"
        right.plot(epochs, [sum(row[name] for name in levels) for row in validated], color=colour, label=text)
    right.set_ylabel("validation rate (KL), nats")
    right.set_ylim(bottom=0.0)
    for axis in (left, right):
        axis.set_xlabel("epoch")
        axis.grid(color="#e6e5e0", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=_GREY)
        axis.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=dpi)
