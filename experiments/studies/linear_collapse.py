"""When a latent collapses: measured rates of linear VAEs against the closed form of the threshold.

    python experiments/studies/linear_collapse.py  # two cores: a minute

The data are Gaussian, 1,000 examples of 8 numbers, with eigenvalues from 0.3 to 30 in directions drawn at random.

- One level, as many latents as numbers, for each noise s_0 of x, and with the rates weighted by beta: a latent lives if
  its eigenvalue of the data's covariance exceeds beta s_0^2, with a rate of log(eigenvalue / (beta s_0^2)) / 2.
- Two levels with isometric maps below the top, for each scale s_1 of z1: a latent of z2 lives if its eigenvalue exceeds
  s_0^2 + s_1^2, with a rate of log(eigenvalue / (s_0^2 + s_1^2)) / 2.

Every model is trained from random maps, by Adam on all examples at once, and measured on them. Writes
linear_collapse.png (and .svg) and linear_collapse.json into the folder, and prints a table.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from sweep import save, tidy

from hvae_jax.diagnostics import usage
from hvae_jax.experiment.exits import errors_said
from hvae_jax.models import ClosedForm, LinearVAE
from hvae_jax.objectives import Batch, Cosine, Regularised
from hvae_jax.runtime.compilation import keep_freed_memory, use_compilation_cache
from hvae_jax.training import AdamW, init_state, make_step

COLOURS = ("#2a78d6", "#1baf7a", "#eda100", "#4a3aa7", "#e34948")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the study.

    Attributes:
      width: numbers of an example, and latents of each level.
      eigenvalues: smallest and largest eigenvalue of the data's covariance; the others are spaced evenly in between, as
        logarithms.
      examples: number of examples.
      noises: standard deviations s_0 of x, for models of one level.
      betas: weights of the rates, for models of one level at the middle of `noises`.
      scales: standard deviations s_1 of z1, for models of two levels at the first of `noises`.
      steps: training steps, on all examples each.
      learning_rate: of Adam, falling to 0 as a cosine.
      seeds: seeds, one run of every model each.
      draws: draws of the latents behind the measured rates.
      folder: folder of figure and numbers.
    """

    width: int = 8
    eigenvalues: tuple[float, float] = (0.3, 30.0)
    examples: int = 1000
    noises: tuple[float, ...] = (0.7, 1.4, 2.8)
    betas: tuple[float, ...] = (0.5, 2.0)
    scales: tuple[float, ...] = (0.7, 1.4, 2.8)
    steps: int = 5000
    learning_rate: float = 1e-2
    seeds: tuple[int, ...] = (0, 1, 2)
    draws: int = 20
    folder: Path = Path("runs/linear_collapse")


@dataclasses.dataclass(frozen=True)
class Trial:
    """One model, the weight of its rates, and its name in the figure."""

    name: str
    model: LinearVAE
    beta: float = 1.0


def trials(chosen: Settings) -> list[Trial]:
    """Every model of the study: one level for each noise and beta, two levels for each scale."""
    size, middle = chosen.width, chosen.noises[len(chosen.noises) // 2]
    one = [Trial(f"$s_0$ = {s:g}", LinearVAE((size,), noise=s)) for s in chosen.noises]
    weighted = [Trial(f"$s_0$ = {middle:g}, beta = {b:g}", LinearVAE((size,), noise=middle), b) for b in chosen.betas]
    two = [
        Trial(f"$s_1$ = {s:g}", LinearVAE((size, size), noise=chosen.noises[0], scales=(s,), isometric=True))
        for s in chosen.scales
    ]
    return [*one, *weighted, *two]


def examples_of(chosen: Settings) -> jax.Array:
    """Returns the data, `[examples, width]`, whose own covariance has the eigenvalues, to rounding."""
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.normal(size=(chosen.width, chosen.width)))
    white = rng.normal(size=(chosen.examples, chosen.width))
    white -= white.mean(0)
    white = np.linalg.solve(np.linalg.cholesky(white.T @ white / len(white)), white.T).T
    return jnp.asarray(white * np.sqrt(np.geomspace(*chosen.eigenvalues, chosen.width)) @ turn, jnp.float32)


def train(trial: Trial, x: jax.Array, chosen: Settings, seed: int) -> Any:
    """Returns the variables after the last step, each of which saw all of x."""
    objective, key = Regularised(beta=trial.beta), jax.random.key(seed)
    optimiser = AdamW(chosen.learning_rate, schedule=Cosine(0, chosen.steps, 1.0, 0.0)).build()
    step = make_step(trial.model, objective, optimiser)

    @jax.jit
    def run(state: Any, key: jax.Array) -> Any:
        def one(state: Any, index: jax.Array) -> tuple[Any, None]:
            return step(state, Batch(x), jax.random.fold_in(key, index))[0], None

        return jax.lax.scan(one, state, jnp.arange(chosen.steps))[0]

    return run(init_state(trial.model, objective, optimiser, key, x), key).variables


def measure(trial: Trial, x: jax.Array, variables: Any, draws: int) -> dict[str, Any]:
    """Returns the rates of the top level's latents, falling, beside the closed form at these variables."""
    found = jax.jit(lambda v: usage(trial.model, v, x, jax.random.key(100), draws))(variables)
    exact = ClosedForm(trial.model, variables)
    covariance = np.cov(np.asarray(x, np.float64), rowvar=False, bias=True)
    predicted = exact.collapse(covariance, trial.beta)
    rates = np.sort(np.asarray(found.unit_rates[0], np.float64).mean(0))[::-1]
    return {
        "ratios": predicted.ratios[0].tolist(),
        "predicted": predicted.rates[0].tolist(),
        "measured": rates.tolist(),
        "levels": np.asarray(found.rates, np.float64).mean(1).tolist(),
        "levels_in_closed_form": exact.rates(np.asarray(x)).mean(1).tolist(),
    }


def draw(rows: list[dict[str, Any]], chosen: Settings, path: Path) -> None:
    """Draws the rate of every top latent over its variance in units of the threshold: one level, and two."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = {1: "one level: threshold $\\beta s_0^2$", 2: f"z2 of two, $s_0$ = {chosen.noises[0]:g}: $s_0^2 + s_1^2$"}
    for axis, (levels, title) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        here = [row for row in rows if len(row["levels"]) == levels]
        names = list(dict.fromkeys(row["name"] for row in here))
        for name, colour in zip(names, COLOURS * 3, strict=False):
            some = [row for row in here if row["name"] == name]
            x, y = (np.concatenate([row[key] for row in some]) for key in ("ratios", "measured"))
            axis.plot(x, y, "o", color=colour, markersize=4, alpha=0.7, label=name)
        low, high = axis.get_xlim()
        curve = np.geomspace(min(low, 0.2) if low > 0 else 0.05, high, 200)
        axis.plot(curve, 0.5 * np.log(np.maximum(curve, 1.0)), color="#52514e", linewidth=1.0, zorder=0)
        axis.axvline(1.0, color="#b9b7b0", linewidth=0.8, zorder=0)
        axis.set_xscale("log")
        axis.set_xlabel("variance of the data over the threshold")
        axis.set_ylabel("rate of the latent, nats")
        axis.set_title(title, fontsize=10)
        axis.legend(frameon=False, fontsize=9)
        tidy(axis)
    save(figure, path)


def table(rows: list[dict[str, Any]]) -> str:
    """Living latents and rates of the top level, predicted and measured, means over seeds, as Markdown."""
    text = ["| model | alive: predicted | measured | top rate: predicted | measured | largest difference of a latent |"]
    text.append("|" + " --- |" * 6)
    for name in dict.fromkeys(row["name"] for row in rows):
        some = [row for row in rows if row["name"] == name]
        predicted, measured = (np.array([row[key] for row in some]) for key in ("predicted", "measured"))
        alive = [(rates > 0.01).sum(1) for rates in (predicted, measured)]
        counts = [f"{min(count)}" if min(count) == max(count) else f"{min(count)} to {max(count)}" for count in alive]
        wholes = [
            f"{rates.sum(1).mean():.3f} ± {rates.sum(1).std(ddof=len(some) > 1):.3f}" for rates in (predicted, measured)
        ]
        apart = np.abs(predicted - measured).max()
        label = name.replace("$", "")
        text.append(f"| {label} | {counts[0]} | {counts[1]} | {wholes[0]} | {wholes[1]} | {apart:.3f} |")
    return "\n".join(text)


def main(chosen: Settings) -> None:
    """Trains and measures every model, draws the figure, and prints the table."""
    use_compilation_cache()
    keep_freed_memory()
    x = examples_of(chosen)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for trial in trials(chosen):
        for seed in chosen.seeds:
            row = measure(trial, x, train(trial, x, chosen, seed), chosen.draws)
            rows.append({"name": trial.name, "seed": seed, "beta": trial.beta, **row})
            print(f"{trial.name}, seed {seed}: rates {np.round(row['levels'], 3).tolist()}", flush=True)
            (chosen.folder / "linear_collapse.json").write_text(json.dumps(rows, indent=1) + "\n")
    draw(rows, chosen, chosen.folder / "linear_collapse.png")
    print(table(rows))


if __name__ == "__main__":
    with errors_said():
        main(tyro.cli(Settings, description=__doc__))
