"""Imports go down only, and the outside things stay each in their place."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "cnd"

# The folders and single files of `cnd`, from the top: each imports from lower lines
# only, and never from its own line.  `docs/architecture.md` says what each is for.
LEVELS = [
    ["__main__"],
    ["tasks"],
    ["cli"],
    ["bench"],
    ["view"],
    ["planning", "run"],
    ["provision"],
    ["transport"],
    ["ec2", "sqs", "s3logs"],
    ["cloud"],
    ["model"],
    ["on_instance"],
    ["local.api"],
    ["local"],
    ["local.host"],
    ["kernel", "pow", "system"],
    ["errors", "__init__"],
]
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
MOST_ARROWS = 113
# Who may import a library, or a part of the project that is an outside thing too.
OWNERS = {
    "invoke": {"cli", "tasks"},
    "fabric": {"bench.other_tools", "cli", "tasks", "transport"},
    "paramiko": {"transport"},
    "botocore": {"cloud", "local"},
    "boto3": {"cloud", "local.api.backends"},
    "rich": {"view"},
    "jinja2": {"view.html_report"},
    "psutil": {"bench.process_usage"},
    "matplotlib": {"view", "bench.charts"},
    "moto": {"local.api"},
    "asyncssh": {"local.host"},
    "cnd.local": {"cloud", "local", "tasks"},
    "cnd.bench": {"cli", "bench"},
}
# On an instance: the standard library, and each other.
ON_INSTANCE = {"on_instance", "pow"}


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Return every module of `cnd` by its name below it, as `run.job` or `ec2`."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__") or "__init__"
        found[name] = ast.parse(path.read_text())
    return found


def room(module: str) -> str:
    """Return the folder of a module; its own name where it stands in none."""
    parts = module.split(".")
    if parts[0] == "local" and parts[1:2] in (["api"], ["host"]):
        return ".".join(parts[:2])
    return parts[0]


def imports(tree: ast.Module) -> set[str]:
    """Return the dotted names that a module imports, in whatever way."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@functools.cache
def arrows() -> frozenset[tuple[str, str]]:
    """Return (importer, imported) for all modules of `cnd`."""
    return frozenset(
        (name, target.removeprefix("cnd.") if target != "cnd" else "__init__")
        for name, tree in modules().items()
        for target in imports(tree)
        if target == "cnd" or target.removeprefix("cnd.") in modules()
        if target.startswith("cnd")
    )


def between_rooms() -> set[tuple[str, str]]:
    """Return the arrows between folders, but for those to `cnd` itself."""
    found = {(room(a), room(b)) for a, b in arrows()}
    return {(a, b) for a, b in found if a != b and b != "__init__"}


def is_below(importer: str, imported: str) -> bool:
    return LEVEL[room(imported)] > LEVEL[room(importer)]


def test_every_folder_has_its_level() -> None:
    assert {room(name) for name in modules()} == LEVEL.keys()


def test_imports_go_down_only() -> None:
    wrong = [f"{a} imports {b}" for a, b in between_rooms() if not is_below(a, b)]
    assert sorted(wrong) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    left = {(a, b) for a, b in arrows() if a != b}
    # What imports nothing that is left is in no circle: take it away, over and over.
    while ends := {b for _, b in left} - {a for a, _ in left}:
        left = {(a, b) for a, b in left if b not in ends}
    assert sorted(left) == []


def test_the_folders_stay_few_and_loosely_bound() -> None:
    assert len(between_rooms()) <= MOST_ARROWS


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_is_used_by_its_owners_only(library: str) -> None:
    users = {
        name
        for name, tree in modules().items()
        if any((t + ".").startswith(library + ".") for t in imports(tree))
    }
    owners = OWNERS[library]
    assert {u for u in users if not {u, room(u), u.split(".")[0]} & owners} == set()


def test_what_runs_on_instances_imports_nothing_of_the_rest() -> None:
    wrong = [
        (name, other)
        for name, other in arrows()
        if room(name) in ON_INSTANCE and room(other) not in ON_INSTANCE | {"__init__"}
    ]
    assert wrong == []


def test_the_local_cloud_imports_nothing_of_the_rest_but_the_ground() -> None:
    foreign = {room(b) for a, b in arrows() if a.split(".")[0] == "local"}
    assert foreign <= {
        "errors",
        "system",
        "__init__",
        "local",
        "local.api",
        "local.host",
    }
