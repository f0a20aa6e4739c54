"""HTML elements as functions: every text is escaped, unless it is an element already."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from typing import Any

from data_pipelines import terminal

_VOID = frozenset({"br", "img", "input", "link", "meta", "source"})


class Html(str):
    """Text that is HTML."""

    __slots__ = ()


Child = str | None | Iterable["Child"]


def element(name: str, /, *children: Child, **attributes: Any) -> Html:
    """Returns an element.

    Args:
      name: of the element.
      *children: elements, texts, which are escaped, and lists of them; None is left out.
      **attributes: texts, which are escaped unless they are HTML. An underscore stands for a
        hyphen, and one at the end is dropped (`class_`). True is an attribute without value; None
        and False are left out.
    """
    given = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{_text(value)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{joined(*children)}</{name}>")


def joined(*children: Child) -> Html:
    """Returns elements and texts one after the other."""
    parts = []
    for child in children:
        if isinstance(child, str):
            parts.append(_text(child))
        elif child is not None:
            parts.append(str(joined(*child)))
    return Html("".join(parts))


def _text(value: Any) -> str:
    """Escapes markup, and characters that are not visible or change the direction of writing."""
    if isinstance(value, Html):
        return str(value)
    return html.escape(terminal.escaped(str(value)))


def table(columns: Sequence[str], rows: Iterable[Sequence[Child]], caption: str = "") -> Html:
    """Returns a table that scrolls within its own box if it is too wide; rows begin with a heading.

    Args:
      columns: headings.
      rows: cells.
      caption: of the table; empty: none.
    """
    head = element("tr", [element("th", c, scope="col") for c in columns])
    body = [
        element("tr", element("th", first, scope="row"), [element("td", cell) for cell in rest])
        for first, *rest in rows
    ]
    content = element(
        "table",
        element("caption", caption) if caption else None,
        element("thead", head),
        element("tbody", body),
    )
    # a box that scrolls must be reachable by keyboard
    label = caption or "Table"
    return element("div", content, class_="wide", tabindex="0", role="region", aria_label=label)


def player(kind: str, source: str, name: str, **attributes: Any) -> Html:
    """Returns a player of the browser, which loads nothing before it is started.

    Args:
      kind: video or audio.
      source: address of the file.
      name: of the content, for screen readers.
      **attributes: more of the element.
    """
    return element(
        kind, controls=True, preload="none", aria_label=name, src=source, playsinline=True,
        **attributes,
    )  # fmt: skip


def data_address(kind: str, content: bytes) -> Html:
    """Returns the address of content that is a part of the page.

    Args:
      kind: media type, such as image/png.
      content: of the file.
    """
    return Html(f"data:{kind};base64,{base64.b64encode(content).decode()}")
