"""Reads a page of HTML by the standard library, strictly: every element must be closed."""

from __future__ import annotations

import dataclasses
import html.parser
from collections.abc import Iterator

VOID = {"br", "img", "input", "link", "meta", "source"}


@dataclasses.dataclass
class Element:
    """An element with its attributes and content."""

    name: str
    attributes: dict[str, str]
    children: list[Element | str] = dataclasses.field(default_factory=list)

    @property
    def text(self) -> str:
        """All text inside, without scripts and styles."""
        if self.name in ("script", "style"):
            return ""
        return "".join(c if isinstance(c, str) else c.text for c in self.children)

    def everything(self) -> Iterator[Element]:
        """This element and all inside it, in order."""
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.everything()

    def all(self, path: str) -> list[Element]:
        """Elements of the last name of a path, inside elements of the names before it."""
        found = [self]
        for name in path.split():
            inside = (e for start in found for e in start.everything() if e is not start)
            found = list({id(e): e for e in inside if e.name == name}.values())
        return found

    def first(self, path: str) -> Element:
        """The first element of a path."""
        return self.all(path)[0]


def parse(text: str) -> Element:
    """Returns the root, whose only element is `html`."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert len(reader.open) == 1, f"not closed: {[e.name for e in reader.open[1:]]}"
    return reader.open[0]


class _Reader(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.open = [Element("", {})]

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), f"{tag} has an attribute twice"
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop().name == tag

    def handle_data(self, data):
        self.open[-1].children.append(data)
