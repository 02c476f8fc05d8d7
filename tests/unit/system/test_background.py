"""Work in other threads delays neither its caller nor the end of the program."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from cnd.errors import UsageError
from cnd.model.events import PROGRESS, Event
from cnd.model.plan import Plan
from cnd.model.search_state import SearchState
from cnd.run.journal import Journal
from cnd.run.journal_writer import MOST, JournalWriter
from cnd.system.background import CallQueue, Pool, begin, within
from cnd.view.guarded import BackgroundViewer
from cnd.view.narrator import Narrator
from tests.support.waiting import SOON

PLAN = Plan(difficulty=2, instances=1, time_limit=9)


def test_a_pool_does_no_more_at_a_time_than_it_was_made_for() -> None:
    pool, together, most = Pool(3, "test"), [0], [0]
    lock = threading.Lock()

    def work(number: int) -> int:
        with lock:
            together[0] += 1
            most[0] = max(most[0], together[0])
        time.sleep(0.01)
        with lock:
            together[0] -= 1
        return number

    futures = [pool.submit(work, number) for number in range(20)]
    assert [future.result(timeout=10) for future in futures] == list(range(20))
    assert most[0] == 3


def test_what_a_pool_has_begun_goes_on_after_its_close_and_nothing_else() -> None:
    pool, go = Pool(1, "test"), threading.Event()
    begun = pool.submit(go.wait, 10)
    waiting = pool.submit(go.wait, 10)
    pool.close(cancel=True)
    go.set()
    assert begun.result(timeout=10)
    assert waiting.cancelled()
    assert pool.submit(go.wait).cancelled()


def test_what_is_raised_is_raised_where_the_result_is_asked_for() -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Pool(1, "test").submit(fail).result(timeout=10)


def test_threads_that_hang_keep_no_program_from_its_end() -> None:
    program = (
        "import threading; from cnd.system.background import CallQueue, Pool\n"
        "never = threading.Event().wait\n"
        "Pool(1, 'pool').submit(never); CallQueue('calls', 9).put(never)\n"
    )
    subprocess.run([sys.executable, "-c", program], timeout=20, check=True)


NO_THREADS = """
import os, resource, sys
if not os.getuid():
    os.setuid(54321)  # root may have any number
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
"""


def test_where_no_thread_can_be_started_that_is_what_came_of_the_work() -> None:
    program = NO_THREADS + (
        "from cnd.system.background import Pool, within\n"
        "pool = Pool(2, 'test')\n"
        "for _ in range(3): print(pool.submit(int).exception(timeout=9))\n"
        "try: within(9, int)\n"
        "except RuntimeError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import cnd.system.background\n{program}"],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert done.stdout == 4 * "can't start new thread\n"


class Stillborn(threading.Thread):
    """A thread that ends before it begins, as where there is no memory for it."""

    def _bootstrap(self) -> None: ...


def test_a_thread_that_does_not_begin_is_not_waited_for() -> None:
    with pytest.raises(RuntimeError, match="can't start new thread"):
        begin(Stillborn(daemon=True), 0.05)
    done = threading.Event()
    begin(threading.Thread(target=done.set, daemon=True))
    assert done.wait(10)


def test_no_wait_is_longer_than_its_limit() -> None:
    assert within(10, lambda: 7) == 7
    with pytest.raises(TimeoutError, match=r"no answer within 0\.01 s"):
        within(0.01, threading.Event().wait)
    with pytest.raises(ZeroDivisionError):
        within(10, lambda: 1 / 0)


def test_a_lane_keeps_the_order_and_drops_what_is_too_much() -> None:
    calls, gate, done = CallQueue("test", 3), threading.Event(), list[int]()
    calls.put(lambda: gate.wait(10))
    while calls.waiting:
        time.sleep(0.001)
    taken = [calls.put(lambda i=i: done.append(i)) for i in range(5)]  # type: ignore[misc]
    assert taken == [True, True, True, False, False]
    assert not calls.settle(0.01)
    gate.set()
    assert calls.settle(10)
    assert done == [0, 1, 2]


class Stuck(Narrator):
    """A view whose terminal takes nothing."""

    def __init__(self, go: threading.Event) -> None:
        super().__init__(PLAN)
        self._go, self.shown = go, list[str]()

    def show(self, event: Event) -> None:
        self._go.wait(60)
        self.shown.append(event.kind)


def test_a_view_that_is_stuck_loses_what_matters_least() -> None:
    go = threading.Event()
    stuck = Stuck(go)
    view, search = BackgroundViewer(stuck), SearchState(PLAN)
    began = time.monotonic()
    for kind in [*5000 * [PROGRESS], "worker.found"]:
        view.show(Event(kind))
        view.tick(search)
    view.answer("stopping")
    assert time.monotonic() - began < SOON
    go.set()
    view.close()
    assert stuck.shown[-1] == "worker.found"
    assert len(stuck.shown) < 2000


def test_what_a_view_raises_is_raised_once_in_the_thread_that_decides() -> None:
    class Broken(Narrator):
        def show(self, event: Event) -> None:
            raise ZeroDivisionError("a bug")

    view = BackgroundViewer(Broken(PLAN))
    view.show(Event(PROGRESS))
    view.close()
    with pytest.raises(ZeroDivisionError):
        view.tick(SearchState(PLAN))
    view.tick(SearchState(PLAN))


def test_a_record_is_the_journal_in_order(tmp_path: Path) -> None:
    journal = Journal("r", tmp_path / "r")
    journal.create()
    record = JournalWriter(journal, lambda event: None)
    events = [Event(PROGRESS, i, "i-0") for i in range(3000)]
    record.keep(*events[:2000])
    record.keep_now(*events[2000:])
    assert [event.index for event in journal.events()] == list(range(3000))


def test_a_record_that_cannot_be_written_is_reported_once_for_each_reason(
    tmp_path: Path,
) -> None:
    told: list[Event] = []
    record = JournalWriter(Journal("r", tmp_path / "nowhere"), told.append)
    for _ in range(5):
        record.keep(Event(PROGRESS))
        assert record.settle(10)
    with pytest.raises(UsageError, match="cannot write"):
        record.keep_now(Event("run.started"))
    assert [event.kind for event in told] == ["cloud.trouble"]


def test_a_record_on_a_disk_that_hangs_is_waited_for_so_long_and_holds_so_much(
    tmp_path: Path,
) -> None:
    go = threading.Event()

    class Hanging(Journal):
        def append(
            self, *events: Event, recent: Sequence[tuple[int, Event]] = ()
        ) -> None:
            go.wait(20)
            super().append(*events, recent=recent)

    journal = Hanging("r", tmp_path / "r")
    journal.create()
    record = JournalWriter(journal, lambda event: None)
    for i in range(MOST + 5000):
        record.keep(Event(PROGRESS, i))
    record.keep(Event("worker.found"))
    assert not record.settle(0.05)
    go.set()
    assert record.settle(20)
    kinds = [event.kind for event in journal.events()]
    assert len(kinds) < MOST + 5000
    assert kinds[-1] == "worker.found"
