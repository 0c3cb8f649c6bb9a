"""`hvae fit`: whether a recipe or a run fits a chip, and how fast it can be at best."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hvae_jax import recipes
from hvae_jax.cli import presets, script
from hvae_jax.experiment import Experiment, box
from hvae_jax.experiment.exits import errors_said
from hvae_jax.experiment.fitting import changes, words
from hvae_jax.experiment.fitting.asked import Question, compiler_of
from hvae_jax.experiment.fitting.examples import example_of
from hvae_jax.experiment.fitting.programs import PROGRAMS
from hvae_jax.experiment.reopen import read_experiment
from hvae_jax.experiment.suited import given_in, suited
from hvae_jax.runtime.chips import HERE, Chip, chip_named, own_chip
from hvae_jax.runtime.meters import host_memory
from hvae_jax.runtime.texts import say
from hvae_jax.training.mesh import check_devices_divide

_HELP = """Says whether a training step, an evaluation and samples fit a chip, what they compute and move, and how fast
they can be at best by the chip's published rates; and, if the step does not fit, the smallest change that makes it fit.

  hvae fit vdvae --preset cifar10                       on one TPU v5e, which is what Colab has
  hvae fit vdvae --preset cifar10 --model.dtype bfloat16 --model.remat
  hvae fit nvae --preset cifar10 --device v5p --devices 4 --devices.fsdp
  hvae fit biva --preset cifar10_paper --device h100 --programs training
  hvae fit runs/vdvae_cifar10 --device here             a run, on this machine

No data and no accelerator is needed. TPU programs are compiled by the TPU's own compiler where libtpu is installed,
pip install 'jax[tpu]', which takes minutes for a very deep VAE; a CPU's by XLA; all others are estimated from
shapes. All flags of `hvae train RECIPE` change the experiment.
"""


def main(arguments: Sequence[str]) -> None:
    """Runs `hvae fit`.

    Exit codes: 0 if training, as it is asked for, fits; 1 if it does not, and for an error; 2 for arguments that do not
    parse.
    """
    parser = _parser()
    if not arguments or {"-h", "--help"} & set(arguments):
        parser.print_help()
        sys.exit(0 if arguments else 2)
    own, others = parser.parse_known_args(arguments[1:])
    with errors_said():
        experiment = experiment_of(arguments[0], others, tuple(own.modules))
        chip = own_chip(host_memory()) if own.device == HERE else chip_named(own.device)
        if arguments[0] in recipes.names():  # a run has settings of its own
            wanted = recipes.on_accelerators(arguments[0])
            experiment, line = suited(experiment, chip.platform, wanted, given_in(others))
            if line:
                say(line)
        devices = own.devices if own.devices is not None else experiment.devices.count or 1
        fits = report(experiment, Question(chip, devices, modules=tuple(own.modules)), own.programs, own.estimate)
    sys.exit(0 if fits else 1)


def experiment_of(name: str, flags: Sequence[str], modules: tuple[str, ...] = ()) -> Experiment:
    """The experiment of a recipe, a run folder or a model in the box, with the flags of `hvae train` applied.

    Ends the process with exit code 2, naming the nearest, for what is neither.
    """
    if name in recipes.names():
        text = recipes.docstring_of(name)
        return script.parse(recipes.presets_of(name), list(flags), text, prog=f"hvae fit {name}").experiment
    if name.startswith("-") or ("/" not in name and not Path(name).exists() and name not in box.names()):
        presets.refuse(
            recipes.unknown("recipe", name, recipes.names())
            if not name.startswith("-")
            else f"hvae fit needs the name of a recipe or the folder of a run before {name}."
        )
    return script.parse(read_experiment(Path(name), modules), list(flags), prog=f"hvae fit {name}").experiment


def report(experiment: Experiment, question: Question, programs: Sequence[str], estimate: bool = False) -> bool:
    """Prints the verdicts, and what would make training fit; returns whether it fits as it is."""
    chip, devices = question.chip, question.devices
    check(experiment, chip, devices)
    compiles = not estimate and compiler_of(chip)
    question = Question(chip, devices, compiles, question.modules)
    if compiles:
        say(f"compiling {', '.join(programs)} ...")
    verdicts = list(question.ask(programs, experiment))
    say("")
    say(words.heading(experiment.name, experiment.training.batch_size, chip, devices, verdicts[0].by))
    say(words.table(verdicts, chip, devices))
    for line in words.remarks(verdicts, chip):
        say(line)
    if not compiles and chip.platform == "tpu" and not estimate:
        say("pip install 'jax[tpu]' has the TPU's compiler, which knows better.")
    training = next((one for one in verdicts if one.program == "training"), None)
    if training is None or training.fits(chip):
        return True
    _improve(experiment, question, training.memory)
    return False


def check(experiment: Experiment, chip: Chip, devices: int) -> None:
    """Raises ValueError, in one line, for a topology that does not exist and a batch that does not divide over it."""
    chip.layout(devices)
    example_of(experiment)
    check_devices_divide(experiment.training.batch_size, devices, experiment.training.microbatch)


def _improve(experiment: Experiment, question: Question, needed: float) -> None:
    """Tries what makes training fit, a line for each change."""
    say("\nTraining does not fit. In the order of what changes least:")
    last = None
    for last in changes.smallest(experiment, question, needed):
        say(words.attempt(last, question.chip, question.devices))
    if last is None or not last.verdict.fits(question.chip):
        say("Nothing of this makes it fit: take more chips, --devices, or a smaller --batch-size or model.")
    else:
        say(f"Smallest change that fits: {last.change.flags}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hvae fit",
        usage="hvae fit RECIPE|RUN [--device NAME] [--devices N] [--programs ...] [--estimate] [settings]",
        description=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("--device", default="v5e", help="v5e (the default), v4, v5p, v6e, h100, h200 or here")
    parser.add_argument("--devices", type=int, help="number of chips; 1 by default")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS), help="what to look at")
    parser.add_argument("--estimate", action="store_true", help="estimate from shapes, though a compiler is there")
    parser.add_argument(
        "--modules", nargs="+", default=(), help="modules beside hvae_jax that a run's settings.json may name"
    )
    return parser
