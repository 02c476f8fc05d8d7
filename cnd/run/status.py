"""The live instances of CND, and the state of the runs on this disk.

One rule: the cloud's tags decide which instances exist, the journals what each of them
does; a run without a journal here is reported as such.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from cnd import ec2
from cnd.cloud.connection import Cloud
from cnd.cloud.failures import LISTED_WITHIN
from cnd.ec2 import EXISTING, FILTER_VALUES, LIVE, Instance, by_run
from cnd.errors import CloudError, UsageError
from cnd.model import replay
from cnd.model.checkpoint import Checkpoint
from cnd.model.claim import refutation
from cnd.model.events import Event, amount, trouble
from cnd.model.format import duration, number
from cnd.run import order, past_run, successors
from cnd.run.journal import Journal, runs
from cnd.system.background import answer
from cnd.transport import orphans

SHOWN = 10  # runs
# Seconds after its request for which a launch may not be listed yet.
LAUNCH_SHOWS = 600.0
# For a look for strays that is not over when a run is prepared.
STRAYS_PATIENCE = 30.0  # seconds
UNDER_WAY = (
    "broke off while a launch was under way: instances may show yet; "
    "`fab scram` looks for them"
)


@dataclass(frozen=True)
class Overview:
    """The live instances with their activity, and the newest runs."""

    instances: tuple[tuple[Instance, str], ...]
    # Name; how it ended, or "going on"; how many nonces are left to resume it.
    runs: tuple[tuple[str, str, int | None], ...]
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
                    "address": i.address or i.private,
                    "owner": i.owner,
                    "deadline": i.deadline,
                    "age": round(self._age(i), 1),
                    "doing": doing,
                }
                for i, doing in self.instances
            ],
            "runs": [
                {"run": run, "stands": stands, "left": left}
                for run, stands, left in self.runs
            ],
        }

    def text(self) -> str:
        """Return the same as lines of text."""
        lines = [
            f"{i.id}  {i.run}  Instance{i.index}  {i.type}  {i.state}  "
            f"{i.address or i.private or '-'}  {duration(self._age(i))}  {doing}"
            for i, doing in self.instances
        ]
        count = len(self.instances)
        lines.append(f"{count} instance{'' if count == 1 else 's'} running")
        lines += [
            f"run {run}: {stands}{_resumable(run, left)}"
            for run, stands, left in self.runs
        ]
        return "\n".join(lines)

    def _age(self, instance: Instance) -> float:
        return (self.now - instance.launched).total_seconds()


def _resumable(run: str, left: int | None) -> str:
    return f"; {number(left)} nonces are left: `fab resume {run}`" if left else ""


def survey(listed: Sequence[Instance], cloud: Cloud | None) -> Overview:
    """Return the overview, given what `cloud` lists: see `listed`."""
    live = [i for i in listed if i.state in EXISTING]
    newest = runs(SHOWN)
    journals = {run: Journal(run) for run in {*newest, *by_run(live)}}
    activities = {run: _activities(journals[run]) for run in by_run(live)}
    unsure = under_way(listed, cloud) if cloud else []
    no_rest = {*unsure, *activities, *successors.newest(newest)}
    unknown = "not followed from this machine"
    return Overview(
        instances=tuple((i, activities[i.run].get(i.id, unknown)) for i in live),
        runs=tuple(
            (
                run,
                UNDER_WAY
                if run in unsure
                else _summary(journals[run], run in activities, cloud),
                None if run in no_rest else past_run.left(journals[run]),
            )
            for run in newest
        ),
        now=dt.datetime.now(dt.timezone.utc),
    )


def listed(cloud: Cloud | None, among: Sequence[str] = ()) -> list[Instance]:
    """Return the instances that exist; of some runs the terminated ones, too.

    Those are the runs with a launch that may be under way: see `under_way`.  Of the
    others no terminated instance is requested, as there may be hundreds.

    Args:
        among: the runs to look for, at most `ec2.FILTER_VALUES`; empty: all.
    """
    if cloud is None:
        return []
    found = ec2.find(cloud.ec2, among=among, states=EXISTING)
    if unsure := under_way(found, cloud):
        found = [instance for instance in found if instance.run not in unsure]
        found += ec2.find(cloud.ec2, among=unsure, states=ec2.ALL)
    return found


def strays_on(cloud: Cloud) -> list[str]:
    """Return the same as `strays`; `cloud` is asked for the runs on this disk only."""
    return strays(listed(cloud, runs(FILTER_VALUES)), cloud)


def strays(listed: Sequence[Instance], cloud: Cloud) -> list[str]:
    """Return a sentence for each live run of this machine without an orchestrator.

    And for each whose instances may appear yet.

    Args:
        listed: as of `listed`.
    """
    live = [i for i in listed if i.state in LIVE]
    unsure = [f"run {run} {UNDER_WAY}" for run in under_way(listed, cloud)]
    return unsure + [
        f"run {run} has {len(instances)} instances and no orchestrator: {_way_out(run)}"
        for run, instances in by_run(live).items()
        if (journal := Journal(run)).is_there
        and not journal.is_followed
        and not _kept(journal)
    ]


def sightings(
    looking: Future[Iterable[str]], patience: float = STRAYS_PATIENCE
) -> list[Event]:
    """Return the events of a look for strays that goes on in another thread.

    No run waits long for it: it is about other runs.

    Raises:
        CloudError: the cloud refused to list instances.
    """
    try:
        found = answer(looking, patience)
    except TimeoutError as error:
        what = "whether other runs lack an orchestrator is not known"
        return [trouble(CloudError(f"{what}: {error}"))]
    return [Event("stray.found", fields={"text": text}) for text in found]


def _kept(journal: Journal) -> bool:
    """Return whether a run left its instances up because the user asked for it."""
    receipt = (journal.result() or {}).get("receipt")
    return isinstance(receipt, dict) and bool(receipt.get("kept"))


def _way_out(run: str) -> str:
    ends = f"`fab scram --run {run}` ends it"
    if Journal(run).is_over:
        return ends  # there is nothing to take over
    return f"`fab attach {run}` takes it over, {ends}"


def under_way(listed: Sequence[Instance], cloud: Cloud) -> list[str]:
    """Return the runs with a launch on `cloud` whose instances may not be listed yet.

    Their orchestrator died a short while ago, before the answer to its request, and
    `listed`, in any state, has fewer instances unknown to it than it had requested; or
    those that it knew are not listed yet.  A list without the terminated ones names
    such a run, too, when it has just ended.
    """
    by_name = by_run(listed)
    found = []
    for run in runs(SHOWN):
        journal = Journal(run)
        kept = journal.kept_order() or {}
        place = [kept.get(name) for name in ("cloud", "account", "region")]
        if place != [cloud.name, cloud.account, cloud.region] or journal.is_followed:
            continue
        there = {instance.id for instance in by_name.get(run, ())}
        if not journal.is_over and _unanswered(journal, there) > 0:
            found.append(run)
    return found


def launching(queued: Sequence[str], live: Sequence[Instance]) -> list[str]:
    """Return those of the runs with a queue whose launch may be under way right now.

    None of their instances is listed, and a process follows them, or may: a run that
    was started on another machine has no journal here.
    """
    shown = {instance.run for instance in live}
    return [run for run in queued if run not in shown and may_be_followed(run)]


def may_be_followed(run: str) -> bool:
    """Return whether a process follows a run here, or may on another machine.

    One that has its result only tidies up: its queue is listed for a minute more.
    """
    journal = Journal(run)
    return (journal.is_followed and not journal.is_over) or not journal.is_there


def _unanswered(journal: Journal, listed: Collection[str]) -> int:
    """Return how many of the instances that were requested lately are not listed."""
    events, now = list(journal.events()), time.time()
    missing = replay.unanswered(events, since=now - LAUNCH_SHOWS)
    launched = {e.host: e.time for e in events if e.kind == "instance.launched"}
    # The process that ended the run has looked for them.
    ends = [e.time for e in events if e.kind == "run.aborted"]
    fresh = {i for i, at in launched.items() if at > max([now - LISTED_WITHIN, *ends])}
    return missing - len(set(listed) - launched.keys()) + len(fresh - set(listed))


def abandoned() -> str:
    """Return the one run of this machine that could be attached to.

    Raises:
        UsageError: there is none, or more than one.
    """
    found = [run for run in runs() if _could_be_taken_over(Journal(run))]
    if len(found) != 1:
        message = "no run is without an orchestrator"
        if found:
            message = f"{len(found)} runs could be taken over: {', '.join(found)}"
        hint = "name one: fab attach RUN" if found else "`fab status` shows runs"
        raise UsageError(message, hint=hint)
    return found[0]


def _could_be_taken_over(journal: Journal) -> bool:
    """Return whether a run was launched, has not ended, and is not followed."""
    if journal.is_over or journal.is_followed:
        return False
    kinds = {event.kind for event in journal.events()}
    began = kinds & {"instance.requested", "fleet.reused"}
    return bool(began) and "run.aborted" not in kinds


def _activities(journal: Journal) -> dict[str, str]:
    """Return what each instance of a run does, by its last relevant event."""
    activities: dict[str, str] = {}
    for event in journal.history():
        if isinstance(event, Checkpoint):
            continue
        if event.host and (doing := _activity(event)):
            activities[event.host] = doing
    return activities


def _activity(event: Event) -> str:
    if event.kind == "worker.progress":
        rate = amount(event.fields.get("rate"))
        return f"searching, {number(rate or 0.0)} nonces/s"
    return {
        "instance.launched": "booting",
        "instance.running": "waiting for SSH",
        "instance.ready": "being set up",
        "worker.started": "searching",
        "worker.device": "searching",
        "host.reconnecting": "out of touch",
        "host.failed": "failed",
        "log.pulled": "done",
    }.get(event.kind, event.kind if event.kind.startswith("worker.") else "")


def _summary(journal: Journal, live: bool, cloud: Cloud | None) -> str:
    """Return how a run ended, or how it goes on, and which of its files are damaged."""
    state = _state(journal, live, cloud)
    return f"{state} ({journal.complaint})" if journal.complaint else state


def _state(journal: Journal, live: bool, cloud: Cloud | None) -> str:
    if (result := journal.result()) is not None:
        nonce = result.get("nonce")
        return f"{result.get('outcome')}{'' if nonce is None else f' {nonce}'}"
    if journal.is_over:
        return "over"
    if journal.is_followed:
        return "going on"
    if live:
        takes = f"`fab attach {journal.run}` takes it over"
        return f"going on without an orchestrator; {takes}"
    if cloud and (nonce := _left_behind(journal, cloud)) is not None:
        return f"found {nonce} without an orchestrator; `fab attach {journal.run}`"
    return "broken off; no instance of it is left"


def _left_behind(journal: Journal, cloud: Cloud) -> int | None:
    """Return the golden nonce that a run's orphans have put into S3, or None."""
    kept = order.kept(journal)
    if kept is None or (kept.cloud, kept.account) != (cloud.name, cloud.account):
        return None
    try:
        s3 = cloud.in_region(kept.region).s3
        claim = orphans.result(s3, kept.provision.bucket, journal.run)
    except CloudError:
        return None
    nonce, plan = (claim or {}).get("nonce"), kept.plan
    owner = plan.owners.of(nonce) if isinstance(nonce, int) else None
    if owner is None or refutation(plan, owner, nonce):
        return None
    return nonce
