"""User data must not change the machine that the local cloud runs on."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnd.local.host.paths import OWN_FOLDERS, in_tree, map_paths

TREE = "/home/dev/state/hosts/i-1"
PROGRAMS = ("systemctl", "shutdown", "logger")


def mapped(text: str) -> str:
    return map_paths(text, TREE, PROGRAMS).replace(TREE, "TREE")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat /etc/hostname", "cat TREE/etc/hostname"),
        ("mkdir -p /run/systemd/system", "mkdir -p TREE/run/systemd/system"),
        ("echo x >/tmp/a;rm /tmp/a", "echo x >TREE/tmp/a;rm TREE/tmp/a"),
        ("ls '/var/log' \"/opt\"", "ls 'TREE/var/log' \"TREE/opt\""),
        ("dd if=/dev/zero of=/srv/x", "dd if=/dev/zero of=TREE/srv/x"),
        ("tar -C/opt -xf a", "tar -CTREE/opt -xf a"),
        ("PATH=/opt/a:/opt/b", "PATH=TREE/opt/a:TREE/opt/b"),
        ("rm -rf /tmp/* /var/*/x", "rm -rf TREE/tmp/* TREE/var/*/x"),
        ("cat //etc///passwd", "cat TREE/etc/passwd"),
        ("cat /usr/../etc/x /./run/y", "cat TREE/etc/x TREE/run/y"),
        ("cat /proc/self/root/etc/x", "cat TREE/etc/x"),
        ("${X:-/etc/a} ${Y:=/run/b}", "${X:-TREE/etc/a} ${Y:=TREE/run/b}"),
        ("cd ~root; cd ~ubuntu/x", "cd TREE/root; cd TREE/home/ubuntu/x"),
        ("/usr/bin/systemctl poweroff", "TREE/bin/systemctl poweroff"),
        ("/sbin/shutdown -P now", "TREE/bin/shutdown -P now"),
        ("ExecStart=/bin/systemctl halt", "ExecStart=TREE/bin/systemctl halt"),
        ("ls /opt/", "ls TREE/opt/"),
        ("curl file:///etc/x -d @/etc/y", "curl file:TREE/etc/x -d @TREE/etc/y"),
    ],
)
def test_a_path_of_the_hosts_own_lies_in_its_tree(text: str, expected: str) -> None:
    assert mapped(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "/bin/sh -c true",
        "/usr/bin/python3 -V",
        "echo >/dev/null </proc/uptime",
        "cat ./etc/x ../run/y a/tmp/b",
        'cp "$HOME"/run/x ${D}/var/y $Z/opt',
        "curl https://etc/run http://host/etc/passwd",
        "ls /etcetera /runner /varnish",
        "cd ~; echo a~b",
        "sed s/var/opt/",
    ],
)
def test_a_shared_path_is_not_rewritten(text: str) -> None:
    assert mapped(text) == text


def test_a_path_that_is_in_the_tree_already_stays() -> None:
    once = map_paths("cat /etc/a /usr/sbin/shutdown", TREE, PROGRAMS)

    assert map_paths(once, TREE, PROGRAMS) == once


SEPARATORS = st.sampled_from([" ", ";", ">", "<", "|", "&", "(", "'", '"', "=", "\n"])
PATHS = st.builds(
    lambda slashes, folder, rest: "/" * slashes + folder + rest,
    st.integers(1, 3),
    st.sampled_from(OWN_FOLDERS),
    st.sampled_from(["", "/", "/x", "/x/../y", "/./z", "//w"]),
)
WORDS = st.one_of(PATHS, st.sampled_from(["rm", "-rf", "a/b", "/bin/sh", "é"]))


@given(st.lists(st.tuples(WORDS, SEPARATORS), max_size=12))
def test_no_command_keeps_a_path_of_the_real_machine(
    parts: list[tuple[str, str]],
) -> None:
    result = map_paths("".join(a + b for a, b in parts), TREE, PROGRAMS)

    outside = result.replace(TREE, "TREE")
    own = "|".join(OWN_FOLDERS)
    assert not re.findall(rf"(?<!TREE)(?<![\w/.-])/+(?:{own})(?![\w.+@%-])", outside)


@given(st.text(max_size=60))
def test_mapping_twice_is_mapping_once(text: str) -> None:
    once = map_paths(text, TREE, PROGRAMS)

    assert map_paths(once, TREE, PROGRAMS) == once


@given(st.text(alphabet="./ab", max_size=20))
def test_a_file_of_user_data_cannot_leave_the_tree(path: str) -> None:
    assert (in_tree(path, TREE) + "/").startswith(TREE + "/")
    assert "/../" not in in_tree(path, TREE) + "/"
