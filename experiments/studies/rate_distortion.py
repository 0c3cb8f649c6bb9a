"""Rate against distortion over beta, and what a growing receptive field does to the rate, with and without a remedy.

    python experiments/studies/rate_distortion.py  # digits, the top-down VAE, two cores: ten minutes

Every run is the article's top-down VAE with a PixelCNN decoder, for the same number of steps:

- for each beta, with a decoder that sees no other pixel and one that sees all earlier ones: the curve of R over D.
  R + D is the -ELBO; a stronger decoder moves a model along a line of equal -ELBO.
- for each receptive field, trained on the ELBO, with free bits, and by GECO with a bound on the distortion: the rate
  and the importance-weighted bound, over the field.

Writes rate_distortion.png, receptive_field.png (and .svg) and curves.json into the folder; an interrupted study
resumes.
Source: Alemi et al. (2018), figures 3 and 4; GECO, Rezende & Viola (2018).
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from sweep import Effort, Row, Trial, run, save, seen, some, tidy

import hvae_jax as hv
from hvae_jax.data import Dataset
from hvae_jax.experiment import Data
from hvae_jax.experiment.exits import errors_said
from hvae_jax.likelihoods import for_data
from hvae_jax.models import TopDownVAE
from hvae_jax.objectives import GECO, Distortion, FreeBits, Linear, Objective, Regularised

COLOURS = {"ELBO": "#2a78d6", "free bits": "#1baf7a", "GECO": "#e34948"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the study.

    Attributes:
      data: the data set.
      betas: weights of the rate, for the decoders of the first and the last of `fields`.
      fields: receptive fields of the decoders, in pixels, largest last; -1 stands for all earlier pixels.
      free_bits: free bits of each level, nats.
      target: GECO's bound on the distortion, nats per dimension.
      seeds: seeds, one run of every model each.
      effort: length of each run, sizes of its networks, and how it is measured.
      workers: number of models trained side by side.
      folder: folder of figures and numbers.
    """

    data: Data = Data("digits")
    betas: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0)
    fields: tuple[int, ...] = (0, 1, 2, 4, -1)
    free_bits: float = 4.0
    target: float = 1.25
    seeds: tuple[int, ...] = (0,)
    effort: Annotated[Effort, tyro.conf.arg(name="")] = Effort()
    workers: int = 2
    folder: Path = Path("runs/rate_distortion")


def trials(chosen: Settings, dataset: Dataset) -> list[Trial]:
    """Every model with its objective, for any seed."""
    effort = chosen.effort
    rise = Linear(0, effort.steps // 5)  # warm-up, so that no level collapses while the decoder is still poor
    remedies: dict[str, Objective] = {
        "ELBO": Regularised(warm_up=rise),
        "free bits": Regularised(free_bits=FreeBits(chosen.free_bits, "level", "batch")),
        # Delayed until the decoder can meet the bound: before that lambda would grow so large that it takes longer than
        # the whole run to fall again.
        "GECO": GECO((Distortion(chosen.target),), eta=0.1, decay=0.9, delay=effort.steps // 3, bounds=(0.2, 5.0)),
    }
    found: list[Trial] = []

    def add(field: int, by: str, beta: float, objective: Objective) -> None:
        head = hv.PixelCNN(for_data(dataset), None if field < 0 else field, effort.layers, effort.width)
        model = TopDownVAE(latents=(8, 16), hidden=effort.hidden, likelihood=head)
        found.append(Trial({"field": field, "by": by, "beta": beta}, model, objective))

    for field in chosen.fields:
        for by, objective in remedies.items():
            add(field, by, 1.0, objective)
    for field in (chosen.fields[0], chosen.fields[-1]):
        for beta in chosen.betas:
            if beta != 1.0:  # that run is in the list already, as "ELBO" of its field
                add(field, "ELBO", beta, Regularised(beta, rise))
    return found


def mean_of(rows: list[Row], name: str) -> tuple[float, float]:
    """Mean and standard error over seeds; with one seed its value and its standard error over test examples."""
    values = [row[name]["value"] for row in rows]
    if len(values) == 1:
        return values[0], rows[0][name]["error"]
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))


def draw_curve(rows: list[Row], fields: tuple[int, ...], path: Path) -> None:
    """Draws R over D: one line per decoder, beta beside the points, lines of equal -ELBO."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    wholes = []
    for field, colour in zip((fields[0], fields[-1]), ("#2a78d6", "#e34948"), strict=True):
        betas = sorted({row["beta"] for row in some(rows, field=field, by="ELBO")})
        points = [some(rows, field=field, by="ELBO", beta=beta) for beta in betas]
        d, r = ([mean_of(point, name) for point in points] for name in ("distortion", "rate"))
        x, y = (np.array([value for value, _ in numbers]) for numbers in (d, r))
        axis.errorbar(
            x,
            y,
            [e for _, e in r],
            [e for _, e in d],
            color=colour,
            marker="o",
            markersize=5,
            elinewidth=0.8,
            label=f"decoder sees {seen(field)}",
        )
        for beta, point in zip(betas, zip(x, y, strict=True), strict=True):
            axis.annotate(f"{beta:g}", point, (4, 4), textcoords="offset points", fontsize=8, color=colour)
        wholes += list(x + y)
    (low, high), (_, top) = axis.get_xlim(), axis.get_ylim()
    for whole in np.linspace(min(wholes), max(wholes), 4):
        axis.plot([low, high], [whole - low, whole - high], color="#b9b7b0", linewidth=0.7, zorder=0)
        inside = max(low, whole - top)
        axis.annotate(f"-ELBO {whole:.0f}", (inside, whole - inside), (3, -9), textcoords="offset points", fontsize=7)
    axis.set(xlim=(low, high), ylim=(-0.03 * top, top), xlabel="distortion D, nats", ylabel="rate R, nats")
    axis.set_title("Rate and distortion over beta (the numbers)", fontsize=10)
    axis.legend(frameon=False, fontsize=9)
    tidy(axis)
    save(figure, path)


def draw_fields(rows: list[Row], fields: tuple[int, ...], path: Path) -> None:
    """Draws rate and bound over the receptive field, one line per objective."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    panels = (("rate", 1.0, "rate, nats"), ("iw_bound", -1.0, "-log p(x) at most, nats"))
    for axis, (name, sign, label) in zip(figure.subplots(1, 2), panels, strict=True):
        for by, colour in COLOURS.items():
            numbers = [mean_of(some(rows, field=field, by=by, beta=1.0), name) for field in fields]
            values, errors = ([n[i] for n in numbers] for i in (0, 1))
            axis.errorbar(
                range(len(fields)), sign * np.array(values), errors, color=colour, marker="o", markersize=5, label=by
            )
        axis.set_xticks(range(len(fields)), ["all" if field < 0 else str(field) for field in fields])
        axis.set_xlabel("pixels back that the decoder sees")
        axis.set_ylabel(label)
        tidy(axis)
    figure.axes[0].set_ylim(bottom=0.0)
    figure.axes[0].legend(frameon=False, fontsize=9)
    save(figure, path)


def main(chosen: Settings) -> None:
    """Trains and measures what the table lacks, then draws the figures."""
    wanted = {k: v for k, v in dataclasses.asdict(chosen).items() if k not in ("folder", "seeds", "workers")}
    path = chosen.folder / "curves.json"
    rows, _ = run(
        lambda dataset: trials(chosen, dataset), chosen.data, chosen.effort, chosen.seeds, chosen.workers, path, wanted
    )
    draw_curve(rows, chosen.fields, chosen.folder / "rate_distortion.png")
    draw_fields(rows, chosen.fields, chosen.folder / "receptive_field.png")
    print(f"rate_distortion.png and receptive_field.png are in {chosen.folder}/")


if __name__ == "__main__":
    with errors_said():
        main(tyro.cli(Settings, description=__doc__))
