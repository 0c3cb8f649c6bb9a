"""Damaged checkpoints: nothing that was damaged passes for whole, and the one before is taken."""

import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import assert_is, files, restore, save, with_metadata
from support.tiers import tiers

from hvae_jax.training.checkpoint import Checkpoints

pytestmark = pytest.mark.leg


@pytest.mark.parametrize(
    "harm", tiers(["flip", "delete", "truncate", "empty", "structure", "arrays", "record"], quick=2, slow=5)
)
def test_damage_falls_back_to_the_one_before(harm: str, copied: Path) -> None:
    """With a warning; what is damaged is moved aside, so that its step can be saved anew."""
    last = copied / "7"
    largest = next(path for path in files(last / "state") if path.parent.name == "d")
    content = bytearray(largest.read_bytes())
    if harm == "flip":
        content[len(content) // 2] ^= 4
        largest.write_bytes(content)
    elif harm == "truncate":
        largest.write_bytes(content[: len(content) // 2])
    elif harm == "empty":
        largest.write_bytes(b"")
    elif harm == "delete":
        largest.unlink()
    elif harm == "structure":  # which leaves there are: not another model
        path = last / "state" / "_METADATA"
        path.write_text(path.read_text().replace("half", "hald"))
    elif harm == "arrays":
        (last / "best" / "manifest.ocdbt").write_bytes(b"no manifest")
    else:
        with_metadata(copied, lambda saved: saved.update(record=saved["record"].replace("12.5", "13.5")))
    with pytest.warns(UserWarning, match=r"Checkpoint 7 \(.*\) in .* cannot be read: going on from 4"):
        assert_is(restore(copied), 4)
    assert sorted(path.name for path in copied.iterdir()) == ["4", "unreadable_7"]
    checkpoints = Checkpoints(copied)
    save(checkpoints, 7)
    checkpoints.close()
    assert_is(restore(copied), 7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('\\"format\\": 3', '\\"format\\": 7'),
        ("performance_metrics", "performance_ietrics"),  # Orbax cannot list the folder by it
        pytest.param("item_handlers", "item_haodlers", marks=pytest.mark.slow),
        pytest.param("custom_metadata", "custom_metadbta", marks=pytest.mark.slow),
        pytest.param('\\"format\\": 3', '\\"formau\\": 3', marks=pytest.mark.slow),
        pytest.param("record_checksum", "record_bhecksum", marks=pytest.mark.slow),
    ],
)
def test_one_bit_of_the_metadata(before: str, after: str, copied: Path) -> None:
    """Noticed, for the record is under its checksum: the one before is taken, by readers too, which touch nothing."""
    path = copied / "7" / "_CHECKPOINT_METADATA"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    with pytest.warns(UserWarning, match="Checkpoint 7 .* cannot be read: going on from 4"):
        assert_is(restore(copied, read_only=True), 4)
    assert (copied / "7").exists()
    with pytest.warns(UserWarning, match="Checkpoint 7 .* cannot be read: going on from 4"):
        assert_is(restore(copied), 4)
    assert sorted(path.name for path in copied.iterdir()) == ["4", "unreadable_7"]


@pytest.mark.slow
def test_any_flipped_bit_in_a_file_is_harmless_or_noticed(copied: Path) -> None:
    """Wherever it lies: what comes back is the newest checkpoint as it was saved or, with a warning, the one before."""
    rng, fallen = np.random.default_rng(0), 0
    for path in files(copied / "7"):
        good = path.read_bytes()
        for _ in range(0 if not good else 3 if path.name == "_CHECKPOINT_METADATA" else 1):
            bad = bytearray(good)
            bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
            path.write_bytes(bad)
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always", UserWarning)
                restored = restore(copied, read_only=True)
            fell = any("cannot be read" in str(warning.message) for warning in warned)
            assert_is(restored, 4 if fell else 7)
            fallen += fell
        path.write_bytes(good)
    assert fallen >= 4


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        ("truncated", r"7 \(Requested byte range \[\d+, \d+\) is not valid for value of size \d+\) in"),
        ("manifest", r"7 \(Error decoding manifest: Encoded length \(11\) is less than .*\) in"),
    ],
)
def test_the_cause_is_said_in_one_line(
    harm: str, says: str, copied: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The file's reader says it; Orbax's layers above, its logs, its tasks and TensorStore's threads say nothing."""
    if harm == "manifest":
        (copied / "7" / "best" / "manifest.ocdbt").write_bytes(b"no manifest")
    else:
        largest = next(path for path in files(copied / "7" / "state") if path.parent.name == "d")
        largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert_is(restore(copied), 4)
    (sentence,) = [str(warning.message) for warning in warned]
    assert re.search(says, sentence), sentence
    assert not caplog.records
    assert not any(capfd.readouterr())


@pytest.mark.slow
def test_nothing_readable_is_left(copied: Path) -> None:
    """Then a person decides; nothing is deleted."""
    for step in ("4", "7"):
        for path in files(copied / step / "state"):
            path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"No checkpoint in .* can be read: 7 \(.*; 4 \(.*Start over with --overwrite"):
        restore(copied)
    assert sorted(path.name for path in copied.iterdir()) == ["4", "7"]


@pytest.mark.slow
def test_reading_touches_nothing(copied: Path) -> None:
    """Neither an unreadable checkpoint nor a half-written one, which a running process may be about to finish."""
    half = copied / "9.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "part").write_text("")
    files(copied / "7" / "state")[0].write_bytes(b"")
    before = sorted(copied.rglob("*"))
    with pytest.warns(UserWarning, match="going on from 4"):
        assert_is(restore(copied, read_only=True), 4)
    assert sorted(copied.rglob("*")) == before


def test_a_half_written_save_is_swept_away(copied: Path) -> None:
    """When the run goes on: it is nobody's."""
    (copied / "9.orbax-checkpoint-tmp").mkdir()
    assert_is(restore(copied), 7)
    assert sorted(path.name for path in copied.iterdir()) == ["4", "7"]


@pytest.mark.slow
def test_a_half_deleted_checkpoint_is_swept_away(copied: Path) -> None:
    """One that is kept no longer, of which a killed process deleted half; readers leave it to the run."""
    half = shutil.copytree(copied / "4", copied / "2")
    (half / "_CHECKPOINT_METADATA").unlink()
    shutil.rmtree(half / "best")
    assert_is(restore(copied, read_only=True), 7)
    assert sorted(path.name for path in copied.iterdir()) == ["2", "4", "7"]
    assert_is(restore(copied), 7)
    assert sorted(path.name for path in copied.iterdir()) == ["4", "7"]
