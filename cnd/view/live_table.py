"""The live view: a table of the fleet on a terminal, redrawn as things change.

One rule: it takes a twentieth of the time at most.  The only user of rich, imported
only where there is a terminal to draw on.
"""

from __future__ import annotations

import contextlib
import os
import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from cnd.model.events import Event, printable_line
from cnd.model.format import number
from cnd.model.plan import Plan
from cnd.model.probability import within
from cnd.model.search_state import SearchState
from cnd.view.instance_rows import TROUBLE, InstanceRow, InstanceRows, chosen, summed_up
from cnd.view.narrator import sentence
from cnd.view.terminal import NO_BREAK, STAMP, encoded, wrapped

SHOW_CURSOR = b"\x1b[?25h"  # DECTCEM
MOST_SIDE = 1000  # characters or lines that a terminal may have
REDRAW = 0.1  # seconds between two redraws, at least
SHARE = 20  # a redraw may take this part of the time
STILL = 1.0  # seconds after which the clocks on it are redrawn, if nothing happens
# Events whose text stands in the table already get no line above it.
IN_TABLE = frozenset({"instance.running", "worker.started"})
LAST_ROWS = 16  # rows that stay when the run is over
SUMMARY = 3  # lines
FRAME = SUMMARY + 3  # lines around the rows: titles, the rest, the cursor


@dataclass(frozen=True)
class Column:
    """A column: its title, its width, and what stands in it at a time."""

    title: str
    width: int
    cell: Callable[[InstanceRow, float], str]
    right: bool = False
    end: bool = False  # where there is no room, its end is shown
    most: int = 0  # characters, where there is room to spare

    def fit(self, text: str) -> str:
        """Return `text`, as wide as the column."""
        text = printable_line(text)
        if len(text) > self.width:
            short = text[: self.width - 1] + "…"
            text = text[-self.width :] if self.end else short
        return text.rjust(self.width) if self.right else text.ljust(self.width)


def _clock(seconds: float) -> str:
    """Return a time in five characters."""
    if seconds < 99.95:
        return f"{max(0.0, seconds):.1f}s"
    return f"{seconds / 60:.1f}m" if seconds < 5997 else f"{seconds / 3600:.1f}h"


def _count(value: float) -> str:
    return number(value).replace(" ", "") if value else ""


def _last(row: InstanceRow, now: float) -> str:
    """Return how long ago its last event came, and which, or what is wrong."""
    trouble = row.note if row.state in TROUBLE else ""
    return f"{_clock(now - row.last_at):>5} {trouble or row.last}"


# In their order on the screen: all of them take 100 characters.
COLUMNS = (
    Column("#", 4, lambda row, now: str(row.index), right=True),
    Column("id", 6, lambda row, now: row.host, end=True, most=19),
    Column("type", 9, lambda row, now: row.type, most=13),
    Column("address", 15, lambda row, now: row.address),
    Column("zone", 4, lambda row, now: row.zone.rpartition("-")[2]),
    Column("state", 10, lambda row, now: row.state),
    Column("for", 5, lambda row, now: _clock(now - row.since), right=True),
    Column("nonces", 6, lambda row, now: _count(row.tested), right=True),
    Column("per s", 5, lambda row, now: _count(row.rate), right=True),
    Column("kernel", 8, lambda row, now: row.kernel.replace("avx512vl", "vl")),
    Column("last event", 18, _last, most=60),
)
# Which of them go first where not all have room.
WANTED = (
    *("#", "state", "for", "nonces", "per s", "last event", "id"),
    *("address", "kernel", "zone", "type"),
)


class LiveView:
    """Shows a run as a table that changes, with lines of text above it."""

    def __init__(
        self, plan: Plan, stream: TextIO, *, past: Iterable[Event] = ()
    ) -> None:
        """Begin to draw.

        Args:
            stream: a terminal.
            past: what happened before, of a run that is taken over.
        """
        self._plan, self._stream = plan, stream
        self._search = SearchState(plan)
        self._rows = InstanceRows()
        self._began = time.time()
        self._searching: float | None = None
        self._decided: float | None = None
        for event in past:
            self._learn(event, event.time)
        self._console = Console(
            file=stream, highlight=False, soft_wrap=True, _environ=_environment()
        )
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._changed = True
        self._drawn, self._cost = 0.0, 0.0
        self._live.start()

    def show(self, event: Event) -> None:
        """Take in an event; write its line above the table, if it has one."""
        self._learn(event, time.time())
        self._changed = True
        if event.kind not in IN_TABLE and (text := sentence(event)):
            with contextlib.suppress(OSError):
                line = wrapped(f"[{self._clock()}] {text}", self._console.width, STAMP)
                self._console.print(line, markup=False)
        self._redraw()  # no ticks come while instances are being terminated

    def tick(self, search: SearchState) -> None:
        """Redraw, if there is something new and it is not too soon."""
        self._search = search
        self._redraw()

    def answer(self, text: str) -> None:
        """Write at once, on the last line, that a signal has come."""
        with contextlib.suppress(OSError):  # the next redraw takes the line back
            line = f"[{self._clock()}] {text}"[: self._console.width - 1]
            line = f"\r{line}\x1b[K"
            os.write(self._console.file.fileno(), encoded(line, self._stream))

    def _redraw(self) -> None:
        pause = max(REDRAW if self._changed else STILL, SHARE * self._cost)
        if time.monotonic() - self._drawn >= pause:
            self._draw()

    def close(self) -> None:
        """Draw the last state, not filling the screen, and give the terminal back."""
        try:
            self._draw(most=LAST_ROWS)
        finally:
            self._give_back()

    def _give_back(self) -> None:
        """Leave the terminal with a cursor, also where the last picture fails."""
        try:
            with contextlib.suppress(OSError):
                self._live.stop()
        except BaseException:
            with contextlib.suppress(OSError, ValueError):
                os.write(self._stream.fileno(), SHOW_CURSOR)
            raise

    def _learn(self, event: Event, now: float) -> None:
        self._rows.see(event, now)
        if event.kind == "run.started":
            self._began = min(now, event.time)
        if event.kind == "worker.started" and self._searching is None:
            self._searching = now

    def _clock(self) -> str:
        return f"{time.time() - self._began:6.2f} s"

    def _draw(self, most: int = 1_000_000) -> None:
        """Draw, where the terminal is still there: a closed one stops no run."""
        began = time.monotonic()
        with contextlib.suppress(OSError):
            width, height = self._console.size
            rows = min(most, height - FRAME)
            self._live.update(self.frame(time.time(), width, rows), refresh=True)
        self._changed = False
        self._drawn = time.monotonic()
        self._cost = self._drawn - began

    def frame(self, now: float, width: int, most: int) -> Text:
        """Return the whole picture, one line a row, `most` rows at most.

        Args:
            now: seconds since the epoch.
            width: characters.
        """
        every = self._rows.by_id.values()
        shown = chosen(every, most)
        shape = columns(width)
        titles = " ".join(column.fit(column.title) for column in shape)
        frame = Text(no_wrap=True, overflow="crop")
        frame.append(titles.rstrip() + "\n", style="underline")
        for row in shown:
            cells = " ".join(column.fit(column.cell(row, now)) for column in shape)
            frame.append(cells.rstrip() + "\n", style=_style(row))
        if rest := summed_up(every, shown):
            frame.append(f"     {rest}"[:width] + "\n")
        frame.append("\n".join(self._summary(now, width)))
        return frame

    def _summary(self, now: float, width: int) -> Sequence[str]:
        """Return lines on the whole fleet, at most `SUMMARY`."""
        plan, search = self._plan, self._search
        census = ", ".join(f"{n} {state}" for state, n in self._rows.census().items())
        if search.outcome and not self._decided:
            self._decided = now
        until = self._decided or now
        spent = 0.0 if self._searching is None else until - self._searching
        chance = within(plan.difficulty, search.tested - search.repeated)
        usd = plan.usd(self._rows.usages(now))
        figures = [
            f"{number(search.tested) if search.counted else '-'} nonces",
            f"{number(search.rate)}/s",
            f"P(found by now) {100 * chance:.3g} %",
            f"{min(spent, plan.time_limit):.0f} s of {plan.time_limit:g} s",
            "price unknown" if usd is None else f"${usd:.4f}" if usd else "$0",
        ]
        whole = [figure.replace(" ", NO_BREAK) for figure in figures]
        text = " · ".join([f"{len(self._rows.by_id)} instances: {census}", *whole])
        if search.outcome:
            text += f" · ending: {printable_line(search.outcome.reason)}"
        lines = textwrap.wrap(text, width, max_lines=SUMMARY, placeholder=" …")
        return [line.replace(NO_BREAK, " ") for line in lines]


def _environment() -> dict[str, str]:
    """Return the environment without a size that no terminal has: ``COLUMNS=0``."""

    def is_odd(name: str, text: str) -> bool:
        if name not in ("COLUMNS", "LINES"):
            return False
        return not (text.isdecimal() and 1 <= int(text[:9]) <= MOST_SIDE)

    return {k: v for k, v in os.environ.items() if not is_odd(k, v)}


def columns(width: int) -> list[Column]:
    """Return the columns that have room in `width` characters, as they stand."""
    by_title = {column.title: column for column in COLUMNS}
    chosen: list[Column] = []
    for title in WANTED:
        column = by_title[title]
        if sum(c.width + 1 for c in chosen) + column.width <= width:
            chosen.append(column)
    chosen.sort(key=COLUMNS.index)
    spare = width - sum(column.width + 1 for column in chosen) + 1
    for i, column in enumerate(chosen):
        more = max(0, min(column.most - column.width, spare))
        if column.end and column.width + more < column.most:
            more = 0  # a little more of an id is of no use
        chosen[i] = replace(column, width=column.width + more)
        spare -= more
    return chosen


def _style(row: InstanceRow) -> str:
    """Return a style for dark and light terminals; the state column names it, too."""
    if row.state in TROUBLE:
        return "red"
    return {"found": "bold green", "terminated": "dim"}.get(row.state, "")
