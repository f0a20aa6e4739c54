"""Tests use public names; names that begin with an underscore are private to their module."""

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = sorted(HERE.rglob("*.py"))
# The only function that ends a process at once.
PUBLIC = {"os._exit"}
PRIVATE = re.compile(r"_[A-Za-z]\w*")
# monkeypatch.setattr(module, "name", ...), and unittest's mock.patch.object(module, "name")
SETTERS = {"setattr", "delattr", "getattr", "hasattr", "object"}


def private_names(source: str) -> list[str]:
    """Private names of other modules in Python source, as `line: name`."""
    return [
        f"{node.lineno}: {name}"
        for node in ast.walk(ast.parse(source))
        for name in _private_names_of(node)
    ]


def _private_names_of(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Attribute):
        owner = ast.unparse(node.value)
        own = owner in ("self", "cls", "super()") or f"{owner}.{node.attr}" in PUBLIC
        return [node.attr] if PRIVATE.fullmatch(node.attr) and not own else []
    if isinstance(node, ast.ImportFrom):
        parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
    elif isinstance(node, ast.Import):
        parts = [part for alias in node.names for part in alias.name.split(".")]
    elif isinstance(node, ast.Call) and _called(node) in SETTERS:
        texts = [a.value for a in node.args[:2] if isinstance(a, ast.Constant)]
        parts = [part for text in texts if isinstance(text, str) for part in text.split(".")]
    else:
        return []
    return [part for part in parts if PRIVATE.fullmatch(part)]


def _called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(HERE)))
def test_no_test_uses_private_names(file):
    assert private_names(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "module._name", "module._name()", "module._Class.method", "a.b._c = 1", "del a._b",
        "import package._module", "from package import _name", "from package._module import name",
        "monkeypatch.setattr(module, '_name', 1)", "monkeypatch.setattr('module._name', 1)",
        "patch.delattr(module, '_name')", "mock.patch.object(module, '_name')",
        "getattr(module, '_name')", "self.other._name", "def use():\n    module._name",
    ],
)  # fmt: skip
def test_private_name_is_detected(line):
    assert len(private_names(line)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "self._name", "cls._name", "super()._name()", "def _helper(): pass", "module.__file__",
        "_helper()", "for _ in range(3): pass", "os._exit(0)",
        "environment.setdefault('_NAME', '1')",
    ],
)  # fmt: skip
def test_own_or_public_names_are_permitted(line):
    assert private_names(line) == []
