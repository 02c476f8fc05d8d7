"""The commands before and after a run: plan, doctor, config, clean.

One rule: no decisions here; `start` executes the very object that `plan` prints.
"""

from __future__ import annotations

import json as jsonlib
import sys
from dataclasses import asdict
from typing import Any

from invoke.context import Context
from invoke.exceptions import Exit

from cnd import ec2
from cnd import pow as worker
from cnd.cli import arguments, settings
from cnd.cli.program import files_of, task
from cnd.cloud import connection as clouds
from cnd.errors import CloudError, UsageError
from cnd.model.plan import (
    ADDRESSES,
    BOOT_ALLOWANCE,
    BOOTSTRAPS,
    KERNELS,
    MARKETS,
    MAX_INSTANCES,
    Plan,
)
from cnd.planning import instance_types, local_rate, prices
from cnd.planning import preflight as doctors
from cnd.planning.forecast import Request, alternatives, decide, forecast, text, to_json
from cnd.provision import cleanup
from cnd.system import open_files
from cnd.system.folders import state_folder
from cnd.transport import keys
from cnd.transport.keys import UserKey

EXAMPLE = "for example: fab start --t 200 --d 2 --n 8"
CLOUD_HELP = {
    "cloud": "aws or local; default: aws if boto3 finds credentials, else local",
    "region": "AWS region; default: as boto3 is configured",
}
# The options that `start` and `plan` share.
WISH_LETTERS = {"time_limit": "t", "difficulty": "d", "instances": "n"}
WISH_HELP = {
    "time_limit": "T, seconds of search after which everybody stops (200)",
    "difficulty": "D, leading zero hex digits of the hash, 0 to 64",
    "instances": "N, how many EC2 instances (1, or what --confidence needs)",
    "confidence": "a chance such as 0.95 to find a nonce within T: chooses N",
    "budget": "USD; refuse if the worst case costs more",
    "block": f"the block's text ({worker.DEFAULT_BLOCK})",
    "nonces": "size of the nonce space, up to 2**64 (2**32)",
    "spot": "spot instances: cheap, and AWS may take them back",
    "spot_or_on_demand": "spot instances, and on demand what is missing",
    "smallest": "the smallest golden nonce, whatever N: finish all classes up to it",
    "hold": "an Auto Scaling group replaces what is lost, for long searches",
    "at_least": "make do with K instances where N cannot be had (N)",
    "instance_type": "EC2 instance type, or several: the cheapest first (t3.micro)",
    "image": "ubuntu, al2023, debian or ami-... (ubuntu)",
    "user": "who logs in to the image; default: as its publisher has it",
    "subnet": "subnet-..., or several to try in turn; default: the default VPC's",
    "address": "where SSH goes to: public or private (public)",
    "gateway": "user@host:port, a jump host for SSH",
    "ssh_from": "CIDR that SSH is let in from; default: this machine's address",
    "bootstrap": "ssh, user-data (no SSH: all through S3) or auto (by N)",
    "boot": "seconds from the launch until SSH must answer (300); metal takes more",
    "kernel": "search with this one only (auto: the fastest on each host)",
}


def wish(
    *,
    time_limit: str,
    difficulty: str,
    instances: str,
    confidence: str,
    budget: str,
    nonces: str,
    kernel: str,
    bootstrap: str,
    instance_type: str,
    at_least: str,
    spot: bool,
    spot_or_on_demand: bool,
    address: str,
    boot: str,
    **more: Any,
) -> Request:
    """Return what the options ask for; `more` are fields of `Plan` as they are."""
    n = arguments.whole(instances or "1", "--n", 1, MAX_INSTANCES, EXAMPLE)
    least = 0
    if at_least and not instances:
        message = "--at-least says with how few of N to make do"
        raise UsageError(message, hint="say --n as well")
    if at_least:
        least = arguments.whole(at_least, "--at-least", 1, n, EXAMPLE)
    first, *others = arguments.names(instance_type, "--instance-type")
    return Request(
        Plan(
            difficulty=whole_difficulty(difficulty),
            instances=n,
            time_limit=arguments.seconds(time_limit, "--t", EXAMPLE),
            nonces=arguments.whole(nonces, "--nonces", 1, worker.MAX_NONCES, EXAMPLE),
            kernel=arguments.choice(kernel, "--kernel", KERNELS),
            bootstrap=arguments.choice(bootstrap, "--bootstrap", BOOTSTRAPS),
            instance_type=first,
            others=dict.fromkeys(others),
            address=arguments.choice(address, "--address", ADDRESSES),
            market=_market(spot, spot_or_on_demand),
            at_least=least,
            boot_allowance=arguments.seconds(
                boot, "--boot", "for example: --boot 1200"
            ),
            **more,
        ),
        given=bool(instances),
        confidence=_number(confidence, "--confidence", "a chance such as 0.95"),
        budget=_number(budget, "--budget", "an amount of USD such as 1.50"),
    )


@task(
    letters=WISH_LETTERS,
    help={
        **WISH_HELP,
        "json": "print one JSON object to stdout, and nothing else",
        **CLOUD_HELP,
    },
)
def plan(
    c: Context,
    time_limit: str = "200",
    difficulty: str = "",
    instances: str = "",
    confidence: str = "",
    budget: str = "",
    at_least: str = "",
    block: str = "",
    nonces: str = "2**32",
    cloud: str = "",
    region: str = "",
    instance_type: str = "",
    image: str = "",
    user: str = "",
    subnet: str = "",
    ssh_from: str = "",
    address: str = "public",
    gateway: str = "",
    boot: str = str(BOOT_ALLOWANCE),
    kernel: str = "auto",
    bootstrap: str = "auto",
    spot: bool = False,
    spot_or_on_demand: bool = False,
    hold: bool = False,
    smallest: bool = False,
    json: bool = False,
) -> None:
    """Say what a run would do, find and cost; buys nothing."""
    asked = wish(
        time_limit=time_limit,
        difficulty=difficulty,
        instances=instances,
        confidence=confidence,
        budget=budget,
        at_least=at_least,
        spot=spot,
        spot_or_on_demand=spot_or_on_demand,
        hold=hold,
        smallest=smallest,
        block=block,
        nonces=nonces,
        instance_type=instance_type,
        image=image,
        user=user,
        subnet=subnet,
        ssh_from=ssh_from,
        address=address,
        gateway=gateway,
        boot=boot,
        kernel=kernel,
        bootstrap=bootstrap,
    )
    connected = clouds.connect(cloud, region)
    print(connected.title if connected else clouds.DOWN, file=sys.stderr)
    folder, mine = state_folder(), local_rate.rate(kernel)
    on_aws = connected if connected and connected.name == "aws" else None
    asked = instance_types.ranked(connected, asked)
    instance_types.check_offered(on_aws, asked.plan)
    known = instance_types.machine(connected, folder, asked.plan, measure=lambda: mine)
    asked = instance_types.on_spot(on_aws, asked)
    first, on_spot = asked.plan.instance_type, asked.plan.market != MARKETS[0]
    in_force = asked.plan.spot
    if on_aws and not on_spot:
        in_force = prices.spot(on_aws, [first])
    now = prices.lowest(in_force.get(first, {}))
    made = forecast(decide(asked, known), known, now if on_spot else None)
    others = alternatives(asked, instance_types.others(connected, folder, kernel))
    left = on_aws.clients.life_left() if on_aws else None
    outlived = left is not None and left < made.plan.lifetime
    if not json:
        print(text(made, others, mine, now, outlived=outlived))
        return
    print(jsonlib.dumps(to_json(made, others, mine, now, outlived=outlived)))


@task(
    letters={"time_limit": "t", "instances": "n"},
    help={
        **{name: WISH_HELP[name] for name in ("time_limit", "instances")},
        **{name: WISH_HELP[name] for name in ("instance_type", "image", "user")},
        **{name: WISH_HELP[name] for name in ("subnet", "ssh_from")},
        **{name: WISH_HELP[name] for name in ("address", "gateway", "hold")},
        **{name: WISH_HELP[name] for name in ("spot", "spot_or_on_demand")},
        "bucket": "an S3 bucket of yours for the logs; default: CND's own",
        "key_file": "an SSH private key of yours; default: CND's own",
        "json": "print one JSON object to stdout, and nothing else",
        **CLOUD_HELP,
    },
)
def doctor(
    c: Context,
    time_limit: str = "200",
    instances: str = "1",
    cloud: str = "",
    region: str = "",
    instance_type: str = "",
    image: str = "",
    user: str = "",
    subnet: str = "",
    ssh_from: str = "",
    address: str = "public",
    gateway: str = "",
    spot: bool = False,
    spot_or_on_demand: bool = False,
    hold: bool = False,
    bucket: str = "",
    key_file: str = "",
    json: bool = False,
) -> None:
    """Look whether the account is fit for a run; makes and buys nothing."""
    first, *others = arguments.names(instance_type, "--instance-type")
    wanted = Plan(
        difficulty=1,
        instances=arguments.whole(instances, "--n", 1, MAX_INSTANCES, EXAMPLE),
        time_limit=arguments.seconds(time_limit, "--t", EXAMPLE),
        instance_type=first,
        others=dict.fromkeys(others),
        image=image,
        user=user,
        subnet=subnet,
        ssh_from=ssh_from,
        address=arguments.choice(address, "--address", ADDRESSES),
        gateway=gateway,
        market=_market(spot, spot_or_on_demand),
        hold=hold,
    )
    key = user_key(key_file)
    connected = clouds.required(clouds.connect(cloud, region))
    print(connected.title, file=sys.stderr)
    case = doctors.Case(connected, wanted, key, bucket)
    checks = doctors.examine(case, doctors.ALL)
    faults = [check for check in checks if check.status == doctors.FAULT]
    if json:
        found = {"healthy": not faults, "checks": [asdict(check) for check in checks]}
        print(jsonlib.dumps(found))
    else:
        print("\n".join(check.line for check in checks))
    if faults:
        raise Exit(code=CloudError.exit_status)


@task(
    help={
        "yes": "remove it; without this it is only listed",
        "json": "print one JSON object to stdout, and nothing else",
        **CLOUD_HELP,
    }
)
def clean(
    c: Context,
    yes: bool = False,
    cloud: str = "",
    region: str = "",
    json: bool = False,
) -> None:
    """Remove what CND made besides instances: key pair, group, bucket with its logs."""
    connected = clouds.required(clouds.connect(cloud, region))
    print(connected.title, file=sys.stderr)
    if live := ec2.find(connected.ec2, states=ec2.EXISTING):
        message = f"{len(live)} instances of CND are there"
        raise UsageError(message, hint="`fab scram` ends them; then clean")
    found, refused = cleanup.find(connected)
    unseen = [str(error) for error in refused]
    left: dict[str, str] = {}
    for made in found if yes else []:
        try:
            cleanup.remove(connected, made)
        except CloudError as error:
            left[made.title] = str(error)
    removed = [made.title for made in found if yes and made.title not in left]
    if json:
        listed = [made.title for made in found]
        told = {"found": listed, "removed": removed, "left": left, "unseen": unseen}
        print(jsonlib.dumps(told))
    else:
        print("\n".join(f"unseen  {reason}" for reason in unseen), file=sys.stderr)
        _tell_clean(found, removed, left, yes)
    if left or unseen:
        raise Exit(code=CloudError.exit_status)


def _tell_clean(
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


@task(help={"json": "print one JSON object to stdout, and nothing else"})
def config(c: Context, json: bool = False) -> None:
    """Print the options that files and the environment can set, and who sets them."""
    files = files_of(c)
    found = [_told(settings.setting(name, "", files)) for name in settings.DEFAULTS]
    if json:
        print(
            jsonlib.dumps({s.name: {"value": s.value, "from": s.source} for s in found})
        )
    else:
        for each in found:
            print(f"{each.name:<14} {each.value or '-':<16} {each.source}")
        print(f"order: {settings.ORDER}")
    _check({each.name: each for each in found})


def _told(found: settings.Setting) -> settings.Setting:
    """Return a setting as it will be in force: a region may come from boto3."""
    if found.name != "region" or found.value:
        return found
    region, source = clouds.configured_region()
    return settings.Setting("region", region, source or found.source)


def _check(found: dict[str, settings.Setting]) -> None:
    """Refuse what every run would refuse, and say who sets it."""
    budget = found["budget"]
    try:
        _number(budget.value, "budget", "an amount of USD such as 1.50")
        plan = Plan(0, 1, 1.0, found["block"].value, image=found["image"].value)
        Request(plan, False, None, float(budget.value) if budget.value else None)
        arguments.names(found["instance_type"].value, "instance_type")
    except UsageError as error:
        sources = {each.source for each in found.values()} - {"default"}
        hint = f"set by one of: {', '.join(sorted(sources))}"
        raise UsageError(str(error), hint=hint) from error


def fit(connected: clouds.Cloud, decided: Plan, key: UserKey) -> None:
    """Look at what can be looked at quickly, before anything is bought.

    Raises:
        UsageError: this machine cannot hold so many connections.
        CloudError: the first fault.  Warnings are told.
    """
    if not decided.without_ssh:
        open_files.allow(decided.instances)
    if connected.name == "local":
        return  # nothing there is limited, and nothing costs
    case = doctors.Case(connected, decided, key)
    for check in doctors.examine(case, doctors.FAST):
        if check.status == doctors.FAULT:
            raise CloudError(f"{check.name}: {check.text}", hint=check.way_out or None)
        if check.status == doctors.WARNING:
            print(check.line, file=sys.stderr)


def user_key(key_file: str) -> UserKey:
    """Return the key to log in with: the user's own, or CND's."""
    if key_file:
        return keys.load(arguments.existing_file(key_file, "--key-file"))
    folder = state_folder()
    try:
        return keys.user_key(folder)
    except OSError as error:
        message = f"cannot write to {folder}: {error.strerror}"
        hint = "make room there, or set XDG_STATE_HOME to another folder"
        raise UsageError(message, hint=hint) from error


def whole_difficulty(text: str, example: str = EXAMPLE) -> int:
    """Return the difficulty that an option gives."""
    if not text:
        raise UsageError("--d, the difficulty, is missing", hint=example)
    return arguments.whole(text, "--d", 0, worker.HASH_DIGITS, example)


def _market(spot: bool, spot_or_on_demand: bool) -> str:
    if spot and spot_or_on_demand:
        raise UsageError("--spot and --spot-or-on-demand exclude each other")
    return MARKETS[1 * spot + 2 * spot_or_on_demand]


def _number(text: str, option: str, meaning: str) -> float | None:
    """Return an option that may be left out; its range is the wish's business."""
    try:
        return float(text) if text else None
    except ValueError as error:
        message = f"{option} must be {meaning}, not {text!r}"
        raise UsageError(message) from error
