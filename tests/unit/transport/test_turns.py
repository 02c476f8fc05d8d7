"""Once the run is decided, the stop of its workers comes before everything else."""

from __future__ import annotations

import threading

from cnd.system.background import Pool
from cnd.transport.turns import Turns


def test_a_finder_lets_the_others_stop_though_the_run_is_not_decided_yet() -> None:
    decided, searching = threading.Event(), threading.Event()
    turns = Turns(2, 2, decided)
    turns.note_work(+1)
    pool = Pool(1, "finder")

    def find() -> bool:
        searching.set()
        turns.let_stop(decides=True)
        return turns.at_rest.is_set()

    finder = pool.submit(find)
    assert searching.wait(10)
    decided.set()
    turns.note_work(-1)
    assert finder.result(10)


def test_a_find_that_decides_nothing_delays_no_log_for_long() -> None:
    turns = Turns(2, 2, threading.Event())
    turns.note_work(+1)
    turns.let_stop(decides=True)
    assert not turns.at_rest.is_set()
