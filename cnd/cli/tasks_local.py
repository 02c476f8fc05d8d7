"""The command for the local cloud: up, down, status, fault.

One rule: no decisions here; the local cloud itself checks what a fault is.
"""

from __future__ import annotations

import json as jsonlib

from invoke.context import Context

from cnd import local as local_cloud
from cnd.cli.option_fields import options_of
from cnd.cli.options import FaultOptions, LocalOptions
from cnd.cli.output import print_data, say
from cnd.cli.task import task
from cnd.errors import UsageError


@task(LocalOptions)
def local(c: Context, options: LocalOptions) -> None:
    """Start, stop, describe or disturb the local cloud: `fab local up`."""
    if options.action == "up":
        _up(options)
    elif options.action == "down":
        _down(options.json)
    elif options.action == "status":
        _status(options.json)
    else:
        _fault(options)


def _up(options: LocalOptions) -> None:
    endpoint = local_cloud.up(
        hosts=options.hosts,
        weather=options.weather,
        account_kind=options.account_kind,
        policy=options.policy,
        say=say,
    )
    if options.json:
        print_data(jsonlib.dumps(_described(endpoint)))
        return
    conditions = local_cloud.conditions(endpoint)
    under = f", {conditions}" if conditions else ""
    say(f"the local cloud is up{under}; it keeps its files in {endpoint.folder}")
    say("for another program, in this or any shell:")
    print_data("\n".join(local_cloud.exports(endpoint)))


def _fault(options: LocalOptions) -> None:
    """Inject a fault; or list all faults, or remove them."""
    endpoint = local_cloud.status()
    if endpoint is None:
        hint = "`fab local up` starts it"
        raise UsageError("the local cloud is down", hint=hint)
    what, json = options.what, options.json
    if options.clear:
        count = local_cloud.clear_faults(endpoint)
        removed = jsonlib.dumps({"forgotten": count})
        print_data(removed if json else f"{count} faults forgotten")
    elif what:
        of_host = what.isdecimal() or what.startswith("i-")
        target = {"host" if of_host else "action": what}
        fields = {name: getattr(options, name) for name in options_of(FaultOptions)}
        given = {name: value for name, value in fields.items() if value}
        laid = local_cloud.lay_fault(endpoint, {**target, **given})
        print_data(jsonlib.dumps(laid))
    elif json:
        print_data(jsonlib.dumps({"faults": local_cloud.faults_laid(endpoint)}))
    else:
        for fault in local_cloud.faults_laid(endpoint):
            print_data(jsonlib.dumps(fault))


def _down(json: bool) -> None:
    was_up = local_cloud.down()
    text = "the local cloud is down" if was_up else "it was not up"
    print_data(jsonlib.dumps({"up": False, "was_up": was_up}) if json else text)


def _described(endpoint: local_cloud.Endpoint) -> dict[str, object]:
    """Return the description of a local cloud that is up."""
    return {
        "up": True,
        "url": endpoint.url,
        "pid": endpoint.pid,
        "folder": str(endpoint.folder),
        "environment": local_cloud.environment(endpoint),
        **local_cloud.summary(endpoint),
    }


def _status(json: bool) -> None:
    endpoint = local_cloud.status()
    if json:
        print_data(jsonlib.dumps(_described(endpoint) if endpoint else {"up": False}))
        return
    if not endpoint:
        print_data("the local cloud is down")
        return
    print_data(f"the local cloud is up at {endpoint.url} (process {endpoint.pid})")
    for name, value in local_cloud.summary(endpoint).items():
        print_data(f"{name}: {value}")
