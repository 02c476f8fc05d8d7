"""What is shown of repeated runs with several N, and of types of instances."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnd.bench import speedup
from cnd.errors import UsageError


def test_twice_the_instances_in_half_the_time_is_ideal() -> None:
    one, two = speedup.rows({2: [5.0, 4.9, 5.1], 1: [10.0, 9.0, 11.0]})
    assert (one.instances, one.median, one.least, one.most) == (1, 10.0, 9.0, 11.0)
    assert (two.speed_up, two.of_ideal) == (2.0, 1.0)


def test_the_smallest_n_is_what_others_are_compared_with() -> None:
    two, eight = speedup.rows({2: [8.0], 8: [4.0]})
    assert (two.speed_up, two.of_ideal) == (2.0, 1.0)
    assert (eight.speed_up, eight.of_ideal) == (4.0, 0.5)


def test_a_search_without_duration_cannot_be_compared() -> None:
    with pytest.raises(UsageError, match="too short"):
        speedup.rows({1: [0.0], 2: [1.0]})


def test_the_tables_hold_every_row() -> None:
    table = speedup.rows({1: [2.0], 4: [1.0]})
    assert speedup.text(table, 5, 46697).splitlines()[-1].endswith("█" * 20)
    assert speedup.to_csv(table).splitlines() == [
        "instances,median,least,most,speed_up,of_ideal,beside,beside_speed_up",
        "1,2.0,2.0,2.0,1.0,1.0,,",
        "4,1.0,1.0,1.0,2.0,0.5,,",
    ]


def test_the_price_of_a_billion_hashes_follows_from_rate_and_price() -> None:
    worth = speedup.TypeRate("c5.large", (2e6, 1e6, 0.5e6), "avx2", 0.36)
    assert worth.usd_per_billion == pytest.approx(0.1)
    assert speedup.TypeRate("x", (1e6,), "avx2", None).usd_per_billion is None
    assert "0.100000" in speedup.type_table([worth])
    told = worth.to_json()
    assert (told["least"], told["most"], told["runs"]) == (0.5e6, 2e6, 3)


def test_times_from_elsewhere_stand_beside_where_there_are_some() -> None:
    table = speedup.rows({1: [4.0], 2: [2.0]}, speedup.others("n,s\n1,300\n"))
    assert [row.beside for row in table] == [300.0, None]
    head, one, two = speedup.text(table, 5, 7).splitlines()[1:]
    assert head.endswith("beside")
    assert "300.00 s" in one
    assert two.split()[-2] == "-"
    with pytest.raises(UsageError, match="line 2"):
        speedup.others("1,10\ntwo,5\n")


def test_the_coursework_reports_own_times_stand_beside_by_its_name() -> None:
    table = speedup.rows({1: [40.0], 2: [20.0], 8: [5.0]}, speedup.REPORT)
    assert [row.beside for row in table] == [66.7, None, 8.8]
    assert table[-1].beside_speed_up == pytest.approx(66.7 / 8.8)
    told = speedup.text(table, 5, 46697, speedup.REPORTS)
    assert told.splitlines()[1].endswith("report")
    assert "66.70 s" in told
    assert "13 nonces/s" in told
    head = speedup.to_csv(table, speedup.REPORTS).splitlines()[0]
    assert head.endswith(",report,report_speed_up")


def test_a_warning_of_searches_too_short_to_compare_has_the_way_out() -> None:
    short = speedup.rows({1: [0.05] * 5, 8: [0.07] * 5})
    told = speedup.caveat(short, 46697, local=True)
    assert "not how they search" in told
    assert "CND_LOCAL_RATE=580" in told  # 80 s with N=1, 10 s with N=8
    assert "8 min in all" in told
    assert "CND_LOCAL_RATE" not in speedup.caveat(short, 46697, local=False)
    assert "CND_LOCAL_RATE" not in speedup.caveat(short, 7, local=True)
    assert "--d" in speedup.caveat(short, 7, local=True)
    assert speedup.caveat(speedup.rows({1: [40.0], 8: [5.0]}), 9, local=True) == ""


def test_the_charts_are_files(tmp_path: Path) -> None:
    scaling_chart = pytest.importorskip("cnd.bench.charts")
    target = tmp_path / "chart.svg"
    table = speedup.rows({1: [4.0, 4.5], 8: [1.1, 1.0]}, speedup.REPORT)
    scaling_chart.draw(table, target, "the report's own")
    assert "the report's own" in target.read_text()
    found = [speedup.TypeRate(name, (1e6, 2e6), "avx2", None) for name in ("a", "b")]
    scaling_chart.draw_types(found, target)
    assert "<svg" in target.read_text()
    scaling_chart.draw_types(found, tmp_path / "chart.png")
