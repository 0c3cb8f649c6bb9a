"""Which settings a run may change on its way."""

from pathlib import Path

import pytest

from hvae_jax.experiment import Evaluation, Experiment, folder, settings
from hvae_jax.experiment.reopen import read_experiment
from hvae_jax.models import TopDownVAE

pytestmark = pytest.mark.leg

MODEL = TopDownVAE(latents=(2,), hidden=4)


def test_a_folder_whose_name_is_no_utf_8(tmp_path: Path) -> None:
    """As Python has it where the locale is ASCII: checkpoints could not be written, after all of the training."""
    folder_there = tmp_path / "b\udcc3\udca9"
    for look in (
        lambda: folder.check(folder_there, Experiment("small", MODEL), resume=False, overwrite=False),
        lambda: read_experiment(folder_there),
    ):
        with pytest.raises(ValueError, match=r"no path in UTF-8.*PYTHONUTF8=1"):
            look()
    assert not list(tmp_path.iterdir())


def test_pieces_of_a_measurement_are_no_other_experiment(tmp_path: Path) -> None:
    """They follow the machine's memory; numbers of draws are the experiment's."""
    settings.save(tmp_path / "settings.json", Experiment("small", MODEL))
    pieces = Experiment("small", MODEL, evaluation=Evaluation(chunk=1, size=20))
    folder.check(tmp_path, pieces, resume=False, overwrite=False)
    draws = Experiment("small", MODEL, evaluation=Evaluation(draws=20))
    with pytest.raises(ValueError, match=r"evaluation\.draws: 500 -> 20"):
        folder.check(tmp_path, draws, resume=False, overwrite=False)
