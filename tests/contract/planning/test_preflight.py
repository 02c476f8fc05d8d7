"""What `doctor` finds in good accounts and in bad ones."""

from __future__ import annotations

import datetime as dt
import email.utils
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.credentials import Credentials, RefreshableCredentials

from cnd.cloud.connection import Clients, Cloud
from cnd.errors import UsageError
from cnd.model.plan import Plan
from cnd.planning import preflight, routes
from cnd.planning.preflight import FAULT, OK, WARNING, Case, Check
from cnd.provision import access
from cnd.transport import keys
from tests.support.clerk import Clerk, stubbed
from tests.support.local_cloud import LocalCloud

PLAN = Plan(difficulty=1, instances=8, time_limit=200.0)
TAGGED = [{"ResourceType": "instance", "Tags": [{"Key": "cnd:run", "Value": "tests"}]}]
EVERYWHERE = "0.0.0.0/0"
SSH = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22}
LAB = "arn:aws:sts::111111111111:assumed-role/voclabs/user123=Somebody"


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


# --- a fit account


def test_the_local_cloud_is_fit_but_for_a_quota(local: Case) -> None:
    checks = preflight.examine(local, preflight.ALL)
    assert [check.name for check in checks] == [look.__name__ for look in preflight.ALL]
    unfit = {check.name: check.status for check in checks if check.status != OK}
    assert unfit.pop("quota") == WARNING
    unfit.pop("ssh", None)  # another test may have allowed another address
    unfit.pop("data", None)  # it ages
    assert unfit == {}


def test_looking_makes_nothing(cloud: LocalCloud, local: Case) -> None:
    # What was terminated before is forgotten after a while.
    living = [{"Name": "instance-state-name", "Values": ["pending", "running"]}]

    def everything() -> list[int]:
        return [
            len(cloud.ec2.describe_key_pairs()["KeyPairs"]),
            len(cloud.ec2.describe_security_groups()["SecurityGroups"]),
            len(cloud.ec2.describe_instances(Filters=living)["Reservations"]),
            len(cloud.client("s3").list_buckets()["Buckets"]),
        ]

    before = everything()
    preflight.examine(local, preflight.ALL)
    assert everything() == before


def test_a_check_is_one_line(local: Case) -> None:
    for check in preflight.examine(local, preflight.ALL):
        assert "\n" not in check.line


# --- unfit accounts


def test_a_type_that_the_region_lacks_is_a_fault(local: Case) -> None:
    unknown = replace(local, plan=replace(PLAN, instance_type="t9.giant"))
    checks = {c.name: c for c in preflight.examine(unknown, preflight.ALL)}
    assert checks["machine"].status == checks["image"].status == FAULT
    assert "t9.giant" in checks["machine"].text


def test_a_subnet_that_does_not_exist_is_a_fault(local: Case) -> None:
    nowhere = replace(local, plan=replace(PLAN, subnet="subnet-0123"))
    (check,) = preflight.examine(nowhere, [preflight.network])
    assert check.status == FAULT
    assert "--subnet" in check.way_out


def test_a_users_own_bucket_must_exist(local: Case) -> None:
    (check,) = preflight.examine(replace(local, bucket="nobodys"), [preflight.bucket])
    assert (check.status, check.text) == (FAULT, "no such bucket: nobodys")


def test_a_bucket_of_another_account_is_a_fault(clerk: Clerk, case: Case) -> None:
    clerk.refuse("s3", "head_bucket", "403")
    (check,) = preflight.examine(case, [preflight.bucket])
    assert check.status == FAULT
    assert "this account may not use it" in check.text


def offered(*zones: str) -> dict[str, Any]:
    return {"InstanceTypeOfferings": [{"Location": zone} for zone in zones]}


@pytest.mark.parametrize(
    ("subnets", "text"),
    [([], "no default subnet"), (["eu-west-2c"], "no subnet in a zone that offers")],
)
def test_no_place_for_an_instance_is_a_fault(
    clerk: Clerk, case: Case, subnets: list[str], text: str
) -> None:
    asked: dict[str, Any] = {
        "LocationType": "availability-zone",
        "Filters": [{"Name": "instance-type", "Values": ["t3.micro"]}],
    }
    zones = offered("eu-west-2a", "eu-west-2b")
    clerk.answer("ec2", "describe_instance_type_offerings", zones, asked)
    reply = {"Subnets": [{**SUBNET, "AvailabilityZone": zone} for zone in subnets]}
    wanted = {"Filters": [{"Name": "default-for-az", "Values": ["true"]}]}
    clerk.answer("ec2", "describe_subnets", reply, wanted)
    (check,) = preflight.examine(case, [preflight.network])
    assert check.status == FAULT
    assert text in check.text
    assert check.way_out


@pytest.mark.parametrize("look", [preflight.network, preflight.machine])
def test_a_region_without_the_type_is_a_fault_that_names_the_region(
    clerk: Clerk, case: Case, look: preflight.CheckFunction
) -> None:
    if look is preflight.machine:
        clerk.answer("ec2", "describe_instance_types", described(2))
    clerk.answer("ec2", "describe_instance_type_offerings", offered())
    (check,) = preflight.examine(case, [look])
    assert check.status == FAULT
    assert check.text == "no zone of eu-west-2 offers t3.micro"
    assert "--region" in check.way_out


def test_all_types_are_checked(clerk: Clerk, case: Case) -> None:
    plan = replace(PLAN, others={"c7g.large": None})
    several = replace(case, plan=plan)
    for zones in (("eu-west-2a",), ()):
        clerk.answer("ec2", "describe_instance_types", described(2))
        clerk.answer("ec2", "describe_instance_type_offerings", offered(*zones))
    check = preflight.machine(several)
    assert check.status == WARNING
    assert check.text == (
        "no zone of eu-west-2 offers c7g.large; "
        "t3.micro, 2 vCPUs, offered in eu-west-2a"
    )


def test_the_quota_is_reported_for_each_type(clerk: Clerk, case: Case) -> None:
    plan = replace(PLAN, others={"c7g.xlarge": None, "inf2.xlarge": None}, instances=9)
    reply = {"Quota": {"Value": 16.0}}
    clerk.answer("service-quotas", "get_service_quota", reply)
    busy(clerk)
    for vcpus in (2, 4):
        clerk.answer("ec2", "describe_instance_types", described(vcpus))
    check = preflight.quota(replace(case, plan=plan))
    assert "room for 8 x t3.micro or 4 x c7g.xlarge, not 9" in check.text
    assert check.status == WARNING  # the third type has its own quota


SUBNET = {
    "SubnetId": "subnet-01",
    "VpcId": "vpc-1",
    "AvailabilityZone": "eu-west-2a",
    "MapPublicIpOnLaunch": False,  # each launch asks for an address itself
}


def with_routes(clerk: Clerk, case: Case, *ways: dict[str, str], **plan: Any) -> Check:
    """Return the check of a subnet with these routes besides its network's own."""
    clerk.answer("ec2", "describe_instance_type_offerings", offered("eu-west-2a"))
    asked = {"SubnetIds": ["subnet-01"]}
    clerk.answer("ec2", "describe_subnets", {"Subnets": [SUBNET]}, asked)
    if plan.get("address") != "private":
        table = {
            "VpcId": "vpc-1",
            "Associations": [{"Main": True}],
            "Routes": [{"GatewayId": "local", "State": "active"}, *ways],
        }
        filters = {"Filters": [{"Name": "vpc-id", "Values": ["vpc-1"]}]}
        found = {"RouteTables": [table]}
        clerk.answer("ec2", "describe_route_tables", found, filters)
    inside = replace(PLAN, subnet="subnet-01", **plan)
    (check,) = preflight.examine(replace(case, plan=inside), [preflight.network])
    return check


EVERYTHING = {"DestinationCidrBlock": "0.0.0.0/0", "State": "active"}
PUBLIC = {**EVERYTHING, "GatewayId": "igw-1"}
NAT = {**EVERYTHING, "NatGatewayId": "nat-1"}
ENDPOINT = {"DestinationPrefixListId": "pl-1", "GatewayId": "vpce-1"}


def test_a_subnet_that_assigns_no_addresses_is_fit_if_it_leads_to_the_internet(
    clerk: Clerk, case: Case
) -> None:
    assert with_routes(clerk, case, PUBLIC).status == OK


@pytest.mark.parametrize("way", [{}, NAT, ENDPOINT, {**PUBLIC, "State": "blackhole"}])
def test_a_subnet_whose_instances_cannot_be_reached_is_a_fault(
    clerk: Clerk, case: Case, way: dict[str, str]
) -> None:
    check = with_routes(clerk, case, way)
    assert (check.status, check.text) == (
        FAULT,
        "no route from subnet-01 to an internet gateway",
    )
    assert "--address private" in check.way_out


def test_private_addresses_need_no_way_to_the_internet(
    clerk: Clerk, case: Case
) -> None:
    plan: dict[str, Any] = {"address": "private", "ssh_from": "10.0.0.0/16"}
    assert with_routes(clerk, case, **plan).status == OK


@pytest.mark.parametrize(
    ("way", "status"), [({}, FAULT), (PUBLIC, OK), (NAT, OK), (ENDPOINT, OK)]
)
def test_instances_without_ssh_need_a_way_to_s3(
    clerk: Clerk, case: Case, way: dict[str, str], status: str
) -> None:
    check = with_routes(clerk, case, way, bootstrap="user-data")
    assert check.status == status
    assert ("S3" in check.text) == (status == FAULT)
    assert ("gateway endpoint" in check.way_out) == (status == FAULT)


def test_subnets_that_are_fit_are_named_where_others_are_not() -> None:
    """AWS may choose any of them, so each must do."""
    own = {
        "VpcId": "vpc-1",
        "Associations": [{"SubnetId": "subnet-b"}],
        "Routes": [NAT],
    }
    main = {"VpcId": "vpc-1", "Associations": [{"Main": True}], "Routes": [PUBLIC]}
    other = {**main, "VpcId": "vpc-2", "Routes": []}
    subnets = [routes.Subnet(f"subnet-{n}", "vpc-1", "eu-west-2a") for n in "abc"]
    with stubbed("ec2") as clerk:
        reply = {"RouteTables": [other, main, own]}
        clerk.answer("ec2", "describe_route_tables", reply)
        trouble = routes.trouble(clerk.cloud.ec2, PLAN, subnets)
    assert trouble == (
        "no route from subnet-b to an internet gateway",
        "--subnet subnet-a,subnet-c",
    )


def test_routes_that_this_account_may_not_see_are_no_fault() -> None:
    with stubbed("ec2") as clerk:
        clerk.refuse("ec2", "describe_route_tables", "UnauthorizedOperation")
        subnet = routes.Subnet("subnet-a", "vpc-1", "eu-west-2a")
        assert routes.trouble(clerk.cloud.ec2, PLAN, [subnet]) is None


@pytest.mark.parametrize(
    ("answers", "status"),
    [
        (["free", "DryRunOperation"], WARNING),  # the next type is taken
        (["free", "free"], FAULT),
        (["free", "UnauthorizedOperation"], FAULT),
        (["DryRunOperation", "DryRunOperation"], OK),
    ],
)
def test_a_type_that_the_account_may_not_launch_is_a_fault_if_none_is_left(
    key: keys.UserKey, answers: list[str], status: str
) -> None:
    message = "The specified instance type is not eligible for Free Tier."
    plan = replace(PLAN, image="ami-01", user="me", others={"c7a.large": None})
    image = {"Images": [{"Architecture": "x86_64", "Name": "own"}]}
    with stubbed("ec2") as clerk:
        for answer in answers:
            clerk.answer("ec2", "describe_instance_types", described(2))
            clerk.answer("ec2", "describe_images", image)
            clerk.answer("ec2", "describe_subnets", {"Subnets": [SUBNET]})
            clerk.answer("ec2", "describe_security_groups", {"SecurityGroups": []})
            clerk.refuse("ec2", "describe_key_pairs", "UnauthorizedOperation")
            if answer == "free":
                clerk.stubs["ec2"].add_client_error(
                    "run_instances", "InvalidParameterCombination", message
                )
            else:
                clerk.refuse("ec2", "run_instances", answer)
        case = Case(clerk.cloud, plan, key)
        (check,) = preflight.examine(case, [preflight.launch])
    assert check.status == status
    if answers[-1] == "free":
        assert "free plan" in check.way_out


def test_an_image_of_the_users_own_must_have_what_arms_the_timer(
    clerk: Clerk, case: Case
) -> None:
    clerk.answer("ec2", "describe_instance_types", described(2))
    image = {"Images": [{"Architecture": "x86_64", "Name": "own"}]}
    clerk.answer("ec2", "describe_images", image)
    own = replace(PLAN, image="ami-01", user="me")
    check = preflight.image(replace(case, plan=own))
    assert check.status == WARNING
    assert "cloud-init" in check.way_out


def busy(clerk: Clerk, *types: str, vcpus: int = 8) -> None:
    """Let instances of these types run, each with so many vCPUs."""
    cpu = {"CoreCount": vcpus // 2, "ThreadsPerCore": 2}
    instances = [{"InstanceType": name, "CpuOptions": cpu} for name in types]
    running = {"Reservations": [{"Instances": instances}]}
    state = {"Name": "instance-state-name", "Values": ["pending", "running"]}
    clerk.answer("ec2", "describe_instances", running, {"Filters": [state]})


def described(vcpus: int) -> dict[str, Any]:
    """EC2's description of an instance type with so many vCPUs."""
    found = {
        "VCpuInfo": {"DefaultVCpus": vcpus},
        "ProcessorInfo": {"SupportedArchitectures": ["x86_64"]},
    }
    return {"InstanceTypes": [found]}


@pytest.mark.parametrize(
    ("name", "standard"),
    [
        *((name, True) for name in ("t3.micro", "c7a.large", "m6g.large", "z1d.large")),
        *((name, True) for name in ("a1.large", "d3en.xlarge", "im4gn.large")),
        *((name, False) for name in ("hpc6a.48xlarge", "dl1.24xlarge", "mac2.metal")),
        *((name, False) for name in ("trn1.2xlarge", "inf2.xlarge", "f2.6xlarge")),
        *((name, False) for name in ("u-3tb1.56xlarge", "x2gd.medium")),
    ],
)
def test_only_standard_families_count_for_the_standard_quota(
    clerk: Clerk, case: Case, name: str, standard: bool
) -> None:
    if standard:
        reply = {"Quota": {"Value": 32.0}}
        clerk.answer("service-quotas", "get_service_quota", reply)
        busy(clerk, name)
        clerk.answer("ec2", "describe_instance_types", described(2))
    plan = replace(PLAN, instance_type=name)
    (check,) = preflight.examine(replace(case, plan=plan), [preflight.quota])
    assert ("8 of 32 vCPUs in use" in check.text) == standard
    assert ("a quota of its own" in check.text) != standard


@pytest.mark.parametrize(
    ("name", "market", "code"),
    [
        ("g6.xlarge", "on-demand", "L-DB2E81BA"),
        ("g4dn.xlarge", "spot", "L-3819A6DF"),
        ("p5.4xlarge", "on-demand", "L-417A185B"),
    ],
)
def test_types_with_gpus_count_for_quotas_of_their_own(
    clerk: Clerk, case: Case, name: str, market: str, code: str
) -> None:
    asked = {"ServiceCode": "ec2", "QuotaCode": code}
    reply = {"Quota": {"Value": 0.0}}
    clerk.answer("service-quotas", "get_service_quota", reply, asked)
    busy(clerk, "c5.2xlarge")
    clerk.answer("ec2", "describe_instance_types", described(4))
    plan = replace(PLAN, instance_type=name, market=market)
    (check,) = preflight.examine(replace(case, plan=plan), [preflight.quota])
    assert check.status == FAULT
    assert f"room for 0 x {name}, not " in check.text
    assert "0 of 0 " in check.text
    assert code in check.way_out


def test_each_quota_of_a_mixed_fleet_is_looked_up(clerk: Clerk, case: Case) -> None:
    plan = replace(PLAN, instance_type="g6.xlarge", others={"t3.micro": None})
    for code, value in (("L-DB2E81BA", 0.0), ("L-1216C47A", 32.0)):
        asked = {"ServiceCode": "ec2", "QuotaCode": code}
        reply = {"Quota": {"Value": value}}
        clerk.answer("service-quotas", "get_service_quota", reply, asked)
        busy(clerk)
        clerk.answer("ec2", "describe_instance_types", described(4))
    check = preflight.quota(replace(case, plan=plan))
    assert check.status == OK
    assert "room for 0 x g6.xlarge; " in check.text
    assert "room for 8 x t3.micro" in check.text


@pytest.mark.parametrize(("n", "status"), [(12, OK), (13, FAULT)])
def test_the_quota_check_states_the_largest_fleet(
    clerk: Clerk, case: Case, n: int, status: str
) -> None:
    asked = {"ServiceCode": "ec2", "QuotaCode": "L-1216C47A"}
    reply = {"Quota": {"Value": 32.0}}
    clerk.answer("service-quotas", "get_service_quota", reply, asked)
    apart = ("g5.xlarge", "hpc6a.48xlarge", "dl1.24xlarge", "trn1.2xlarge")
    busy(clerk, "c5.2xlarge", *apart)
    clerk.answer("ec2", "describe_instance_types", described(2))
    many = replace(case, plan=replace(PLAN, instances=n))
    (check,) = preflight.examine(many, [preflight.quota])
    assert check.status == status
    assert "8 of 32 vCPUs in use: room for 12 x t3.micro" in check.text
    assert ("quota" in check.way_out) == (status == FAULT)


@pytest.mark.parametrize(
    ("seconds", "status"), [(0, OK), (-100, WARNING), (1000, FAULT)]
)
def test_a_wrong_clock_is_reported(
    clerk: Clerk, case: Case, seconds: int, status: str
) -> None:
    there = dt.datetime.now(dt.timezone.utc) + dt.timedelta(seconds=seconds)
    date = email.utils.format_datetime(there, usegmt=True)
    reply = {"Vpcs": [], "ResponseMetadata": {"HTTPHeaders": {"date": date}}}
    clerk.answer("ec2", "describe_vpcs", reply)
    (check,) = preflight.examine(case, [preflight.clock])
    assert check.status == status


def test_a_missing_right_is_a_fault_with_a_way_out(clerk: Clerk, case: Case) -> None:
    """AWS's answer to a dry run of a call that would be refused."""
    clerk.answer("ec2", "describe_key_pairs", {"KeyPairs": []})
    clerk.refuse("ec2", "import_key_pair", "UnauthorizedOperation")
    (check,) = preflight.examine(case, [preflight.key_pair])
    assert check.status == FAULT
    assert "docs/aws.md" in check.way_out


def test_a_dry_run_that_would_succeed_is_fine(clerk: Clerk, case: Case) -> None:
    clerk.answer("ec2", "describe_key_pairs", {"KeyPairs": []})
    clerk.refuse("ec2", "import_key_pair", "DryRunOperation")
    (check,) = preflight.examine(case, [preflight.key_pair])
    assert check.status == OK


@pytest.mark.parametrize(
    ("look", "service", "call"),
    [
        (preflight.machine, "ec2", "describe_instance_types"),
        (preflight.network, "ec2", "describe_instance_type_offerings"),
        (preflight.image, "ssm", "get_parameter"),
        (preflight.ssh, "ec2", "describe_security_groups"),
    ],
)
def test_a_denied_call_that_a_run_needs_is_a_fault(
    key: keys.UserKey, look: preflight.CheckFunction, service: str, call: str
) -> None:
    with stubbed("ec2", "ssm") as clerk:
        if service == "ssm":
            clerk.answer("ec2", "describe_instance_types", described(2))
        if look is preflight.ssh:
            clerk.networks()
        clerk.refuse(service, call, "AccessDeniedException")
        plan = replace(PLAN, ssh_from="192.0.2.0/24")
        (check,) = preflight.examine(Case(clerk.cloud, plan, key), [look])
    assert check.status == FAULT
    assert "docs/aws.md" in check.way_out


def test_a_denied_call_that_a_run_does_not_need_is_no_fault(
    clerk: Clerk, case: Case
) -> None:
    clerk.refuse("ec2", "describe_vpcs", "UnauthorizedOperation")
    (check,) = preflight.examine(case, [preflight.clock])
    assert check.status == WARNING


def test_this_machines_address_is_checked_against_the_allowed_ranges(
    clerk: Clerk, case: Case
) -> None:
    """Whether a changed address may be allowed is tried by a dry run."""
    mine = replace(case, plan=replace(PLAN, ssh_from="192.0.2.0/24"))
    for ranges, answer, status in (
        ([], "DryRunOperation", OK),
        ([], "UnauthorizedOperation", FAULT),
        (["198.51.100.7/32"], "DryRunOperation", WARNING),
    ):
        permission = {**SSH, "IpRanges": [{"CidrIp": each} for each in ranges]}
        group = {"GroupId": "sg-1", "IpPermissions": [permission]}
        found = {"SecurityGroups": [group]}
        clerk.networks()
        clerk.answer("ec2", "describe_security_groups", found)
        clerk.refuse("ec2", "authorize_security_group_ingress", answer)
        (check,) = preflight.examine(mine, [preflight.ssh])
        assert check.status == status
        assert "192.0.2.0/24" in check.text


@pytest.mark.parametrize(
    ("answer", "status"),
    [("DryRunOperation", OK), ("UnauthorizedOperation", FAULT)],
)
def test_whether_a_group_may_be_created_is_checked(
    clerk: Clerk, case: Case, answer: str, status: str
) -> None:
    clerk.networks()
    clerk.answer("ec2", "describe_security_groups", {"SecurityGroups": []})
    clerk.networks()
    clerk.refuse("ec2", "create_security_group", answer)
    mine = replace(case, plan=replace(PLAN, ssh_from="192.0.2.0/24"))
    (check,) = preflight.examine(mine, [preflight.ssh])
    assert check.status == status


@pytest.mark.parametrize(
    ("answer", "status"),
    [("DryRunOperation", OK), ("UnauthorizedOperation", WARNING)],
)
def test_whether_an_instance_may_be_tagged_is_tried_on_an_existing_one(
    clerk: Clerk, case: Case, answer: str, status: str
) -> None:
    clerk.answer("ec2", "describe_instances", {"Reservations": []})
    (check,) = preflight.examine(case, [preflight.tags])
    assert (check.status, check.text) == (OK, "given in the launch")
    instance = {
        "InstanceId": "i-1",
        "InstanceType": "t3.micro",
        "State": {"Name": "running"},
        "LaunchTime": dt.datetime.now(dt.timezone.utc),
    }
    live = {"Reservations": [{"Instances": [instance]}]}
    clerk.answer("ec2", "describe_instances", live)
    clerk.refuse("ec2", "create_tags", answer)
    (check,) = preflight.examine(case, [preflight.tags])
    assert check.status == status


DRY = {
    "ImportKeyPair": {preflight.key_pair},
    "RunInstances": {preflight.launch},
    "CreateLaunchTemplate": {preflight.capacity},
    "TerminateInstances": {preflight.terminate},
    "CreateSecurityGroup": {preflight.ssh},
    "AuthorizeSecurityGroupIngress": {preflight.ssh},
    "CreateTags": {preflight.tags},
}


def test_every_check_that_calls_more_than_a_description_makes_a_dry_run(
    cloud: LocalCloud, local: Case
) -> None:
    asked: dict[str, Any] = {}

    def keep(params: dict[str, Any], model: Any, **_: object) -> None:
        if not model.name.startswith(("Describe", "Get", "Head", "List")):
            asked[model.name] = params.get("DryRun")

    events = local.cloud.ec2.meta.events
    events.register("before-parameter-build.ec2", keep)
    (host,) = cloud.launch(TagSpecifications=TAGGED)
    plan = replace(PLAN, ssh_from="203.0.113.0/24", market="spot")
    elsewhere = cloud.ec2.create_vpc(CidrBlock="10.8.0.0/16")["Vpc"]["VpcId"]
    subnet = cloud.ec2.create_subnet(VpcId=elsewhere, CidrBlock="10.8.1.0/24")
    ssh_group(local.cloud)
    asked.clear()
    checks = [check for each in DRY.values() for check in each]
    preflight.examine(replace(local, plan=plan), checks)
    there = replace(plan, subnet=subnet["Subnet"]["SubnetId"])
    preflight.examine(replace(local, plan=there), [preflight.ssh])
    events.unregister("before-parameter-build.ec2", keep)
    cloud.ec2.terminate_instances(InstanceIds=[host])
    assert asked.pop("ImportKeyPair", True)  # not tried where the key pair exists
    assert asked == dict.fromkeys(DRY.keys() - {"ImportKeyPair"}, True)


@pytest.mark.parametrize(
    ("ranges", "status"),
    [
        (["192.0.2.0/24"], OK),
        (["192.0.2.0/24", "198.51.100.7/32"], WARNING),
        (["192.0.2.0/24", EVERYWHERE], WARNING),
    ],
)
def test_the_ranges_that_the_group_allows_are_reported(
    clerk: Clerk, case: Case, ranges: list[str], status: str
) -> None:
    permission = {**SSH, "IpRanges": [{"CidrIp": each} for each in ranges]}
    group = {"GroupId": "sg-1", "IpPermissions": [permission]}
    clerk.networks()
    clerk.answer("ec2", "describe_security_groups", {"SecurityGroups": [group]})
    mine = replace(case, plan=replace(PLAN, ssh_from="192.0.2.0/24"))
    (check,) = preflight.examine(mine, [preflight.ssh])
    assert check.status == status
    assert ("lets every address in" in check.text) == (EVERYWHERE in ranges)


def test_a_region_that_boto3_does_not_know_gives_a_warning(key: keys.UserKey) -> None:
    for name, status in (
        ("eu-west-2", OK),
        ("cn-north-1", OK),
        ("eu-west-99", WARNING),
    ):
        with stubbed(region=name) as clerk:
            assert preflight.region(Case(clerk.cloud, PLAN, key)).status == status


# --- lab accounts and credentials


@pytest.mark.parametrize(
    ("region", "n", "status"),
    [("us-east-1", 9, WARNING), ("us-east-1", 10, FAULT), ("eu-west-2", 1, FAULT)],
)
def test_the_regions_and_the_instances_of_a_lab_are_known(
    key: keys.UserKey, region: str, n: int, status: str
) -> None:
    with stubbed("ec2", region=region, arn=LAB) as clerk:
        if region == "us-east-1":
            busy(clerk)
        if status == WARNING:
            clerk.answer("ec2", "describe_instance_types", described(2))
        case = Case(clerk.cloud, replace(PLAN, instances=n), key)
        assert preflight.caller(case).status == status


@pytest.mark.parametrize(
    ("n", "each", "running", "text"),
    [
        (8, 4, 0, ""),
        (9, 4, 0, "32 vCPUs, 0 are in use"),
        (7, 4, 1, "32 vCPUs, 8 are in use"),
        (6, 2, 3, ""),
        (7, 2, 3, "9 instances, 3 run"),
    ],
)
def test_instances_that_run_in_a_lab_already_count(
    key: keys.UserKey, n: int, each: int, running: int, text: str
) -> None:
    with stubbed("ec2", region="us-east-1", arn=LAB) as clerk:
        busy(clerk, *["t3.micro"] * running, vcpus=8 if each == 4 else 2)
        if "instances" not in text:
            clerk.answer("ec2", "describe_instance_types", described(each))
        plan = replace(PLAN, instances=n, at_least=1)  # one would be accepted
        check = preflight.caller(Case(clerk.cloud, plan, key))
    assert check.status == (FAULT if text else WARNING)
    assert text in check.text


def test_a_run_longer_than_a_labs_session_is_a_fault(key: keys.UserKey) -> None:
    with stubbed(region="us-east-1", arn=LAB) as clerk:
        plan = replace(PLAN, time_limit=4 * 3600.0)
        check = preflight.caller(Case(clerk.cloud, plan, key))
    assert (check.status, check.way_out) == (FAULT, "less --t")


def test_an_ordinary_account_has_no_such_limits(case: Case) -> None:
    assert preflight.caller(case).status == OK


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
    ("credentials", "status", "text"),
    [
        (lambda: Credentials("a", "s"), OK, "they do not expire; a run may take 620 s"),
        (lambda: Credentials("a", "s", "token"), WARNING, "their end is not known"),
        (lambda: expiring(3630), OK, "good for 60 min"),
        (lambda: expiring(330), WARNING, "end in 5 min"),
        (lambda: expiring(-5), WARNING, "end in 0 min"),
    ],
)
def test_the_life_of_credentials_is_compared_with_the_length_of_the_run(
    case: Case, credentials: Callable[[], Credentials], status: str, text: str
) -> None:
    session: Any = Session(credentials())
    cloud = replace(case.cloud, clients=Clients(session, None))
    check = preflight.credentials(replace(case, cloud=cloud))
    assert check.status == status
    assert text in check.text


@pytest.mark.parametrize(
    ("plan", "status", "lost"),
    [
        (PLAN, WARNING, "neither terminate nor upload logs before a new login"),
        (replace(PLAN, bootstrap="user-data"), FAULT, "get no more orders"),
        (replace(PLAN, instances=1000), FAULT, "reports and logs are lost"),
    ],
)
def test_credentials_that_end_before_a_run_without_ssh_are_a_fault(
    case: Case, plan: Plan, status: str, lost: str
) -> None:
    """All that its instances get and send goes by URLs that are signed with them."""
    session: Any = Session(expiring(330))
    cloud = replace(case.cloud, clients=Clients(session, None))
    check = preflight.credentials(replace(case, cloud=cloud, plan=plan))
    assert (check.status, check.way_out) == (status, "log in again first, or less --t")
    assert lost in check.text
    unknown: Any = Session(Credentials("a", "s", "token"))
    cloud = replace(case.cloud, clients=Clients(unknown, None))
    check = preflight.credentials(replace(case, cloud=cloud, plan=plan))
    assert check.status == WARNING
    assert lost in check.way_out


@pytest.mark.parametrize(("days", "status"), [(10, OK), (400, WARNING)])
def test_the_age_of_the_shipped_data_is_reported(
    monkeypatch: pytest.MonkeyPatch, case: Case, days: int, status: str
) -> None:
    then = dt.datetime.now(dt.timezone.utc).date() - dt.timedelta(days)
    monkeypatch.setattr(preflight, "PRICED", then.isoformat())
    check = preflight.data(case)
    assert check.status == status
    assert re.search(rf"botocore \d+\.\d+\.\d+ .* {days} days old", check.text)


# --- from where SSH is allowed


@pytest.mark.parametrize(
    "text", [EVERYWHERE, "192.0.2.1/24", "somewhere", "2001:db8::/32", "192.0.2.0/40"]
)
def test_an_invalid_range_or_the_range_of_all_addresses_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--ssh-from"):
        replace(PLAN, ssh_from=text)


def ssh_group(cloud: Cloud, subnet: str = "") -> str:
    where = "192.0.2.9/32"
    return access.ssh_group(cloud.ec2, where, owner="tests", subnet=subnet)


def test_a_subnet_of_another_network_has_its_own_group(
    aws: Cloud, cloud: LocalCloud
) -> None:
    vpc = cloud.ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = cloud.ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.1.0/24")["Subnet"]
    assert access.find_group(aws.ec2, subnet["SubnetId"]) is None
    group = ssh_group(aws, subnet["SubnetId"])
    assert group != ssh_group(aws)
    found = access.find_group(aws.ec2, subnet["SubnetId"])
    assert found == access.Group(group, {"192.0.2.9/32": "CND for tests"})
    described = cloud.ec2.describe_security_groups(GroupIds=[group])
    assert described["SecurityGroups"][0]["VpcId"] == vpc


def test_a_users_own_key_is_looked_up_by_its_name(local: Case, tmp_path: Path) -> None:
    other = keys.user_key(tmp_path)
    (check,) = preflight.examine(replace(local, key=other), [preflight.key_pair])
    assert access.key_name(other) in check.text
    assert "will be imported" in check.text
