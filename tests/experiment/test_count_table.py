"""The recipe of counts on a user's own table: training, its pictures, and the commands on its run."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hvae_jax.cli import script as command_line
from hvae_jax.cli.main import main
from hvae_jax.experiment import abstract_state
from hvae_jax.recipes import counts
from hvae_jax.trace import level_names


def test_presets_of_counts() -> None:
    """Two levels, and a likelihood of counts with as many outputs as it says, from the shapes of the made table."""
    presets = counts.presets
    outputs = {"table": 2, "zeros": 3, "poisson": 1}
    assert list(presets) == list(outputs)
    for name, count in outputs.items():
        experiment = presets[name]
        train = experiment.data.load().splits["train"].take(slice(2)).for_classes(0)
        params = abstract_state(experiment, train).params
        assert params["readout"]["kernel"].shape == (64, 24, count)
        assert level_names(experiment.model, train) == ("z2", "z1")


@pytest.mark.slow
def test_a_table_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """int64 counts up to a million: a run, samples that are counts, heat maps, and a table with a bad count refused."""
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).negative_binomial(0.5, 0.01, (120, 5)) * np.array([1, 1, 1, 1, 2000])
    np.savez("genes.npz", x_train=x, x_test=x[:20])
    presets = counts.presets
    flags = ["--data.name", "genes.npz", "--folder", "run", "--steps", "60", "--evaluation.draws", "2"]
    command_line.main(presets, [*flags, "--model.hidden", "8", "--evaluation.other-draws", "2"])
    assert "nan" not in capsys.readouterr().out
    for picture in ("real", "samples", "reconstructions"):
        assert np.ptp(np.asarray(Image.open(f"run/{picture}.png").convert("RGB")).astype(int), axis=-1).max() > 50
    main(["sample", "run", "--n", "30", "--out", "drawn.npz"])
    drawn = np.load("drawn.npz")["x"]
    assert drawn.shape == (30, 5) and drawn.dtype == np.int32 and drawn.min() >= 0 and drawn[:, 4].max() > 10_000
    main(["show", "run"])
    main(["evaluate", "run", "--draws", "2"])
    np.savez("logs.npz", x_train=np.log1p(x))
    with pytest.raises(SystemExit) as left:
        command_line.main(presets, ["--data.name", "logs.npz", "--folder", "other"])
    assert left.value.code == 1 and not Path("other").exists()
    error = capsys.readouterr().err
    assert "Give raw counts, neither normalised nor as logarithms" in error and "Gaussian(bound=5.0) fits" in error
