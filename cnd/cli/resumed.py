"""From `resume RUN` and `plan --resume RUN` to the run that is asked for.

One rule: what the command line leaves out is as RUN had it; block, difficulty and space
are RUN's, and no file of settings but a budget changes anything.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from cnd.cli.options import RunOptions
from cnd.cli.output import say
from cnd.cli.request import boot_allowance, market
from cnd.cloud import connection
from cnd.cloud.connection import Cloud
from cnd.errors import UsageError
from cnd.model import resumption
from cnd.model.plan import Plan
from cnd.model.resumption import Past
from cnd.planning.forecast import Request
from cnd.run import find_run, past_run, successors
from cnd.run.journal import Journal
from cnd.run.still_searching import require_ended

# Options that are taken over under the same name; others need a decision.
SAME = (
    *("time_limit", "image", "subnet", "user", "address", "gateway", "ssh_from"),
    *("kernel", "bootstrap", "keep", "smallest"),
)
# What cannot change: the option, and the field of the plan.
FIXED = {"difficulty": "--d", "block": "--block", "nonces": "--nonces"}


@dataclass(frozen=True)
class Resumed:
    """A run that is to be resumed, and what is asked for."""

    journal: Journal
    past: Past
    request: Request
    cloud: Cloud | None

    def claimed(self) -> AbstractContextManager[None]:
        """Be the only process that goes on from the run; see `successors.claimed`."""
        smallest = self.request.plan.smallest
        return successors.claimed(self.journal, smallest=smallest)

    @property
    def required_cloud(self) -> Cloud:
        """The cloud; `CloudError` if it is the local one, and down."""
        return connection.required(self.cloud)

    @property
    def sentence(self) -> str:
        """What is left, in a line for the user."""
        plan = self.request.plan
        what = f" below {plan.known}" if plan.known is not None else ""
        return (
            f"run {self.past.run} goes on: {plan.left:,} of {plan.nonces:,} nonces "
            f"are left{what}, {plan.tested_before:,} were tested"
        )


def resumed(
    run: str, options: RunOptions, connect: Callable[[str, str], Cloud | None]
) -> Resumed:
    """Return what `options` ask for of the run that `run` means.

    Args:
        connect: returns the cloud of this name in this region; None: it is down.

    Raises:
        UsageError: it cannot be resumed, or not so.
        CloudError: the cloud cannot be asked.
    """
    journal = find_run.chosen(run, say, (options.cloud, options.region))
    require_ended(journal, None)
    past = past_run.read(journal)
    _require_same_search(past, options)
    _require_script(journal, past.plan.script)
    smallest = options.smallest or past.plan.smallest
    if journal.is_over:
        resumption.require_open(past, smallest=smallest)
    successors.require_none(journal.run, smallest=smallest)
    there = past_run.place(journal)
    if options.cloud and there.cloud not in ("", options.cloud):
        message = f"--cloud {options.cloud}: run {past.run} was on {there.cloud}"
        raise UsageError(message, hint="leave out --cloud")
    cloud = _cloud_of(past.run, there, options, connect)
    own = _in_own_region(cloud, there, past.run)
    require_ended(journal, own)
    if not journal.is_over:
        past = past_run.read(journal, own)
        resumption.require_open(past, smallest=smallest)
    plan = resumption.continued(past, _wanted(past.plan, options))
    given = options.instances is not None or options.confidence is None
    asked = Request(plan, given, options.confidence, options.budget)
    return Resumed(journal, past, asked, cloud)


def _cloud_of(
    run: str,
    there: past_run.Place,
    options: RunOptions,
    connect: Callable[[str, str], Cloud | None],
) -> Cloud | None:
    """Return the cloud of a run, in the region where it is to go on."""
    try:
        return connect(there.cloud or options.cloud, options.region or there.region)
    except UsageError as error:
        if options.cloud or options.region or not there.cloud:
            raise
        message = f"run {run} was on {there.cloud}: {error}"
        raise UsageError(message, hint=error.hint) from error


def _in_own_region(
    cloud: Cloud | None, there: past_run.Place, run: str
) -> Cloud | None:
    """Return the cloud in the region where a run was.

    Raises:
        UsageError: the run belongs to another account.
    """
    if cloud is None:
        return None
    if there.account and there.account != cloud.account:
        message = f"run {run} belongs to account {there.account}, not {cloud.account}"
        raise UsageError(message, hint="log in to that account, then resume again")
    return cloud.in_region(there.region) if there.region else cloud


def _require_same_search(past: Past, options: RunOptions) -> None:
    """Refuse options that would make it another search."""
    for name, spelled in FIXED.items():
        if name not in options.given:
            continue
        mine, asked = getattr(past.plan, name), getattr(options, name)
        if asked != mine:
            message = f"{spelled} {asked!r} is not that of run {past.run}, {mine!r}"
            hint = f"leave out {spelled}; `fab start` begins a new search"
            raise UsageError(message, hint=hint)


def _require_script(journal: Journal, name: str) -> None:
    """Refuse a run whose worker, a script of the user's, was not kept here."""
    if name and not (journal.folder / name).is_file():
        message = f"run {journal.run} cannot be resumed: its worker is not here"
        hint = "resume it on the machine that started it"
        raise UsageError(message, hint=hint)


def _wanted(plan: Plan, options: RunOptions) -> Plan:
    """Return the plan of an earlier run with the options that were given."""
    given = options.given
    changes: dict[str, Any] = {
        name: getattr(options, name) for name in SAME if name in given
    }
    changes.setdefault("keep", False)  # it was about the earlier run's machines
    if options.region and "subnet" not in given:
        changes["subnet"] = ""
    if "instance_type" in given:
        first, *others = options.instance_type
        changes |= {"instance_type": first, "others": dict.fromkeys(others)}
    else:
        changes["others"] = dict.fromkeys(plan.others)
    if "boot" in given:
        changes["boot_allowance"] = options.boot
    elif plan.fleet_of or "instance_type" in given:
        types = (changes.get("instance_type", plan.instance_type), *changes["others"])
        changes["boot_allowance"] = boot_allowance(types)
    changes |= _market(plan, options)
    changes |= _size(plan, options)
    for name in ("replace", "hold"):
        on, off = getattr(options, name, False), getattr(options, f"no_{name}", False)
        if on and off:
            message = f"--{name} and --no-{name} exclude each other"
            raise UsageError(message, hint="leave out one of them")
        changes[name] = (getattr(plan, name) or on) and not off
    # Its fleet is a new one, also where RUN searched on that of another run.
    changes |= {"fleet_of": "", "fleet_size": 0, "holds": 0.0}
    return replace(plan, work=(), usd_per_hour=None, spot={}, asked=0, **changes)


def _market(plan: Plan, options: RunOptions) -> dict[str, Any]:
    wanted = market(options)
    if getattr(options, "on_demand", False):
        if wanted != "on-demand":
            message = "--on-demand and --spot exclude each other"
            raise UsageError(message, hint="leave out one of them")
        return {"market": wanted}
    return {"market": plan.market if wanted == "on-demand" else wanted}


def _size(plan: Plan, options: RunOptions) -> dict[str, Any]:
    """Return how many instances are wanted, and how many are enough."""
    n = options.instances or plan.asked or plan.instances
    if options.at_least is None:
        changed = options.instances is not None or plan.at_least > n
        return {"instances": n, "at_least": 0 if changed else plan.at_least}
    if not 1 <= options.at_least <= n:
        message = f"--at-least must be 1 to {n}, not {options.at_least}"
        raise UsageError(message, hint=options.example)
    return {"instances": n, "at_least": options.at_least}


def connected(name: str, region: str) -> Cloud | None:
    """Return a cloud, and say which; None: it is the local cloud, and down."""
    cloud = connection.connect(name, region)
    say(cloud.title if cloud else connection.DOWN)
    return cloud
