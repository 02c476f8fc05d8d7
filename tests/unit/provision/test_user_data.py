"""User data: the lifetime timer comes first, and nothing in it can block a boot."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from cnd.provision import user_data
from cnd.transport import keys


@pytest.fixture(scope="module")
def data() -> str:
    return user_data.user_data(lifetime=620.0, host_key=keys.generate())


def test_user_data_is_cloud_config_in_yaml(data: str) -> None:
    assert data.startswith("#cloud-config\n")
    assert yaml.safe_load(data) == json.loads(data.partition("\n")[2])


def test_the_timer_is_armed_before_anything_else(data: str) -> None:
    config = yaml.safe_load(data)
    assert next(iter(config)) == "bootcmd"
    assert any("OnBootSec=620\\n" in command for command in config["bootcmd"])


def test_no_command_can_block_the_boot(data: str) -> None:
    commands = yaml.safe_load(data)["bootcmd"]
    systemctl = [c for c in commands if "systemctl" in c and "printf" not in c]
    assert len(systemctl) == 2
    assert all(c.startswith("timeout 20 systemctl ") for c in systemctl)
    assert not any("systemd-run" in c or "shutdown" in c for c in commands)


def test_user_data_is_within_the_limit_of_ec2(data: str) -> None:
    assert len(data.encode()) < 16384


def test_the_units_are_written_as_systemd_reads_them(data: str, tmp_path: Path) -> None:
    """The same commands, run by a shell with another folder for the units."""
    for command in yaml.safe_load(data)["bootcmd"]:
        if "systemctl " not in command or "printf" in command:
            local = command.replace(user_data.UNITS, str(tmp_path))
            subprocess.run(["sh", "-c", local], check=True, timeout=10)
    timer = (tmp_path / "cnd-lifetime.timer").read_text()
    service = (tmp_path / "cnd-lifetime.service").read_text()
    assert "[Timer]\nOnBootSec=620\nAccuracySec=1s\n" in timer
    assert "\nExecStart=systemctl poweroff\n" in service
    for unit in (timer, service):
        assert unit.startswith("[Unit]\nDefaultDependencies=no\n")


@pytest.fixture(scope="module")
def of_unreached() -> str:
    """Of the second batch of instances without SSH."""
    boot = {"word": "https://example.com/?X-Amz-Signature=1", "report": {}}
    return user_data.numbered(
        user_data.without_ssh(lifetime=620.0, boot=boot, log="true"), 128
    )


@pytest.mark.skipif(not shutil.which("cloud-init"), reason="needs cloud-init")
@pytest.mark.parametrize("which", ["data", "of_unreached"])
def test_cloud_init_accepts_the_user_data(
    request: pytest.FixtureRequest, which: str, tmp_path: Path
) -> None:
    file = tmp_path / "user-data"
    file.write_text(request.getfixturevalue(which))
    done = subprocess.run(
        ["cloud-init", "schema", "--config-file", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
