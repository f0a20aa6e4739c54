"""Hooks of MkDocs: pages outside of docs/, links into the repository, formulas and diagrams.

* README.md is the home page, and CONTRIBUTING.md and CHANGELOG.md are pages.
* A relative link, valid in the repository, leads to the page of its target: the API reference for
  a package or module, and for any other file a copy of it.
* Formulas become MathML, which browsers show without a script.
* Pages with diagrams load Mermaid from the site. The file comes from the npm package of that name
  (npm is needed once), is checked by its SHA-256, and is kept in build/.
"""

from __future__ import annotations

import hashlib
import html
import os
import posixpath
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# path in the repository -> page of the site
OUTER_PAGES = {"README.md": "index.md"} | {n: n for n in ("CONTRIBUTING.md", "CHANGELOG.md")}
PACKAGES = ("xkd_jax", "data_pipelines")
MERMAID = "11.16.0"
MERMAID_SHA256 = "74d7c46dabca328c2294733910a8aa1ed0c37451776e8d5295da38a2b758fb9b"
MERMAID_PAGE = "assets/mermaid.min.js"

_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)\s#]+)(#[^)\s]*)?(?=\))")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
_MATHJAX = re.compile(r"<script data-mkdocs-jupyter-mathjax=.*?</script>", re.DOTALL)
_PAGE_LINK = re.compile(r'(<a href="(?![a-z]+:)[^"#]+)\.(?:md|ipynb)(?=["#])')
_DIAGRAM = '<pre class="mermaid">'


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages outside of docs/, and the files that pages link to."""
    pages = {
        f"docs/{file.src_uri}": Path(file.abs_src_path)
        for file in files.documentation_pages()
        if file.abs_src_path
    }
    pages |= {name: ROOT / name for name in OUTER_PAGES if (ROOT / name).exists()}
    for name, page in OUTER_PAGES.items():
        if name in pages:
            files.append(File.generated(config, page, content=pages[name].read_text("utf-8")))
    linked = {
        target
        for name, path in pages.items()
        if name.endswith(".md")
        for target, _ in _links(name, path.read_text("utf-8"))
    }
    for target in sorted(linked):
        if _is_copied(target) and files.get_file_from_path(f"source/{target}") is None:
            files.append(
                File.generated(config, f"source/{target}", abs_src_path=str(ROOT / target))
            )
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turns links between files of the repository into links between pages of the site."""
    here = page.file.src_uri
    name = next((n for n, at in OUTER_PAGES.items() if at == here), f"docs/{here}")

    def link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(name), match[1]))
        at = posixpath.relpath(_site_path(target), posixpath.dirname(here) or ".")
        return at + (match[2] or "")

    return _LINK.sub(link, markdown)


def on_page_content(page_html: str, page: Page, **_: Any) -> str:
    """Formulas to MathML; in notebooks, links to sources become links to pages."""

    def formula(match: re.Match[str]) -> str:
        display = "block" if match[2] == "[" else "inline"
        return convert(html.unescape(match[3]).replace(r"\lVert", r"\|"), display=display)

    if page.file.src_uri.endswith(".ipynb"):
        page_html = _PAGE_LINK.sub(r"\1.html", page_html)
    return _FORMULA.sub(formula, page_html)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Lets pages with diagrams load the site's Mermaid, and notebooks no MathJax from elsewhere."""
    output = _MATHJAX.sub("", output)
    if _DIAGRAM not in output:
        return output
    _copy_mermaid(Path(config.site_dir, MERMAID_PAGE))
    at = posixpath.relpath(MERMAID_PAGE, posixpath.dirname(page.url) or ".")
    return output.replace("</head>", f'<script src="{at}"></script></head>', 1)


def _links(name: str, markdown: str) -> list[tuple[str, str]]:
    """The repository's paths that a page's relative links lead to, with their fragments."""
    folder = posixpath.dirname(name)
    return [
        (posixpath.normpath(posixpath.join(folder, match[1])), match[2] or "")
        for match in _LINK.finditer(markdown)
    ]


def _is_copied(target: str) -> bool:
    return (
        (ROOT / target).is_file()
        and target not in OUTER_PAGES
        and not target.startswith(("docs/", *(f"{package}/" for package in PACKAGES)))
    )


def _site_path(target: str) -> str:
    """Where the site has what lies at this path of the repository."""
    if target in OUTER_PAGES:
        return OUTER_PAGES[target]
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    if target.split("/")[0] in PACKAGES:
        return (
            f"reference/{target.removesuffix('.py')}{'' if target.endswith('.py') else '/index'}.md"
        )
    return f"source/{target}" if _is_copied(target) else f"missing/{target}"


def _copy_mermaid(to: Path) -> None:
    if to.exists():
        return
    kept = ROOT / "build" / f"mermaid-{MERMAID}.min.js"
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        kept.write_bytes(_mermaid())
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(kept, to)


def _mermaid() -> bytes:
    """Mermaid's script, from the registry that npm is set up for."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", f"mermaid@{MERMAID}"]
        try:
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            raise PluginError(f"{' '.join(command)} failed ({error}): install npm.") from None
        with tarfile.open(os.path.join(folder, f"mermaid-{MERMAID}.tgz")) as package:
            member = package.extractfile("package/dist/mermaid.min.js")
            script = member.read() if member else b""
    if hashlib.sha256(script).hexdigest() != MERMAID_SHA256:
        raise PluginError(f"mermaid@{MERMAID} is not the file that was checked: compare it first.")
    return script
