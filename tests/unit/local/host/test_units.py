"""systemd's unit files and time spans, as far as a lifetime timer needs them."""

from __future__ import annotations

import pytest

from cnd.local.host import units


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ("320", 320),
        ("320s", 320),
        ("5min", 300),
        ("1h 30s", 3630),
        ("2m", 120),
        ("1.5", 1.5),
        ("50ms", 0.05),
        ("1d", 86400),
    ],
)
def test_a_time_span_is_read_as_systemd_reads_it(span: str, expected: float) -> None:
    assert units.seconds(span) == expected


@pytest.mark.parametrize("span", ["", "soon", "5 fortnights", "-1", "3s later"])
def test_an_invalid_time_span_is_refused(span: str) -> None:
    with pytest.raises(ValueError, match="time span"):
        units.seconds(span)


def test_a_timer_starts_the_service_of_its_name() -> None:
    timer = units.parse(
        "cnd-lifetime.timer",
        "[Unit]\nDefaultDependencies=no\n# why\n"
        "[Timer]\nOnBootSec=320\nAccuracySec=1s\n",
    )

    assert timer.starts == "cnd-lifetime.service"
    assert timer.boot_seconds == [320]
    assert timer.active_seconds == []


def test_a_timer_may_name_another_unit() -> None:
    timer = units.parse("a.timer", "[Timer]\nUnit=b.service\nOnActiveSec=5min\n")

    assert (timer.starts, timer.active_seconds) == ("b.service", [300])


def test_a_service_has_its_commands_in_order() -> None:
    service = units.parse(
        "a.service",
        "[Service]\nExecStart=-/bin/sh -c 'a; b' x\nExecStart=echo $$X 100%%\n",
    )

    assert service.commands == [["/bin/sh", "-c", "a; b", "x"], ["echo", "$X", "100%"]]


def test_an_empty_assignment_resets_a_list() -> None:
    service = units.parse(
        "a.service", "[Service]\nExecStart=a\nExecStart=\nExecStart=b\n"
    )

    assert service.commands == [["b"]]


@pytest.mark.parametrize(("when", "expected"), [("now", 0), ("+5", 300), ("0", 0)])
def test_shutdown_counts_in_minutes(when: str, expected: float) -> None:
    assert units.shutdown_seconds(when) == expected


def test_a_shutdown_at_no_time_is_refused() -> None:
    with pytest.raises(ValueError, match="Failed to parse"):
        units.shutdown_seconds("soon")
