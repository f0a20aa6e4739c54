"""The HTML template of every page: one file without network access, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from xkd_jax.report.elements import Child, Html, element

_FOLDER = Path(__file__).parent
STYLE, SCRIPT = _FOLDER / "document.css", _FOLDER / "document.js"


class Section(NamedTuple):
    """A section of a page.

    Attributes:
      name: anchor in the page, letters and hyphens.
      title: heading, and its entry in the table of contents.
      content: what follows the heading.
    """

    name: str
    title: str
    content: Child


def document(title: str, lead: Child, sections: Sequence[Section], media: str = "data:") -> Html:
    """Returns a page of HTML.

    Its policy forbids every access to the network, except for players of other `media`.

    Args:
      title: of the page.
      lead: below the title.
      sections: in order.
      media: sources of players, as in a content security policy.
    """
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline';"
        f" media-src {media}"
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("link", rel="icon", href="data:,"),
        element("title", title),
        element("style", Html(STYLE.read_text(encoding="utf-8"))),
    )
    contents = element(
        "nav",
        element("ul", [element("li", element("a", s.title, href=f"#{s.name}")) for s in sections]),
        aria_label="Contents",
    )
    toggle = element("button", "Dark", type="button", id="theme", hidden=True)
    body = element(
        "body",
        element("a", "Skip to the content", href="#content", class_="skip"),
        element("header", element("h1", title), toggle, contents),
        element(
            "main",
            element("div", lead, class_="lead"),
            [
                element(
                    "section",
                    element("h2", s.title, id=f"{s.name}-title"),
                    s.content,
                    id=s.name,
                    aria_labelledby=f"{s.name}-title",
                )
                for s in sections
            ],
            id="content",
            tabindex="-1",
        ),
        element("script", Html(SCRIPT.read_text(encoding="utf-8"))),
    )
    return Html(f"<!doctype html>\n{element('html', head, body, lang='en')}\n")
