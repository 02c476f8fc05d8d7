"""A fleet that an earlier run left up: whether a new run may search on it, and how.

One rule: pure decisions over what the cloud lists and the journals say; whatever is in
doubt is refused before anything on the fleet is changed.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from cnd.cloud.connection import Cloud
from cnd.ec2 import LIVE, Instance
from cnd.errors import UsageError
from cnd.model.format import duration
from cnd.model.plan import END_ALLOWANCE, Plan
from cnd.run import order
from cnd.run.journal import Journal
from cnd.run.order import RunOrder
from cnd.system import locks
from cnd.transport.fleet import END_PATIENCE

LOCK = "fleet.lock"  # in the folder of the run that launched it
# Callers that give their role's session no name get one from the time.
UNNAMED = "botocore-session-"


@dataclass(frozen=True)
class FleetLeft:
    """The instances that an earlier run left up, in the order of their places."""

    run: str  # that the user named
    order: RunOrder  # of that run
    instances: tuple[Instance, ...]
    moved: tuple[Instance, ...] = ()  # those with another place than before

    @property
    def runs(self) -> tuple[str, ...]:
        """The runs that have searched on it, the newest first."""
        return self.instances[0].runs

    def holds(self, now: dt.datetime) -> float:
        """Return the seconds until the first of its lifetime timers ends it."""
        ends = [_deadline(each) for each in self.instances]
        return min((end - now).total_seconds() for end in ends)


def _deadline(instance: Instance) -> dt.datetime:
    try:
        end = dt.datetime.fromisoformat(instance.deadline)
        return end if end.tzinfo else end.replace(tzinfo=dt.timezone.utc)
    except ValueError:  # not known: it may end at any moment
        return dt.datetime.fromtimestamp(0, dt.timezone.utc)


# --- which fleet


def order_of(journal: Journal) -> RunOrder:
    """Return the order of the run whose fleet is to be used.

    Raises:
        UsageError: it was started on another machine, or its order is damaged.
    """
    if found := order.kept(journal):
        return found
    why = journal.damage.get("order.json", "")
    message = f"run {journal.run} was not started on this machine"
    if why:
        message = f"run {journal.run}: order.json {why}"
    hint = "only there is the key that its hosts show; `fab start` launches a new fleet"
    raise UsageError(f"{message}: its fleet cannot be trusted", hint=hint)


def check_place(journal: Journal, found: RunOrder, cloud: Cloud) -> None:
    """Refuse a run of another cloud, account or region than `cloud`."""
    for what, theirs, ours, way in (
        ("the cloud", found.cloud, cloud.name, f"--cloud {found.cloud}"),
        ("account", found.account, cloud.account, "log in to that account"),
        ("region", found.region, cloud.region, f"--region {found.region}"),
    ):
        if theirs != ours:
            message = f"run {journal.run} belongs to {what} {theirs}, not {ours}"
            raise UsageError(message, hint=way)


def left_by(
    journal: Journal, found: RunOrder, listed: Sequence[Instance], cloud: Cloud
) -> FleetLeft:
    """Return the fleet that a run left, given all instances that `cloud` lists.

    Raises:
        UsageError: nothing of it is left, it is not the user's own, or a run uses it.
    """
    run = journal.run
    if found.plan.without_ssh:
        message = f"the instances of run {run} are reached without SSH"
        raise UsageError(
            f"{message}: they search once", hint="`fab start` without --on"
        )
    live = [each for each in listed if each.state in LIVE and run in each.runs]
    for name in (run, *sorted({each.run for each in live} - {run})):
        _check_idle(name, live)
    if not live:
        message = f"nothing of the fleet of run {run} is left"
        raise UsageError(message, hint="`fab start` launches a new one")
    for each in live:
        if not _same(each.owner, cloud.owner):
            message = (
                f"{each.id} of run {run} belongs to {each.owner or 'an unknown user'}"
            )
            raise UsageError(f"{message}, not to {cloud.owner}", hint="use your own")
    # Where none was lost, each keeps its place.
    ordered = sorted(live, key=lambda each: (each.index, each.id))
    placed = tuple(replace(each, index=i) for i, each in enumerate(ordered))
    moved = tuple(each for each in placed if each not in live)
    return FleetLeft(run, found, placed, moved)


def _check_idle(run: str, live: Sequence[Instance]) -> None:
    """Refuse the fleet of a run that goes on, or that is to end with its run."""
    journal = Journal(run)
    if journal.is_followed:
        message = f"run {run} still searches on this fleet"
        raise UsageError(message, hint=f"`fab stop --run {run}` ends its search")
    if not live:
        return
    ends = f"`fab scram --run {run}` ends it"
    if not journal.is_over:
        takes = f"`fab attach {run}` takes it over, {ends}"
        raise UsageError(f"run {run} has not ended: its fleet goes on", hint=takes)
    receipt = (journal.result() or {}).get("receipt")
    if not (isinstance(receipt, dict) and receipt.get("kept")):
        message = f"run {run} did not keep its fleet: what is left of it ends by itself"
        raise UsageError(message, hint=f"say --keep with the next one; {ends}")


def _same(theirs: str, ours: str) -> bool:
    if theirs.startswith(UNNAMED) and ours.startswith(UNNAMED):
        return True
    return theirs == ours


@contextlib.contextmanager
def claimed(run: str) -> Iterator[None]:
    """Be the only process that searches again on a fleet, as long as the block lasts.

    Args:
        run: that launched it; "": the block needs no such fleet.

    Raises:
        UsageError: another process does.
    """
    journal = Journal(run)
    if not (run and journal.is_there):
        yield
        return
    with locks.held(journal.folder / LOCK) as taken:
        if not taken:
            message = f"a run searches on the fleet of run {run} right now"
            hint = "`fab status` shows it, `fab stop` ends its search"
            raise UsageError(message, hint=hint)
        yield


# --- what is searched on it


def decided(
    left: FleetLeft, wanted: Plan, instances: int | None, *, extend: bool
) -> tuple[Plan, bool]:
    """Return the plan of a search on a fleet, and whether to set its timers anew.

    Args:
        wanted: what is to be searched, with the options of the search.
        instances: N; None: as many as the fleet has.
        extend: whether they may be set anew, where they end the fleet too early.

    Raises:
        UsageError: there are too few instances, or they end too early.
    """
    size, now = len(left.instances), dt.datetime.now(dt.timezone.utc)
    n = size if instances is None else instances
    if n > size:
        message = f"--n {n}: the fleet of run {left.run} has {size} instances"
        raise UsageError(message, hint=f"--n {size}, or `fab start` without --on")
    holds, needed = left.holds(now), wanted.time_limit + END_ALLOWANCE
    too_short = holds < needed
    if too_short and not extend:
        raise _too_short(left, wanted, holds)
    former = left.order.plan
    youngest = max(each.launched for each in left.instances)
    boot = former.boot_allowance - (now - youngest).total_seconds()
    plan = replace(
        former,
        **{name: getattr(wanted, name) for name in SEARCH},
        instances=n,
        bootstrap="ssh",
        boot_allowance=min(former.boot_allowance, max(END_PATIENCE, boot)),
        at_least=0,
        asked=0,
        replace=False,
        fleet_of=left.runs[-1],
        fleet_size=size,
        holds=round(former.boot_allowance + needed if too_short else holds, 1),
    )
    return plan, too_short


# What a search decides anew; all else is as the fleet was launched.
SEARCH = (
    *("difficulty", "block", "nonces", "time_limit", "kernel", "script", "words"),
    *("smallest", "keep"),
)


def _too_short(left: FleetLeft, wanted: Plan, holds: float) -> UsageError:
    """Return the refusal that says how long a fleet holds, and for which search."""
    end = (
        f"the timers of the fleet of run {left.run} end it in {duration(max(0, holds))}"
    )
    needed = f"{wanted.time_limit:g} s of search and {END_ALLOWANCE:.0f} s for its end"
    most = int(holds - END_ALLOWANCE)
    less = f"--t {most}, or " if most >= 1 else ""
    hint = f"{less}--extend sets the timers anew, for a higher price at worst"
    return UsageError(f"{end}: too early for {needed}", hint=hint)
