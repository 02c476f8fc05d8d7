"""The local cloud's settings, and values derived from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnd.errors import UsageError
from cnd.local import settings
from cnd.local.api.host_manager import cores, known_hosts_text, ssh_config_text
from cnd.local.host.wire import HostSpec
from cnd.local.settings import Delay, Patience, Settings
from cnd.provision import termination
from cnd.transport import orphans


def spec(port: int) -> HostSpec:
    return HostSpec(
        "i-1", "127.64.0.1", port, "ubuntu", "", "", (), 0.0, "/hosts/i-1", "/hosts/bin"
    )


def test_nothing_set_means_no_delay_and_fifteen_minutes() -> None:
    assert settings.read({}) == Settings(Delay(0, 0), Delay(0, 0), 900)


def test_a_delay_is_a_number_or_a_range() -> None:
    read = settings.read(
        {"CND_LOCAL_BOOT_SECONDS": "20-30", "CND_LOCAL_API_SECONDS": "0.5"}
    )

    assert (read.boot, read.api) == (Delay(20, 30), Delay(0.5, 0.5))
    assert 20 <= read.boot.draw() <= 30


@pytest.mark.parametrize("value", ["soon", "30-20", "-1", "nan", "inf", "1-", "1-2-3"])
def test_a_bad_delay_is_refused_by_name(value: str) -> None:
    with pytest.raises(UsageError, match="CND_LOCAL_BOOT_SECONDS"):
        settings.read({"CND_LOCAL_BOOT_SECONDS": value})


def test_a_run_waits_as_on_aws_unless_set_otherwise() -> None:
    assert settings.patience({}) == Patience(None, None, None)
    given = {
        "CND_LOCAL_ORPHAN_SECONDS": "8",
        "CND_LOCAL_REFUSED_SECONDS": "0.5",
        "CND_LOCAL_LISTED_SECONDS": "0",
    }
    assert settings.patience(given) == Patience(orphan=8, refused=0.5, listed=0)
    with pytest.raises(UsageError, match="CND_LOCAL_ORPHAN_SECONDS"):
        settings.patience({"CND_LOCAL_ORPHAN_SECONDS": "soon"})
    assert orphans.PATIENCE == termination.REFUSED_PATIENCE == 30.0  # as in the README


def test_cores_are_taken_in_rotation() -> None:
    assert [cores([0, 1, 2], 2, number) for number in range(3)] == [
        (0, 1),
        (2, 0),
        (1, 2),
    ]


def test_a_host_has_at_most_the_cores_of_the_machine() -> None:
    assert sorted(cores([0, 1], 8, 1)) == [0, 1]


def test_a_host_key_is_known_by_address_and_port() -> None:
    assert known_hosts_text([(spec(22), "K")]) == "127.64.0.1 K\n"
    assert known_hosts_text([(spec(2222), "K")]) == "[127.64.0.1]:2222 K\n"


def test_the_ssh_configuration_knows_hosts_by_address_and_by_id() -> None:
    text = ssh_config_text([(spec(2222), "K")], Path("/s/known_hosts"))

    assert "Host 127.64.0.1 i-1\n" in text
    assert "Port 2222\n" in text
    assert "StrictHostKeyChecking yes" in text
