"""What is shown of the runs that were measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cnd.bench import run_cost

RUN = run_cost.Run(
    instances=8,
    seconds=dict.fromkeys(run_cost.PHASES, 1.0),
    processor=0.4,
    memory=100_000_000,
    threads=30,
    calls={"ec2:RunInstances": 1},
    cloud=2.0,
    fetched=8,
)


def test_the_runs_with_one_n_are_shown_by_their_medians() -> None:
    dear = replace(RUN, processor=4.0, calls={"ec2:RunInstances": 1, "s3:GetObject": 3})
    large = replace(RUN, instances=32)
    eight, other = run_cost.rows([large, RUN, dear, replace(RUN, processor=0.8)])
    assert (eight.instances, eight.runs, other.instances, other.runs) == (8, 3, 32, 1)
    assert eight.processor == 0.8
    assert eight.each == pytest.approx(0.1)
    assert eight.to_json()["processor_per_instance"] == eight.each
    # Two of the three runs made no such call.
    assert eight.calls == {"ec2:RunInstances": 1, "s3:GetObject": 0}


def test_a_phase_that_no_run_reached_is_left_open() -> None:
    known = {**RUN.seconds, "logs": None}
    first, second = replace(RUN, seconds=known), replace(RUN, seconds=known)
    (row,) = run_cost.rows([first, second])
    assert row.seconds["logs"] is None
    assert row.seconds["total"] == 1.0
    assert " - " in run_cost.text([row], 5).splitlines()[2]


def test_the_tables_hold_every_n_and_every_call() -> None:
    more = replace(RUN, instances=512, calls={"ec2:TerminateInstances": 6})
    lines = run_cost.text(run_cost.rows([RUN, more]), 5).splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["8", "512"]
    assert [line.split() for line in lines[-2:]] == [
        ["ec2:RunInstances", "1", "0"],
        ["ec2:TerminateInstances", "0", "6"],
    ]


def test_only_calls_between_two_counts_are_counted() -> None:
    before, after = {"a": 2, "b": 1}, {"a": 5, "b": 1, "c": 1}
    assert run_cost.calls_between(before, after) == {"a": 3, "c": 1}


TRIAL = run_cost.Trial("CND", instances=32, seconds=2.0, processor=0.5, done=32)


def test_trials_are_shown_by_their_medians_for_each_n_and_program() -> None:
    slow, other = replace(TRIAL, seconds=9.0), replace(TRIAL, who="others", done=31)
    small = replace(TRIAL, instances=8)
    found = run_cost.medians([TRIAL, slow, replace(TRIAL, seconds=3.0), other, small])
    assert [(trial.instances, trial.who, trial.seconds) for trial in found] == [
        (8, "CND", 2.0),
        (32, "CND", 3.0),
        (32, "others", 2.0),
    ]


def test_a_trial_that_did_not_reach_every_host_says_so() -> None:
    short = replace(TRIAL, who="others", done=31)
    _, heads, *rows = run_cost.trials_text([TRIAL, short]).splitlines()
    assert heads.split() == ["N", "CND", "others"]
    assert rows[0].split() == ["32", "2.00", "(0.5)", "2.00", "(0.5)", "31/32"]
