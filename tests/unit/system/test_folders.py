"""Folders that the program itself needs."""

from __future__ import annotations

from cnd.system.folders import above_package


def test_a_child_process_finds_this_very_package() -> None:
    assert (above_package() / "cnd" / "tasks.py").is_file()
