"""The picture of the README: what each level of a very deep VAE knows, beside samples of it.

    python experiments/studies/overview.py

A row is a test digit: reconstructed from no level, which is the same for all, from the top level, from the two top
levels and so on, with the levels below at their priors' modes, and the digit itself. Ten seconds of two CPU cores.
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import tyro

import hvae_jax as hv

ROWS, GAP = 8, 1


@dataclasses.dataclass(frozen=True)
class Settings:
    """Draws the picture.

    Attributes:
      run: a model in the box, a run folder, or another name that `hv.load` takes.
      out: file of the picture.
      seed: seed of the draws.
    """

    run: str = "digits_vdvae"
    out: Path = Path("experiments/figures/overview.png")
    seed: int = 0


def tiled(images: np.ndarray) -> np.ndarray:
    """`[rows, columns, H, W]` as one picture with white lines between the images, values 0 to 1."""
    rows, columns, height, width = images.shape
    page = np.ones((rows, height + GAP, columns, width + GAP))
    page[:, GAP:, :, GAP:] = images.transpose(0, 2, 1, 3)
    return page.reshape(rows * (height + GAP), columns * (width + GAP))


def main(settings: Settings) -> None:
    """Reconstructs, samples and draws."""
    from matplotlib.figure import Figure

    trained = hv.load(settings.run)
    x = hv.data.digits().splits["test"].x[:ROWS]
    key, other = jax.random.split(jax.random.key(settings.seed))
    by_level = jax.jit(lambda v: hv.diagnostics.level_by_level(trained.model, v, x, key))(trained.variables)
    levels = np.concatenate([np.asarray(by_level), x[:, None]], axis=1)[..., 0] / 16.0  # [rows, L + 2, 8, 8]
    samples = np.asarray(trained.sample(ROWS * ROWS, key=other)).reshape(ROWS, ROWS, *x.shape[1:3]) / 16.0

    columns = levels.shape[1]
    figure = Figure(figsize=(9.6, 4.2), layout="constrained", facecolor="white")
    axes = figure.subplots(1, 2, width_ratios=(columns, ROWS))
    for axis, images in zip(axes, (levels, samples), strict=True):
        axis.imshow(tiled(images), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_yticks([])
        axis.tick_params(length=0, labelsize=9)
        axis.spines[:].set_visible(False)
    width = x.shape[2] + GAP
    axes[0].set_xticks(
        [width * i + width / 2 for i in range(columns)], [*(str(k) for k in range(columns - 1)), "digit"]
    )
    axes[0].set_title("what the top 0, 1, 2, ... levels know of a digit", fontsize=11)
    axes[1].set_xticks([])
    axes[1].set_title("samples", fontsize=11)
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(settings.out, dpi=150)
    print(f"{settings.out}: {trained.card.name}")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
