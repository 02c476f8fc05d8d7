"""A search of days keeps what a take-over and its pictures need, and no more."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from cnd.model import checkpoint
from cnd.model.events import PROGRESS, Event
from cnd.model.plan import Plan
from cnd.run.journal import Journal
from cnd.run.recorder import Recorder
from cnd.view import write_report
from cnd.view.narrator import Narrator
from cnd.view.timeline import timeline
from tests.support.terminal import Terminal

RATE = 20_000_000  # nonces/s of an instance
BEGAN = 1_700_000_000.0  # seconds since the epoch
SHOWN = list(range(10**12, 10**12 + 20 * 499, 499))  # as long as a list of witnesses is
RUN = "20260102-030405-0500"


class Stream:
    """The events of a run of `instances`, fed to a recorder as they would come."""

    def __init__(self, folder: Path, instances: int, hours: float) -> None:
        self.plan = Plan(16, instances, hours * 3600, nonces=2**64)
        self.journal = Journal(RUN, folder)
        self.journal.create()
        view = Narrator(self.plan, repeat=1e9)
        self.recorder = Recorder(self.plan, self.journal, view=view)
        self.recorder.take(*self._beginning())

    def at(self, at: float, kind: str, i: int | None = None, **fields: object) -> Event:
        host = None if i is None else f"i-{i:017x}"
        return Event(kind, i, host, fields, BEGAN + at, 1000 + at)

    def _beginning(self) -> Iterator[Event]:
        n, plan, event = range(self.plan.instances), self.plan, self.at
        asked: dict[str, object] = {
            "run": RUN,
            "block": plan.block,
            "difficulty": plan.difficulty,
        }
        asked |= {"instances": plan.instances, "nonces": plan.nonces}
        limits: dict[str, object] = {
            "time_limit": plan.time_limit,
            "lifetime": plan.lifetime,
        }
        yield event(0, "run.started", None, **asked, **limits, type="t3.micro")
        yield event(0, "instance.requested", count=plan.instances)
        where: dict[str, object] = {"type": "t3.micro", "zone": "us-east-1a"}
        yield from (event(1, "instance.launched", i, **where) for i in n)
        yield from (event(9, "instance.running", i, classes=[i]) for i in n)
        yield from (event(15, "instance.ready", i) for i in n)
        yield from (event(16, "worker.started", i, kernel="avx2") for i in n)

    def run(self, begin: float, end: float, every: float) -> None:
        """Let each worker report its progress from hour `begin` to `end`."""
        at = begin * 3600
        while (at := at + every) <= end * 3600:
            for i in range(self.plan.instances):
                self.recorder.put(self._progress(i, at))
            self.recorder.queue.wake()
            self.recorder.take_next()
            while not self.recorder.writer.settle(60):
                pass

    def _progress(self, i: int, at: float) -> Event:
        tested = int(RATE * at)
        cursor = i + tested * self.plan.instances
        figures: dict[str, object] = {
            "cursor": cursor,
            "tested": tested,
            "rate": RATE,
            "seconds": at,
        }
        return self.at(16 + at, PROGRESS, i, **figures, witnesses=SHOWN, shown=0)

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.journal.folder.glob("*.jsonl"))


def test_the_files_of_a_search_grow_with_the_logarithm_of_its_time(
    tmp_path: Path,
) -> None:
    stream = Stream(tmp_path / "r", instances=60, hours=16)
    sizes = []
    for begin, end in ((0, 1), (1, 4), (4, 16)):
        stream.run(begin, end, every=10 * end)
        sizes.append(stream.bytes)

    first, second, third = sizes
    assert second < 1.6 * first
    assert third - second < second
    assert third < 8_000_000


def test_a_take_over_knows_the_last_progress_of_each_class(tmp_path: Path) -> None:
    stream = Stream(tmp_path / "r", instances=60, hours=2)
    stream.run(0, 2, every=100)
    classes = stream.recorder.search.classes
    stream.recorder.writer.checkpoint(checkpoint.of(stream.recorder.search))
    assert stream.recorder.writer.settle(60)

    again = Recorder(stream.plan, stream.journal, view=Narrator(stream.plan))
    past = again.recall(list(stream.journal.history()))

    assert past.search.classes == classes
    assert {s.tested for s in classes.values()} == {RATE * 7200}
    assert past.searched == dict.fromkeys(range(60), 7200.0)
    assert again.writer.settle(60)
    # What it has recalled is kept anew: the next one knows the same.
    third = Recorder(stream.plan, stream.journal, view=Narrator(stream.plan))
    assert third.recall(list(stream.journal.history())).search.classes == classes


def test_pictures_of_a_long_search_show_its_rate(tmp_path: Path) -> None:
    stream = Stream(tmp_path / "r", instances=60, hours=2)
    stream.run(0, 2, every=20)
    journal = stream.journal
    journal.append(stream.at(7300, "run.aborted"))

    line = timeline(RUN, journal.events(), None, list(journal.history()))

    assert line.tested == 60 * RATE * 7200
    for instance in line.instances:
        assert instance.rate == pytest.approx(RATE, rel=0.01)
        assert len(instance.samples) > 100
    assert len(line.events) < 60 * 400


def computed() -> float:
    """Return the seconds of a processor so far, also of programs that have ended.

    Other tests may take as much time of this machine as they want.
    """
    return sum(os.times()[:4])


@pytest.mark.slow
def test_two_days_of_five_hundred_instances_are_small_and_read_at_once(
    terminal: Terminal,
) -> None:
    """Each progress is 225 bytes and more: all of it would be 8 GB."""
    folder = terminal.state / "cnd" / "runs" / RUN
    stream = Stream(folder, instances=500, hours=48)
    stream.run(0, 4, every=10)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    stream.run(4, 48, every=20)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    assert stream.bytes < 30_000_000
    assert grown < 20_000  # KB
    took = {}
    began = computed()
    again = Recorder(stream.plan, stream.journal, view=Narrator(stream.plan))
    past = again.recall(list(stream.journal.history()))
    took["attach"] = computed() - began
    assert past.search.classes == stream.recorder.search.classes
    began = computed()
    shown = terminal.run("logs", RUN, "--events").stdout
    took["logs"] = computed() - began
    assert shown.count("worker.progress") > 10_000
    began = computed()
    write_report.write(stream.journal)
    took["report"] = computed() - began
    print(f"{stream.bytes:,} bytes, {grown} KB more, {took}")
    assert max(took.values()) < 5
