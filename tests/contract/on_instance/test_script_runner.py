"""A user's own script, run as a worker: exactly one final event, and nothing left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cnd import pow as worker
from cnd.on_instance import script_runner
from cnd.run import custom_worker
from tests.support.processes import alive
from tests.support.waiting import eventually

ENDLESS = "import time\nwhile True: time.sleep(0.05)"


class Place:
    """A folder of a host, with everything that a script needs there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for module in (worker, script_runner):
            assert module.__file__
            shutil.copy(module.__file__, folder)

    def start(self, text: str, *, time_limit: float = 30.0, words: Any = ()) -> int:
        """Start a script; return the process id of the script runner."""
        (self.folder / "worker.py").write_text(text)
        job = {
            "run": "r1",
            "index": 1,
            "of": 3,
            "start": 4,
            "nonces": 100,
            "time_limit": time_limit,
            "progress": 0.1,
            "script": "worker.py",
            "words": words,
        }
        (self.folder / "job.json").write_text(json.dumps(job))
        program = [sys.executable, "-I", "-S", "script_runner.py"]
        done = subprocess.run(
            [*program, "--job", "job.json", "--detach", "part"],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return int(json.loads(done.stdout)["pid"])

    def events(self) -> list[dict[str, Any]]:
        lines = (self.folder / "part" / "events.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def last(self) -> dict[str, Any]:
        """Return the final event as soon as it is there."""
        ends = ("found", "exhausted", "failed", "stopped", "timeout")
        eventually(lambda: self.events()[-1]["event"] in ends)
        return self.events()[-1]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    pid = (tmp_path / "part" / "worker.pid").read_text().strip()
    # The process lives a little longer than its final event.
    eventually(lambda: not pid or not alive(int(pid)))


def test_a_script_gets_its_arguments_and_its_class(place: Place) -> None:
    text = (
        "import sys, json; print(json.dumps({'event': 'failed', 'reason': sys.argv}))"
    )
    place.start(text, words=["a b", "--c"])
    assert place.last()["reason"][1:] == [
        *("a b", "--c", "--index", "1", "--of", "3", "--start", "4"),
        *("--nonces", "100"),
    ]


def test_events_of_a_script_are_passed_on_and_the_rest_is_noise(place: Place) -> None:
    place.start(
        "import json, time\n"
        "print('hello')\n"
        'print(\'{"event": "progress", "cursor": 7}\', flush=True)\n'
        "time.sleep(0.5)\n"
        "print(json.dumps({'event': 'found', 'nonce': 7, 'verdict': 'true'}))\n"
        "print('too late')\n"
    )
    last = place.last()
    assert (last["event"], last["nonce"], last["cursor"]) == ("found", 7, 7)
    assert "verdict" not in last
    counted = [e for e in place.events() if "tested" in e or "rate" in e]
    assert not counted  # it has not reported how much it tested
    kinds = [event["event"] for event in place.events()]
    assert kinds[0] == "started"
    assert kinds.count("noise") == 1
    assert set(kinds[1:-1]) == {"noise", "progress"}


def test_exhausted_is_reported_with_the_whole_class(place: Place) -> None:
    place.start('print(\'{"event": "exhausted"}\')')
    last = place.last()
    assert (last["event"], last["cursor"], last["tested"]) == ("exhausted", 100, 32)


def test_the_final_event_counts_without_its_newline(place: Place) -> None:
    place.start("""print('{"event": "found", "nonce": 7}', end="")""")
    assert place.last()["nonce"] == 7


@pytest.mark.parametrize("text", ["", "import sys; sys.exit(3)", "not python"])
def test_a_script_that_ends_without_a_final_event_has_failed(
    place: Place, text: str
) -> None:
    place.start(text)
    last = place.last()
    assert last["event"] == "failed"
    assert "without a final event" in last["reason"]


def test_a_script_is_ended_at_the_time_limit(place: Place) -> None:
    place.start(ENDLESS, time_limit=0.5)
    assert place.last()["event"] == "timeout"


def test_a_stop_ends_a_script_that_ignores_it_and_what_it_has_started(
    place: Place,
) -> None:
    pid = place.start(
        "import signal, subprocess, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "open('pids', 'w').write(str(child.pid))\n" + ENDLESS
    )
    path = place.folder / "pids"
    eventually(lambda: path.exists() and path.read_text())
    os.kill(pid, signal.SIGTERM)
    assert place.last()["event"] == "stopped"
    child = int(path.read_text())
    eventually(lambda: not alive(child))


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        ('print(\'{"valid": true, "answer": "quiz"}\')', "true"),
        ("print('so'); print('{\"valid\": false}')", "false"),
        ("print('{\"valid\": 1}')", "unknown"),
        ("print('yes')", "unknown"),
        ("raise ValueError", "unknown"),
        ("import time; time.sleep(60)", "unknown"),
    ],
)
def test_only_a_clear_answer_of_the_script_confirms_or_refutes_a_claim(
    tmp_path: Path, body: str, verdict: str
) -> None:
    script = tmp_path / "worker.py"
    script.write_text(body)
    patience = 2.0 if "sleep" in body else 60.0  # it may take long to start Python
    found = custom_worker.check(script, ["--salt", "a b"], 7, patience=patience)
    assert found["verdict"] == verdict
    assert found["verdict_reason"]
    assert found.get("answer") == ("quiz" if verdict == "true" else None)
