"""What is refused while nothing exists yet, and nothing was asked of the cloud."""

from __future__ import annotations

import random
import string
from functools import partial
from pathlib import Path

import boto3
import pytest

from cnd.cloud.connection import Clients
from cnd.errors import UsageError
from cnd.model.plan import Plan
from cnd.provision.prepare import prepare
from cnd.transport import keys
from tests.support.clerk import REGION, stubbed

LETTERS = string.ascii_letters + string.digits + "+/="


def noise(length: int) -> str:
    """Return text that cannot be compressed, as session tokens are."""
    return "".join(random.Random(length).choices(LETTERS, k=length))


def _keep(asked: list[str], name: str, **_: object) -> None:
    asked.append(name)


@pytest.mark.parametrize(("token", "block"), [(5000, 34), (3500, 4000)])
def test_user_data_that_would_be_too_long_is_refused_before_anything_is_asked(
    tmp_path: Path, token: int, block: int
) -> None:
    """By `UsageError`: the exit status is 2."""
    session = boto3.Session("id", "secret", noise(token) or None, region_name=REGION)
    plan = Plan(2, 8, 200.0, block=noise(block), bootstrap="user-data")
    key = keys.user_key(tmp_path)
    asked: list[str] = []
    with stubbed(clients=Clients(session, None)) as clerk:
        for name in ("ec2", "s3", "sqs", "ssm"):
            events = clerk.cloud.clients.get(name).meta.events
            events.register("before-send", partial(_keep, asked, name))
        with pytest.raises(UsageError, match="EC2 takes 16,384") as caught:
            prepare(clerk.cloud, plan, run="r", key=key)
    assert asked == []
    assert f"has {token:,} characters, the block {block:,}" in str(caught.value)
    for way_out in ("access key", "--block", "--bootstrap ssh"):
        assert way_out in (caught.value.hint or "")
