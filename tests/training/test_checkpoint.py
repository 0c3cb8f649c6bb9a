"""Checkpoints: everything comes back bit for bit, on any devices, and nothing that was damaged passes for whole."""

import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from hvae_jax.training import TrainState, data_mesh, mesh
from hvae_jax.training import checkpoint as module
from hvae_jax.training.checkpoint import Checkpoints, NotSavedError, Progress, checksum
from hvae_jax.training.mesh import state_sharding

pytestmark = pytest.mark.leg

PLACE = {"epoch": 2, "batch": 5, "batch_size": 8, "examples": 50, "hash": "0123456789abcdef"}


def state_at(step: int) -> TrainState:
    """A state with all that a state may have, every number drawn anew; made without compiling anything."""
    rng = np.random.default_rng(step)
    params = {
        "dense": {
            "kernel": rng.normal(size=(16, 24)).astype(np.float32),
            "bias": rng.normal(size=24).astype(np.float32),
        },
        "half": rng.normal(size=(3, 5)).astype(ml_dtypes.bfloat16),
    }
    moments = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), params)
    state = TrainState(
        step=np.int32(step),
        params=params,
        statistics={"batch_stats": {"mean": rng.normal(size=7).astype(np.float32)}},
        opt_state=(
            optax.ScaleByAdamState(np.int32(step), moments, jax.tree.map(np.square, moments)),
            optax.EmptyState(),
        ),
        objective_state={
            "calls": np.int32(3),
            "seen": np.array([True, False]),
            "bytes": np.arange(5, dtype=np.uint8),
        },
        ema=jax.tree.map(lambda leaf: leaf + leaf.dtype.type(1), params),
        skipped=np.int32(2),
        streak=np.int32(1),
        usual_norm=np.float32([0.3, -1.0, 31.0]),
    )
    return jax.tree.map(jnp.asarray, state)


def best_at(step: int) -> dict[str, Any]:
    """Variables of another step."""
    return state_at(step + 1000).variables


def abstract(tree: Any) -> Any:
    """Shapes and dtypes."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


WANTED = abstract((state_at(0), best_at(0)))


def record(step: int) -> Progress:
    """A progress with every field its own."""
    return Progress(-50.25, step - 1, 3, 12.5, 99.0, False)


def save(checkpoints: Checkpoints, *steps: int) -> None:
    """One checkpoint a step."""
    for step in steps:
        checkpoints.save(step, state_at(step), best_at(step), record(step), PLACE)
    checkpoints.wait()


def restore(folder: Path, devices: int = 1, fsdp: bool = False, **options: Any) -> Any:
    """What is restored from a folder."""
    checkpoints = Checkpoints(folder, **options)
    try:
        return checkpoints.restore(*WANTED, data_mesh(devices), fsdp, PLACE["hash"])
    finally:
        checkpoints.close()


def assert_is(restored: Any, step: int) -> None:
    """Bit for bit the checkpoint of a step, dtypes and all."""
    state, best, progress = restored
    chex.assert_trees_all_equal(jax.device_get(state), jax.device_get(state_at(step)), strict=True)
    chex.assert_trees_all_equal(jax.device_get(best), jax.device_get(best_at(step)), strict=True)
    assert isinstance(state, TrainState) and isinstance(state.opt_state[0], optax.ScaleByAdamState)
    assert progress == record(step)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three saves of which two are kept: 4 and 7. Tests read it, and harm copies."""
    folder = tmp_path_factory.mktemp("checkpoints") / "run"
    checkpoints = Checkpoints(folder)
    assert checkpoints.restore(*WANTED, data_mesh(1)) is None
    save(checkpoints, 2, 4, 7)
    assert checkpoints.steps() == [4, 7]
    checkpoints.close()
    return folder


@pytest.fixture
def copied(two: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(two, tmp_path / "copy"))


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
    assert saved["format"] == module.FORMAT
    assert json.loads(saved["record"])["place"] == PLACE


# ---- what does not fit


def with_metadata(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes what the newest checkpoint says of itself."""
    path = folder / "7" / "_CHECKPOINT_METADATA"
    everything = json.loads(path.read_text())
    change(everything["custom_metadata"])
    path.write_text(json.dumps(everything))


@pytest.mark.parametrize(("written", "says"), [(99, "newer .*Upgrade hvae_jax"), (1, "older .*Install the version")])
def test_another_version_of_the_format(written: int, says: str, copied: Path) -> None:
    """Refused, however little of the rest is understood; the one before is not taken instead."""

    def change(saved: dict[str, Any]) -> None:
        saved.clear()
        saved["format"] = written

    with_metadata(copied, change)
    with pytest.raises(ValueError, match=f"/7 was written in format {written}, {says}"):
        restore(copied)


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


# ---- what was damaged


def files(folder: Path) -> list[Path]:
    """Those of one checkpoint, largest first."""
    return sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: -path.stat().st_size)


@pytest.mark.parametrize("harm", ["flip", "truncate", "empty", "delete", "structure", "arrays", "record"])
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


def test_metadata_that_orbax_cannot_list(copied: Path) -> None:
    """A checkpoint that keeps Orbax from opening the folder is moved aside; a reader says so and touches nothing."""
    path = copied / "7" / "_CHECKPOINT_METADATA"
    path.write_text(path.read_text().replace("performance_metrics", "performance_ietrics"))
    with pytest.raises(ValueError, match=r"Checkpoint 7 \(.*\) in .* is damaged. The run, started again, goes on"):
        restore(copied, read_only=True)
    assert (copied / "7").exists()
    with pytest.warns(UserWarning, match="Checkpoint 7 .* is damaged and moved aside"):
        assert_is(restore(copied), 4)
    assert sorted(path.name for path in copied.iterdir()) == ["4", "unreadable_7"]


def test_any_flipped_bit_in_a_file_is_harmless_or_noticed(copied: Path) -> None:
    """Wherever it lies: what comes back is the newest checkpoint as it was saved or, with a warning, the one before."""
    rng, fallen = np.random.default_rng(0), 0
    for path in files(copied / "7"):
        good = path.read_bytes()
        if not good or path.name == "_CHECKPOINT_METADATA":
            continue
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


def test_nothing_readable_is_left(copied: Path) -> None:
    """Then a person decides; nothing is deleted."""
    for step in ("4", "7"):
        for path in files(copied / step / "state"):
            path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"No checkpoint in .* can be read: 7 \(.*; 4 \(.*Start over with --overwrite"):
        restore(copied)
    assert sorted(path.name for path in copied.iterdir()) == ["4", "7"]


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


# ---- what cannot be written


def test_a_save_that_fails_is_heard(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the step of the last whole one, at once or at the next save."""
    checkpoints = Checkpoints(copied)

    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("No space left on device")

    for method in ("save_checkpointables_async", "wait"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints._checkpointer, method, full)
            with pytest.raises(NotSavedError, match=r"No space left on device.*The last one, of step 7, is whole"):
                checkpoints.save(8, state_at(8), best_at(8), record(8))
    checkpoints.close()
    assert_is(restore(copied), 7)


def test_a_disk_that_has_become_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before anything is written."""
    checkpoints = Checkpoints(tmp_path)

    class Full:
        free = 1000

    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: Full)
    with pytest.raises(OSError, match=r"takes 0\.0 MiB\. 0\.0 MiB are free there\. There is none yet\. Make room"):
        save(checkpoints, 1)
    checkpoints.close()
    assert not list(tmp_path.iterdir())


def test_a_limit_that_the_system_sets(copied: Path) -> None:
    """A real write that fails in Orbax's own threads: one clear error, and the last whole checkpoint is as it was."""
    program = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
import jax.numpy as jnp
from hvae_jax.training.checkpoint import Checkpoints, NotSavedError, Progress
checkpoints = Checkpoints(Path({str(copied)!r}))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
import numpy as np
noise = jnp.asarray(np.random.default_rng(0).normal(size=50_000))
try:
    checkpoints.save(9, {{"w": noise}}, {{"w": noise}}, Progress())
    checkpoints.wait()
except NotSavedError as error:
    print("said:", error, flush=True)
import os
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert "said: A checkpoint could not be written" in done.stdout, done.stderr
    assert "The last one, of step 7, is whole" in done.stdout
    assert_is(restore(copied), 7)


# ---- the checksum

DTYPES = [
    np.float32,
    np.int32,
    ml_dtypes.bfloat16,
    np.float16,
    np.uint8,
    np.int8,
    np.uint16,
    bool,
    np.float64,
    np.int64,
]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_any_flipped_bit_changes_the_checksum(dtype: Any) -> None:
    """Every bit of a small array of every dtype; and leaves do not stand in for each other."""
    rng = np.random.default_rng(0)
    array = rng.integers(0, 2, 6).astype(bool) if dtype is bool else rng.normal(size=6).astype(np.float64).astype(dtype)
    tree = {"a": np.zeros(3, np.float32), "b": array.reshape(2, 3), "c": np.float32(2.7)}
    whole = checksum(tree)
    assert checksum(jax.tree.map(np.copy, tree)) == whole
    for byte in range(array.nbytes):
        for bit in range(1 if dtype is bool else 8):
            harmed = array.copy()
            harmed.view(np.uint8)[byte] ^= 1 << bit
            assert checksum(tree | {"b": harmed.reshape(2, 3)}) != whole
    assert checksum({"a": tree["c"], "b": tree["b"], "c": tree["a"]}) != whole


def test_large_arrays_are_summed_in_blocks() -> None:
    """Blocks of a million words: as one sum over all of it, and a bit beyond the first block counts."""
    words = np.random.default_rng(0).integers(0, 2**32, 2**20 + 1234, dtype=np.uint64)
    expected = sum(int(w) * (2 * i + 1) for i, w in enumerate(words[:1000].tolist()))
    assert module._sum_of_words(words[:1000].astype(np.uint32)) == expected % 2**32
    weights = 2 * np.arange(len(words), dtype=np.uint64) + 1
    total = int((words * weights % 2**32).sum() % 2**32)
    array = words.astype(np.uint32).view(np.float32)
    assert module._sum_of_words(array) == total
    array.view(np.uint32)[2**20 + 7] ^= 1
    assert module._sum_of_words(array) != total


@pytest.mark.parametrize(
    "dtype", [d for d in DTYPES if np.dtype(d).itemsize < 8], ids=lambda dtype: np.dtype(dtype).name
)
def test_devices_sum_as_the_host_does(dtype: Any) -> None:
    """Where an array is split over processes, devices compute the checksum of it: here, split over eight."""
    array = (np.random.default_rng(0).normal(size=(16, 5)) * 50).astype(np.int32).astype(dtype)
    split = jax.device_put(array, mesh.rows_sharding(16, data_mesh(8)))
    assert int(module._sum_on_devices(split)) == module._sum_of_words(array)
    assert module._sum_of_words(array) != 0
