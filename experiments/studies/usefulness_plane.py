"""The usefulness plane: how well models fit, how useful their latents are, and what a strong decoder does to both.

    python experiments/studies/usefulness_plane.py  # digits
    python experiments/studies/usefulness_plane.py --data.name mnist --data.binarise threshold --steps 5000

Draws figures 1 to 3 of the article from runs. Four families: one level; two levels inferred bottom-up, trained on the
ELBO; the same, trained on the formula that the article prints; two levels inferred top-down. Each family is trained
with decoders that see none, some and all of the earlier pixels, with several seeds and for the same number of steps;
with the decoder that sees all earlier pixels, once more with free bits as a remedy. The top-down family has the other
remedies as well, with decoders that see none and all: beta, GECO, a target for the mutual information, smoothed
networks, consistency, decorrelated features.

Fit is the importance-weighted bound on the test split; usefulness is the total rate, the rate of the top level, or the
accuracy of a linear probe of samples of all levels. By Fano's inequality that accuracy takes a number of nats, which
the rate has to provide. A second probe reads the posterior means, which are a function of x without noise, so that no
rate limits it. Error bars are one standard error over test examples. Every measure uses the true ELBO, whatever a model
was trained on.

Writes plane.png, remedies.png, rate_distortion.png (and .svg), and plane.json with every number, into the folder, and
prints a table of means and standard deviations over seeds. plane.json is written after each run, and an interrupted
study resumes from it.
"""

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from sweep import Effort, Row, Trial, run, save, seen, tidy

import hvae_jax as hv
from hvae_jax.data import Dataset
from hvae_jax.experiment import Data
from hvae_jax.experiment.exits import errors_said
from hvae_jax.likelihoods import for_data
from hvae_jax.models import HVAE, VAE, BottomUpVAE, TopDownVAE
from hvae_jax.networks.smoothed import Smoothing
from hvae_jax.objectives import (
    GECO,
    Batch,
    Consistency,
    Constant,
    Decorrelated,
    Distortion,
    Forward,
    FreeBits,
    MutualInformation,
    NegativeELBO,
    Objective,
    Regularised,
)
from hvae_jax.trace import Trace

PRINTED = "bottom-up, printed"  # the family trained on the article's formula
COLOURS = {"one level": "#2a78d6", "bottom-up": "#1baf7a", PRINTED: "#e34948", "top-down": "#4a3aa7"}
MARKERS = ("o", "s", "^", "D", "v")
FREE_BITS = "free bits"
REMEDIES = {
    "": "#2b2b28",
    FREE_BITS: "#2a78d6",
    "beta": "#1baf7a",
    "GECO": "#e34948",
    "mutual information": "#e08a00",
    "smoothing": "#4a3aa7",
    "consistency": "#00a3b4",
    "decorrelated": "#b0418f",
}
"""What is done to make levels informative, and its colour; "" is nothing."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the study.

    Attributes:
      data: the data set.
      families: families that are trained.
      fields: receptive fields of the decoders, in pixels; -1 stands for all earlier pixels.
      seeds: seeds, one run of every model each.
      remedies: what else the top-down family is trained with, names of `REMEDIES`; free bits are for every family.
      free_bits: free bits, nats a level.
      beta: weight of the rate under "beta".
      target: largest distortion under "GECO", nats per pixel.
      information: target of the mutual information of x and the top level, nats.
      rho: smoothing of the networks of priors under "smoothing".
      smoothing_draws: draws of its noise; one draw adds more noise than the smoothing takes away.
      effort: length of each run, sizes of its networks, and how it is measured.
      workers: number of models trained side by side.
      folder: folder of figures and numbers.
    """

    data: Data = Data("digits")
    families: tuple[str, ...] = tuple(COLOURS)
    fields: tuple[int, ...] = (0, 2, -1)
    seeds: tuple[int, ...] = (0, 1, 2)
    remedies: tuple[str, ...] = tuple(name for name in REMEDIES if name)
    free_bits: float = 2.0
    beta: float = 0.5
    target: float = 1.25
    information: float = 5.0
    rho: float = 0.85
    smoothing_draws: int = 16
    effort: Annotated[Effort, tyro.conf.arg(name="")] = Effort()
    workers: int = 2
    folder: Path = Path("runs/usefulness_plane")


@dataclasses.dataclass(frozen=True)
class Printed(Objective):
    """An objective on the article's printed formula: every KL of the trace is replaced by the one in closed form.

    `Printed(NegativeELBO())` is `PrintedELBO()`. Free bits need this wrapper, because they bound the KLs that are
    trained on.

    Attributes:
      objective: the objective, which must have no state.
    """

    objective: Objective

    def __call__(
        self, forward: Forward, variables: Any, batch: Batch, key: jax.Array, step: jax.Array, state: Any
    ) -> tuple[jax.Array, dict[str, jax.Array], Any, Any]:
        """The objective's results; its metrics are of the printed formula too."""

        def printed(variables: Any, x: Any, key: jax.Array, **choices: Any) -> tuple[Trace, Any]:
            trace, updates = forward(variables, x, key, **choices)
            levels = tuple(dataclasses.replace(level, kl=hv.kl(level.q, level.p)) for level in trace.levels)
            return dataclasses.replace(trace, levels=levels), updates

        return self.objective(printed, variables, batch, key, step, state)


def families(likelihood: hv.likelihoods.Likelihood, hidden: int) -> dict[str, HVAE]:
    """The four models, by their names in the figure."""
    two = BottomUpVAE(latents=(8, 16), hidden=hidden, likelihood=likelihood)
    return {
        "one level": VAE(latents=16, hidden=hidden, likelihood=likelihood),
        "bottom-up": two,
        PRINTED: two,
        "top-down": TopDownVAE(latents=(8, 16), hidden=hidden, likelihood=likelihood),
    }


def with_remedy(name: str, chosen: Settings, model: HVAE) -> tuple[HVAE, Objective]:
    """The model and its objective with the remedy of this name. Raises ValueError for a name that is none."""
    match name:
        case "":
            return model, NegativeELBO()
        case "free bits":
            return model, Regularised(free_bits=FreeBits(chosen.free_bits, "level", "batch"))
        case "beta":
            return model, Regularised(beta=chosen.beta)
        case "GECO":
            # delayed until the decoder can meet the bound, as in rate_distortion.py
            bound = (Distortion(chosen.target),)
            return model, GECO(bound, eta=0.1, decay=0.9, delay=chosen.effort.steps // 3, bounds=(0.2, 5.0))
        case "mutual information":
            return model, MutualInformation(chosen.information)
        case "smoothing":
            return model.clone(smoothing=Smoothing(chosen.rho, chosen.smoothing_draws)), NegativeELBO()
        case "consistency":
            return model, Consistency(weight=Constant(1.0))
        case "decorrelated":
            return model, Decorrelated(weight=Constant(1e-3))
    raise ValueError(f"There is no remedy {name!r}: {', '.join(name for name in REMEDIES if name)}.")


def trials(chosen: Settings, dataset: Dataset) -> list[Trial]:
    """Every family with every decoder; free bits for all, with the last decoder; all remedies for the top-down one."""
    found, effort = [], chosen.effort
    for field in chosen.fields:
        head = hv.PixelCNN(for_data(dataset), None if field < 0 else field, effort.layers, effort.width)
        models = families(head, effort.hidden)
        if unknown := set(chosen.families) - set(models):
            raise ValueError(f"There is no family {min(unknown)!r}: {', '.join(models)}.")
        for family in chosen.families:
            plain, names = models[family], [""]
            if family == "top-down" and field in (chosen.fields[0], chosen.fields[-1]):
                names += chosen.remedies
            elif field == chosen.fields[-1] and FREE_BITS in chosen.remedies:
                names.append(FREE_BITS)
            for name in names:
                model, objective = with_remedy(name, chosen, plain)
                trained_on = Printed(objective) if family == PRINTED else objective
                found.append(Trial({"family": family, "field": field, "remedy": name}, model, trained_on))
    return found


def of_every_family(rows: list[Row]) -> list[Row]:
    """The rows that all families have: those without a remedy, and those with free bits and the last decoder."""
    last = rows[-1]["field"]
    return [row for row in rows if not row["remedy"] or (row["remedy"] == FREE_BITS and row["field"] == last)]


def _style(rows: list[Row], row: Row) -> dict[str, Any]:
    fields = list(dict.fromkeys(one["field"] for one in rows))
    colour = COLOURS[row["family"]]
    return {
        "color": colour,
        "marker": MARKERS[fields.index(row["field"]) % len(MARKERS)],
        "markerfacecolor": "white" if row["remedy"] else colour,
        "markersize": 6,
        "linestyle": "none",
        "elinewidth": 0.8,
    }


def _legend(figure: Any, rows: list[Row]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, marker="o", linestyle="none", label=name) for name, colour in COLOURS.items()
    ]
    for i, field in enumerate(dict.fromkeys(row["field"] for row in rows)):
        label = f"decoder sees {seen(field)}"
        handles.append(Line2D([], [], color="#52514e", marker=MARKERS[i % len(MARKERS)], linestyle="none", label=label))
    if any(row["remedy"] for row in rows):
        label = f"with {FREE_BITS} (hollow)"
        handles.append(
            Line2D([], [], color="#52514e", marker="^", markerfacecolor="white", linestyle="none", label=label)
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)


def _cross(axis: Any, row: Row, value: float, error: float) -> None:
    """Draws a second value of a run, at its fit."""
    axis.errorbar(-row["iw_bound"]["value"], value, error, fmt="x", color=COLOURS[row["family"]], markersize=4)


def draw_plane(rows: list[Row], path: Path) -> None:
    """Draws usefulness over fit: of all runs, of factorised decoders, and of the decoders that see most."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    last = rows[-1]["field"]
    columns = {
        "Figure 1: every model": rows,
        "Figure 2: decoders that see no pixel": [row for row in rows if row["field"] == 0],
        f"Figure 3: decoders that see {seen(last)}": [row for row in rows if row["field"] == last],
    }
    measures = [("rate", "total rate, nats"), ("top_rate", "rate of the top level, nats")]
    if all("probe" in row for row in rows):
        measures.append(("probe", "accuracy of a linear probe of samples\n(crosses: of posterior means)"))
    figure = Figure(figsize=(11.0, 2.9 * len(measures) + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(measures), len(columns), sharex=True, sharey="row", squeeze=False)
    for line, (name, label) in zip(grid, measures, strict=True):
        for axis, (title, some) in zip(line, columns.items(), strict=True):
            for row in some:
                fit, use = row["iw_bound"], row[name]
                axis.errorbar(-fit["value"], use["value"], use["error"], fit["error"], **_style(rows, row))
                if name == "rate":
                    known = row["information"]
                    _cross(axis, row, known["lower"], known["lower_error"])
                if name == "probe":
                    _cross(axis, row, row["probe_of_means"]["value"], row["probe_of_means"]["error"])
            if name == "rate":
                ceiling = rows[0]["information"]["ceiling"]
                axis.axhline(ceiling, color="#52514e", linestyle="--", linewidth=0.8)
                axis.annotate(
                    f"log N = {ceiling:.1f}: ceiling of the lower bound of I(x; z) (crosses)",
                    (0.02, ceiling),
                    (0, 3),
                    xycoords=("axes fraction", "data"),
                    textcoords="offset points",
                    ha="left",
                    fontsize=7,
                )
                axis.set_title(title, fontsize=10)
            if name == "probe":
                axis.axhline(rows[0]["probe"]["chance"], color="#52514e", linestyle=":", linewidth=0.8)
            tidy(axis)
        line[0].set_ylabel(label, fontsize=9)
    for axis in grid[-1]:
        axis.set_xlabel("-log p(x) at most, nats (left is better)", fontsize=9)
    _legend(figure, rows)
    save(figure, path)


def draw_remedies(rows: list[Row], path: Path) -> None:
    """Draws usefulness over fit of the top-down family with each remedy, for its first and its last decoder."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    rows = [row for row in rows if row["family"] == "top-down"]
    fields = list(dict.fromkeys(row["field"] for row in rows if row["remedy"]))
    measures = [("rate", "total rate, nats"), ("top_rate", "rate of the top level, nats")]
    if all("probe" in row for row in rows):
        measures.append(("probe", "accuracy of a linear probe of samples"))
    figure = Figure(figsize=(9.5, 2.9 * len(measures) + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(measures), len(fields), sharex="col", squeeze=False)
    for line, (name, label) in zip(grid, measures, strict=True):
        for axis, field in zip(line, fields, strict=True):
            for row in (row for row in rows if row["field"] == field):
                fit, use, colour = row["iw_bound"], row[name], REMEDIES[row["remedy"]]
                style: dict[str, Any] = {"color": colour, "marker": "o", "markersize": 6, "elinewidth": 0.8}
                axis.errorbar(-fit["value"], use["value"], use["error"], fit["error"], linestyle="none", **style)
            if name == "probe":
                axis.axhline(rows[0]["probe"]["chance"], color="#52514e", linestyle=":", linewidth=0.8)
            tidy(axis)
        line[0].set_ylabel(label, fontsize=9)
    for axis, field in zip(grid[0], fields, strict=True):
        axis.set_title(f"top-down, decoder sees {seen(field)}", fontsize=10)
    for axis in grid[-1]:
        axis.set_xlabel("-log p(x) at most, nats (left is better)", fontsize=9)
    handles = [
        Line2D([], [], color=REMEDIES[name], marker="o", linestyle="none", label=name or "ELBO")
        for name in dict.fromkeys(row["remedy"] for row in rows)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    save(figure, path)


def draw_rate_distortion(rows: list[Row], examples: int, path: Path) -> None:
    """Draws rate over distortion of every run, lines of equal -ELBO, and the bound R >= H - D of the training set."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 6.0), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for row in rows:
        d, r = row["distortion"], row["rate"]
        axis.errorbar(d["value"], r["value"], r["error"], d["error"], **_style(rows, row))
    low, high = axis.get_xlim()
    top = axis.get_ylim()[1]
    wholes = [row["distortion"]["value"] + row["rate"]["value"] for row in rows]
    for whole in np.linspace(min(wholes), max(wholes), 4):
        axis.plot([low, high], [whole - low, whole - high], color="#b9b7b0", linewidth=0.7, zorder=0)
        inside = max(low, whole - top)  # where the line enters the picture
        axis.annotate(f"-ELBO {whole:.0f}", (inside, whole - inside), (3, -9), textcoords="offset points", fontsize=7)
    entropy = math.log(examples)
    line = np.linspace(low, high, 2)
    axis.plot(line, np.maximum(entropy - line, 0.0), color="#e34948", linewidth=1.2)
    note = f"R >= max(H - D, 0), H = log {examples:,} = {entropy:.1f} nats: the training set's own entropy"
    axis.annotate(note, (low, 0.0), (4, 4), textcoords="offset points", fontsize=7, color="#e34948")
    axis.set(xlim=(low, high), ylim=(-0.05 * top, top))
    axis.set_xlabel("distortion D, nats")
    axis.set_ylabel("rate R, nats")
    tidy(axis)
    _legend(figure, rows)
    save(figure, path)


def table(rows: list[Row], draws: int) -> str:
    """The runs as a table of Markdown: mean ± standard deviation over seeds, I(x; z) between the means of its bounds.

    Args:
      draws: K of the importance-weighted bound.
    """
    head = ["family", "decoder sees", f"-IW-{draws}", "rate", "top level's rate", "I(x; z)"]
    probed = all("probe" in row for row in rows)
    if probed:
        head += ["linear probe of samples", "takes at least", "probe of posterior means"]
    lines = [head, ["---"] * len(head)]
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["family"], row["field"], row["remedy"]), []).append(row)
    for (family, field, remedy), some in groups.items():
        # without a density that is known, under networks that draw, it is NaN here and None in a table that was read
        known = [row for row in some if np.isfinite(row["information"]["lower"] or np.nan)]
        low = np.mean([row["information"]["lower"] for row in known]) if known else None
        # I <= R as well, and no further than the other estimate allows.
        high = np.mean([min(row["information"]["upper"], row["rate"]["value"]) for row in known]) if known else None
        cells = [family, seen(field) + (f", {remedy}" if remedy else "")]
        cells.append(_spread([-row["iw_bound"]["value"] for row in some]))
        cells += [_spread([row[name]["value"] for row in some]) for name in ("rate", "top_rate")]
        cells.append(f"{low:.1f} to {high:.1f}" if known else "")
        if probed:
            cells.append(_spread([100 * row["probe"]["value"] for row in some], 1) + " %")
            cells.append(_spread([row["probe"]["needs"] for row in some]))
            cells.append(_spread([100 * row["probe_of_means"]["value"] for row in some], 1) + " %")
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _spread(values: list[float], digits: int = 2) -> str:
    """Mean ± standard deviation; the value alone if there is one."""
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def main(chosen: Settings) -> None:
    """Trains and measures what the table lacks, then draws the figures."""
    wanted = {k: v for k, v in dataclasses.asdict(chosen).items() if k not in ("folder", "seeds", "workers")}
    path = chosen.folder / "plane.json"
    rows, dataset = run(
        lambda dataset: trials(chosen, dataset), chosen.data, chosen.effort, chosen.seeds, chosen.workers, path, wanted
    )
    draw_plane(of_every_family(rows), chosen.folder / "plane.png")
    if any(row["family"] == "top-down" and row["remedy"] for row in rows):
        draw_remedies(rows, chosen.folder / "remedies.png")
    draw_rate_distortion(of_every_family(rows), len(dataset.train), chosen.folder / "rate_distortion.png")
    print(table(rows, chosen.effort.draws))
    print(f"plane.png, remedies.png and rate_distortion.png are in {chosen.folder}/")


if __name__ == "__main__":
    with errors_said():
        main(tyro.cli(Settings, description=__doc__))
