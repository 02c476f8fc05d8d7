"""The commands before and after a run: plan.

One rule: no decisions here; `start` executes the very object that `plan` prints.
"""

from __future__ import annotations

import json as jsonlib
import sys
from dataclasses import asdict
from typing import Any

from invoke.context import Context

from cnd import arguments, here, market, prices
from cnd import cloud as clouds
from cnd import pow as worker
from cnd.cli import task
from cnd.errors import UsageError
from cnd.forecast import Wish, alternatives, decide, forecast, text, verdicts
from cnd.journal import state_folder
from cnd.offers import OFFERS
from cnd.plan import KERNELS, MAX_INSTANCES, Plan

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
    "instance_type": "EC2 instance type (t3.micro)",
    "image": "ubuntu, al2023, debian or ami-... (ubuntu)",
    "user": "who logs in to the image; default: as its publisher has it",
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
    **more: Any,
) -> Wish:
    """Return what the options ask for; `more` are fields of `Plan` as they are."""
    n = arguments.whole(instances or "1", "--n", 1, MAX_INSTANCES, EXAMPLE)
    return Wish(
        Plan(
            difficulty=whole_difficulty(difficulty),
            instances=n,
            time_limit=arguments.seconds(time_limit, "--t", EXAMPLE),
            nonces=arguments.whole(nonces, "--nonces", 1, worker.MAX_NONCES, EXAMPLE),
            kernel=arguments.choice(kernel, "--kernel", KERNELS),
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
    block: str = worker.DEFAULT_BLOCK,
    nonces: str = "2**32",
    cloud: str = "",
    region: str = "",
    instance_type: str = "t3.micro",
    image: str = "ubuntu",
    user: str = "",
    kernel: str = "auto",
    json: bool = False,
) -> None:
    """Say what a run would do, find and cost; buys nothing."""
    asked = wish(
        time_limit=time_limit,
        difficulty=difficulty,
        instances=instances,
        confidence=confidence,
        budget=budget,
        block=block,
        nonces=nonces,
        instance_type=instance_type,
        image=image,
        user=user,
        kernel=kernel,
    )
    connected = clouds.connect(cloud, region)
    print(connected.title if connected else clouds.DOWN, file=sys.stderr)
    mine = here.rate()
    on_aws = connected if connected and connected.name == "aws" else None
    known = market.machine(
        connected, state_folder(), instance_type, measure=lambda: mine
    )
    made = forecast(decide(asked, known), known)
    others = alternatives(asked, OFFERS.values())
    spot = prices.spot(on_aws, instance_type) if on_aws else None
    if not json:
        print(text(made, others, mine, spot))
        return
    found = {
        **made.to_json(),
        "verdicts": list(verdicts(made, mine)),
        "spot": asdict(spot) if spot else None,
        "this_machine": mine.nonces_per_second if mine else None,
        "alternatives": [other.to_json() for other in others],
    }
    print(jsonlib.dumps(found))


def whole_difficulty(text: str, example: str = EXAMPLE) -> int:
    """Return the difficulty that an option gives."""
    if not text:
        raise UsageError("--d, the difficulty, is missing", hint=example)
    return arguments.whole(text, "--d", 0, worker.HASH_DIGITS, example)


def _number(text: str, option: str, meaning: str) -> float | None:
    """Return an option that may be left out; its range is the wish's business."""
    try:
        return float(text) if text else None
    except ValueError as error:
        message = f"{option} must be {meaning}, not {text!r}"
        raise UsageError(message) from error
