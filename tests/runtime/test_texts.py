"""Text from files on a terminal."""

import sys
import warnings

import pytest

from hvae_jax.experiment.exits import errors_said
from hvae_jax.runtime.texts import printable, say


def test_what_a_terminal_would_obey_is_written_out() -> None:
    given = "\x1b]0;title\x07 \x9b31m a\rb \u202etxt \udc80 \x7f\u2028"
    assert printable(given) == r"\x1b]0;title\x07 \x9b31m a\rb \u202etxt \udc80 \x7f\u2028"


@pytest.mark.parametrize("text", ["", "plain", "zwei\nZeilen\tgrößer", "数字 ± 1.0 ≤ π"])
def test_printable_text_stays(text: str) -> None:
    assert printable(text) == text


def test_say(capsys: pytest.CaptureFixture[str]) -> None:
    say(ValueError("a\x1b[2J"))
    assert capsys.readouterr().out == "a\\x1b[2J\n"


def test_errors_and_warnings_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    """What a file says reaches the terminal written out, in errors as in warnings."""
    shown = []

    def command() -> None:
        shown.append(warnings.formatwarning(UserWarning("a\x1b[2J"), UserWarning, "f", 1))
        raise ValueError("b\x1b[2J")

    with pytest.raises(SystemExit), errors_said():
        command()
    assert shown == ["f:1: UserWarning: a\\x1b[2J\n"]
    assert capsys.readouterr().err.splitlines()[0] == "error: b\\x1b[2J"


def test_a_traceback_of_a_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that HVAE_TRACEBACK asks for, and that of an error of ours."""
    monkeypatch.setattr(sys, "excepthook", before := sys.__excepthook__)
    with errors_said():
        pass
    assert sys.excepthook is before
    with pytest.raises(KeyError) as raised, errors_said():
        raise KeyError("b\x1b[2J")
    sys.excepthook(KeyError, raised.value, None)
    shown = capsys.readouterr().err
    assert "KeyError" in shown and "\x1b" not in shown
    sys.excepthook(ValueError, ValueError("a\x1b[2J"), None)
    assert capsys.readouterr().err == "ValueError: a\\x1b[2J\n"
