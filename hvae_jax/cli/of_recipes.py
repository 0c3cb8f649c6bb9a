"""The commands whose flags depend on the recipe that they name: `hvae train`, `hvae sweep` and `hvae fit`.

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


@dataclasses.dataclass(frozen=True)
class Fit:
    """Says whether a recipe or a run fits a TPU or a GPU, and how fast it can be at best; `hvae fit --help`.

    Attributes:
      arguments: name of the recipe, or the folder of the run, and flags.
    """

    arguments: tuple[str, ...] = ()

    def __call__(self) -> None:
        """Runs the command."""
        fit(self.arguments)


def train(arguments: Sequence[str]) -> None:
    """`hvae train` with these arguments."""
    from hvae_jax.cli.train import main

    main(arguments)


def sweep(arguments: Sequence[str]) -> None:
    """`hvae sweep` with these arguments."""
    from hvae_jax.cli.sweep import main

    main(arguments)


def fit(arguments: Sequence[str]) -> None:
    """`hvae fit` with these arguments."""
    from hvae_jax.cli.fit import main

    main(arguments)


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {"train": train, "sweep": sweep, "fit": fit}
