"""`Converter`, which reads the weights of one public code, and `Preset`, one of its published configurations."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, Literal, TypeVar

from typing_extensions import TypeAliasType

from hvae_jax.convert.state_dict import MisfitError
from hvae_jax.models import HVAE

Options = TypeVar("Options")
Binarise = Literal["dynamic", "static", "threshold"]


@dataclasses.dataclass(frozen=True)
class Preset:
    """A published configuration.

    Attributes:
      model: function that builds the model, as in `hvae_jax.models`.
      about: what was trained, in a few words for the help text.
      data: name of the data set; None if it has none in `hvae_jax.data` and has to be given.
      bits: bits kept of each pixel.
      binarise: how grey values become binary, as in `Data`; None keeps them.

    Example:
        >>> from hvae_jax import convert
        >>> convert.Preset(hv.models.vdvae_mnist, "binary digits", data="mnist").model().num_levels
        10
    """

    model: Callable[[], Any]
    about: str
    data: str | None
    bits: int = 8
    binarise: Binarise | None = None


Read = TypeAliasType(
    "Read",
    Callable[[Mapping[str, Any], Preset | None, Options], tuple[HVAE, dict[str, Any]]],
    type_params=(Options,),
)


@dataclasses.dataclass(frozen=True)
class Converter(Generic[Options]):
    """A reader of the weights of one public code, as a model and its variables.

    Attributes:
      code: name of the code on the command line and in result.json.
      about: the code and its repository, for the help text.
      marks: beginnings of array names that no other code has.
      presets: the published configurations, by name.
      options: type of the settings that a user may give: a frozen dataclass whose defaults change nothing.
      read: function of (arrays by name, preset or None, options) that returns (model, variables). The model has the
        likelihood that the code trains and measures, so that published numbers come out again. Raises ValueError for
        arrays that do not fit, naming them.
      names: function of (arrays by name, model) that returns the names of the arrays of such a model in the code, in
        that of its formats which the given arrays have.
      untold: fields of the model that weights do not determine, such as "block.dropout"; `hvae import` prints them.
      needs_preset: whether files are read with a preset only; otherwise `read` takes None and reads the configuration
        off the arrays.

    Example:
        >>> from hvae_jax import convert
        >>> [converter.code for converter in convert.CONVERTERS if converter.wrote(["enc_tower.0.weight"])]
        ['nvae']
    """

    code: str
    about: str
    marks: tuple[str, ...]
    presets: Mapping[str, Preset]
    options: type[Options]
    read: Read[Options]
    names: Callable[[Mapping[str, Any], Any], Iterable[str]]
    untold: tuple[str, ...]
    needs_preset: bool

    def wrote(self, names: Iterable[str]) -> bool:
        """Whether arrays of these names are weights of this code."""
        # Parallel training and checkpoints put "module." and the like before a name: a mark may begin any part of it.
        return any(f".{mark}" in f".{name.replace('/', '.')}" for name in names for mark in self.marks)

    def preset(self, name: str | None) -> Preset | None:
        """The preset of this name, or None for no name. Raises ValueError, with all names, if the name is unknown."""
        if name in self.presets:
            return self.presets[name]
        if name is None and not self.needs_preset:
            return None
        given = "The weights do not determine their configuration" if name is None else f"Unknown preset {name!r}"
        raise ValueError(f"{given}: --preset is one of {', '.join(self.presets)} for {self.code}.")


def check_is_preset(found: HVAE, wanted: HVAE) -> None:
    """Check a model that was read off a file against the preset's.

    Raises ValueError naming every field that differs, with both values.
    """
    if type(found) is not type(wanted):
        odd = [f"it is a {type(found).__name__}, not a {type(wanted).__name__}"]
    else:
        pairs = {
            field.name: (getattr(found, field.name), getattr(wanted, field.name))
            for field in dataclasses.fields(found)
            if field.name not in ("parent", "name")
        }
        odd = [f"{name} is {_short(one)}, not {_short(other)}" for name, (one, other) in pairs.items() if one != other]
    if odd:
        raise MisfitError(
            f"The file is of another configuration than the preset: {'; '.join(odd)}. Without --preset the "
            "configuration is read off the file; then --image and --data give what the weights do not determine."
        )


def _short(value: Any) -> str:
    """A setting in an error, not longer than two lines."""
    text = str(value)
    return text if len(text) <= 200 else f"{text[:180]} ..."
