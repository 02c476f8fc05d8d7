"""An AWS that answers what the test says, through CND's own clients."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.stub import Stubber

from cnd.cloud.connection import Clients, Cloud
from cnd.planning import prices

REGION = "eu-west-2"
ELSEWHERE = {"pricing": prices.PRICING_REGION}


@dataclass
class Clerk:
    """The answers to come, service by service."""

    cloud: Cloud
    stubs: dict[str, Stubber]

    def answer(self, service: str, call: str, reply: Any, asked: Any = None) -> None:
        self.stubs[service].add_response(call, reply, asked)

    def networks(self, *asked: str, vpc: str = "vpc-1") -> None:
        """Answer the next question for subnets: for these, or else the default ones."""
        default = [{"Name": "default-for-az", "Values": ["true"]}]
        wanted: Any = {"SubnetIds": list(asked)} if asked else {"Filters": default}
        found = {"Subnets": [{"VpcId": vpc}]}
        self.answer("ec2", "describe_subnets", found, wanted)

    def refuse(self, service: str, call: str, code: str, asked: Any = None) -> None:
        self.stubs[service].add_client_error(
            call, code, "AWS says no.", expected_params=asked
        )


@functools.cache
def _session() -> boto3.Session:
    """Return one session for all tests: it reads the services' descriptions once."""
    return boto3.Session("test", "test", region_name=REGION)


@contextmanager
def stubbed(*services: str, **more: Any) -> Iterator[Clerk]:
    """Stub these services; all answers must have been asked for in the end.

    Args:
        more: fields of the `Cloud`.
    """
    clients = Clients(_session(), None)
    fields: dict[str, Any] = {
        "name": "aws",
        "region": REGION,
        "account": "1" * 12,
        "owner": "somebody",
        "endpoint": None,
        "checkip": "",
        "clients": clients,
        **more,
    }
    clerk = Clerk(
        Cloud(**fields),
        {name: Stubber(clients.get(name, ELSEWHERE.get(name))) for name in services},
    )
    with ExitStack() as stack:
        for stub in clerk.stubs.values():
            stack.enter_context(stub)
        yield clerk
        for stub in clerk.stubs.values():
            stub.assert_no_pending_responses()
