"""Measures the docstrings of all public functions and methods of the packages.

    python -m benchmarks.docstrings [--list]

A public function lacks a part where

  docstring   there is none;
  arguments   two or more arguments are not named in it; an argument with the name of its type, such
              as `config: Config`, needs none;
  raises      it does not name an exception that the function raises, by itself or in a private
              function of its module;
  shapes      an argument or result is an array without a jaxtyping annotation, and the docstring
              has neither a shape in brackets nor a dtype.

Prints how many functions have each part of those that need it, and the functions that lack one:
the 20 worst, or all with `--list`.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_pipelines.command_parser import command_parser

ROOT = Path(__file__).parents[1]
PACKAGES = ("xkd_jax", "data_pipelines")
PARTS = ("docstring", "arguments", "raises", "shapes")
# Errors of the caller and ends of loops, which are not part of a function's contract.
_UNSTATED = {"NotImplementedError", "AssertionError", "StopIteration", "SystemExit"}
_ARRAY = re.compile(r"(?<![\w\[])(np\.ndarray|jax\.Array)\b")
_SHAPE = re.compile(r"\[[^\]]*\]|\b(scalars?|shapes?|u?int\d+|b?float\d+|bool|dtypes?)\b")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclasses.dataclass(frozen=True)
class Measured:
    """One public function.

    Attributes:
      name: module and qualified name.
      needs: required parts of its docstring.
      lacks: {missing part: what is missing}.
    """

    name: str
    needs: tuple[str, ...]
    lacks: dict[str, str]


def measure(source: str, module: str) -> list[Measured]:
    """Measures the public functions and methods of one module.

    Args:
      source: its text.
      module: its dotted name.
    """
    body = ast.parse(source).body
    functions = {node.name: node for node in body if isinstance(node, Function)}
    found = []
    for owner, function in _public(body):
        methods = {n.name: n for n in owner.body if isinstance(n, Function)} if owner else {}
        text = ast.get_docstring(function) or ""
        stated = f"{text}\n{ast.get_docstring(owner) or ''}" if owner else text
        missing = {"docstring": "" if text else "none"}
        if arguments := _arguments(function):
            unnamed = [name for name in arguments if not re.search(rf"\b{name}\b", stated)]
            missing["arguments"] = ", ".join(unnamed) if len(unnamed) > 1 else ""
        if raised := _raised(function, functions, methods, set()):
            missing["raises"] = ", ".join(sorted(n for n in raised if n not in stated))
        if _has_bare_array(function):
            missing["shapes"] = "" if _SHAPE.search(stated) else "no shape or dtype"
        qualified = (
            f"{module}.{owner.name}.{function.name}" if owner else f"{module}.{function.name}"
        )
        lacks = {part: what for part, what in missing.items() if what}
        found.append(Measured(qualified, tuple(missing), lacks))
    return found


def measure_packages() -> list[Measured]:
    """Measures every public function of `PACKAGES`."""
    found = []
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            found += measure(file.read_text(encoding="utf-8"), module.removesuffix(".__init__"))
    return found


def table(found: Sequence[Measured]) -> str:
    """Returns the counts of each part as text."""
    lines = [f"{len(found)} public functions", f"{'part':10} {'need':>5} {'have':>5} {'%':>6}"]
    for part in PARTS:
        need = sum(part in one.needs for one in found)
        have = need - sum(part in one.lacks for one in found)
        lines.append(f"{part:10} {need:5} {have:5} {100 * have / max(need, 1):6.1f}")
    return "\n".join(lines)


def _public(body: Sequence[ast.stmt]) -> Iterator[tuple[ast.ClassDef | None, Function]]:
    """Yields public functions, and public methods of public classes; see `_is_measured`."""
    for node in body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield None, node
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in node.body:
                if isinstance(method, Function) and _is_measured(method):
                    yield node, method


def _is_measured(method: Function) -> bool:
    """Whether a method is public and neither a property nor a declaration of a Protocol."""
    return not (
        method.name.startswith("_")
        or any("property" in ast.unparse(d) for d in method.decorator_list)
        or ast.unparse(method.body[-1]) == "..."
    )


def _arguments(function: Function) -> list[str]:
    """Returns the arguments whose names differ from their type."""
    every = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    named = []
    for argument in every:
        annotation = ast.unparse(argument.annotation) if argument.annotation else ""
        type_words = re.sub(r"[^a-z]", " ", annotation.lower())
        obvious = argument.arg.replace("_", "") in type_words.split()
        if argument.arg not in ("self", "cls") and not obvious:
            named.append(argument.arg)
    return named


def _raised(
    function: Function, functions: dict[str, Function], methods: dict[str, Function], seen: set[str]
) -> set[str]:
    """Returns the exceptions raised by a function or by private functions that it calls."""
    raised: set[str] = set()
    for node in _own_nodes(function):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            names = re.findall(r"\b[A-Z]\w+", ast.unparse(node.exc.func))
            raised |= set(names) - _UNSTATED
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            known = functions.get(called) or methods.get(called.removeprefix("self."))
            if known and known.name.startswith("_") and known.name not in seen:
                seen.add(known.name)
                raised |= _raised(known, functions, methods, seen)
    return raised


def _own_nodes(function: Function) -> Iterator[ast.AST]:
    """Yields nodes of a function's body, without nested functions, classes and `try` bodies."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            continue
        children = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.Try) and node.handlers:  # exceptions may be caught
            children = [child for child in children if child not in node.body]
        waiting += children


def _has_bare_array(function: Function) -> bool:
    every = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    annotations = [a.annotation for a in every if a.annotation] + [function.returns]
    return any(_ARRAY.search(ast.unparse(a)) for a in annotations if a is not None)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = command_parser("benchmarks.docstrings", __doc__)
    parser.add_argument("--list", action="store_true", help="all functions that lack a part")
    arguments = parser.parse_args(argv)
    found = measure_packages()
    print(table(found))
    worst = sorted((one for one in found if one.lacks), key=lambda one: (-len(one.lacks), one.name))
    for one in worst if arguments.list else worst[:20]:
        print(f"{one.name}  " + "; ".join(f"{part}: {what}" for part, what in one.lacks.items()))


if __name__ == "__main__":
    main()
