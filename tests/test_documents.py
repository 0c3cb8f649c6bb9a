"""What the documents promise: scripts that run, names and tests that exist, links that lead somewhere, one version."""

import importlib
import re
import runpy
from pathlib import Path

import pytest
import yaml

import hvae_jax

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "tests" / "golden").glob("*.md"))
    if "_build" not in path.parts
)


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


def test_the_readme_is_short_and_true() -> None:
    """At most 170 lines; every command and recipe that it names exists."""
    from hvae_jax import recipes
    from hvae_jax.cli import main

    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 170
    commands = set(re.findall(r"^ *hvae ([a-z]+)", text, flags=re.MULTILINE))
    source = Path(main.__file__).read_text()
    assert {c for c in commands if f'"{c}"' not in source and f"{c}." not in source and f" {c} " not in source} == set()
    assert set(re.findall(r"hvae train ([a-z_]+)", text)) <= set(recipes.names())
    for target in re.findall(r"^make ([a-z]+)|^ +make ([a-z]+)", text, flags=re.MULTILINE):
        assert f"\n{''.join(target)}:" in (ROOT / "Makefile").read_text()


def test_one_version() -> None:
    """The package, the citation and the latest part of the changelog have the same version."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == hvae_jax.__version__
    parts = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert next(part for part in parts if part != "Unreleased") == hvae_jax.__version__
