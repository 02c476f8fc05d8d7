"""What `cnd.provision.access` promises: existing things are used, access is narrow."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path
from typing import Any

import pytest

from cnd.cloud.connection import Cloud
from cnd.errors import CloudError
from cnd.provision import access
from cnd.provision.capacity import UNKNOWN_PAUSES
from cnd.transport import keys
from tests.support.clerk import stubbed
from tests.support.local_cloud import LocalCloud

SSH = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22}
CALLER = "192.0.2.7/32"  # RFC 5737: an address of documentation


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> keys.UserKey:
    return keys.user_key(tmp_path_factory.mktemp("key"))


def image(cloud: LocalCloud, name: str) -> dict[str, Any]:
    reply = cloud.ec2.describe_images(ImageIds=[name])
    return dict(reply["Images"][0])


def permissions(cloud: LocalCloud, group: str) -> list[dict[str, Any]]:
    reply = cloud.ec2.describe_security_groups(GroupIds=[group])
    return list(reply["SecurityGroups"][0]["IpPermissions"])


# --- image


@pytest.mark.parametrize(
    ("instance_type", "architecture"),
    [
        ("t3.micro", "x86_64"),
        ("c5.large", "x86_64"),
        ("t2.micro", "x86_64"),  # offers 32 bits, too
        ("t4g.micro", "arm64"),
        ("c7g.large", "arm64"),
    ],
)
def test_an_instance_boots_the_ubuntu_image_of_its_processor(
    aws: Cloud, cloud: LocalCloud, instance_type: str, architecture: str
) -> None:
    chosen = access.image(aws, instance_type)
    found = image(cloud, chosen.id)
    assert found["Architecture"] == architecture
    assert "ubuntu" in found["Name"]
    assert "24.04" in found["Name"]
    assert chosen.user == "ubuntu"


def test_images_of_aws_for_gpus_have_the_login_of_their_system() -> None:
    name = "Deep Learning {} GPU AMI ({}) 20260106"
    for more in ("Base OSS Nvidia Driver", "ARM64 Base OSS Nvidia Driver"):
        assert access._usual_user(name.format(more, "Ubuntu 22.04")) == "ubuntu"
        assert access._usual_user(name.format(more, "Amazon Linux 2023")) == "ec2-user"
    assert access._usual_user("my Deep Learning image (Ubuntu 22.04)") == ""


@pytest.mark.parametrize("instance_type", ["t3.micro", "t4g.micro"])
@pytest.mark.parametrize(
    ("name", "begins", "user"),
    [
        ("ubuntu", "ubuntu/images/", "ubuntu"),
        ("al2023", "al2023-ami-", "ec2-user"),
        ("debian", "debian-12-", "admin"),
    ],
)
def test_every_system_has_an_image_for_both_processors(
    aws: Cloud, cloud: LocalCloud, instance_type: str, name: str, begins: str, user: str
) -> None:
    chosen = access.image(aws, instance_type, name)
    found = image(cloud, chosen.id)
    assert found["Name"].startswith(begins)
    assert found["Architecture"] == ("arm64" if "g" in instance_type else "x86_64")
    assert chosen.user == user


@pytest.mark.parametrize("name", ["ubuntu", "al2023", "debian"])
def test_an_image_by_its_id_has_the_same_user(aws: Cloud, name: str) -> None:
    chosen = access.image(aws, "c5.large", name)
    by_id = access.image(aws, "c5.large", chosen.id)
    assert (by_id.id, by_id.user) == (chosen.id, chosen.user)


def test_the_login_user_can_be_given(aws: Cloud) -> None:
    assert access.image(aws, "c5.large", "debian", "me").user == "me"


def test_an_image_for_another_processor_is_refused(aws: Cloud) -> None:
    arm = access.image(aws, "t4g.micro")
    with pytest.raises(CloudError, match=r"is made for arm64, t3\.micro is x86_64"):
        access.image(aws, "t3.micro", arm.id)


def test_an_image_of_an_unknown_publisher_needs_a_user(
    aws: Cloud, cloud: LocalCloud
) -> None:
    host = cloud.launch()[0]
    made = cloud.ec2.create_image(InstanceId=host, Name="my own")["ImageId"]
    cloud.ec2.terminate_instances(InstanceIds=[host])
    with pytest.raises(
        CloudError, match="cannot determine the login user for"
    ) as caught:
        access.image(aws, "c5.large", made)
    assert caught.value.hint == "say --user"
    assert access.image(aws, "c5.large", made, "me").user == "me"


def test_an_image_that_does_not_exist_is_refused(aws: Cloud) -> None:
    with pytest.raises(CloudError, match="ami-00000000") as caught:
        access.image(aws, "c5.large", "ami-00000000")
    assert "\n" not in str(caught.value)


def test_an_unknown_instance_type_is_refused_before_anything_is_bought(
    aws: Cloud,
) -> None:
    with pytest.raises(CloudError, match=r"'t9\.giant'") as caught:
        access.image(aws, "t9.giant")
    assert caught.value.exit_status == 3
    assert caught.value.hint == "check --instance-type, or another --region"
    assert "\n" not in str(caught.value)


def test_a_processor_without_an_image_is_refused(aws: Cloud) -> None:
    """The Macs of EC2 have an architecture of their own."""
    with pytest.raises(CloudError, match=r"no image for mac2\.metal: it is arm64_mac"):
        access.image(aws, "mac2.metal")


# --- key pair


def test_the_key_is_imported_once(
    aws: Cloud, cloud: LocalCloud, tmp_path: Path
) -> None:
    key = keys.user_key(tmp_path)  # no other test has imported it
    before = len(cloud.ec2.describe_key_pairs()["KeyPairs"])

    names = {access.key_pair(aws.ec2, key) for _ in range(3)}

    (name,) = names
    pairs = cloud.ec2.describe_key_pairs()["KeyPairs"]
    assert len(pairs) == before + 1
    (pair,) = (pair for pair in pairs if pair["KeyName"] == name)
    assert {"Key": "cnd", "Value": "1"} in pair["Tags"]


def test_another_key_is_another_key_pair(
    aws: Cloud, key: keys.UserKey, tmp_path: Path
) -> None:
    other = keys.user_key(tmp_path)
    assert access.key_pair(aws.ec2, other) != access.key_pair(aws.ec2, key)


# --- security group


def test_ssh_is_allowed_from_the_caller_only(aws: Cloud, cloud: LocalCloud) -> None:
    group = access.ssh_group(aws.ec2, CALLER, owner="me")

    for permission in permissions(cloud, group):
        assert permission["IpProtocol"] == "tcp"
        assert (permission["FromPort"], permission["ToPort"]) == (22, 22)
        assert permission["Ipv6Ranges"] == permission["PrefixListIds"] == []
        assert permission["UserIdGroupPairs"] == []
    ranges = [r["CidrIp"] for p in permissions(cloud, group) for r in p["IpRanges"]]
    assert CALLER in ranges
    assert all(each.endswith("/32") for each in ranges)


def test_opening_the_group_twice_is_no_failure(aws: Cloud, cloud: LocalCloud) -> None:
    first = access.ssh_group(aws.ec2, CALLER, owner="me")
    before = permissions(cloud, first)

    assert access.ssh_group(aws.ec2, CALLER, owner="me") == first
    assert permissions(cloud, first) == before


def test_another_caller_is_allowed_by_the_same_group(
    aws: Cloud, cloud: LocalCloud
) -> None:
    first = access.ssh_group(aws.ec2, CALLER, owner="me")
    assert access.ssh_group(aws.ec2, "192.0.2.8/32", owner="you") == first

    ranges = {r["CidrIp"] for p in permissions(cloud, first) for r in p["IpRanges"]}
    assert {CALLER, "192.0.2.8/32"} <= ranges


def test_an_earlier_address_is_removed_once_no_instance_exists() -> None:
    """Twice: while an instance exists, and when none is left."""
    rule = {"CidrIp": "192.0.2.1/32", "Description": "CND for me"}
    others = {"CidrIp": "192.0.2.2/32", "Description": "CND for you"}
    ranges = [{**SSH, "IpRanges": [rule, others]}]
    group = {"GroupId": "sg-1", "IpPermissions": ranges}
    instance = {
        "InstanceId": "i-1",
        "InstanceType": "t3.micro",
        "State": {"Name": "running"},
        "LaunchTime": dt.datetime.now(dt.timezone.utc),
    }
    for live in ([instance], []):
        with stubbed("ec2") as clerk:
            found = {"SecurityGroups": [group]}
            clerk.networks()
            clerk.answer("ec2", "describe_security_groups", found)
            clerk.answer("ec2", "authorize_security_group_ingress", {})
            reservations = {"Reservations": [{"Instances": live}]}
            clerk.answer("ec2", "describe_instances", reservations)
            if not live:
                closed = {**SSH, "IpRanges": [{"CidrIp": "192.0.2.1/32"}]}
                asked = {"GroupId": "sg-1", "IpPermissions": [closed]}
                clerk.answer("ec2", "revoke_security_group_ingress", {}, asked)
            access.ssh_group(clerk.cloud.ec2, CALLER, owner="me")


@pytest.mark.parametrize("owner", ["somebody", "user1=O'Brien", "ünï", "x" * 300])
def test_a_rule_is_described_in_characters_that_aws_accepts(owner: str) -> None:
    """Constraints of IpRange.Description; an apostrophe is not among them."""
    sent: list[str] = []
    with stubbed("ec2") as clerk:
        clerk.networks()
        clerk.answer("ec2", "describe_security_groups", {"SecurityGroups": []})
        clerk.answer("ec2", "create_security_group", {"GroupId": "sg-1"})
        clerk.answer("ec2", "authorize_security_group_ingress", {})
        clerk.cloud.ec2.meta.events.register(
            "before-parameter-build.ec2",
            lambda params, **_: sent.append(json.dumps(params, ensure_ascii=False)),
        )
        access.ssh_group(clerk.cloud.ec2, CALLER, owner=owner)
    described = re.findall(r'"Description": "(.*?)"', " ".join(sent))
    assert len(described) == 2
    for text in described:
        assert re.fullmatch(r"[a-zA-Z0-9 ._:/()#,@\[\]+=&;{}!$*-]{1,255}", text)


@pytest.mark.parametrize(
    ("permission", "allowed"),
    [
        (SSH, True),
        ({**SSH, "FromPort": 20, "ToPort": 30}, True),
        ({"IpProtocol": "-1"}, True),
        ({**SSH, "FromPort": 443, "ToPort": 443}, False),
        ({**SSH, "IpProtocol": "udp"}, False),
        ({"IpProtocol": "icmp", "FromPort": -1, "ToPort": -1}, False),
    ],
)
def test_a_range_counts_where_its_permission_is_for_the_port_of_ssh(
    aws: Cloud, cloud: LocalCloud, permission: dict[str, Any], allowed: bool
) -> None:
    """A group that lets a range in at another port does not let it in by SSH."""
    vpc = cloud.ec2.create_vpc(CidrBlock="10.8.0.0/16")["Vpc"]["VpcId"]
    subnet = cloud.ec2.create_subnet(VpcId=vpc, CidrBlock="10.8.1.0/24")["Subnet"]
    name = f"cnd-ssh-{vpc}"
    group = cloud.ec2.create_security_group(
        GroupName=name, Description="CND's", VpcId=vpc
    )["GroupId"]
    rule = {**permission, "IpRanges": [{"CidrIp": CALLER}]}
    cloud.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
    found = access.find_group(aws.ec2, subnet["SubnetId"])
    assert found is not None
    assert (found.id, CALLER in found.ranges) == (group, allowed)
    assert access.ssh_group(aws.ec2, CALLER, "me", subnet["SubnetId"]) == group
    found = access.find_group(aws.ec2, subnet["SubnetId"])
    assert found is not None
    assert CALLER in found.ranges


def test_a_group_of_another_network_with_the_same_name_is_not_taken(aws: Cloud) -> None:
    place = aws.in_region("eu-south-1")  # no other test has a group there
    vpc = place.ec2.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
    other = place.ec2.create_security_group(
        GroupName=access.GROUP, Description="not in the default network", VpcId=vpc
    )["GroupId"]
    assert access.find_group(place.ec2) is None
    group = access.ssh_group(place.ec2, CALLER, owner="me")
    assert group != other
    assert access.find_group(place.ec2) == access.Group(group, {CALLER: "CND for me"})


def test_an_earlier_address_in_a_wider_rule_of_the_user_stays() -> None:
    wide = {**SSH, "ToPort": 80}
    rule = {"CidrIp": "192.0.2.1/32", "Description": "CND for me"}
    group = {"GroupId": "sg-1", "IpPermissions": [{**wide, "IpRanges": [rule]}]}
    with stubbed("ec2") as clerk:
        clerk.networks()
        clerk.answer("ec2", "describe_security_groups", {"SecurityGroups": [group]})
        clerk.answer("ec2", "authorize_security_group_ingress", {})
        clerk.answer("ec2", "describe_instances", {"Reservations": []})
        code = "InvalidPermission.NotFound"
        clerk.refuse("ec2", "revoke_security_group_ingress", code)
        assert access.ssh_group(clerk.cloud.ec2, CALLER, owner="me") == "sg-1"


def test_of_two_first_runs_at_once_one_creates_the_group_and_both_use_it() -> None:
    made = {"GroupId": "sg-1", "IpPermissions": []}
    with stubbed("ec2") as clerk:
        clerk.networks()
        clerk.answer("ec2", "describe_security_groups", {"SecurityGroups": []})
        clerk.refuse("ec2", "create_security_group", "InvalidGroup.Duplicate")
        clerk.answer("ec2", "describe_security_groups", {"SecurityGroups": [made]})
        clerk.answer("ec2", "authorize_security_group_ingress", {})
        assert access.ssh_group(clerk.cloud.ec2, CALLER, owner="me") == "sg-1"


def test_a_name_in_use_by_a_group_that_stays_unlisted_is_reported() -> None:
    """Another process may just have made it: it is looked for, for half a minute."""
    slept: list[float] = []
    with stubbed("ec2") as clerk:
        clerk.networks()
        clerk.answer("ec2", "describe_security_groups", {"SecurityGroups": []})
        clerk.refuse("ec2", "create_security_group", "InvalidGroup.Duplicate")
        for _ in range(1 + len(UNKNOWN_PAUSES)):
            clerk.answer("ec2", "describe_security_groups", {"SecurityGroups": []})
        with pytest.raises(CloudError, match=r"cnd-ssh is not listed") as caught:
            access.ssh_group(clerk.cloud.ec2, CALLER, owner="me", sleep=slept.append)
    assert 25 < sum(slept) < 35
    assert "try again" in (caught.value.hint or "")


def test_a_group_that_was_just_made_may_be_unknown_to_the_next_calls() -> None:
    slept: list[float] = []
    with stubbed("ec2") as clerk:
        clerk.networks()
        clerk.answer("ec2", "describe_security_groups", {"SecurityGroups": []})
        clerk.answer("ec2", "create_security_group", {"GroupId": "sg-1"})
        for _ in range(3):
            call = "authorize_security_group_ingress"
            clerk.refuse("ec2", call, "InvalidGroup.NotFound")
        clerk.answer("ec2", "authorize_security_group_ingress", {})
        client = clerk.cloud.ec2
        group = access.ssh_group(client, CALLER, owner="me", sleep=slept.append)
    assert (group, len(slept)) == ("sg-1", 3)


def test_the_group_is_tagged_as_cnds(aws: Cloud, cloud: LocalCloud) -> None:
    group = access.ssh_group(aws.ec2, CALLER, owner="me")
    reply = cloud.ec2.describe_security_groups(GroupIds=[group])
    assert {"Key": "cnd", "Value": "1"} in reply["SecurityGroups"][0]["Tags"]


# --- the caller's address


def test_the_cloud_returns_the_callers_address(aws: Cloud) -> None:
    assert access.caller_address(aws.checkip) == "127.0.0.1"


@pytest.mark.parametrize(
    "path",
    ["/cnd/status", "/no-such-page"],
    ids=["no address", "no such page"],
)
def test_an_answer_that_is_no_address_is_refused(cloud: LocalCloud, path: str) -> None:
    with pytest.raises(CloudError, match="could not learn this machine's address"):
        access.caller_address(cloud.endpoint.url + path)


def test_a_dead_address_service_is_an_error_of_the_cloud() -> None:
    with pytest.raises(CloudError, match="could not learn") as caught:
        access.caller_address("http://127.0.0.1:1/")
    assert caught.value.exit_status == 3
