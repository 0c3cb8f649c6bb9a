"""What a self-supervised VAE does with a small picture: generate, super-resolve and compress, in one figure.

    python experiments/studies/small_and_large.py runs/self_supervised_digits

Three panels, from the run's best variables and its last split. Generation: in each row y ~ p(y | u), enlarged, and then
x ~ p(x | y, z), for u and z of the priors. Super-resolution: y of a test image, three x for it, and the image.
Compression: the image, and its reconstruction from u alone, from u and z, from u and y, and from all three: what is not
sent is drawn from its prior, x is the mean of p(x | y, z). Written as small_and_large.png in the run folder, with the
root mean square errors of the reconstructions, in values of x, on the images shown.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro

from hvae_jax.experiment.exits import errors_said
from hvae_jax.experiment.reopen import OpenedRun, open_run
from hvae_jax.likelihoods import Likelihood
from hvae_jax.models import SelfSupervisedVAE
from hvae_jax.report import charts
from hvae_jax.runtime.compilation import jit_once, keep_freed_memory, use_compilation_cache

SENT = {"u": (0,), "u, z": (0, 2), "u, y": (0, 1), "all": (0, 1, 2)}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the study.

    Attributes:
      run: the folder of a run of `SelfSupervisedVAE` with one y.
      n: number of rows.
      seed: seed of the draws.
      out: file of the figure; small_and_large.png in the run folder by default.
    """

    run: Annotated[Path, tyro.conf.Positional]
    n: int = 8
    seed: int = 0
    out: Path | None = None


def pictures(opened: OpenedRun, n: int, key: jax.Array) -> dict[str, tuple[np.ndarray, list[str]]]:
    """Panels `[n, columns, H, W, C]` and their columns' labels by title; y is enlarged and scaled to the values of x.

    Raises ValueError for another model, or one with several y.
    """
    model = opened.experiment.model
    if not isinstance(model, SelfSupervisedVAE) or model.num_levels != 3:
        raise ValueError(f"The run's model is {type(model).__name__}: a SelfSupervisedVAE with one d is needed.")
    x = np.asarray(list(opened.dataset.splits.values())[-1].take(slice(n)).x)
    keys = jax.random.split(key, 5)

    @jit_once
    def draw(variables: Any) -> Any:
        new = model.apply(variables, keys[0], n, method="decode")
        inferred = model.apply(variables, x, keys[1])
        y = inferred.latents[1]
        given = [
            model.apply(variables, one, n, latents=(None, y), method="generate") for one in jax.random.split(keys[2], 3)
        ]
        sent = []  # no dict, whose keys jit would sort
        for levels in SENT.values():
            latents = tuple(z if i in levels else None for i, z in enumerate(inferred.latents))
            sent.append(model.apply(variables, keys[3], n, latents=latents, method="decode").x_dist.mean)
        return new.latents[1], new.x_dist.sample(keys[4]), y, given, sent

    new_y, new_x, y, given, sent = jax.device_get(draw(opened.variables))

    def large(y: np.ndarray) -> np.ndarray:
        """y at the size and in the values of x."""
        factor = x.shape[1] // y.shape[1]
        (_, most_y), (_, most_x) = (one.value_range or (0, 1) for one in (model.observed["y"], _likelihood(opened)))
        tiled = (y * (most_x / most_y)).repeat(factor, axis=1).repeat(factor, axis=2)
        return np.broadcast_to(tiled, x.shape)

    drawn = [f"x {i}" for i in range(1, 4)]
    return {
        "generation": (np.stack([large(new_y), new_x], axis=1), ["y", "x"]),
        "super-resolution": (np.stack([large(y), *given, x], axis=1), ["y, given", *drawn, "the image"]),
        "compression: what is sent": (np.stack([x, *sent], axis=1), ["the image", *SENT]),
    }


def _likelihood(opened: OpenedRun) -> Likelihood:
    found = opened.experiment.model.likelihood
    assert found is not None, "a self-supervised VAE has a likelihood"
    return found


def main(chosen: Settings) -> None:
    """Draws the figure and prints the errors."""
    opened = open_run(chosen.run)
    panels = pictures(opened, chosen.n, jax.random.key(chosen.seed))
    compressed, _ = panels["compression: what is sent"]
    for name, mean in zip(SENT, np.moveaxis(compressed[:, 1:], 1, 0), strict=True):
        print(f"{name}: {np.sqrt(((mean - compressed[:, 0]) ** 2).mean()):.2f}")
    out = chosen.out or chosen.run / "small_and_large.png"
    charts.save_columns(out, panels, _likelihood(opened).value_range or (0.0, 1.0))
    print(out)


if __name__ == "__main__":
    arguments = tyro.cli(Settings, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,))
    with errors_said():
        use_compilation_cache()
        keep_freed_memory()
        main(arguments)
