"""`hvae`: training, commands on run folders and files of weights, and a check of the machine."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from hvae_jax.cli import of_recipes
from hvae_jax.cli.compare import Compare
from hvae_jax.cli.compress import Compress
from hvae_jax.cli.decompress import Decompress
from hvae_jax.cli.diagnose import Diagnose
from hvae_jax.cli.doctor import Doctor
from hvae_jax.cli.encode import Encode
from hvae_jax.cli.evaluate import Evaluate
from hvae_jax.cli.export import Export
from hvae_jax.cli.import_weights import ImportWeights
from hvae_jax.cli.inpaint import Inpaint
from hvae_jax.cli.interpolate import Interpolate
from hvae_jax.cli.metrics import Metrics
from hvae_jax.cli.one_line import one_line
from hvae_jax.cli.push import Push
from hvae_jax.cli.reconstruct import Reconstruct
from hvae_jax.cli.sample import Sample
from hvae_jax.cli.score import Score
from hvae_jax.cli.show import Show
from hvae_jax.experiment.exits import errors_said
from hvae_jax.runtime.compilation import keep_freed_memory, use_compilation_cache
from hvae_jax.runtime.streams import steady_streams

COMMANDS: dict[str, Callable[..., Any]] = {
    "train": of_recipes.Train,
    "sweep": of_recipes.Sweep,
    "fit": of_recipes.Fit,
    "evaluate": Evaluate,
    "sample": Sample,
    "reconstruct": Reconstruct,
    "inpaint": Inpaint,
    "show": Show,
    "compare": Compare,
    "encode": Encode,
    "score": Score,
    "interpolate": Interpolate,
    "diagnose": Diagnose,
    "compress": Compress,
    "decompress": Decompress,
    "import": ImportWeights,
    "export": Export,
    "metrics": Metrics,
    "push": Push,
    "doctor": Doctor,
}


@steady_streams()
def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line and runs the command.

    Exit codes: 0 for success, also if only the pictures of a report failed, which is a warning; 1 for an error, whose
    message is printed; 2 for arguments that do not parse, with one line on what was meant.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if given and given[0] in of_recipes.COMMANDS:
        of_recipes.COMMANDS[given[0]](given[1:])
        return
    if given and not given[0].startswith("-") and given[0] not in COMMANDS:
        from hvae_jax.cli.presets import refuse
        from hvae_jax.recipes import unknown

        refuse(f"{unknown('command', given[0], COMMANDS)} hvae --help lists all.")
    with one_line(arguments):
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
