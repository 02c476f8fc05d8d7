"""What the live table shows: the state of each instance, and which instances.

One rule: pure; its only input is events, and it draws nothing.
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
    "worker.device": "searches",
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
    """One instance; times are in seconds, on the clock of the caller."""

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
    note: str = ""  # the last reason or nonce of its events
    last: str = ""  # the kind of its last event, without its noun
    last_at: float = 0.0  # when that came
    began: float | None = None  # when it was billed first
    ended: float | None = None  # when it went

    @property
    def tested(self) -> int:
        return sum(count for _, count in self.classes)


@dataclass
class InstanceRows:
    """The rows of a run, by instance id; it takes every event by `see`."""

    by_id: dict[str, InstanceRow] = field(default_factory=dict)

    def see(self, event: Event, now: float) -> None:
        """Take in an event that came `now`: the clocks of hosts may be wrong."""
        host = event.host or ""
        if event.kind == "instance.launched" and event.index is not None:
            spot = event.fields.get("spot") is True
            row = InstanceRow(
                event.index, host, spot=spot, since=now, last="launched", last_at=now
            )
            self.by_id[host] = _with_fields(row, event.fields, ("type", "zone"))
        elif host in self.by_id:
            names = ("address", "zone", "kernel")
            row = _with_fields(self.by_id[host], event.fields, names)
            self.by_id[host] = _with_state(_with_count(row, event), event, now)

    def usages(self, now: float) -> list[Usage]:
        """Return how long each instance ran, as `Plan.usd` takes it."""
        return [
            Usage(max(0.0, end - row.began), row.type, row.zone, row.spot)
            for row in self.by_id.values()
            if row.began is not None
            for end in [now if row.ended is None else row.ended]
        ]

    def census(self) -> Counter[str]:
        """Return how many instances are in each state."""
        return Counter(row.state for row in self.by_id.values())


def _with_fields(
    row: InstanceRow, fields: Mapping[str, object], names: Iterable[str]
) -> InstanceRow:
    """Return the row with the fields of these names that an event has."""
    given = {name: str(fields[name]) for name in names if fields.get(name)}
    return replace(row, **given)  # type: ignore[arg-type]


def _with_count(row: InstanceRow, event: Event) -> InstanceRow:
    """Return the row with what a worker reports of its class."""
    tested, rate = event.fields.get("tested"), amount(event.fields.get("rate"))
    if not event.kind.startswith("worker.") or event.index is None:
        return row
    if isinstance(tested, int):
        others = tuple(pair for pair in row.classes if pair[0] != event.index)
        row = replace(row, classes=(*others, (event.index, tested)))
    if rate is not None:
        row = replace(row, rate=rate)
    return row


def _with_state(row: InstanceRow, event: Event, now: float) -> InstanceRow:
    """Return the row with the state that an event means, and its reason."""
    if event.kind == "instance.running" and row.began is None:
        row = replace(row, began=now)
    if event.kind in ENDS and row.ended is None:
        row = replace(row, ended=now)
    note = str(event.fields.get("reason") or event.fields.get("nonce") or row.note)
    row = replace(row, last=event.kind.partition(".")[2], last_at=now)
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
    """Return the states of the rows not shown: "40 more: 32 searches, 8 boots"."""
    hidden = {row.host: row for row in rows}
    for row in shown:
        hidden.pop(row.host, None)
    if not hidden:
        return ""
    counts = Counter(row.state for row in hidden.values()).most_common()
    return f"{len(hidden)} more: " + ", ".join(f"{n} {state}" for state, n in counts)
