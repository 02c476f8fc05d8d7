"""What an account needs before a launch: an image, a key pair, a security group.

One rule: what exists is used again, what is created is tagged, and SSH is allowed from
no more than the range that the user gave, or else the caller's own address.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import time
import urllib.request
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from cnd.cloud.connection import Cloud
from cnd.cloud.endpoints import is_loopback
from cnd.cloud.failures import code, refusal, translated
from cnd.ec2 import TOOL_TAG, find
from cnd.errors import CloudError
from cnd.model.catalog import image_for
from cnd.provision.retry import again
from cnd.transport.keys import UserKey

if TYPE_CHECKING:
    from types_boto3_ec2 import EC2Client
    from types_boto3_ec2.literals import ResourceTypeType
    from types_boto3_ec2.type_defs import (
        FilterTypeDef,
        IpPermissionTypeDef,
        IpRangeTypeDef,
        SubnetTypeDef,
        TagSpecificationTypeDef,
    )

ARCHITECTURES = {"x86_64": "amd64", "arm64": "arm64"}  # EC2's names -> Debian's


@dataclass(frozen=True)
class System:
    """An operating system whose newest image is in a public parameter of SSM."""

    parameter: str  # with {ec2} or {debian}: the architecture in EC2's or Debian's name
    user: str  # the login user


# Ubuntu LTS first: its syslog is a file, its python3 is recent, its user may read both.
# Sources: https://documentation.ubuntu.com/aws/aws-how-to/instances/find-ubuntu-images/
# https://docs.aws.amazon.com/linux/al2023/ug/ec2.html
# https://wiki.debian.org/Cloud/AmazonEC2Image/
SYSTEMS = {
    "ubuntu": System(
        "/aws/service/canonical/ubuntu/server/24.04/stable/current"
        "/{debian}/hvm/ebs-gp3/ami-id",
        "ubuntu",
    ),
    "al2023": System(
        "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{ec2}",
        "ec2-user",
    ),
    "debian": System("/aws/service/debian/release/12/latest/{debian}", "admin"),
    # With NVIDIA's driver.  Source:
    # https://docs.aws.amazon.com/dlami/latest/devguide/find-dlami-id.html
    "gpu": System(
        "/aws/service/deeplearning/ami/{ec2}/base-oss-nvidia-driver-gpu-ubuntu-22.04"
        "/latest/ami-id",
        "ubuntu",
    ),
}
# How the names of published images begin -> their login user; and what is in brackets
# in those of AWS's images for GPUs, which begin with "Deep Learning".
USERS = {"ubuntu": "ubuntu", "debian": "admin", "al20": "ec2-user", "amzn": "ec2-user"}
SYSTEM_OF_DLAMI = re.compile(r"^(?:AWS )?Deep Learning .*\((Ubuntu|Amazon Linux)\b")
USERS_OF_DLAMI = {"Ubuntu": "ubuntu", "Amazon Linux": "ec2-user"}
GROUP = "cnd-ssh"
CLOSED = "-closed"  # how the names of groups end that allow no connection
SSH_PORT = 22
LOOPBACK = "127.0.0.1"
ANY_PROTOCOL = "-1"  # in the permissions of a group: every port of every protocol
CHECKIP_TIMEOUT = 5.0  # seconds


@dataclass(frozen=True)
class InstanceType:
    """An instance type as the region describes it."""

    type: str
    vcpus: int
    architectures: tuple[str, ...]  # EC2's names


def describe_type(ec2: EC2Client, instance_type: str) -> InstanceType:
    """Describe `instance_type`; `CloudError` if the region has no such type."""
    with translated(f"look up the instance type {instance_type!r}"):
        reply = ec2.describe_instance_types(
            InstanceTypes=[instance_type]  # type: ignore[list-item]  # any text
        )
        found = reply["InstanceTypes"][0]
        return InstanceType(
            type=instance_type,
            vcpus=int(found["VCpuInfo"]["DefaultVCpus"]),
            architectures=tuple(found["ProcessorInfo"]["SupportedArchitectures"]),
        )


def free_types(ec2: EC2Client) -> set[str]:
    """Return the types that accounts on AWS's free plan may launch in the region."""
    with translated("ask which instance types are free"):
        pages = ec2.get_paginator("describe_instance_types").paginate(
            Filters=[{"Name": "free-tier-eligible", "Values": ["true"]}]
        )
        return {
            each["InstanceType"] for page in pages for each in page["InstanceTypes"]
        }


def zones(ec2: EC2Client, instance_type: str) -> set[str]:
    """Return the zones of the region that offer `instance_type`."""
    with translated(f"ask which zones offer {instance_type}"):
        pages = ec2.get_paginator("describe_instance_type_offerings").paginate(
            LocationType="availability-zone",
            Filters=[{"Name": "instance-type", "Values": [instance_type]}],
        )
        return {each["Location"] for p in pages for each in p["InstanceTypeOfferings"]}


@dataclass(frozen=True)
class Image:
    """What an instance boots, and its login user."""

    id: str  # "ami-..."
    user: str
    # Devices whose volumes would outlive the instance, as far as that was looked up.
    volumes: tuple[str, ...] = ()


def image(
    cloud: Cloud, instance_type: str, name: str = "ubuntu", user: str = ""
) -> Image:
    """Return the image called `name` that `instance_type` can boot.

    Args:
        name: one of SYSTEMS, of which the newest is taken; "auto" for the usual one of
            the type; or "ami-...".
        user: the login user; empty for the usual one of such images.

    Raises:
        CloudError: there is no such type or image, or they do not fit together.
    """
    offered = describe_type(cloud.ec2, instance_type).architectures
    name = image_for(instance_type) if name == "auto" else name
    if name not in SYSTEMS:
        return _image_by_id(cloud.ec2, instance_type, offered, name, user)
    arch = next((a for a in offered if a in ARCHITECTURES), None)
    if arch is None:
        raise CloudError(f"no image for {instance_type}: it is {' and '.join(offered)}")
    system = SYSTEMS[name]
    path = system.parameter.format(ec2=arch, debian=ARCHITECTURES[arch])
    with translated(f"find the image {name!r} of this region"):
        found = str(cloud.ssm.get_parameter(Name=path)["Parameter"]["Value"])
    return Image(found, user or system.user)


def _image_by_id(
    ec2: EC2Client, instance_type: str, offered: Collection[str], name: str, user: str
) -> Image:
    """Return an image by its id, with the login user of its publisher's images."""
    with translated(f"look up the image {name}"):
        images = ec2.describe_images(ImageIds=[name])["Images"]
        found = [
            (str(i.get("Architecture", "")), i.get("Name", ""), _outliving(i))
            for i in images
        ]
    if not found:
        raise CloudError(f"no such image: {name}", hint="AMI ids differ by region")
    architecture, title, volumes = found[0]
    if architecture not in offered:
        raise CloudError(
            f"{name} is made for {architecture}, {instance_type} is "
            f"{' and '.join(offered)}",
            hint="choose another --image or --instance-type",
        )
    title = title.rpartition("/")[2]
    user = user or _usual_user(title)
    if not user:
        image = f"{name} ({title or 'it has no name'})"
        message = f"cannot determine the login user for {image}"
        raise CloudError(message, hint="say --user")
    return Image(name, user, volumes)


def _usual_user(title: str) -> str:
    """Return the login user of images of that name; "" if it is not known."""
    if found := SYSTEM_OF_DLAMI.match(title):
        return USERS_OF_DLAMI[found[1]]
    return next((u for x, u in USERS.items() if title.startswith(x)), "")


def _outliving(image: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the devices of an image whose volumes stay when the instance ends.

    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_EbsBlockDevice.html
    """
    return tuple(
        str(mapping["DeviceName"])
        for mapping in image.get("BlockDeviceMappings", [])
        if "Ebs" in mapping and not mapping["Ebs"].get("DeleteOnTermination")
    )


def key_name(key: UserKey) -> str:
    """Return the name of the key pair of `key`, made of the key's fingerprint."""
    letters = (c for c in key.fingerprint if c.isalnum())
    return f"cnd-{''.join(letters)[:12]}"


def key_pair(ec2: EC2Client, key: UserKey) -> str:
    """Return the name of the key pair that holds `key`, imported when missing."""
    try:
        import_key(ec2, key)
    except CloudError as error:
        if code(error) != "InvalidKeyPair.Duplicate":
            raise
    return key_name(key)


def import_key(ec2: EC2Client, key: UserKey, *, dry_run: bool = False) -> None:
    """Import the public half of `key`; a dry run changes nothing and always raises."""
    with translated("import the SSH key"):
        ec2.import_key_pair(
            KeyName=key_name(key),
            PublicKeyMaterial=key.public.encode(),
            TagSpecifications=_tags("key-pair"),
            DryRun=dry_run,
        )


def has_key_pair(ec2: EC2Client, key: UserKey) -> bool:
    """Return whether the key pair that holds `key` exists."""
    with translated("look up the key pair"):
        filters = [{"Name": "key-name", "Values": [key_name(key)]}]
        return bool(ec2.describe_key_pairs(Filters=filters)["KeyPairs"])  # type: ignore[arg-type]


@dataclass(frozen=True)
class Group:
    """A security group of CND in its present state."""

    id: str
    ranges: Mapping[str, str]  # IPv4 CIDR from which SSH is allowed -> description


def find_group(
    ec2: EC2Client, subnet: str = "", *, closed: bool = False
) -> Group | None:
    """Return CND's security group for `subnet`, or None if there is none yet.

    Args:
        closed: the one that allows no connection from outside.
    """
    name, vpc = _group_name(ec2, subnet)
    return _group(ec2, f"{name}{CLOSED * closed}", vpc)


def ssh_group(
    ec2: EC2Client,
    ssh_from: str,
    owner: str,
    subnet: str = "",
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Return the security group that allows SSH from `ssh_from` ("a.b.c.d/n").

    A range that was allowed for `owner` before, under another address, is removed
    once no instance of CND exists that may be reached from it.
    """
    group = _ensure_group(ec2, *_group_name(ec2, subnet), sleep)
    note = _description(owner)
    if ssh_from not in group.ranges:
        # A group that was just made may be unknown to the next call.
        allow = partial(allow_ssh, ec2, group.id, ssh_from, owner)
        again(allow, sleep=sleep)
    stale = [r for r, why in group.ranges.items() if why == note and r != ssh_from]
    if stale and not find(ec2):
        _revoke_ssh(ec2, group.id, stale)
    return group.id


def closed_group(
    ec2: EC2Client,
    subnet: str = "",
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Return the security group that allows no connection from outside."""
    name, vpc = _group_name(ec2, subnet)
    return _ensure_group(ec2, f"{name}{CLOSED}", vpc, sleep).id


def _description(owner: str) -> str:
    """Return the description of a rule, in the few characters that AWS allows there.

    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_IpRange.html
    """
    return re.sub(r"[^a-zA-Z0-9 ._:/()#,@+=&;{}!$*-]", "-", f"CND for {owner}")[:255]


def _permission(ranges: list[IpRangeTypeDef]) -> list[IpPermissionTypeDef]:
    port = {"FromPort": SSH_PORT, "ToPort": SSH_PORT}
    return [{"IpProtocol": "tcp", **port, "IpRanges": ranges}]  # type: ignore[typeddict-item]


def allow_ssh(
    ec2: EC2Client, group: str, ssh_from: str, owner: str, *, dry_run: bool = False
) -> None:
    """Allow SSH from `ssh_from`; a dry run changes nothing and always raises."""
    ranges: list[IpRangeTypeDef] = [
        {"CidrIp": ssh_from, "Description": _description(owner)}
    ]
    try:
        with translated(f"let SSH in from {ssh_from}"):
            ec2.authorize_security_group_ingress(
                GroupId=group, IpPermissions=_permission(ranges), DryRun=dry_run
            )
    except CloudError as error:
        if code(error) != "InvalidPermission.Duplicate":
            raise


def _revoke_ssh(ec2: EC2Client, group: str, ranges: list[str]) -> None:
    """Remove ranges; what is part of a wider rule, which CND has not made, stays."""
    try:
        with translated(f"let SSH in from {ranges[0]} no more"):
            ec2.revoke_security_group_ingress(
                GroupId=group,
                IpPermissions=_permission([{"CidrIp": r} for r in ranges]),
            )
    except CloudError as error:
        if code(error) != "InvalidPermission.NotFound":
            raise


def _group_name(ec2: EC2Client, subnet: str) -> tuple[str, str]:
    """Return the name of the group for a subnet, and its VPC.

    A group belongs to one VPC, so each VPC has a name of its own.

    Args:
        subnet: "": the default ones.  Without any the VPC is "".
    """
    found = _subnets(ec2, [subnet] if subnet else [])
    vpc = next((each["VpcId"] for each in found), "")
    return (f"{GROUP}-{vpc}" if subnet else GROUP), vpc


def _group(ec2: EC2Client, name: str, vpc: str) -> Group | None:
    """Return the group of that name in a VPC; others may have one of the same name."""
    filters: list[FilterTypeDef] = [{"Name": "group-name", "Values": [name]}]
    if vpc:
        filters.append({"Name": "vpc-id", "Values": [vpc]})
    with translated("look up the security group"):
        pages = ec2.get_paginator("describe_security_groups").paginate(Filters=filters)
        found = [group for page in pages for group in page["SecurityGroups"]]
        if not found:
            return None
        permissions = filter(_allows_ssh, found[0]["IpPermissions"])
        ranges = (r for p in permissions for r in p.get("IpRanges", []))
        notes = {r["CidrIp"]: r.get("Description", "") for r in ranges}
        return Group(found[0]["GroupId"], notes)


def _allows_ssh(permission: Mapping[str, Any]) -> bool:
    """Return whether a permission of a group is for the port of SSH, at least."""
    if permission.get("IpProtocol") == ANY_PROTOCOL:
        return True
    first, last = permission.get("FromPort", -1), permission.get("ToPort", -1)
    return permission.get("IpProtocol") == "tcp" and first <= SSH_PORT <= last


def _ensure_group(
    ec2: EC2Client, name: str, vpc: str, sleep: Callable[[float], None]
) -> Group:
    """Return the group of that name, created if there is none.

    Two first runs at the same time both find none, and one of them creates it.
    """
    if found := _group(ec2, name, vpc):
        return found
    try:
        return Group(_new_group(ec2, name, vpc), {})
    except CloudError as error:
        if code(error) != "InvalidGroup.Duplicate":
            raise
    # It was just made by another process: AWS may list it a moment later.
    return again(partial(_existing_group, ec2, name, vpc), sleep=sleep)


def _existing_group(ec2: EC2Client, name: str, vpc: str) -> Group:
    if found := _group(ec2, name, vpc):
        return found
    action = "look up the security group"
    raise refusal(action, "InvalidGroup.NotFound", f"{name} is not listed")


def try_group(ec2: EC2Client, subnet: str = "") -> None:
    """Ask, by a dry run, whether the security group for `subnet` may be created.

    Raises:
        CloudError: in any case; its code is the answer.
    """
    _new_group(ec2, *_group_name(ec2, subnet), dry_run=True)


def _new_group(ec2: EC2Client, name: str, vpc: str, *, dry_run: bool = False) -> str:
    where: Any = {"VpcId": vpc} if vpc else {}
    with translated("create a security group"):
        return ec2.create_security_group(
            GroupName=name,
            Description="SSH to the instances of CND, from their user only",
            TagSpecifications=_tags("security-group"),
            DryRun=dry_run,
            **where,
        )["GroupId"]


def subnets(ec2: EC2Client, names: Collection[str] = ()) -> dict[str, str]:
    """Return the subnets of these names, or the default ones, each with its zone."""
    found = _subnets(ec2, names)
    with translated("list the subnets"):
        zones = sorted((each["AvailabilityZone"], each["SubnetId"]) for each in found)
    return {name: zone for zone, name in zones}


def _subnets(ec2: EC2Client, names: Collection[str]) -> list[SubnetTypeDef]:
    which: Any = {"Filters": [{"Name": "default-for-az", "Values": ["true"]}]}
    if names:
        which = {"SubnetIds": list(names)}
    with translated(f"look up {', '.join(names) or 'the default subnets'}"):
        pages = ec2.get_paginator("describe_subnets").paginate(**which)
        return [subnet for page in pages for subnet in page["Subnets"]]


def allowed_range(cloud: Cloud, ssh_from: str) -> str:
    """Return the range from which SSH is allowed, as an IPv4 CIDR.

    Args:
        ssh_from: the user's; empty: the address of this machine alone.
    """
    if ssh_from:
        return ssh_from
    address = caller_address(cloud.checkip) if cloud.checkip else LOOPBACK
    return f"{address}/32"


def caller_address(url: str) -> str:
    """Return this machine's public IPv4 address, as `url` reports it."""
    loopback = urllib.request.ProxyHandler({})  # without a proxy
    opener = urllib.request.build_opener(*[loopback] * is_loopback(url))
    try:
        with opener.open(url, timeout=CHECKIP_TIMEOUT) as reply:
            text = reply.read(64).decode("ascii", "replace").strip()
        return str(ipaddress.IPv4Address(text))
    except (http.client.HTTPException, OSError, ValueError) as error:
        message = f"could not learn this machine's address from {url}: {error}"
        raise CloudError(
            message, hint="SSH is allowed from that address only: say --ssh-from"
        ) from error


def _tags(resource: ResourceTypeType) -> list[TagSpecificationTypeDef]:
    return [{"ResourceType": resource, "Tags": [{"Key": TOOL_TAG, "Value": "1"}]}]
