"""Signals that end a run in good order: which, what a second one does, and that handlers come back."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from hvae_jax.training.signals import Interrupted, interrupting, stop_signals

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has neither SIGHUP nor SIGUSR1")

HEEDED = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]


@pytest.fixture(autouse=True)
def reached() -> Iterator[list[int]]:
    """The signals that come to the handlers of before, which are put back as they were after the test."""
    reached: list[int] = []
    before = {number: signal.signal(number, lambda n, _: reached.append(n)) for number in HEEDED}
    yield reached
    for number, handler in before.items():
        signal.signal(number, handler)


def send(*numbers: int) -> None:
    """To this process, one after another."""
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", HEEDED)
def test_the_first_asks_for_the_end(number: int, reached: list[int]) -> None:
    """And nothing else; afterwards the handlers are those of before."""
    with stop_signals() as stop:
        assert stop.signal is None
        send(number)
        assert stop.signal == number
    assert not reached
    send(*HEEDED)
    assert reached == HEEDED


@pytest.mark.parametrize(
    ("sent", "through"),
    [
        ([signal.SIGINT, signal.SIGINT], [signal.SIGINT]),
        ([signal.SIGTERM, signal.SIGINT], [signal.SIGINT]),
        ([signal.SIGTERM, signal.SIGHUP], []),  # as systemd sends them
        ([signal.SIGUSR1, signal.SIGTERM], []),  # as Slurm does
        ([signal.SIGHUP, signal.SIGHUP, signal.SIGUSR1], []),
        ([signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM], [signal.SIGTERM]),
    ],
)
def test_a_second_one(sent: list[int], through: list[int], reached: list[int]) -> None:
    """Ends the process at once after an urgent one, and never because two kinds of notice came together."""
    with stop_signals() as stop:
        send(*sent)
    assert stop.signal == sent[0]
    assert reached == through


def test_nohup(reached: list[int]) -> None:
    """What is ignored when the run starts stays ignored."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stop_signals() as stop:
        send(signal.SIGHUP)
    assert stop.signal is None
    with interrupting():
        send(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize("number", HEEDED)
def test_while_measuring(number: int, reached: list[int]) -> None:
    """It ends at once, and notices on its heels do not disturb the end."""

    def measured() -> Any:
        with interrupting():
            try:
                send(number)
            finally:
                send(signal.SIGHUP, signal.SIGUSR1)

    with pytest.raises(Interrupted) as interrupted:
        measured()
    assert interrupted.value.number == number
    assert not reached
