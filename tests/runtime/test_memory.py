"""Memory: what is free, sizes that fit, and the line that says what to lower."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hvae_jax.experiment.exits import errors_said
from hvae_jax.runtime import memory, meters

pytestmark = pytest.mark.leg


def test_free_memory_of_this_machine() -> None:
    assert 0 < memory.free_host_memory() <= meters.host_memory()
    assert memory.free_device_memory() <= meters.total_device_memory()


@pytest.mark.parametrize(
    ("group", "limit", "used", "cache"),
    [
        ("", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ],
)
def test_free_memory_of_a_container(group: str, limit: str, used: str, cache: str, tmp_path: Path) -> None:
    """What it has left of its limit, files that it only keeps at hand included; or of the machine, if that is less."""
    files = {"proc/meminfo": "MemTotal:  4000 kB\nMemAvailable:   3000 kB\n"}
    files |= {f"sys/fs/cgroup/{group}/{name}": text for name, text in ((limit, "2048000\n"), (used, "1024000\n"))}
    files[f"sys/fs/cgroup/{group}/memory.stat"] = f"anon 1\n{cache} 24000\n"
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory.free_host_memory(tmp_path) == 1024000 + 24000
    (tmp_path / "sys/fs/cgroup" / group / limit).write_text("max\n")
    assert memory.free_host_memory(tmp_path) == 3000 * 1024


def test_free_memory_of_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    class Device:
        def __init__(self, limit: int, used: int) -> None:
            self.stats = {"bytes_limit": limit, "bytes_in_use": used}

        def memory_stats(self) -> dict[str, int]:
            return self.stats

    monkeypatch.setattr(jax, "local_devices", lambda: [Device(16, 3), Device(16, 5)])
    assert memory.free_device_memory() == 11


@pytest.mark.parametrize(
    ("largest", "unit", "budget", "fits", "compiled"),
    [
        (450, 1, 460, 450, [450]),
        (450, 1, 459, 225, [450, 225]),
        (450, 1, 60, 29, [450, 57, 29]),  # 57 would fit if it had no constant part
        (448, 8, 60, 32, [448, 56, 32]),
        (448, 8, 5, 8, [448]),  # nothing fits: as little as possible
        (1, 1, 0, 1, []),
    ],
)
def test_sizes_that_fit(largest: int, unit: int, budget: int, fits: int, compiled: list[int]) -> None:
    asked = []

    def needs(size: int) -> int:
        asked.append(size)
        return size + 10

    assert memory.fitting(largest, unit, needs, budget) == fits
    assert asked == compiled


def test_a_program_knows_its_memory() -> None:
    program = jax.jit(lambda x: jnp.sort(x[:, None] * x[None], axis=0).sum(1))
    assert memory.program_memory(program.lower(jnp.ones(300)).compile()) >= 300 * 300 * 4


def of_xla() -> None:
    jnp.zeros(2**45).block_until_ready()


def of_numpy() -> None:
    np.ones((2**22, 2**22))


@pytest.mark.parametrize("allocate", [of_xla, of_numpy])
def test_exhausted_memory_is_one_line(allocate: object, capsys: pytest.CaptureFixture[str]) -> None:
    """With the innermost remedy, or with the flags that usually help."""
    assert callable(allocate)
    inner = memory.memory_for("validation", "Lower --validation-size.")
    outer = memory.memory_for("measuring", "Lower --evaluation.size.")
    with pytest.raises(SystemExit, match="1"), errors_said(), outer, inner:
        allocate()
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.startswith("error: not enough memory for validation (") and first.endswith("Lower --validation-size.")
    assert len(rest) == 1 and "RESOURCE" not in first
    with pytest.raises(SystemExit), errors_said():
        allocate()
    assert "--batch-size" in capsys.readouterr().err


def test_other_errors_pass() -> None:
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), memory.memory_for("it", "Lower it."):
        raise jax.errors.JaxRuntimeError("INTERNAL: Gloo: connection closed by peer")
