"""`hvae train`: a recipe of the package, trained; its flags are those of an experiment script."""

from collections.abc import Sequence
from pathlib import Path

from hvae_jax import recipes
from hvae_jax.cli import presets, script
from hvae_jax.runtime.texts import say

_HELP = """usage: hvae train RECIPE [--preset NAME] [settings]
       hvae train --list

Trains a recipe, measures and draws it, all in a run folder; the same command goes on after an interruption.

  hvae train top_down                                  the article's model on 8x8 digits: half a minute on two cores
  hvae train top_down --steps 500 --model.hidden 64    any setting
  hvae train vdvae --preset cifar10_small --data.name FOLDER --data.size 32    pictures of your own
  hvae train vdvae --preset cifar10_small --data.name FOLDER --side 64 --width 48 --depth 20    another size
  hvae train top_down --report                         and the report of hvae diagnose at the end
  hvae train RECIPE --help                             presets, settings, and what to expect
  hvae train --list                                    every recipe and preset

Recipes:
"""


def main(arguments: Sequence[str]) -> None:
    """Runs `hvae train` with these arguments; exit codes are those of `script.main`."""
    names = recipes.names()
    first = arguments[0] if arguments else ""
    if first in ("-h", "--help"):
        width = max(map(len, names))
        print(_HELP + "\n".join(f"  {name:{width}}  {_title(name)}" for name in names))
        return
    if first == "--list":
        say("\n\n".join(_listed(name) for name in names))
        return
    recipe_of(arguments)
    if "--list" in arguments:
        say(_listed(first))
        return
    text, accelerated = recipes.docstring_of(first), recipes.on_accelerators(first)
    script.main(recipes.presets_of(first), list(arguments[1:]), text, f"hvae train {first}", accelerated)


def recipe_of(arguments: Sequence[str], command: str = "train") -> str:
    """The recipe that a command line begins with; ends the process with exit code 2 if there is none of this name."""
    names = recipes.names()
    first = arguments[0] if arguments else ""
    if first.endswith(".py") or "/" in first:
        there = "" if Path(first).exists() else " (which does not exist)"
        presets.refuse(f"{first}{there} is no recipe of the package: run a script of yours by python {first}.")
    if not first or first.startswith("-"):
        before = f" before {first}" if first else ""
        presets.refuse(f"hvae {command} needs the name of a recipe{before}: {', '.join(names)}.")
    if first not in names:
        presets.refuse(recipes.unknown("recipe", first, names))
    return first


def _title(recipe: str) -> str:
    return recipes.docstring_of(recipe).partition("\n")[0].rstrip(".")


def _listed(recipe: str) -> str:
    return f"{recipe}: {_title(recipe)}\n{presets.listing(recipes.presets_of(recipe))}"
