"""What spectral regularisation and KL balancing do over a training: curves of one run or several.

    hvae train nvae                                                        # digits, a run to look at
    python experiments/studies/spectral.py runs/nvae_digits
    python experiments/studies/spectral.py runs/nvae_digits runs/another   # singular values of both, in one panel

Four panels, from the rows of metrics.jsonl: the mean over convolutions of the largest singular value sigma_max, and
over batch norms of the largest gain, which the objective keeps small; lambda and the weight of the KL, which it anneals
together; gamma, the balancing coefficient of each group's KL, until the warm-up is over; and the rate of each group.
Prints what the power iterations miss: the sum of sigma_max of the run's best variables by singular value
decomposition, beside the metric at that step.

Writes spectral.png (and .svg) into the folder.
Source: Vahdat & Kautz (2020), section 3.2 and appendix A.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from sweep import save, tidy

from hvae_jax.experiment.exits import errors_said
from hvae_jax.experiment.reopen import open_variables
from hvae_jax.objectives import SpectralRegularised
from hvae_jax.runtime.trees import leaves_by_path
from hvae_jax.training.sinks import read_metrics

COLOURS = ("#2a78d6", "#e34948", "#1baf7a", "#4a3aa7", "#eda100", "#e87ba4", "#008300", "#eb6834")
Rows = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the study.

    Attributes:
      runs: folders of runs that were trained with `SpectralRegularised`; all but the first panel are of the first run.
      folder: folder of the figure.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    folder: Path = Path("runs/spectral")


@dataclasses.dataclass(frozen=True)
class Curves:
    """One run.

    Attributes:
      name: name of the run's folder.
      rows: rows of its metrics.jsonl that have the spectral term, in order of steps.
      kernels, norms: number of convolutions and of batch norms.
      exact: sum of sigma_max of the best variables, by singular value decomposition.
      best: step of these variables.
    """

    name: str
    rows: Rows
    kernels: int
    norms: int
    exact: float
    best: int

    def of(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(steps, values) of a metric."""
        return np.array([row["step"] for row in self.rows]), np.array([row[name] for row in self.rows], float)

    def levels(self, prefix: str) -> list[str]:
        """Names of the levels that have a metric PREFIX/LEVEL, top first."""
        return [name.partition("/")[2] for name in self.rows[0] if name.startswith(f"{prefix}/")]


def curves_of(folder: Path) -> Curves:
    """Reads a run.

    Raises ValueError for a run whose objective has no spectral term.
    """
    experiment, variables, progress = open_variables(folder)
    objective = experiment.objective
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if row.get("spectral") is not None]
    if not isinstance(objective, SpectralRegularised) or not rows:
        raise ValueError(
            f"{folder} was trained on {type(objective).__name__}: there are no singular values in its metrics. Give a "
            "run of SpectralRegularised, such as one of the recipe nvae."
        )
    stacks = objective.matrices(variables)
    exact = sum(float(np.linalg.norm(w, 2, axis=(-2, -1)).sum()) for w in map(np.asarray, stacks.values()))
    gains = [leaf for path, leaf in leaves_by_path(variables["batch_stats"]).items() if path.endswith("/var")]
    norms = sum(leaf.size // leaf.shape[-1] for leaf in gains)
    return Curves(folder.name, rows, sum(map(len, stacks.values())), norms, exact, progress.best_step)


def draw(runs: list[Curves], path: Path) -> None:
    """Draws the four panels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 7.0), layout="constrained")
    FigureCanvasAgg(figure)
    norms, weights, gammas, rates = figure.subplots(2, 2).ravel()
    for one, colour in zip(runs, COLOURS, strict=False):
        named = f", {one.name}" if len(runs) > 1 else ""
        steps, spectral = one.of("spectral")
        norms.plot(steps, spectral / one.kernels, color=colour, label=f"sigma_max of {one.kernels} convolutions{named}")
        gains = one.of("largest_gains")[1] / one.norms
        norms.plot(steps, gains, color=colour, linestyle="--", label=f"gain of {one.norms} batch norms{named}")
    norms.set(ylabel="mean of the largest", ylim=(0.0, None))
    first = runs[0]
    for name, label, colour in (("lambda_sr", "lambda", COLOURS[0]), ("beta", "weight of the KL", COLOURS[1])):
        weights.plot(*first.of(name), color=colour, label=label)
    weights.set(yscale="log")
    for axis, prefix, label in ((gammas, "balance", "gamma of each group"), (rates, "rate", "rate, nats")):
        levels = first.levels(prefix)
        for i, level in enumerate(levels):
            # many levels: from dark at the top to bright
            part = i / max(len(levels) - 1, 1)
            shade = COLOURS[i] if len(levels) <= len(COLOURS) else (0.1 + 0.8 * part, 0.2 + 0.6 * part, 0.6)
            axis.plot(*first.of(f"{prefix}/{level}"), color=shade, linewidth=1.2, label=level)
        axis.set(ylabel=label)
    rates.set(ylim=(0.0, None))
    for axis in (norms, weights, gammas, rates):
        axis.set_xlabel("step")
        axis.legend(frameon=False, fontsize=8)
        tidy(axis)
    save(figure, path)


def main(chosen: Settings) -> None:
    """Draws the picture, and prints a line for each run."""
    runs = [curves_of(folder) for folder in chosen.runs]
    chosen.folder.mkdir(parents=True, exist_ok=True)
    draw(runs, chosen.folder / "spectral.png")
    for one in runs:
        steps, spectral = one.of("spectral")
        near = int(np.abs(steps - one.best).argmin())
        print(
            f"{one.name}: {one.kernels} convolutions, sum of sigma_max {spectral[0]:.1f} at step {steps[0]}, "
            f"{spectral[-1]:.1f} at step {steps[-1]}; at the best step, {one.best}: {spectral[near]:.2f} by power "
            f"iterations, {one.exact:.2f} exactly"
        )
    print(f"spectral.png is in {chosen.folder}/")


if __name__ == "__main__":
    with errors_said():
        main(tyro.cli(Settings, description=__doc__))
