"""A launch that does not fit into memory is refused, not tried."""

from __future__ import annotations

from cnd.local.api import memory

MEMINFO = """\
MemTotal:       16000000 kB
MemFree:          200000 kB
MemAvailable:     280000 kB
SwapTotal:         28000 kB
SwapFree:          28000 kB
HugePages_Total:       0
"""
EACH = 28_000 * 1024


def test_there_is_room_for_what_memory_and_swap_hold() -> None:
    assert memory.room(MEMINFO, 0, EACH) == 11


def test_memory_is_reserved_for_hosts_that_boot() -> None:
    assert memory.room(MEMINFO, 4, EACH) == 7
    assert memory.room(MEMINFO, 40, EACH) == 0


def test_a_virtual_machine_takes_its_whole_memory() -> None:
    assert memory.room(MEMINFO, 0, memory.MACHINE) == 0


def test_if_the_available_memory_is_unknown_nothing_is_refused() -> None:
    assert memory.room(MEMINFO.replace("MemAvailable", "Active"), 0, EACH) is None
