"""Tests share by tests/support only: no test module imports from another one."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).parents[1]


def imported(path: Path) -> set[str]:
    """Return the modules that a file imports from."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def is_test(module: str) -> bool:
    return module.startswith("tests.") and module.split(".")[-1].startswith("test_")


def test_no_test_module_imports_from_another() -> None:
    wrong = {
        f"{path.relative_to(TESTS)} imports {module}"
        for path in TESTS.rglob("*.py")
        for module in imported(path)
        if is_test(module)
    }
    assert wrong == set()


def test_each_helper_has_one_definition() -> None:
    shared = {"eventually", "searching", "client", "Terminal", "Run"}
    defined = [
        node.name
        for path in sorted(TESTS.rglob("*.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in shared
    ]
    assert sorted(defined) == sorted(shared)
