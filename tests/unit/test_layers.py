"""Imports go down only, and the outside things stay each in their place."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "cnd"

# From the top; a module may import from lower lines only.
LAYERS = [
    ["__main__"],
    ["tasks"],
    ["tasks_bench"],
    ["contest"],
    ["tasks_plan", "tasks_look"],
    ["report_files"],
    ["scaling_chart"],
    ["pictures", "report"],
    ["timeline"],
    ["cli", "survey", "market", "doctor", "tidy", "follow"],
    ["order"],
    ["forecast"],
    ["job", "live"],
    ["view", "board", "watch"],
    ["launch", "scram", "mailbox"],
    ["provision"],
    ["parcel", "fleet"],
    ["account", "prices", "result", "remote", "rivals", "takeover", "orphans", "cost"],
    ["crew", "inbox", "record", "again"],
    ["journal", "race", "bootstrap", "rates", "here", "capacity", "scaling", "scale"],
    ["hold", "gateway"],
    ["spot"],
    ["cloud", "ec2", "sqs", "s3logs"],
    ["own", "push", "recheck", "witness", "instance_report"],
    [
        "aws",
        "plan",
        "events",
        "keys",
        "arguments",
        "chances",
        "settings",
        "signals",
        "descriptors",
    ],
    ["credentials"],
    ["replies"],
    ["naming"],
    ["agent", "payload", "bench", "footprint", "offers", "palette", "terminator"],
    ["runner"],
    ["local", "home"],
    [
        *("errors", "private", "shape", "small", "streams", "pow", "keeper", "fetch"),
        *("kernel", "loader", "pull", "aside", "lines", "link", ""),
    ],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
SAME_LEVEL = {("account", "ec2"), ("local", "home")}
OWNERS = {
    "paramiko": {"remote", "gateway", "keys"},
    "fabric": {"cli", "remote", "gateway", "rivals", "tasks"},
    "botocore": {"aws", "cloud", "credentials", "replies"},
    "boto3": {"cloud"},
    "rich": {"live"},
    "matplotlib": {"pictures", "scaling_chart"},
}


@functools.cache
def modules() -> list[tuple[str, ast.Module]]:
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found.append((parts[0], ast.parse(path.read_text())))
    return found


def imports(tree: ast.Module) -> set[str]:
    """Return the dotted names that a module imports, in whatever way."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "cnd":
            found |= {f"cnd.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def test_imports_go_down_only() -> None:
    wrong = []
    for name, tree in modules():
        for target in imports(tree):
            if not target.startswith("cnd."):
                continue
            other = target.split(".")[1]
            below = LEVEL[other] > LEVEL.get(name, 0) or other == name
            if not below and (name, other) not in SAME_LEVEL:
                wrong.append(f"{name} imports {other}")
    assert wrong == []


def test_every_module_has_its_layer() -> None:
    names = {name for name, _ in modules()} - {"__init__"}
    assert names <= LEVEL.keys()


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_is_used_by_its_owners_only(library: str) -> None:
    users = {
        name
        for name, tree in modules()
        if name != "local"
        and any(target.split(".")[0] == library for target in imports(tree))
    }
    assert users <= OWNERS[library]


def test_the_embedded_cloud_is_known_to_cloud_and_tasks_only() -> None:
    users = {
        name
        for name, tree in modules()
        if name != "local" and "cnd.local" in imports(tree)
    }
    assert users == {"cloud", "tasks"}


def test_the_embedded_cloud_imports_nothing_of_the_rest_but_the_lowest() -> None:
    foreign = {
        target
        for name, tree in modules()
        if name == "local"
        for target in imports(tree)
        if target.startswith("cnd.") and not target.startswith("cnd.local")
    }
    allowed = {"errors", "home", "private", "shape", "small"}
    assert foreign <= {f"cnd.{name}" for name in allowed}
