"""Examples of docstrings, found in the source and compared to the precision that they show."""

import ast
import doctest
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:e[-+]?\d+)?(?![\w])")


class Example(NamedTuple):
    """A docstring with an example: "objectives/bounds.py:elbo", its file, line and text."""

    name: str
    file: Path
    line: int
    text: str


class ToThePrecisionShown(doctest.OutputChecker):
    """Compares numbers to 0.0005, or to a later decimal that is shown: float32 differs between machines beyond that."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        """Whether the text is the same but for white space, and every number close to the one that is shown."""
        if super().check_output(want, got, optionflags):
            return True
        wanted, found = _NUMBER.findall(want), _NUMBER.findall(got)
        texts = ["".join(_NUMBER.sub("#", text).split()) for text in (want, got)]
        return texts[0] == texts[1] and all(map(_close, wanted, found))


def _close(wanted: str, found: str) -> bool:
    """Whether a number is the one that is wanted: a whole number exactly, another one to three decimals or more."""
    if "." not in wanted:
        return wanted == found
    decimals = len(wanted.partition(".")[2])
    return abs(float(wanted) - float(found)) <= 0.5 * 10.0 ** -max(decimals, 3)


def failures(example: Example, names: dict[str, Any]) -> str:
    """What the lines of an example print instead of what it shows; "" if it is right."""
    test = doctest.DocTestParser().get_doctest(example.text, dict(names), example.name, str(example.file), example.line)
    printed: list[str] = []
    doctest.DocTestRunner(checker=ToThePrecisionShown(), verbose=False).run(test, out=printed.append)
    return "".join(printed)


def examples(package: Path) -> Iterator[Example]:
    """Everything in a package whose docstring has an example.

    It is read off the source: the import hook of the tests wraps functions, which doctest then takes for another
    module's.
    """
    for file in sorted(package.rglob("*.py")):
        if ">>>" in (source := file.read_text()):
            for name, line, text in _docstrings(ast.parse(source), ""):
                if ">>>" in text:
                    yield Example(f"{file.relative_to(package)}:{name}", file, line, text)


def _docstrings(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, int, str]]:
    """Qualified name, line and docstring of every class, function and method that has one."""
    for inner in node.body:
        if isinstance(inner, ast.FunctionDef | ast.ClassDef):
            text = ast.get_docstring(inner, clean=False)
            if text is not None:
                yield prefix + inner.name, inner.body[0].lineno - 1, text
            if isinstance(inner, ast.ClassDef):
                yield from _docstrings(inner, f"{prefix}{inner.name}.")
