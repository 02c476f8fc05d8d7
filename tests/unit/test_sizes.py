"""No file, class or function of `cnd` outgrows what can be held in the head."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).parents[2] / "cnd"
MOST_LINES_OF_FILE = 500
MOST_LINES_OF_FUNCTION = 60
MOST_PARAMETERS = 8  # besides self
MOST_METHODS = 25
ALONE = "pow.py"  # its docstring says why it is one file
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@functools.cache
def parsed() -> list[tuple[str, ast.AST]]:
    return [
        (str(path.relative_to(ROOT)), node)
        for path in sorted(ROOT.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (*FUNCTIONS, ast.ClassDef))
    ]


def lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how many lines a function has, its docstring and decorators aside."""
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return (node.end_lineno or 0) - body[0].lineno + 1 if body else 0


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return sum(argument.arg not in ("self", "cls") for argument in named)


def test_no_file_is_too_long() -> None:
    counted = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in ROOT.rglob("*.py")
    }
    long = {n: c for n, c in counted.items() if c > MOST_LINES_OF_FILE and n != ALONE}
    assert long == {}


def test_no_function_is_too_long_or_takes_too_much() -> None:
    wrong = {
        f"{name}:{node.name}": (lines(node), parameters(node))
        for name, node in parsed()
        if isinstance(node, FUNCTIONS)
        if lines(node) > MOST_LINES_OF_FUNCTION or parameters(node) > MOST_PARAMETERS
    }
    assert wrong == {}


def test_no_class_has_too_many_methods() -> None:
    wrong = {
        f"{name}:{node.name}": count
        for name, node in parsed()
        if isinstance(node, ast.ClassDef)
        if (count := sum(isinstance(each, FUNCTIONS) for each in node.body))
        > MOST_METHODS
    }
    assert wrong == {}
