"""The command line of an experiment script: typed flags for every setting, and `--preset`."""

import argparse
import dataclasses
import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import jax
import tyro

from hvae_jax.cli import flags
from hvae_jax.experiment.exits import PREEMPTED, errors_said
from hvae_jax.experiment.records import Experiment
from hvae_jax.experiment.run import run, say
from hvae_jax.runtime import doctor, meters
from hvae_jax.runtime.cluster import Cluster, is_first
from hvae_jax.runtime.compilation import keep_freed_memory, use_compilation_cache
from hvae_jax.runtime.streams import steady_streams
from hvae_jax.training.signals import Interrupted


@dataclasses.dataclass(frozen=True)
class Command:
    """The command line of a script: the experiment's settings, and what to do with the run folder.

    Attributes:
      experiment: the experiment's settings.
      folder: the run folder; runs/NAME by default.
      resume: go on in a folder that holds other settings, or on other data, under the new ones.
      overwrite: start over, deleting what an earlier run left in the folder.
      profile: write a trace of three dispatches to profile/ in the run folder, for xprof or ui.perfetto.dev.
      tracker: send numbers and pictures to Weights & Biases or trackio as well.
      cluster: the processes of a run on several machines.
    """

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    folder: Path | None = None
    resume: bool = False
    overwrite: bool = False
    profile: bool = False
    tracker: Literal["wandb", "trackio"] | None = None
    cluster: Cluster = Cluster()


@steady_streams()
def main(
    experiment: Experiment | Mapping[str, Experiment],
    arguments: Sequence[str] | None = None,
    description: str | None = None,
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
    """
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs errors that we print ourselves
    with errors_said():
        presets = experiment if isinstance(experiment, Mapping) else {}
        if isinstance(experiment, Mapping):
            experiment, arguments = _preset(experiment, arguments)
        command, left = tyro.cli(
            Command,
            args=arguments,
            default=Command(experiment),
            description=description,
            config=(tyro.conf.FlagCreatePairsOff,),
            return_unknown_args=True,
        )
        if left:
            print(f"error: {flags.unknown(left, command, experiment, presets)}", file=sys.stderr)
            sys.exit(2)
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
        same = "The same command without --overwrite" if command.overwrite else "The same command"
        try:
            outcome = run(
                command.experiment,
                folder,
                resume=command.resume,
                overwrite=command.overwrite,
                profile=command.profile,
                tracker=command.tracker,
            )
            number = outcome.interrupted
            at = f"at step {int(outcome.state.step)}; saved in {folder}"
        except Interrupted as interrupted:
            number, at = interrupted.number, f"while measuring; what was trained is saved in {folder}"
    if number:
        say(f"Interrupted {at}. {same} goes on from there.")
        sys.exit(128 + number if number == signal.SIGINT else PREEMPTED)


def _preset(presets: Mapping[str, Experiment], arguments: Sequence[str] | None) -> tuple[Experiment, Sequence[str]]:
    """The experiment that `--preset` names, and the remaining arguments."""
    # Before tyro parses: the preset is the default of every other flag.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage=f"[--preset {'|'.join(presets)}] ...")
    parser.add_argument("--preset", choices=list(presets), default=next(iter(presets)))
    chosen, left = parser.parse_known_args(arguments)
    return presets[chosen.preset], left
