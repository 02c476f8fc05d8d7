"""What a request names: its parameters, the resources it needs, and those it makes.

One rule: pure functions over a request's parameters; nothing is looked up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from cnd.local.api.actions import Call

LAUNCHES = ("RunInstances", "CreateFleet")
SIZING = ("CreateAutoScalingGroup", "UpdateAutoScalingGroup", "SetDesiredCapacity")
READS = ("Describe", "Get", "Head", "List", "Receive")

# Kind of resource -> the error of a call that does not know it, and its HTTP status.
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
UNKNOWN: Mapping[str, tuple[str, int, str]] = {
    "instance": (
        "InvalidInstanceID.NotFound",
        400,
        "The instance ID '{}' does not exist",
    ),
    "group": (
        "InvalidGroup.NotFound",
        400,
        "The security group '{}' does not exist",
    ),
    "key": ("InvalidKeyPair.NotFound", 400, "The key pair '{}' does not exist"),
    "template": (
        "InvalidLaunchTemplateId.NotFound",
        400,
        "The specified launch template, with template ID {}, does not exist.",
    ),
    "template name": (
        "InvalidLaunchTemplateName.NotFoundException",
        400,
        "The specified launch template, with template name {}, does not exist.",
    ),
    "bucket": ("NoSuchBucket", 404, "The specified bucket does not exist"),
    "queue": (
        "AWS.SimpleQueueService.NonExistentQueue",
        400,
        "The specified queue does not exist.",
    ),
}
# The last part of a parameter's name -> the kind of resource that it names.
_PARAMETERS = {
    "InstanceId": "instance",
    "ResourceId": "instance",
    "GroupId": "group",
    "SecurityGroupId": "group",
    "KeyName": "key",
    "LaunchTemplateId": "template",
    "LaunchTemplateName": "template name",
}
_OWN = {"ImportKeyPair", "CreateKeyPair", "CreateLaunchTemplate", "CreateTags"}
_SQS_TARGET = re.compile(r"/([\w.-]+)$")


@dataclass(frozen=True)
class Request:
    """An API call with its parameters; JSON's are flat, S3's are bucket and key."""

    call: Call
    region: str
    parameters: Mapping[str, str]

    @property
    def changes(self) -> bool:
        return not self.call.action.startswith(READS)

    @property
    def is_launch(self) -> bool:
        return self.call.service == "ec2" and self.call.action in LAUNCHES


def read(environ: WSGIEnvironment) -> Request:
    """Return a request; its body can be read again.

    The body of an S3 object is not read: it may be large, and is no parameter.
    """
    # Imported here, as botocore would delay the server's start.
    from cnd.local.api import actions

    call = actions.call_of(environ)
    query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
    if call.service == "s3":
        bucket, _, key = environ.get("PATH_INFO", "").lstrip("/").partition("/")
        query |= {"Bucket": bucket, "Key": key}
    elif call.is_json:
        query |= flat(actions.read_body(environ))
    else:
        body = actions.read_body(environ).decode(errors="replace")
        query |= dict(parse_qsl(body, keep_blank_values=True))
    return Request(call, _region(environ), query)


def flat(body: bytes) -> dict[str, str]:
    try:
        document = json.loads(body or b"{}")
    except ValueError:
        return {}
    return {name: str(value) for name, value in dict(document).items()}


def _region(environ: WSGIEnvironment) -> str:
    # AWS4-HMAC-SHA256 Credential=KEY/DATE/REGION/SERVICE/aws4_request, ...
    signed = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2]
    parts = signed.split(",")[0].split("/")
    return parts[2] if len(parts) > 2 else ""


def named(request: Request) -> Iterator[tuple[str, str]]:
    """Yield (kind, name) of the resources without which a request fails."""
    call, parameters = request.call, request.parameters
    if call.service == "s3" and parameters.get("Bucket"):
        if call.action != "CreateBucket":
            yield "bucket", parameters["Bucket"]
    elif call.service == "sqs":
        if queue := _queue(parameters):
            yield "queue", queue
        elif call.action == "GetQueueUrl":
            yield "queue", parameters.get("QueueName", "")
    elif call.service == "ec2":
        yield from _of_ec2(call.action, parameters)


def _queue(parameters: Mapping[str, str]) -> str:
    url = parameters.get("QueueUrl", "")
    found = _SQS_TARGET.search(url)
    return found[1] if found else ""


def _of_ec2(action: str, parameters: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, value in parameters.items():
        if name.startswith(("Filter.", "LaunchTemplateData.", "TagSpecification.")):
            continue  # a filter finds nothing; a template is not checked
        parts = [part for part in name.split(".") if not part.isdecimal()]
        kind = _PARAMETERS.get(parts[-1]) if parts else None
        if kind is None or (action in _OWN and kind != "instance"):
            continue
        yield kind, value


def made(request: Request, reply: bytes) -> Iterator[tuple[str, str]]:
    """Yield (kind, name) of the resources that a request has made.

    Instances are not among them: they may come of fleets and Auto Scaling groups too.
    """
    action, parameters = request.call.action, request.parameters
    if action == "CreateSecurityGroup":
        yield from (("group", found) for found in _texts(reply, "groupId"))
    elif action in ("ImportKeyPair", "CreateKeyPair"):
        yield "key", parameters.get("KeyName", "")
    elif action == "CreateLaunchTemplate":
        yield "template name", parameters.get("LaunchTemplateName", "")
        yield from (("template", found) for found in _texts(reply, "launchTemplateId"))
    elif action == "CreateTags":
        yield from (("tag", name) for name in _tags(parameters))
    elif request.call.name == "s3:CreateBucket":
        yield "bucket", parameters["Bucket"]
    elif request.call.name == "sqs:CreateQueue":
        yield "queue", parameters.get("QueueName", "")


def group_size(request: Request) -> tuple[str, ...]:
    """Return the size that a request gives an Auto Scaling group; empty: none."""
    names = ("MinSize", "MaxSize", "DesiredCapacity")
    found = tuple(request.parameters.get(name, "") for name in names)
    return found if any(found) and request.call.action in SIZING else ()


def _texts(reply: bytes, tag: str) -> list[str]:
    pattern = rf"<{tag}>([^<]+)</{tag}>"
    return sorted(set(re.findall(pattern, reply.decode(errors="replace"))))


def _tags(parameters: Mapping[str, str]) -> Iterator[str]:
    """Yield "RESOURCE/KEY" for each tag of CreateTags."""
    of = [value for name, value in parameters.items() if name.startswith("ResourceId")]
    for name, key in parameters.items():
        if re.fullmatch(r"Tag\.\d+\.Key", name):
            yield from (f"{resource}/{key}" for resource in of)
