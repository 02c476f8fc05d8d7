"""The account of the local cloud, by its kind: what it has, and what it refuses.

One rule: a launch is checked here, however it was asked for, before anything is made.
Imported by the server only, with moto.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import ec2_backends
from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.ec2.models.security_groups import SecurityGroupBackend
from moto.ec2.models.vpcs import VPCBackend
from moto.ec2.responses.instances import InstanceResponse
from moto.sts.models import STSBackend

from cnd.local.account_kinds import LAB_CALLER, AccountKind
from cnd.local.api.permissions import ACCOUNT

NOT_FREE = (
    "The specified instance type is not eligible for Free Tier. For a list of Free "
    "Tier instance types, run 'describe-instance-types' with the filter "
    "'free-tier-eligible=true'."
)
NO_IMDSV1 = (
    "You can't launch instances with IMDSv1 because httpTokensEnforced is enabled for "
    "this account. Either launch the instance with httpTokens=required or contact your "
    "account owner to disable httpTokensEnforced."
)
NO_DEFAULT_VPC = "No default VPC for this user"
# Codes of these refusals; a fleet reports them in its answer.
REFUSALS = ("InvalidParameterCombination", "UnsupportedOperation", "VcpuLimitExceeded")


def install(account: AccountKind) -> None:
    """Let moto's accounts be of this kind."""
    if not (account.default_vpc and account.public_addresses):
        _change_default_network(account)
    if not account.default_vpc:
        _require_vpc_of_groups()
    if account.session_seconds is not None:
        _name_caller()
    if account.types:
        _refuse_dry_runs(account)


def _change_default_network(account: AccountKind) -> None:
    plain = VPCBackend.create_default_vpc
    made: set[int] = set()

    def create_default_vpc(backend: Any) -> Any:
        vpc = plain(backend)
        if id(backend) in made:  # a user has asked for one
            return vpc
        made.add(id(backend))
        for subnet in backend.describe_subnets(filters={"vpc-id": [vpc.id]}):
            subnet.map_public_ip_on_launch = False
            subnet.default_for_az = account.default_vpc
        vpc.is_default = account.default_vpc
        return vpc

    VPCBackend.create_default_vpc = create_default_vpc  # type: ignore[method-assign,assignment]


def _require_vpc_of_groups() -> None:
    """Refuse a security group without a VPC: moto takes what was the default one."""
    plain = SecurityGroupBackend.create_security_group

    def create_security_group(
        backend: Any, name: str, description: str, vpc_id: str = "", **k: Any
    ) -> Any:
        if not vpc_id and backend.get_default_vpc() is None:
            raise EC2ClientError("VPCIdNotSpecified", NO_DEFAULT_VPC)
        return plain(backend, name, description, vpc_id or None, **k)

    SecurityGroupBackend.create_security_group = create_security_group  # type: ignore[method-assign,assignment]


def _refuse_dry_runs(account: AccountKind) -> None:
    """Refuse a dry run of a launch of a type that the account may not use."""
    plain = InstanceResponse.run_instances

    def run_instances(response: Any) -> Any:
        if response._get_param("DryRun", False):
            check_type(account, str(response._get_param("InstanceType")))
        return plain(response)

    InstanceResponse.run_instances = run_instances  # type: ignore[method-assign,assignment]


def _name_caller() -> None:
    """Let the caller be a session of a role, as in a lab."""

    def get_caller_identity(backend: Any, *_: Any) -> tuple[str, str, str]:
        arn = f"arn:aws:sts::{backend.account_id}:{LAB_CALLER}"
        return (
            f"AROA3XFRBF535PLBIFPI4:{arn.rpartition('/')[2]}",
            arn,
            backend.account_id,
        )

    STSBackend.get_caller_identity = get_caller_identity  # type: ignore[method-assign,assignment]


def gpus(instance_type: str) -> int:
    """Return how many GPUs an instance of a type has."""
    listed = INSTANCE_TYPES.get(instance_type, {}).get("GpuInfo", {}).get("Gpus", [])
    return sum(int(gpu.get("Count", 1)) for gpu in listed)


def vcpus(instance_type: str) -> int:
    """Return the number of vCPUs of an instance type; 1 if it is not known."""
    known = INSTANCE_TYPES.get(instance_type, {})
    return int(known.get("VCpuInfo", {}).get("DefaultVCpus", 1))


def check_type(account: AccountKind, instance_type: str) -> None:
    """Refuse a launch of a type that the account may not use."""
    if account.types and instance_type not in account.types:
        raise EC2ClientError("InvalidParameterCombination", NOT_FREE)


def check_tokens(account: AccountKind, options: Mapping[str, Any] | None) -> None:
    """Refuse a launch that does not require tokens of the metadata service.

    Args:
        options: MetadataOptions of the launch, or of its template.
    """
    if account.imdsv2_only and (options or {}).get("HttpTokens") != "required":
        raise EC2ClientError("UnsupportedOperation", NO_IMDSV1)


def room(account: AccountKind, instance_type: str, used: int, least: int) -> int | None:
    """Return how many instances the quota allows; refuse if `least` are too many.

    Args:
        used: vCPUs of the instances that live.

    Returns:
        None if there is no quota.
    """
    if account.vcpus is None:
        return None
    found = max(0, account.vcpus - used) // vcpus(instance_type)
    if found < least:
        raise EC2ClientError(
            "VcpuLimitExceeded",
            "You have requested more vCPU capacity than your current vCPU limit of "
            f"{account.vcpus} allows for the instance bucket that the specified "
            "instance type belongs to. Please visit "
            "http://aws.amazon.com/contact-us/ec2-request to request an adjustment to "
            "this limit.",
        )
    return found


class MotoLook:
    """What moto knows of the resources that a call names: see `permissions.Look`."""

    def identity(self, region: str, name: str) -> str:
        backend = ec2_backends[ACCOUNT][region]
        if (pair := backend.key_pairs.get(name)) is not None:
            return str(pair.id)
        return str(backend.launch_template_name_to_ids.get(name, ""))

    def tags(self, region: str, identity: str) -> Mapping[str, str]:
        return dict(ec2_backends[ACCOUNT][region].tags.get(identity, {}))

    def template(self, region: str, name: str) -> Mapping[str, Any]:
        backend = ec2_backends[ACCOUNT][region]
        identity = backend.launch_template_name_to_ids.get(name, name)
        found = backend.launch_templates.get(identity)
        return dict(found.default_version().data) if found else {}
