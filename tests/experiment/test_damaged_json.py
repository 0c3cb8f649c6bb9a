"""settings.json and result.json that were damaged or made by others: one line with file, place and expectation."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hvae_jax as hv
from hvae_jax.experiment import Experiment, settings
from hvae_jax.experiment.folder import check
from hvae_jax.experiment.reopen import read_experiment
from hvae_jax.experiment.tables import level_table, read, summary
from hvae_jax.runtime.json_files import read_json

EXPERIMENT = Experiment("a", hv.models.TopDownVAE())
SPLITS = ("train", "test")
LEVELS = {"z2": 1.0, "z1": None}
RESULT: dict[str, Any] = {
    **{name: dict.fromkeys(SPLITS, -1.0) for name in ("elbo", "iw_bound")},
    **{
        name: {split: {"elbo": 1.0, "iw_bound": None} for split in SPLITS}
        for name in ("bits_per_dim", "standard_error")
    },
    "k": dict.fromkeys(SPLITS, 5),
    "rates": dict.fromkeys(SPLITS, LEVELS),
    "active_units": {split: {"z2": 1, "z1": 3} for split in SPLITS},
    "steps": 3,
    **dict.fromkeys(("epochs", "seconds", "steps_per_second", "best_epoch", "best_validation_elbo"), 1.0),
    "select": "best",
}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b'{"a": "x', "ends early: line 1, column 7"),
        (b'{"a": [1, ', "ends early"),
        (b"{'a': 1}", "is no JSON: line 1"),
        (b'{"a": "\xff\xfe"}', "no text in UTF-8: byte 7"),
        (b'{"a": 1, "a": 2}', "the key 'a' is there twice"),
        (b"[" * 100_000, "nested more than 64"),
        (b"[" * 100_000 + b"]" * 100_000, "nested more than 64"),
        (b'"' + b"x" * 9_000_000 + b'"', "8.6 MiB of text"),
        (b"9" * 10_000, "is no JSON: Exceeds the limit"),
    ],
    ids=range(10),
)
def test_files_that_are_no_json(content: bytes, says: str, tmp_path: Path) -> None:
    """Whatever reads the folder says so, and names the file."""
    path = tmp_path / "settings.json"
    path.write_bytes(content)
    (tmp_path / "result.json").write_bytes(content)
    (tmp_path / "hvae_jax.json").write_text('{"written": ["settings.json", "result.json"]}')
    for reads in (
        lambda: read_experiment(tmp_path),
        lambda: check(tmp_path, EXPERIMENT, resume=False, overwrite=False),
        lambda: read(tmp_path / "result.json"),
    ):
        with pytest.raises(ValueError, match=re.escape(says)) as raised:
            reads()
        assert str(tmp_path) in str(raised.value)
        assert "\n" not in str(raised.value) and len(str(raised.value)) < 400
    check(tmp_path, EXPERIMENT, resume=True, overwrite=False)


def test_a_folder_in_the_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "settings.json").mkdir()
    with pytest.raises(ValueError, match="is a folder, but a file"):
        read_experiment(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "nothing.json")


@pytest.mark.parametrize("layout", ["2", None, [], 2.5])
def test_a_layout_that_is_no_number(layout: Any, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text(json.dumps({"layout": layout} | settings.to_json(EXPERIMENT)))
    with pytest.raises(ValueError, match=r"settings.json: layout is .*, but it has to be a whole number"):
        read_experiment(tmp_path)


@pytest.mark.parametrize("content", [3, None, [], "text"])
def test_settings_that_are_no_object(content: Any, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"settings.json holds .*, but settings are an object"):
        read_experiment(tmp_path)


@pytest.mark.parametrize("fields", [[], None, 3, {"name": None}])
def test_settings_that_differ_are_compared_whatever_they_are(fields: Any) -> None:
    new = settings.to_json(EXPERIMENT)
    assert settings.differences({"type": new["type"], "fields": fields}, new)
    assert settings.differences(fields, new)


def test_a_whole_result_is_printed(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(RESULT))
    assert "z1 nan (3)" in summary(read(path), tmp_path) and "z2" in level_table(read(path))


def changed(*path: str, value: Any = None) -> Callable[[dict[str, Any]], None]:
    """A change of one entry; None deletes it."""

    def change(result: dict[str, Any]) -> None:
        place = result
        for part in path[:-1]:
            place = place[part]
        if value is None:
            del place[path[-1]]
        else:
            place[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (changed("seconds"), 'missing required key(s): "seconds"'),
        (changed("rates"), 'missing required key(s): "rates"'),
        (changed("elbo", value=3), "value of key 'elbo'"),
        (changed("elbo", "test", value="x"), "value of key 'test' of value of key 'elbo'"),
        (changed("elbo", value={}), "elbo has no splits"),
        (changed("rates", "test"), "rates has the splits ['train'], but elbo has ['test', 'train']"),
        (changed("active_units", "test", value={"z1": 1}), "active_units.test has other levels"),
        (changed("rates", "test", value={}), " has other levels than rates."),
        (changed("standard_error", "test", value={}), "standard_error.test has to have the entries"),
        (changed("imported", value=3), "imported is 3"),
        (changed("imported", value={"code": 3}), "imported"),
        (changed("parameters", value="x"), "parameters: str is not an instance of int"),
    ],
    ids=range(12),
)
def test_results_that_cannot_be_printed(change: Callable[[dict[str, Any]], None], says: str, tmp_path: Path) -> None:
    result = json.loads(json.dumps(RESULT))
    change(result)
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result))
    with pytest.raises(ValueError, match=re.escape(says)) as raised:
        read(path)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)
