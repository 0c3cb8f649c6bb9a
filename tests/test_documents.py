"""What the documents promise: scripts that run, names and tests that exist, links that lead somewhere, one version."""

import ast
import importlib
import inspect
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tyro
import yaml
from support.places import ROOT, STUDIES, script

import hvae_jax
from hvae_jax import likelihoods, objectives, recipes
from hvae_jax.cli.main import COMMANDS
from hvae_jax.convert import CONVERTERS

DOCS = ROOT / "docs"
PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "tests" / "golden").glob("*.md"))
    if "_build" not in path.parts
)


@pytest.mark.slow
def test_the_own_training_loop(capsys: pytest.CaptureFixture[str]) -> None:
    """The script of the page runs to its end: by hand, by make_step on all devices, as an ensemble, per device."""
    runpy.run_path(str(DOCS / "guide" / "own_training_loop.py"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0].split(" over")[0] for line in lines] == [
        *("by hand", "make_step", "ensemble", "shard_map", "pmap")
    ]
    losses = [float(number) for line in lines[:2] for number in re.findall(r"-?\d+\.\d", line)]
    assert all(100 < abs(number) < 190 for number in losses)


def named(path: str) -> bool:
    """Whether a name such as models.TopDownVAE or distributions.Normal.sample exists."""
    for start in ("hvae_jax", "hvae_jax.objectives", "hvae_jax.models", "hvae_jax.trace"):
        first, *rest = path.split(".")
        try:
            found = importlib.import_module(f"{start}.{first}")
        except ImportError:
            found = getattr(importlib.import_module(start), first, None)
        for part in rest:
            found = getattr(found, part, None)
        if found is not None:
            return True
    return False


def test_equations_have_functions_and_tests() -> None:
    """Each row of the article's table names things that exist: functions of the package, and tests."""
    rows = [
        [cell.strip() for cell in line.strip("|").replace(r"\|", "").split(" | ")]
        for line in (DOCS / "concepts" / "article.md").read_text().splitlines()
        if line.startswith("|") and "---" not in line and not line.endswith("| test |")
    ]
    assert len(rows) > 20
    for _, functions, test in rows:
        for name in re.findall(r"`([A-Za-z_]+(?:\.[A-Za-z_]+)+)`", functions):
            assert named(name), name
        if test.strip("| "):
            path, _, function = test.strip("`| ").partition("::")
            assert f"def {function}" in (ROOT / path).read_text(), test


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    """Every relative link of a page names a file, and every picture has a text for those who do not see it."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for mark, label, target in re.findall(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), target
        assert label or not mark, f"{target} has no text"


def texts() -> Iterator[tuple[str, str]]:
    """The documents, and the docstrings of recipes and of the scripts of experiments, by name."""
    for page in PAGES:
        yield page.name, page.read_text()
    for path in sorted((*(ROOT / "experiments").rglob("*.py"), *(ROOT / "hvae_jax" / "recipes").glob("*.py"))):
        yield path.name, ast.get_docstring(ast.parse(path.read_text())) or ""


def commands() -> Iterator[tuple[str, list[str]]]:
    """The commands in the indented blocks of documents and docstrings, each with its page: words, without comments."""
    for name, text in texts():
        for block in re.findall(r"(?:^    .+\n)+", f"{text}\n", flags=re.MULTILINE):
            for line in block.replace("\\\n", " ").splitlines():
                if re.match(r"    (hvae|make|python experiments)\b", line):
                    yield name, shlex.split(line, comments=True)


def test_commands_exist() -> None:
    """Commands of hvae, recipes and presets, targets of make, and every flag of a study, as the documents have them."""
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    for page, words in commands():
        if words[0] == "make":
            assert words[1] in targets, (page, words)
        elif words[0] == "hvae":
            assert words[1] in COMMANDS, (page, words)
            if words[1] in ("train", "sweep") and words[2].islower() and words[2].isidentifier():
                preset = words[words.index("--preset") + 1] if "--preset" in words else None
                recipes.experiment_of(words[2], preset)
    assert len(list(commands())) > 100


def test_flags_of_studies_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of a study, in the documents and in its own docstring, is parsed by its settings."""
    monkeypatch.syspath_prepend(STUDIES)
    known = {}
    for page, words in commands():
        if words[0] != "python" or Path(words[1]).parent != Path("experiments/studies"):
            continue
        if words[1] not in known:
            known[words[1]] = script(ROOT / words[1])
            monkeypatch.setitem(sys.modules, Path(words[1]).stem, known[words[1]])  # where tyro looks for annotations
        if hasattr(known[words[1]], "Settings") and "NAME" not in words:
            flat = (tyro.conf.FlagCreatePairsOff,)
            try:
                tyro.cli(known[words[1]].Settings, args=words[2:], config=flat)
            except SystemExit as error:
                raise AssertionError(f"{page}: {' '.join(words)}") from error
    assert len(known) > 10


def test_figures_have_their_commands() -> None:
    """The page of figures names every picture, and `make figures` has the rows of its first table."""
    text = (DOCS / "results" / "figures.md").read_text()
    pictures = {path.stem for path in (ROOT / "experiments" / "figures").glob("*.png")}
    assert {name for name in pictures if f"`{name}`" not in text} == set()
    quick = set(re.findall(r"^\| `(\w+)` \|", text.partition("The other figures")[0], flags=re.MULTILINE))
    assert quick == set(script(STUDIES / "figures.py").TABLE)


def test_the_readme_counts_right() -> None:
    """Numbers in words: likelihoods apart from what goes around them, objectives, public codes."""
    text = (ROOT / "README.md").read_text()
    words = {6: "six", 13: "thirteen"}
    families = {name for name, value in vars(likelihoods).items() if subclass(value, likelihoods.Likelihood)}
    known = {name for name, value in vars(objectives).items() if subclass(value, objectives.Objective)} - {"Around"}
    assert f"any of {words[len(families - {'Missing'})]}\n[likelihoods]" in text
    assert f"one of {words[len(known)]}\n[objectives]" in text
    assert text.count(f"{words[len(CONVERTERS)]} public") == 2


def subclass(value: object, base: type) -> bool:
    """Whether a value is a concrete class that inherits from a base."""
    return isinstance(value, type) and issubclass(value, base) and value is not base and not inspect.isabstract(value)


def test_the_readme_is_short() -> None:
    """It is read in ten minutes, and names every model and every command."""
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 170
    assert {name for name in COMMANDS if f"hvae {name}" not in text and name not in text} == set()


@pytest.mark.slow
def test_the_lines_of_the_readme_run(capsys: pytest.CaptureFixture[str]) -> None:
    """The README's Python runs as it stands, and its bounds are those of the model's card."""
    text = (ROOT / "README.md").read_text()
    exec(text.partition("```python")[2].partition("```")[0], {})
    *levels, bounds = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in levels] == ["z2", "z1"]
    elbo, iw = (float(word) for word in bounds.split())
    assert -110 < elbo < iw < -80


def test_one_version() -> None:
    """The package, the citation and the latest part of the changelog have the same version."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == hvae_jax.__version__
    parts = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert next(part for part in parts if part != "Unreleased") == hvae_jax.__version__
