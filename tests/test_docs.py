"""Pages: targets of links, named files, commands and tests exist; tables equal their files."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

from benchmarks import plot_results

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")
MODULE = re.compile(r"python3? -m ([a-z_]+(?:\.[a-z_]+)+)")
FILE = re.compile(r"`((?:xkd_jax|data_pipelines|configs|benchmarks|tests|launch|locks)/[\w./]*)`")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts and Python-Markdown make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", h).strip().lower().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_have_existing_targets(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_and_commands_exist(page):
    text = page.read_text(encoding="utf-8")
    for path in FILE.findall(text):
        assert (ROOT / path).exists(), path
    for module in MODULE.findall(text):
        assert importlib.util.find_spec(module), module


@pytest.mark.parametrize("page", ["reliability.md", "data.md"])
def test_promises_name_existing_tests(page):
    """A table's last cell has `test_x.py: words of a test's name`, `words of another one`."""
    tests = {file.name: file for file in (ROOT / "tests").rglob("test_*.py")}
    held = [
        line.rstrip(" |\n").rpartition(" | ")[2]
        for line in (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
        if line.startswith("|") and "`test_" in line
    ]
    assert len(held) > 5
    for cell in held:
        file = ""
        for quoted in re.findall(r"`([^`-][^`]*)`", cell):
            named = re.fullmatch(r"(test_\w+\.py)(?:: )?(.*)", quoted)
            file, words = named.groups() if named else (file, quoted)
            assert file in tests, cell
            names = [
                re.sub(r"\W+", "_", words.lower().replace("'", by)).strip("_") for by in ("", "_")
            ]
            found = re.findall(r"def (test_\w+)", tests[file].read_text(encoding="utf-8"))
            assert any(name in test for test in found for name in names), f"{file}: {words}"


def definitions(file: Path) -> set[str]:
    """The dotted names of what a module defines, with the methods of its classes."""
    names = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
        for target in targets:
            if name := getattr(target, "id", getattr(target, "name", None)):
                names.add(name)
        if isinstance(node, ast.ClassDef):
            methods = (n.name for n in node.body if isinstance(n, ast.FunctionDef))
            names |= {f"{node.name}.{method}" for method in methods}
    return names


@pytest.mark.parametrize("page", ["method.md", "architecture.md"])
def test_named_functions_are_defined(page):
    files = [f for p in ("xkd_jax", "data_pipelines") for f in (ROOT / p).rglob("*.py")]
    modules: dict[str, set[str]] = {}
    for file in files:
        modules.setdefault(file.stem, set()).update(definitions(file))
    named = re.findall(
        r"`([a-z_]+)\.([A-Za-z_.]+)(?:\(\))?`", (ROOT / "docs" / page).read_text(encoding="utf-8")
    )
    checked = [
        (m, name) for m, name in named if m in modules and not name.endswith(("py", "md", "json"))
    ]
    assert len(checked) > 15
    assert [f"{m}.{name}" for m, name in checked if name not in modules[m]] == []


def test_readme_has_at_most_120_lines():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_images_are_small_and_used():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    images = list((ROOT / "docs/images").iterdir())
    assert images
    for image in images:
        assert image.stat().st_size < 200_000
        assert f"images/{image.name})" in text


def test_tables_of_results_equal_their_files():
    page = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    assert plot_results.with_tables(page) == page
    files = sorted(file.stem for file in (ROOT / "docs/results").glob("*.csv"))
    assert sorted(re.findall(r"<!-- table: (\w+) -->", page)) == files


def test_table_is_replaced_by_its_file(tmp_path):
    (tmp_path / "scores.csv").write_text('row,"both, %"\nxkd,77.8 ± 0.5\n')
    page = "before\n<!-- table: scores -->\nold\n<!-- end -->\nafter\n"
    assert plot_results.with_tables(page, tmp_path) == (
        "before\n<!-- table: scores -->\n\n| row | both, % |\n| --- | --- |\n"
        "| xkd | 77.8 ± 0.5 |\n\n<!-- end -->\nafter\n"
    )


@pytest.mark.parametrize("text,expected", [("36.4 ± 0.8", (36.4, 0.8)), ("76.2", (76.2, 0.0))])
def test_mean_and_spread_of_cell(text, expected):
    assert plot_results.mean_and_spread(text) == expected
