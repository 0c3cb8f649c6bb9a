"""Converters of weights of public codes to models and variables of this library."""

from hvae_jax.convert.codes import CONVERTERS as CONVERTERS
from hvae_jax.convert.codes import converter_of as converter_of
from hvae_jax.convert.converter import Converter as Converter
from hvae_jax.convert.converter import Preset as Preset
from hvae_jax.convert.state_dict import Entry as Entry
from hvae_jax.convert.state_dict import to_variables as to_variables
