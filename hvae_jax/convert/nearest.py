"""The preset that weights are nearest to, for the first line of an error."""

from collections.abc import Mapping
from typing import Any

from hvae_jax.convert.converter import Converter
from hvae_jax.convert.state_dict import unwrapped

_TRIED = 3
"""Largest number of presets that are read to the end: each may take seconds."""


def likely_cause(converter: Converter[Any], preset: str, arrays: Mapping[str, Any], options: Any) -> str:
    """A sentence on weights that do not fit a preset: another preset that they fit, or the one that is nearest.

    Presets are compared by the names of their arrays, and those with the same names by reading.

    Args:
      preset: the preset that does not fit.
      options: those that it was read with.
    """
    found = {_bare(name) for name in unwrapped(arrays)}
    odd = {
        name: len({_bare(name) for name in converter.names(arrays, known.model())} ^ found)
        for name, known in converter.presets.items()
    }
    least = min(odd.values())
    nearest = [name for name, number in odd.items() if number == least]
    # a file of the right names may still have other widths, or arrays that nothing reads
    if least <= len(found) // 100:
        for name in [name for name in nearest if name != preset][:_TRIED]:
            try:
                converter.read(arrays, converter.presets[name], options)
            except ValueError:
                continue
            return f"It fits --preset {name}."
    if preset in nearest:
        return f"No other preset of {converter.code} is nearer."
    if not least:
        return f"Its arrays have the names of --preset {nearest[0]}, and other shapes."
    return (
        f"The nearest is --preset {nearest[0]}, from which {least:,} names differ, and from {preset} {odd[preset]:,}."
    )


def _bare(name: str) -> str:
    """A name without what weight norm adds: a code may save either form."""
    return name.removesuffix("_v").removesuffix("_g")
