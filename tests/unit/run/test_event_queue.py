"""No event is lost or out of order; what may change a run's course is no late news."""

from __future__ import annotations

import signal
import threading
import time

from hypothesis import given
from hypothesis import strategies as st

from cnd.model.events import PROGRESS, Event
from cnd.run.event_queue import EventQueue

KINDS = st.sampled_from([PROGRESS, "worker.found", "host.failed"])


@given(st.lists(st.one_of(KINDS, st.none())))
def test_all_events_come_in_order_and_news_end_a_batch(steps: list[str | None]) -> None:
    inbox, sent, got = EventQueue(), [], []
    for step in [*steps, *len(steps) * [None], None]:
        if step:
            event = Event(step)
            sent.append(event)
            inbox.put(event)
            continue
        batch = inbox.batch()
        assert all(event.kind == PROGRESS for event in batch[:-1])
        got += batch
    assert [id(event) for event in got] == [id(event) for event in sent]
    assert inbox.batch() == []


def test_progress_waits_and_news_do_not() -> None:
    inbox = EventQueue()
    inbox.put(Event(PROGRESS))
    began = time.monotonic()
    assert len(inbox.batch(0.2)) == 1
    assert time.monotonic() - began >= 0.2
    inbox.put(Event(PROGRESS))
    inbox.put(Event("worker.found"))
    began = time.monotonic()
    assert len(inbox.batch(60)) == 2
    threading.Timer(0.1, lambda: inbox.put(Event("worker.found"))).start()
    assert [event.kind for event in inbox.batch(60)] == ["worker.found"]
    assert time.monotonic() - began < 30


def test_events_of_many_threads_all_arrive() -> None:
    inbox, each = EventQueue(), 500

    def talk(index: int) -> None:
        for i in range(each):
            inbox.put(Event(PROGRESS if i % 7 else "log.pulled", index))

    threads = [threading.Thread(target=talk, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    got: list[Event] = []
    deadline = time.monotonic() + 30
    while len(got) < 8 * each and time.monotonic() < deadline:
        got += inbox.batch(0.05)
    for i in range(8):
        kinds = [event.kind for event in got if event.index == i]
        assert kinds == [PROGRESS if k % 7 else "log.pulled" for k in range(each)]


def test_a_signal_handler_may_put_whatever_it_breaks_into() -> None:
    inbox, heard = EventQueue(), 0

    def handle(number: int, frame: object) -> None:
        inbox.put(Event("run.stop_requested"))

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        deadline = time.monotonic() + 30
        while heard < 300 and time.monotonic() < deadline:
            inbox.put(Event(PROGRESS))
            batch = inbox.batch(0.001)
            heard += sum(event.kind != PROGRESS for event in batch)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert heard >= 300
