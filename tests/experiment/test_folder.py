"""Which settings a run may change on its way."""

from pathlib import Path

import pytest

from hvae_jax.experiment import Evaluation, Experiment, folder, settings
from hvae_jax.models import TopDownVAE

pytestmark = pytest.mark.leg

MODEL = TopDownVAE(latents=(2,), hidden=4)


def test_pieces_of_a_measurement_are_no_other_experiment(tmp_path: Path) -> None:
    """They follow the machine's memory; numbers of draws are the experiment's."""
    settings.save(tmp_path / "settings.json", Experiment("small", MODEL))
    pieces = Experiment("small", MODEL, evaluation=Evaluation(chunk=1, size=20))
    folder.check(tmp_path, pieces, resume=False, overwrite=False)
    draws = Experiment("small", MODEL, evaluation=Evaluation(draws=20))
    with pytest.raises(ValueError, match=r"evaluation\.draws: 500 -> 20"):
        folder.check(tmp_path, draws, resume=False, overwrite=False)
