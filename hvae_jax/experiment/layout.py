"""The layout of settings.json: its number, and the refusal of folders that another layout wrote."""

import shlex
from pathlib import Path
from typing import Any

LAYOUT = 2
"""Raised whenever a name or a field that settings.json may hold moves or changes its meaning."""

_RECIPES = {
    "digits_topdown": ("top_down", "digits"),
    "mnist_topdown": ("top_down", "mnist"),
    "digits_two_level": ("bottom_up", "digits"),
    "digits_two_level_printed": ("bottom_up", "digits_printed"),
    "mnist_iwae_two_level": ("bottom_up", "mnist_iwae"),
    "digits_vae": ("vae", "digits"),
    "mnist_iwae": ("vae", "mnist_iwae"),
    "mnist_ladder": ("ladder", "mnist_small"),
    "mnist_ladder_published3": ("ladder", "mnist_published"),
    "mnist_ladder_published6": ("ladder", "mnist_published6"),
    "mnist_ladder_published12": ("ladder", "mnist_published12"),
    "mnist_ladder_paper": ("ladder", "mnist_paper"),
    "omniglot_ladder": ("ladder", "omniglot_small"),
    "omniglot_ladder_paper": ("ladder", "omniglot_paper"),
    "mnist_iaf": ("resnet_vae", "mnist_small"),
    "mnist_iaf_plain": ("resnet_vae", "mnist_plain"),
    "mnist_iaf_large": ("resnet_vae", "mnist_large"),
    "cifar10_iaf": ("resnet_vae", "cifar10_small"),
    "cifar10_iaf_paper": ("resnet_vae", "cifar10_paper"),
    "cifar10_iaf_two_resolutions": ("resnet_vae", "cifar10_two_resolutions"),
    "mnist_biva": ("biva", "mnist_small"),
    "mnist_biva_paper": ("biva", "mnist_paper"),
    "cifar10_biva": ("biva", "cifar10_small"),
    "cifar10_biva_paper": ("biva", "cifar10_paper"),
}
"""Today's recipe and preset for each experiment that the first layout's scripts had."""


def check_layout(data: Any, folder: Path) -> None:
    """Raises ValueError if the settings in `folder` are of another layout; an earlier one gets the command to retrain.

    Args:
      data: settings.json, parsed.
    """
    layout = data.get("layout", 1) if isinstance(data, dict) else LAYOUT
    if not isinstance(layout, int):
        raise ValueError(f"{folder / 'settings.json'}: layout is {layout!r}, but it has to be a whole number.")
    if layout == LAYOUT:
        return
    if layout > LAYOUT:
        raise ValueError(
            f"{folder} was written by a later layout of hvae_jax ({layout}; this is {LAYOUT}): upgrade it."
        )
    raise ValueError(
        f"{folder} was written by an earlier layout of hvae_jax, which this one does not read. Train it anew with "
        f"{_retrain(data, folder)}"
    )


def _retrain(data: dict[str, Any], folder: Path) -> str:
    """The command that retrains a run of the first layout, as far as its name or its folder's tells."""
    fields = data.get("fields")
    options = f"--folder {shlex.quote(str(folder))} --overwrite"
    for name in (fields.get("name") if isinstance(fields, dict) else None, folder.name):
        for recipe in ("vdvae", "efficient_vdvae"):  # named after their presets
            if isinstance(name, str) and name.isprintable() and name.startswith(f"{recipe}_"):
                preset = name.removeprefix(f"{recipe}_")
                return f"hvae train {recipe} --preset {shlex.quote(preset)} {options}"
        if isinstance(name, str) and name in _RECIPES:
            recipe, preset = _RECIPES[name]
            return f"hvae train {recipe} --preset {preset} {options}"
    return f"the run's own script and {options}"
