"""What is sent to AWS, what its refusals become, and the rights that CND needs."""

from __future__ import annotations

import ast
import base64
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import pytest
from botocore import xform_name
from botocore.credentials import RefreshableCredentials

import cnd
from cnd import ec2
from cnd.cloud import replies
from cnd.cloud.connection import connect
from cnd.cloud.credentials import Guarded
from cnd.cloud.failures import FREE_PLAN, code, translated
from cnd.errors import CapacityError, CloudError
from tests.support.aws import RIGHTS, SERVICES, SPEC, Stub, policy


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub() as stub:
        yield stub


# --- what is sent


@pytest.fixture
def sent(stub: Stub) -> dict[str, Any]:
    """The parameters of the RunInstances that launches eight."""
    stub.launches(8)
    stub.launch(8)
    ((operation, parameters),) = stub.asked
    assert operation == "RunInstances"
    return parameters


def test_a_launch_asks_for_all_or_nothing(sent: dict[str, Any]) -> None:
    assert (sent["MinCount"], sent["MaxCount"]) == (8, 8)


def test_a_launch_can_be_repeated_without_paying_twice(sent: dict[str, Any]) -> None:
    assert sent["ClientToken"] == "t-1"


def test_an_instance_that_powers_off_is_terminated(sent: dict[str, Any]) -> None:
    assert sent["InstanceInitiatedShutdownBehavior"] == "terminate"


def test_the_metadata_service_requires_a_token(sent: dict[str, Any]) -> None:
    assert sent["MetadataOptions"]["HttpTokens"] == "required"


def test_instances_and_their_disks_are_tagged_in_the_call(sent: dict[str, Any]) -> None:
    by_kind = {
        each["ResourceType"]: {tag["Key"]: tag["Value"] for tag in each["Tags"]}
        for each in sent["TagSpecifications"]
    }
    assert set(by_kind) == {"instance", "volume"}
    for tags in by_kind.values():
        assert (tags["cnd:run"], tags["cnd:owner"]) == ("r", "somebody")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]{8}\+00:00", tags["cnd:deadline"])


def test_a_launch_uses_what_was_prepared(sent: dict[str, Any]) -> None:
    assert sent["ImageId"] == "ami-1"
    assert sent["InstanceType"] == "t3.micro"
    assert sent["KeyName"] == "cnd-key"
    (interface,) = sent["NetworkInterfaces"]
    assert interface["Groups"] == ["sg-1"]
    user_data = base64.b64decode(sent["UserData"]).decode()
    assert user_data == SPEC.user_data


def test_a_launch_has_no_further_parameters(sent: dict[str, Any]) -> None:
    assert set(sent) == {
        "ClientToken",
        "CreditSpecification",
        "ImageId",
        "InstanceInitiatedShutdownBehavior",
        "InstanceType",
        "KeyName",
        "MaxCount",
        "MetadataOptions",
        "MinCount",
        "NetworkInterfaces",
        "TagSpecifications",
        "UserData",
    }


def test_a_subnet_is_asked_for_where_one_was_chosen(stub: Stub) -> None:
    stub.launches(1)
    spec = replace(SPEC, subnet="subnet-1")
    ec2.launch(stub.ec2, spec, run="r", owner="user", token="t-1", count=1)
    ((_, asked),) = stub.asked
    (interface,) = asked["NetworkInterfaces"]
    assert interface["SubnetId"] == "subnet-1"
    assert "SubnetId" not in asked  # AWS refuses it beside an interface


def test_instances_are_listed_by_tag_and_state_never_by_id(stub: Stub) -> None:
    """An id is unknown to AWS for seconds after the launch; a filter is no error."""
    stub.add_response("describe_instances", {"Reservations": []})
    ec2.find(stub.ec2, run="r")
    ((_, asked),) = stub.asked
    assert "InstanceIds" not in asked
    assert asked["Filters"] == [
        {"Name": "instance-state-name", "Values": list(ec2.LIVE)},
        {"Name": "tag:cnd:run", "Values": ["r"]},
    ]


def test_all_pages_are_read(stub: Stub) -> None:
    stub.add_response("describe_instances", {"Reservations": [], "NextToken": "more"})
    stub.add_response("describe_instances", {"Reservations": []})
    ec2.find(stub.ec2)
    assert [asked.get("NextToken") for _, asked in stub.asked] == [None, "more"]


def test_many_instances_are_terminated_in_batches_that_aws_accepts(stub: Stub) -> None:
    for _ in range(3):
        stub.add_response("terminate_instances", {})
    names = {f"i-{i}" for i in range(250)}
    ec2.request_termination(stub.ec2, names)
    asked = [parameters["InstanceIds"] for _, parameters in stub.asked]
    assert sorted(len(each) for each in asked) == [50, 100, 100]
    assert set().union(*asked) == names


def test_all_terminations_are_requested_before_any_reply(stub: Stub) -> None:
    all_asked = threading.Barrier(3, timeout=60)

    def hold(**_: object) -> None:
        all_asked.wait()

    stub.ec2.meta.events.register_first("before-call.ec2.TerminateInstances", hold)
    for _ in range(3):
        stub.add_response("terminate_instances", {})
    ec2.request_termination(stub.ec2, {f"i-{i}" for i in range(250)})
    assert not all_asked.broken


def test_a_refused_batch_does_not_stop_the_others(stub: Stub) -> None:
    for _ in range(2):
        stub.add_client_error("terminate_instances", "InternalError")
    stub.add_response("terminate_instances", {})
    with pytest.raises(CloudError, match="InternalError"):
        ec2.request_termination(stub.ec2, {f"i-{i}" for i in range(250)})
    assert len(stub.asked) == 3


def test_only_instances_whose_logs_are_here_are_spared_an_orderly_shutdown(
    stub: Stub,
) -> None:
    for _ in range(2):
        stub.add_response("terminate_instances", {})
    ec2.request_termination(stub.ec2, ["i-1", "i-2"], without_shutdown=["i-2", "i-3"])
    assert [parameters for _, parameters in stub.asked] == [
        {"InstanceIds": ["i-2"], "SkipOsShutdown": True},
        {"InstanceIds": ["i-1"]},
    ]


@pytest.mark.parametrize("code", ["UnknownParameter", "InvalidParameterCombination"])
def test_a_cloud_that_cannot_skip_the_shutdown_terminates_all_the_same(
    stub: Stub, code: str
) -> None:
    stub.add_client_error("terminate_instances", code)
    stub.add_response("terminate_instances", {}, {"InstanceIds": ["i-1", "i-2"]})
    ec2.request_termination(stub.ec2, ["i-1", "i-2"], without_shutdown=["i-2"])
    assert len(stub.asked) == 2


def test_a_refused_quick_end_is_a_failure_and_does_not_stop_the_others(
    stub: Stub,
) -> None:
    stub.add_client_error("terminate_instances", "InternalError")
    stub.add_response("terminate_instances", {}, {"InstanceIds": ["i-1"]})
    with pytest.raises(CloudError, match="InternalError"):
        ec2.request_termination(stub.ec2, ["i-1", "i-2"], without_shutdown=["i-2"])
    stub.assert_no_pending_responses()


# --- what refusals become


REFUSALS = {
    "InsufficientInstanceCapacity": (CapacityError, "--n"),
    "UnfulfillableCapacity": (CapacityError, "--n"),
    "VcpuLimitExceeded": (CapacityError, "quota"),
    "InstanceLimitExceeded": (CapacityError, "quota"),
    "MaxSpotInstanceCountExceeded": (CapacityError, "quota"),
    "Unsupported": (CapacityError, "--instance-type"),
    "InvalidInstanceType": (CloudError, "--region"),
    "InvalidInstanceType.NotFound": (CloudError, "--instance-type"),
    "RequestLimitExceeded": (CloudError, "again"),
    "Throttling": (CloudError, "again"),
    "ThrottlingException": (CloudError, "again"),
    "IdempotentInstanceTerminated": (CloudError, "again"),
    "IdempotentParameterMismatch": (CloudError, "again"),
    "QueueDeletedRecently": (CloudError, "minute"),
    "AWS.SimpleQueueService.QueueDeletedRecently": (CloudError, "minute"),
    "SpotMaxPriceTooLow": (CapacityError, "--spot-or-on-demand"),
    "SignatureDoesNotMatch": (CloudError, "clock"),
    "UnrecognizedClientException": (CloudError, "aws configure"),
    "UnauthorizedOperation": (CloudError, "docs/aws.md"),
    "AccessDenied": (CloudError, "docs/aws.md"),
    "AccessDeniedException": (CloudError, "docs/aws.md"),
    "OptInRequired": (CloudError, "signed up"),
    "AuthFailure": (CloudError, "aws configure"),
    "InvalidClientTokenId": (CloudError, "aws configure"),
    "ExpiredToken": (CloudError, "log in"),
    "RequestExpired": (CloudError, "clock"),
    "InvalidAMIID.NotFound": (CloudError, "--region"),
    "InvalidKeyPair.NotFound": (CloudError, "again"),
    "InvalidGroup.NotFound": (CloudError, "again"),
    "InvalidSubnetID.NotFound": (CloudError, "--subnet"),
    "DependencyViolation": (CloudError, "later"),
    "VPCIdNotSpecified": (CloudError, "create-default-vpc"),
    "MissingInput": (CloudError, "create-default-vpc"),
}


@pytest.mark.parametrize("code", REFUSALS)
def test_a_refusal_of_aws_says_what_to_do(stub: Stub, code: str) -> None:
    kind, way_out = REFUSALS[code]
    stub.add_client_error("run_instances", code, "AWS says no.")
    with pytest.raises(CloudError) as caught:
        stub.launch()
    assert type(caught.value) is kind
    assert caught.value.exit_status == 3
    assert way_out in (caught.value.hint or "")
    assert str(caught.value) == (
        f"could not launch 8 x t3.micro: AWS says no. ({code})"
    )


NOT_FREE = (
    "The specified instance type is not eligible for Free Tier. For a list of Free "
    "Tier instance types, run 'describe-instance-types' with the filter "
    "'free-tier-eligible=true'."
)


def test_a_refusal_of_the_free_plan_is_told_from_others_of_its_code(stub: Stub) -> None:
    name = "InvalidParameterCombination"
    stub.add_client_error("run_instances", name, NOT_FREE)
    with pytest.raises(CapacityError, match=r"Free Tier .*Combination\)") as caught:
        stub.launch()
    assert code(caught.value) == FREE_PLAN
    assert "t3.micro" in (caught.value.hint or "")
    stub.add_client_error("run_instances", name, "A subnet and an interface.")
    with pytest.raises(CloudError) as other:
        stub.launch()
    assert (type(other.value), code(other.value)) == (CloudError, name)


def test_an_unknown_refusal_keeps_the_message_of_aws(stub: Stub) -> None:
    stub.add_client_error("run_instances", "BrandNewCode", "Something else.")
    with pytest.raises(CloudError, match=r"Something else\. \(BrandNewCode\)"):
        stub.launch()


def test_credentials_that_refresh_into_expired_ones_have_expired() -> None:
    """As when the login that gives them has ended; botocore has no class for that."""
    past = "2019-11-01T00:00:00Z"
    expired = {"access_key": "A", "secret_key": "S", "token": "T", "expiry_time": past}
    session = botocore.session.get_session()
    found = RefreshableCredentials.create_from_metadata(
        expired, refresh_using=lambda: expired, method="test"
    )
    guarded = Guarded(found, "default", "test")
    session._credentials = guarded  # type: ignore[attr-defined]
    client = boto3.Session(botocore_session=session, region_name="eu-west-2")
    with pytest.raises(CloudError, match="could not list the instances") as caught:
        ec2.find(client.client("ec2"))
    assert code(caught.value) == "ExpiredToken"
    assert "log in again" in (caught.value.hint or "")


def test_whatever_a_library_raises_in_a_call_is_a_failure_of_the_cloud() -> None:
    for error in (KeyError("Reservations"), MemoryError(), RecursionError("deep")):
        with (
            pytest.raises(CloudError, match="could not look") as caught,
            translated("look"),
        ):
            raise error
        assert type(error).__name__ in str(caught.value)
        assert caught.value.__cause__ is error


def test_what_is_translated_already_is_not_translated_again() -> None:
    with pytest.raises(CapacityError, match="no room"), translated("look"):
        raise CapacityError("no room")


def test_an_error_without_a_message_is_reported_by_its_code_or_its_status(
    stub: Stub,
) -> None:
    nothing: Any = None  # radosgw sends an empty Message
    stub.add_client_error("run_instances", "NoSuchBucket", nothing)
    with pytest.raises(CloudError, match=r"NoSuchBucket \(NoSuchBucket\)"):
        stub.launch()
    stub.add_client_error("run_instances", nothing, nothing, http_status_code=418)
    with pytest.raises(CloudError, match="HTTP status 418"):
        stub.launch()


def test_a_refusal_without_a_text_is_reported_by_its_code(stub: Stub) -> None:
    stub.add_client_error("run_instances", "Silent", "")
    with pytest.raises(CloudError, match=r"t3\.micro: Silent"):
        stub.launch()


def test_a_refusal_of_several_lines_becomes_one(stub: Stub) -> None:
    text = "You are not authorized.\n  Encoded message:\nabc\n"
    stub.add_client_error("run_instances", "UnauthorizedOperation", text)
    with pytest.raises(CloudError) as caught:
        stub.launch()
    assert "\n" not in str(caught.value)
    assert "You are not authorized. Encoded message: abc" in str(caught.value)


# --- an endpoint that is something else


class Portal(BaseHTTPRequestHandler):
    """The answer of a captive portal or of a wrong port: a web page."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        page = b"<!DOCTYPE html><p>Welcome!\n<br>Please log in."
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def portal() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Portal)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(5)
    server.server_close()


def test_an_endpoint_that_is_no_cloud_is_reported_in_one_line(
    portal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", portal)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with pytest.raises(CloudError, match="could not reach the cloud") as caught:
        connect("aws", "eu-west-2")
    assert "\n" not in str(caught.value)


# --- the rights that a policy must grant

# Tags that are given in the call that creates a resource need a right of their own.
TAGGING = {
    "Tags": "autoscaling:CreateOrUpdateTags",
    "TagSpecifications": "ec2:CreateTags",
    "tags": "sqs:TagQueue",
}


def operations() -> dict[str, str]:
    """Return every method of the clients that CND uses: snake_case -> "ec2:Call"."""
    session = botocore.session.get_session()
    return {
        xform_name(name): f"{service}:{name}"
        for service in SERVICES
        for name in session.get_service_model(service).operation_names
    }


def rights_used() -> set[str]:
    """Return the rights that the calls in the source need."""
    known = operations()
    used = set()
    for path in Path(cnd.__file__).parent.rglob("*.py"):
        source = path.read_text()
        if "translated(" not in source:
            continue  # it calls no cloud
        for call in ast.walk(ast.parse(source)):
            if not isinstance(call, ast.Call) or not isinstance(
                call.func, ast.Attribute
            ):
                continue
            method = call.func.attr
            if method == "get_paginator" and isinstance(call.args[0], ast.Constant):
                method = str(call.args[0].value)
            if (name := known.get(method)) is None:
                continue
            used.add(RIGHTS.get(name, name))
            used |= {TAGGING[k.arg] for k in call.keywords if k.arg in TAGGING}
    return used


def test_the_policy_grants_the_rights_that_cnd_needs_and_no_others() -> None:
    granted = [right for statement in policy() for right in statement["Action"]]
    twice = {right for right in granted if granted.count(right) > 1}
    assert twice == {"ec2:CreateTags"}  # each time under another condition
    assert set(granted) == rights_used()


def test_the_policy_does_not_allow_tagging_a_foreign_instance_as_cnds() -> None:
    """With the tag `cnd:run` on it, an instance may be terminated."""
    tagging = [each for each in policy() if "ec2:CreateTags" in each["Action"]]
    assert all(each["Action"] == ["ec2:CreateTags"] for each in tagging)
    making, index = (each["Condition"] for each in tagging)
    assert set(making["StringEquals"]) == {"ec2:CreateAction"}
    assert index == {
        "StringLike": {"aws:ResourceTag/cnd:run": "*"},
        "ForAllValues:StringEquals": {"aws:TagKeys": sorted(tags_given_again())},
    }


def tags_given_again() -> set[str]:
    """Return the keys of the tags that instances get after their launch."""
    with Stub() as stub:
        stub.launches(1)
        (one,) = stub.launch(1)
        for _ in range(3):
            stub.add_response("create_tags", {})
        ec2.tag_index(stub.ec2, one)
        ec2.hand_over(stub.ec2, [one.id], ["r2", "r1"])
        ec2.tag_deadline(stub.ec2, [one.id], one.launched)
        return {tag["Key"] for _, sent in stub.asked[1:] for tag in sent["Tags"]}


def test_the_policy_allows_the_tags_that_are_given_at_creation() -> None:
    (making,) = (each for each in policy() if each["Sid"] == "TagWhatIsBeingMade")
    allowed = making["Condition"]["StringEquals"]["ec2:CreateAction"]
    # The parameters of RunInstances are made in `cnd.model.launch_spec`.
    assert set(allowed) == calls_with("TagSpecifications") | {"RunInstances"}


def calls_with(parameter: str) -> set[str]:
    """Return the calls in the source that are given `parameter`."""
    known = operations()
    return {
        known[call.func.attr].partition(":")[2]
        for path in Path(cnd.__file__).parent.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in known
        and any(keyword.arg == parameter for keyword in call.keywords)
    }


def test_the_policy_allows_the_termination_of_cnds_own_instances_only() -> None:
    (statement,) = (
        each for each in policy() if "ec2:TerminateInstances" in each["Action"]
    )
    assert statement["Action"] == ["ec2:TerminateInstances"]
    condition = statement["Condition"]
    assert condition == {"StringLike": {"aws:ResourceTag/cnd:run": "*"}}


def test_the_policy_reaches_no_bucket_and_no_queue_but_cnds() -> None:
    for statement in policy():
        rights = set(statement["Action"]) - {"sqs:ListQueues"}  # looks, at names only
        if any(right.startswith(("s3:", "sqs:")) for right in rights):
            resources = statement["Resource"]
            names = [resources] if isinstance(resources, str) else resources
            assert all(":cnd-" in name for name in names)


def test_every_call_whose_reply_is_read_has_its_members_listed() -> None:
    """All calls of `cnd`, except those whose replies need no member."""
    session: Any = botocore.session.get_session()
    described = {
        xform_name(name): name
        for service in SERVICES
        for name in session.get_service_model(service).operation_names
    }
    called = {right.partition(":")[2] for right in rights_used()}
    reading = {name for name in called if name.startswith(("Describe", "Get"))}
    unread = {
        "GetLifecycleConfiguration",  # only its existence matters
        "GetBucketLifecycleConfiguration",
    }
    assert reading & set(described.values()) <= replies.REQUIRED.keys() | unread
