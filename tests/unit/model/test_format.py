"""Numbers and tables as a user reads them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from cnd.model.format import table


@pytest.mark.parametrize(
    ("columns", "lines"),
    [
        # Fixed widths; the last column's serves for those after it.
        (("<4", ">4"), ["N      2  10", "long name   3"]),
        # As wide as the widest cell; nothing after the last one.
        (("<", "<"), ["N        210", "long name3"]),
        ((">9", "<3", ">"), ["        N2  10", "long name3"]),
    ],
)
def test_the_cells_of_a_column_stand_below_each_other(
    columns: Sequence[str], lines: list[str]
) -> None:
    rows = [["N", "2", "10"], ["long name", "3"]]
    assert list(table(rows, columns)) == lines


def test_a_gap_stands_between_columns_and_never_at_the_end() -> None:
    rows = [["a", "b"], ["cc", ""]]
    assert list(table(rows, ("<", "<"), gap=" | ")) == ["a  | b", "cc |"]


def test_a_table_of_nothing_has_no_lines() -> None:
    assert list(table([], ("<", ">9"))) == []
