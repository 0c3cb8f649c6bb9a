r"""Consistency regularisation and decorrelated features: fit, latents and probes with and without the terms.

    python experiments/studies/consistency.py                          # digits: three seeds, all objectives
    python experiments/studies/consistency.py --data.name mnist --data.binarise static --weights 0 1 \
        --correlations                                                 # static MNIST
    python experiments/studies/consistency.py --weights --decorrelated z2  # one level alone is decorrelated
    python experiments/studies/consistency.py --weights --decorrelated z2 --latents 16 16 --kinds bernoulli normal \
        --correlations 0.01 0.1 1 --entropy 10                             # 16 bits at the top, with their entropy

Top-down VAEs of two levels, trained for the same number of steps with the same batches: on the ELBO alone; on that of x
and of an augmented x~, which is the control (weight 0); with the consistency term, for each weight; and on the ELBO
with decorrelated units, for each weight. Measured on test images that are not augmented: the ELBO, the rate of each
level, and the accuracy of linear probes that read a sample of z. Beside it the KL between the posteriors of x~ and x,
with the augmentation of training, and the sum of squared covariances of the posterior means.

The ELBO alone is the decorrelation with a weight of 0. All runs of an objective are one program, a vmap of the training
step over seeds and weights, from the same variables and keys for each seed. Writes the rows as JSON, and prints a table
of means and standard deviations over the seeds.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from few_labels import batches
from jax import Array

from hvae_jax.data import MISSING, Dataset
from hvae_jax.diagnostics import features, linear_probe, measured
from hvae_jax.experiment import Data
from hvae_jax.experiment.exits import errors_said
from hvae_jax.likelihoods import for_data
from hvae_jax.models import HVAE, TopDownVAE
from hvae_jax.objectives import (
    Affine,
    Batch,
    Consistency,
    Covariance,
    Decorrelated,
    Objective,
    Penalty,
    Schedule,
)
from hvae_jax.records import checked
from hvae_jax.runtime import doctor
from hvae_jax.runtime.compilation import keep_freed_memory, use_compilation_cache
from hvae_jax.runtime.files import write_whole
from hvae_jax.training import Adamax, make_step
from hvae_jax.training.state import state_from

PORTION = 50  # steps of one dispatch
COLUMNS = ("-ELBO", "KL z2", "KL z1", "consistency", "covariance", "probe z2", "probe z1", "probe all")


@dataclasses.dataclass(frozen=True)
@checked
class Settings:
    """What to train, and how it is measured.

    Attributes:
      data: the data set; it needs labels, which the probes alone read.
      augment: the augmentation of images.
      weights: weights of the consistency term; 0 is the control, and () leaves these runs out.
      correlations: weights of the decorrelation; without it is the ELBO alone, which is always trained.
      seeds: seeds, one run of each objective and weight.
      steps: steps of every run, a multiple of 50.
      batch_size: examples of a step.
      decorrelated: names of the levels that are decorrelated; () takes both.
      entropy: weight of the entropy of bits beside the squared covariances, in the decorrelation.
      latents: sizes of z2 and z1.
      kinds: families of z2 and z1, normal or bernoulli; () takes normal for both.
      hidden: width of every network.
      draws: draws behind ELBO and rates.
      examples: number of test examples that are measured, and of train examples that probes learn from.
      out: file of the rows; None takes runs/consistency_DATA.json.
    """

    data: Data = Data("digits")
    augment: Affine = Affine()
    weights: tuple[float, ...] = (0.0, 0.1, 1.0)
    correlations: tuple[float, ...] = (0.001, 0.1, 10.0, 100.0)
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 1000
    batch_size: int = 64
    decorrelated: tuple[str, ...] = ()
    entropy: float = 0.0
    latents: tuple[int, int] = (8, 16)
    kinds: tuple[Literal["normal", "bernoulli"], ...] = ()
    hidden: int = 128
    draws: int = 20
    examples: int = 1000
    out: Path | None = None


@dataclasses.dataclass(frozen=True)
class Given:
    """v(t) = value, which may be traced: the weights of several runs are data of one program."""

    value: Any

    def __call__(self, step: Array) -> Array:
        """The value."""
        return jnp.asarray(self.value, float)


Make = Callable[[Schedule], Objective]


def train(
    model: HVAE,
    initial: dict[int, Any],
    make: Make,
    x: np.ndarray,
    runs: list[tuple[float, int]],
    settings: Settings,
    name: str,
) -> Any:
    """Variables of every run, stacked.

    Args:
      initial: fresh variables by seed.
      make: the objective, from the schedule of its weight.
      x: `[N, *event]`.
      runs: weight and seed of each run.
      name: name on the progress line.
    """
    optimiser, images = Adamax(learning_rate=1e-3).build(), jnp.asarray(x)
    unlabelled, size, steps = np.full(len(x), MISSING), settings.batch_size, settings.steps
    rows = np.stack([batches(unlabelled, None, size, steps, seed) for _, seed in runs])
    weights, seeds = (np.array(values) for values in zip(*runs, strict=True))
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))

    def step(state: Any, rows: Array, key: Array, weight: Array) -> Any:
        return make_step(model, make(Given(weight)), optimiser)(state, Batch(images[rows]), key)

    @jax.jit
    def portion(states: Any, rows: Array) -> Any:
        def one(states: Any, rows: Array) -> Any:
            mine = jax.vmap(jax.random.fold_in)(keys, states.step)
            return jax.vmap(step)(states, rows, mine, jnp.asarray(weights, jnp.float32))

        return jax.lax.scan(one, states, rows)

    states = [state_from(initial[seed], make(Given(0.0)), optimiser) for _, seed in runs]
    states, began = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states), time.monotonic()
    for start in range(0, steps, PORTION):
        states, metrics = portion(states, jnp.swapaxes(jnp.asarray(rows[:, start : start + PORTION]), 0, 1))
        elbo, seconds = np.asarray(metrics["elbo"]).mean(), time.monotonic() - began
        print(f"{name}: {start + PORTION:,} of {steps:,} steps, mean ELBO {elbo:.2f}, {seconds:.0f} s", flush=True)
    return {"params": states.params, **states.statistics}


def looking(model: HVAE, dataset: Dataset, settings: Settings) -> Callable[[Any], dict[str, float]]:
    """A function of variables that measures them, with the same noise and the same x~ for all: compiled once."""
    test, known = (dataset.splits[name].take(slice(settings.examples)) for name in ("test", "train"))
    both = Penalty(Consistency(augment=(settings.augment,)), Covariance())

    def forward(variables: Any, x: Array, key: Array, **choices: Any) -> Any:
        return model.apply(variables, x, key, **choices), {}

    @jax.jit
    def look(variables: Any) -> Any:
        seen = measured(model, variables, test.x, jax.random.key(100), settings.draws)
        _, terms, *_ = both(forward, variables, Batch(jnp.asarray(test.x)), jax.random.key(101), jnp.int32(0), ())
        read = [features(model, variables, one.x, jax.random.key(102), draws=1).sampled for one in (known, test)]
        return seen.elbo.mean(), seen.usage.rates.mean(1), terms["consistency"], terms["covariance"], read

    def measure(variables: Any) -> dict[str, float]:
        elbo, rates, consistency, covariance, read = jax.device_get(look(variables))
        levels = [[sample[0] for sample in one] for one in read]  # [N, units] each
        levels = [[*one, np.concatenate(one, axis=1)] for one in levels]
        probes = [linear_probe(a, known.y, b, test.y).value for a, b in zip(*levels, strict=True)]
        values = (-elbo, *rates, consistency, covariance, *probes)
        return {name: float(value) for name, value in zip(COLUMNS, values, strict=True)}

    return measure


def table(rows: list[dict[str, Any]]) -> str:
    """Mean and deviation over the seeds, a row for each objective and weight; accuracies in percent."""
    lines = ["| objective | weight | " + " | ".join(COLUMNS) + " |", "|" + " --- |" * (len(COLUMNS) + 2)]
    for kind, weight in dict.fromkeys((row["objective"], row["weight"]) for row in rows):
        cells = []
        for name in COLUMNS:
            values = np.array([row[name] for row in rows if (row["objective"], row["weight"]) == (kind, weight)])
            scale, digits = (100, 1) if name.startswith("probe") else (1, 2)
            spread = scale * values.std(ddof=1) if len(values) > 1 else np.nan
            cells.append(f"{scale * values.mean():.{digits}f} ± {spread:.{digits}f}")
        lines.append(f"| {kind} | {weight:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(settings: Settings) -> None:
    """Trains and measures all runs, and prints the table as Markdown."""
    use_compilation_cache()
    keep_freed_memory()
    if settings.steps % PORTION:
        raise ValueError(f"--steps is {settings.steps}, but it has to be a multiple of {PORTION}.")
    if settings.data.binarise == "dynamic":
        raise ValueError("The study draws no pixels anew: take static binarisation, or none.")
    print(doctor.line(), flush=True)
    dataset = settings.data.load()
    print(dataset.describe(), flush=True)
    model = TopDownVAE(settings.latents, settings.hidden, levels=settings.kinds, likelihood=for_data(dataset))
    x = dataset.train.take(slice(None)).x
    init = jax.jit(lambda key: model.init(key, x[: settings.batch_size], key))
    initial = {seed: init(jax.random.key(seed)) for seed in settings.seeds}
    kinds: dict[str, tuple[Make, tuple[float, ...]]] = {
        "decorrelated": (
            lambda weight: Decorrelated(weight=weight, levels=settings.decorrelated, entropy=settings.entropy),
            (0.0, *settings.correlations),
        ),
        "consistency": (lambda weight: Consistency(augment=(settings.augment,), weight=weight), settings.weights),
    }
    out = settings.out or Path("runs") / f"consistency_{Path(settings.data.name).stem}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    measure = looking(model, dataset, settings)
    for name, (make, weights) in kinds.items():
        runs = [(weight, seed) for weight in weights for seed in settings.seeds]
        made = train(model, initial, make, x, runs, settings, name) if runs else {}
        for number, (weight, seed) in enumerate(runs):
            found = measure(jax.tree.map(lambda a, i=number: a[i], made))
            plain = name == "decorrelated" and not weight
            rows.append({"objective": "ELBO" if plain else name, "weight": weight, "seed": seed, **found})
        write_whole(out, json.dumps(rows, indent=2) + "\n")
    print("\n" + table(rows))


if __name__ == "__main__":
    with errors_said():
        main(tyro.cli(Settings, description=__doc__))
