"""The commands before and after a run: plan, doctor, config, clean.

One rule: no decisions here; `start` executes the very object that `plan` prints.
"""

from __future__ import annotations

import json as jsonlib
import sys
from dataclasses import asdict

from invoke.context import Context
from invoke.exceptions import Exit

from cnd import ec2
from cnd.cli import arguments, resumed, settings
from cnd.cli.carry_out import with_type
from cnd.cli.connect import connected, required
from cnd.cli.options import CleanOptions, ConfigOptions, DoctorOptions, PlanOptions
from cnd.cli.output import say
from cnd.cli.request import doctor_plan, request, user_key
from cnd.cli.task import task
from cnd.cloud import connection
from cnd.errors import CloudError, UsageError
from cnd.model.format import table
from cnd.model.plan import MARKETS, Plan
from cnd.planning import instance_types, local_rate, preflight, prices
from cnd.planning.forecast import Request, alternatives, decide, forecast, to_json
from cnd.planning.forecast_text import text
from cnd.provision import cleanup
from cnd.system.folders import state_folder


@task(PlanOptions)
def plan(c: Context, options: PlanOptions) -> None:
    """Say what a run would do, find and cost; buys nothing."""
    if options.resume:
        found = resumed.resumed(options.resume, options, resumed.connected)
        asked, cloud = found.request, found.cloud
    else:
        asked, cloud = request(options), connected(options)
    folder, mine = state_folder(), local_rate.rate(asked.plan.kernel)
    on_aws = cloud if cloud and cloud.name == "aws" else None
    asked = instance_types.ranked(cloud, with_type(asked, cloud, options))
    instance_types.check_offered(on_aws, asked.plan)
    known = instance_types.machine(cloud, folder, asked.plan, measure=lambda: mine)
    asked = instance_types.on_spot(on_aws, asked)
    first, on_spot = asked.plan.instance_type, asked.plan.market != MARKETS[0]
    in_force = asked.plan.spot
    if on_aws and not on_spot:
        in_force = prices.spot(on_aws, [first])
    now = prices.lowest(in_force.get(first, {}))
    made = forecast(decide(asked, known), known, now if on_spot else None)
    others = alternatives(
        asked, instance_types.others(cloud, folder, asked.plan.kernel)
    )
    left = on_aws.clients.life_left() if on_aws else None
    expires = left is not None and left < made.plan.lifetime
    if not options.json:
        print(text(made, others, mine, now, expires=expires))
        return
    print(jsonlib.dumps(to_json(made, others, mine, now, expires=expires)))


@task(DoctorOptions)
def doctor(c: Context, options: DoctorOptions) -> None:
    """Check whether the account is fit for a run; makes and buys nothing there.

    Where runs would go to the local cloud, that is brought up and examined.
    """
    wanted, key = doctor_plan(options), user_key(options.key_file)
    cloud = required(options.cloud, options.region, launch=True)
    if cloud.name == "local" and not options.cloud:
        say(
            "no AWS credentials: this is the local cloud, to which runs go without them"
        )
    case = preflight.Case(cloud, wanted, key, options.bucket)
    checks = preflight.examine(case, preflight.ALL)
    faults = [check for check in checks if check.status == preflight.FAULT]
    if options.json:
        found = {"healthy": not faults, "checks": [asdict(check) for check in checks]}
        print(jsonlib.dumps(found))
    else:
        print("\n".join(check.line for check in checks))
    if faults:
        raise Exit(code=CloudError.exit_status)


@task(CleanOptions)
def clean(c: Context, options: CleanOptions) -> None:
    """Remove what CND made besides instances: key pair, group, logs in the bucket."""
    cloud, yes = required(options.cloud, options.region), options.yes
    if live := ec2.find(cloud.ec2, states=ec2.EXISTING):
        message = f"{len(live)} instances of CND are there"
        raise UsageError(message, hint="`fab scram` ends them; then clean")
    found, refused = cleanup.find(cloud, bucket_too=options.bucket_too)
    unseen = [str(error) for error in refused]
    left: dict[str, str] = {}
    for made in found if yes else []:
        try:
            cleanup.remove(cloud, made)
        except CloudError as error:
            left[made.title] = str(error)
    removed = [made.title for made in found if yes and made.title not in left]
    if options.json:
        listed = [made.title for made in found]
        done = {"found": listed, "removed": removed, "left": left, "unseen": unseen}
        print(jsonlib.dumps(done))
    else:
        print("\n".join(f"unseen  {reason}" for reason in unseen), file=sys.stderr)
        _print_cleaned(found, removed, left, yes)
    if left or unseen:
        raise Exit(code=CloudError.exit_status)


def _print_cleaned(
    found: list[cleanup.Resource], removed: list[str], left: dict[str, str], yes: bool
) -> None:
    if not found:
        print("there is nothing of CND")
    for title in removed:
        print(f"removed {title}")
    for title, reason in left.items():
        print(f"left    {title}: {reason}")
    if found and not yes:
        print("\n".join(made.title for made in found))
        print("nothing was removed: say --yes to remove these")


@task(ConfigOptions)
def config(c: Context, options: ConfigOptions) -> None:
    """Print the options that files and the environment can set, and what sets them."""
    files = settings.files_of(c)
    found = [_in_force(settings.setting(name, "", files)) for name in settings.DEFAULTS]
    if options.json:
        print(
            jsonlib.dumps({s.name: {"value": s.value, "from": s.source} for s in found})
        )
    else:
        rows = ((each.name, each.value or "-", each.source) for each in found)
        print("\n".join(table(rows, ("<14", "<16", "<"), gap=" ")))
        print(f"order: {settings.ORDER}")
    _check({each.name: each for each in found})


def _in_force(found: settings.Setting) -> settings.Setting:
    """Return a setting as it is in force: a region may come from boto3."""
    if found.name != "region" or found.value:
        return found
    region, source = connection.configured_region()
    return settings.Setting("region", region, source or found.source)


def _check(found: dict[str, settings.Setting]) -> None:
    """Refuse values that every run would refuse, and say what sets them."""
    text, budget = found["budget"].value, None
    try:
        if text:
            budget = arguments.number(text, "budget", "an amount of USD such as 1.50")
        plan = Plan(0, 1, 1.0, found["block"].value, image=found["image"].value)
        Request(plan, False, None, budget)
        arguments.names(found["instance_type"].value, "instance_type")
    except UsageError as error:
        sources = {each.source for each in found.values()} - {"default"}
        hint = f"set by one of: {', '.join(sorted(sources))}"
        raise UsageError(str(error), hint=hint) from error
