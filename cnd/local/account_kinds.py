"""The kinds of AWS accounts that a local cloud can stand for.

One rule: frozen values only; `cnd.local.api.accounts` applies them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cnd.errors import UsageError

DEFAULT = "default"
LAB_REGIONS = ("us-east-1", "us-west-2")
LAB_CALLER = "assumed-role/voclabs/user1234567=Student"
HINT = "for example --account-kind no-public-ip, or lab+no-default-vpc"
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


def parse(text: str) -> AccountKind:
    """Return the account of a kind, or of several joined by "+"; empty: the default.

    Raises UsageError.
    """
    names = (text or DEFAULT).split("+")
    for name in names:
        if name not in KINDS:
            kinds = ", ".join(KINDS)
            reason = f"{name!r} is none of the kinds {kinds}"
            raise UsageError(f"account kind {text!r}: {reason}", hint=HINT)
    found = AccountKind()
    for name in names:
        found = _both(found, KINDS[name])
    return replace(found, name=text or DEFAULT)


def _both(one: AccountKind, other: AccountKind) -> AccountKind:
    """Return an account with the limits of both."""
    return AccountKind(
        default_vpc=one.default_vpc and other.default_vpc,
        public_addresses=one.public_addresses and other.public_addresses,
        imdsv2_only=one.imdsv2_only or other.imdsv2_only,
        types=other.types or one.types,
        vcpus=_least(one.vcpus, other.vcpus),
        regions=other.regions or one.regions,
        instances=_least(one.instances, other.instances),
        session_seconds=other.session_seconds or one.session_seconds,
    )


def _least(one: int | None, other: int | None) -> int | None:
    return min((each for each in (one, other) if each is not None), default=None)
