"""What the weather leaves out of answers, and how it cuts them into pages."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from cnd.local.api.weather import replies

HEAD = f'<DescribeInstancesResponse xmlns="{replies.NAMESPACE}"><reservationSet>'
TAIL = "</reservationSet></DescribeInstancesResponse>"


def listed(*reservations: tuple[str, ...]) -> bytes:
    """Return the answer of DescribeInstances with these ids in each reservation."""
    items = [
        "<item><instancesSet>"
        + "".join(
            f"<item><instanceId>{name}</instanceId><tagSet><item><key>a</key></item>"
            f"<item><key>b</key></item></tagSet></item>"
            for name in names
        )
        + "</instancesSet></item>"
        for names in reservations
    ]
    return (HEAD + "".join(items) + TAIL).encode()


def ids(reply: bytes) -> list[str]:
    return re.findall("<instanceId>(.*?)</instanceId>", reply.decode())


def test_what_is_not_known_is_not_listed() -> None:
    reply = listed(("i-1", "i-2"), ("i-3",))

    left = replies.without_unknown(
        "DescribeInstances", reply, lambda kind, name: name in ("i-1", "i-3", "i-2/b")
    )

    assert ids(left) == ["i-2"]
    assert left.count(b"<instancesSet>") == 1  # no reservation is empty
    assert b"<key>a</key>" in left and b"<key>b</key>" not in left


def test_answers_of_other_actions_stay_as_they_are() -> None:
    reply = listed(("i-1",))

    assert replies.without_unknown("RunInstances", reply, lambda *_: True) is reply


FLEETS = st.lists(st.integers(1, 4), max_size=4)


@given(FLEETS, st.integers(1, 3), st.sampled_from(["", "missing", "twice"]))
def test_pages_have_each_instance_once_but_for_one(
    sizes: list[int], most: int, fault: str
) -> None:
    numbers = iter(range(100))
    groups = [tuple(f"i-{next(numbers)}" for _ in range(size)) for size in sizes]
    everything = [name for group in groups for name in group]

    pages = replies.pages(listed(*groups), most, fault)

    found = [name for page in pages for name in ids(page)]
    wanted = {"": 0, "missing": -1, "twice": 1}[fault if len(pages) > 1 else ""]
    assert len(found) == len(everything) + wanted
    assert set(found) <= set(everything)
    assert all(len(ids(page)) <= most + (fault == "twice") for page in pages)


def test_a_page_names_the_next_one() -> None:
    page = replies.with_token(listed(("i-1",)), "page-2")

    assert replies.has_token(page)
    assert not replies.has_token(listed(("i-1",)))


def test_a_repeated_fleet_is_answered_without_its_instances() -> None:
    reply = (
        f'<CreateFleetResponse xmlns="{replies.NAMESPACE}"><fleetId>f</fleetId>'
        "<fleetInstanceSet><item/></fleetInstanceSet></CreateFleetResponse>"
    ).encode()

    left = replies.without_instances(reply)

    assert b"fleetId" in left and b"fleetInstanceSet" not in left
