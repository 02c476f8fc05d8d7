"""Changes to EC2's answers: what is left out, and how a list is cut into pages.

One rule: pure functions from XML to XML; a part that is not changed stays as it is.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from copy import deepcopy

NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"
# The element that names the resource of an item -> its kind.
_NAMES = {
    "instanceId": "instance",
    "groupId": "group",
    "keyName": "key",
    "launchTemplateId": "template",
}
# Answers whose items are resources that may be unknown, and the name of each item.
LISTS = {
    "DescribeInstances": "instanceId",
    "DescribeInstanceStatus": "instanceId",
    "DescribeSecurityGroups": "groupId",
    "DescribeKeyPairs": "keyName",
    "DescribeLaunchTemplates": "launchTemplateId",
}

Unknown = Callable[[str, str], bool]  # (kind, name)


def without_unknown(action: str, reply: bytes, unknown: Unknown) -> bytes:
    """Return a list without the resources and tags that it does not know yet."""
    if action == "DescribeTags":
        return _without(reply, lambda item: _unknown_tag(item, unknown))
    if action not in LISTS:
        return reply
    name = LISTS[action]

    def is_gone(item: ET.Element) -> bool:
        found = _text(item, name)
        return bool(found) and unknown(_NAMES[name], found)

    changed = _without(reply, is_gone)
    if action == "DescribeInstances":
        changed = _without_new_tags(changed, unknown)
    return changed


def _unknown_tag(item: ET.Element, unknown: Unknown) -> bool:
    resource, key = _text(item, "resourceId"), _text(item, "key")
    return bool(resource) and (
        unknown("instance", resource) or unknown("tag", f"{resource}/{key}")
    )


def _without_new_tags(reply: bytes, unknown: Unknown) -> bytes:
    root = _parsed(reply)
    for instance in _items(root, "instancesSet"):
        name = _text(instance, "instanceId")
        for tags in _children(instance, "tagSet"):
            for item in list(tags):
                if unknown("tag", f"{name}/{_text(item, 'key')}"):
                    tags.remove(item)
    return _written(root)


def _without(reply: bytes, is_gone: Callable[[ET.Element], bool]) -> bytes:
    """Remove items, wherever they stand, and reservations that are empty then."""
    root = _parsed(reply)
    for parent in list(root.iter()):
        for item in list(parent):
            if _tag(item) == "item" and is_gone(item):
                parent.remove(item)
    _remove_empty_reservations(root)
    return _written(root)


def without_instances(reply: bytes) -> bytes:
    """Return the answer to CreateFleet without the instances of the fleet."""
    root = _parsed(reply)
    for element in _children(root, "fleetInstanceSet"):
        root.remove(element)
    return _written(root)


def pages(reply: bytes, size: int, fault: str) -> list[bytes]:
    """Cut the answer to DescribeInstances into pages of at most `size` instances.

    The pages carry no tokens yet: `with_token` adds them.

    Args:
        fault: "missing": the first instance of the second page stands on none;
            "twice": the last one of the first page stands on the second one too.
    """
    whole = _parsed(reply)
    order = [_text(item, "instanceId") for item in _items(whole, "instancesSet")]
    groups = [order[i : i + size] for i in range(0, len(order), size)]
    if len(groups) > 1 and fault == "missing":
        groups[1] = groups[1][1:]
    elif len(groups) > 1 and fault == "twice":
        groups[1] = [groups[0][-1], *groups[1]]
    return [_only(whole, set(group)) for group in groups] or [reply]


def with_token(reply: bytes, token: str) -> bytes:
    """Return an answer that names a next page."""
    root = _parsed(reply)
    for element in _children(root, "nextToken"):
        root.remove(element)
    ET.SubElement(root, f"{{{NAMESPACE}}}nextToken").text = token
    return _written(root)


def has_token(reply: bytes) -> bool:
    return bool(re.search(rb"<nextToken>[^<]", reply))


def _only(whole: ET.Element, wanted: set[str]) -> bytes:
    root = deepcopy(whole)
    for instances in _children_anywhere(root, "instancesSet"):
        for item in list(instances):
            if _text(item, "instanceId") not in wanted:
                instances.remove(item)
    _remove_empty_reservations(root)
    return _written(root)


def _remove_empty_reservations(root: ET.Element) -> None:
    for reservations in _children_anywhere(root, "reservationSet"):
        for item in list(reservations):
            if not any(len(each) for each in _children(item, "instancesSet")):
                reservations.remove(item)


def _parsed(reply: bytes) -> ET.Element:
    ET.register_namespace("", NAMESPACE)
    return ET.fromstring(reply)


def _written(root: ET.Element) -> bytes:
    written: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return written


def _tag(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _text(element: ET.Element, name: str) -> str:
    return next((child.text or "" for child in _children(element, name)), "")


def _children(element: ET.Element, name: str) -> list[ET.Element]:
    return [child for child in element if _tag(child) == name]


def _children_anywhere(root: ET.Element, name: str) -> list[ET.Element]:
    return [element for element in root.iter() if _tag(element) == name]


def _items(root: ET.Element, name: str) -> Iterator[ET.Element]:
    for parent in _children_anywhere(root, name):
        yield from parent
