"""A tiny model with made-up weights, as a file of `hvae export`, with data: for what is done with trained models."""

import json
from pathlib import Path

import numpy as np
from jax import numpy as jnp

import hvae_jax as hv
from hvae_jax.experiment import Data, Evaluation, Experiment, settings
from hvae_jax.experiment.exported import FORMAT
from hvae_jax.likelihoods import Categorical
from hvae_jax.models import TopDownVAE
from hvae_jax.runtime.trees import leaves_by_path
from support.contract import plausible_variables

MODEL = TopDownVAE(latents=(2, 3), hidden=8, likelihood=Categorical(17))
EVENT = (4, 4, 1)
X = np.random.default_rng(0).integers(0, 17, (40, *EVENT)).astype(np.uint8)
Y = (np.arange(40) % 3).astype(np.int32)


def experiment(folder: Path) -> Experiment:
    """The settings, with data.npz in the folder: 24 train, 8 validation, 8 test, with labels."""
    parts = {"train": slice(24), "validation": slice(24, 32), "test": slice(32, 40)}
    arrays = {f"{letter}_{part}": a[rows] for part, rows in parts.items() for letter, a in (("x", X), ("y", Y))}
    np.savez(folder / "data.npz", **arrays, num_values=17)
    return Experiment("tiny", MODEL, Data(str(folder / "data.npz")), evaluation=Evaluation(draws=3, other_draws=2))


def exported(folder: Path) -> Path:
    """tiny.safetensors in the folder, as `hvae export` writes it, beside its data."""
    from safetensors.numpy import save_file

    arrays = leaves_by_path(plausible_variables(MODEL, jnp.asarray(X[:2]), None))
    metadata = {
        "hvae_jax": hv.__version__,
        "format": str(FORMAT),
        "settings": json.dumps(settings.to_json(experiment(folder))),
        "event": json.dumps(EVENT),
    }
    save_file({name: np.asarray(leaf) for name, leaf in arrays.items()}, folder / "tiny.safetensors", metadata)
    return folder / "tiny.safetensors"
