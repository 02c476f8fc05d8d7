"""User data on a host of the local cloud has the same effect as on AWS."""

from __future__ import annotations

import base64
import gzip
import json
import time
from pathlib import Path
from typing import Any

import paramiko
import pytest

from cnd.provision import user_data
from tests.support.local_cloud import Host, LocalCloud, make_key
from tests.support.waiting import eventually

UNITS = "/run/systemd/system"


def cloud_config(**keys: Any) -> str:
    return "#cloud-config\n" + json.dumps(keys)


def lifetime(seconds: float, command: str = "systemctl poweroff") -> list[str]:
    """The timer as tested on a real boot: early, without D-Bus and logind."""
    return [
        f"mkdir -p {UNITS}",
        "printf '[Unit]\\nDefaultDependencies=no\\n[Timer]\\n"
        f"OnBootSec={seconds}\\nAccuracySec=1s\\n' >{UNITS}/cnd-lifetime.timer",
        "printf '[Unit]\\nDefaultDependencies=no\\n[Service]\\nType=oneshot\\n"
        f'ExecStart=%s\\n\' "{command}" >{UNITS}/cnd-lifetime.service',
        "timeout 20 systemctl daemon-reload",
        "timeout 20 systemctl start --no-block cnd-lifetime.timer",
    ]


@pytest.mark.parametrize(
    "command",
    [
        "systemctl poweroff",
        "/usr/bin/systemctl poweroff",
        "/bin/sh -c '/sbin/poweroff'",
    ],
)
def test_the_lifetime_timer_terminates_the_instance(
    cloud: LocalCloud, command: str
) -> None:
    launched = time.monotonic()
    host = cloud.host(
        UserData=cloud_config(bootcmd=lifetime(6, command)),
        InstanceInitiatedShutdownBehavior="terminate",
    )
    assert "cnd-lifetime.timer" in host.run("systemctl list-timers")[1]

    assert cloud.reaches(host.id, "terminated")

    assert time.monotonic() - launched >= 5.9
    reason = cloud.describe(host.id)["StateReason"]["Code"]
    assert reason == "Client.InstanceInitiatedShutdown"


def test_without_the_behaviour_terminate_the_instance_only_stops(
    cloud: LocalCloud,
) -> None:
    (instance,) = cloud.launch(UserData=cloud_config(bootcmd=lifetime(0.5)))

    assert cloud.reaches(instance, "stopped")
    cloud.ec2.terminate_instances(InstanceIds=[instance])


def test_a_timer_that_is_stopped_does_nothing(cloud: LocalCloud) -> None:
    host = cloud.host(UserData=cloud_config(bootcmd=lifetime(15)))
    assert host.run("systemctl is-active cnd-lifetime.timer") == (0, "active\n", "")

    assert host.run("sudo systemctl stop cnd-lifetime.timer")[0] == 0

    assert host.run("systemctl is-active cnd-lifetime.timer")[:2] == (3, "inactive\n")
    assert "0 timers" in host.run("systemctl list-timers")[1]
    cloud.ec2.terminate_instances(InstanceIds=[host.id])


def timers(host: Host) -> list[str]:
    """Return the names of the timers that are armed on a host."""
    lines = host.run("systemctl list-timers")[1].splitlines()
    return [line.split()[-1] for line in lines if "left" in line]


def test_a_timer_that_is_set_anew_replaces_the_others(cloud: LocalCloud) -> None:
    host = cloud.host(
        UserData=cloud_config(bootcmd=lifetime(600)),
        InstanceInitiatedShutdownBehavior="terminate",
    )
    for run, seconds in (("r1", 300), ("r2", 900)):
        status, _, complaints = host.run(user_data.rearming(seconds, run))
        assert (status, complaints) == (0, "")
        assert timers(host) == [f"cnd-lifetime-{run}.timer"]

    set_anew = time.monotonic()
    host.run(user_data.rearming(2, "r3"))

    assert cloud.reaches(host.id, "terminated")
    assert time.monotonic() - set_anew >= 1.9


@pytest.mark.parametrize("step", ["daemon-reload", "start", "is-active"])
def test_a_timer_that_cannot_be_set_anew_leaves_the_old_one(
    cloud: LocalCloud, step: str
) -> None:
    host = cloud.host(UserData=cloud_config(bootcmd=lifetime(600)))
    command = user_data.rearming(300, "r1").replace(step, "no-such-verb")
    assert host.run(command)[0] != 0
    assert "cnd-lifetime.timer" in timers(host)
    cloud.ec2.terminate_instances(InstanceIds=[host.id])


def test_systemctl_names_an_unknown_unit(host: Host) -> None:
    status, output, _ = host.run("systemctl start nothing.timer")

    assert status == 5
    assert output == "Failed to start nothing.timer: Unit nothing.timer not found.\n"


@pytest.mark.parametrize(
    "command",
    ["sudo shutdown -P now", "sudo poweroff", "systemctl poweroff", "shutdown -h 0"],
)
def test_a_power_off_inside_ends_the_instance(cloud: LocalCloud, command: str) -> None:
    host = cloud.host(InstanceInitiatedShutdownBehavior="terminate")

    with host.ssh() as client:
        client.exec_command(command)
        assert cloud.reaches(host.id, "terminated")


def test_a_shutdown_can_be_scheduled_and_cancelled(host: Host) -> None:
    assert host.run("sudo shutdown -P +10")[0] == 0
    assert host.logs("Power off scheduled in 600 s.")
    assert host.run("sudo shutdown -c")[0] == 0


def test_halt_does_not_power_off(cloud: LocalCloud) -> None:
    host = cloud.host(InstanceInitiatedShutdownBehavior="terminate")
    with host.ssh() as client:
        client.exec_command("sudo halt")
        assert host.logs("System halted.")

    with pytest.raises((OSError, paramiko.SSHException)), host.ssh():
        pass
    assert cloud.state(host.id) == "running"
    cloud.ec2.terminate_instances(InstanceIds=[host.id])


def test_in_bootcmd_shutdown_is_refused_and_systemd_run_hangs(
    cloud: LocalCloud,
) -> None:
    host = cloud.host(
        UserData=cloud_config(
            bootcmd=[
                "shutdown -P +5; echo shutdown $? >>/root/seen",
                "timeout 0.3 systemd-run --on-active=5 true; echo run $? >>/root/seen",
            ]
        )
    )

    assert (host.tree / "root/seen").read_text() == "shutdown 1\nrun 124\n"
    assert (
        "Failed to schedule"
        in (host.tree / "var/log/cloud-init-output.log").read_text()
    )
    cloud.ec2.terminate_instances(InstanceIds=[host.id])


def test_the_steps_run_in_the_order_of_a_real_boot(cloud: LocalCloud) -> None:
    host = cloud.host(
        UserData=cloud_config(
            bootcmd=[
                "echo boot >>/root/order",
                ["sh", "-c", "echo 'a b' >>/root/order"],
            ],
            write_files=[
                {"path": "/etc/x/y", "content": "late", "permissions": "0600"},
                {
                    "path": "/opt/go",
                    "content": "#!/bin/sh\necho /opt/me",
                    "permissions": "0755",
                },
            ],
            runcmd=["cat /etc/x/y >>/root/order; /opt/go >>/root/order"],
            packages=["vim"],
        )
    )

    assert host.run("cloud-init status --wait")[1] == "status: done\n"
    order = (host.tree / "root/order").read_text()
    assert order == f"boot\na b\nlate{host.tree}/opt/me\n"
    log = host.syslog()
    assert "bootcmd: exit status 0" in log
    assert "Unknown key ignored: packages" in log
    cloud.ec2.terminate_instances(InstanceIds=[host.id])


def test_a_script_runs_as_root_when_the_host_is_up(cloud: LocalCloud) -> None:
    host = cloud.host(UserData="#!/bin/sh\necho $USER $HOME >/root/who; exit 3\n")

    assert host.logs("user script: exit status 3")
    assert (host.tree / "root/who").read_text() == f"root {host.tree}/root\n"
    cloud.ec2.terminate_instances(InstanceIds=[host.id])


@pytest.mark.parametrize(
    "user_data",
    ["#cloud-config\n{ no: [yaml", "\x00\x01 not text", "#cloud-config\n[1]"],
)
def test_a_host_boots_whatever_its_user_data_is(
    cloud: LocalCloud, user_data: str
) -> None:
    host = cloud.host(UserData=user_data)

    assert "[WARNING]" in host.syslog()
    cloud.ec2.terminate_instances(InstanceIds=[host.id])


def test_the_host_shows_the_key_that_user_data_gave_it(
    cloud: LocalCloud, tmp_path: Path
) -> None:
    make_key(tmp_path / "host")
    private = (tmp_path / "host").read_text()
    public = (tmp_path / "host.pub").read_text()
    host = cloud.host(
        UserData=cloud_config(
            ssh_keys={"ed25519_private": private, "ed25519_public": public}
        )
    )

    with paramiko.Transport((host.address, host.port)) as transport:
        transport.start_client(timeout=60)
        shown = transport.get_remote_server_key()

    assert shown.get_base64() == public.split()[1]
    known = (cloud.endpoint.folder / "known_hosts").read_text()
    assert public in known
    cloud.ec2.terminate_instances(InstanceIds=[host.id])


def test_further_keys_may_log_in(cloud: LocalCloud, tmp_path: Path) -> None:
    other = tmp_path / "other"
    make_key(other)
    public = other.with_suffix(".pub").read_text()
    host = cloud.host(UserData=cloud_config(ssh_authorized_keys=[public]))

    with_other_key = Host(LocalCloud(cloud.endpoint, other), host.id, host.description)

    assert with_other_key.run("echo hi")[1] == "hi\n"
    cloud.ec2.terminate_instances(InstanceIds=[host.id])


def test_user_data_touches_nothing_of_the_machine(cloud: LocalCloud) -> None:
    name = f"cnd-test-{time.monotonic_ns()}"
    places = ("/etc", "/run", "/tmp", "/var/tmp", "/opt", "/root", "/home", "/srv")
    host = cloud.host(
        UserData=cloud_config(
            bootcmd=[f"mkdir -p {place}; echo x >{place}/{name}" for place in places],
            write_files=[{"path": f"{p}/{name}-file", "content": "x"} for p in places],
        )
    )

    for place in places:
        assert (host.tree / place.lstrip("/") / name).exists()
        assert (host.tree / place.lstrip("/") / f"{name}-file").exists()
        assert not Path(place, name).exists()
        assert not Path(place, f"{name}-file").exists()
    cloud.ec2.terminate_instances(InstanceIds=[host.id])
    assert eventually(lambda: not host.tree.exists())


def test_encoded_content_is_written_byte_by_byte(cloud: LocalCloud) -> None:
    """A path in a block, or in a program, is not rewritten."""
    content = '{"block": "see /var/log/syslog ~ubuntu/x", "is": "/usr/bin/systemctl"}'
    plain = base64.b64encode(content.encode()).decode()
    packed = base64.b64encode(gzip.compress(content.encode())).decode()
    host = cloud.host(
        UserData=cloud_config(
            write_files=[
                {"path": "/opt/a", "content": plain, "encoding": "b64"},
                {"path": "/opt/b", "content": packed, "encoding": "gz+b64"},
                {"path": "/opt/text", "content": "cat /var/log/syslog"},
            ]
        )
    )
    assert (host.tree / "opt/a").read_text() == content
    assert (host.tree / "opt/b").read_text() == content
    text = (host.tree / "opt/text").read_text()
    assert text == f"cat {host.tree}/var/log/syslog"
    cloud.ec2.terminate_instances(InstanceIds=[host.id])
