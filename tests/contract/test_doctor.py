"""What `doctor` finds in good accounts and in bad ones."""

from __future__ import annotations

import datetime as dt
import email.utils
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.credentials import Credentials, RefreshableCredentials

from cnd import account, doctor, keys
from cnd.cloud import Clients, Cloud
from cnd.doctor import FAULT, OK, WARNING, Case
from cnd.errors import UsageError
from cnd.plan import Plan
from tests.contract.clerk import Clerk, stubbed
from tests.contract.conftest import LocalCloud

PLAN = Plan(difficulty=1, instances=8, time_limit=200.0)
EVERYWHERE = "0.0.0.0/0"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> keys.UserKey:
    return keys.user_key(tmp_path_factory.mktemp("key"))


@pytest.fixture
def local(aws: Cloud, key: keys.UserKey) -> Case:
    return Case(aws, PLAN, key)


@pytest.fixture
def clerk() -> Iterator[Clerk]:
    with stubbed("ec2", "s3", "service-quotas") as clerk:
        yield clerk


@pytest.fixture
def case(clerk: Clerk, key: keys.UserKey) -> Case:
    return Case(clerk.cloud, PLAN, key)


# --- a good account


def test_the_embedded_cloud_is_fit_but_for_a_quota(local: Case) -> None:
    checks = doctor.examine(local, doctor.ALL)
    assert [check.name for check in checks] == [look.__name__ for look in doctor.ALL]
    unfit = {check.name: check.status for check in checks if check.status != OK}
    assert unfit.pop("quota") == WARNING
    unfit.pop("ssh", None)  # another test may have let another address in
    assert unfit == {}


def test_looking_makes_nothing(cloud: LocalCloud, local: Case) -> None:
    def everything() -> list[int]:
        return [
            len(cloud.ec2.describe_key_pairs()["KeyPairs"]),
            len(cloud.ec2.describe_security_groups()["SecurityGroups"]),
            len(cloud.ec2.describe_instances()["Reservations"]),
            len(cloud.client("s3").list_buckets()["Buckets"]),
        ]

    before = everything()
    doctor.examine(local, doctor.ALL)
    assert everything() == before


def test_a_check_is_one_line(local: Case) -> None:
    for check in doctor.examine(local, doctor.ALL):
        assert "\n" not in check.line


# --- bad ones


def test_a_type_that_the_region_lacks_is_a_fault(local: Case) -> None:
    unknown = replace(local, plan=replace(PLAN, instance_type="t9.giant"))
    checks = {c.name: c for c in doctor.examine(unknown, doctor.ALL)}
    assert checks["machine"].status == checks["image"].status == FAULT
    assert "t9.giant" in checks["machine"].text


def test_a_subnet_that_there_is_not_is_a_fault(local: Case) -> None:
    nowhere = replace(local, plan=replace(PLAN, subnet="subnet-0123"))
    (check,) = doctor.examine(nowhere, [doctor.network])
    assert check.status == FAULT
    assert "--subnet" in check.way_out


def test_a_bucket_of_ones_own_must_exist(local: Case) -> None:
    (check,) = doctor.examine(replace(local, bucket="nobodys"), [doctor.bucket])
    assert (check.status, check.text) == (FAULT, "no such bucket: nobodys")


def test_somebody_elses_bucket_is_a_fault(clerk: Clerk, case: Case) -> None:
    clerk.refuse("s3", "head_bucket", "403")
    (check,) = doctor.examine(case, [doctor.bucket])
    assert check.status == FAULT
    assert "not ours" in check.text


def offered(*zones: str) -> dict[str, Any]:
    return {"InstanceTypeOfferings": [{"Location": zone} for zone in zones]}


@pytest.mark.parametrize(
    ("subnets", "told"),
    [([], "no default subnet"), (["eu-west-2c"], "no subnet in a zone that offers")],
)
def test_no_place_for_an_instance_is_a_fault(
    clerk: Clerk, case: Case, subnets: list[str], told: str
) -> None:
    asked: dict[str, Any] = {
        "LocationType": "availability-zone",
        "Filters": [{"Name": "instance-type", "Values": ["t3.micro"]}],
    }
    zones = offered("eu-west-2a", "eu-west-2b")
    clerk.answer("ec2", "describe_instance_type_offerings", zones, asked)
    reply = {"Subnets": [{"AvailabilityZone": zone} for zone in subnets]}
    wanted = {"Filters": [{"Name": "default-for-az", "Values": ["true"]}]}
    clerk.answer("ec2", "describe_subnets", reply, wanted)
    (check,) = doctor.examine(case, [doctor.network])
    assert check.status == FAULT
    assert told in check.text
    assert check.way_out


def test_a_private_subnet_is_warned_of(clerk: Clerk, case: Case) -> None:
    clerk.answer("ec2", "describe_instance_type_offerings", offered("eu-west-2a"))
    subnet = {"AvailabilityZone": "eu-west-2a", "MapPublicIpOnLaunch": False}
    asked = {"SubnetIds": ["subnet-01"]}
    clerk.answer("ec2", "describe_subnets", {"Subnets": [subnet]}, asked)
    inside = replace(case, plan=replace(PLAN, subnet="subnet-01"))
    (check,) = doctor.examine(inside, [doctor.network])
    assert check.status == WARNING
    assert "no public addresses" in check.text


@pytest.mark.parametrize(("n", "status"), [(12, OK), (13, FAULT)])
def test_the_quota_tells_the_largest_fleet(
    clerk: Clerk, case: Case, n: int, status: str
) -> None:
    asked = {"ServiceCode": "ec2", "QuotaCode": "L-1216C47A"}
    reply = {"Quota": {"Value": 32.0}}
    clerk.answer("service-quotas", "get_service_quota", reply, asked)
    busy = {"CpuOptions": {"CoreCount": 4, "ThreadsPerCore": 2}}
    running = {"Reservations": [{"Instances": [busy]}]}
    state = {"Name": "instance-state-name", "Values": ["pending", "running"]}
    clerk.answer("ec2", "describe_instances", running, {"Filters": [state]})
    described = {
        "InstanceTypes": [
            {
                "VCpuInfo": {"DefaultVCpus": 2},
                "ProcessorInfo": {"SupportedArchitectures": ["x86_64"]},
            }
        ]
    }
    clerk.answer("ec2", "describe_instance_types", described)
    many = replace(case, plan=replace(PLAN, instances=n))
    (check,) = doctor.examine(many, [doctor.quota])
    assert check.status == status
    assert "8 of 32 vCPUs in use: room for 12 x t3.micro" in check.text
    assert ("quota" in check.way_out) == (status == FAULT)


@pytest.mark.parametrize(
    ("seconds", "status"), [(0, OK), (-100, WARNING), (1000, FAULT)]
)
def test_a_wrong_clock_is_told(
    clerk: Clerk, case: Case, seconds: int, status: str
) -> None:
    there = dt.datetime.now(dt.timezone.utc) + dt.timedelta(seconds=seconds)
    date = email.utils.format_datetime(there, usegmt=True)
    reply = {"Vpcs": [], "ResponseMetadata": {"HTTPHeaders": {"date": date}}}
    clerk.answer("ec2", "describe_vpcs", reply)
    (check,) = doctor.examine(case, [doctor.clock])
    assert check.status == status


def test_a_right_that_is_missing_is_a_fault_with_its_way_out(
    clerk: Clerk, case: Case
) -> None:
    """What AWS answers to a dry run that would have been refused."""
    clerk.answer("ec2", "describe_key_pairs", {"KeyPairs": []})
    clerk.refuse("ec2", "import_key_pair", "UnauthorizedOperation")
    (check,) = doctor.examine(case, [doctor.key_pair])
    assert check.status == FAULT
    assert "docs/aws.md" in check.way_out


def test_a_dry_run_that_would_succeed_is_fine(clerk: Clerk, case: Case) -> None:
    clerk.answer("ec2", "describe_key_pairs", {"KeyPairs": []})
    clerk.refuse("ec2", "import_key_pair", "DryRunOperation")
    (check,) = doctor.examine(case, [doctor.key_pair])
    assert check.status == OK


def test_what_may_not_be_looked_at_is_no_fault(clerk: Clerk, case: Case) -> None:
    clerk.refuse("ec2", "describe_vpcs", "UnauthorizedOperation")
    (check,) = doctor.examine(case, [doctor.clock])
    assert check.status == WARNING


@pytest.mark.parametrize(
    ("ranges", "status"),
    [
        (["192.0.2.0/24"], OK),
        (["192.0.2.0/24", "198.51.100.7/32"], WARNING),
        ([EVERYWHERE], WARNING),
    ],
)
def test_whom_the_group_lets_in_is_told(
    clerk: Clerk, case: Case, ranges: list[str], status: str
) -> None:
    permission = {"IpRanges": [{"CidrIp": each} for each in ranges]}
    group = {"GroupId": "sg-1", "IpPermissions": [permission]}
    clerk.answer("ec2", "describe_security_groups", {"SecurityGroups": [group]})
    mine = replace(case, plan=replace(PLAN, ssh_from="192.0.2.0/24"))
    (check,) = doctor.examine(mine, [doctor.ssh])
    assert check.status == status
    assert ("whole world" in check.text) == (EVERYWHERE in ranges)


def test_a_region_that_boto3_does_not_know_is_warned_of(key: keys.UserKey) -> None:
    for name, status in (
        ("eu-west-2", OK),
        ("cn-north-1", OK),
        ("eu-west-99", WARNING),
    ):
        with stubbed(region=name) as clerk:
            assert doctor.region(Case(clerk.cloud, PLAN, key)).status == status


# --- whose account


@pytest.mark.parametrize(
    ("region", "n", "status"),
    [("us-east-1", 9, WARNING), ("us-east-1", 10, FAULT), ("eu-west-2", 1, FAULT)],
)
def test_the_limits_of_a_lab_are_known(
    key: keys.UserKey, region: str, n: int, status: str
) -> None:
    arn = "arn:aws:sts::111111111111:assumed-role/voclabs/user123=Somebody"
    with stubbed(region=region, arn=arn) as clerk:
        case = Case(clerk.cloud, replace(PLAN, instances=n), key)
        assert doctor.caller(case).status == status


def test_an_account_of_ones_own_has_no_such_limits(case: Case) -> None:
    assert doctor.caller(case).status == OK


class Session:
    """A boto3 session of which only the credentials matter."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def get_credentials(self) -> Credentials:
        return self._credentials


def expiring(seconds: float) -> Credentials:
    return RefreshableCredentials(
        "a",
        "s",
        "t",
        dt.datetime.now(dt.timezone.utc) + dt.timedelta(seconds=seconds),
        refresh_using=dict,
        method="test",
    )


@pytest.mark.parametrize(
    ("credentials", "status"),
    [
        (Credentials("a", "s"), OK),
        (Credentials("a", "s", "token"), WARNING),
        (expiring(3600), OK),
        (expiring(300), WARNING),
    ],
)
def test_credentials_are_held_against_the_length_of_the_run(
    case: Case, credentials: Credentials, status: str
) -> None:
    session: Any = Session(credentials)
    cloud = replace(case.cloud, clients=Clients(session, None))
    assert doctor.credentials(replace(case, cloud=cloud)).status == status


# --- where SSH is let in from


@pytest.mark.parametrize(
    "text", [EVERYWHERE, "192.0.2.1/24", "somewhere", "2001:db8::/32", "192.0.2.0/40"]
)
def test_a_range_that_is_none_or_the_whole_world_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--ssh-from"):
        replace(PLAN, ssh_from=text)


def ssh_group(cloud: Cloud, subnet: str = "") -> str:
    where = "192.0.2.9/32"
    return account.ssh_group(cloud.ec2, where, owner="tests", subnet=subnet)


def test_a_subnet_of_another_network_has_a_group_of_its_own(
    aws: Cloud, cloud: LocalCloud
) -> None:
    vpc = cloud.ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = cloud.ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.1.0/24")["Subnet"]
    assert account.find_group(aws.ec2, subnet["SubnetId"]) is None
    group = ssh_group(aws, subnet["SubnetId"])
    assert group != ssh_group(aws)
    found = account.find_group(aws.ec2, subnet["SubnetId"])
    assert found == account.Group(group, {"192.0.2.9/32": "CND for tests"})
    described = cloud.ec2.describe_security_groups(GroupIds=[group])
    assert described["SecurityGroups"][0]["VpcId"] == vpc


def test_a_key_of_ones_own_is_looked_for_by_its_name(
    local: Case, tmp_path: Path
) -> None:
    other = keys.user_key(tmp_path)
    (check,) = doctor.examine(replace(local, key=other), [doctor.key_pair])
    assert account.key_name(other) in check.text
    assert "will be imported" in check.text
