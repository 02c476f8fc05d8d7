"""From the options of a command to the run that is asked for.

One rule: what depends on several options is checked here, before anything is bought.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from cnd.cli.option_fields import Options, options_of
from cnd.cli.options import (
    EXAMPLE,
    DoctorOptions,
    FleetOptions,
    RunOptions,
    StartOptions,
)
from cnd.errors import UsageError
from cnd.model.catalog import has_gpu, image_of_all
from cnd.model.plan import BOOT_ALLOWANCE, GPU_BOOT_ALLOWANCE, MARKETS, Plan
from cnd.planning.choice import AUTO
from cnd.planning.forecast import Request
from cnd.run import custom_worker
from cnd.system.folders import state_folder
from cnd.transport import keys
from cnd.transport.keys import UserKey

# Fields of `Plan` that have the name of an option and another meaning.
NOT_OPTIONS = {"spot"}  # the prices, not the flag


def plan_of(options: Options, types: Sequence[str], **decided: Any) -> Plan:
    """Return a plan whose fields are the options of the same names.

    Args:
        types: the instance types that will do, the first one first.
        decided: fields of the plan that are no options, or that differ from them.
    """
    first, *others = types
    given = options_of(type(options)).keys() - NOT_OPTIONS
    same = {f.name: getattr(options, f.name) for f in fields(Plan) if f.name in given}
    more: dict[str, Any] = {"instance_type": first, "others": dict.fromkeys(others)}
    if "image" in same and AUTO not in types:
        more["image"] = image_of_all(same["image"], types)
    return Plan(**{**same, **more, **decided})


def request(options: RunOptions, **more: Any) -> Request:
    """Return what the options of `plan` ask for; `more` are fields of the plan.

    Raises:
        UsageError: it is impossible or contradicts itself.
    """
    n = options.instances or 1
    plan = plan_of(
        options,
        options.instance_type,
        **{
            "at_least": _at_least(options.at_least, options.instances),
            "difficulty": needed_difficulty(options.difficulty, EXAMPLE),
            "instances": n,
            "market": market(options),
            "boot_allowance": options.boot or boot_allowance(options.instance_type),
            **more,
        },
    )
    given = options.instances is not None
    return Request(plan, given, options.confidence, options.budget)


def start_request(options: StartOptions) -> Request:
    """Return what the options of `start` ask for; see `request`."""
    if options.extend and not options.on:
        message = "--extend is for the timers of a fleet that is up"
        raise UsageError(message, hint="say --on RUN as well, or leave it out")
    if options.worker is None:
        if options.words:
            given = f"-- {' '.join(options.words)}"
            message = f"{given}: there is no worker that takes these words"
            raise UsageError(message, hint="say --worker FILE as well")
        return request(options)
    for_nonces = {
        "--d": options.difficulty is not None,
        "--confidence": options.confidence is not None,
        "--kernel": options.kernel != "auto",
    }
    if wrong := [option for option, given in for_nonces.items() if given]:
        message = f"{wrong[0]} is for golden nonces: it does not go with --worker"
        raise UsageError(message, hint="what your script is to know comes after --")
    script = custom_worker.name_of(options.worker)
    # Neither the difficulty nor the block means anything to a script.
    return request(replace(options, difficulty=0, block=""), script=script)


# What a fleet has from its launch: such an option does not go with --on.
OF_THE_LAUNCH = (
    *("instance_type", "image", "address", "at_least", "boot", "bootstrap", "bucket"),
    *("confidence", "gateway", "hold", "key_file", "replace", "spot"),
    *("spot_or_on_demand", "ssh_from", "subnet", "user"),
)


def on_request(options: StartOptions, usual: StartOptions) -> Request:
    """Return what the options of `start --on` ask for; see `request`.

    Args:
        usual: the options where the command line says nothing.
    """
    declared = options_of(StartOptions)
    for name in OF_THE_LAUNCH:
        if getattr(options, name) != getattr(usual, name):
            message = f"{declared[name].spelled(name)} is decided with a launch: "
            hint = "leave out one of them; the fleet is as its first run launched it"
            raise UsageError(f"{message}it does not go with --on", hint=hint)
    plain = {name: getattr(usual, name) for name in OF_THE_LAUNCH}
    return start_request(replace(options, **plain))


def boot_allowance(types: Sequence[str]) -> float:
    """Return the seconds that instances of these types may take until SSH answers."""
    return GPU_BOOT_ALLOWANCE if any(map(has_gpu, types)) else BOOT_ALLOWANCE


def doctor_plan(options: DoctorOptions) -> Plan:
    """Return a plan of a run as `doctor` examines the account for it."""
    n = options.instances or 1
    types = options.instance_type
    if AUTO in types:
        message = "doctor examines the account for a type that is named"
        hint = "`fab plan --instance-type auto` names the one that start would take"
        raise UsageError(message, hint=hint)
    return plan_of(options, types, difficulty=1, instances=n, market=market(options))


def market(options: FleetOptions) -> str:
    """Return how the instances are to be bought: one of `MARKETS`."""
    if options.spot and options.spot_or_on_demand:
        raise UsageError("--spot and --spot-or-on-demand exclude each other")
    return MARKETS[1 * options.spot + 2 * options.spot_or_on_demand]


def needed_difficulty(given: int | None, example: str) -> int:
    """Return the difficulty; a command that needs it has no default."""
    if given is None:
        raise UsageError("--d, the difficulty, is missing", hint=example)
    return given


def _at_least(k: int | None, n: int | None) -> int:
    """Return the fewest instances that will do; 0: all that are asked for."""
    if k is None:
        return 0
    if n is None:
        message = "--at-least is given without N"
        raise UsageError(message, hint="say --n as well")
    if not 1 <= k <= n:
        raise UsageError(f"--at-least must be 1 to {n}, not {k}", hint=EXAMPLE)
    return k


def user_key(file: Path | None) -> UserKey:
    """Return the key to log in with: the user's own from `file`, or CND's.

    Raises:
        UsageError: the user's cannot be used, or CND's cannot be kept.
    """
    if file:
        return keys.load(file)
    folder = state_folder()
    try:
        return keys.user_key(folder)
    except OSError as error:
        message = f"cannot write to {folder}: {error.strerror}"
        hint = "make room there, or set XDG_STATE_HOME to another folder"
        raise UsageError(message, hint=hint) from error
