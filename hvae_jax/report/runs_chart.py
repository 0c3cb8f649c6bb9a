"""Charts of several runs: their validation curves, and a number over the settings that were varied."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_GREY = "#52514e"
_SERIES = ("#2a78d6", "#eda100", "#1baf7a", "#4a3aa7", "#e34948", "#008300", "#e87ba4", "#eb6834")
_LINES = ("-", "--", ":", "-.")

Curve = Sequence[tuple[float, float]]
Points = Sequence[tuple[Any, float]]


def save_curves(path: Path, curves: Mapping[str, Curve], dpi: int = 150) -> None:
    """Writes one PNG with the validation curves of several runs.

    Args:
      curves: (step, -ELBO) of each run, by its label.
    """
    figure, (axis,) = _figure(1)
    _draw_curves(axis, {label: [curve] for label, curve in curves.items()})
    figure.savefig(path, dpi=dpi)


def save_sweep(
    path: Path,
    setting: str,
    number: str,
    points: Mapping[str, Points],
    curves: Mapping[str, Sequence[Curve]],
    dpi: int = 150,
) -> None:
    """Writes one PNG: a number of each run over the values of a setting, and the validation curves.

    Runs of equal values are points of their own, and the line goes through their means.

    Args:
      setting: what the horizontal axis has.
      number: what the vertical axis has.
      points: (value, number) of each run, by the other settings that were varied ("" for none).
      curves: the runs' curves, by the settings that were varied.
    """
    figure, (left, right) = _figure(2)
    values = list(dict.fromkeys(value for series in points.values() for value, _ in series))
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    values = sorted(values) if numeric else values
    at: dict[Any, float] = dict(zip(values, values if numeric else range(len(values)), strict=True))
    for (label, series), colour in zip(points.items(), _SERIES * (len(points) // len(_SERIES) + 1), strict=False):
        means = [(at[v], np.mean([n for value, n in series if value == v])) for v in values if v in dict(series)]
        left.plot(*zip(*means, strict=True), "-" if numeric else "", color=colour, linewidth=1.2, label=label)
        left.plot([at[value] for value, _ in series], [n for _, n in series], "o", color=colour, markersize=4)
        if not numeric:
            left.plot(*zip(*means, strict=True), "_", color=colour, markersize=18)
    if numeric and min(values) > 0 and max(values) >= 8 * min(values):
        left.set_xscale("log")
        left.minorticks_off()
    if len(values) <= 10:
        left.set_xticks([at[value] for value in values], [f"{v:g}" if numeric else str(v) for v in values])
    if not numeric:
        left.set_xlim(-0.5, len(values) - 0.5)
    left.set_xlabel(setting)
    left.set_ylabel(f"{number}, nats" if "ELBO" in number else number)
    if any(points):
        left.legend(frameon=False, fontsize=8)
    _draw_curves(right, curves)
    figure.savefig(path, dpi=dpi)


def _draw_curves(axis: Any, curves: Mapping[str, Sequence[Curve]]) -> None:
    """Validation curves, those of one label in one colour."""
    drawn: list[float] = []
    for i, (label, several) in enumerate(curves.items()):
        colour, line = _SERIES[i % len(_SERIES)], _LINES[i // len(_SERIES) % len(_LINES)]
        for k, curve in enumerate(one for one in several if one):
            axis.plot(*zip(*curve, strict=True), line, color=colour, linewidth=1.2, label=label if k == 0 else None)
            drawn += [value for _, value in curve[len(curve) // 10 :] if np.isfinite(value)]
    if drawn:
        # The axis fits all but the first tenth of the curves, so that their ends can be told apart.
        low, high = min(drawn), float(np.quantile(drawn, 0.95))
        axis.set_ylim(low - 0.05 * (high - low) - 1e-3, high + 0.05 * (high - low) + 1e-3)
        axis.legend(frameon=False, fontsize=8)
    axis.set_xlabel("step")
    axis.set_ylabel("validation -ELBO, nats")


def _figure(panels: int) -> tuple[Any, Sequence[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * panels, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for axis in axes:
        axis.grid(color="#e6e5e0", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=_GREY)
    return figure, list(axes)
