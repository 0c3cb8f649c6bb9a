"""Follows every link of the built site, without a network.

    python docs/check_links.py docs/_build/html

A link within the site has to name a file, and its #part an element of it. Addresses of other hosts are counted and not
opened; a script, a style sheet, a font or a picture from another host is an error.
"""

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The links, the loaded files and the ids of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes what the element points to."""
        given = {name: value or "" for name, value in attrs}
        self.ids.update(given[name] for name in ("id", "name") if name in given)
        if "href" in given:
            loads = tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload")
            (self.loads if loads else self.links).append(given["href"])
        if "src" in given:
            self.loads.append(given["src"])


def faults(root: Path) -> Iterator[str]:
    """What is wrong, one line each, with the page first; last a count of what was followed."""
    pages = {path.resolve(): Page(path.read_text()) for path in sorted(root.rglob("*.html"))}
    inside, outside = 0, set()
    for path, page in pages.items():
        where = path.relative_to(root.resolve())
        for target in page.loads:
            if urlsplit(target).netloc:
                yield f"{where}: {target} is loaded from another host"
        for target in (*page.links, *page.loads):
            parts = urlsplit(target)
            if parts.scheme == "data" or parts.scheme == "mailto":
                continue
            if parts.netloc:
                outside.add(target)
                continue
            inside += 1
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not there.exists():
                yield f"{where}: {target} is not there"
            elif parts.fragment and there in pages and unquote(parts.fragment) not in pages[there].ids:
                yield f"{where}: {target} names no part of that page"
    print(f"{len(pages)} pages, {inside} links within the site, {len(outside)} addresses elsewhere, not opened")


if __name__ == "__main__":
    found = list(faults(Path(sys.argv[1])))
    print("\n".join(found))
    sys.exit(bool(found))
