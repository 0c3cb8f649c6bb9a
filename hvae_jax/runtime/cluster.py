"""Several processes as one run: `jax.distributed`, started from the environment or from the user's settings."""

import dataclasses
import inspect
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import jax

from hvae_jax.runtime.errors import first_line


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes of a run; a single process needs none of these settings.

    Slurm's srun needs none either, and a Cloud TPU pod only `auto`: JAX reads the environment. Elsewhere, start the
    same command once for each process, with `coordinator`, `processes` and `process`.

    Attributes:
      coordinator: HOST:PORT of process 0, which the others must be able to reach.
      processes: number of processes.
      process: number of this process, from 0.
      start_timeout: seconds within which all processes have to be connected.
      lost_timeout: seconds without a sign of life after which a process counts as lost. JAX then ends the others with
        an error that names it (exit code 134); started again, all go on from the last checkpoint.
      auto: whether JAX finds the other processes by itself, on any cluster that it knows.
    """

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    start_timeout: int = 300
    lost_timeout: int = 100
    auto: bool = False

    def start(self, environment: Mapping[str, str] = os.environ) -> bool:
        """Joins the other processes, if there are any; to be called before JAX is used for the first time.

        If the other processes do not connect in time, the process ends with a message that says what to check; JAX
        would end it without one.

        Returns: whether there are other processes.
        Raises ValueError for fields that do not go together, ConnectionError, with its address and what to check, if
        the coordinator does not answer in time.
        """
        given = {name: getattr(self, name) for name in ("coordinator", "processes", "process")}
        missing = [name for name, value in given.items() if value is None]
        if len(missing) == 3 and not self.auto and not detected(environment):
            return False
        options: dict[str, Any] = {"initialization_timeout": self.start_timeout + 30}  # ours comes first
        if len(missing) < 3:
            if missing:
                raise ValueError(
                    f"cluster.{missing[0]} is missing: a run of several processes that the environment does not "
                    "describe needs --cluster.coordinator HOST:PORT, --cluster.processes N and --cluster.process I."
                )
            self._check()
            options |= {
                "coordinator_address": self.coordinator,
                "num_processes": self.processes,
                "process_id": self.process,
            }
        if self.start_timeout < 1 or self.lost_timeout < 1:
            raise ValueError("cluster.start_timeout and cluster.lost_timeout are seconds, 1 or more.")
        if "heartbeat_timeout_seconds" in inspect.signature(jax.distributed.initialize).parameters:
            options["heartbeat_timeout_seconds"] = self.lost_timeout
        if self.coordinator and self.process:
            _wait_for(self.coordinator, self.start_timeout)
        where = self.coordinator or "the coordinator that the environment names"
        message = (
            f"The processes did not come together within {self.start_timeout} s at {where}. Check that all of them "
            f"{f'({self.processes}) ' if self.processes else ''}run, with the same --cluster.processes and a "
            "--cluster.process of their own, and that they can reach that address."
        )
        late = threading.Timer(self.start_timeout, _give_up, (message,))
        late.daemon = True
        late.start()
        try:
            jax.distributed.initialize(**options)
        except Exception as error:  # what JAX raises here differs between its versions
            raise ConnectionError(f"{message} ({first_line(error)})") from error
        finally:
            late.cancel()
        return True

    def _check(self) -> None:
        assert self.coordinator is not None
        assert self.processes is not None
        assert self.process is not None
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(f"cluster.coordinator is {self.coordinator!r}, but HOST:PORT is needed.")
        if self.processes < 1:
            raise ValueError(f"cluster.processes is {self.processes}, but it has to be 1 or more.")
        if not 0 <= self.process < self.processes:
            raise ValueError(
                f"cluster.process is {self.process}, but with cluster.processes {self.processes} it has to be "
                f"0 to {self.processes - 1}."
            )


def detected(environment: Mapping[str, str]) -> str | None:
    """The cluster that the environment describes by variables that JAX reads itself, or None for a single process."""
    step_of_slurm = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")  # srun sets them
    if int(environment.get("SLURM_NTASKS", 1)) > 1 and all(name in environment for name in step_of_slurm):
        return "Slurm"
    if "," in environment.get("TPU_WORKER_HOSTNAMES", "") or "MEGASCALE_COORDINATOR_ADDRESS" in environment:
        return "Cloud TPU"
    return None


def is_first() -> bool:
    """Whether this process is the first, which writes logs, pictures and results."""
    return jax.process_index() == 0


def _wait_for(address: str, timeout: int) -> None:
    """Waits until something listens at the address, since JAX ends the whole process if nothing does.

    Raises ConnectionError, with what to check, after `timeout` seconds.
    """
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + timeout
    while True:
        try:
            left = max(0.1, deadline - time.monotonic())
            socket.create_connection((host, int(port)), timeout=min(5.0, left)).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise ConnectionError(
                    f"The coordinator {address} did not answer within {timeout} s ({error}). Check that process 0 "
                    "runs (its command has --cluster.process 0), that the address is that of its machine, and that no "
                    "firewall closes the port."
                ) from error
            time.sleep(0.2)
        else:
            return


def _give_up(message: str) -> None:
    """Ends the process with a message, from another thread, since the main one waits inside JAX."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(1)
