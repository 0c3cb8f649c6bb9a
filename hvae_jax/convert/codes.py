"""The public codes whose weights can be read."""

from collections.abc import Iterable
from typing import Any

from hvae_jax.convert import addtt, biva, efficient_vdvae, nvae, srvae, vdvae
from hvae_jax.convert.converter import Converter

CONVERTERS: tuple[Converter[Any], ...] = (
    vdvae.CONVERTER,
    efficient_vdvae.CONVERTER,
    biva.CONVERTER,
    addtt.CONVERTER,
    nvae.CONVERTER,
    srvae.CONVERTER,
)
"""A converter for each public code whose weights can be read."""


def converter_of(names: Iterable[str]) -> Converter[Any] | None:
    """The converter of the code that wrote arrays of these names; None if no converter knows them.

    Example:
        >>> from hvae_jax import convert
        >>> convert.converter_of(["module.encoder.enc_blocks.0.c1.weight"]).code
        'vdvae'
    """
    names = tuple(names)
    return next((converter for converter in CONVERTERS if converter.wrote(names)), None)
