"""Whole runs on instances with GPUs: the local cloud's processor stands in for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cnd.local import Endpoint, clear_faults
from tests.conftest import a_state
from tests.support.faults import kill, lay
from tests.support.opencl import require_device
from tests.support.runs import Run, told
from tests.support.terminal import Terminal, clean_environment
from tests.support.waiting import eventually

ZONES = 6  # of the local cloud; `capacity` tries each
TYPE = ("--instance-type", "g4dn.xlarge")
# The cores do not search: all that is tested, the device has tested.
GPU_ONLY = ("--kernel", "opencl", *TYPE)


@pytest.fixture(scope="module")
def gpu_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state folder with a local cloud whose hosts may have a GPU."""
    require_device()
    with a_state(tmp_path_factory, "gpu") as folder:
        yield folder


@pytest.fixture
def terminal(gpu_state: Path, tmp_path: Path) -> Iterator[Terminal]:
    environment = {**clean_environment(gpu_state), "CND_OPENCL_CPU": "1"}
    user = Terminal(gpu_state, environment, tmp_path)
    user.cloud()  # forked, see tests/conftest.py
    before = user.runs()
    yield user
    if user.runs() != before:
        user.scram()


def devices(folder: Path) -> list[dict[str, Any]]:
    return [event for event in told(folder, "worker.device") if "rate" in event]


def test_gpus_find_the_smallest_nonce_of_a_class(terminal: Terminal) -> None:
    result = terminal.json("start", "--d", "5", "--n", "2", *GPU_ONLY, "--smallest")
    assert (result["nonce"], result["smallest"]) == (46697, True)
    assert result["kernel"] == "opencl"
    assert {each["type"] for each in result["fleet"]} == {"g4dn.xlarge"}
    assert result["terminated"] == 2
    assert {event["index"] for event in devices(terminal.runs()[-1])} == {0, 1}


def test_gpus_exhaust_a_space_and_count_each_nonce_once(terminal: Terminal) -> None:
    space = ("--d", "9", "--nonces", "1000001", "--n", "2", "--bootstrap", "user-data")
    result = terminal.json("start", *space, *GPU_ONLY, status=11)
    assert (result["outcome"], result["tested"]) == ("exhausted", 1000001)
    assert result["repeated"] == 0
    assert devices(terminal.runs()[-1])


def room_for_one_gpu(terminal: Terminal) -> Endpoint:
    """Let there be room for one instance with a GPU, and for other types."""
    cloud = terminal.cloud()
    lay(cloud, "RunInstances", at_most=1, times=1 + ZONES + 1)
    lay(cloud, "RunInstances", code="InsufficientInstanceCapacity", times=ZONES)
    return cloud


@pytest.mark.slow
def test_a_search_by_gpus_ends_at_its_time_limit(terminal: Terminal) -> None:
    words = ("--d", "14", "--n", "1", "--t", "6", "--nonces", str(2**60))
    result = terminal.json("start", *words, *GPU_ONLY, status=10)
    assert result["outcome"] == "timeout"
    assert result["left_running"] == 0


def test_a_lost_gpu_host_leaves_its_class_to_a_host_without_one(
    terminal: Terminal,
) -> None:
    cloud = room_for_one_gpu(terminal)
    types = ("--instance-type", "g4dn.xlarge,c7a.large")
    words = ("--d", "14", "--n", "2", "--t", "100", "--nonces", str(2**60), *types)
    run = Run(terminal, "start", *words, "--json")
    eventually(lambda: devices(run.folder))
    clear_faults(cloud)
    launched = {e["type"]: e["host"] for e in run.told("instance.launched")}
    assert set(launched) == {"g4dn.xlarge", "c7a.large"}
    (joined,) = devices(run.folder)
    assert joined["host"] == launched["g4dn.xlarge"]
    kill(cloud, joined["host"])
    eventually(lambda: run.told("class.handed_over"))
    (handed,) = run.told("class.handed_over")
    assert handed["host"] == launched["c7a.large"]
    # What it had tested above its witnesses is tested again; nothing is left out.
    assert handed["start"] % 2 == joined["index"]
    assert terminal.run("stop").returncode == 0
    code, result = run.result()
    assert (code, result["outcome"]) == (12, "stopped")
    assert result["left_running"] == 0
    # No file for a GPU went to the other host: it had none to refuse.
    assert {event["host"] for event in run.told("worker.device")} == {joined["host"]}


def test_a_mixed_fleet_without_ssh_sends_what_a_gpu_needs_to_hosts_that_have_one(
    terminal: Terminal,
) -> None:
    cloud = room_for_one_gpu(terminal)
    space = ("--d", "9", "--nonces", "1000001", "--n", "2", "--bootstrap", "user-data")
    types = ("--instance-type", "g4dn.xlarge,c7a.large")
    result = terminal.json("start", *space, *types, status=11)
    clear_faults(cloud)
    assert (result["outcome"], result["tested"]) == ("exhausted", 1000001)
    kinds = {each["type"]: each["id"] for each in result["fleet"]}
    assert set(kinds) == {"g4dn.xlarge", "c7a.large"}
    # A host that got them would report a GPU, or the reason why it has none.
    reports = told(terminal.runs()[-1], "worker.device")
    assert {event["host"] for event in reports} <= {kinds["g4dn.xlarge"]}


def test_the_plan_of_a_gpu_names_the_image(terminal: Terminal) -> None:
    planned = terminal.ask("plan", "--d", "9", "--n", "4", *TYPE)["plan"]
    assert (planned["image"], planned["boot_allowance"]) == ("gpu", 900)
    mixed = ("--instance-type", "g4dn.xlarge,c7a.large")
    assert terminal.ask("plan", "--d", "9", *mixed)["plan"]["image"] == "auto"
