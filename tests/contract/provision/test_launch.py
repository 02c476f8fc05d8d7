"""What a launch makes of AWS's answers, and what is known of an interrupted one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from botocore.stub import Stubber

from cnd import ec2
from cnd.cloud.connection import FLEET_TIMEOUT, READ_TIMEOUT
from cnd.errors import CloudError, CndError, UsageError
from cnd.model.events import Event
from cnd.model.plan import Plan
from cnd.provision.capacity import UNKNOWN_PAUSES
from cnd.provision.launch import Launcher
from cnd.provision.prepare import Provision
from cnd.provision.retry import again
from cnd.transport.ssh_connection import Login
from tests.support.aws import SPEC
from tests.support.clerk import Clerk, stubbed

LOGIN = Login("ubuntu", Path("key"), "ssh-ed25519 AAAA")


def broken_off(at_request: BaseException, at_event: CndError | None = None) -> Launcher:
    """Return a launcher after a launch in which these were raised."""

    def tell(event: Event) -> None:
        if at_event:
            raise at_event

    def leave(**_: Any) -> None:
        raise at_request

    with stubbed("ec2") as clerk:
        events = clerk.cloud.ec2_once.meta.events
        events.register("before-parameter-build.ec2.RunInstances", leave)
        launcher = Launcher(clerk.cloud, Plan(2, 2, 60.0), "r")
        provision = Provision((SPEC,), LOGIN, "queue", "bucket", Future())
        with pytest.raises(type(at_event or at_request)):
            launcher.launch(provision, 2, least=2, emit=tell, wait=lambda _: True)
    return launcher


def test_an_interrupted_launch_is_unsure() -> None:
    """Ctrl-C, twice, while the request is on its way: the fleet may come up yet."""
    assert broken_off(KeyboardInterrupt()).unsure


def test_a_launch_that_was_never_requested_is_not_unsure() -> None:
    assert not broken_off(KeyboardInterrupt(), UsageError("full", hint="")).unsure


# --- what AWS answers


@dataclass
class Launch:
    """A launch at an AWS that answers what the test says."""

    clerk: Clerk
    once: Stubber  # of RunInstances
    fleets: Stubber  # of CreateFleet
    events: list[Event] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)

    def of(self, plan: Plan, *types: str) -> tuple[Launcher, list[ec2.Instance]]:
        """Return the launcher, and what it launched of these types."""
        specs = tuple(replace(SPEC, instance_type=name) for name in types)
        provision = Provision(specs, LOGIN, "queue", "bucket", Future())
        launcher = Launcher(self.clerk.cloud, plan, "r")
        found = launcher.launch(
            provision,
            plan.instances,
            least=plan.min_instances,
            emit=self.events.append,
            wait=self._wait,
        )
        return launcher, found

    def _wait(self, seconds: float) -> bool:
        self.waited += [seconds] * (seconds > 0)
        return True

    def tokens(self) -> list[str]:
        requested = [e for e in self.events if e.kind == "instance.requested"]
        return [str(event.fields["token"]) for event in requested]


@pytest.fixture
def launch() -> Iterator[Launch]:
    with stubbed("ec2", listed_within=0.5) as clerk:
        cloud = clerk.cloud
        with Stubber(cloud.ec2_once) as once, Stubber(cloud.ec2_for_fleets) as fleets:
            yield Launch(clerk, once, fleets)
            once.assert_no_pending_responses()
            fleets.assert_no_pending_responses()


def instances(*names: str, fleet: str = "", **more: Any) -> list[dict[str, Any]]:
    tags = [{"Key": "cnd:run", "Value": "r"}]
    if fleet:
        tags.append({"Key": "aws:ec2:fleet-id", "Value": fleet})
    usual = {
        "InstanceType": "t3.micro",
        "LaunchTime": dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc),
        "State": {"Name": "pending"},
        "Tags": tags,
    }
    return [{"InstanceId": name, **usual, **more} for name in names]


@pytest.mark.parametrize(
    "code",
    [
        *("InvalidGroup.NotFound", "InvalidKeyPair.NotFound"),
        "InvalidSecurityGroupID.NotFound",
    ],
)
def test_a_launch_is_asked_for_again_while_aws_does_not_know_what_was_just_made(
    launch: Launch, code: str
) -> None:
    for _ in range(4):
        launch.once.add_client_error("run_instances", code, "It does not exist")
    launch.once.add_response("run_instances", {"Instances": instances("i-0")})
    _, found = launch.of(Plan(2, 1, 60.0), "t3.micro")
    assert [each.id for each in found] == ["i-0"]
    assert len(launch.waited) == 4
    assert len(launch.tokens()) == 1  # it is the same request
    delays = [e.fields for e in launch.events if e.kind == "launch.delayed"]
    assert [each["reason"] for each in delays] == [code] * 4


def test_a_launch_that_was_unknown_for_long_is_repeated_after_an_internal_error(
    launch: Launch,
) -> None:
    """Whatever AWS has answered before: its client token makes that safe."""
    for code in (*["InvalidKeyPair.NotFound"] * 5, "InternalError"):
        launch.once.add_client_error("run_instances", code, "Please retry")
    launch.once.add_response("run_instances", {"Instances": instances("i-0")})
    launcher, found = launch.of(Plan(2, 1, 60.0), "t3.micro")
    assert [each.id for each in found] == ["i-0"]
    assert not launcher.unsure
    assert len(launch.tokens()) == 1


def test_a_type_outside_the_free_plan_gives_way_to_the_next_one(
    launch: Launch,
) -> None:
    message = "The specified instance type is not eligible for Free Tier."
    call, code = "run_instances", "InvalidParameterCombination"
    launch.once.add_client_error(call, code, message)
    launch.once.add_response(call, {"Instances": instances("i-0")})
    plan = Plan(2, 1, 60.0, instance_type="c7a.large", others={"t3.micro": None})
    _, found = launch.of(plan, "c7a.large", "t3.micro")
    assert [each.id for each in found] == ["i-0"]
    (refused,) = (e for e in launch.events if e.kind == "launch.refused")
    assert refused.fields["type"] == "c7a.large"


SPOT = Plan(2, 2, 60.0, market="spot")
ZONES = {"Subnets": [{"SubnetId": "subnet-1", "AvailabilityZone": "a"}]}


def prepare_fleet(launch: Launch) -> None:
    launch.clerk.answer("ec2", "describe_subnets", ZONES)
    launch.clerk.answer("ec2", "create_launch_template", {})


def named(*names: str, fleet: str = "fleet-1") -> dict[str, Any]:
    """Return the reply of a fleet that names these instances."""
    group = {"InstanceIds": list(names), "InstanceType": "t3.micro"}
    return {"FleetId": fleet, "Instances": [group] if names else []}


def test_the_instances_that_a_repeated_fleet_does_not_name_are_found_by_its_tag(
    launch: Launch,
) -> None:
    """A replayed instant fleet names none; those of another fleet are not its own."""
    prepare_fleet(launch)
    launch.fleets.add_client_error("create_fleet", "InternalError")
    launch.fleets.add_response("create_fleet", named())
    late = instances("i-0", fleet="fleet-1")
    others = instances("i-7", fleet="fleet-7") + instances("i-8")
    for listed in (
        [],
        late + others,
        late + others + instances("i-1", fleet="fleet-1"),
    ):
        reply = {"Reservations": [{"Instances": listed}]}
        launch.clerk.answer("ec2", "describe_instances", reply)
    launcher, found = launch.of(SPOT, "t3.micro")
    assert [each.id for each in found] == ["i-0", "i-1"]
    assert len(launch.tokens()) == 1
    assert not launcher.unsure
    assert not [e for e in launch.events if e.kind == "launch.refused"]


def test_nothing_more_is_bought_before_the_first_fleet_was_looked_for(
    launch: Launch,
) -> None:
    """What is missing on spot would be bought on demand."""
    prepare_fleet(launch)
    launch.fleets.add_client_error("create_fleet", "InternalError")
    launch.fleets.add_response("create_fleet", named())
    launch.clerk.refuse("ec2", "describe_instances", "UnauthorizedOperation")
    plan = replace(SPOT, market="spot-or-on-demand")
    with pytest.raises(CloudError, match="could not list the instances"):
        launch.of(plan, "t3.micro")
    assert len(launch.tokens()) == 1


def test_a_fleet_that_was_not_repeated_is_believed(launch: Launch) -> None:
    prepare_fleet(launch)
    launch.fleets.add_response("create_fleet", named("i-0", "i-1"))
    _, found = launch.of(SPOT, "t3.micro")
    assert [each.id for each in found] == ["i-0", "i-1"]


@pytest.mark.parametrize(
    "code",
    [
        *("InvalidLaunchTemplateName.NotFoundException", "RequestLimitExceeded"),
        "InternalError",
    ],
)
def test_a_fleet_whose_reply_tells_of_what_may_pass_is_asked_for_again(
    launch: Launch, code: str
) -> None:
    """By a new request: a replayed one would repeat its refusal."""
    prepare_fleet(launch)
    errors = [{"ErrorCode": code, "ErrorMessage": "No.", "Lifecycle": "spot"}]
    for _ in range(2):
        launch.fleets.add_response("create_fleet", {**named(), "Errors": errors})
    launch.fleets.add_response("create_fleet", named("i-0", "i-1"))
    _, found = launch.of(SPOT, "t3.micro")
    assert len(found) == 2
    assert len(set(launch.tokens())) == 3
    assert len(launch.waited) == 2


def test_a_template_that_was_just_made_is_removed_once_aws_knows_it(
    launch: Launch,
) -> None:
    """One that this launch has not made is gone where AWS does not know it."""
    absent = "InvalidLaunchTemplateName.NotFoundException"
    prepare_fleet(launch)
    launch.fleets.add_response("create_fleet", named("i-0", "i-1"))
    launcher, _ = launch.of(SPOT, "t3.micro")
    launch.clerk.refuse("ec2", "delete_launch_template", absent)
    launch.clerk.answer("ec2", "delete_launch_template", {})
    again(launcher.clean_up, sleep=launch.waited.append)
    assert launch.waited == [UNKNOWN_PAUSES[0]]
    launch.clerk.refuse("ec2", "delete_launch_template", absent)
    Launcher(launch.clerk.cloud, SPOT, "r").clean_up()


def test_a_fleet_is_waited_for_longer_than_other_calls(launch: Launch) -> None:
    """It may outlast the usual wait for a reply, and would be asked for twice."""
    cloud = launch.clerk.cloud
    usual: Any = cloud.ec2_once.meta.config
    patient: Any = cloud.ec2_for_fleets.meta.config
    assert usual.read_timeout == READ_TIMEOUT
    assert patient.read_timeout == FLEET_TIMEOUT >= 2 * READ_TIMEOUT
    for each in (usual, patient):
        assert each.retries["total_max_attempts"] == 1
