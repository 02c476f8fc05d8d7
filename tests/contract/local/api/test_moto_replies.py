"""moto's replies, written with less computing: every byte stays."""

from __future__ import annotations

from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import pytest
import xmltodict  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from moto.core.serialize import (
    EC2Serializer,
    ResponseSerializer,
    XFormedAttributePicker,
    never_return,
)
from moto.core.utils import get_service_model

from cnd.local.api.moto_replies import Picker, picking, unparse

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
LEAVES = st.one_of(
    TEXTS,
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.binary(max_size=4),
    st.just(datetime(2026, 1, 2, tzinfo=timezone.utc)),
)
NAMES = st.sampled_from(
    ["item", "a", "x:y", "@id", "@xmlns", "#text", "#comment", "a b", "", "<", "?xml"]
)
TREES = st.recursive(
    LEAVES,
    lambda each: st.one_of(
        st.lists(each, max_size=3),
        st.tuples(each),
        st.dictionaries(NAMES, each, max_size=4),
    ),
    max_leaves=12,
)


def written(write: Any, value: Any, whole: bool) -> str:
    """Return the text, or the error."""
    options = {"full_document": whole, "short_empty_elements": True, "pretty": False}
    try:
        return str(write(value, **options))
    except (ValueError, TypeError, AttributeError) as error:
        return repr(error)


@given(st.dictionaries(NAMES, TREES, max_size=2), st.booleans())
def test_any_value_is_written_as_xmltodict_writes_it(value: Any, whole: bool) -> None:
    assert written(unparse, value, whole) == written(xmltodict.unparse, value, whole)


def test_what_moto_asks_for_in_another_form_is_written_in_that_form() -> None:
    value = {"a": {"b": [1, 2]}}
    for options in ({}, {"pretty": True}, {"short_empty_elements": False}):
        assert unparse(value, **options) == xmltodict.unparse(value, **options)


class Instance:
    """An object as moto has them: attributes in Python's spelling, an alias."""

    class Meta:
        serialization_aliases = {"KeyName": "key.name"}  # noqa: RUF012

    def __init__(self, number: int) -> None:
        self.id = f"i-{number} & <co>"
        self.instance_type = "c5.large"
        self.key = {"name": "mine"}
        self.ami_launch_index = number
        self.ebs_optimized = "true"
        self.launch_time = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
        self.image_id = None
        self.state = {"Name": "running", "code": 16}
        self.placement = SimpleNamespace(availability_zone="us-east-1a", tenancy="")
        self.tags = [{"key": "a", "value": '"x"'}, {"Key": "b", "Value": None}]
        self.private_ip_address = "secret"


def reply(serializer: type[EC2Serializer], picker: type[XFormedAttributePicker]) -> Any:
    hidden = {"Instance.PrivateIpAddress": never_return, "State.Name": str.upper}
    model = get_service_model("ec2").operation_model("DescribeInstances")
    instances = [Instance(0), Instance(1), {"InstanceId": "i-2", "tags": []}]
    result = {"Reservations": [{"reservation_id": "r-1", "Instances": instances}]}
    pick = picker(response_transformers=hidden)
    return serializer(model, value_picker=pick).serialize(result)


class Quick(EC2Serializer):
    get_value = picking(ResponseSerializer.get_value)  # type: ignore[assignment]


@pytest.fixture(scope="module")
def plain() -> Any:
    return reply(EC2Serializer, XFormedAttributePicker)


def test_a_reply_is_the_same_however_its_values_are_found(plain: Any) -> None:
    assert "i-0 &amp; &lt;co&gt;" in plain["body"]
    assert "<keyName>mine</keyName>" in plain["body"]
    assert "RUNNING" in plain["body"]
    for _ in range(2):  # the second time all places are known
        assert reply(Quick, Picker) == plain


def test_a_serializer_with_another_picker_finds_values_as_before(plain: Any) -> None:
    assert reply(Quick, XFormedAttributePicker) == plain
