"""No event is lost or out of order; what may need a decision is not late."""

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
def test_all_events_come_in_order_and_a_batch_ends_with_the_first_that_is_urgent(
    steps: list[str | None],
) -> None:
    queue, sent, got = EventQueue(), [], []
    for step in [*steps, *len(steps) * [None], None]:
        if step:
            event = Event(step)
            sent.append(event)
            queue.put(event)
            continue
        batch = queue.batch()
        assert all(event.kind == PROGRESS for event in batch[:-1])
        got += batch
    assert [id(event) for event in got] == [id(event) for event in sent]
    assert queue.batch() == []


def test_progress_waits_and_other_events_do_not() -> None:
    queue = EventQueue()
    queue.put(Event(PROGRESS))
    began = time.monotonic()
    assert len(queue.batch(0.2)) == 1
    assert time.monotonic() - began >= 0.2
    queue.put(Event(PROGRESS))
    queue.put(Event("worker.found"))
    began = time.monotonic()
    assert len(queue.batch(60)) == 2
    threading.Timer(0.1, lambda: queue.put(Event("worker.found"))).start()
    assert [event.kind for event in queue.batch(60)] == ["worker.found"]
    assert time.monotonic() - began < 30


def test_events_of_many_threads_all_arrive() -> None:
    queue, each = EventQueue(), 500

    def talk(index: int) -> None:
        for i in range(each):
            queue.put(Event(PROGRESS if i % 7 else "log.pulled", index))

    threads = [threading.Thread(target=talk, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    got: list[Event] = []
    deadline = time.monotonic() + 30
    while len(got) < 8 * each and time.monotonic() < deadline:
        got += queue.batch(0.05)
    for i in range(8):
        kinds = [event.kind for event in got if event.index == i]
        assert kinds == [PROGRESS if k % 7 else "log.pulled" for k in range(each)]


def test_a_signal_handler_may_put_whatever_code_it_interrupts() -> None:
    queue, received = EventQueue(), 0

    def handle(number: int, frame: object) -> None:
        queue.put(Event("run.stop_requested"))

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        deadline = time.monotonic() + 30
        while received < 300 and time.monotonic() < deadline:
            queue.put(Event(PROGRESS))
            batch = queue.batch(0.001)
            received += sum(event.kind != PROGRESS for event in batch)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert received >= 300
