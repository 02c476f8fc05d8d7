"""The names of runs: in the order in which the runs began."""

from __future__ import annotations

from cnd.model.run_name import is_run, new_run


def test_the_names_of_runs_that_begin_in_one_second_sort_as_they_began() -> None:
    names = [new_run()]
    for _ in range(7):
        names.append(new_run(names[-1]))
    assert names == sorted(set(names))
    assert all(map(is_run, names))


def test_a_clock_that_was_set_back_keeps_no_run_waiting() -> None:
    assert is_run(new_run("29991231-235959-ffff"))
