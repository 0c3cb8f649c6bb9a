"""Files of `hvae export` that somebody else made: names, settings and results in their metadata."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.small_weights import Said, small_presets, smallest, what_fails

from hvae_jax.data.spec import Data
from hvae_jax.experiment import Experiment, settings
from hvae_jax.experiment.exchange import import_own

presets = pytest.fixture(autouse=True)(small_presets)
said = pytest.fixture(what_fails)

OURS = "hvae_jax.experiment:Experiment"


def metadata(**changes: Any) -> dict[str, str]:
    """The metadata of an export; `changes` are values that become JSON, or texts."""
    experiment = settings.to_json(Experiment("mine", smallest(), Data("data.npz")))
    entries = {"settings": experiment, "event": [4, 4, 3], "progress": {}, "result": {}} | changes
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in entries.items()}
    return {"hvae_jax": "0", "format": "2"} | texts


def file(**changes: Any) -> str:
    """A file with this metadata and an array that fits nothing."""
    save_file({"params/a": np.zeros(1, np.float32)}, "mine.safetensors", metadata(**changes))
    return "mine.safetensors"


def with_field(value: Any, *path: str | int) -> Any:
    """The settings with another value at a path of fields."""
    experiment = settings.to_json(Experiment("mine", smallest(), Data("data.npz")))
    place = experiment
    for part in path[:-1]:
        place = place["fields"][part] if isinstance(part, str) else place[part]
    place["fields"][path[-1]] = value
    return experiment


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["../../escaped", "absolute", "", "\x1b[31mred", "a/b", ".", "CON\n"])
def test_a_file_does_not_choose_where_it_is_written(name: str, overwrite: bool) -> None:
    """Nothing is written or deleted, not even the pictures in a folder that the file names by its absolute path."""
    victim = Path("victim/pictures")
    victim.mkdir(parents=True)
    (victim / "mine.png").write_text("")
    name = str(victim.parent.resolve()) if name == "absolute" else name
    before = sorted(Path().rglob("*"))
    with pytest.raises(ValueError, match="its metadata cannot be read: The name of a run is") as raised:
        import_own(Path(file(settings=with_field(name, "name"))), overwrite=overwrite)
    assert str(raised.value).isprintable()
    assert sorted(Path().rglob("*")) == sorted([*before, Path("mine.safetensors")])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"settings": ""}, "settings is empty"),
        ({"settings": '{"type": "hvae_jax.exp'}, "settings ends early"),
        ({"settings": "[" * 100_000}, "settings is nested more than 64 levels deep"),
        ({"settings": "[" * 100 + "]" * 100}, "settings is nested more than 64 levels deep"),
        ({"settings": '"' + "x" * 9_000_000 + '"'}, "settings has 8.6 MiB of text, but at most 8 MiB are read"),
        ({"settings": '{"type": "a", "type": "b"}'}, "the key 'type' is there twice"),
        ({"settings": []}, "settings describe a tuple, not an Experiment"),
        ({"settings": {"type": OURS, "fields": []}}, "are [], but have to be an object"),
        (
            {"settings": {"type": "hvae_jax.experiment:Experiment", "fields": None}},
            "are None, but have to be an object",
        ),
        ({"settings": {"type": OURS, "fields": {}}}, "needs a value of name, model"),
        ({"settings": {"type": 3, "fields": {}}}, "3 is no address"),
        ({"settings": with_field(None, "seed")}, "seed is None, but it has to be a whole number"),
        ({"settings": with_field(float("nan"), "optimiser", "learning_rate")}, "optimiser.learning_rate is nan"),
        (
            {"settings": with_field("b", "model", "ups")},
            "model.ups is 'b', but it has to be a tuple, each item",
        ),
        (
            {"settings": with_field(True, "model", "ups", 0, "width")},
            "model.ups[0].width is True, but it has to be",
        ),
        ({"settings": with_field(0, "evaluation", "draws")}, "evaluation: evaluation.draws is 0"),
        (
            {"settings": with_field(3, "data", "nmae")},
            "data: hvae_jax.data.spec:Data has no field 'nmae'. Did",
        ),
        ({"event": "[1e20]"}, "event is [1e+20], but it has to be the shape of one x"),
        ({"event": [-1, 2]}, "event is [-1, 2], but it has to be the shape"),
        ({"event": {}}, "event is {}, but"),
        ({"event": []}, "event is [], but"),
        ({"event": [4, 4, 1]}, "event is [4, 4, 1], but it has to be the shape of one x, such as [4, 4, 3]"),
        ({"progress": []}, "progress is [], but it has to be an object"),
        ({"progress": {"best_step": "x"}}, "progress.best_step is 'x', but it has to be a whole number"),
        ({"progress": {"more": 1}}, "progress: "),
        ({"result": [1]}, "result holds [1]"),
        ({"result": {"elbo": 3}}, "result: "),
        ({"result": {"parameters": "x"}}, "result: parameters: str is not an instance of int"),
    ],
    ids=range(28),
)
def test_metadata_that_export_did_not_write(changes: dict[str, Any], says: str) -> None:
    """One line names the entry, the place in it, what it is and what it has to be."""
    with pytest.raises(ValueError, match=re.escape(says)) as raised:
        import_own(Path(file(**changes)), Path("again"))
    message = str(raised.value)
    assert message.startswith("mine.safetensors: its metadata cannot be read: ") and "\n" not in message
    assert len(message) < 500 and not Path("again").exists()


def test_settings_of_which_no_model_can_be_made(said: Said) -> None:
    """Sizes that do not fit each other are found when the model is made."""
    settings = with_field([4, 4, 3, 1], "model", "image")
    error = said("import", "hvae_jax", file(settings=settings, event=[4, 4, 3, 1]), "--folder", "again")
    assert "error: mine.safetensors" in error and len(error.splitlines()) == 2 and not Path("again").exists()
