"""Compilation, memory and traces; and which folders are lost with the machine."""

import gzip
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from hvae_jax.experiment.folder import outlives_machine
from hvae_jax.runtime import meters
from hvae_jax.runtime.meters import Compiled, Profiler, compiled

pytestmark = pytest.mark.leg


@pytest.fixture
def empty_cache(tmp_path: Path) -> Iterator[None]:
    """A cache of compiled programs of this test alone: that of the suite may hold its programs from a run before."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    old = [jax.config.values[name] for name in names]
    compilation_cache.reset_cache()
    for name, value in zip(names, (str(tmp_path), 0.0), strict=True):
        jax.config.update(name, value)
    yield
    for name, value in zip(names, old, strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.mark.usefixtures("empty_cache")
def test_compilation_is_counted() -> None:
    x = jnp.ones(7)
    before = compiled()
    jax.jit(lambda x: jnp.sin(x) + 3.0)(x)
    first = compiled() - before
    assert first.programs == 1 and first.cache_hits == 0 and 0.0 < first.seconds < 60.0
    assert compiled() - before == first
    threads = [threading.Thread(target=meters._COUNT._add, args=(Compiled(1.0, 1, 1),)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert compiled() - before == Compiled(first.seconds + 20.0, 21, 20)


@pytest.mark.slow
@pytest.mark.usefixtures("empty_cache")
def test_a_program_from_the_cache_is_a_hit() -> None:
    spent = []
    for _ in range(2):
        before = compiled()
        jax.jit(lambda x: jnp.cos(x) * 5.0)(np.ones(9, np.float32))
        spent.append(compiled() - before)
        jax.clear_caches()
    assert spent[0].cache_hits == 0 and spent[1].cache_hits == spent[1].programs >= 1


def test_memory_of_a_cpu() -> None:
    """Arrays are in the process: its peak grows with them; devices share the host's memory.

    In a process of its own, since this one's peak may lie above what it holds now.
    """
    assert meters.peak_memory()["peak_device_bytes"] is None
    if sys.platform == "linux":
        program = """
import numpy as np
from hvae_jax.runtime import meters

before = meters.peak_memory()["peak_process_bytes"]
held = np.ones(2**25)  # 256 MiB, touched
after = meters.peak_memory()["peak_process_bytes"]
assert 0 < before < before + 0.9 * held.nbytes < after < meters.host_memory(), (before, after)
"""
        subprocess.run([sys.executable, "-c", program], check=True, timeout=200)
    assert 2**28 < meters.host_memory() < 2**50
    assert meters.total_device_memory() == meters.host_memory() // jax.local_device_count()


@pytest.mark.parametrize("path", ["memory.max", "memory/memory.limit_in_bytes"])
def test_memory_of_a_container(path: str, tmp_path: Path) -> None:
    limit = tmp_path / "sys/fs/cgroup" / path
    limit.parent.mkdir(parents=True)
    limit.write_text("1048576\n")
    assert meters.host_memory(tmp_path) == 2**20
    limit.write_text("max\n")
    assert meters.host_memory(tmp_path) == meters.host_memory(tmp_path / "none") > 2**20


def test_memory_of_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    class Device:
        def __init__(self, limit: int, peak: int) -> None:
            self.stats = {"bytes_limit": limit, "peak_bytes_in_use": peak}

        def memory_stats(self) -> dict[str, int]:
            return self.stats

    monkeypatch.setattr(jax, "local_devices", lambda: [Device(16, 3), Device(12, 5)])
    assert meters.peak_memory()["peak_device_bytes"] == 5
    assert meters.total_device_memory() == 12


def test_a_trace_has_the_dispatches_it_should(tmp_path: Path) -> None:
    profiler, x = Profiler(tmp_path / "profile", first=1, count=2), jnp.ones((50, 50))
    double = jax.jit(lambda x: x @ x + 2.0)
    seen = []
    for _ in range(5):
        with profiler.dispatch():
            double(x).block_until_ready()
        seen.append(profiler.traced)
    profiler.close()
    assert seen == [0, 1, 2, 2, 2]
    (trace,) = (tmp_path / "profile").glob("plugins/profile/*/*.trace.json.gz")
    found = [event for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"] if "name" in event]
    steps = [event["args"]["step_num"] for event in found if event["name"] == "dispatch"]
    assert sorted(int(step) for step in steps) == [1, 2]
    assert trace.stat().st_size < 2**20
    assert next(trace.parent.glob("*.xplane.pb")).stat().st_size


def test_a_run_that_ends_within_its_trace(tmp_path: Path) -> None:
    profiler = Profiler(tmp_path, first=0, count=3)
    with profiler.dispatch():
        pass
    profiler.close()
    profiler.close()
    assert profiler.traced == 1 and list(tmp_path.glob("plugins/profile/*/*.xplane.pb"))
    short = Profiler(tmp_path / "short")
    with short.dispatch():
        pass
    short.close()
    assert short.traced == 0 and not (tmp_path / "short").exists()
    with pytest.raises(ValueError, match="count 0"):
        Profiler(tmp_path, count=0)


# ---- which folders are lost

COLAB = {"COLAB_RELEASE_TAG": "release-colab_20260819"}
COLAB_MOUNTS = """overlay / overlay rw,relatime 0 0
tmpfs /dev tmpfs rw,nosuid 0 0
shm /dev/shm tmpfs rw,nosuid,nodev 0 0
"""
DRIVE = "drive /content/drive fuse rw,nosuid,nodev,relatime,user_id=0,group_id=0,default_permissions 0 0\n"
DISK = "/dev/vda1 / ext4 rw 0 0\ntmpfs /run tmpfs rw 0 0\n"


@pytest.mark.parametrize(
    ("folder", "environment", "mounts", "part"),
    [
        ("/content/runs/a", COLAB, COLAB_MOUNTS, "Colab's own disk"),
        ("/content/drive/MyDrive/a", COLAB, COLAB_MOUNTS + DRIVE, None),
        ("/content/drive/MyDrive/a", COLAB, COLAB_MOUNTS, "Colab's own disk"),  # named, but not mounted
        ("/content/driveway/a", COLAB, COLAB_MOUNTS + DRIVE, "Colab's own disk"),
        ("/dev/shm/a", COLAB, COLAB_MOUNTS, "in memory"),
        ("/content/a", {"COLAB_GPU": "1"}, COLAB_MOUNTS, "Colab's own disk"),
        ("/content/a", {}, COLAB_MOUNTS, None),
        ("/kaggle/working/a", {"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}, DISK, "persistence"),
        ("/kaggle/working/a", {"KAGGLE_KERNEL_RUN_TYPE": "Batch"}, DISK, None),
        ("/kaggle/temp/a", {"KAGGLE_KERNEL_RUN_TYPE": "Batch"}, DISK, "/kaggle/working"),
        ("/home/me/runs/a", {}, DISK, None),
        ("/tmp/a", {}, DISK, None),
        ("/tmp/a", {}, DISK + "tmpfs /tmp tmpfs rw 0 0\n", "in memory"),
        ("/tmp/a", {}, DISK + "tmpfs /tmp tmpfs rw 0 0\n/dev/vdb /tmp ext4 rw 0 0\n", None),  # one over another
        ("/mnt/my disk/a", {}, DISK + "none /mnt/my\\040disk ramfs rw 0 0\n", "in memory"),
        ("/anything", {}, "", None),  # no /proc/mounts
    ],
)
def test_folders_that_are_lost_with_the_machine(
    folder: str, environment: dict[str, str], mounts: str, part: str | None
) -> None:
    warning = outlives_machine(Path(folder), environment, mounts)
    assert warning is None if part is None else part in warning and folder in warning


def test_this_machine(tmp_path: Path) -> None:
    """Whatever it is, it is asked."""
    assert isinstance(outlives_machine(tmp_path), str | None)
    if Path("/dev/shm").is_dir() and "/dev/shm tmpfs" in Path("/proc/mounts").read_text():
        assert "in memory" in outlives_machine(Path("/dev/shm/run"))
