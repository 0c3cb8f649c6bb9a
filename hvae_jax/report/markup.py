"""Parts of the page as HTML: tables, bars, tiles, terms, figures with labelled columns."""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from hvae_jax.report.pictures import Picture
from hvae_jax.report.words import estimate

DASH = "&ndash;"
MANY_COLUMNS = 8  # columns of a picture from which on their labels are small

CELL = 4.5
"""Largest width of an image of a picture with labelled columns, in heights of a letter."""

KINDS = {"used": "good", "spare": "mid", "unclear": "mid", "collapsed": "bad"}
"""How each verdict is coloured."""


def note(text: str) -> str:
    """A paragraph in small print."""
    return f'<p class="note">{text}</p>'


def number(value: Mapping[str, Any] | None, digits: int | None = None) -> str:
    """A value with its standard error, or a dash for None.

    Args:
      digits: digits after the point; None takes two, and more where the error is small.
    """
    if value is None:
        return DASH
    said = estimate(value) if digits is None else f"{value['value']:.{digits}f} ± {value['error']:.{digits}f}"
    return escape(said)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kinds: Sequence[str] = (), name: str = "") -> str:
    """A table; on a narrow screen a row becomes a block in which each cell has the head of its column beside it.

    Args:
      head: heads of the columns as HTML, the one of the rows' names first.
      rows: cells as HTML.
      kinds: classes of the columns; () for none.
      name: class of the table.
    """
    kinds = kinds or [""] * len(head)
    first = "".join(f"<th{_class(kind)}>{cell}</th>" for cell, kind in zip(head, kinds, strict=True))
    labels = [re.sub("<[^>]*>", "", cell).replace('"', "&quot;") for cell in head]
    body = []
    for row in rows:
        cells = [f'<th scope="row">{row[0]}</th>']
        for cell, label, kind in zip(row[1:], labels[1:], kinds[1:], strict=True):
            cells.append(f'<td data-label="{label}"{_class(kind)}>{cell}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table{_class(name)}><thead><tr>{first}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def terms(meanings: Mapping[str, str]) -> str:
    """What words mean, below the table that uses them; both are HTML."""
    said = "".join(f"<dt>{word}</dt><dd>{meaning}</dd>" for word, meaning in meanings.items())
    return f'<dl class="terms">{said}</dl>'


def tiles(entries: Iterable[tuple[str, str, str]]) -> str:
    """Numbers in boxes: what each is, its value, and what it says; HTML."""
    boxes = []
    for name, value, why in entries:
        value = value.replace(" ± ", " <small>± ") + ("</small>" if " ± " in value else "")
        boxes.append(
            f'<div><dt>{name}</dt><dd class="value">{value}</dd><dd class="why">{why}</dd></div>',
        )
    return f'<dl class="tiles">{"".join(boxes)}</dl>'


def bar(value: Mapping[str, float] | None, most: float, kind: str) -> str:
    """A bar of a value from 0 to `most`, with a line for its standard error; nothing for None."""
    if value is None:
        return ""
    error = value["error"] if value["error"] == value["error"] else 0.0
    low, high = value["value"] - error, value["value"] + error
    line = f'<span class="error" style="{_place(low, high, most)}"></span>'
    return f'<span class="track"><span class="{kind}" style="{_place(0.0, value["value"], most)}"></span>{line}</span>'


def range_bar(rate: Mapping[str, float], low: float | None, high: float | None, ceiling: float, most: float) -> str:
    """A bar of a rate, the range of the information in it, and a mark at the ceiling of its lower bound."""
    inside = "" if low is None else f'<span class="info" style="{_place(low, high or low, most)}"></span>'
    return (
        f'<span class="track"><span class="rate" style="{_place(0.0, rate["value"], most)}"></span>{inside}'
        f'<span class="ceiling" style="left:{_percent(ceiling, most)}"></span></span>'
    )


def key(entries: Iterable[tuple[str, str]]) -> str:
    """What colours stand for: the style of each mark, and its meaning as HTML."""
    marks = "".join(f"<li><i {mark}></i><span>{meaning}</span></li>" for mark, meaning in entries)
    return f'<ul class="key">{marks}</ul>'


def chip(verdict: str) -> str:
    """A verdict; that of a collapsed level leads to what may help."""
    inner = f'<span class="chip {KINDS[verdict]}">{verdict}</span>'
    return f'<a href="#remedies">{inner}</a>' if verdict == "collapsed" else inner


def figure(picture: Picture) -> str:
    """A picture with its title, what it shows, and a label for each column and row."""
    data = base64.b64encode(picture.png).decode("ascii")
    columns = "".join(f"<span>{escape(label)}</span>" for label in picture.columns)
    rows = "".join(f"<span>{escape(label)}</span>" for label in picture.rows)
    many = " many" if len(picture.columns) >= MANY_COLUMNS else ""
    width = f' style="max-width:{CELL * len(picture.columns):.1f}rem"' if columns else ""
    return (
        f"<figure><h3>{escape(picture.title)}</h3><figcaption>{escape(picture.note)}</figcaption>"
        f'<div class="grid{many}"{width}>'
        + (f'<div class="about">{escape(picture.across)}</div>' if picture.across else "")
        + (f'<div class="across">{columns}</div>' if columns else "")
        + (f'<div class="down">{rows}</div>' if rows else "")
        + f'<img alt="{escape(f"{picture.title}. {picture.note}", quote=True)}" src="data:image/png;base64,{data}">'
        "</div></figure>"
    )


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _percent(value: float, most: float) -> str:
    return f"{100.0 * min(max(value / most, 0.0), 1.0):.2f}%" if most > 0 else "0%"


def _place(low: float, high: float, most: float) -> str:
    """Where a span from low to high lies on a track from 0 to `most`."""
    low, high = (min(max(value, 0.0), most) for value in (low, high))
    return f"left:{_percent(low, most)};width:{_percent(high - low, most)}"
