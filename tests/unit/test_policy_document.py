"""What docs/aws.md says of its policy: its size, its partitions, its optional parts."""

from __future__ import annotations

import json
import re

import botocore.session
import pytest

from tests.support.aws import ROOT, documents, optional, policy

TEXT = " ".join((ROOT / "docs" / "aws.md").read_text().split())
# Characters without white space that IAM takes.  Source:
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
INLINE_OF_USER, INLINE_OF_GROUP, MANAGED = 2048, 5120, 6144
# An instant EC2 Fleet needs no role of its own.  Source:
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-fleet-prerequisites.html
SERVICES = {
    "autoscaling.amazonaws.com": "--hold",
    "spot.amazonaws.com": "--spot",
}


def size(statements: list[dict[str, object]]) -> int:
    """Return the characters of a policy as IAM counts them."""
    document = {"Version": "2012-10-17", "Statement": statements}
    return len(re.sub(r"\s", "", json.dumps(document)))


def test_the_policy_fits_where_the_document_says_it_does() -> None:
    for statements in (policy(), [*policy(), *optional()]):
        assert INLINE_OF_USER < size(statements) <= INLINE_OF_GROUP
    assert f"inline policy of a user takes {INLINE_OF_USER:,}" in TEXT
    assert f"of a group {INLINE_OF_GROUP:,}" in TEXT
    assert f"a managed policy {MANAGED:,}" in TEXT


@pytest.mark.parametrize("partition", ["aws-cn", "aws-us-gov"])
def test_in_another_partition_only_the_beginning_of_names_differs(
    partition: str,
) -> None:
    assert partition in botocore.session.get_session().get_available_partitions()
    assert f"`arn:{partition}:`" in TEXT
    text = json.dumps(documents()).replace("arn:aws:", f"arn:{partition}:")
    names = re.findall(r'"(arn:[^"]*)"', text)
    assert names
    assert all(name.startswith(f"arn:{partition}:") for name in names)


def test_the_optional_statement_creates_no_role_but_of_these_services() -> None:
    (roles,) = (each for each in optional() if "iam:" in each["Action"][0])
    assert roles["Action"] == ["iam:CreateServiceLinkedRole"]
    named = roles["Condition"]["StringEquals"]["iam:AWSServiceName"]
    assert set(named) == SERVICES.keys()
    for option in SERVICES.values():
        assert f"`{option}`" in TEXT


def test_a_bucket_of_the_users_own_is_named_twice_for_itself_and_its_objects() -> None:
    (own,) = (each for each in optional() if each["Sid"] == "OwnBucket")
    bucket, objects = own["Resource"]
    assert objects == f"{bucket}/*"
