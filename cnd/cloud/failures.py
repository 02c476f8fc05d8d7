"""AWS's failures as errors of CND: the one translation for every boto3 call.

One rule: no module above this one catches a botocore exception.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    NoCredentialsError,
    ProxyConnectionError,
    SSLError,
)

from cnd.cloud.credentials import CredentialFailure
from cnd.cloud.replies import UNREADABLE, excerpt
from cnd.errors import CapacityError, CloudError, CndError

LOGIN = "run `aws configure`, or use `--cloud local`, which needs no account"
FEWER = "ask for fewer instances (--n), another --instance-type or --region"
ELSEWHERE = "another --instance-type or --region"
QUOTA = "ask for fewer instances (--n), or for a higher quota in Service Quotas"
POLICY = "this account lacks the right; docs/aws.md has the policy that CND needs"
NETWORK = "this region has no default VPC: run `aws ec2 create-default-vpc`"
SPOT_ROLE = (
    "this account has never used spot: its administrator runs "
    "`aws iam create-service-linked-role --aws-service-name spot.amazonaws.com` once"
)
UNKNOWN = (
    "it was deleted meanwhile, or AWS does not know it yet: try again, what is missing "
    "is created"
)
TYPE = "check --instance-type, or another --region"
FREE = (
    "this account has AWS's free plan: --instance-type t3.micro or t4g.micro, "
    "or upgrade the account to the paid plan"
)
AGAIN = "start again: a new run is a new request"
UNREACHED = "check the network, --region, AWS_ENDPOINT_URL and HTTPS_PROXY"
PROXY = "check HTTP_PROXY and HTTPS_PROXY; NO_PROXY names hosts that need none"
TLS = "check AWS_CA_BUNDLE, and ca_bundle in ~/.aws/config: a file of certificates"
PORTAL = "a proxy, or a network that wants a login first, may answer instead of AWS"
# AWS lists a new instance late, and a terminated one for about an hour.
LISTED_WITHIN = 20.0  # seconds from its launch
LATER = "AWS is throttling this account: try again in a minute"

# Why a call fails before AWS answers, and what the user can do.
WAYS_OUT: tuple[tuple[type[Exception], str], ...] = (
    (SSLError, TLS),
    (ProxyConnectionError, PROXY),
    (ConnectionError, UNREACHED),
    (HTTPClientError, UNREACHED),
)

# Codes of ours, and of EC2, for refusals whose own code is that of much else.
FREE_PLAN = "NotInFreePlan"
UNKNOWN_TEMPLATE = "InvalidLaunchTemplateName.NotFoundException"
# AWS's code, and what its message then contains -> the code that is meant.
# https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/free-tier-plans.html
# https://docs.aws.amazon.com/autoscaling/ec2/userguide/ts-as-launch-template.html
MEANT = {
    ("InvalidParameterCombination", "not eligible for free tier"): FREE_PLAN,
    ("ValidationError", "launch template"): UNKNOWN_TEMPLATE,
}

# AWS error code -> (our error, what the user can do).
# Codes: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
KNOWN: dict[str, tuple[type[CloudError], str]] = {
    "InsufficientInstanceCapacity": (CapacityError, FEWER),
    "UnfulfillableCapacity": (CapacityError, FEWER),
    "InstanceLimitExceeded": (CapacityError, QUOTA),
    "MaxSpotInstanceCountExceeded": (CapacityError, QUOTA),
    "VcpuLimitExceeded": (CapacityError, QUOTA),
    "SpotMaxPriceTooLow": (CapacityError, "--spot-or-on-demand, or another type"),
    "AuthFailure.ServiceLinkedRoleCreationNotPermitted": (CloudError, SPOT_ROLE),
    "InvalidInstanceType": (CloudError, TYPE),
    "InvalidInstanceType.NotFound": (CloudError, TYPE),
    "Unsupported": (CapacityError, "try another --instance-type or --region"),
    "InvalidParameterValue": (CloudError, "check --instance-type and --region"),
    "RequestLimitExceeded": (CloudError, LATER),
    "Throttling": (CloudError, LATER),
    "ThrottlingException": (CloudError, LATER),
    "IdempotentInstanceTerminated": (CloudError, AGAIN),
    "IdempotentParameterMismatch": (CloudError, AGAIN),
    "QueueDeletedRecently": (CloudError, "SQS keeps a name for a minute: try again"),
    "AWS.SimpleQueueService.QueueDeletedRecently": (
        CloudError,
        "SQS keeps a name for a minute: try again",
    ),
    "UnauthorizedOperation": (CloudError, POLICY),
    "AccessDenied": (CloudError, POLICY),
    "AccessDeniedException": (CloudError, POLICY),
    "AuthFailure": (CloudError, LOGIN),
    "ExpiredToken": (CloudError, "these credentials have expired: log in again"),
    "RequestExpired": (CloudError, "check this machine's clock, or log in again"),
    "SignatureDoesNotMatch": (
        CloudError,
        "check this machine's clock, and the secret key for a typing error",
    ),
    "InvalidClientTokenId": (CloudError, LOGIN),
    "UnrecognizedClientException": (CloudError, LOGIN),
    "OptInRequired": (CloudError, "this account is not signed up for that service"),
    "InvalidAMIID.NotFound": (CloudError, "AMI ids differ by region: check --region"),
    "InvalidKeyPair.NotFound": (CloudError, UNKNOWN),
    "DependencyViolation": (CloudError, "something still uses it: later, or elsewhere"),
    "InvalidGroup.NotFound": (CloudError, UNKNOWN),
    "InvalidSecurityGroupID.NotFound": (CloudError, UNKNOWN),
    "InvalidSubnetID.NotFound": (CloudError, "check --subnet and --region"),
    FREE_PLAN: (CapacityError, FREE),
    "VPCIdNotSpecified": (CloudError, NETWORK),
    "MissingInput": (CloudError, NETWORK),
    UNREADABLE: (CloudError, PORTAL),
}


@contextmanager
def translated(action: str) -> Iterator[None]:
    """Re-raise whatever a call to AWS, or reading its reply, raises as a `CloudError`.

    The block holds only the call and the code that takes values out of the reply, so
    that the cloud is the cause of every exception in it.  `action` completes the
    sentence "could not ...".  The original exception stays attached as ``__cause__``.
    """
    try:
        yield
    except CndError:
        raise  # it is translated already
    except Exception as error:  # of any kind: a library may raise anything
        raise _failure(action, error) from error


def _failure(action: str, error: Exception) -> CloudError:
    if isinstance(error, NoCredentialsError):
        return CloudError(f"could not {action}: no AWS credentials", hint=LOGIN)
    if isinstance(error, CredentialFailure):
        return CloudError(f"could not {action}: {error}", hint=error.hint)
    if isinstance(error, ClientError):
        kind, hint = KNOWN.get(code(error), (CloudError, None))
        return kind(f"could not {action}: {_message(error)}", hint=hint)
    if isinstance(error, BotoCoreError):
        hint = next((hint for kind, hint in WAYS_OUT if isinstance(error, kind)), None)
        told = str(error).partition("\n")[0]
        return CloudError(f"could not {action}: {told}", hint=hint)
    what = f"{type(error).__name__}: {excerpt(error)}"
    return CloudError(
        f"could not {action}: what came is no reply ({what})", hint=PORTAL
    )


def _message(error: ClientError) -> str:
    """Return AWS's message and code of an error, or else the HTTP status."""
    detail = error.response.get("Error") or {}
    text = " ".join(str(detail.get("Message") or "").split())
    name = str(detail.get("Code") or "")
    if name:
        return f"{text or name} ({name})"
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return text or f"HTTP status {status or 'unknown'}, without a message"


def refusal(action: str, name: str, message: str) -> CloudError:
    """Return the failure that a reply reports in its body, as `translated` would."""
    reply: Any = {"Error": {"Code": name, "Message": message}}
    try:
        with translated(action):
            raise ClientError(reply, "")
    except CloudError as error:
        return error


def code(error: BaseException | None) -> str:
    """Return AWS's error code of a failure or of what caused it, or an empty string."""
    while error is not None:
        if isinstance(error, CredentialFailure) and error.code:
            return error.code
        if isinstance(error, ClientError):
            return _code(error.response.get("Error") or {})
        error = error.__cause__
    return ""


def _code(error: Mapping[str, Any]) -> str:
    """Return the code in a reply, or the one that is meant: see `MEANT`."""
    name, message = str(error.get("Code") or ""), str(error.get("Message") or "")
    text = message.lower()
    meant = (to for (of, part), to in MEANT.items() if name == of and part in text)
    return next(meant, name)
