"""A target for the mutual information of the model: is it met, what does it do to a strong decoder, what does it cost?

    python experiments/studies/mutual_information.py                          # all parts
    python experiments/studies/mutual_information.py --parts linear bits      # the two toys

`linear`: a linear VAE of one level, whose information is log det(I + A A^T / s_0^2)/2, on Gaussian data. `bits`: a
model with three latent variables of eight classes and ten binary pixels, whose 512 x 1,024 joint probabilities are
summed, with each estimator of the gradient; and how far the two estimators lie from the gradient of that sum. `digits`:
one level with a PixelCNN that sees all earlier pixels, which ignores z when trained on the ELBO. In each part the ELBO
alone (a weight of 0, where r only measures) is compared with each target.

I_r is measured on fresh samples of the trained model, with the r of the training. All runs of a toy are one program: a
vmap over seeds and targets. Writes mutual_information.json into the folder, and prints tables as Markdown.
"""

import copy
import dataclasses
import itertools
import json
import math
import time
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from hvae_jax.data import Dataset
from hvae_jax.diagnostics import measured
from hvae_jax.experiment import Data
from hvae_jax.experiment.exits import errors_said
from hvae_jax.likelihoods import Bernoulli, PixelCNN, for_data
from hvae_jax.models import HVAE, VAE, ClosedForm, LinearVAE, TopDownVAE
from hvae_jax.objectives import Batch, MutualInformation
from hvae_jax.objectives.mutual_information import Sample, estimate
from hvae_jax.objectives.protocol import own_of, with_own, without_own
from hvae_jax.runtime import doctor
from hvae_jax.runtime.compilation import jit_once, keep_freed_memory, use_compilation_cache
from hvae_jax.runtime.files import write_whole
from hvae_jax.training import Adamax, initial_state, make_step

Part = Literal["linear", "bits", "digits"]
Rows = list[dict[str, Any]]
PIXELS = 10  # of the part "bits"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the study.

    Attributes:
      parts: parts of the study.
      targets: targets M, nats; the ELBO alone is added.
      weight: weight of the penalty.
      seeds: seeds, one run of everything each.
      steps: steps of a toy's runs.
      digits_steps: steps of the digits' runs, of 32 examples.
      digits_gradient: estimator of the gradient through the digits' pixels.
      hidden: width of all networks of the digits' model, and of r's.
      width: channels of the PixelCNN, of two layers.
      draws: draws of all latents behind bounds and rates of the digits.
      samples: samples of the model that I_r is measured on.
      folder: folder of the numbers.
    """

    parts: tuple[Part, ...] = ("linear", "bits", "digits")
    targets: tuple[float, ...] = (0.0, 2.0, 5.0)
    weight: float = 10.0
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 2000
    digits_steps: int = 1000
    digits_gradient: Literal["straight_through", "score"] = "straight_through"
    hidden: int = 64
    width: int = 8
    draws: int = 50
    samples: int = 4000
    folder: Path = Path("runs/mutual_information")


def aimed(objective: MutualInformation, target: Any, weight: Any) -> MutualInformation:
    """The objective with a target and a weight that may be traced: one program serves all targets."""
    found = copy.copy(objective)
    # the record's own check takes numbers alone
    object.__setattr__(found, "target", target)
    object.__setattr__(found, "weight", weight)
    return found


def forward_of(model: HVAE) -> Any:
    """The model's forward pass in evaluation mode."""

    def forward(variables: Any, x: Any, key: Any, **choices: Any) -> tuple[Any, Any]:
        variables = {**variables, "params": without_own(variables["params"])}
        return model.apply(variables, x, key, **choices), {}

    return forward


def trainer(model: HVAE, objective: MutualInformation, steps: int, size: int, rate: float) -> Any:
    """`(x, seed, target, weight) -> (parameters with r's, statistics)`, a run from its initialisation to its end.

    Args:
      size: examples of a batch, drawn with replacement.
      rate: learning rate of Adamax.
    """
    optimiser = Adamax(learning_rate=rate).build()

    def run(x: jax.Array, seed: jax.Array, target: jax.Array, weight: jax.Array) -> tuple[Any, Any]:
        key = jax.random.key(seed)
        step = make_step(model, aimed(objective, target, weight), optimiser)
        state = initial_state(model, objective, optimiser, key, x[:size])

        def one(state: Any, index: jax.Array) -> tuple[Any, None]:
            keys = jax.random.split(jax.random.fold_in(key, index))
            rows = jax.random.randint(keys[0], (size,), 0, len(x))
            return step(state, Batch(x[rows]), keys[1])[0], None

        state = jax.lax.scan(one, state, jnp.arange(steps))[0]
        return state.params, state.statistics

    return run


def goals(chosen: Settings) -> list[tuple[float | None, float, float]]:
    """(target in the table, target, weight) of every run of a seed; the ELBO alone has no target."""
    return [(None, 0.0, 0.0), *((target, target, chosen.weight) for target in chosen.targets)]


def all_runs(chosen: Settings, model: HVAE, objective: MutualInformation, x: Any, rate: float) -> Any:
    """[(target, seed, parameters, statistics)] of a toy, from one program."""
    runs = [(*goal, seed) for goal in goals(chosen) for seed in chosen.seeds]
    columns = [jnp.asarray([run[i] for run in runs], kind) for i, kind in ((3, int), (1, float), (2, float))]
    train = jax.vmap(trainer(model, objective, chosen.steps, 128, rate), (None, 0, 0, 0))
    found = jax.device_get(jax.jit(train)(x, *columns))
    return [(run[0], run[3], *jax.tree.map(lambda a, i=i: a[i], found)) for i, run in enumerate(runs)]


def looker(chosen: Settings, model: HVAE, objective: MutualInformation, event: tuple[int, ...]) -> Any:
    """`variables -> log r - log p`, `[samples]`, of all chosen levels together."""
    batch = Batch(jnp.zeros((chosen.samples, *event)))
    return jax.jit(
        lambda variables: sum(
            objective.information(forward_of(model), variables, batch, jax.random.key(100)).values(),
            jnp.zeros(()),
        )
    )


def elbo_of(model: HVAE, x: Any, draws: int = 20) -> Any:
    """`variables -> (mean ELBO, mean total rate)` on x."""

    @jax.jit
    def look(variables: Any) -> Any:
        found = measured(model, variables, x, jax.random.key(101), draws)
        return found.elbo.mean(), found.usage.rates.sum(0).mean()

    return look


def linear(chosen: Settings) -> Rows:
    """Four latents, eight numbers, noise 0.7; 1,000 Gaussian examples with eigenvalues from 0.3 to 10."""
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    x = jnp.asarray(rng.normal(size=(1000, 8)) * np.sqrt(np.geomspace(0.3, 10.0, 8)) @ turn, jnp.float32)
    model = LinearVAE((4,), noise=0.7)
    objective = MutualInformation(0.0, chosen.weight, hidden=32, depth=1)
    look, scored, rows = looker(chosen, model, objective, (8,)), elbo_of(model, x), []
    for target, seed, params, _ in all_runs(chosen, model, objective, x, 3e-3):
        values, plain = np.asarray(look({"params": params})), {"params": without_own(params)}
        a = ClosedForm(model, plain).link(0)[0]
        exact = 0.5 * np.linalg.slogdet(np.eye(4) + a.T @ a / 0.7**2)[1]
        rows.append(row("linear", target, seed, values, float(exact), *scored(plain)))
    return rows


def enumerated(model: TopDownVAE, variables: Any) -> tuple[Any, Any, Any]:
    """log p(z) `[512]`, log p(x | z) `[512, 1024]` and the values x of a model of three variables of eight classes."""
    z = jax.nn.one_hot(jnp.asarray(list(itertools.product(range(8), repeat=3))), 8)  # [512, 3, 8]
    x = jnp.asarray(list(itertools.product((0.0, 1.0), repeat=PIXELS)))  # [1024, 10]
    trace = model.apply(variables, jax.random.key(0), len(z), latents=(z,), method="decode")
    logits = trace.x_dist.logits
    return trace.levels[0].log_p, logits @ x.T - jax.nn.softplus(logits).sum(1, keepdims=True), x


def information_of(model: TopDownVAE, variables: Any) -> float:
    """I(x; z), nats, summed over all z and x in float64."""
    log_pz, log_px, _ = (np.asarray(part, np.float64) for part in enumerated(model, variables))
    joint = np.exp(log_pz[:, None] + log_px)
    return float((joint * (log_px - np.log(joint.sum(0) / joint.sum())[None])).sum() / joint.sum())


def bits(chosen: Settings) -> Rows:
    """1,000 examples of ten bits: six random patterns with 10% of the bits flipped."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 2, (6, PIXELS))
    x = jnp.asarray(patterns[rng.integers(0, 6, 1000)] ^ (rng.random((1000, PIXELS)) < 0.1), jnp.uint8)
    model = TopDownVAE((3,), hidden=32, likelihood=Bernoulli(), levels=("categorical",), categories=8)
    rows: Rows = []
    scored = elbo_of(model, x)
    for gradient in ("straight_through", "score"):
        objective = MutualInformation(0.0, chosen.weight, gradient=gradient, hidden=64, depth=1)
        look = looker(chosen, model, objective, (PIXELS,))
        for target, seed, params, statistics in all_runs(chosen, model, objective, x, 3e-3):
            variables = {"params": params, **statistics}
            plain = {"params": without_own(params), **statistics}
            exact = information_of(model, plain)
            rows.append(row("bits", target, seed, np.asarray(look(variables)), exact, *scored(plain)))
            rows[-1]["gradient"] = gradient
            if gradient == "score" and seed == chosen.seeds[0]:
                rows[-1]["estimators"] = estimators(model, objective, variables)
    return rows


def estimators(model: TopDownVAE, objective: MutualInformation, variables: Any, draws: int = 400) -> dict[str, Any]:
    """Bias and standard deviation of both estimators of dI_r, of 64 samples, over the norm of the exact one.

    The exact gradient is that of I_r summed over all z and x, in the decoder's and the prior's parameters.
    """
    own = own_of(variables["params"])
    rest = {name: leaf for name, leaf in variables.items() if name != "params"}
    z = jax.nn.one_hot(jnp.asarray(list(itertools.product(range(8), repeat=3))), 8)

    def whole(params: Any) -> jax.Array:
        log_pz, log_px, x = enumerated(model, {"params": params, **rest})
        trace = model.apply({"params": params, **rest}, jax.random.key(0), len(z), latents=(z,), method="decode")
        level = trace.levels[0]

        def over_z(one: jax.Array) -> jax.Array:
            every = jnp.broadcast_to(one[None], (len(z), PIXELS))
            sample = Sample((level,), every, jnp.zeros(len(z)))
            return objective.values(own["mutual_information"], sample)[level.name]

        values = jax.lax.map(over_z, x).T  # [512, 1024]
        return (jnp.exp(log_pz[:, None] + log_px) * values).sum()

    params = without_own(variables["params"])
    exact = ravelled(jax.jit(jax.grad(whole))(params))
    found: dict[str, Any] = {}
    for gradient in ("straight_through", "score"):
        one = dataclasses.replace(objective, gradient=gradient)

        def of_sample(params: Any, key: jax.Array, one: MutualInformation = one) -> jax.Array:
            variables = {"params": with_own(params, own), **rest}
            sample = one.sample(forward_of(model), variables, Batch(jnp.zeros((64, PIXELS))), key)
            return estimate(one.values(own["mutual_information"], sample), sample)

        keys = jax.random.split(jax.random.key(7), draws)
        slopes = np.asarray(jax.jit(jax.vmap(lambda key, f=of_sample: ravel(jax.grad(f)(params, key))))(keys))
        mean, norm = slopes.mean(0), np.linalg.norm(exact)
        deviation = math.sqrt(slopes.var(0, ddof=1).sum())
        found[gradient] = {
            "cosine": float(mean @ exact / (np.linalg.norm(mean) * norm)),
            "bias": float(np.linalg.norm(mean - exact) / norm),
            "noise of the bias": deviation / math.sqrt(draws) / float(norm),
            "deviation": deviation / float(norm),
        }
    return found


def ravel(tree: Any) -> jax.Array:
    """All leaves in one vector."""
    return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(tree)])


def ravelled(tree: Any) -> np.ndarray:
    """All leaves in one vector, in float64."""
    return np.asarray(ravel(tree), np.float64)


def digits(chosen: Settings, dataset: Dataset) -> Rows:
    """One level of 16 latents and a PixelCNN of two layers, smaller than those of `usefulness_plane.py`."""
    head = PixelCNN(for_data(dataset), None, 2, chosen.width)
    model = VAE(latents=16, hidden=chosen.hidden, likelihood=head)
    objective = MutualInformation(0.0, chosen.weight, gradient=chosen.digits_gradient, hidden=chosen.hidden)
    x, test = jnp.asarray(dataset.train.x), jnp.asarray(dataset.splits["test"].x)
    optimiser = Adamax(learning_rate=1e-3).build()
    begin = jit_once(lambda key: initial_state(model, objective, optimiser, key, x[:32]))

    # Compiled once: target and weight are data. Step by step, because convolutions are slow inside a loop on a CPU.
    @jax.jit
    def step(state: Any, key: jax.Array, target: jax.Array, weight: jax.Array) -> Any:
        keys = jax.random.split(jax.random.fold_in(key, state.step))
        rows = jax.random.randint(keys[0], (32,), 0, len(x))
        return make_step(model, aimed(objective, target, weight), optimiser)(state, Batch(x[rows]), keys[1])[0]

    look = looker(dataclasses.replace(chosen, samples=min(chosen.samples, 2000)), model, objective, dataset.event)
    measure = jax.jit(lambda v: measured(model, v, test, jax.random.key(101), chosen.draws))
    rows: Rows = []
    for seed in chosen.seeds:
        for shown, target, weight in goals(chosen):
            begun = time.perf_counter()
            key = jax.random.key(seed)
            state = begin(key)
            for _ in range(chosen.digits_steps):
                state = step(state, key, jnp.float32(target), jnp.float32(weight))
            params, statistics = state.params, state.statistics
            plain = {"params": without_own(params), **statistics}
            found = jax.device_get(measure(plain))
            values = np.asarray(look({"params": params, **statistics}))
            rate = float(found.usage.rates.sum(0).mean())
            rows.append(row("digits", shown, seed, values, None, float(found.elbo.mean()), rate))
            rows[-1] |= {"iw_bound": float(found.bound.mean()), "seconds": time.perf_counter() - begun}
            print(json.dumps(rows[-1]), flush=True)
            write_whole(chosen.folder / "digits.json", json.dumps(rows, indent=2) + "\n")
    return rows


def row(part: str, target: float | None, seed: int, values: Any, exact: float | None, elbo: Any, rate: Any) -> Any:
    """The numbers of one run.

    Args:
      values: log r - log p of samples of the model.
      exact: I(x; z), or None where it is not known.
    """
    return {
        "part": part,
        "target": target,
        "seed": seed,
        "I_r": float(values.mean()),
        "I_r error": float(values.std() / math.sqrt(len(values))),
        "exact": exact,
        "elbo": float(elbo),
        "rate": float(rate),
    }


def table(rows: Rows, columns: tuple[str, ...]) -> str:
    """Mean and standard deviation over the seeds, a row for each target."""
    lines = ["| trained on | " + " | ".join(columns) + " |", "|" + " --- |" * (len(columns) + 1)]
    for target in dict.fromkeys(one["target"] for one in rows):
        some = [one for one in rows if one["target"] == target]
        cells = []
        for name in columns:
            values = np.array([one[name] for one in some])
            spread = f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.2f}{spread}")
        lines.append(f"| {'the ELBO' if target is None else f'M = {target:g}'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(chosen: Settings) -> None:
    """Trains and measures all parts, and prints their tables."""
    use_compilation_cache()
    keep_freed_memory()
    print(doctor.line(), flush=True)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    for part in chosen.parts:
        begun, used = time.perf_counter(), time.process_time()
        if part == "digits":
            rows, columns = digits(chosen, Data("digits").load()), ("I_r", "rate", "elbo", "iw_bound")
        else:
            rows, columns = (linear if part == "linear" else bits)(chosen), ("I_r", "exact", "rate", "elbo")
        write_whole(chosen.folder / f"{part}.json", json.dumps(rows, indent=2) + "\n")
        seconds = f"{time.perf_counter() - begun:.0f} s, {time.process_time() - used:.0f} of processor time"
        for gradient in dict.fromkeys(one.get("gradient") for one in rows):
            some = [one for one in rows if one.get("gradient") == gradient]
            print(f"\n{part}{'' if gradient is None else f', {gradient}'}: {seconds}\n\n{table(some, columns)}")
        for one in rows:
            if "estimators" in one:
                print(f"estimators at target {one['target']}: {json.dumps(one['estimators'])}")


if __name__ == "__main__":
    with errors_said():
        main(tyro.cli(Settings, description=__doc__))
