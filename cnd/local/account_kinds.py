"""The kinds of AWS accounts that a local cloud can stand for.

One rule: frozen values only; `cnd.local.api.accounts` applies them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cnd.errors import UsageError

DEFAULT = "default"
LAB_REGIONS = ("us-east-1", "us-west-2")
SESSION_SECONDS = 4 * 3600.0


@dataclass(frozen=True)
class AccountKind:
    """What an account allows and has; the values of `default` are the defaults."""

    name: str = DEFAULT
    default_vpc: bool = True
    public_addresses: bool = True  # its subnets assign one to each instance
    imdsv2_only: bool = False  # a launch that does not require tokens is refused
    types: tuple[str, ...] = ()  # that may be launched; empty: all
    vcpus: int | None = None  # of all instances together; more are refused
    regions: tuple[str, ...] = ()  # that may be used; empty: all
    instances: int | None = None  # more are terminated by the account's owner
    session_seconds: float | None = None  # of its credentials; None: for ever


KINDS: Mapping[str, AccountKind] = {
    kind.name: kind
    for kind in (
        AccountKind(),
        # An instance has a public address if its launch asks for one, else as its
        # subnet says.
        # https://docs.aws.amazon.com/vpc/latest/userguide/subnet-public-ip.html
        AccountKind("no-public-ip", public_addresses=False),
        # https://docs.aws.amazon.com/vpc/latest/userguide/deleting-default-vpc.html
        AccountKind("no-default-vpc", default_vpc=False),
        # The account attribute httpTokensEnforced.
        # https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-options.html
        AccountKind("imdsv2-enforced", imdsv2_only=True),
        # https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/free-tier-plans.html
        # Reported: splunk/attack_range#1302.
        AccountKind("free-plan", types=("t3.micro",)),
        # AWS Academy Learner Labs: sessions of four hours, two regions, nine instances
        # and 32 vCPUs (the guide of the lab, "Service usage and other restrictions").
        AccountKind(
            "lab",
            regions=LAB_REGIONS,
            instances=9,
            vcpus=32,
            session_seconds=SESSION_SECONDS,
        ),
        # New accounts: Service Quotas, L-1216C47A, whose default is 5 vCPUs.
        # https://docs.aws.amazon.com/ec2/latest/instancetypes/ec2-instance-quotas.html
        AccountKind("low-quota", vcpus=5),
    )
}


def parse(name: str) -> AccountKind:
    """Return the kind of this name; empty: the default.  Raises UsageError."""
    if (name or DEFAULT) not in KINDS:
        kinds = ", ".join(KINDS)
        raise UsageError(f"an account of the local cloud is one of {kinds}: {name!r}?")
    return KINDS[name or DEFAULT]
