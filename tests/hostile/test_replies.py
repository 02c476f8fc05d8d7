"""Whatever answers instead of the cloud, a fleet ends, or is named.

A hotel's network, a proxy or a server that breaks off: for some seconds of a run it
answers every call, or for good.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import pytest

from cnd.local import Endpoint
from tests.fault.truth import Victim
from tests.support.phases import phased
from tests.support.portal import ANSWERS, Portal, portal
from tests.support.processes import ended
from tests.support.runs import Run

SECONDS = 2.0  # for which trouble lasts that goes by
ELSEWHERE = ("--cloud", "aws", "--ssh-from", "127.0.0.1/32")
JOB = ("start", "--d", "30", "--n", "2", "--t", "4", *ELSEWHERE, "--json")


@pytest.fixture
def between(terminal: Victim, cloud: Endpoint) -> Iterator[Portal]:
    """A server in front of the user's cloud, which is AWS to them."""
    with portal(cloud) as found:
        terminal.environment |= {
            **terminal.exports(),
            "AWS_ENDPOINT_URL": found.url,
            # No proxy has a say where an endpoint is on this machine.
            "HTTP_PROXY": "http://127.0.0.1:1",
            "http_proxy": "http://127.0.0.1:1",
        }
        yield found


def trouble(between: Portal, answer: str) -> None:
    """Let `answer` come in place of every reply, for `SECONDS`."""
    between.answer = answer
    threading.Timer(SECONDS, lambda: setattr(between, "answer", "")).start()


def begins_with(between: Portal, operation: str, answer: str) -> None:
    """Let the trouble begin with the first such call, which the cloud still gets."""
    struck = threading.Event()

    def heard(called: str) -> None:
        if called == operation and not struck.is_set():
            struck.set()
            trouble(between, answer)
            between.spoils = True
        elif struck.is_set():
            between.spoils = False

    between.heard = heard


@pytest.mark.parametrize(
    ("answer", "phase"),
    phased(ANSWERS, ("html", "launch"), ("empty", "search"), ("huge", "end")),
)
def test_trouble_that_goes_by_costs_a_run_nothing(
    terminal: Victim, between: Portal, answer: str, phase: str
) -> None:
    if phase != "search":
        first = "RunInstances" if phase == "launch" else "TerminateInstances"
        begins_with(between, first, answer)
    run = Run(terminal, *JOB)
    if phase == "search":
        run.searching(2)
        trouble(between, answer)
    code, out, err = ended(run.process, within=240)
    assert "Traceback" not in err
    assert code == 10, err
    result = json.loads(out)
    assert (result["outcome"], result["terminated"]) == ("timeout", 2)
    assert result["left_running"] == 0
    assert result["logs"]["s3"]
    assert terminal.live() == []
    queues = terminal.client("sqs").list_queues(QueueNamePrefix=f"cnd-{result['run']}")
    assert not queues.get("QueueUrls")


def test_a_reply_without_end_is_not_read_into_memory(
    terminal: Victim, between: Portal
) -> None:
    between.answer = "huge"
    done = terminal.run("status", "--cloud", "aws")
    assert done.returncode == 3
    assert "a reply of more than 32 MiB" in done.stderr
    assert len(done.stderr.splitlines()) == 2  # and the way out


@pytest.mark.slow  # a termination is tried for five minutes
@pytest.mark.parametrize("answer", ["html", "empty"])
def test_trouble_that_stays_is_reported_with_all_that_may_run(
    terminal: Victim, between: Portal, answer: str
) -> None:
    run = Run(terminal, *JOB)
    hosts = run.searching(2)
    between.answer = answer
    began = time.monotonic()
    code, _, err = ended(run.process, within=500)
    assert code == 5, err
    assert 250 < time.monotonic() - began < 400
    assert all(host in err for host in hosts)
    assert f"fab scram --run {run.folder.name}" in err
    assert "--region us-east-1" in err
    between.answer = ""
    assert terminal.run("scram", "--cloud", "aws").returncode == 0
    assert terminal.live() == []
