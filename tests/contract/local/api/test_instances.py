"""The EC2 of the local cloud behaves as AWS's where CND depends on it."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.support.local_cloud import LocalCloud, running_cloud
from tests.support.waiting import eventually


def code(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])


def terminate(cloud: LocalCloud, *instances: str) -> None:
    cloud.ec2.terminate_instances(InstanceIds=list(instances))


def find(cloud: LocalCloud, name: str, *values: str) -> list[dict[str, Any]]:
    reply = cloud.ec2.describe_instances(
        Filters=[{"Name": name, "Values": list(values)}]
    )
    return [i for r in reply["Reservations"] for i in r["Instances"]]


def test_an_instance_lives_through_the_states_of_aws(tmp_path: Path) -> None:
    with running_cloud(tmp_path, CND_LOCAL_BOOT_SECONDS="0.5") as cloud:
        (instance,) = cloud.launch()
        launched = time.monotonic()
        state = cloud.state(instance)
        assert state == "pending" or time.monotonic() - launched >= 0.5
        assert cloud.reaches(instance, "running")
        assert time.monotonic() - launched >= 0.4

        reply = cloud.ec2.terminate_instances(InstanceIds=[instance])

        (change,) = reply["TerminatingInstances"]
        assert change["CurrentState"] == {"Code": 32, "Name": "shutting-down"}
        assert change["PreviousState"] == {"Code": 16, "Name": "running"}
        assert cloud.reaches(instance, "terminated")


def test_a_pending_instance_can_be_terminated(tmp_path: Path) -> None:
    with running_cloud(tmp_path, CND_LOCAL_BOOT_SECONDS="600") as cloud:
        (instance,) = cloud.launch()
        assert cloud.state(instance) == "pending"

        terminate(cloud, instance)

        assert cloud.reaches(instance, "terminated")


def test_api_calls_take_as_long_as_set(tmp_path: Path) -> None:
    with running_cloud(tmp_path, CND_LOCAL_API_SECONDS="0.3") as cloud:
        cloud.ec2.describe_instances()
        started = time.monotonic()
        cloud.ec2.describe_instances()
        assert time.monotonic() - started >= 0.3


def test_a_launch_has_its_tags_its_indexes_and_all_its_instances(
    cloud: LocalCloud,
) -> None:
    reply = cloud.ec2.run_instances(
        ImageId=cloud.image,
        InstanceType="c5.large",
        KeyName="tests",
        MinCount=1,
        MaxCount=3,
        TagSpecifications=[
            {
                "ResourceType": "instance",
                "Tags": [{"Key": "cnd:run", "Value": "tags"}],
            }
        ],
    )

    found = find(cloud, "tag:cnd:run", "tags")
    assert sorted(i["AmiLaunchIndex"] for i in found) == [0, 1, 2]
    assert {i["InstanceId"] for i in found} == {
        i["InstanceId"] for i in reply["Instances"]
    }
    assert all(any(t["Key"] == "cnd:ssh-port" for t in i["Tags"]) for i in found)
    assert len({i["PublicIpAddress"] for i in found}) == 3
    terminate(cloud, *(i["InstanceId"] for i in found))


def test_a_terminated_instance_has_no_address_and_a_reason(cloud: LocalCloud) -> None:
    (instance,) = cloud.launch()
    before = cloud.describe(instance)
    assert before["PublicIpAddress"] == before["PrivateIpAddress"]

    terminate(cloud, instance)
    terminate(cloud, instance)  # a second time is no error

    assert cloud.reaches(instance, "terminated")
    after = cloud.describe(instance)
    assert "PublicIpAddress" not in after
    assert "PrivateIpAddress" not in after
    assert after["StateReason"]["Code"] == "Client.UserInitiatedShutdown"


def test_a_terminated_instance_is_removed_after_a_while(tmp_path: Path) -> None:
    with running_cloud(tmp_path, CND_LOCAL_MEMORY_SECONDS="6") as cloud:
        first, second = cloud.launch(2, ClientToken="forgotten")
        terminate(cloud, first)
        assert cloud.reaches(first, "terminated")

        def known() -> set[str]:
            return {i["InstanceId"] for i in find(cloud, "instance-id", first, second)}

        assert eventually(lambda: known() == {second}, every=0.2)
        with pytest.raises(ClientError) as error:
            cloud.describe(first)
        assert code(error) == "InvalidInstanceID.NotFound"
        terminate(cloud, second)
        assert eventually(lambda: known() == set(), every=0.2)
        with pytest.raises(ClientError) as error:
            cloud.launch(2, ClientToken="forgotten")
        assert code(error) == "IdempotentInstanceTerminated"


def test_a_repeated_token_launches_nothing_new(cloud: LocalCloud) -> None:
    first = cloud.launch(2, ClientToken="repeat")

    assert cloud.launch(2, ClientToken="repeat") == first
    assert len(find(cloud, "client-token", "repeat")) == 2
    terminate(cloud, *first)


def test_more_than_this_machine_has_memory_for_is_refused(cloud: LocalCloud) -> None:
    before = len(find(cloud, "instance-state-name", "pending", "running"))
    with pytest.raises(ClientError) as error:
        cloud.launch(1_000_000)  # 28 TB
    assert code(error) == "InsufficientInstanceCapacity"
    assert "memory" in str(error.value)
    assert len(find(cloud, "instance-state-name", "pending", "running")) == before


def test_retries_at_the_same_time_launch_once(cloud: LocalCloud) -> None:
    image, results = cloud.image, []

    def launch() -> None:
        results.append(tuple(cloud.launch(2, ClientToken="race", ImageId=image)))

    threads = [threading.Thread(target=launch) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(results) == 6
    assert len(set(results)) == 1
    terminate(cloud, *results[0])


def test_a_token_for_other_parameters_is_refused(cloud: LocalCloud) -> None:
    (instance,) = cloud.launch(1, ClientToken="mismatch")

    with pytest.raises(ClientError) as error:
        cloud.launch(2, ClientToken="mismatch")

    assert code(error) == "IdempotentParameterMismatch"
    terminate(cloud, instance)


def test_the_token_of_terminated_instances_is_refused(cloud: LocalCloud) -> None:
    (instance,) = cloud.launch(1, ClientToken="gone")
    terminate(cloud, instance)

    with pytest.raises(ClientError) as error:
        cloud.launch(1, ClientToken="gone")

    assert code(error) == "IdempotentInstanceTerminated"


def test_stopping_ends_the_host_and_keeps_its_files(cloud: LocalCloud) -> None:
    host = cloud.host()

    cloud.ec2.stop_instances(InstanceIds=[host.id])

    assert cloud.reaches(host.id, "stopped")
    assert (host.tree / "var/log/syslog").exists()
    with pytest.raises(ClientError) as error:
        cloud.ec2.start_instances(InstanceIds=[host.id])
    assert code(error) == "UnsupportedOperation"
    terminate(cloud, host.id)
    assert cloud.reaches(host.id, "terminated")
    assert eventually(lambda: not host.tree.exists())


def test_a_terminated_instance_cannot_be_stopped(cloud: LocalCloud) -> None:
    (instance,) = cloud.launch()
    terminate(cloud, instance)

    with pytest.raises(ClientError) as error:
        cloud.ec2.stop_instances(InstanceIds=[instance])

    assert code(error) == "IncorrectInstanceState"


@pytest.mark.parametrize(
    ("parameter", "value", "expected"),
    [
        ("ImageId", "ami-0123456789abcdef0", "InvalidAMIID.NotFound"),
        ("KeyName", "nobodys", "InvalidKeyPair.NotFound"),
        ("InstanceType", "x9.huge", "InvalidInstanceType.NotFound"),
    ],
)
def test_what_does_not_exist_cannot_be_launched(
    cloud: LocalCloud, parameter: str, value: str, expected: str
) -> None:
    with pytest.raises(ClientError) as error:
        cloud.launch(**{parameter: value})  # type: ignore[arg-type]

    assert code(error) == expected


@pytest.mark.parametrize(
    "name",
    [
        "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id",
        "/aws/service/canonical/ubuntu/server/24.04/stable/current/arm64/hvm/ebs-gp3/ami-id",
        "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64",
        "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64",
        "/aws/service/debian/release/12/latest/amd64",
    ],
)
def test_the_image_of_a_public_parameter_exists(cloud: LocalCloud, name: str) -> None:
    value = cloud.client("ssm").get_parameter(Name=name)["Parameter"]["Value"]

    (image,) = cloud.ec2.describe_images(ImageIds=[value])["Images"]

    arm = "arm64" in name
    assert image["Architecture"] == ("arm64" if arm else "x86_64")


def test_sixty_four_hosts_boot_and_end_together(cloud: LocalCloud) -> None:
    instances = cloud.launch(64)
    assert cloud.reaches(instances[-1], "running")

    def states() -> set[str]:
        return {i["State"]["Name"] for i in find(cloud, "instance-id", *instances)}

    eventually(lambda: states() == {"running"}, every=0.2)

    terminate(cloud, *instances)

    eventually(lambda: states() == {"terminated"}, every=0.2)


# --- networks, templates and fleets


def test_the_default_network_leads_to_the_internet(cloud: LocalCloud) -> None:
    (vpc,) = cloud.ec2.describe_vpcs(
        Filters=[{"Name": "is-default", "Values": ["true"]}]
    )["Vpcs"]
    tables = cloud.ec2.describe_route_tables(
        Filters=[{"Name": "vpc-id", "Values": [vpc["VpcId"]]}]
    )["RouteTables"]
    routes = {r["DestinationCidrBlock"]: r for t in tables for r in t["Routes"]}
    assert routes["0.0.0.0/0"]["GatewayId"].startswith("igw-")


def test_an_interface_decides_on_group_and_subnet(cloud: LocalCloud) -> None:
    """AWS refuses both beside an interface."""
    subnet = cloud.ec2.describe_subnets()["Subnets"][-1]["SubnetId"]
    (default, *_) = cloud.ec2.describe_security_groups()["SecurityGroups"]
    made = cloud.ec2.create_security_group(
        GroupName="of-interface", Description="a test's", VpcId=default["VpcId"]
    )
    wanted = {"DeviceIndex": 0, "SubnetId": subnet, "Groups": [made["GroupId"]]}
    (instance,) = cloud.launch(NetworkInterfaces=[wanted])
    found = cloud.describe(instance)
    assert found["SubnetId"] == subnet
    assert [g["GroupId"] for g in found["SecurityGroups"]] == [made["GroupId"]]
    terminate(cloud, instance)
    with pytest.raises(ClientError) as refused:
        cloud.launch(NetworkInterfaces=[wanted], SubnetId=subnet)
    assert code(refused) == "InvalidParameterCombination"


def test_a_launch_may_say_of_a_volume_only_that_it_ends(cloud: LocalCloud) -> None:
    device = "/dev/sda1"
    mapping = {"DeviceName": device, "Ebs": {"DeleteOnTermination": True}}
    (instance,) = cloud.launch(BlockDeviceMappings=[mapping])
    (found,) = cloud.describe(instance)["BlockDeviceMappings"]
    assert found["DeviceName"] == device
    assert found["Ebs"]["DeleteOnTermination"] is True
    terminate(cloud, instance)
    with pytest.raises(ClientError) as refused:
        cloud.launch(BlockDeviceMappings=[{"DeviceName": device}])
    assert code(refused) == "MissingParameter"


@pytest.mark.parametrize("kind", ["spot", "on-demand"])
def test_the_instances_of_a_fleet_have_its_tag(cloud: LocalCloud, kind: str) -> None:
    data = {"ImageId": cloud.image, "InstanceType": "c5.large"}
    template = {"LaunchTemplateName": f"of-fleet-{kind}", "Version": "1"}
    cloud.ec2.create_launch_template(
        LaunchTemplateName=template["LaunchTemplateName"], LaunchTemplateData=data
    )
    reply = cloud.ec2.create_fleet(
        Type="instant",
        LaunchTemplateConfigs=[{"LaunchTemplateSpecification": template}],
        TargetCapacitySpecification={
            "TotalTargetCapacity": 2,
            "DefaultTargetCapacityType": kind,
        },
    )
    named = [i for group in reply["Instances"] for i in group["InstanceIds"]]
    found = find(cloud, "tag:aws:ec2:fleet-id", reply["FleetId"])
    assert sorted(each["InstanceId"] for each in found) == sorted(named)
    assert len(named) == 2
    terminate(cloud, *named)
