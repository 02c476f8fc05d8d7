"""Which rights a call needs, and the layer that refuses what the policy lacks.

One rule: a call is an action on resources in a context, as the Service Authorization
Reference lists them; `cnd.local.policy` judges them.  A dry run is judged as the call
itself; moto then answers DryRunOperation.

https://docs.aws.amazon.com/service-authorization/latest/reference/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from cnd.local.api.weather import requests
from cnd.local.api.weather.requests import Request
from cnd.local.policy import Need, Policy, refused

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

ACCOUNT = "123456789012"  # moto's
FREE = ("sts:GetCallerIdentity",)  # "No permissions are required"
# Call -> right, where the names differ.
RIGHTS = {
    "s3:HeadBucket": "s3:ListBucket",
    "s3:ListObjects": "s3:ListBucket",
    "s3:ListObjectsV2": "s3:ListBucket",
    "s3:HeadObject": "s3:GetObject",
    "s3:DeleteObjects": "s3:DeleteObject",
    "s3:ListBuckets": "s3:ListAllMyBuckets",
    "s3:PutPublicAccessBlock": "s3:PutBucketPublicAccessBlock",
    "s3:PutBucketLifecycleConfiguration": "s3:PutLifecycleConfiguration",
    "s3:GetBucketLifecycleConfiguration": "s3:GetLifecycleConfiguration",
}
# The beginning of an id -> the type of the resource, as in an ARN.
TYPES = {
    "i-": "instance",
    "sg-": "security-group",
    "subnet-": "subnet",
    "vol-": "volume",
    "lt-": "launch-template",
    "key-": "key-pair",
    "vpc-": "vpc",
}
# Action of EC2 -> the parameter that names what it changes.
TARGETS = {
    "TerminateInstances": "InstanceId",
    "StopInstances": "InstanceId",
    "DeleteSecurityGroup": "GroupId",
    "AuthorizeSecurityGroupIngress": "GroupId",
    "RevokeSecurityGroupIngress": "GroupId",
    "DeleteKeyPair": "KeyName",
    "DeleteLaunchTemplate": "LaunchTemplateName",
    "CreateTags": "ResourceId",
}
# Action of EC2 that tags what it makes -> the type of that.
MADE = {
    "CreateFleet": "fleet",
    "CreateLaunchTemplate": "launch-template",
    "CreateSecurityGroup": "security-group",
    "ImportKeyPair": "key-pair",
}
# Service -> the code and the HTTP status of a refusal.
REFUSALS = {
    "ec2": ("UnauthorizedOperation", 403),
    "ssm": ("AccessDeniedException", 400),
}
REFUSAL = ("AccessDenied", 403)


class Look(Protocol):
    """What a cloud knows of the resources that a call names."""

    def identity(self, region: str, name: str) -> str:
        """Return the id of a key pair or a launch template by its name, or ""."""

    def tags(self, region: str, identity: str) -> Mapping[str, str]: ...

    def template(self, region: str, name: str) -> Mapping[str, Any]:
        """Return the data of a launch template, by its name or id."""


@dataclass(frozen=True)
class Launch:
    """What an instance is launched with, as far as a policy can ask for it."""

    tokens: str  # "required", "optional"
    instance_type: str
    tags: Mapping[str, str]
    image: str = ""
    subnet: str = ""
    groups: tuple[str, ...] = ()
    key: str = ""


def needs(request: Request, look: Look) -> list[Need]:
    """Return every authorization that a call needs."""
    if request.call.name in FREE:
        return []
    region = {"aws:requestedregion": [request.region]} if request.region else {}
    return [
        replace(need, context={**need.context, **region})
        for need in _needs(request, look)
    ]


def _needs(request: Request, look: Look) -> Iterator[Need]:
    if request.call.service == "ec2":
        yield from _of_ec2(request, look)
    elif request.call.service == "autoscaling":
        yield from _of_auto_scaling(request, look)
    else:
        # S3's signed form has no action of its own.
        name = request.call.name if request.call.action else "s3:PutObject"
        yield Need(RIGHTS.get(name, name), _resource(request))
        yield from _tags_of_queue(request)


def _resource(request: Request) -> str:
    """Return the ARN of what a call to S3, SQS or SSM is for."""
    service, parameters = request.call.service, request.parameters
    if service == "s3":
        bucket, key = parameters.get("Bucket", ""), parameters.get("Key", "")
        if request.call.action in ("DeleteObjects", ""):
            key = "*"
        return f"arn:aws:s3:::{bucket}" + (f"/{key}" if key else "")
    if service == "sqs" and request.call.action != "ListQueues":
        name = parameters.get("QueueName") or parameters.get("QueueUrl", "")
        queue = name.rpartition("/")[2]
        return f"arn:aws:sqs:{request.region}:{ACCOUNT}:{queue}"
    if service == "ssm" and (name := parameters.get("Name", "")):
        owner = "" if name.startswith("/aws/") else ACCOUNT
        return f"arn:aws:ssm:{request.region}:{owner}:parameter/{name.lstrip('/')}"
    return "*"


def _tags_of_queue(request: Request) -> Iterator[Need]:
    if request.call.name == "sqs:CreateQueue" and "tags" in request.parameters:
        yield Need("sqs:TagQueue", _resource(request))


def _of_ec2(request: Request, look: Look) -> Iterator[Need]:
    action, parameters, region = request.call.action, request.parameters, request.region
    if action == "RunInstances":
        yield from _of_launch(_launch(request, look), region)
        return
    if action == "CreateFleet":
        yield Need("ec2:CreateFleet", _arn(region, "fleet", "*"))
        for data in _templates(parameters, region, look):
            yield from _of_launch(_templated(data), region)
    elif action in TARGETS:
        yield from _of_targets(request, look)
    else:
        yield Need(request.call.name, "*", _request_context(_tags(parameters)))
    if action != "CreateTags" and (tags := _tags(parameters)):
        context = _request_context(tags) | {"ec2:createaction": [action]}
        kind = MADE.get(action, "*")
        yield Need("ec2:CreateTags", _arn(region, kind, "*"), context)


def _of_targets(request: Request, look: Look) -> Iterator[Need]:
    """Yield a need for each existing resource that a call changes."""
    action, region = request.call.action, request.region
    wanted = TARGETS[action]
    given = {k: v for k, v in request.parameters.items() if k.startswith("Tag.")}
    context = _request_context(_pairs(given, "Tag."))
    for name, value in request.parameters.items():
        if name.partition(".")[0] != wanted:
            continue
        identity = look.identity(region, value) or value
        kind = next((t for b, t in TYPES.items() if identity.startswith(b)), "*")
        tags = look.tags(region, identity)
        of_resource = {f"aws:resourcetag/{k}".lower(): [v] for k, v in tags.items()}
        arn = _arn(region, kind, identity)
        yield Need(request.call.name, arn, context | of_resource)


def _of_launch(launch: Launch, region: str) -> Iterator[Need]:
    """Yield what RunInstances needs: each resource that it makes or uses."""
    run, tags = "ec2:RunInstances", _request_context(launch.tags)
    of_instance = tags | {
        "ec2:metadatahttptokens": [launch.tokens],
        "ec2:metadatahttpendpoint": ["enabled"],
        "ec2:instancetype": [launch.instance_type],
    }
    yield Need(run, _arn(region, "instance", "*"), of_instance)
    yield Need(run, _arn(region, "volume", "*"), tags)
    yield Need(run, _arn(region, "network-interface", "*"))
    yield Need(run, f"arn:aws:ec2:{region}::image/{launch.image or '*'}")
    yield Need(run, _arn(region, "subnet", launch.subnet or "*"))
    for group in launch.groups or ("*",):
        yield Need(run, _arn(region, "security-group", group))
    if launch.key:
        yield Need(run, _arn(region, "key-pair", launch.key))
    if launch.tags:
        context = tags | {"ec2:createaction": ["RunInstances"]}
        yield Need("ec2:CreateTags", _arn(region, "instance", "*"), context)


def _of_auto_scaling(request: Request, look: Look) -> Iterator[Need]:
    action, parameters, region = request.call.action, request.parameters, request.region
    group = parameters.get("AutoScalingGroupName", "")
    if action.startswith("Describe"):
        yield Need(request.call.name)
        return
    arn = (
        f"arn:aws:autoscaling:{region}:{ACCOUNT}:autoScalingGroup:*"
        f":autoScalingGroupName/{group}"
    )
    yield Need(request.call.name, arn)
    if action == "CreateAutoScalingGroup":
        if any(name.startswith("Tags.") for name in parameters):
            yield Need("autoscaling:CreateOrUpdateTags", arn)
        # "must have permissions to launch by this template"
        # https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-launch-template-permissions.html
        for data in _templates(parameters, region, look):
            yield from _of_launch(_templated(data), region)


def _templates(
    parameters: Mapping[str, str], region: str, look: Look
) -> list[Mapping[str, Any]]:
    """Return the data of the launch templates that a call names."""
    names = {
        value
        for name, value in parameters.items()
        if name.rpartition(".")[2] in ("LaunchTemplateName", "LaunchTemplateId")
    }
    return [look.template(region, name) for name in sorted(names)]


def _launch(request: Request, look: Look) -> Launch:
    """Return what RunInstances launches: its own parameters before its template's."""
    parameters = request.parameters
    found = [*_templates(parameters, request.region, look), {}]
    template = _templated(found[0])
    groups = [
        value
        for name, value in sorted(parameters.items())
        if "SecurityGroupId" in name.split(".")
    ]
    subnets = [v for k, v in parameters.items() if k.rpartition(".")[2] == "SubnetId"]
    return Launch(
        tokens=parameters.get("MetadataOptions.HttpTokens", template.tokens),
        instance_type=parameters.get("InstanceType", template.instance_type),
        tags=_tags(parameters) or template.tags,
        image=parameters.get("ImageId", template.image),
        subnet=subnets[0] if subnets else "",
        groups=tuple(groups) or template.groups,
        key=parameters.get("KeyName", template.key),
    )


def _templated(data: Mapping[str, Any]) -> Launch:
    specifications = data.get("TagSpecifications") or []
    tags = {
        tag["Key"]: str(tag.get("Value", ""))
        for specification in specifications
        for tag in specification.get("Tags", [])
    }
    groups: Sequence[str] = data.get("SecurityGroupIds") or []
    return Launch(
        tokens=(data.get("MetadataOptions") or {}).get("HttpTokens", "optional"),
        instance_type=str(data.get("InstanceType", "")),
        tags=tags,
        image=str(data.get("ImageId", "")),
        groups=tuple(groups),
        key=str(data.get("KeyName", "")),
    )


def _tags(parameters: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of a call's TagSpecifications, of all resources."""
    return _pairs(parameters, "TagSpecification.")


def _pairs(parameters: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {
        key: parameters.get(f"{name.removesuffix('Key')}Value", "")
        for name, key in parameters.items()
        if name.startswith(prefix) and name.endswith(".Key")
    }


def _request_context(tags: Mapping[str, str]) -> dict[str, list[str]]:
    if not tags:
        return {}
    found = {f"aws:requesttag/{key}".lower(): [value] for key, value in tags.items()}
    return found | {"aws:tagkeys": list(tags)}


def _arn(region: str, kind: str, name: str) -> str:
    return f"arn:aws:ec2:{region}:{ACCOUNT}:{kind}/{name}"


def message(need: Need, *, denied: bool) -> str:
    """Return AWS's sentence for a refusal."""
    why = (
        f"with an explicit deny for the {need.action} action"
        if denied
        else f"because no identity-based policy allows the {need.action} action"
    )
    return (
        f"You are not authorized to perform this operation. User: "
        f"arn:aws:sts::{ACCOUNT}:user/moto is not authorized to perform: "
        f"{need.action} on resource: {need.resource} {why}"
    )


def judged(
    policy: Policy, look: Look, refuse: Callable[..., Iterable[bytes]]
) -> Callable[[WSGIApplication], WSGIApplication]:
    """Return the layer that refuses what a policy does not grant; none without one.

    Args:
        refuse: answers with an error, as `middleware.refuse`.
    """

    def layer(application: WSGIApplication) -> WSGIApplication:
        if not policy:
            return application

        def asked(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
            # Imported here, as botocore would delay the server's start.
            from cnd.local.api import actions

            request = requests.read(environ)
            found = refused(policy, needs(request, look))
            if found is None:
                return application(environ, start)
            code, status = REFUSALS.get(request.call.service, REFUSAL)
            text = message(found[0], denied=found[1])
            answer = actions.error(request.call, code, text)
            return refuse(environ, start, status, answer)

        return asked

    return layer
