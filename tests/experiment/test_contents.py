"""What --overwrite deletes: what runs wrote in a folder, and nothing else."""

import json
from pathlib import Path

import pytest

import hvae_jax as hv
from hvae_jax.experiment import Experiment, settings
from hvae_jax.experiment.contents import CONTENTS, LIST, check_ours, claim, clear
from hvae_jax.experiment.folder import check

EXPERIMENT = Experiment("a", hv.models.TopDownVAE())


def filled(folder: Path, *names: str) -> Path:
    """The folder with files of these names; those without a suffix are folders with a file in them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = folder / name if "." in name else folder / name / "mine.png"
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
    return folder


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", CONTENTS)
def test_what_others_wrote_is_refused(name: str, overwrite: bool, tmp_path: Path) -> None:
    """A folder of the user's own pictures is no run folder, with --overwrite or without; nothing is touched."""
    folder = filled(tmp_path / "project", name, "notes.txt")
    with pytest.raises(ValueError, match=f"holds {name}, which no run of hvae_jax wrote"):
        check(folder, EXPERIMENT, resume=False, overwrite=overwrite)
    with pytest.raises(ValueError, match="Nothing was touched"):
        clear(folder)
    assert {path.name for path in folder.iterdir()} == {name, "notes.txt"}


def test_only_what_runs_wrote_is_deleted(tmp_path: Path) -> None:
    """The list stays, and so do the lock, which another process may hold, and all that runs did not write."""
    folder = filled(tmp_path / "run", "notes.txt", "report.html")
    elsewhere = filled(tmp_path / "elsewhere", "kept.txt")
    check(folder, EXPERIMENT, resume=False, overwrite=False)
    claim(folder)
    assert set(json.loads((folder / LIST).read_text())["written"]) == {*CONTENTS, "run.lock"}
    filled(folder, "metrics.jsonl", "pictures", "checkpoints", "run.lock")
    (folder / "profile").symlink_to(elsewhere)
    (folder / "wandb").symlink_to(tmp_path / "nowhere")
    settings.save(folder / "settings.json", EXPERIMENT)
    check(folder, EXPERIMENT, resume=False, overwrite=True)
    clear(folder)
    assert {path.name for path in folder.iterdir()} == {"notes.txt", "report.html", "run.lock", LIST}
    assert (elsewhere / "kept.txt").exists()


def test_what_is_not_on_the_list_is_not_ours(tmp_path: Path) -> None:
    """The list names nothing but what a run may write, whatever stands in it."""
    folder = filled(tmp_path / "run", "pictures", "result.json")
    (folder / LIST).write_text(json.dumps({"written": ["result.json", "../elsewhere", "notes.txt", 3]}))
    filled(folder, "notes.txt")
    elsewhere = filled(tmp_path / "elsewhere", "kept.txt")
    with pytest.raises(ValueError, match="holds pictures, which"):
        clear(folder)
    (folder / "pictures" / "mine.png").unlink()
    (folder / "pictures").rmdir()
    clear(folder)
    assert {path.name for path in folder.iterdir()} == {"notes.txt", LIST}
    assert (elsewhere / "kept.txt").exists()


def test_a_run_without_a_list(tmp_path: Path) -> None:
    """Settings of an experiment, of any layout, show that a folder is a run's; a damaged list does not hide it."""
    folder = filled(tmp_path / "run", "pictures", "checkpoints", "result.json")
    settings.save(folder / "settings.json", EXPERIMENT)
    check_ours(folder)
    (folder / LIST).write_text("{")
    check_ours(folder)
    clear(folder)
    assert [path.name for path in folder.iterdir()] == [LIST]


def test_a_list_that_others_wrote(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"holds {LIST}, which"):
        check_ours(filled(tmp_path, LIST))


def test_a_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file, but the folder of a run is wanted"):
        check(tmp_path / "file", EXPERIMENT, resume=False, overwrite=False)


@pytest.mark.parametrize(("name", "says"), [("metrics.jsonl", "is a folder, but a file"), ("checkpoints", "is a file")])
def test_files_and_folders_that_changed_places(name: str, says: str, tmp_path: Path) -> None:
    """They are named before anything is written; --overwrite deletes them as what they are."""
    settings.save(tmp_path / "settings.json", EXPERIMENT)
    if name == "checkpoints":
        (tmp_path / name).write_text("")
    else:
        (tmp_path / name).mkdir()
    for resume in (False, True):
        with pytest.raises(ValueError, match=f"{name} {says}"):
            check(tmp_path, EXPERIMENT, resume=resume, overwrite=False)
    check(tmp_path, EXPERIMENT, resume=False, overwrite=True)
    clear(tmp_path)
    assert not list(tmp_path.iterdir())
