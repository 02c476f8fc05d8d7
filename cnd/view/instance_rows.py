"""What the live view shows: each instance's standing, which of them, and the whole.

One rule: pure; it learns from events alone, and who draws asks it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cnd.model.billing import ENDS
from cnd.model.events import Event, amount
from cnd.model.plan import Usage

# What an instance is doing after an event about it.
STATES = {
    "instance.launched": "pending",
    "instance.running": "boots",
    "instance.ready": "set up",
    "worker.started": "searches",
    "worker.progress": "searches",
    "worker.found": "found",
    "worker.exhausted": "exhausted",
    "worker.timeout": "time over",
    "worker.stopped": "stopped",
    "worker.failed": "failed",
    "worker.refuted": "lied",
    "host.reconnecting": "reconnects",
    "host.returned": "searches",
    "host.failed": "failed",
    "log.pulled": "log here",
    "log.failed": "no log",
    "instance.lost": "lost",
    "instance.terminated": "terminated",
}
TROUBLE = frozenset({"failed", "lied", "reconnects", "lost", "no log"})
# What an instance has ended with stays, whatever becomes of its log.
LASTING = frozenset({"found", "failed", "lied", "lost"})


@dataclass(frozen=True)
class InstanceRow:
    """One instance; times are in seconds, on the clock of whoever feeds the board."""

    index: int
    host: str
    type: str = ""
    zone: str = ""
    spot: bool = False
    address: str = ""
    state: str = "pending"
    since: float = 0.0  # when it came into this state
    classes: tuple[tuple[int, int], ...] = ()  # (class, nonces tested in it here)
    rate: float = 0.0  # nonces/s
    kernel: str = ""
    note: str = ""  # the last thing that it told beyond figures
    last: str = ""  # what happened last, in a word
    heard: float = 0.0  # when
    began: float | None = None  # when it was billed first
    ended: float | None = None  # when it went

    @property
    def tested(self) -> int:
        return sum(count for _, count in self.classes)


@dataclass
class InstanceRows:
    """The rows of a run, by instance id; feed it every event with `see`."""

    rows: dict[str, InstanceRow] = field(default_factory=dict)

    def see(self, event: Event, now: float) -> None:
        """Take in an event that came `now`: the clocks of hosts may be wrong."""
        host = event.host or ""
        if event.kind == "instance.launched" and event.index is not None:
            spot = event.fields.get("spot") is True
            row = InstanceRow(
                event.index, host, spot=spot, since=now, last="launched", heard=now
            )
            self.rows[host] = _told(row, event.fields, ("type", "zone"))
        elif host in self.rows:
            row = _told(self.rows[host], event.fields, ("address", "zone", "kernel"))
            self.rows[host] = _moved(_counted(row, event), event, now)

    def stays(self, now: float) -> list[Usage]:
        """Return how long each instance ran, as `Plan.usd` wants it."""
        return [
            Usage(max(0.0, end - row.began), row.type, row.zone, row.spot)
            for row in self.rows.values()
            if row.began is not None
            for end in [now if row.ended is None else row.ended]
        ]

    def census(self) -> Counter[str]:
        """Return how many instances are in each state."""
        return Counter(row.state for row in self.rows.values())


def _told(
    row: InstanceRow, fields: Mapping[str, object], names: Iterable[str]
) -> InstanceRow:
    """Take over the fields of these names that an event has."""
    told = {name: str(fields[name]) for name in names if fields.get(name)}
    return replace(row, **told)  # type: ignore[arg-type]


def _counted(row: InstanceRow, event: Event) -> InstanceRow:
    """Take over what a worker says of its class."""
    tested, rate = event.fields.get("tested"), amount(event.fields.get("rate"))
    if not event.kind.startswith("worker.") or event.index is None:
        return row
    if isinstance(tested, int):
        others = tuple(pair for pair in row.classes if pair[0] != event.index)
        row = replace(row, classes=(*others, (event.index, tested)))
    if rate is not None:
        row = replace(row, rate=rate)
    return row


def _moved(row: InstanceRow, event: Event, now: float) -> InstanceRow:
    """Take over the state that an event puts the instance in, and its reason."""
    if event.kind == "instance.running" and row.began is None:
        row = replace(row, began=now)
    if event.kind in ENDS and row.ended is None:
        row = replace(row, ended=now)
    note = str(event.fields.get("reason") or event.fields.get("nonce") or row.note)
    row = replace(row, last=event.kind.partition(".")[2], heard=now)
    state = STATES.get(event.kind, row.state)
    if state == row.state or (row.state in LASTING and event.kind.startswith("log.")):
        return replace(row, note=note)
    rate = row.rate if state == "searches" else 0.0
    return replace(row, state=state, since=now, note=note, rate=rate)


def chosen(rows: Iterable[InstanceRow], room: int) -> list[InstanceRow]:
    """Return at most `room` rows in order: those in trouble, extremes, the newest.

    Where not all have room: first what is in trouble, then in turn the slowest and
    the fastest that search and those whose state changed last.
    """
    every = sorted(rows, key=lambda row: (row.index, row.host))
    if len(every) <= room:
        return every
    searching = sorted((r for r in every if r.rate), key=lambda row: row.rate)
    changed = sorted(every, key=lambda row: -row.since)
    trouble = [row for row in changed if row.state in TROUBLE]
    wanted = [*trouble, *_in_turn([searching, searching[::-1], changed])]
    first = list({row.host: row for row in wanted}.values())[: max(0, room)]
    return sorted(first, key=lambda row: (row.index, row.host))


def _in_turn(groups: Sequence[Sequence[InstanceRow]]) -> list[InstanceRow]:
    longest = max(map(len, groups), default=0)
    return [group[i] for i in range(longest) for group in groups if i < len(group)]


def summed_up(rows: Iterable[InstanceRow], shown: Iterable[InstanceRow]) -> str:
    """Return what the rows that are not shown do: "40 more: 32 searches, 8 boots"."""
    hidden = {row.host: row for row in rows}
    for row in shown:
        hidden.pop(row.host, None)
    if not hidden:
        return ""
    counts = Counter(row.state for row in hidden.values()).most_common()
    return f"{len(hidden)} more: " + ", ".join(f"{n} {state}" for state, n in counts)
