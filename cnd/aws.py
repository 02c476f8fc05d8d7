"""AWS's failures in the words of CND: the one translation for every boto3 call.

One rule: nobody above this line catches a botocore exception.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
)
from botocore.parsers import ResponseParserError

from cnd.errors import CapacityError, CloudError

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
DELETED = "somebody deleted it just now: try again, it will be made anew"
TYPE = "check --instance-type, or another --region"
AGAIN = "start again: a new run is a new request"
REFRESHED_IN_VAIN = "refreshed credentials are still expired"
LATER = "AWS is throttling this account: try again in a minute"

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
        "check this machine's clock, and the secret key for a slip of the hand",
    ),
    "InvalidClientTokenId": (CloudError, LOGIN),
    "UnrecognizedClientException": (CloudError, LOGIN),
    "OptInRequired": (CloudError, "this account is not signed up for that service"),
    "InvalidAMIID.NotFound": (CloudError, "AMI ids differ by region: check --region"),
    "InvalidKeyPair.NotFound": (CloudError, DELETED),
    "DependencyViolation": (CloudError, "something still uses it: later, or elsewhere"),
    "InvalidGroup.NotFound": (CloudError, DELETED),
    "InvalidSubnetID.NotFound": (CloudError, "check --subnet and --region"),
    "VPCIdNotSpecified": (CloudError, NETWORK),
    "MissingInput": (CloudError, NETWORK),
}


@contextmanager
def translated(action: str) -> Iterator[None]:
    """Re-raise any AWS failure inside the block as a `CloudError`.

    `action` completes the sentence "could not ...".  The original exception stays
    attached as ``__cause__``.
    """
    try:
        with _expiry_named():
            yield
    except NoCredentialsError as error:
        message = f"could not {action}: no AWS credentials"
        raise CloudError(message, hint=LOGIN) from error
    except ClientError as error:
        detail = error.response.get("Error", {})
        kind, hint = KNOWN.get(code(error), (CloudError, None))
        reason = " ".join(detail.get("Message", "").split()) or code(error)
        message = f"could not {action}: {reason} ({code(error)})"
        raise kind(message, hint=hint) from error
    except (EndpointConnectionError, HTTPClientError) as error:
        hint = "check the network, --region and AWS_ENDPOINT_URL"
        raise CloudError(f"could not {action}: {error}", hint=hint) from error
    except (BotoCoreError, ResponseParserError) as error:
        first_line = str(error).partition("\n")[0]
        raise CloudError(f"could not {action}: {first_line}") from error


@contextmanager
def _expiry_named() -> Iterator[None]:
    """Give botocore's bare error for credentials that refresh into expired ones a name.

    https://github.com/boto/botocore/blob/develop/botocore/credentials.py
    """
    try:
        yield
    except RuntimeError as error:
        if REFRESHED_IN_VAIN not in str(error):
            raise
        told: Any = {"Error": {"Code": "ExpiredToken", "Message": str(error)}}
        raise ClientError(told, "") from error


def refusal(action: str, name: str, message: str) -> CloudError:
    """Return the failure that a reply tells of in its body, as `translated` would."""
    told: Any = {"Error": {"Code": name, "Message": message}}
    try:
        with translated(action):
            raise ClientError(told, "")
    except CloudError as error:
        return error


def code(error: BaseException | None) -> str:
    """Return AWS's error code of a failure or of its cause, or an empty string."""
    if isinstance(error, CloudError):
        error = error.__cause__
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", ""))
    return ""
