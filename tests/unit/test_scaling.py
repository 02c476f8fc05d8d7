"""What is said of repeated runs with several N, and of types of instances."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnd import scaling
from cnd.errors import UsageError


def test_twice_the_instances_in_half_the_time_is_ideal() -> None:
    one, two = scaling.rows({2: [5.0, 4.9, 5.1], 1: [10.0, 9.0, 11.0]})
    assert (one.instances, one.median, one.least, one.most) == (1, 10.0, 9.0, 11.0)
    assert (two.speed_up, two.of_ideal) == (2.0, 1.0)


def test_the_smallest_n_is_what_others_are_compared_with() -> None:
    two, eight = scaling.rows({2: [8.0], 8: [4.0]})
    assert (two.speed_up, two.of_ideal) == (2.0, 1.0)
    assert (eight.speed_up, eight.of_ideal) == (4.0, 0.5)


def test_a_search_without_duration_cannot_be_compared() -> None:
    with pytest.raises(UsageError, match="too short"):
        scaling.rows({1: [0.0], 2: [1.0]})


def test_the_tables_hold_every_row() -> None:
    table = scaling.rows({1: [2.0], 4: [1.0]})
    assert scaling.text(table, 5, 46697).splitlines()[-1].endswith("█" * 20)
    assert scaling.to_csv(table).splitlines() == [
        "instances,median,least,most,speed_up,of_ideal,beside",
        "1,2.0,2.0,2.0,1.0,1.0,",
        "4,1.0,1.0,1.0,2.0,0.5,",
    ]


def test_the_price_of_a_billion_hashes_follows_from_rate_and_price() -> None:
    worth = scaling.Worth("c5.large", 1e6, "avx2", 0.36)
    assert worth.usd_per_billion == pytest.approx(0.1)
    assert scaling.Worth("x", 1e6, "avx2", None).usd_per_billion is None
    assert "0.100000" in scaling.worths([worth])


def test_somebody_elses_times_stand_beside_where_there_are_some() -> None:
    table = scaling.rows({1: [4.0], 2: [2.0]}, scaling.others("n,s\n1,300\n"))
    assert [row.beside for row in table] == [300.0, None]
    head, one, two = scaling.text(table, 5, 7).splitlines()[1:]
    assert head.endswith("beside")
    assert "300.00 s" in one
    assert two.split()[-2] == "-"
    with pytest.raises(UsageError, match="line 2"):
        scaling.others("1,10\ntwo,5\n")


def test_the_chart_is_a_file(tmp_path: Path) -> None:
    scaling_chart = pytest.importorskip("cnd.scaling_chart")
    target = tmp_path / "chart.svg"
    scaling_chart.draw(scaling.rows({1: [4.0, 4.5], 4: [1.1, 1.0]}), target)
    assert "<svg" in target.read_text()
