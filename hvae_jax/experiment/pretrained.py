"""`load`: a trained model from the box, a run folder or a file, and what it does with arrays and pictures."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array

from hvae_jax.data.dataset import Split
from hvae_jax.diagnostics import codes, example_scores, interpolate
from hvae_jax.diagnostics.codes import What, check_levels
from hvae_jax.experiment.box import Card
from hvae_jax.experiment.evaluation import chunks
from hvae_jax.experiment.own import Given, own_pictures
from hvae_jax.experiment.records import Experiment
from hvae_jax.experiment.reopen import open_stored
from hvae_jax.models import HVAE
from hvae_jax.runtime.compilation import jit
from hvae_jax.trace import level_names

_SIZE = 256
"""Largest number of examples in memory at once."""


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
    """A trained model with its variables.

    Methods take arrays `[N, *event]` of the model's values, compute `size` of them at a time, and return NumPy arrays.
    A random key belongs to `size` examples that are computed together: another size has other draws.

    Attributes:
      model: the model.
      variables: its best variables, as `model.apply` takes them.
      card: recipe, data, seed, numbers, licence, as far as they are known; `print(card)`.
      experiment: settings of the run that trained it.

    Example:
        >>> digits = hv.load("digits_topdown")
        >>> x = hv.data.digits().splits["test"].x[:2]
        >>> {name: code.shape for name, code in digits.encode(x).items()}
        {'z2': (2, 8), 'z1': (2, 16)}
    """

    model: HVAE
    variables: Any = dataclasses.field(repr=False)
    card: Card
    experiment: Experiment = dataclasses.field(repr=False)
    _programs: dict[Any, Callable[..., Any]] = dataclasses.field(default_factory=dict, repr=False)

    def __reduce__(self) -> Any:
        """Pickles arrays and settings; programs are compiled anew."""
        return Pretrained, (self.model, jax.device_get(self.variables), self.card, self.experiment)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Pretrained":
        """The record itself: nothing in it changes but the programs that it remembers."""
        return self

    @property
    def event(self) -> tuple[int, ...]:
        """Shape of one x."""
        return self.card.event

    @functools.cached_property
    def levels(self) -> tuple[str, ...]:
        """Names of the levels, top first."""
        y = np.zeros(1, np.int32) if self.model.classes else None
        return level_names(self.model, Split(np.zeros((1, *self.event), np.float32), y))

    def pictures(self, *paths: str | os.PathLike[str], invert: bool = False) -> Given:
        """Pictures of one's own as the model takes them: files, one folder of them, or one .npz.

        `given.only.x` are the examples, `given.names` the files, `given.dataset.protocol` says how they were fitted.

        Args:
          invert: whether black and white are exchanged, for a model of white on black.
        Raises ValueError, with what would do, for what is no picture or does not fit; FileNotFoundError.
        """
        return own_pictures(self.experiment, self.event, [os.fspath(path) for path in paths], invert=invert)

    def encode(
        self,
        x: Any,
        levels: Sequence[str] | None = None,
        what: What = "mean",
        *,
        y: Any = None,
        key: Array | None = None,
        posterior_temperature: float | None = None,
        size: int = _SIZE,
    ) -> dict[str, np.ndarray]:
        """Codes of x by level, top first, `[N, ...]` each: `diagnostics.codes`, whose arguments and errors it has.

        Args:
          key: None takes `jax.random.key(0)`; means need no other.
        """
        wanted = check_levels(self.levels, levels)
        options = {"what": what, "levels": wanted, "posterior_temperature": posterior_temperature}
        found = self._over(codes, x, y, key, size, options)
        return {name: found[name] for name in wanted}  # a compiled program sorts them

    def reconstruct(
        self,
        x: Any,
        *,
        y: Any = None,
        keep_top: int | None = None,
        temperature: float = 1.0,
        posterior_temperature: float = 1.0,
        key: Array | None = None,
        size: int = _SIZE,
    ) -> np.ndarray:
        """E[p(x | z)], `[N, *event]`, with the top `keep_top` levels inferred and the others drawn from their priors.

        Args:
          temperature: temperature of the priors.
          posterior_temperature: temperature of the posteriors; 0 infers without noise, means all the way down.
        Raises ValueError as `HVAE.reconstruct` does.
        """
        options = {
            "keep_top": keep_top,
            "temperature": temperature,
            "posterior_temperature": posterior_temperature,
        }
        return self._over(_reconstructions, x, y, key, size, options)

    def score(
        self,
        x: Any,
        *,
        y: Any = None,
        draws: int = 100,
        above: Sequence[int] = (),
        above_draws: int = 16,
        chunk: int = 10,
        key: Array | None = None,
        size: int = _SIZE,
    ) -> dict[str, np.ndarray]:
        """Scores of each example, nats, `[N]`: `elbo`, `iw_bound`, `llr_K`, as `diagnostics.example_scores` says."""
        options = {"draws": draws, "above": tuple(above), "above_draws": above_draws, "chunk": chunk}
        found = self._over(example_scores, x, y, key, size, options)
        return {name: found[name] for name in ("elbo", "iw_bound", *(f"llr_{k}" for k in above))}

    def interpolate(
        self,
        x: Any,
        other: Any,
        steps: int = 8,
        *,
        levels: Sequence[str] | None = None,
        y: Any = None,
        posterior_temperature: float = 1.0,
        key: Array | None = None,
    ) -> np.ndarray:
        """E[p(x | z)] along great circles in the noise of each level, `[N, steps, *event]`: `diagnostics.interpolate`.

        Args:
          x, other: both ends, `[N, *event]`.
          levels: names of the levels that move; the others keep the noise of x. None moves all.
          posterior_temperature: temperature of the posteriors of both ends; 0 infers without noise.
        Raises ValueError as `diagnostics.interpolate` does, and for an unknown level.
        """
        moving = check_levels(self.levels, levels)
        options = {"levels": tuple(name in moving for name in self.levels), "steps": steps}
        program = self._program(interpolate, options)
        temperature = np.float32(posterior_temperature)
        ends = np.asarray(x), np.asarray(other)
        drawn = program(self.variables, *ends, _key(key), y=y, posterior_temperature=temperature)
        return np.asarray(drawn)

    def sample(
        self, n: int, *, y: Any = None, temperature: float | Sequence[float] = 1.0, key: Array | None = None
    ) -> np.ndarray:
        """New x, `[n, *event]`, from priors at this temperature. Raises ValueError as `HVAE.generate` does."""
        program = self._program(_samples, {"n": n})
        return np.asarray(program(self.variables, _key(key), y=y, temperature=np.asarray(temperature, np.float32)))

    def _over(
        self, function: Callable[..., Any], x: Any, y: Any, key: Array | None, size: int, options: dict[str, Any]
    ) -> Any:
        """A function of (model, variables, x, key, y=, options) over all examples, `size` at a time."""
        if size < 1:
            raise ValueError(f"size is {size}, but it has to be 1 or more.")
        x = x if hasattr(x, "fingerprint") else np.asarray(x)  # rows are read where they lie, `size` at a time
        if tuple(x.shape[1:]) != self.event or not len(x):
            raise ValueError(f"x has shape {x.shape}, but examples of {self.card.name} are [N, *{self.event}].")
        if self.model.likelihood is not None and isinstance(x, np.ndarray):
            self.model.likelihood.check(x)
        labels = None if y is None or not self.model.classes else np.asarray(y)
        program, found = self._program(function, options), []
        key, size = _key(key), min(size, len(x))
        for i, (some, some_y, count) in enumerate(chunks(Split(x, labels), size)):
            drawn = program(self.variables, some, jax.random.fold_in(key, i), y=some_y)
            found.append(jax.tree.map(lambda a, n=count: np.asarray(a)[:n], drawn))
        return jax.tree.map(lambda *parts: np.concatenate(parts), *found)

    def _program(self, function: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
        """The function of this model with these options, compiled once for each shape."""
        at = function, tuple(options.items())
        if at not in self._programs:
            self._programs[at] = jit(functools.partial(function, self.model.rolled, **options))
        return self._programs[at]


def load(name: str | os.PathLike[str], modules: Sequence[str] = ()) -> Pretrained:
    """A trained model: one in the box by its name, a run folder, a packed folder, or a file of `hvae export`.

    Args:
      name: such as "digits_topdown", "runs/top_down_digits", "mine.safetensors", or "hf://user/name" on the Hugging
        Face Hub, with @REVISION behind it or not. A run or file comes before a model in the box of the same name.
      modules: modules beside hvae_jax that the settings may name.
    Raises FileNotFoundError for what is none of these, with the nearest model in the box and all of them, and for a run
    that has saved nothing; ValueError for files that are damaged or do not fit each other; for an address on the hub
    also ImportError without huggingface_hub, and OSError if the hub cannot be reached.

    Example:
        >>> model = hv.load("digits_topdown")
        >>> model.event, model.model.num_levels
        ((8, 8, 1), 2)
    """
    stored = open_stored(Path(name).expanduser(), modules)
    return Pretrained(stored.experiment.model, stored.variables, stored.card, stored.experiment)


def _key(key: Array | None) -> Array:
    return jax.random.key(0) if key is None else key


def _reconstructions(model: HVAE, variables: Any, x: Array, key: Array, **options: Any) -> Array:
    return model.apply(variables, x, key, method="reconstruct", **options)


def _samples(model: HVAE, variables: Any, key: Array, n: int, **options: Any) -> Array:
    return model.apply(variables, key, n, method="generate", **options)
