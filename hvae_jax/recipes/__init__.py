"""Recipes: a file for each model, with its experiments by name in `presets`; `hvae train NAME` runs them.

The docstring of a recipe has its commands, and the numbers and times to expect. `hvae_jax` does not import this room:
a recipe is imported when it is asked for.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from typing import Any

from hvae_jax.experiment import Experiment


def names() -> tuple[str, ...]:
    """Names of the recipes, in alphabetical order; none of them is imported.

    Example:
        >>> from hvae_jax import recipes
        >>> {"top_down", "bottom_up", "vdvae"} <= set(recipes.names())
        True
    """
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def presets_of(recipe: str) -> dict[str, Experiment]:
    """The experiments of a recipe by name, the first one small.

    Raises ValueError, with the nearest name, for an unknown recipe.

    Example:
        >>> from hvae_jax import recipes
        >>> next(iter(recipes.presets_of("top_down")))  # the small one
        'digits'
    """
    _check(recipe)
    return importlib.import_module(f"{__name__}.{recipe}").presets


def on_accelerators(recipe: str) -> Mapping[str, Any]:
    """Settings of the recipe's models that `hvae train` takes on a TPU or a GPU unless they are given; {} for none.

    Raises ValueError as `presets_of` does.

    Example:
        >>> from hvae_jax import recipes
        >>> recipes.on_accelerators("vdvae")["dtype"]
        'bfloat16'
    """
    _check(recipe)
    return getattr(importlib.import_module(f"{__name__}.{recipe}"), "on_accelerators", {})


def docstring_of(recipe: str) -> str:
    """The text on a recipe: commands, and what to expect. Raises ValueError as `presets_of` does.

    Example:
        >>> from hvae_jax import recipes
        >>> "hvae train" in recipes.docstring_of("top_down")
        True
    """
    _check(recipe)
    return importlib.import_module(f"{__name__}.{recipe}").__doc__ or ""


def experiment_of(recipe: str, preset: str | None = None) -> Experiment:
    """An experiment of a recipe; None takes the first. Raises ValueError, naming the nearest, for an unknown name.

    Example:
        >>> from hvae_jax import recipes
        >>> recipes.experiment_of("top_down").name
        'top_down_digits'
    """
    presets = presets_of(recipe)
    if preset is None:
        return next(iter(presets.values()))
    if preset not in presets:
        raise ValueError(unknown("preset", preset, presets, f" of {recipe}"))
    return presets[preset]


def unknown(kind: str, name: str, known: Iterable[str], whose: str = "") -> str:
    """The sentence on a name that does not exist: the nearest one, and all that do.

    Example:
        >>> from hvae_jax import recipes
        >>> recipes.unknown("preset", "digtis", ["digits", "mnist"])
        "There is no preset 'digtis'. Did you mean digits? There are digits, mnist."
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"There is no {kind} {name!r}{whose}.{hint} There are {', '.join(known)}."


def _check(recipe: str) -> None:
    if recipe not in names():
        raise ValueError(unknown("recipe", recipe, names()))
