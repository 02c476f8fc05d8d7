"""The events of an instance as phases, rates and stop latencies."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnd.model.events import KINDS, Event
from cnd.view.instance_history import Span, phase_counts, phase_seconds, rates
from tests.support.timelines import (
    BEGAN,
    RESULT,
    at,
    instance_events,
    observed,
    whole_run,
)


def test_every_moment_of_an_instance_is_in_one_phase() -> None:
    line = observed(whole_run(), RESULT)
    first = line.instances[0]
    assert first.spans == (
        Span("pending", 0.5, 2),
        Span("boot", 2, 3),
        Span("push", 3, 4),
        Span("search", 4, 10),
        Span("stop", 10, 10.25),
        Span("log", 10.25, 10.5),
        Span("terminate", 10.5, 12),
    )
    assert first.end == "terminated"
    assert phase_seconds(line.instances)["search"] == [5, 6]


def test_the_stop_latency_counts_from_the_decision_to_the_last_report() -> None:
    line = observed(whole_run(), RESULT)
    assert (line.searching, line.decided) == (4, 10)
    assert [instance.stop for instance in line.stops] == [0.25, 0.25]
    assert all(instance.was_searching for instance in line.stops)


def test_rates_times_widths_are_what_was_tested() -> None:
    line = observed(whole_run(), RESULT)
    edges = [4 + i / 8 for i in range(60)]
    sums = [sum(row) / 8 for row in rates(line.instances, edges)]
    assert sums == pytest.approx([300, 300])


def test_a_handed_over_class_makes_its_host_search_again() -> None:
    events = [
        *instance_events(0, "i-0"),
        at(11, "class.handed_over", 1, "i-0", start=7),
        at(12, "worker.started", 1, "i-0", kernel="avx2"),
        at(15, "worker.exhausted", 1, "i-0", tested=50),
        at(15, "host.done", 1, "i-0"),
    ]
    (instance,) = observed(events).instances
    names = [span.name for span in instance.spans]
    assert names == [
        "pending",
        "boot",
        "push",
        "search",
        "log",
        "wait",
        "push",
        "search",
    ]
    assert instance.tested == 350


def test_a_lost_instance_ends_there_and_a_connection_may_drop() -> None:
    events = [
        *instance_events(0, "i-0")[:5],
        at(7, "host.reconnecting", 0, "i-0", reason="dropped"),
        at(8, "instance.lost", 0, "i-0", state="terminated"),
        at(9, "host.done", 0, "i-0"),
    ]
    (instance,) = observed(events).instances
    assert instance.end == "lost"
    assert instance.spans[-1] == Span("out of touch", 6, 7)


def test_an_instance_that_was_not_requested_is_pending_from_its_own_launch_on() -> None:
    """An Auto Scaling group's replacement, minutes later; and a lost request."""
    late = [
        at(7, "instance.launched", 2, "i-2", type="t3.micro"),
        at(9, "instance.running", 2, "i-2", address="a", classes=[]),
    ]
    events = sorted([*whole_run(), *late], key=lambda event: event.time)
    pending = [instance.spans[0] for instance in observed(events, RESULT).instances]
    assert [(span.name, span.begin) for span in pending] == [
        *(("pending", 0.5), ("pending", 0.5), ("pending", 7))
    ]
    unasked = [e for e in whole_run() if e.kind != "instance.requested"]
    assert observed(unasked, RESULT).instances[0].spans[0] == Span("pending", 1, 2)


def test_the_counts_of_phases_add_up_to_the_instances() -> None:
    line = observed(whole_run(), RESULT)
    found = phase_counts(line.instances, [0.0, 1.0, 5.0, 11.9, 12.5])
    assert [sum(column) for column in zip(*found.values(), strict=True)] == [
        *(0, 2, 2, 2, 1)
    ]


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(["", "1", "x" * 50]),
    st.lists(st.integers(), max_size=2),
)
ANYTHING = st.builds(
    Event,
    st.sampled_from(sorted(KINDS)),
    st.one_of(st.none(), st.integers(0, 2)),
    st.sampled_from([None, "i-0", "i-1"]),
    st.dictionaries(st.sampled_from(["tested", "rate", "kernel", "cursor"]), ODD),
    st.floats(BEGAN, BEGAN + 100),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ANYTHING, max_size=20))
def test_phases_stay_in_order_whatever_a_worker_reports(events: list[Event]) -> None:
    wild = [e for e in events if e.kind != "run.started"]
    line = observed([*whole_run()[:8], *wild])
    for instance in line.instances:
        ends = [span.end for span in instance.spans]
        assert ends == sorted(ends)
        assert instance.tested >= 0
        assert all(sample.end > sample.begin for sample in instance.samples)


@pytest.mark.parametrize(
    ("fields", "kernel"),
    [
        ({"kernel": "opencl+avx2", "rate": 1e9}, "opencl+avx2"),
        ({"refused": "no"}, "avx2"),
    ],
)
def test_a_gpu_that_joins_is_part_of_the_kernel(
    fields: dict[str, object], kernel: str
) -> None:
    events = [*instance_events(0, "i-0")[:-1]]
    events = [
        *[e for e in events if e.kind != "worker.exhausted"],
        at(11, "worker.started", 0, "i-0", kernel="avx2"),
        at(12, "worker.device", 0, "i-0", number=0, **fields),
    ]
    (instance,) = observed(events).instances
    assert instance.kernel == kernel
