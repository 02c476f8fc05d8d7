"""A search in pieces, whatever ended each of them: every nonce is tested."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.fault.kills import kill
from tests.fault.truth import Victim
from tests.support.runs import told
from tests.support.waiting import eventually

HARD = ("--d", "9")  # no nonce of the spaces here is golden
LONG = ("--t", "150")
REPORTS = ("worker.progress", "worker.exhausted")  # of what was tested


class Chain:
    """Runs of which each resumes the one before."""

    def __init__(self, terminal: Victim, nonces: int) -> None:
        self.terminal, self.nonces = terminal, nonces
        self.folders: list[Path] = []

    def words(self, n: int) -> list[str]:
        """Return the words of the next run: of the first, or of one that resumes."""
        if not self.folders:
            return ["start", *HARD, "--nonces", str(self.nonces), "--n", str(n)]
        return ["resume", self.folders[-1].name, "--n", str(n)]

    def ended_by_time(self, n: int, seconds: float) -> dict[str, Any]:
        return self._over("--t", str(seconds), n=n, status=10)

    def exhausted(self, n: int) -> dict[str, Any]:
        return self._over(*LONG, n=n, status=11)

    def _over(self, *words: str, n: int, status: int) -> dict[str, Any]:
        result = self.terminal.json(*self.words(n), *words, status=status)
        self._add(self.terminal.state / "cnd" / "runs" / result["run"])
        return result

    def killed(self, n: int, *words: str) -> None:
        """Kill the orchestrator once each worker has reported; the fleet goes on."""
        before = set(self.terminal.runs())
        process = self.terminal.spawn(*self.words(n), *(words or LONG))
        folder = self._searching(before, n)
        kill(self.terminal, process, before)
        self._add(folder)

    def ended_from_outside(self, n: int, *, hosts: int) -> dict[str, Any]:
        """Terminate some hosts, or all; let it go on with the others, then stop it."""
        before = set(self.terminal.runs())
        process = self.terminal.spawn(*self.words(n), *LONG, "--json")
        folder = self._searching(before, n)
        if hosts == n:
            self.terminal.run("scram", "--run", folder.name)
        else:
            some = [each["host"] for each in told(folder, "instance.launched")[:hosts]]
            self.terminal.client("ec2").terminate_instances(InstanceIds=some)
            eventually(lambda: told(folder, "class.handed_over"))
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=240)
        assert process.returncode in (4, 12, 130), err
        self.terminal.faults += hosts
        self._add(folder)
        result = json.loads(out)
        assert isinstance(result, dict)
        return result

    def _searching(self, before: set[Path], n: int) -> Path:
        def reported() -> bool:
            new = set(self.terminal.runs()) - before
            reports = (
                [e for kind in REPORTS for e in told(max(new), kind)] if new else []
            )
            return len({event["host"] for event in reports}) >= n

        eventually(reported)
        return max(set(self.terminal.runs()) - before)

    def _add(self, folder: Path) -> None:
        self.folders.append(folder)


def reported(folder: Path) -> int:
    """Return how many nonces the workers of a run have reported as tested."""
    tested = {e["index"]: e["tested"] for kind in REPORTS for e in told(folder, kind)}
    return sum(tested.values())


@pytest.mark.paced
def test_a_search_in_three_pieces_tests_every_nonce(terminal: Victim) -> None:
    """One orchestrator is killed with its whole fleet, one run loses a host."""
    # So many that none of the first two pieces is over before something befalls it.
    chain = Chain(terminal, nonces=900_000)
    chain.killed(3)
    early = terminal.call("resume", chain.folders[0].name)
    assert (early.returncode, len(early.stderr.splitlines())) == (2, 3)  # which cloud
    assert "still searches, without an orchestrator" in early.stderr
    terminal.run("scram")
    (known,) = [
        each["left"]
        for each in terminal.ask("runs")["runs"]
        if each["run"] == chain.folders[0].name
    ]
    assert chain.nonces - reported(chain.folders[0]) <= known < chain.nonces

    second = chain.ended_from_outside(4, hosts=1)
    assert second["resumes"] == chain.folders[0].name
    assert second["tested_before"] >= chain.nonces - known
    assert second["repeated_at_most"] >= second["repeated"]

    third = chain.exhausted(6)
    assert third["chain"] == [folder.name for folder in chain.folders[:2]]
    assert third["tested_in_all"] == chain.nonces
    again = terminal.call("resume", third["run"])
    assert (again.returncode, len(again.stderr.splitlines())) == (2, 2)
    assert "every nonce was tested" in again.stderr


@pytest.mark.slow
@pytest.mark.paced
@pytest.mark.parametrize("seed", range(3))
def test_a_search_in_five_pieces_of_any_length_tests_every_nonce(
    terminal: Victim, seed: int
) -> None:
    """Two orchestrators are killed; the fleet of one of them ends itself later."""
    chance = random.Random(seed)

    def some() -> int:
        return chance.randint(1, 7)

    chain = Chain(terminal, nonces=2_000_000)
    terminal.environment["CND_LOCAL_ORPHAN_SECONDS"] = "3"
    chain.killed(some())
    terminal.run("scram")
    if chance.random() < 0.5:
        chain.ended_by_time(some(), chance.uniform(0.5, 3))
    chain.killed(some(), "--t", "6")
    eventually(lambda: not terminal.live(), within=150)  # the search goes on, then ends
    left = len(chain.folders)
    n = some()
    result = chain.ended_from_outside(n, hosts=n)
    assert result["outcome"] in ("incomplete", "stopped")
    assert result["chain"] == [folder.name for folder in chain.folders[:left]]
    n = 1 + some()
    chain.ended_from_outside(n, hosts=1)
    last = chain.exhausted(some())
    assert last["tested_in_all"] == chain.nonces
