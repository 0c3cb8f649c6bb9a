"""Several processes as one: what has to be given, what the environment says, and a coordinator that is not there."""

import socket
import subprocess
import sys
import time
from typing import Any

import jax
import pytest

from hvae_jax.runtime.cluster import Cluster, detected, is_first

pytestmark = pytest.mark.leg

HERE = {"coordinator": "127.0.0.1:1234", "processes": 2, "process": 1}


@pytest.fixture(autouse=True)
def not_joined() -> Any:
    """No test leaves this process joined to others."""
    yield
    assert not jax.distributed.is_initialized()


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


SRUN = {
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_JOB_ID": "7",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "node[1-2]",
}


def test_one_process_needs_nothing() -> None:
    """Nothing given, nothing said by the environment: nothing is started."""
    assert not Cluster().start({})
    assert not Cluster().start({"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "TPU_WORKER_HOSTNAMES": "localhost"})
    assert is_first()


@pytest.mark.parametrize("missing", ["coordinator", "processes", "process"])
def test_all_three_or_none(missing: str) -> None:
    """What is missing is named; another one's 0 is not nothing."""
    with pytest.raises(ValueError, match=rf"cluster\.{missing} is missing"):
        Cluster(**{**HERE, "process": 0, missing: None}).start({})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"coordinator": "127.0.0.1"}, r"cluster\.coordinator is '127\.0\.0\.1', but HOST:PORT"),
        ({"coordinator": ":1234"}, "HOST:PORT"),
        ({"coordinator": "here:port"}, "HOST:PORT"),
        ({"process": 2}, r"cluster\.process is 2, but with cluster\.processes 2 it has to be 0 to 1"),
        ({"process": -1}, r"cluster\.process is -1"),
        ({"processes": 0, "process": 0}, r"cluster\.processes is 0"),
        ({"start_timeout": 0}, r"cluster\.start_timeout"),
        ({"lost_timeout": 0}, r"cluster\.lost_timeout"),
    ],
)
def test_fields_that_cannot_be(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Cluster(**HERE | change).start({})


@pytest.mark.parametrize(
    ("environment", "what"),
    [
        ({}, None),
        (SRUN, "Slurm"),
        ({name: value for name, value in SRUN.items() if name != "SLURM_STEP_NODELIST"}, None),  # python under sbatch
        ({"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"}, None),  # a shell in an allocation, without srun
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        ({"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2", "TPU_WORKER_ID": "1"}, "Cloud TPU"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),  # Colab, or a machine with one host
        ({"MEGASCALE_COORDINATOR_ADDRESS": "10.0.0.1:8080"}, "Cloud TPU"),  # several slices
        ({"JAX_COORDINATOR_ADDRESS": "10.0.0.1:8080"}, None),  # JAX wants the number of processes said all the same
    ],
)
def test_what_the_environment_says(environment: dict[str, str], what: str | None) -> None:
    assert detected(environment) == what


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `jax.distributed.initialize` was called with, in its place."""
    calls: list[dict[str, Any]] = []

    def initialize(
        coordinator_address: str | None = None,
        num_processes: int | None = None,
        process_id: int | None = None,
        initialization_timeout: int = 300,
        heartbeat_timeout_seconds: int = 100,
    ) -> None:
        given = (coordinator_address, num_processes, process_id)
        calls.append({"given": given, "timeouts": (initialization_timeout, heartbeat_timeout_seconds)})

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    return calls


def test_jax_reads_the_environment(asked: list[dict[str, Any]]) -> None:
    """Nothing but the timeouts is said to it, its own behind ours."""
    assert Cluster(start_timeout=7, lost_timeout=9).start(SRUN)
    assert Cluster(start_timeout=7, lost_timeout=9, auto=True).start({})
    assert asked == [{"given": (None, None, None), "timeouts": (37, 9)}] * 2


def test_flags_go_before_the_environment(asked: list[dict[str, Any]]) -> None:
    """Process 1 waits until the coordinator listens, and then joins."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        flags = {"coordinator": address, "processes": 3, "process": 1}
        assert Cluster(**flags).start(SRUN)
    assert asked == [{"given": (address, 3, 1), "timeouts": (330, 100)}]


def test_a_coordinator_that_does_not_answer(asked: list[dict[str, Any]]) -> None:
    """Within the timeout: its address and what to check. JAX itself would end the process without a word."""
    address, start = f"127.0.0.1:{free_port()}", time.monotonic()
    with pytest.raises(ConnectionError, match=f"{address} did not answer within 1 s .* process 0 runs .* firewall"):
        Cluster(address, 2, 1, start_timeout=1).start({})
    assert 0.9 < time.monotonic() - start < 10
    assert not asked


def test_processes_that_do_not_come_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """What JAX raises then is said with the address."""

    def initialize(**_: Any) -> None:
        raise RuntimeError("DEADLINE_EXCEEDED: Barrier timed out.\nMore of it.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    wanted = r"within 5 s at 127\.0\.0\.1:1234\..* all of them \(2\) run.*\(DEADLINE_EXCEEDED: Barrier timed out\.\)"
    with pytest.raises(ConnectionError, match=wanted):
        Cluster("127.0.0.1:1234", 2, 0, start_timeout=5).start({})


def test_a_process_that_does_not_come() -> None:
    """Process 0 waits inside JAX, which cannot be interrupted: it says so in time, and ends."""
    address = f"127.0.0.1:{free_port()}"
    program = f"from hvae_jax.runtime.cluster import Cluster; Cluster({address!r}, 2, 0, start_timeout=1).start({{}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"did not come together within 1 s at {address}. Check that all of them (2) run" in done.stderr


def test_a_peer_that_is_lost_is_an_error_of_a_collective_too() -> None:
    """Said in one line, and the process ends at once: an orderly end would wait for the other. Alone it is a bug."""
    program = """
import jax
from hvae_jax.experiment import exits as ending

several = SEVERAL
jax.distributed.is_initialized = lambda: several
jax.process_count = lambda: 1 + several
with ending.errors_said():
    raise jax.errors.JaxRuntimeError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer\\nand more")
"""
    lost, bug = (
        subprocess.run(
            [sys.executable, "-c", program.replace("SEVERAL", str(several))],
            capture_output=True,
            text=True,
            timeout=200,
        )
        for several in (True, False)
    )
    assert lost.returncode == 134
    assert lost.stderr.strip().splitlines() == [
        (
            "error: another process of the run was lost, or the way to it (UNKNOWN: Gloo all-reduce failed: Connection "
            "closed by peer). Start all of them again: they go on from the last checkpoint."
        )
    ]
    assert bug.returncode == 1 and "Traceback" in bug.stderr
