"""Imports go down only, and the outside things stay each in their place."""

from __future__ import annotations

import pytest

from tests.support.imports import (
    LEVEL,
    between_folders,
    between_modules,
    is_below,
    modules,
    room,
)

MOST_ARROWS = 90  # with the local cloud as one folder
# Who may import a library, or a part of the project that is an outside thing too.
OWNERS = {
    "invoke": {"cli", "tasks"},
    "fabric": {"bench.other_tools", "cli", "transport"},
    "paramiko": {"transport"},
    "botocore": {"cloud", "local"},
    "boto3": {"cloud", "local.api.backends"},
    "rich": {"view"},
    "jinja2": {"view.html_report"},
    "psutil": {"bench.process_usage"},
    "matplotlib": {"view", "bench.charts"},
    "moto": {"local.api"},
    "asyncssh": {"local.host"},
    "cnd.local": {"cli.tasks_local", "cloud", "local"},
    "cnd.bench": {"cli", "bench"},
}
# On an instance: the standard library, and each other.
ON_INSTANCE = {"on_instance", "pow"}
GROUND = {"errors", "system", "__init__"}


def test_every_folder_has_its_level() -> None:
    assert {room(name) for name in modules()} == LEVEL.keys()


def test_imports_go_down_only() -> None:
    wrong = [f"{a} imports {b}" for a, b in between_folders() if not is_below(a, b)]
    assert sorted(wrong) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    left = set(between_modules())
    # What imports nothing that is left is in no circle: take it away, over and over.
    while ends := {b for _, b in left} - {a for a, _ in left}:
        left = {(a, b) for a, b in left if b not in ends}
    assert sorted(left) == []


def test_the_folders_stay_loosely_bound() -> None:
    arrows = {(a.split(".")[0], b.split(".")[0]) for a, b in between_folders()}
    assert sum(a != b for a, b in arrows) <= MOST_ARROWS


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_is_used_by_its_owners_only(library: str) -> None:
    users = {
        name
        for name, imported in modules().items()
        if any((each + ".").startswith(library + ".") for each in imported)
    }
    owners = OWNERS[library]
    assert {u for u in users if not {u, room(u), u.split(".")[0]} & owners} == set()


def test_what_runs_on_instances_imports_nothing_of_the_rest() -> None:
    wrong = [
        f"{a} imports {b}"
        for a, b in between_modules()
        if room(a) in ON_INSTANCE and room(b) not in ON_INSTANCE | {"__init__"}
    ]
    assert wrong == []


def test_the_local_cloud_imports_nothing_of_the_rest_but_the_ground() -> None:
    mine = [(a, b) for a, b in between_modules() if a.split(".")[0] == "local"]
    foreign = {room(b) for _, b in mine if b.split(".")[0] != "local"}
    assert foreign <= GROUND
