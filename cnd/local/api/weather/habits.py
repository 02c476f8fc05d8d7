"""What each habit does, when, and for how long: pure decisions with their sources.

One rule: a decision is a function of the seed, of what it is about (the number of a
resource or a call) and of an age; no clock, no state.  So the same seed decides the
same, whatever the order of the threads.

Times are in seconds.  Bounds are those that AWS documents, or else those that users
report; how often something happens is chosen, so that a run meets most habits.
"""

from __future__ import annotations

import hashlib
import math

# --- unknown
# What was just created may be unknown to the next calls: InvalidInstanceID.NotFound,
# InvalidGroup.NotFound; AWS advises to repeat them for minutes.
# https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html
# Reported: boto/boto3#2556 and hashicorp/terraform-provider-aws#8029 (instances, at
# once after the launch), hashicorp/packer#3627 and jtriley/StarCluster#413 (security
# groups, one call after another that knew it).
UNKNOWN_SECONDS = 5.0
LATE_RESOURCES = 0.6  # the share that some calls do not know
LATE_LOOKS = 0.6  # the share of those calls
# A queue can be used a second after it is created.
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_CreateQueue.html
QUEUE_SECONDS = 1.0

# --- address
# A public address is assigned at some time from the launch on; no state promises it.
# Reported, after "running": ClusterHQ/flocker#2237, ansible-community/molecule-ec2#74.
ADDRESS_SECONDS = (0.2, 4.0)
LATE_ADDRESSES = 0.6  # of the instances
PRIVATE_SECONDS = (0.1, 1.5)
LATE_PRIVATE = 0.1

# --- pages
# A page may hold fewer items than asked for, and a list in pages is no snapshot.
# https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-pagination.html
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/Query-Requests.html#api-pagination
MOST_OF_PAGE = 3  # instances
SHORT_PAGES = 0.5  # of the lists
MISSING = 0.05  # of the lists with more pages: an instance stands on none
TWICE = 0.1  # of them: an instance stands on two

# --- forget
# Tags are gradually disassociated from a terminated instance; it is listed for about an
# hour, or shorter.
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/how-ec2-instance-termination-works.html
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_TerminateInstances.html
TAGS_SECONDS = (0.5, 30.0)  # after the end
LISTED_SECONDS = (30.0, 3600.0)

# --- shutdown
# The operating system's own shutdown comes first, unless the caller skips it
# (SkipOsShutdown): minutes.
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-terminate-methods.html
# Reported: aws/karpenter-provider-aws#7019 (five minutes and more, g4dn),
# hashicorp/terraform#5807 (more than ten, i2.4xlarge).
SHUTDOWN_SECONDS = (60.0, 360.0)
SLOW_SHUTDOWNS = 0.04

# --- queues
# The deletion takes up to 60 seconds, in which requests may succeed.
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_DeleteQueue.html
QUEUE_END_SECONDS = (1.0, 60.0)

# --- buckets
# The name of a deleted bucket is not free at once: OperationAborted, for up to an hour.
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/delete-bucket.html
# Reported: aws/aws-cli#2593 (an hour), ansible/workshops#1471.
BUCKET_SECONDS = (2.0, 3600.0)

# --- groups
# DeleteAutoScalingGroup answers ScalingActivityInProgress or ResourceInUse.
# https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_DeleteAutoScalingGroup.html
# Reported: hashicorp/terraform#1840 (retried for five minutes), ansible/ansible#46124.
BUSY_SECONDS = (0.0, 20.0)  # after it got another size
BUSY_GROUPS = 0.5

# --- errors
# InternalError, Unavailable, ServiceUnavailable, SlowDown: such a request may have had
# its effect, so that it is repeated with the same client token.
# https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-idempotency.html
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
ERRORS = 0.01  # of the calls
ERRORS_WITH_EFFECT = 0.3  # of these

# --- timeout
# A request whose answer is not awaited may have had its effect, as above.  A client of
# botocore waits 60 s, unless it is told otherwise.
# https://botocore.amazonaws.com/v1/documentation/api/latest/reference/config.html
TIMEOUTS = 0.002  # of the calls that change something
LAUNCH_TIMEOUTS = 0.05  # of RunInstances and CreateFleet
LATE_SECONDS = (35.0, 65.0)


def draw(seed: int, *about: object) -> float:
    """Return a number in [0, 1): always the same for the same arguments."""
    text = "/".join(map(str, (seed, *about))).encode()
    digest = hashlib.blake2b(text, digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


def between(bounds: tuple[float, float], share: float) -> float:
    """Return the value at `share` of an interval, 0 to 1."""
    low, high = bounds
    return low + (high - low) * share


def skewed(bounds: tuple[float, float], share: float) -> float:
    """Return the same on a logarithmic scale: mostly short, seldom very long."""
    low, high = bounds
    return low * math.exp(math.log(high / low) * share)


def is_unknown(seed: int, kind: str, number: int, look: int, age: float) -> bool:
    """Tell whether a call does not know a resource yet.

    Args:
        kind: "instance", "group" ...; a queue is known after `QUEUE_SECONDS`.
        number: of the resource, in the order in which the cloud made them.
        look: how many calls have asked for this resource before.
        age: of the resource.
    """
    if draw(seed, "late", kind, number) >= LATE_RESOURCES:
        return False
    most = QUEUE_SECONDS if kind == "queue" else UNKNOWN_SECONDS
    if age >= most * draw(seed, "known", kind, number):
        return False
    return draw(seed, "look", kind, number, look) < LATE_LOOKS


def public_address_after(seed: int, number: int) -> float:
    """Return how long after it runs an instance shows its public address."""
    if draw(seed, "address", number) >= LATE_ADDRESSES:
        return 0.0
    return between(ADDRESS_SECONDS, draw(seed, "address seconds", number))


def private_address_after(seed: int, number: int) -> float:
    if draw(seed, "private", number) >= LATE_PRIVATE:
        return 0.0
    return between(PRIVATE_SECONDS, draw(seed, "private seconds", number))


def page_size(seed: int, call: int) -> int | None:
    """Return how many instances a page has, None: all."""
    if draw(seed, "page", call) >= SHORT_PAGES:
        return None
    return 1 + int(MOST_OF_PAGE * draw(seed, "page size", call))


def page_fault(seed: int, call: int) -> str:
    """Return what is wrong with the second page of a list: "missing", "twice" or ""."""
    share = draw(seed, "page fault", call)
    return "missing" if share < MISSING else "twice" if share < MISSING + TWICE else ""


def loses_tags_after(seed: int, number: int) -> float:
    """Return how long a terminated instance keeps its tags."""
    return skewed(TAGS_SECONDS, draw(seed, "tags", number))


def listed_for(seed: int, number: int) -> float:
    """Return how long a terminated instance is listed."""
    return skewed(LISTED_SECONDS, draw(seed, "listed", number))


def shutdown_seconds(seed: int, number: int) -> float:
    """Return how long an instance is shutting down; mostly not at all."""
    if draw(seed, "slow shutdown", number) >= SLOW_SHUTDOWNS:
        return 0.0
    return between(SHUTDOWN_SECONDS, draw(seed, "shutdown", number))


def queue_end_seconds(seed: int, number: int) -> float:
    """Return how long a deleted queue goes on to answer."""
    return between(QUEUE_END_SECONDS, draw(seed, "queue end", number))


def bucket_seconds(seed: int, number: int) -> float:
    """Return how long the name of a removed bucket cannot be used again."""
    return skewed(BUCKET_SECONDS, draw(seed, "bucket", number))


def is_busy(seed: int, number: int, age: float) -> bool:
    """Tell whether an Auto Scaling group refuses to be deleted.

    Args:
        number: of the group.
        age: since it got another size.
    """
    if draw(seed, "busy", number) >= BUSY_GROUPS:
        return False
    return age < between(BUSY_SECONDS, draw(seed, "busy seconds", number))


def error(seed: int, call: int) -> str:
    """Return how a call fails: "before" its effect, "after" it, or "" for not."""
    if draw(seed, "error", call) >= ERRORS:
        return ""
    after = draw(seed, "effect", call) < ERRORS_WITH_EFFECT
    return "after" if after else "before"


def late_by(seed: int, call: int, *, is_launch: bool) -> float:
    """Return how late the answer to a call that changes something comes."""
    share = LAUNCH_TIMEOUTS if is_launch else TIMEOUTS
    if draw(seed, "timeout", call) >= share:
        return 0.0
    return between(LATE_SECONDS, draw(seed, "late by", call))
