"""What is there: the live instances of CND, and the runs on this disk.

One rule: the cloud's tags are the truth about machines, the journals tell what they
are doing; where there is no journal, that is said.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cnd.ec2 import Instance
from cnd.events import Event
from cnd.journal import Journal, runs
from cnd.view import duration, number

SHOWN = 10  # runs


@dataclass(frozen=True)
class Survey:
    """Live instances with what each is doing, and the newest runs."""

    instances: tuple[tuple[Instance, str], ...]
    runs: tuple[tuple[str, str], ...]  # name, how it ended, or "going on"
    now: dt.datetime

    def to_json(self) -> dict[str, Any]:
        """Return the object behind `status --json`."""
        return {
            "instances": [
                {
                    "id": i.id,
                    "run": i.run,
                    "index": i.index,
                    "type": i.type,
                    "state": i.state,
                    "address": i.address,
                    "owner": i.owner,
                    "deadline": i.deadline,
                    "age": round(self._age(i), 1),
                    "doing": doing,
                }
                for i, doing in self.instances
            ],
            "runs": [{"run": run, "stands": stands} for run, stands in self.runs],
        }

    def text(self) -> str:
        """Return the same for people."""
        lines = [
            f"{i.id}  {i.run}  Instance{i.index}  {i.type}  {i.state}  "
            f"{i.address or '-'}  {duration(self._age(i))}  {doing}"
            for i, doing in self.instances
        ]
        count = len(self.instances)
        lines.append(f"{count} instance{'' if count == 1 else 's'} running")
        lines += [f"run {run}: {stands}" for run, stands in self.runs]
        return "\n".join(lines)

    def _age(self, instance: Instance) -> float:
        return (self.now - instance.launched).total_seconds()


def survey(live: Sequence[Instance]) -> Survey:
    """Return what there is, given the instances that the cloud lists."""
    journals = {i.run: _doings(Journal(i.run)) for i in live}
    unknown = "not followed from this machine"
    return Survey(
        instances=tuple((i, journals[i.run].get(i.id, unknown)) for i in live),
        runs=tuple(
            (run, "going on" if run in journals else _ended(Journal(run)))
            for run in runs()[-SHOWN:]
        ),
        now=dt.datetime.now(dt.timezone.utc),
    )


def _doings(journal: Journal) -> dict[str, str]:
    """Return what each instance of a run does, by its last telling event."""
    doings: dict[str, str] = {}
    for event in journal.events():
        if event.host and (doing := _doing(event)):
            doings[event.host] = doing
    return doings


def _doing(event: Event) -> str:
    if event.kind == "worker.progress":
        rate = event.fields.get("rate")
        return f"searching, {number(float(rate or 0))} nonces/s"
    return {
        "instance.launched": "booting",
        "instance.running": "waiting for SSH",
        "instance.ready": "being set up",
        "worker.started": "searching",
        "host.reconnecting": "out of touch",
        "host.failed": "failed",
        "log.pulled": "done",
    }.get(event.kind, event.kind if event.kind.startswith("worker.") else "")


def _ended(journal: Journal) -> str:
    """Say how a run without live instances ended."""
    result = journal.result()
    if result is None:
        return "broken off; no instance of it is left"
    nonce = result.get("nonce")
    found = f" {nonce}" if nonce is not None else ""
    return f"{result.get('outcome')}{found}"
