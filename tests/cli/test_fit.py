"""`hvae fit`: what it prints, and one clear line for whatever is wrong with the command."""

import math
from collections.abc import Iterator, Sequence

import pytest

from hvae_jax.cli import fit
from hvae_jax.cli import main as cli
from hvae_jax.experiment import Experiment
from hvae_jax.experiment.fitting.asked import Question
from hvae_jax.experiment.fitting.verdict import Verdict
from hvae_jax.runtime.chips import GIB


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Experiment]:
    """Stands in for the compiler's process: a step takes 10 GiB in bfloat16 and 20 otherwise."""
    asked: list[Experiment] = []

    def ask(self: Question, programs: Sequence[str], experiment: Experiment) -> Iterator[Verdict]:
        for program in programs:
            asked.append(experiment)
            narrow = getattr(experiment.model, "dtype", None) is not None or program == "sampling"
            memory = (10 if narrow else 20) * GIB
            yield Verdict(program, "", memory, {"float32": 1e12}, 1e9, 0.0, {}, {}, 0, 1.0, math.nan)

    monkeypatch.setattr(Question, "ask", ask)
    monkeypatch.setattr(fit, "compiler_of", lambda _: False)
    return asked


def ended(arguments: str, code: int) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(arguments.split())
    assert left.value.code == code


@pytest.mark.leg
def test_what_fits_and_what_would(answers: list[Experiment], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1 where training does not fit as it is asked for, and 0 where it does; flags change the experiment."""
    ended("fit vdvae --preset cifar10 --batch-size 16 --model.dtype None", 1)
    printed = capsys.readouterr().out
    assert "on a TPU: --model.kept products; as elsewhere: --model.kept all" in printed
    assert "vdvae_cifar10, batches of 16, on one TPU v5e (15.75 GiB to use): an estimate" in printed
    assert "training    no    20.00 GiB" in printed and "sampling    yes" in printed
    assert "Smallest change that fits: --model.dtype bfloat16" in printed
    assert answers[0].training.batch_size == 16 and "jax[tpu]" in printed
    ended("fit vdvae --preset cifar10 --programs training", 0)
    printed = capsys.readouterr().out
    assert "Smallest" not in printed and "sampling" not in printed
    ended("fit digits_topdown --programs sampling", 0)  # a model in the box
    assert "top_down_digits, batches of 64, on one TPU v5e" in capsys.readouterr().out
    ended("fit linear --estimate", 1)
    assert "Nothing of this makes it fit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        ("top_down --device v6", 1, "There is no device 'v6'. Did you mean v6e?"),
        ("top_down --devices 0", 1, "There is no v5e of 0 chips: --devices can be 1, 4, 8, 16, 32, 64."),
        ("top_down --devices 3", 1, "There is no v5e of 3 chips: --devices can be 1, 4, 8, 16, 32, 64."),
        ("top_down --devices 4 --batch-size 30", 1, "A batch of 30 cannot be split evenly over 4 devices; 28 or 32"),
        ("top_down --devices 4 --microbatch 6", 1, "A microbatch of 6 cannot be split evenly over 4 devices; 4 or 8"),
        ("vae --data.name mnits", 1, "Unknown data set 'mnits'. Did you mean 'mnist'?"),
        ("vae --data.name mnist --data.size 16", 1, "mnist has the size it has"),
        ("vae --data.name gone.npz", 1, "says what an image looks like: give the path of a file that exists."),
        ("vae --data.name ./gone", 1, "says what an image looks like: give --data.size."),
        ("topdown", 2, "There is no recipe 'topdown'. Did you mean top_down?"),
        ("runs/nowhere", 1, "runs/nowhere does not exist."),
        ("--device v5e", 2, "hvae fit needs the name of a recipe or the folder of a run before --device."),
        ("top_down --model.hiden 3", 2, "Did you mean --model.hidden?"),
    ],
)
@pytest.mark.usefixtures("answers")
def test_one_line_for_what_is_wrong(arguments: str, code: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    ended(f"fit {arguments}", code)
    error = capsys.readouterr().err
    assert line in error and error.startswith("error: ") and len(error.splitlines()) <= 2
