"""A fleet of 128 whose every tenth host fails, each in its way, loses no nonce.

By itself: `pytest -m slow tests/fault/test_large.py`.  A minute or two on two cores.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fault.truth import Victim, forget, require
from tests.support.faults import befall
from tests.support.runs import Run
from tests.support.terminal import clean_environment

pytestmark = pytest.mark.slow

FLEET = 128
NONCES = 80_000_000
RATE = 20_000  # nonces/s of each host: 31 s of search, if no host fails
NEVER_UP = 7  # the place of the one that never boots
# What befalls those that search: every tenth of the fleet, with the one above.
FAULTS: list[tuple[str, dict[str, float]]] = [
    ("kill", {}),
    ("freeze", {}),
    ("no-sshd", {}),
    ("interrupt", {"seconds": 0.2}),
    ("disk-full", {}),
    ("cut", {}),
] * 2


@pytest.fixture
def crowd(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Victim]:
    """A user whose local cloud holds each host to a rate: 128 share two cores."""
    state = tmp_path / "state"
    environment = {**clean_environment(state), "CND_LOCAL_RATE": str(RATE)}
    found = Victim(state, environment, tmp_path)
    yield found
    forget(found, found.cloud())
    request.node.user_properties.append(("faults", found.faults))
    require(found, set())
    assert found.run("local", "down").returncode == 0


def test_one_in_ten_may_fail_and_every_nonce_is_tested(crowd: Victim) -> None:
    cloud = crowd.cloud()
    befall(cloud, NEVER_UP, "never-boots")
    words = ("start", "--d", "30", "--n", str(FLEET), "--nonces", str(NONCES))
    run = Run(crowd, *words, "--t", "120", "--boot", "30", "--json")
    run.has_told("worker.started", FLEET - 1)

    places = {event["index"]: event["host"] for event in run.told("worker.started")}
    chosen = sorted(places)[:: len(places) // (len(FAULTS) + 1)]
    liar, *victims = [places[index] for index in chosen]
    # It may have a second class by now, that of the one which never boots.
    of_its_own = f"class-{chosen[0]}-from-{chosen[0]}/events.jsonl"
    (told,) = (cloud.folder / "hosts" / liar).rglob(of_its_own)
    with told.open("a") as file:
        file.write(json.dumps({"event": "found", "nonce": 12345}) + "\n")
    for host, (kind, more) in zip(victims, FAULTS, strict=False):
        befall(cloud, host, kind, **more)

    result = run.exhausted(NONCES)
    assert run.told("worker.refuted")[0]["host"] == liar
    lost = 1 + 1 + sum(kind != "cut" for kind, _ in FAULTS)  # with liar and never up
    assert len({event["index"] for event in run.told("class.handed_over")}) >= lost
    # At most what a host tests between two words on its progress, for each of them.
    assert result["repeated"] <= 2 * RATE * len(run.told("class.handed_over"))
    logs = len(list((run.folder / "logs").iterdir()))
    assert logs >= FLEET - lost
