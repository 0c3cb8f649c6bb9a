"""Bounds of the Ladder VAE or BIVA and of its public PyTorch code after the same number of steps on the same images.

    python experiments/benchmarks/equal_steps.py --model ladder --steps 100 --torch-python PYTHON --code CLONE

Both sides train the published MNIST model as published, each from its own data-dependent initialisation, on the same
batches of static MNIST in the same order. Then both score some test images by the ELBO, ten draws each, with the
variables of the last step. Prints both means and the mean difference per image, with standard errors, and the training
losses.
"""

import dataclasses
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro

import hvae_jax as hv
from hvae_jax.experiment import Data
from hvae_jax.models.biva import biva_mnist
from hvae_jax.models.conv_ladder import addtt_mnist
from hvae_jax.objectives import Batch, FreeBits, Regularised
from hvae_jax.runtime.compilation import keep_freed_memory, use_compilation_cache
from hvae_jax.runtime.doctor import line
from hvae_jax.training import init_state
from hvae_jax.training.optimisers import Adamax
from hvae_jax.training.step import make_step

BATCH = {"ladder": 64, "biva": 48}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the comparison.

    Attributes:
      torch_python: an interpreter whose environment has torch.
      code: folder of the cloned public code.
      model: the model to compare.
      data: the data set.
      steps: training steps.
      images: number of test images scored, evenly spread over the split, which is not in a random order.
      draws: draws per image.
      seeds: seeds, one training each, of the order of the batches and, on our side, of the initialisation.
    """

    torch_python: str
    code: Path
    model: Literal["ladder", "biva"] = "ladder"
    data: Data = Data("binarized_mnist")
    steps: int = 100
    images: int = 500
    draws: int = 10
    seeds: tuple[int, ...] = (0,)


def ours(settings: Settings, train: np.ndarray, test: np.ndarray, seed: int) -> tuple[list[float], np.ndarray]:
    """Trains our side, and returns its losses and the ELBO of each test image."""
    ladder = settings.model == "ladder"
    model: Any = addtt_mnist() if ladder else biva_mnist()
    objective = Regularised(free_bits=FreeBits(0.5 if ladder else 2.0, "level", "sample"))
    optimiser, size = Adamax(3e-4 if ladder else 2e-3).build(), BATCH[settings.model]
    order, key = np.random.default_rng(seed), jax.random.key(seed)
    state = init_state(model, objective, optimiser, key, train[order.permutation(len(train))[:size], ..., None])
    step = jax.jit(make_step(model, objective, optimiser), donate_argnums=0)
    rows, losses = np.empty(0, int), []
    for i in range(settings.steps):
        if len(rows) < size:
            rows = order.permutation(len(train))
        batch = Batch(jax.device_put(train[rows[:size], ..., None]), None)
        state, metrics = step(state, batch, jax.random.fold_in(key, i))
        losses.append(float(metrics["loss"]))
        rows = rows[size:]
    score = jax.jit(lambda variables, x, key: hv.elbo(model.apply(variables, x, key)))
    keys = jax.random.split(jax.random.key(1), settings.draws)
    elbo = [
        np.mean([score(state.variables, part[..., None], key) for key in keys], axis=0)
        for part in np.split(test, range(100, len(test), 100))
    ]
    return losses, np.concatenate(elbo)


def theirs(settings: Settings, images: Path, seed: int) -> tuple[list[float], np.ndarray]:
    """Trains the public code, and returns its losses and the ELBO of each test image."""
    script = Path(__file__).with_name("pytorch_public_codes.py")
    tasks = (
        {"task": "train", "steps": settings.steps, "images": str(images), "seed": seed},
        {"task": "score", "images": str(images), "draws": settings.draws},
    )
    done = subprocess.run(
        [settings.torch_python, str(script), "--model", settings.model, "--code", str(settings.code)],
        input="".join(json.dumps(task) + "\n" for task in tasks),
        capture_output=True,
        text=True,
        check=True,
    )
    _, trained, scored = map(json.loads, done.stdout.splitlines())
    return trained["losses"], np.array(scored["elbo"])


def main(settings: Settings) -> None:
    """Trains and scores both sides for each seed, and prints the comparison."""
    use_compilation_cache()
    keep_freed_memory()
    print(line(), flush=True)
    dataset = settings.data.load()
    train, test = (np.asarray(dataset.splits[name].x)[..., 0] for name in ("train", "test"))
    test = test[:: len(test) // settings.images][: settings.images]
    root = np.sqrt(len(test))
    for seed in settings.seeds:
        with tempfile.TemporaryDirectory() as folder:
            images = Path(folder) / "images.npz"
            np.savez(images, train=train, test=test)
            sides = {"hvae_jax": ours(settings, train, test, seed), "PyTorch": theirs(settings, images, seed)}
        print(f"\nseed {seed}, {settings.steps} steps, {len(test)} test images, {settings.draws} draws")
        for name, (losses, elbo) in sides.items():
            last = np.mean(losses[-10:])
            print(f"{name:9s} -ELBO {-elbo.mean():.2f} ± {elbo.std() / root:.2f}, last ten losses {last:.2f}")
        difference = sides["hvae_jax"][1] - sides["PyTorch"][1]
        print(f"ELBO, ours less theirs: {difference.mean():.2f} ± {difference.std() / root:.2f}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
