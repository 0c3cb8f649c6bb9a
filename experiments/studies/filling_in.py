"""How exact fillings are: by closed forms, by importance sampling, and against what was hidden.

    python experiments/studies/filling_in.py RUN
    python experiments/studies/filling_in.py RUN --parts importance --draws 1000

RUN is a run of recipes/top_down.py, whole or trained with --data.hidden. Three tables:

- a linear VAE of two levels, whose p(x_missing | x_seen) is a Gaussian in closed form: the chains' mean and covariance
  in standard errors, for three inference networks;
- the run's first test digits: the chains' E[x_missing | x_seen] beside that of self-normalised importance sampling,
  which is exact in the limit too and has nothing in common with a chain: draws of the prior, with weights
  p(x_seen | z);
- the run's test digits: acceptance, and the error of the mean filling in what was hidden.

Writes filling_in.json in the run folder.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import hvae_jax as hv
from hvae_jax.experiment.exits import errors_said
from hvae_jax.experiment.reopen import OpenedRun, open_run
from hvae_jax.experiment.settings import dumps
from hvae_jax.filling import box, half
from hvae_jax.likelihoods.seen import log_prob_seen
from hvae_jax.models import ClosedForm, LinearVAE
from hvae_jax.runtime.compilation import keep_freed_memory, use_compilation_cache
from hvae_jax.runtime.files import write_whole

METHODS = ("metropolis", "pseudo_gibbs")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the study.

    Attributes:
      run: folder of the run.
      chains: independent chains of the linear model.
      steps: length of a chain.
      parts: tables.
      images: test digits of the comparison with importance sampling.
      repeats: chains of each of them.
      draws: draws of importance sampling, in thousands; half of them with each of two seeds.
      test: test digits of the last table.
      seed: seed of everything random.
    """

    run: Annotated[Path, tyro.conf.Positional]
    chains: int = 10_000
    steps: int = 2000
    parts: tuple[Literal["linear", "importance", "digits"], ...] = ("linear", "importance", "digits")
    images: int = 8
    repeats: int = 16
    draws: int = 400
    test: int = 100
    seed: int = 0


def linear(chains: int, seed: int) -> list[dict[str, Any]]:
    """A row for each inference network and method: acceptance, and the largest deviations in standard errors."""
    seen, x = np.array([True, True, True, False, False]), np.array([1.5, -1.0, 2.0, 0.0, 0.0], np.float32)
    rows = []
    for inference in ("exact", "shifted", "linear"):
        model = LinearVAE((2, 3), inference=inference)
        key = jax.random.key(seed)
        params: Any = model.init(key, jnp.zeros((2, 5)), key)["params"]
        noise = dict(zip(params, jax.random.split(key, len(params)), strict=True))
        moved = {name: p + 0.15 * jax.random.normal(noise[name], p.shape) for name, p in params.items()}
        variables = {"params": moved}
        p = ClosedForm(model, variables).marginal
        s, m = np.flatnonzero(seen), np.flatnonzero(~seen)
        gain = np.linalg.solve(p.cov[np.ix_(s, s)], p.cov[np.ix_(s, m)]).T
        mean, cov = p.mean[m] + gain @ (x[s] - p.mean[s]), p.cov[np.ix_(m, m)] - gain @ p.cov[np.ix_(s, m)]
        var = np.diag(cov)
        for method in METHODS:
            many = np.broadcast_to(x, (chains, 5))
            found = hv.impute(model, variables, many, seen, jax.random.fold_in(key, 1), 200, method, keep=1)
            drawn = np.asarray(found.fillings[0][:, m], np.float64)
            errors = np.sqrt(var / chains), np.sqrt((np.outer(var, var) + cov**2) / chains)
            rows.append(
                {
                    "inference": inference,
                    "method": method,
                    "acceptance": float(found.acceptance.mean()),
                    "mean": float(np.abs((drawn.mean(0) - mean) / errors[0]).max()),
                    "covariance": float(np.abs((np.cov(drawn.T) - cov) / errors[1]).max()),
                }
            )
    return rows


def weighted_mean(run: OpenedRun, x: np.ndarray, seen: np.ndarray, thousands: int, seed: int) -> tuple[Any, Any]:
    """E[x | x_seen] by self-normalised importance sampling, `[B, *event]`, and the effective sample size, `[B]`.

    The same draws of the prior serve all x: their weights are p(x_seen | z).
    """
    model, values = run.experiment.model, jnp.asarray(x, jnp.float32)

    @jax.jit
    def add(variables: Any, key: jax.Array, total: Any) -> Any:
        trace = model.apply(variables, key, 1000, method="decode")

        def of_one(x: jax.Array, seen: jax.Array) -> jax.Array:
            shape = (1000, *x.shape)
            return log_prob_seen(trace.x_dist, jnp.broadcast_to(x[None], shape), jnp.broadcast_to(seen[None], shape))

        log_w, (peak, mass, squares, sums) = jax.vmap(of_one)(values, jnp.asarray(seen)), total  # [B, 1000]
        above = jnp.maximum(peak, log_w.max(1))
        shrink, w = jnp.exp(peak - above), jnp.exp(log_w - above[:, None])
        sums = sums * shrink[:, None] + w @ trace.x_dist.mean.reshape(1000, -1)
        return above, mass * shrink + w.sum(1), squares * shrink**2 + (w**2).sum(1), sums

    count = len(x)
    total = jnp.full(count, -1e30), jnp.zeros(count), jnp.zeros(count), jnp.zeros((count, x[0].size))
    for i in range(thousands):
        total = add(run.variables, jax.random.fold_in(jax.random.key(seed), i), total)
    mean = np.asarray(total[3] / total[1][:, None]).reshape(x.shape)
    return mean, np.asarray(total[1] ** 2 / total[2])


def rms(a: Any, b: np.ndarray, where: np.ndarray) -> float:
    """Root of the mean squared difference of the elements that are marked."""
    return float(np.sqrt(np.mean((np.asarray(a, np.float64) - b)[where] ** 2)))


def by_importance(run: OpenedRun, settings: Settings) -> dict[str, Any]:
    """Distances between means of x_missing: of chains, of importance sampling, and of two halves of either."""
    x = np.asarray(run.dataset.splits["test"].x[: settings.images])
    seen = np.broadcast_to(box(x.shape[1:]), x.shape)
    halves = [weighted_mean(run, x, seen, settings.draws // 2, seed) for seed in (1, 2)]
    mean = (halves[0][0] + halves[1][0]) / 2
    found: dict[str, Any] = {
        "effective_sample_size": [float(np.min(size)) for _, size in halves],
        "between halves": rms(halves[0][0], halves[1][0], ~seen),
    }
    many, hidden = (np.repeat(a, settings.repeats, axis=0) for a in (x, seen))
    for method in METHODS:
        key = jax.random.key(settings.seed)
        chains = hv.impute(run.experiment.model, run.variables, many, hidden, key, settings.steps, method)
        each = np.asarray(chains.mean).reshape(len(x), settings.repeats, *x.shape[1:])
        half = settings.repeats // 2
        found[method] = {
            "from importance sampling": rms(each.mean(1), mean, ~seen),
            "between halves": rms(each[:, :half].mean(1), each[:, half:].mean(1), ~seen),
        }
    return found


def against_truth(run: OpenedRun, settings: Settings) -> list[dict[str, Any]]:
    """A row for each mask and method: acceptance, and the error of the mean filling in what was hidden."""
    x = np.asarray(run.dataset.splits["test"].x[: settings.test])
    train = np.nanmean(run.dataset.splits["train"].x.astype(np.float32), axis=0)
    scattered = np.random.default_rng(settings.seed).uniform(size=x.shape) < 0.7
    masks = {"box": box(x.shape[1:]), "half": half(x.shape[1:]), "30% at random": scattered}
    rows = []
    for name, mask in masks.items():
        seen = np.broadcast_to(mask, x.shape)
        for method in METHODS:
            found = hv.impute(
                run.experiment.model, run.variables, x, seen, jax.random.key(settings.seed), settings.steps, method
            )
            rates = np.asarray(found.acceptance)
            rows.append(
                {
                    "mask": name,
                    "method": method,
                    "acceptance": [float(rates.mean()), float(rates.min()), float(rates.max())],
                    "error": rms(found.mean, x, ~seen),
                    "error of one filling": rms(found.fillings[-1], x, ~seen),
                    "error of the mean digit": rms(np.broadcast_to(train, x.shape), x, ~seen),
                }
            )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the study."""
    settings = tyro.cli(Settings, args=arguments, description=__doc__)
    with errors_said():
        use_compilation_cache()
        keep_freed_memory()
        run = open_run(settings.run)
        found: dict[str, Any] = {}
        for name, part in (
            ("linear", lambda: linear(settings.chains, settings.seed)),
            ("importance", lambda: by_importance(run, settings)),
            ("digits", lambda: against_truth(run, settings)),
        ):
            if name not in settings.parts:
                continue
            found[name] = part()
            print(dumps({name: found[name]}), flush=True)
            write_whole(settings.run / "filling_in.json", dumps(found))


if __name__ == "__main__":
    main()
