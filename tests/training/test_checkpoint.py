"""Checkpoints: everything comes back bit for bit, on any devices, and what does not fit is refused."""

import json
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from support.checkpoints import PLACE, WANTED, assert_is, best_at, record, restore, save, state_at, with_metadata

from hvae_jax.training import data_mesh, mesh
from hvae_jax.training.checkpoint import Checkpoints
from hvae_jax.training.description import FORMAT
from hvae_jax.training.mesh import state_sharding

pytestmark = pytest.mark.leg


# ---- there and back


@pytest.mark.parametrize(("devices", "fsdp"), [(1, False), (2, False), (8, False), (2, True), (8, True)])
def test_a_checkpoint_comes_back_on_any_devices(
    devices: int, fsdp: bool, two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, laid out as `state_sharding` says."""
    monkeypatch.setattr(mesh, "SMALLEST", 16)
    restored = restore(two, devices, fsdp)
    assert_is(restored, 7)
    over = data_mesh(devices)
    wanted = state_sharding({"state": restored[0], "best": restored[1]}, over, fsdp)
    for leaf, sharding in zip(
        jax.tree.leaves(restored[:2]), jax.tree.leaves((wanted["state"], wanted["best"])), strict=True
    ):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    kernel = restored[0].params["dense"]["kernel"]
    assert kernel.addressable_shards[0].data.size == (kernel.size // devices if fsdp else kernel.size)


def test_what_was_split_comes_back_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved from eight devices with FSDP, restored on one."""
    monkeypatch.setattr(mesh, "SMALLEST", 16)
    state, best = (jax.device_put(t, state_sharding(t, data_mesh(8), True)) for t in (state_at(3), best_at(3)))
    assert not state.params["dense"]["kernel"].is_fully_replicated
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, state, best, record(3), PLACE)
    checkpoints.close()
    assert_is(restore(tmp_path), 3)


def test_a_step_that_is_there_stays(copied: Path) -> None:
    """A resumed run that comes to the same step does not write it anew."""
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*") if path.is_file()}
    checkpoints = Checkpoints(copied)
    checkpoints.save(7, state_at(8), best_at(8), record(8), PLACE)
    checkpoints.close()
    assert before == {path: path.stat().st_mtime_ns for path in copied.rglob("*") if path.is_file()}


@pytest.mark.parametrize("keep", [1, 3])
def test_the_latest_stay(keep: int, tmp_path: Path) -> None:
    """So many of them."""
    checkpoints = Checkpoints(tmp_path, keep)
    save(checkpoints, 1, 2, 3, 4)
    checkpoints.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "3", "4"][-keep:]


def test_the_place_in_the_data_lies_beside_the_arrays(two: Path) -> None:
    """As JSON that anyone can read."""
    saved = json.loads((two / "7" / "_CHECKPOINT_METADATA").read_text())["custom_metadata"]
    record = json.loads(saved["record"])
    assert record["format"] == FORMAT
    assert record["place"] == PLACE


# ---- what does not fit


@pytest.mark.parametrize(("written", "says"), [(99, "newer .*Upgrade hvae_jax"), (2, "older .*Install the version")])
def test_another_version_of_the_format(written: int, says: str, copied: Path) -> None:
    """Refused, however little of the rest is understood; the one before is not taken instead, and none is given up."""

    def change(saved: dict[str, Any]) -> None:
        saved["record"] = json.dumps({"format": written} if written > FORMAT else {"progress": {}})
        saved["record_checksum"] = zlib.crc32(saved["record"].encode())

    with_metadata(copied, change)
    with pytest.raises(ValueError, match=f"/7 was written in format {written}, {says}.*--folder") as refused:
        restore(copied)
    assert "--overwrite" not in str(refused.value)


def test_other_data_is_refused(two: Path) -> None:
    """With both hashes; None goes on with any."""
    checkpoints = Checkpoints(two, read_only=True)
    with pytest.raises(
        ValueError, match=r"/7 was made on other data: its hash was 0123456789abcdef and is ffff now.*--resume"
    ):
        checkpoints.restore(*WANTED, data_mesh(1), data_hash="ffff")
    assert_is(checkpoints.restore(*WANTED, data_mesh(1), data_hash=None), 7)
    checkpoints.close()


def other(change: str) -> tuple[Any, Any]:
    """The shapes of another model."""
    state, best = WANTED
    params = dict(state.params)
    if change == "shape":
        params["dense"] = params["dense"] | {"bias": jax.ShapeDtypeStruct((25,), np.float32)}
    elif change == "dtype":
        params["half"] = jax.ShapeDtypeStruct((3, 5), np.float32)
    elif change == "more":
        params["more"] = jax.ShapeDtypeStruct((), np.float32)
    else:
        del params["half"]
    return state.replace(params=params), best


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("shape", r"state/params/dense/bias has shape \(24,\) there and \(25,\) here"),
        ("dtype", "state/params/half has dtype bfloat16 there and float32 here"),
        ("more", r"it has no state/params/more \(wanted with shape \(\)\)"),
        ("less", "it has state/params/half, which this one does not"),
    ],
)
def test_another_model_names_the_first_leaf(change: str, says: str, two: Path) -> None:
    checkpoints = Checkpoints(two, read_only=True)
    with pytest.raises(ValueError, match=f"/7 holds another model: {says}"):
        checkpoints.restore(*other(change), data_mesh(1))
    checkpoints.close()


def test_another_optimiser_is_not_called_another_model(two: Path) -> None:
    state, best = WANTED
    checkpoints = Checkpoints(two, read_only=True)
    with pytest.raises(ValueError, match="/7 holds this model's variables, but the state of another optimiser"):
        checkpoints.restore(state.replace(opt_state=()), best, data_mesh(1))
    checkpoints.close()
