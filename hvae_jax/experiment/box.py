"""Models in the box: packed folders, each of settings, weights and a card, that come with the package.

    NAME/settings.json         the experiment, as a run folder has it
    NAME/weights.safetensors   best variables by path, float32 or rounded to bfloat16
    NAME/card.json             recipe, commit, data, seed, numbers, licence: `Card`
    NAME/card.md               the same for a reader

A packed folder can lie anywhere, and serves wherever a run folder is read.
"""

import dataclasses
import difflib
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import hvae_jax
from hvae_jax.convert.array_files import read_arrays
from hvae_jax.experiment import hub, settings
from hvae_jax.experiment.exported import fitting
from hvae_jax.experiment.records import Experiment
from hvae_jax.experiment.schema import check_result, record_of, shown
from hvae_jax.records import described
from hvae_jax.runtime.files import write_whole
from hvae_jax.runtime.json_files import read_json
from hvae_jax.training.checkpoint import Progress

BOX = Path(hvae_jax.__file__).parent / "weights"
"""Folder of the models that come with the package."""

SETTINGS, WEIGHTS, CARD, PAGE = FILES = ("settings.json", "weights.safetensors", "card.json", "card.md")
"""Files of a packed folder."""


@dataclasses.dataclass(frozen=True)
class Card:
    """What is known of a trained model.

    Attributes:
      name: name of the model.
      recipe: command that trained it.
      commit: commit of the library that trained it; "" if it is not known.
      licence: licence of the weights; "" if none was given.
      weights: dtype of the stored weights, "float32" or "bfloat16".
      sha256: checksum of weights.safetensors; "" for a model that was not packed.
      event: shape of one x.
      parameters: number of parameters.
      seed: seed of the run.
      data: name, hash, protocol, kind and number of examples by split, as result.json has them; {} if not measured.
      numbers: bounds of these weights on one split: `split`, `examples`, `elbo` and `iw_bound` (nats, means over
        examples), `k` (draws of the importance-weighted bound); {} if not measured.
      result: result.json of the run, whose numbers are those of the weights before rounding; {} if there is none.
      progress: what the run had reached.
    """

    name: str
    recipe: str = ""
    commit: str = ""
    licence: str = ""
    weights: str = "float32"
    sha256: str = ""
    event: tuple[int, ...] = ()
    parameters: int = 0
    seed: int = 0
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    numbers: dict[str, Any] = dataclasses.field(default_factory=dict)
    result: dict[str, Any] = dataclasses.field(default_factory=dict)
    progress: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        """A paragraph in Markdown."""
        lines = [f"# {self.name}", "", f"{self.parameters:,} parameters, stored as {self.weights}; seed {self.seed}."]
        if self.recipe:
            at = f", commit {self.commit}" if self.commit else ""
            lines.append(f"Trained by `{self.recipe}`{at}.")
        if self.data:
            lines.append(f"Data: {self.data['name']} (hash {self.data['hash']}): {self.data['protocol']}.")
        if self.numbers:
            numbers = self.numbers
            lines.append(
                f"On {numbers['examples']:,} examples of the {numbers['split']} split: -ELBO {-numbers['elbo']:.2f}, "
                f"-log p(x) <= {-numbers['iw_bound']:.2f} nats (K={numbers['k']})."
            )
        if self.licence:
            lines.append(f"Licence of the weights: {self.licence}.")
        return "\n".join(lines) + "\n"


def names() -> tuple[str, ...]:
    """Names of the models in the box, sorted."""
    return tuple(sorted(path.parent.name for path in BOX.glob(f"*/{CARD}")))


def resolved(run: Path) -> Path:
    """The path itself or, for the name of a model in the box, its folder there.

    A run or file of that name in the current folder comes first. An address "hf://user/name" is fetched, with the
    errors of `hub.fetch`.
    """
    if (address := hub.address_of(run)) is not None:
        return hub.fetch(address, FILES)
    boxed = len(run.parts) == 1 and run.name in names()
    return BOX / run.name if boxed and not run.is_file() and not (run / SETTINGS).exists() else run


def is_packed(folder: Path) -> bool:
    """Whether a folder is a packed one."""
    return (folder / CARD).is_file() and (folder / WEIGHTS).is_file()


def in_the_box(name: str) -> str:
    """A sentence on what the box has, with the nearest name first; "" if it is empty."""
    known = names()
    if not known:
        return ""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]}? " if near else ""
    return f"{hint}Models in the box: {', '.join(known)}."


def read_card(folder: Path) -> Card:
    """The card of a packed folder. Raises ValueError, naming the file, for what is no card."""
    path = folder / CARD
    data = read_json(path)
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds {shown(data)}, but a card is an object of names and values.")
    known = {field.name for field in dataclasses.fields(Card)}
    fields = {name: value for name, value in data.items() if name in known}  # a later version may say more
    event = fields.get("event")
    if not isinstance(event, list) or not event or not all(type(size) is int and size > 0 for size in event):
        raise ValueError(f"{path}: event is {shown(event)}, but it has to be the shape of one x, such as [28, 28, 1].")
    try:
        card = record_of(Card, fields | {"event": tuple(event)}, "")
        _check_numbers(card)
        check_result(card.result, "result")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return card


def _check_numbers(card: Card) -> None:
    """Raises ValueError for entries that the card's text and tables need, and that are missing or of another type."""
    numbers = {"split": str, "examples": int, "elbo": float, "iw_bound": float, "k": int}
    wanted: tuple[tuple[str, Mapping[str, Any], Mapping[str, type]], ...] = (
        ("data", card.data, {"name": str, "hash": str, "protocol": str}),
        ("numbers", card.numbers, numbers),
    )
    for what, entries, kinds in wanted:
        for name, kind in kinds.items() if entries else ():
            if not isinstance(entries.get(name), kind):
                raise ValueError(f"{what}.{name} is {shown(entries.get(name))}, but it has to be {described(kind)}.")


def read_packed(folder: Path, modules: Sequence[str] = ()) -> tuple[Experiment, Any, Progress, Card]:
    """Settings, variables, progress and card of a packed folder.

    Raises FileNotFoundError for a file that is missing; ValueError, naming the file, for settings, weights or a card
    that are damaged or do not fit each other.
    """
    card, path = read_card(folder), folder / WEIGHTS
    experiment = settings.load(folder / SETTINGS, modules)
    if not isinstance(experiment, Experiment):
        raise ValueError(f"{folder / SETTINGS} describes a {type(experiment).__name__}, not an Experiment.")
    image = experiment.model.image
    if image is not None and tuple(image) != card.event:
        raise ValueError(f"{folder / CARD}: event is {list(card.event)}, but the model's images are {list(image)}.")
    file = read_arrays(path)
    if card.sha256 and file.sha256 != card.sha256:
        raise ValueError(f"{path} is not the file that {CARD} was written for: its SHA-256 is {file.sha256[:16]}...")
    arrays = {
        name: array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array
        for name, array in file.arrays.items()
    }
    variables = fitting(path, experiment.model, card.event, arrays)
    # null stands for what is not finite, as the best ELBO of a run that has not been validated
    reached = {name: value for name, value in card.progress.items() if value is not None}
    return experiment, variables, record_of(Progress, reached, f"{folder / CARD}: progress"), card


def write_card(folder: Path, card: Card) -> None:
    """Writes card.json and card.md."""
    write_whole(folder / CARD, settings.dumps(dataclasses.asdict(card)))
    write_whole(folder / PAGE, str(card))


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
