"""`hvae`: commands on run folders and files of weights, and a check of the machine."""

from collections.abc import Callable, Sequence
from typing import Any

import tyro

from hvae_jax.cli.diagnose import Diagnose
from hvae_jax.cli.doctor import Doctor
from hvae_jax.cli.evaluate import Evaluate
from hvae_jax.cli.export import Export
from hvae_jax.cli.import_weights import ImportWeights
from hvae_jax.cli.reconstruct import Reconstruct
from hvae_jax.cli.sample import Sample
from hvae_jax.cli.show import Show
from hvae_jax.experiment.exits import errors_said
from hvae_jax.runtime.compilation import keep_freed_memory, use_compilation_cache
from hvae_jax.runtime.streams import steady_streams

COMMANDS: dict[str, Callable[..., Any]] = {
    "evaluate": Evaluate,
    "sample": Sample,
    "reconstruct": Reconstruct,
    "show": Show,
    "diagnose": Diagnose,
    "import": ImportWeights,
    "export": Export,
    "doctor": Doctor,
}


@steady_streams()
def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line and runs the command.

    Exit codes: 0 for success, also if only the pictures of a report failed, which is a warning; 1 for an error, whose
    message is printed; 2 for arguments that do not parse.
    """
    command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        args=arguments,
        prog="hvae",
        description=__doc__,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    with errors_said():
        use_compilation_cache()
        keep_freed_memory()
        command()
