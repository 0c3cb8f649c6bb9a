"""Short flags: sizes, beta, free bits, the likelihood by name; what has no such thing."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hvae_jax import recipes
from hvae_jax.cli import script, short_flags
from hvae_jax.cli.short_flags import family, regularised
from hvae_jax.cli.sweep import trials_of
from hvae_jax.experiment import Experiment
from hvae_jax.likelihoods import (
    Bernoulli,
    Categorical,
    DiscretisedLogistic,
    Gaussian,
    LogisticMixture,
    Missing,
    PixelCNN,
    StudentT,
)
from hvae_jax.objectives import FreeBits, ImportanceWeighted, NegativeELBO, Regularised


def parsed(recipe: str, words: str) -> Experiment:
    return script.parse(recipes.presets_of(recipe), words.split()).experiment


def test_objectives() -> None:
    """Of the plain ELBO, of a preset's own free bits, and of what is around another objective."""
    assert parsed("vae", "--beta 4").objective == Regularised(4.0)
    both = parsed("vae", "--beta 2 --free-bits 0.5").objective
    assert both == Regularised(2.0, free_bits=FreeBits(0.5))
    preset = parsed("biva", "--free-bits 3").objective
    assert preset == Regularised(free_bits=FreeBits(3.0, "level", "sample"))
    around = parsed("nvae", "--beta 0.5").objective
    before = recipes.experiment_of("nvae").objective
    assert around.base.beta == 0.5 and around.base.balance == before.base.balance and around.weight == before.weight
    assert parsed("vae", "--beta 4 --objective.beta 5").objective == Regularised(5.0)  # a default as any other
    with pytest.raises(ValueError, match="--beta: the objective is ImportanceWeighted"):
        regularised(ImportanceWeighted(), "--beta", beta=2.0)
    assert parsed("vae", "").objective == NegativeELBO()


def test_likelihoods() -> None:
    """Take the number of values of the one before, or the number given; mixtures the channels of the image."""
    assert parsed("vae", "--likelihood discretised_logistic").model.likelihood == DiscretisedLogistic(17)
    assert parsed("vae", "--likelihood categorical:256").model.likelihood == Categorical(256)
    mixture = parsed("vdvae", "--likelihood logistic_mixture").model.likelihood
    assert mixture == LogisticMixture(values=17, channels=1)
    assert (
        family("bernoulli", Categorical(3), None) == Bernoulli() and family("gaussian", Bernoulli(), None) == Gaussian()
    )
    assert family("pixelcnn", Categorical(3), None) == PixelCNN(Categorical(3))
    assert family("pixelcnn", PixelCNN(Bernoulli()), None) == PixelCNN(Bernoulli())
    assert family("student_t", Bernoulli(), None) == StudentT()
    for around in (PixelCNN(Categorical(17)), Missing(Categorical(17)), Missing(PixelCNN(Categorical(17)))):
        assert family("discretised_logistic", around, None) == DiscretisedLogistic(17)
    assert family("pixelcnn", Missing(Categorical(3)), None) == PixelCNN(Categorical(3))
    with pytest.raises(ValueError, match="no likelihood 'missing'"):  # it is one around another
        family("missing", Bernoulli(), None)
    with pytest.raises(ValueError, match="Did you mean logistic_mixture"):
        family("logistic_mixtures", Bernoulli(), None)
    for text in ("bernoulli:3", "categorical:x"):
        with pytest.raises(ValueError, match="a number of values is behind the colon"):
            family(text, Bernoulli(), None)


def test_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Levels are said; the run has a name of its own; a folder's pictures get that size, unless one is given."""
    experiment = parsed("vdvae", "--preset cifar10_small --side 32 --width 24 --depth 9")
    assert experiment.model.num_levels == 9 and experiment.name == "vdvae_cifar10_small_s32_w24_d9"
    assert "levels: 1 at 1x1, 1 at 4x4, 1 at 8x8, 2 at 16x16, 4 at 32x32" in capsys.readouterr().out
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "a.png")
    assert parsed("vdvae", f"--side 16 --data.name {tmp_path}").data.size == 16
    assert parsed("vdvae", f"--side 16 --data.name {tmp_path} --data.size 20").data.size == 20
    assert parsed("vdvae", "--side 16").data.size is None
    with pytest.raises(ValueError, match="TopDownVAE has no stages"):
        parsed("top_down", "--depth 4")
    with pytest.raises(SystemExit, match="2"):
        parsed("vdvae", "--depth four")
    assert "--depth" in capsys.readouterr().err


def test_help_names_those_that_apply(capsys: pytest.CaptureFixture[str]) -> None:
    for recipe, sized in (("vae", False), ("nvae", True)):
        with pytest.raises(SystemExit):
            script.parse(recipes.presets_of(recipe), ["--help"])
        shown = capsys.readouterr().out
        assert "--beta B" in shown and "--free-bits NATS" in shown and ("--depth D" in shown) == sized
    assert all(f"--{name} " in short_flags.HELP + short_flags.SIZES for name in short_flags.NAMES)


def test_they_can_be_swept() -> None:
    first, second = trials_of(recipes.experiment_of("vdvae"), [["beta", "1", "2"], ["depth", "6"]])
    assert second.experiment.objective == Regularised(2.0) and first.experiment.model.num_levels == 6
    assert first.name == "beta=1,depth=6"
