"""A machine without what is usually there: a home, the platform that was asked for, a file of the script."""

import sys
from pathlib import Path

import jax
import pytest

from hvae_jax.cli import main as cli
from hvae_jax.data.fetch import Remote, fetch
from hvae_jax.experiment.exits import errors_said
from hvae_jax.runtime import doctor
from hvae_jax.runtime.compilation import use_compilation_cache
from hvae_jax.training.feeds import Feeding, read

pytestmark = pytest.mark.leg

CACHE = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user with neither HOME nor an entry in passwd."""
    for name in ("HOME", "XDG_CACHE_HOME", "USERPROFILE"):
        monkeypatch.delenv(name, raising=False)

    def nobody(_: int) -> None:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("pwd.getpwuid", nobody)


def cache_of(home: str | None, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """The folder of the compilation cache that is chosen with this XDG_CACHE_HOME; JAX is left as it was."""
    before = {name: jax.config.values[name] for name in CACHE}
    if home is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", home)
    try:
        jax.config.update(CACHE[0], None)
        use_compilation_cache()
        return jax.config.values[CACHE[0]]
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


@pytest.mark.usefixtures("no_home")
def test_without_a_home_there_is_no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_of(None, monkeypatch) is None
    (tmp_path / "file").write_text("")
    assert cache_of(str(tmp_path / "file"), monkeypatch) is None  # nor where no folder can be made
    assert cache_of(str(tmp_path), monkeypatch) == str(tmp_path / "hvae_jax" / "xla")


@pytest.mark.parametrize(
    ("ours", "environment", "expected"),
    [
        pytest.param(1.0, None, 0.2, id="nothing set"),
        pytest.param(1.0, "1.0", 1.0, id="JAX's own, by the environment"),
        pytest.param(5.0, "5.0", 5.0, id="environment"),
        pytest.param(0.0, None, 0.0, id="jax.config"),
    ],
)
def test_the_least_compile_time(
    ours: float, environment: str | None, expected: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """0.2 s, unless the user has set another one.

    Args:
      ours: what JAX has read from the environment or was given, seconds.
    """
    monkeypatch.delenv(CACHE[1].upper(), raising=False)
    if environment is not None:
        monkeypatch.setenv(CACHE[1].upper(), environment)
    before = {name: jax.config.values[name] for name in CACHE}
    try:
        jax.config.update(CACHE[0], str(tmp_path))
        jax.config.update(CACHE[1], ours)
        use_compilation_cache()
        assert jax.config.values[CACHE[1]] == expected
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


@pytest.mark.usefixtures("no_home")
def test_paths_that_need_a_home(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"no home folder to keep nowhere in .*--data\.directory"):
        fetch(Remote("nowhere", (), {}))
    with pytest.raises(SystemExit), errors_said():
        Path("~/data.npz").expanduser()
    assert "no home folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (RuntimeError("Unable to initialize backend 'foo': not in the list of known backends"), "(Unable to"),
        (AssertionError(), "cannot use that here."),  # of CUDA without its plugin
    ],
)
def test_a_platform_that_is_not_here(
    error: Exception, part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`hvae doctor` explains it below the versions, other commands end in its line."""

    def fail() -> None:
        raise error

    monkeypatch.setattr(jax, "devices", fail)
    with pytest.raises(SystemExit, match="1"):
        cli.main(["doctor"])
    out = capsys.readouterr().out
    wanted = f"JAX_PLATFORMS is {jax.config.values['jax_platforms']!r}"
    assert "flax" in out and wanted in out and part in out
    with pytest.raises(SystemExit, match="1"), errors_said():
        doctor.line()
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith(f"error: {wanted}") and "JAX_PLATFORMS=cpu takes the CPU" in first


@pytest.mark.parametrize(
    ("version", "python", "part"),
    [((0, 10, 2), (3, 11, 9), "Python 3.12 or newer has it"), ((0, 11, 0), (3, 12, 0), "pip install -U jax")],
)
def test_a_jax_with_slow_convolutions(
    version: tuple[int, ...], python: tuple[int, ...], part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`hvae doctor` says what is faster, on a CPU alone; of a JAX that is fast it says nothing."""
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    monkeypatch.setattr(jax, "__version_info__", version)
    monkeypatch.setattr(doctor.sys, "version_info", python)
    assert (advice := doctor.slow_convolutions()) is not None
    assert part in advice
    assert advice in doctor.table()
    monkeypatch.setattr(jax, "__version_info__", (0, 12, 0, 1))
    assert doctor.slow_convolutions() is None
    monkeypatch.setattr(jax, "__version_info__", version)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert doctor.slow_convolutions() is None


def test_other_errors_of_the_program_keep_their_traceback() -> None:
    with pytest.raises(RuntimeError, match="a fault of ours"), errors_said():
        raise RuntimeError("a fault of ours")


def test_workers_of_a_script_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would have to import it."""
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__file__", "<stdin>", raising=False)
    monkeypatch.setattr(main, "__spec__", None)
    with pytest.raises(ValueError, match=r"<stdin> is no file.*--feed\.workers 0"):
        next(iter(read([], Feeding("streamed", workers=2))))
