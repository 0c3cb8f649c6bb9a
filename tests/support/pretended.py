"""Finished runs that were never trained: folders with the files of a run, for commands that compare runs."""

import dataclasses
import json
import types
from pathlib import Path
from typing import Any

from hvae_jax.experiment import Experiment, settings
from hvae_jax.report.sketch import FINAL_PICTURES


def result(elbo: float, seed: int = 0, **more: Any) -> dict[str, Any]:
    """A result.json with this ELBO on the test split."""
    splits = ("validation", "test")
    return {
        "elbo": dict.fromkeys(splits, elbo),
        "iw_bound": dict.fromkeys(splits, elbo + 2),
        "bits_per_dim": {split: {"elbo": 2.5, "iw_bound": 2.4} for split in splits},
        "standard_error": {split: {"elbo": 0.5, "iw_bound": 0.4} for split in splits},
        "k": {"validation": 2, "test": 20},
        "rates": {split: {"z2": 5.0, "z1": 3.0} for split in splits},
        "active_units": {split: {"z2": 1, "z1": 2} for split in splits},
        "distortion": dict.fromkeys(splits, -elbo - 8),
        "best_validation_elbo": elbo - 1,
        "best_epoch": 1.0,
        "epochs": 2.0,
        "steps": 20,
        "seconds": 3.0,
        "best_step": 20,
        "select": "best",
        "parameters": 123,
        "seed": seed,
        "steps_per_second": 7.0,
        "data": {"name": "digits", "hash": "abc", "protocol": "p", "kind": "k", "examples": {"test": 4}},
        **more,
    }


def write(folder: Path, experiment: Experiment, elbo: float, **more: Any) -> None:
    """A folder with settings, result, curves and pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    settings.save(folder / "settings.json", experiment)
    (folder / "result.json").write_text(json.dumps(result(elbo, experiment.seed, **more)))
    rows = [{"step": step, "epoch": step / 10, "validation/elbo": elbo - 40 / step} for step in (5, 10, 20)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in FINAL_PICTURES:
        (folder / name).write_bytes(b"")


@dataclasses.dataclass
class Runs:
    """A stand-in for `run`: the ELBO is -100 - 10 hidden + seed; fails where hidden is 13.

    Attributes:
      asked: names of the folders, in the order of the runs.
      signal: what ends a run whose hidden is 15.
    """

    asked: list[str] = dataclasses.field(default_factory=list)
    signal: int = 15

    def __call__(self, experiment: Experiment, folder: Path, **_: Any) -> Any:
        """Pretends to run."""
        self.asked.append(folder.name)
        hidden = experiment.model.hidden
        if hidden == 13:
            raise ValueError("13 brings bad luck.")
        if hidden != 15:
            write(folder, experiment, -100.0 - 10 * hidden + experiment.seed)
        return types.SimpleNamespace(interrupted=self.signal if hidden == 15 else None)
