"""A block that looks like paths of a host is searched unchanged."""

from __future__ import annotations

import hashlib

from tests.fault.truth import Victim

BLOCK = "see /var/log/syslog, ~root, /usr/bin/systemctl and '{first}' $(id)"


def test_a_block_that_holds_paths_is_searched_without_ssh_too(
    terminal: Victim,
) -> None:
    by_s3 = ("--bootstrap", "user-data", "--n", "1", "--d", "3", "--t", "60")
    result = terminal.json("start", *by_s3, "--block", BLOCK)
    assert result["outcome"] == "found"
    first = hashlib.sha256(b"%d" % result["nonce"] + BLOCK.encode()).hexdigest()
    assert hashlib.sha256(first.encode()).hexdigest() == result["hash"]
    (run,) = terminal.runs()[-1:]
    # The system log that the agent reads is the host's, not that of this machine.
    assert "cloud-init" in (run / "logs" / "Instance0.log").read_text()
