"""Verdicts, asked of a process of their own."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from hvae_jax.experiment import settings
from hvae_jax.experiment.fitting.verdict import Verdict, from_json
from hvae_jax.experiment.records import Experiment
from hvae_jax.runtime import ahead
from hvae_jax.runtime.chips import Chip


@dataclasses.dataclass(frozen=True)
class Question:
    """Where a program is to run, and how that is found out.

    Attributes:
      chip: the chip.
      devices: number of chips.
      compiles: whether the chip's compiler is asked, rather than the shapes alone.
      modules: modules beside hvae_jax that the experiment's settings may name.
      seconds: seconds after which the compiler is stopped; None waits.
    """

    chip: Chip
    devices: int = 1
    compiles: bool = True
    modules: tuple[str, ...] = ()
    seconds: float | None = None

    def ask(self, programs: Sequence[str], experiment: Experiment) -> Iterator[Verdict]:
        """The verdicts on some of `PROGRAMS`, as they come.

        Raises ValueError for what `judged` refuses, RuntimeError if the compiler ends without an answer, and
        subprocess.TimeoutExpired if it is stopped.
        """
        request = {
            "programs": list(programs),
            "experiment": settings.to_json(experiment),
            "modules": list(self.modules),
            "chip": dataclasses.asdict(self.chip),
            "devices": self.devices,
            "compiles": self.compiles,
        }
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints:
            worker = subprocess.Popen(
                [sys.executable, "-m", "hvae_jax.experiment.fitting.worker"],
                env=environment(self.devices),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                text=True,
            )
            stopped = threading.Event()
            clock = threading.Timer(self.seconds or 0.0, lambda: (stopped.set(), worker.kill()))
            try:
                if self.seconds is not None:
                    clock.start()
                yield from _verdicts(worker, request)
            finally:
                clock.cancel()
                if worker.poll() is None:
                    worker.kill()
                worker.wait()
            if stopped.is_set():
                raise subprocess.TimeoutExpired(worker.args, self.seconds or 0.0)
            complaints.seek(0)
            if worker.returncode:
                last = complaints.read().strip().splitlines()[-1:] or [f"exit status {worker.returncode}"]
                raise RuntimeError(f"The compiler's process ended without an answer: {last[0]}")


def _verdicts(worker: subprocess.Popen[str], request: dict[str, Any]) -> Iterator[Verdict]:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(json.dumps(request))
    worker.stdin.close()
    for line in worker.stdout:
        if not line.startswith("{"):
            continue
        answer = json.loads(line)
        if "error" in answer:
            raise ValueError(answer["error"])
        yield from_json(answer["verdict"])
    worker.wait()


def environment(devices: int) -> dict[str, str]:
    """Variables of the compiler's process: JAX sees the CPU alone, as so many devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}".strip()
    return {
        **os.environ,
        **ahead.ENVIRONMENT,
        "XLA_FLAGS": flags,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }


def compiler_of(chip: Chip) -> bool:
    """Whether this machine has the chip's compiler.

    Raises ValueError, saying which to install, for a libtpu of another version than jax asks for.
    """
    if chip.platform != "tpu":
        return chip.platform == "cpu"
    if ahead.libtpu_version() is None:
        return False
    ahead.check_libtpu()
    return True
