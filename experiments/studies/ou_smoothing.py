"""Rates over the smoothing rho of the priors' networks: when does a level die, and does it die at once?

    python experiments/studies/ou_smoothing.py                                     # linear models and digits
    python experiments/studies/ou_smoothing.py --parts mnist --data.directory DIR  # static MNIST, added to the table
    python experiments/studies/ou_smoothing.py --parts                             # the figure of what was measured

Every part trains one model at all values of rho, with every seed, from the same initialisation for each seed:

- `linear`: two linear levels on Gaussian data, by Adam on all examples at once, beside the closed form of the rates and
  of the rho at which each latent dies (`models.linear_exact`).
- `digits_2`, `digits_4`: top-down VAEs of two and four levels on the 8x8 digits.
- `mnist`: a top-down VAE of two levels on static MNIST.

All runs of a part are one program: a vmap of the training step over states, batches, keys and rho, which is data in the
variables (the collection "smoothing"). Everything is trained for a fixed number of steps and measured with its last
variables, at its own rho. Writes ou_smoothing.json, .png and .svg into the folder, and prints the tables.
"""

import dataclasses
import functools
import json
import time
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from few_labels import batches
from linear_collapse import Settings as LinearSettings
from linear_collapse import examples_of
from sweep import save, tidy

from hvae_jax.data import Dataset
from hvae_jax.diagnostics import measured, used_units
from hvae_jax.experiment import Data
from hvae_jax.experiment.exits import errors_said
from hvae_jax.likelihoods import Bernoulli, Categorical
from hvae_jax.models import HVAE, ClosedForm, LinearVAE, Smoothing, TopDownVAE
from hvae_jax.networks.smoothed import COLLECTION
from hvae_jax.objectives import Batch, Cosine, NegativeELBO, Objective, smoothed_by
from hvae_jax.records import checked
from hvae_jax.runtime import doctor
from hvae_jax.runtime.compilation import keep_freed_memory, use_compilation_cache
from hvae_jax.runtime.files import write_whole
from hvae_jax.training import Adamax, AdamW, initial_state, make_step

Part = Literal["linear", "digits_2", "digits_4", "mnist"]
COLOURS = ("#2a78d6", "#1baf7a", "#eda100", "#e34948", "#4a3aa7", "#52514e")
TITLES = {
    "linear": "z2 of two linear levels, 8 latents",
    "digits_2": "digits, two levels",
    "digits_4": "digits, four levels",
    "mnist": "static MNIST, two levels",
}
PORTION = 50  # steps of one dispatch
PREDICTION = LinearVAE((8, 8), noise=1.0, scales=(0.5,), isometric=True)


@dataclasses.dataclass(frozen=True)
@checked
class Settings:
    """Settings of the study.

    Attributes:
      parts: what to train; none for the figure alone.
      rhos: values of rho, of the top-down VAEs.
      linear_rhos: values of rho of the linear models.
      draws: draws of the smoothing.
      seeds: seeds of every part but mnist.
      mnist_seeds: seeds of mnist.
      steps: steps of the digits and of mnist, by Adamax at 1e-3 on batches of 64; a multiple of 50.
      linear_steps: steps of the linear models, a multiple of 50.
      hidden: width of the networks.
      measure_draws: draws of all latents behind bounds and rates.
      examples: number of test examples that are measured, the first ones.
      data: where static MNIST is.
      folder: folder of figure and numbers.
    """

    parts: tuple[Part, ...] = ("linear", "digits_2", "digits_4")
    rhos: tuple[float, ...] = (0.0, 0.5, 0.7, 0.8, 0.85, 0.9, 0.94, 0.97, 0.99, 1.0)
    linear_rhos: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)
    draws: int = 1
    seeds: tuple[int, ...] = (0, 1, 2)
    mnist_seeds: tuple[int, ...] = (0,)
    steps: int = 1000
    linear_steps: int = 3000
    hidden: int = 128
    measure_draws: int = 20
    examples: int = 500
    data: Data = Data("binarized_mnist")
    folder: Path = Path("runs/ou_smoothing")


@dataclasses.dataclass(frozen=True)
@checked
class AtRho(Objective):
    """The negative ELBO at the rho in the objective's state: each run of a vmap has its own."""

    def init(self, variables: Any) -> jax.Array:
        """Plain, until the study replaces it."""
        return jnp.ones(())

    def __call__(self, forward: Any, variables: Any, batch: Batch, key: jax.Array, step: jax.Array, state: Any) -> Any:
        """The loss at rho; the state stays."""
        loss, metrics, _, updates = NegativeELBO()(smoothed_by(forward, state), variables, batch, key, step, ())
        return loss, metrics, state, updates


def train(
    model: HVAE, optimiser: Any, x: np.ndarray, rows: np.ndarray, rho: np.ndarray, index: np.ndarray, seeds: np.ndarray
) -> Any:
    """Variables of R runs, stacked, each with its rho.

    Args:
      x: `[N, *event]`, the same for all runs.
      rows: row numbers of each seed's batches, `[seeds, steps, B]`.
      rho: rho of each run, `[R]`.
      index: which of the seeds each run has, `[R]`.
      seeds: the seeds.
    """
    step, images = make_step(model, AtRho(), optimiser), jnp.asarray(x)
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds[index]))

    @jax.jit
    def begin(key: jax.Array) -> Any:
        return initial_state(model, AtRho(), optimiser, key, images[: rows.shape[2]], None, False)

    @functools.partial(jax.jit, donate_argnums=0)
    def portion(states: Any, rows: jax.Array) -> tuple[Any, jax.Array]:
        def one(states: Any, rows: jax.Array) -> tuple[Any, jax.Array]:
            batch = images[rows][jnp.asarray(index)]  # the runs of a seed see the same batches
            mine = jax.vmap(jax.random.fold_in)(keys, states.step)
            states, metrics = jax.vmap(step)(states, Batch(batch), mine)
            return states, metrics["elbo"]

        return jax.lax.scan(one, states, rows)

    # one program of one run, and not of all: compiling the draws of all would take longer than a short training
    made = [begin(jax.random.key(seed)) for seed in seeds]
    states = jax.tree.map(lambda *leaves: jnp.stack([leaves[i] for i in index]), *made)
    states = states.replace(objective_state=jnp.asarray(rho, jnp.float32))
    for start in range(0, rows.shape[1], PORTION):
        states, elbo = portion(states, jnp.swapaxes(jnp.asarray(rows[:, start : start + PORTION]), 0, 1))
        if start % (10 * PORTION) == 0:
            print(f"{start + PORTION:,} of {rows.shape[1]:,} steps, mean ELBO {float(elbo.mean()):.2f}", flush=True)
    return {"params": states.params, **states.statistics, COLLECTION: {"rho": states.objective_state}}


def measure(model: HVAE, variables: Any, x: np.ndarray, draws: int) -> list[dict[str, Any]]:
    """Numbers of each run on the examples, with the same noise for all."""
    look = jax.jit(lambda v, x: measured(model, v, x, jax.random.key(100), draws))
    found = []
    for run in range(len(variables[COLLECTION]["rho"])):
        seen = jax.device_get(look(jax.tree.map(lambda a, i=run: a[i], variables), x))
        units = [np.asarray(rates, np.float64).mean(0) for rates in seen.usage.unit_rates]
        found.append(
            {
                "-ELBO": -float(seen.elbo.mean()),
                "-IW": -float(seen.bound.mean()),
                "rates": np.asarray(seen.usage.rates, np.float64).mean(1).tolist(),
                "used": used_units(seen.usage.unit_rates),
                "top_units": np.sort(units[0])[::-1].tolist(),
            }
        )
    return found


def part(name: Part, chosen: Settings) -> list[dict[str, Any]]:
    """Trains and measures all runs of a part: a row each."""
    seeds = np.array(chosen.mnist_seeds if name == "mnist" else chosen.seeds)
    rhos = chosen.linear_rhos if name == "linear" else chosen.rhos
    index, rho = (a.ravel() for a in np.meshgrid(np.arange(len(seeds)), rhos, indexing="ij"))
    smoothing, optimiser = Smoothing(1.0, chosen.draws), Adamax(learning_rate=1e-3).build()
    if name == "linear":
        model: HVAE = PREDICTION.clone(smoothing=smoothing)
        x = test = np.asarray(examples_of(LinearSettings()))
        optimiser = AdamW(1e-2, schedule=Cosine(0, chosen.linear_steps, 1.0, 0.0)).build()
        rows = np.broadcast_to(np.arange(len(x)), (len(seeds), chosen.linear_steps, len(x)))
    else:
        data = chosen.data if name == "mnist" else Data("digits")
        dataset: Dataset = data.load()
        print(dataset.describe(), flush=True)
        x, test = dataset.splits["train"].x, dataset.splits["test"].take(slice(chosen.examples)).x
        latents = (4, 8, 12, 16) if name == "digits_4" else (8, 16)
        likelihood = Bernoulli() if name == "mnist" else Categorical(17)
        model = TopDownVAE(latents, chosen.hidden, likelihood=likelihood, smoothing=smoothing)
        rows = np.stack([batches(np.zeros(len(x)), None, 64, chosen.steps, seed) for seed in seeds])
    start = time.process_time()
    variables = train(model, optimiser, x, rows, rho, index, seeds)
    found = measure(model, variables, test, chosen.measure_draws)
    print(f"{name}: {len(rho)} runs, {time.process_time() - start:.0f} s of processor time", flush=True)
    return [
        {"part": name, "rho": float(r), "seed": int(seeds[i]), "draws": chosen.draws, **numbers}
        for i, r, numbers in zip(index, rho, found, strict=True)
    ]


def predicted(rho: float, draws: int) -> np.ndarray:
    """The closed form of the rates of z2's latents in the linear part, falling, `[8]`."""
    model = PREDICTION.clone(smoothing=Smoothing(rho, draws))
    eye = np.eye(8)
    variables = {"params": {"kernel_x": eye, "kernel1": eye, "bias1": np.zeros(8), "bias_x": np.zeros(8)}}
    covariance = np.diag(np.geomspace(*LinearSettings().eigenvalues, 8))
    return ClosedForm(model, variables).collapse(covariance).rates[0]


def threshold(k: float, draws: int) -> float:
    """The rho at which a latent of the linear part dies whose variance is k times that of the noise: k = 1 + a."""
    noise = PREDICTION.noise
    assert noise is not None
    share = (noise**2 + PREDICTION.scales[0] ** 2) / noise**2
    return float(np.sqrt(share / (share + draws * (k - 1.0))))


def draw(rows: list[dict[str, Any]], chosen: Settings, path: Path) -> None:
    """Draws the rates over rho, a panel for each part that was measured."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [name for name in TITLES if any(row["part"] == name for row in rows)]
    figure = Figure(figsize=(4.6 * len(names), 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        here = [row for row in rows if row["part"] == name]
        levels = len(here[0]["rates"])
        if name == "linear":
            draw_linear(axis, here)
        else:
            for level in range(levels):
                shown(axis, here, [row["rates"][level] for row in here], COLOURS[level], f"z{levels - level}")
        axis.set_xlabel("$\\rho$")
        axis.set_ylabel("rate, nats")
        axis.set_title(TITLES[name], fontsize=10)
        axis.legend(frameon=False, fontsize=8)
        tidy(axis)
    save(figure, path)


def shown(axis: Any, rows: list[dict[str, Any]], values: list[float], colour: str, label: str) -> None:
    """A line through the means over seeds, and a point for each run."""
    rho = np.array([row["rho"] for row in rows])
    axis.plot(rho, values, "o", color=colour, markersize=3, alpha=0.6)
    places = np.unique(rho)
    axis.plot(places, [np.mean(np.array(values)[rho == r]) for r in places], color=colour, linewidth=1.2, label=label)


def draw_linear(axis: Any, rows: list[dict[str, Any]]) -> None:
    """The rates of z2's latents, each beside its closed form and the rho at which it is to die."""
    draws, fine = rows[0]["draws"], np.linspace(0.0, 1.0, 201)
    curves = np.stack([predicted(rho, draws) for rho in fine])
    noise = PREDICTION.noise
    assert noise is not None
    ratios = np.geomspace(*LinearSettings().eigenvalues, 8)[::-1] / (noise**2 + PREDICTION.scales[0] ** 2)
    for unit in np.flatnonzero(ratios > 1.0):
        colour, measured_rates = COLOURS[unit % len(COLOURS)], [row["top_units"][unit] for row in rows]
        axis.plot(fine, curves[:, unit], color=colour, linewidth=1.2, label=f"k = {ratios[unit]:.1f}")
        axis.axvline(threshold(ratios[unit], draws), color=colour, linewidth=0.8, linestyle=":")
        axis.plot([row["rho"] for row in rows], measured_rates, "o", color=colour, markersize=3)


def table(rows: list[dict[str, Any]]) -> str:
    """Bounds and rates of a part over rho, means over seeds with their deviations, as Markdown."""
    levels, linear = len(rows[0]["rates"]), rows[0]["part"] == "linear"
    names = [f"z{levels - level}" for level in range(levels)]
    columns = ["rho", "-ELBO", "-IW", *(f"rate of {name}" for name in names), "units of the top in use"]
    columns += ["predicted rate of z2", "largest difference of a latent"] if linear else []
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for rho in dict.fromkeys(row["rho"] for row in rows):
        some = [row for row in rows if row["rho"] == rho]
        numbers = [[row["-ELBO"] for row in some], [row["-IW"] for row in some]]
        numbers += [[row["rates"][level] for row in some] for level in range(levels)]
        cells = [f"{np.mean(v):.2f}" + (f" ± {np.std(v, ddof=1):.2f}" if len(v) > 1 else "") for v in numbers]
        used = [row["used"][0] for row in some]
        cells.append(f"{min(used)}" if min(used) == max(used) else f"{min(used)} to {max(used)}")
        if linear:
            wanted = predicted(rho, some[0]["draws"])
            apart = max(np.abs(np.array(row["top_units"]) - wanted).max() for row in some)
            cells += [f"{wanted.sum():.2f}", f"{apart:.3f}"]
        lines.append(f"| {rho:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(chosen: Settings) -> None:
    """Trains and measures the parts, adds them to the table, draws the figure and prints the tables."""
    use_compilation_cache()
    keep_freed_memory()
    for steps in (chosen.steps, chosen.linear_steps):
        if steps % PORTION:
            raise ValueError(f"{steps} steps, but their number has to be a multiple of {PORTION}.")
    print(doctor.line(), flush=True)
    path = chosen.folder / "ou_smoothing.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = json.loads(path.read_text()) if path.exists() else []
    for name in chosen.parts:
        rows = [row for row in rows if row["part"] != name] + part(name, chosen)
        write_whole(path, json.dumps(rows, indent=1) + "\n")
    draw(rows, chosen, path.with_suffix(".png"))
    for name in TITLES:
        if here := [row for row in rows if row["part"] == name]:
            print(f"\n{TITLES[name]}\n\n{table(here)}")


if __name__ == "__main__":
    with errors_said():
        main(tyro.cli(Settings, description=__doc__))
