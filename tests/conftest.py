"""Shared by all tests: a state folder and a local cloud of the tests' own."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from cnd import local
from tests.support.forking import NEW_OBJECTS
from tests.support.local_cloud import environment
from tests.support.terminal import (
    Terminal,
    clean_environment,
    paced_environment,
)

# What is ignored in the background of a shell, or under nohup, would be by all that the
# tests start; what is handled, if only by doing nothing, would not.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)

# Where Python may not keep what it compiled, each of a thousand processes compiles all
# sources again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# How long an example takes says nothing on a machine that does ten other things.
settings.register_profile(
    "tests", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")

gc.set_threshold(NEW_OBJECTS)  # new objects before Python looks for garbage: rarely
WAITING = 8  # test processes beside one for each core


def pytest_addoption(parser: pytest.Parser) -> None:
    what = "also run what buys machines on AWS, for a few cents (tests/live)"
    parser.addoption("--live", action="store_true", help=what)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_auto_num_workers() -> int:
    """Return what `-n auto` is: more than cores, as most tests wait for something."""
    return (os.cpu_count() or 1) + WAITING


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the tests that mostly wait, those of faults, among those that compute.

    Together they would be the last, and the cores idle.  Modules stay together, as some
    have a cloud of their own.
    """
    waiting = [item for item in items if "tests/fault/" in item.nodeid]
    others = [item for item in items if "tests/fault/" not in item.nodeid]
    spread: list[pytest.Item] = []
    done = placed = 0
    for _, module in groupby(others, lambda item: item.path):
        group = list(module)
        done += len(group)
        due = len(waiting) * done // len(others)
        spread += [*waiting[placed:due], *group]
        placed = due
    items[:] = [*spread, *waiting[placed:]]


def pytest_collection_finish() -> None:
    """Have Python never look at the tests themselves for garbage: they are many."""
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Spare test processes beside each other pytest's last two looks for garbage.

    They take half a second, and xdist shows none of the warnings that come of them.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        gc.freeze()


@contextlib.contextmanager
def a_state(factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    folder = factory.mktemp(name)
    yield folder
    with environment(folder):
        local.down()


@pytest.fixture(scope="session")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state folder whose local cloud is gone after the tests."""
    with a_state(tmp_path_factory, "state") as folder:
        yield folder


@pytest.fixture(scope="session")
def paced_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same, for a local cloud whose hosts search slowly: see `paced`."""
    with a_state(tmp_path_factory, "paced") as folder:
        yield folder


@pytest.fixture
def terminal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Terminal]:
    """A user in some folder; whatever they left running is terminated afterwards."""
    if request.node.get_closest_marker("paced"):
        folder = request.getfixturevalue("paced_state")
        user = Terminal(folder, paced_environment(folder), tmp_path)
    else:
        folder = request.getfixturevalue("state")
        user = Terminal(folder, clean_environment(folder), tmp_path)
    user.cloud()  # forked: one that a command starts takes a second of computing
    before = user.runs()
    yield user
    if user.runs() != before:
        user.scram()
