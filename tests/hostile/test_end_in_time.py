"""Nothing holds up the end of a fleet: no worker, disk, bucket or terminal.

Each case ends a run by Ctrl-C while something floods it or hangs, and measures how long
it takes from there until no instance lives, and what it costs in memory and on disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cnd.local import Endpoint, lay_fault
from tests.fault.truth import Victim, forget
from tests.support.faults import events_of, kill
from tests.support.processes import ended
from tests.support.runs import Run, told
from tests.support.terminal import BIN
from tests.support.waiting import SOON, eventually

ENDLESS = ("start", "--d", "30", "--n", "2", "--t", "600")
MEMORY = 300e6  # bytes; an undisturbed run takes some 130 MB
JOURNAL = 2e6  # bytes


class Watched:
    """A run whose peak of memory is watched until its process is gone."""

    def __init__(self, run: Run) -> None:
        self.run, self.peak = run, 0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        path = Path(f"/proc/{self.run.process.pid}/status")
        with contextlib.suppress(OSError, StopIteration):
            while True:
                lines = path.read_text().splitlines()
                line = next(each for each in lines if each.startswith("VmHWM"))
                self.peak = max(self.peak, 1024 * int(line.split()[1]))
                time.sleep(0.05)

    def end(self, terminal: Victim, what: str) -> None:
        """End it by Ctrl-C; tell how long that took and what it cost, and judge it."""
        terminal.hit(self.run.process)
        asked = time.monotonic()
        terminal.see_zero(asked, within=SOON)
        zero = time.monotonic() - asked
        code, _, err = ended(self.run.process)
        size = (self.run.folder / "events.jsonl").stat().st_size
        print(
            f"{what}: {zero:.1f} s to zero instances, {time.monotonic() - asked:.1f} s "
            f"to the end, {self.peak / 1e6:.0f} MB, journal {size / 1e6:.2f} MB"
        )
        assert code == 130, err
        assert self.peak < MEMORY
        assert size < JOURNAL


def flood(run: Run, cloud: Endpoint, data: bytes, times: int) -> None:
    """Have the worker of one host say `data`, over and over."""
    path = events_of(cloud, run.searching(2)[0])
    with path.open("ab") as file:
        for _ in range(times):
            file.write(data)


def test_a_worker_that_prints_as_fast_as_it_can_costs_neither_time_nor_memory(
    terminal: Victim, cloud: Endpoint
) -> None:
    run = Run(terminal, *ENDLESS)
    watched = Watched(run)
    flood(run, cloud, 28_000 * b"0123456789 is no event\n", 100)
    eventually(lambda: [e for e in run.told("worker.noise") if "dropped" in e])
    watched.end(terminal, "2.8 M short lines")
    assert len(run.told("worker.noise")) < 150


def test_a_line_without_an_end_costs_neither_time_nor_memory(
    terminal: Victim, cloud: Endpoint
) -> None:
    run = Run(terminal, *ENDLESS)
    watched = Watched(run)
    flood(run, cloud, 1_000_000 * b"x", 150)
    eventually(lambda: [e for e in run.told("worker.noise") if "dropped" in e])
    watched.end(terminal, "a line of 150 MB")


def test_the_last_event_of_a_loud_worker_is_read(
    terminal: Victim, cloud: Endpoint
) -> None:
    run = Run(terminal, *ENDLESS, "--json")
    flood(run, cloud, 100_000 * b"noise\n" + b'{"event": "failed"}\n', 1)
    eventually(lambda: run.told("class.handed_over"))
    run.interrupted()


def fill(descriptor: str) -> None:
    """Fill a pipe, so that its next writer is held up."""
    writer = os.open(descriptor, os.O_WRONLY | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, 1000 * b"x")
    os.close(writer)


def test_a_pipe_that_is_not_read_holds_up_its_lines_only(
    terminal: Victim, cloud: Endpoint
) -> None:
    run = Run(terminal, *ENDLESS, "--plain")
    flood(run, cloud, b"a line that is told\n", 20)
    fill(f"/proc/{run.process.pid}/fd/2")
    flood(run, cloud, b"a line that is told\n", 20)
    Watched(run).end(terminal, "a pipe without a reader")


def test_a_terminal_stopped_by_ctrl_s_holds_up_its_table_only(
    terminal: Victim, cloud: Endpoint
) -> None:
    ours, theirs = pty.openpty()
    before = set(terminal.runs())
    process = subprocess.Popen(
        [BIN / "cnd", *ENDLESS],
        env={**terminal.environment, "TERM": "xterm", "NO_COLOR": ""},
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        start_new_session=True,
        text=True,
    )
    reading = threading.Event()
    reading.set()

    def read() -> None:
        with contextlib.suppress(OSError):
            while reading.wait() and os.read(ours, 65536):
                pass

    threading.Thread(target=read, daemon=True).start()

    def searching() -> bool:
        new = set(terminal.runs()) - before
        return any(told(folder, "worker.progress") for folder in new)

    eventually(searching)
    os.write(ours, b"\x13")  # Ctrl-S
    time.sleep(1)  # ten redraws
    try:
        terminal.hit(process)
        asked = time.monotonic()
        terminal.see_zero(asked, within=SOON)
    finally:
        os.write(ours, b"\x11")  # Ctrl-Q
    assert process.wait(timeout=120) == 130
    os.close(theirs)
    print(f"Ctrl-S: {terminal.seconds_to_zero[-1]:.1f} s to zero instances")


def test_a_disk_that_hangs_holds_up_its_records_only(
    terminal: Victim, cloud: Endpoint
) -> None:
    """The journal is a FIFO without a reader: to open it waits without end."""
    run = Run(terminal, *ENDLESS, "--json")
    run.searching(2)
    journal, aside = run.folder / "events.jsonl", run.folder / "aside"
    journal.rename(aside)
    os.mkfifo(journal)
    try:
        time.sleep(1.5)  # events that cannot be written
        terminal.hit(run.process)
        asked = time.monotonic()
        terminal.see_zero(asked, within=SOON)
        code, out, err = ended(run.process)
    finally:
        aside.replace(journal)
    print(
        f"a disk that hangs: {terminal.seconds_to_zero[-1]:.1f} s to zero instances, "
        f"{time.monotonic() - asked:.1f} s to the end"
    )
    assert code == 130, err
    result = json.loads(out)
    assert (result["terminated"], result["left_running"]) == (2, 0)


def test_a_bucket_that_hangs_holds_up_its_copies_only(
    terminal: Victim, cloud: Endpoint
) -> None:
    """A host was lost: its log and its find may be in S3."""
    run = Run(terminal, *ENDLESS)
    kill(cloud, run.searching(2)[0])
    eventually(lambda: run.told("class.handed_over"))
    for action in ("s3:GetObject", "s3:PutObject"):
        lay_fault(cloud, {"action": action, "delay": 16, "times": "forever"})
    terminal.hit(run.process)
    terminal.see_zero(time.monotonic(), within=15)
    forget(terminal, cloud)
    code, _, err = ended(run.process, within=120)
    assert code == 130, err
    print(f"a bucket that hangs: {terminal.seconds_to_zero[-1]:.1f} s to zero")


PHASES = ("instance.requested", "instance.launched", "worker.started", "log.pulled")


@pytest.mark.parametrize("phase", PHASES)
def test_a_disk_that_fills_up_costs_the_records_and_never_the_end(
    terminal: Victim, phase: str
) -> None:
    words = ("start", "--d", "30", "--n", "2", "--t", "3")
    run = Run(terminal, *words, "--json")
    eventually(lambda: run.told(phase), every=0.005)
    resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, (0, 0))
    began = time.monotonic()
    code, out, err = ended(run.process)
    print(f"full after {phase}: {time.monotonic() - began:.1f} s to the end")
    assert "Traceback" not in err
    assert terminal.live() == []
    assert code == 10, err
    result = json.loads(out)
    assert (result["terminated"], result["left_running"]) == (2, 0)
    logs = run.folder / "logs"
    assert all(path.stat().st_size for path in logs.iterdir())  # whole, or not there


STUCK = """
import sys, time
from cnd.cli.request import user_key
from cnd.cloud import connection
from cnd.model import plan, run_name
from cnd.run import job, journal, shutdown
from cnd.view import narrator

class Stuck(narrator.Narrator):
    def show(self, event):
        if event.kind == "worker.progress":
            print("stuck", flush=True)
            while True:
                try:
                    time.sleep(3600)
                except KeyboardInterrupt:
                    pass

wanted = plan.Plan(difficulty=30, instances=2, time_limit=60, kernel="hashlib")
record = journal.Journal(run_name.new_run())
record.create()
there = connection.required(connection.connect("local", "", launch=True))
limits = shutdown.Limits(end=1.0, guard=1.0)
made = job.Job(wanted, there, record, view=Stuck(wanted), limits=limits)
made.execute(user_key(None))
"""


def test_a_deciding_thread_that_is_stuck_for_ever_keeps_no_fleet_alive(
    terminal: Victim,
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK],
        env=terminal.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "stuck\n"
    try:
        terminal.hit(process)
        terminal.see_zero(time.monotonic(), within=SOON)
    finally:
        process.kill()
        process.communicate(timeout=60)
    print(f"stuck: {terminal.seconds_to_zero[-1]:.1f} s to zero instances")
