"""The commands whose flags depend on the recipe that they name: `hvae train` and `hvae sweep`.

They parse their arguments themselves, and are imported when they are asked for, so that the others start as fast.
"""

import dataclasses
from collections.abc import Callable, Sequence


@dataclasses.dataclass(frozen=True)
class Train:
    """Trains a recipe on its data or on yours, measures and draws it; `hvae train --list` has all recipes.

    Attributes:
      arguments: name of the recipe, and its flags.
    """

    arguments: tuple[str, ...] = ()

    def __call__(self) -> None:
        """Runs the command."""
        train(self.arguments)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Trains a recipe for several values of its settings, with one table and one picture; `hvae sweep --help`.

    Attributes:
      arguments: name of the recipe, and its flags.
    """

    arguments: tuple[str, ...] = ()

    def __call__(self) -> None:
        """Runs the command."""
        sweep(self.arguments)


def train(arguments: Sequence[str]) -> None:
    """`hvae train` with these arguments."""
    from hvae_jax.cli.train import main

    main(arguments)


def sweep(arguments: Sequence[str]) -> None:
    """`hvae sweep` with these arguments."""
    from hvae_jax.cli.sweep import main

    main(arguments)


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {"train": train, "sweep": sweep}
