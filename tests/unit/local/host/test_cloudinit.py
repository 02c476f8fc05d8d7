"""User data: its effect on a host, which boots whatever it contains."""

from __future__ import annotations

import base64
import gzip
import json

from hypothesis import given
from hypothesis import strategies as st

from cnd.local.host import cloudinit
from cnd.local.host.cloudinit import File, UserData


def parse(text: str) -> UserData:
    return cloudinit.parse(base64.b64encode(text.encode()).decode())


def test_no_user_data_means_nothing_to_do() -> None:
    assert cloudinit.parse("") == UserData()


def test_a_script_runs_last() -> None:
    assert parse("#!/bin/sh\necho hi\n").script == "#!/bin/sh\necho hi\n"


def test_gzip_is_unpacked() -> None:
    packed = base64.b64encode(gzip.compress(b"#!/bin/sh\n")).decode()

    assert cloudinit.parse(packed).script == "#!/bin/sh\n"


def test_cloud_config_may_be_json() -> None:
    config = {"bootcmd": ["a", ["b", "c d"]], "runcmd": [["e"]]}

    plan = parse("#cloud-config\n" + json.dumps(config))

    assert plan.bootcmd == "#!/bin/sh\na\nb 'c d'\n"
    assert plan.runcmd == "#!/bin/sh\ne\n"


def test_files_are_decoded() -> None:
    plan = parse(
        "#cloud-config\nwrite_files:\n"
        "- {path: /etc/a, content: hello, permissions: '0755'}\n"
        "- {path: /etc/b, content: aGVsbG8=, encoding: b64, append: true}\n"
    )

    assert plan.files == (
        File("/etc/a", b"hello", 0o755, False),
        File("/etc/b", b"hello", 0o644, True, encoded=True),
    )


def test_keys_are_taken() -> None:
    plan = parse(
        "#cloud-config\nssh_keys: {ed25519_private: PRIVATE, ed25519_public: PUBLIC}\n"
        "ssh_authorized_keys: [ssh-ed25519 AAAA]\n"
    )

    assert (plan.host_key, plan.authorized_keys) == ("PRIVATE", ("ssh-ed25519 AAAA",))


def test_unknown_parts_are_logged_and_the_rest_is_done() -> None:
    plan = parse("#cloud-config\npackages: [vim]\nruncmd: oops\nbootcmd: [a]\n")

    assert plan.bootcmd == "#!/bin/sh\na\n"
    assert len(plan.remarks) == 2
    assert "packages" in plan.remarks[1]


def test_broken_yaml_is_logged() -> None:
    (remark,) = parse("#cloud-config\n{ no: [yaml\n").remarks

    assert "yaml" in remark


@given(st.one_of(st.binary(max_size=80), st.text(max_size=80).map(str.encode)))
def test_no_user_data_can_fail_a_boot(raw: bytes) -> None:
    for prefix in (b"", b"#cloud-config\n", b"\x1f\x8b"):
        cloudinit.parse(base64.b64encode(prefix + raw).decode())
