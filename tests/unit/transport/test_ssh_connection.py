"""How often a host is asked that refuses the key, and one without an address."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from cnd.errors import HostError
from cnd.transport.ssh import Host
from cnd.transport.ssh_connection import Login, login_retries

# OpenSSH 9.8: seconds for each refused key, and how many add up until the whole machine
# is refused.  https://man.openbsd.org/sshd_config, PerSourcePenalties
REFUSAL, LEAST = 5.0, 15.0


def test_a_host_that_refuses_the_key_never_has_a_reason_to_refuse_the_machine() -> None:
    now = until = 0.0
    retries = login_retries()
    for _ in range(1000):
        until = max(until, now) + REFUSAL
        assert until - now < LEAST
        now += next(retries)


def test_a_key_that_is_written_late_is_accepted_soon_after() -> None:
    """cloud-init may write it a moment after sshd has begun to answer."""
    retries = login_retries()
    assert next(retries) <= 1.0
    assert max(next(retries) for _ in range(100)) <= 6.0


def test_a_host_without_an_address_fails_at_once() -> None:
    """An empty one would lead to this machine."""
    login = Login("ubuntu", Path("no-key"), "ssh-ed25519 AAAA")
    host = Host("Instance0", "", login)
    with pytest.raises(HostError, match="Instance0: runs, but AWS gave it no address"):
        host.connect(lambda: math.inf)
    assert not host.answered
