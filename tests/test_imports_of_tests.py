"""No test imports another one; shared helpers are other files."""

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = sorted(HERE.rglob("*.py"))


def imported(source: str) -> list[str]:
    """The modules that Python source imports, including imported names that are modules."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [node.module or "", *(alias.name for alias in node.names)]
    return names


def names_of_tests(names: list[str]) -> list[str]:
    return [name for name in names if re.match(r"test_|conftest$", name.split(".")[-1])]


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(HERE)))
def test_no_file_imports_test(file):
    assert names_of_tests(imported(file.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "line",
    [
        "import test_kill", "from test_kill import run", "from conftest import small",
        "from training import test_kill", "from . import test_kill", "import training.test_kill",
        "def use():\n    import test_kill",
    ],
)  # fmt: skip
def test_import_of_test_is_found(line):
    assert names_of_tests(imported(line))
