"""Where a test run spends its processor time: a table at its end, by file, for `--processor-seconds`.

Seconds on the clock depend on what else the machine does; these do not: user and system time of all threads, and of
child processes once they have ended.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Generator
from typing import Any

import jax
import pytest

SHOWN = 25  # files and tests that the table names


def seconds() -> float:
    """Processor seconds of this process and of its ended children so far."""
    return sum(os.times()[:4])


class Recorder:
    """A plugin: notes processor seconds and compiled programs on every report, and sums them where reports arrive.

    Under pytest-xdist the workers note and the first process sums.
    """

    def __init__(self) -> None:
        self.last, self.programs = 0.0, 0
        self.tests: Counter[str] = Counter()
        self.compiled: Counter[str] = Counter()
        jax.monitoring.register_event_duration_secs_listener(self.compiles)

    def compiles(self, event: str, _: float, **__: Any) -> None:
        """Counts programs that XLA compiles or finds in the cache."""
        self.programs += event == "/jax/core/compile/backend_compile_duration"

    def pytest_runtest_logstart(self) -> None:
        """Starts a test's count."""
        self.last, self.programs = seconds(), 0

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Notes what a test's setup, call or teardown took."""
        report = yield
        now = seconds()
        report.user_properties = [
            *report.user_properties,
            ("processor", now - self.last),
            ("programs", self.programs),
        ]
        self.last, self.programs = now, 0
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Sums the reports of a test."""
        noted = dict(report.user_properties)
        self.tests[report.nodeid] += noted.get("processor", 0.0)
        self.compiled[report.nodeid] += noted.get("programs", 0)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Writes the table."""
        files: dict[str, list[float]] = defaultdict(lambda: [0.0, 0, 0])
        for test, spent in self.tests.items():
            for index, value in enumerate((spent, 1, self.compiled[test])):
                files[test.partition("::")[0]][index] += value
        write = terminalreporter.write_line
        terminalreporter.section("processor seconds, tests and compiled programs by file; the longest tests")
        for file, (spent, tests, compiled) in sorted(files.items(), key=lambda item: -item[1][0])[:SHOWN]:
            write(f"{spent:8.1f} {tests:5.0f} {compiled:6.0f}  {file}")
        for test, spent in self.tests.most_common(SHOWN):
            write(f"{spent:8.1f} {self.compiled[test]:12.0f}  {test}")
        write(f"{sum(self.tests.values()):8.1f} processor seconds in all tests, without the start of processes")
