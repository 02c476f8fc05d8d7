"""What an IAM policy allows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cnd.errors import UsageError
from cnd.local import policy
from cnd.local.policy import Need, Policy, refused

RUN = "ec2:RunInstances"
INSTANCE = "arn:aws:ec2:eu-west-2:123456789012:instance/i-1"
V2 = {"ec2:metadatahttptokens": ["required"]}


def allows(*statements: dict[str, Any], need: Need) -> bool:
    document = {"Version": "2012-10-17", "Statement": list(statements)}
    return refused(Policy("p", policy.parsed(document)), [need]) is None


def allow(action: str = "*", resource: str = "*", **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


def on(**conditions: Any) -> dict[str, Any]:
    return {"Condition": conditions}


def test_what_no_statement_allows_is_refused() -> None:
    assert allows(allow("ec2:Run*"), need=Need(RUN))
    assert allows(allow("EC2:runinstances"), need=Need(RUN))
    assert not allows(allow("ec2:Describe*"), need=Need(RUN))
    assert not allows(allow("s3:*"), need=Need(RUN))


def test_a_denial_counts_more_than_any_allowance() -> None:
    deny = {"Effect": "Deny", "Action": RUN, "Resource": "*"}

    assert not allows(allow(), deny, need=Need(RUN))
    assert allows(allow(), deny, need=Need("ec2:DescribeInstances"))


def test_resources_are_compared_with_wildcards() -> None:
    key = Need("s3:GetObject", "arn:aws:s3:::cnd-logs/run/log")

    assert allows(allow(resource="arn:aws:s3:::cnd-*"), need=key)
    assert not allows(allow(resource="arn:aws:s3:::cnd-logs"), need=key)
    assert allows(allow(resource="arn:aws:s3:::cnd-????/*"), need=key)


def test_all_but_what_is_named() -> None:
    but = {"Effect": "Allow", "NotAction": ["iam:*"], "NotResource": "arn:aws:s3:::x"}

    assert allows(but, need=Need(RUN))
    assert not allows(but, need=Need("iam:PassRole"))
    assert not allows(but, need=Need(RUN, "arn:aws:s3:::x"))


@pytest.mark.parametrize(
    ("operator", "wanted", "value", "holds"),
    [
        ("StringEquals", "a", "a", True),
        ("StringEquals", ["b", "a"], "a", True),
        ("StringEquals", "A", "a", False),
        ("StringEqualsIgnoreCase", "A", "a", True),
        ("StringNotEquals", "b", "a", True),
        ("StringNotEquals", ["b", "a"], "a", False),
        ("StringLike", "a*", "abc", True),
        ("StringLike", "a?", "abc", False),
        ("StringNotLike", "a*", "abc", False),
        ("Bool", True, "true", True),
        ("NumericLessThan", "3", "2", True),
        ("NumericLessThan", "3", "soon", False),
        ("NumericNotEquals", 3, "3", False),
        ("Null", "true", "a", False),
        ("Null", "false", "a", True),
    ],
)
def test_a_condition_compares_what_a_request_has(
    operator: str, wanted: Any, value: str, holds: bool
) -> None:
    statement = allow(**on(**{operator: {"aws:RequestTag/k": wanted}}))

    assert (
        allows(statement, need=Need(RUN, "*", {"aws:requesttag/k": [value]})) == holds
    )


@pytest.mark.parametrize(
    ("operator", "holds"),
    [
        ("StringEquals", False),
        ("StringLike", False),
        ("StringNotEquals", True),
        ("StringEqualsIfExists", True),
        ("ForAllValues:StringEquals", True),
        ("ForAnyValue:StringEquals", False),
    ],
)
def test_a_condition_on_what_a_request_lacks(operator: str, holds: bool) -> None:
    statement = allow(**on(**{operator: {"aws:ResourceTag/cnd": "1"}}))

    assert allows(statement, need=Need(RUN)) == holds


def test_a_condition_on_a_set_looks_at_each_value() -> None:
    keys = {"aws:tagkeys": ["cnd:index", "Name"]}
    need = Need("ec2:CreateTags", INSTANCE, keys)
    all_of = {"ForAllValues:StringEquals": {"aws:TagKeys": ["cnd:index"]}}
    any_of = {"ForAnyValue:StringEquals": {"aws:TagKeys": ["cnd:index"]}}

    assert not allows(allow(**on(**all_of)), need=need)
    assert allows(allow(**on(**any_of)), need=need)


def test_a_control_policy_that_requires_tokens_denies_a_launch_without() -> None:
    scp = {
        "Effect": "Deny",
        "Action": RUN,
        "Resource": "arn:aws:ec2:*:*:instance/*",
        **on(StringNotEquals={"ec2:MetadataHttpTokens": "required"}),
    }

    assert allows(allow(), scp, need=Need(RUN, INSTANCE, V2))
    assert not allows(allow(), scp, need=Need(RUN, INSTANCE))
    assert allows(allow(), scp, need=Need(RUN, INSTANCE.replace("instance", "volume")))


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("{", "Expecting"),
        ("[]", "Version"),
        ({"Version": "2012-10-17"}, "no Statement"),
        ({"Version": "2012-10-17", "Statement": [3]}, "an object"),
        ({"Version": "2012-10-17", "Statement": [{"Effect": "May"}]}, "Allow or Deny"),
        ({"Version": "2012-10-17", "Statement": [{**allow(), "Who": 1}]}, "'Who'"),
        (
            {
                "Version": "2012-10-17",
                "Statement": [{"Effect": "Allow", "Action": "*"}],
            },
            "Resource",
        ),
        (
            {
                "Version": "2012-10-17",
                "Statement": [allow(**on(DateLessThan={"aws:CurrentTime": "x"}))],
            },
            "DateLessThan",
        ),
    ],
)
def test_a_document_that_is_not_understood_is_refused(
    document: Any, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "policy.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))

    with pytest.raises(UsageError, match=reason):
        policy.read(str(path))


def test_a_policy_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        policy.read(str(tmp_path / "none.json"))
    assert not policy.read("")


def test_regions_can_be_denied_beside_a_policy() -> None:
    inside = Need(RUN, "*", {"aws:requestedregion": ["us-east-1"]})
    outside = Need(RUN, "*", {"aws:requestedregion": ["eu-west-2"]})
    limited = Policy().within(("us-east-1",))

    assert refused(limited, [inside]) is None
    assert refused(limited, [outside]) == (outside, True)
    assert not Policy().within(())
