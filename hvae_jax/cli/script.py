"""The command line of an experiment script: typed flags for every setting, and `--preset`."""

import dataclasses
import logging
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import jax
import tyro

from hvae_jax.cli import flags, presets, short_flags
from hvae_jax.cli.diagnose import Diagnose
from hvae_jax.cli.one_line import one_line
from hvae_jax.experiment.exits import PREEMPTED, errors_said
from hvae_jax.experiment.records import Experiment
from hvae_jax.experiment.run import run, say
from hvae_jax.experiment.suited import given_in, suited
from hvae_jax.runtime import doctor, meters
from hvae_jax.runtime.cluster import Cluster, is_first
from hvae_jax.runtime.compilation import keep_freed_memory, use_compilation_cache
from hvae_jax.runtime.errors import first_line
from hvae_jax.runtime.streams import steady_streams
from hvae_jax.training.signals import Interrupted
from hvae_jax.training.stages import Stage


@dataclasses.dataclass(frozen=True)
class Command:
    """The command line of a script: the experiment's settings, and what to do with the run folder.

    Attributes:
      experiment: the experiment's settings.
      folder: the run folder; runs/NAME by default.
      resume: go on in a folder that holds other settings, or on other data, under the new ones.
      overwrite: start over, deleting what an earlier run left in the folder.
      report: write the report of `hvae diagnose` when the run is done.
      profile: write a trace of three dispatches to profile/ in the run folder, for xprof or ui.perfetto.dev.
      tracker: send numbers and pictures to Weights & Biases or trackio as well.
      cluster: the processes of a run on several machines.
    """

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    folder: Path | None = None
    resume: bool = False
    overwrite: bool = False
    report: bool = False
    profile: bool = False
    tracker: Literal["wandb", "trackio"] | None = None
    cluster: Cluster = Cluster()


@steady_streams()
def main(
    experiment: Experiment | Mapping[str, Experiment],
    arguments: Sequence[str] | None = None,
    description: str | None = None,
    prog: str | None = None,
    accelerated: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Runs the command line of an experiment script; an error becomes one clear line.

    Exit codes: 0 for done, also if a final picture failed, which is a warning; 1 for an error with a message; 2 for
    arguments that do not parse; 75 after SIGTERM, SIGHUP or SIGUSR1 and 130 after Ctrl-C, all saved (the same command
    goes on); 134 if another process of the run was lost.

    Args:
      experiment: the experiment, or several by name, of which `--preset NAME` takes one, the first by default; all
        other flags change its settings.
      arguments: command-line arguments; None takes the process's.
      description: text above --help, such as the script's docstring.
      prog: name of the command in --help; None takes the script's.
      accelerated: settings of the model on a TPU or a GPU, by name, unless the command line gives them (`suited`).
    """
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs errors that we print ourselves
    with errors_said():
        words = sys.argv[1:] if arguments is None else arguments
        number, at = _run(command := parse(experiment, words, description, prog), accelerated, given_in(words))
    if number:
        same = "The same command without --overwrite" if command.overwrite else "The same command"
        say(f"Interrupted {at}. {same} goes on from there.")
        sys.exit(128 + number if number == signal.SIGINT else PREEMPTED)


def parse(
    experiment: Experiment | Mapping[str, Experiment],
    arguments: Sequence[str] | None = None,
    description: str | None = None,
    prog: str | None = None,
) -> Command:
    """The command that a command line gives; arguments are those of `main`.

    Ends the process with exit code 2 for arguments that do not parse, and with 0 after --help.
    """
    known: Mapping[str, Experiment] = {}
    if isinstance(experiment, Mapping):
        known = experiment
        name, arguments = presets.chosen(known, arguments, prog)
        experiment = known[name]
        listing = f"Presets, of which --preset NAME takes one:\n{presets.listing(known)}"
        description = f"{description or ''}\n\n{listing}"
    short, arguments = short_flags.taken(arguments, prog)
    experiment = short.applied(experiment)
    description = f"{description or ''}\n\n{short_flags.help_of(experiment)}"
    with one_line(arguments):
        command, left = tyro.cli(
            Command,
            prog=prog,
            args=arguments,
            default=Command(experiment),
            description=description,
            config=(tyro.conf.FlagCreatePairsOff,),
            return_unknown_args=True,
            registry=registry(),
        )
    if left:
        presets.refuse(flags.unknown(left, command, experiment, known))
    if line := short.said(command.experiment):
        say(line)
    return dataclasses.replace(command, experiment=short.of_folder(command.experiment))


def _run(command: Command, accelerated: Mapping[str, Any], given: Iterable[str]) -> tuple[int | None, str]:
    """Trains, measures and draws; returns the signal that interrupted it, None or 0 for none, and where that was.

    Args:
      accelerated: as `main` takes it.
      given: names of the model's settings that the command line gave.
    """
    meters.compiled()  # starts the count
    # Other processes, the cache and the allocator have to be set up before JAX computes anything.
    several = command.cluster.start()
    use_compilation_cache()
    keep_freed_memory()
    if is_first():
        print(doctor.line(), flush=True)
    if several:
        here = f"process {jax.process_index()} of {jax.process_count()}, {jax.local_device_count()} devices"
        print(f"{here}; ends within {command.cluster.lost_timeout} s if another one is lost", flush=True)
    folder = command.folder or Path("runs") / command.experiment.name
    begun = None if command.overwrite else folder
    experiment, line = suited(command.experiment, jax.default_backend(), accelerated, given, begun)
    if line:
        say(line)
    try:
        outcome = run(
            experiment,
            folder,
            resume=command.resume,
            overwrite=command.overwrite,
            profile=command.profile,
            tracker=command.tracker,
        )
    except Interrupted as interrupted:
        return interrupted.number, f"while measuring; what was trained is saved in {folder}"
    if command.report and not outcome.interrupted and is_first():
        _report(folder)
    return outcome.interrupted, f"at step {int(outcome.state.step)}; saved in {folder}"


def _report(folder: Path) -> None:
    """Writes the report of a finished run; what fails is a warning, since the run has its result."""
    try:
        Diagnose(folder)()
    except Exception as error:
        what = f"{type(error).__name__}: {first_line(error)}"
        say(f"warning: the report failed ({what}); `hvae diagnose {folder}` tries again.")


def registry() -> tyro.constructors.ConstructorRegistry:
    """What tyro is told of types of ours: a stage of training is one word, so that --stages takes any number."""
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def of_stage(kind: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Stage] | None:
        if kind.type is not Stage:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="STEPS:trains=PATHS:frozen=PATHS:modules=N",
            instance_from_str=lambda words: _stage(words[0]),
            is_instance=lambda value: isinstance(value, Stage),
            str_from_instance=lambda stage: [str(stage)],
        )

    return registry


def _stage(word: str) -> Stage:
    """The stage of a word; ends the command with the reason for a word that is none."""
    try:
        return Stage.parse(word)
    except ValueError as error:
        # of an item of a list tyro would say no more than that it does not parse
        print(f"error: --stages: {error}", file=sys.stderr)
        sys.exit(2)
