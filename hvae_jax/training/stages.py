"""Stages of training: which parameters each trains, with how many of the model's modules (greedy learning).

Greedy layer-wise learning (Hinton et al., 2006; Wu et al., 2021) trains a model part by part. In a stage the optimiser
sees the stage's own parameters alone: those that are frozen keep every bit, have no gradient and no optimiser state.
"""

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax
import optax
from jax import Array

from hvae_jax.objectives import Objective
from hvae_jax.objectives.protocol import is_own
from hvae_jax.records import checked
from hvae_jax.runtime.annotations import ArrayLike
from hvae_jax.runtime.trees import leaves_by_path
from hvae_jax.trace import Model

Trains = Callable[[str], bool]
"""Whether the parameter at a path, such as "module2/decoder/kernel", is trained."""


@dataclasses.dataclass(frozen=True)
@checked
class Stage:
    """A stage of training.

    Patterns are paths of parameters such as "module2", which is everything below it, and may hold the wildcards of
    `fnmatch`, where * takes slashes too: "module*/prior/*", "*/kernel". A path is trained if a pattern of `trains`
    matches it and none of `frozen` does. Statistics go by the same patterns, with the paths that they have in their
    collection: those of a frozen batch norm keep every bit.

    A stage starts from the best variables of the stage before (`Training.select`), with a fresh optimiser, whose
    schedule starts anew, and with a patience of its own.

    Attributes:
      steps: largest number of steps; exceeded patience ends the stage earlier.
      trains: patterns of what is trained; () is everything.
      frozen: patterns of what is not trained.
      modules: number of the model's modules that run in the training step, from the first; None runs all. The others
        have to be the identity, as those of `models.GreedyVAE` are until they are trained. Validation runs all.

    Raises ValueError if a number is below 1 or a pattern is empty.

    Example:
        >>> from hvae_jax import training
        >>> stage = training.Stage.parse("500:trains=module2")
        >>> stage.steps, stage.includes("module2/kernel"), stage.includes("module1/kernel")
        (500, True, False)
    """

    steps: int
    trains: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    modules: int | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"Stage(steps={self.steps}): a stage has 1 step or more.")
        if self.modules is not None and self.modules < 1:
            raise ValueError(f"Stage(modules={self.modules}): it has to be 1 or more, or None.")
        for pattern in (*self.trains, *self.frozen):
            if not pattern.strip():
                raise ValueError(f'Stage: {pattern!r} is no pattern of paths, such as "module1" or "*/kernel".')

    def includes(self, path: str) -> bool:
        """Whether the parameter at this path is trained."""
        chosen = not self.trains or any(matches(path, pattern) for pattern in self.trains)
        return chosen and not any(matches(path, pattern) for pattern in self.frozen)

    def model(self, model: Model) -> Model:
        """The model that the training step runs. Raises ValueError for more modules than it has, or if it has none."""
        return model if self.modules is None else model.truncated(self.modules)

    @classmethod
    def parse(cls, text: str) -> "Stage":
        """The stage that a flag describes: "500", "500:trains=module2,past:frozen=*/bias:modules=2".

        Raises ValueError for another form.
        """
        steps, *options = text.split(":")
        values: dict[str, Any] = {}
        for option in options:
            name, equals, value = option.partition("=")
            if name not in ("trains", "frozen", "modules") or not equals or name in values:
                raise ValueError(
                    f"{text!r} is no stage: after the number of steps come trains=, frozen= and modules=, once each, "
                    'as in "500:trains=module2,past:modules=2".'
                )
            values[name] = _whole(value, text) if name == "modules" else tuple(value.split(","))
        return cls(_whole(steps, text), **values)

    def __str__(self) -> str:
        """The text that `parse` reads."""
        parts = [str(self.steps)]
        parts += [f"{name}={','.join(value)}" for name in ("trains", "frozen") if (value := getattr(self, name))]
        return ":".join(parts if self.modules is None else [*parts, f"modules={self.modules}"])


def matches(path: str, pattern: str) -> bool:
    """Whether a pattern matches a path or one above it."""
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}/*")


def parted(tree: Any, trains: Trains, at: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    """A tree of nested dicts as two: the leaves that are trained, and the others. Branches without leaves are left out.

    Raises ValueError for a tree that is no dict.
    """
    if not isinstance(tree, Mapping):
        raise ValueError(f"Stages need parameters in nested dicts, as Flax's modules have them, not {type(tree)}.")
    trained, frozen = {}, {}
    for name, value in tree.items():
        path = f"{at}{name}"
        if isinstance(value, Mapping):
            for part, found in zip((trained, frozen), parted(value, trains, f"{path}/"), strict=True):
                if found:
                    part[name] = found
        else:
            (trained if trains(path) else frozen)[name] = value
    return trained, frozen


def joined(tree: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The tree whose parts `parted` returned."""
    both = dict(tree)
    for name, value in other.items():
        both[name] = joined(both[name], value) if name in both else value
    return both


def trains_in(stage: Stage | None, objective: Objective) -> Trains | None:
    """What a stage trains of what the objective trains; None without stages, where the objective alone decides.

    A stage's patterns are those of the model's parameters: the objective's own are trained in every stage.
    """
    if stage is None:
        return None
    return lambda path: (is_own(path) or stage.includes(path)) and objective.trains(path)


def optimiser_in(
    optimiser: optax.GradientTransformation, stage: Stage | None, objective: Objective
) -> optax.GradientTransformation:
    """The optimiser of a stage, whose state is that of the stage's own parameters; its update takes trees of these."""
    trains = trains_in(stage, objective)
    if trains is None:
        return optimiser
    return optax.GradientTransformation(lambda params: optimiser.init(parted(params, trains)[0]), optimiser.update)


def check_stages(
    stages: Sequence[Stage], model: Model, objective: Objective, x: ArrayLike, y: ArrayLike | None, key: Array
) -> None:
    """Checks each stage against the paths of the model's parameters, from shapes alone.

    Args:
      x, y: examples, of which shapes and dtypes count.
    Raises ValueError, naming the stage, for a pattern that matches no path (with the nearest one), for a stage that
    trains nothing, because all is frozen or what it trains does not run, and for modules that the model does not have.
    """
    if not stages:
        return

    def paths_of(one: Model) -> list[str]:
        return list(leaves_by_path(jax.eval_shape(lambda: one.init(key, x, key, y=y))["params"]))

    paths = paths_of(model)
    for number, stage in enumerate(stages, start=1):
        where = f"Stage {number} ({stage})"
        for pattern in (*stage.trains, *stage.frozen):
            if not any(matches(path, pattern) for path in paths):
                raise ValueError(f"{where}: no parameter's path matches {pattern!r}. {_nearest(pattern, paths)}")
        chosen = [path for path in paths if stage.includes(path)]
        if not chosen:
            raise ValueError(
                f"{where} trains nothing: `frozen` matches every path that `trains` does. Freeze less, or leave the "
                "stage out."
            )
        chosen = [path for path in chosen if objective.trains(path)]
        if not chosen:
            raise ValueError(
                f"{where} trains nothing: {type(objective).__name__} does not train any of its parameters."
            )
        if stage.modules is not None:
            try:
                running = set(paths_of(stage.model(model)))
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
            if not running.intersection(chosen):
                raise ValueError(
                    f"{where} trains nothing: with modules={stage.modules} none of its parameters runs, the first of "
                    f"which is {chosen[0]}. Raise modules, or train other paths."
                )


def _nearest(pattern: str, paths: Iterable[str]) -> str:
    """The path, or the beginning of one, that is spelled most like a pattern."""
    known = dict.fromkeys("/".join(parts[:i]) for path in paths for parts in [path.split("/")] for i in range(1, 9))
    near = difflib.get_close_matches(pattern.strip("*/"), known, n=1, cutoff=0.5)
    top = list(dict.fromkeys(path.partition("/")[0] for path in paths))
    some = f"{', '.join(top[:12])}{', ...' if len(top) > 12 else ''}"
    return f"Did you mean {near[0]!r}? Paths begin with {some}." if near else f"Paths begin with {some}."


def _whole(text: str, stage: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{stage!r} is no stage: {text!r} is no whole number.") from None
