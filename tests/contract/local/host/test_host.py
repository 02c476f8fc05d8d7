"""A host of the local cloud over SSH and SFTP: what CND and its users rely on."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
import time
from pathlib import Path

import fabric
import paramiko
import pytest
from paramiko.common import MSG_CHANNEL_DATA, MSG_IGNORE

from cnd.local.host import tree
from tests.support.local_cloud import Host, LocalCloud
from tests.support.processes import alive
from tests.support.waiting import SOON, eventually

ssh_program = pytest.mark.skipif(not shutil.which("ssh"), reason="needs ssh")


def test_a_command_has_its_output_its_errors_and_its_exit_status(host: Host) -> None:
    assert host.run("echo out; echo err >&2; exit 7") == (7, "out\n", "err\n")


def test_a_host_sends_no_packets_that_are_to_be_ignored(host: Host) -> None:
    with host.ssh() as client:
        transport = client.get_transport()
        assert transport
        kinds, read = [], transport.packetizer.read_message

        def reading() -> tuple[int, paramiko.Message]:
            kind, message = read()
            kinds.append(kind)
            return kind, message

        transport.packetizer.read_message = reading  # type: ignore[method-assign]
        _, output, _ = client.exec_command("echo out")
        assert output.read() == b"out\n"
    assert MSG_CHANNEL_DATA in kinds
    assert MSG_IGNORE not in kinds


def test_all_output_arrives_before_the_exit_status(host: Host) -> None:
    _, output, _ = host.run("head -c 3000000 /dev/zero")

    assert len(output) == 3_000_000


def test_a_command_starts_in_the_home_with_an_environment_of_the_hosts_own(
    host: Host,
) -> None:
    status, output, _ = host.run("pwd; env")

    folder, *lines = output.splitlines()
    variables = dict(line.split("=", 1) for line in lines)
    home = str(host.tree / "home/ubuntu")
    assert (status, folder) == (0, home)
    assert variables.pop("PATH").startswith(str(host.tree / "bin") + ":")
    assert variables.pop("AWS_EC2_METADATA_SERVICE_ENDPOINT").startswith("http://127.")
    assert {**variables, "PWD": home, "_": ""} == {
        "HOME": home,
        "LANG": "C.UTF-8",
        "LOGNAME": "ubuntu",
        "PWD": home,
        "SHELL": tree.SHELL,
        "TMPDIR": str(host.tree / "tmp"),
        "USER": "ubuntu",
        "_": "",
    }


def test_the_python_of_a_host_sees_none_of_the_clouds_packages(host: Host) -> None:
    status, output, errors = host.run(
        "python3 -c 'import sys; print(sys.prefix == sys.base_prefix, sys.path)'"
    )

    assert (status, errors) == (0, "")
    assert output.startswith("True ")
    assert str(Path(pytest.__file__).parent.parent) not in output


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
@pytest.mark.parametrize(("type", "vcpus"), [("t2.micro", 1), ("c5.4xlarge", 16)])
def test_a_host_has_at_most_the_vcpus_of_its_type(
    cloud: LocalCloud, type: str, vcpus: int
) -> None:
    host = cloud.host(InstanceType=type)

    _, output, _ = host.run(
        "python3 -c 'import os; print(len(os.sched_getaffinity(0)), os.nice(0))'"
    )

    cores = min(vcpus, len(os.sched_getaffinity(0)))
    assert output.split() == [str(cores), str(os.nice(0) + 5)]
    cloud.ec2.terminate_instances(InstanceIds=[host.id])


def test_sftp_and_the_shell_mean_the_same_by_a_relative_path(
    host: Host, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("hello\n")
    with host.ssh() as client, client.open_sftp() as sftp:
        sftp.put(str(tmp_path / "file"), "by-sftp")
        client.exec_command("echo by shell >by-shell")[1].channel.recv_exit_status()
        with sftp.open("by-shell") as file:
            content = file.read()

    assert host.run("cat by-sftp /home/ubuntu/by-sftp")[1] == "hello\nhello\n"
    assert content == b"by shell\n"


def test_fabric_works(host: Host, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("print(6 * 7)\n")
    with fabric.Connection(
        host.address,
        user="ubuntu",
        port=host.port,
        connect_kwargs={"key_filename": str(host.cloud.key)},
    ) as connection:
        connection.put(str(tmp_path / "script.py"), "script.py")
        result = connection.run("python3 script.py", hide=True, in_stream=False)
        connection.get("/var/log/syslog", str(tmp_path / "Instance0.log"))

    assert result.stdout == "42\n"
    assert "Accepted publickey for ubuntu" in (tmp_path / "Instance0.log").read_text()


def test_sftp_gets_this_hosts_syslog_and_nothing_of_the_machine(
    host: Host, tmp_path: Path
) -> None:
    outside = tmp_path / "secret"
    outside.write_text("secret")
    (host.tree / "home/ubuntu/link").symlink_to(outside)
    with host.ssh() as client, client.open_sftp() as sftp:
        assert b"Linux version" in sftp.open("/var/log/syslog").read()
        assert sftp.normalize(".") == "/home/ubuntu"
        for path in (str(outside), f"../../../../../..{outside}", "link"):
            with pytest.raises(OSError):
                sftp.open(path).read()


def test_absolute_paths_of_a_command_are_the_hosts_own(host: Host) -> None:
    _, output, _ = host.run("echo x >/tmp/only-here; cat /etc/hostname")

    assert output == "ip-" + host.address.replace(".", "-") + "\n"
    assert (host.tree / "tmp/only-here").exists()
    assert not Path("/tmp/only-here").exists()


def test_the_syslog_records_the_boot_and_logins(host: Host) -> None:
    host.run("true")

    log = host.syslog()
    name = "ip-" + host.address.replace(".", "-")
    assert f"{name} kernel: Linux version " in log
    assert "Accepted publickey for ubuntu from 127." in log
    assert "session opened for user ubuntu" in log
    assert host.logs("session closed for user ubuntu")
    assert stat.S_IMODE((host.tree / "var/log/syslog").stat().st_mode) == 0o640


def test_logger_writes_a_line_with_its_tag(host: Host) -> None:
    host.run("logger -t pow found 116; logger -p user.info -i -t pid x; logger -- -y")

    log = host.syslog()
    assert " pow: found 116\n" in log
    assert " ubuntu: -y\n" in log
    assert any(" pid[" in line and "]: x" in line for line in log.splitlines())


def test_logger_logs_each_line_of_its_input_at_once(host: Host) -> None:
    with host.ssh() as client:
        stdin, _, _ = client.exec_command("logger -t stream")
        for text in ("first", "second"):
            stdin.write(f"{text} line\n")
            stdin.flush()
            assert host.logs(f" stream: {text} line\n")


def test_input_lines_arrive_at_once(host: Host) -> None:
    with host.ssh() as client:
        stdin, stdout, _ = client.exec_command("while read w; do echo got $w; done")
        for word in ("a", "b"):
            stdin.write(word + "\n")
            stdin.flush()
            assert stdout.readline() == f"got {word}\n"
        stdin.channel.shutdown_write()
        assert stdout.channel.recv_exit_status() == 0


@pytest.mark.parametrize("how", ["channel", "connection", "reset"])
def test_a_dropped_client_ends_the_input_but_not_the_command(
    host: Host, how: str
) -> None:
    marker = host.tree / f"home/ubuntu/ended-{how}"
    with host.ssh() as client:
        stdin, stdout, _ = client.exec_command(
            f"echo ready; cat >/dev/null; sleep 0.1; touch {marker.name}"
        )
        assert stdout.readline() == "ready\n"
        assert not marker.exists()
        if how == "channel":
            stdin.channel.close()
            assert eventually(marker.exists)
        elif how == "reset":
            transport = client.get_transport()
            assert transport is not None
            transport.sock.close()
    assert eventually(marker.exists)


def test_a_follower_sees_what_is_appended_and_ends_with_its_input(host: Host) -> None:
    with host.ssh() as client:
        stdin, stdout, _ = client.exec_command(
            "echo one >events; tail -c +1 -f events & "
            "while read w; do echo $w >>events; done; kill $!"
        )
        assert stdout.readline() == "one\n"
        stdin.write("two\n")
        stdin.flush()
        assert stdout.readline() == "two\n"
        stdin.channel.shutdown_write()
        assert stdout.channel.recv_exit_status() == 0


def test_a_detached_process_does_not_keep_its_session_open(host: Host) -> None:
    started = time.monotonic()
    status, output, _ = host.run(
        "setsid sh -c 'sleep 600' </dev/null >/dev/null 2>&1 & echo $!"
    )

    assert status == 0
    assert time.monotonic() - started < SOON
    assert alive(int(output))


def test_a_command_that_a_signal_ended_has_no_exit_status(host: Host) -> None:
    assert host.run("kill -KILL $$")[0] == -1


def test_an_interactive_session_has_a_terminal(host: Host) -> None:
    with host.ssh() as client:
        _, stdout, _ = client.exec_command(
            "test -t 0 && stty size </dev/tty", get_pty=True
        )
        assert stdout.read().split() == [b"24", b"80"]


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_only_the_images_user_may_log_in(host: Host, user: str) -> None:
    with pytest.raises(paramiko.AuthenticationException), host.ssh(user):
        pass


def test_another_key_or_a_password_is_refused(host: Host) -> None:
    for attempt in (
        {"pkey": paramiko.ECDSAKey.generate()},
        {"password": "ubuntu"},
    ):
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        with pytest.raises(paramiko.SSHException), client:
            client.connect(
                host.address,
                host.port,
                "ubuntu",
                allow_agent=False,
                look_for_keys=False,
                **attempt,
            )


@pytest.mark.parametrize("name", ["curve25519-sha256", "curve25519-sha256@libssh.org"])
def test_both_names_of_curve25519_are_offered(host: Host, name: str) -> None:
    import asyncssh  # a tenth of a second of computing: here only

    async def negotiate() -> str:
        async with asyncssh.connect(
            host.address,
            host.port,
            username="ubuntu",
            client_keys=[str(host.cloud.key)],
            known_hosts=None,
            config=None,
            kex_algs=[name],
        ) as connection:
            return str((await connection.run("echo hi")).stdout)

    assert asyncio.run(negotiate()) == "hi\n"


@ssh_program
def test_the_ssh_program_needs_no_more_than_the_configuration(host: Host) -> None:
    config = str(host.cloud.endpoint.folder / "ssh_config")
    for name in (host.address, host.id):
        done = subprocess.run(
            ["ssh", "-F", config, "-i", str(host.cloud.key), name, "echo hi"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.stdout, done.returncode) == ("hi\n", 0), done.stderr


def copied(host: Host, *words: str) -> subprocess.CompletedProcess[str]:
    config = str(host.cloud.endpoint.folder / "ssh_config")
    return subprocess.run(
        ["scp", "-F", config, "-i", str(host.cloud.key), *words],
        capture_output=True,
        text=True,
        timeout=60,
    )


@ssh_program
@pytest.mark.parametrize("protocol", [[], ["-O"]])
def test_the_scp_program_copies_both_ways_and_reports_failures(
    host: Host, tmp_path: Path, protocol: list[str]
) -> None:
    (tmp_path / "there").write_text("hello\n")
    name = "".join(protocol) or "plain"
    done = copied(host, *protocol, str(tmp_path / "there"), f"{host.address}:{name}")
    assert done.returncode == 0, done.stderr
    done = copied(host, *protocol, f"{host.address}:{name}", str(tmp_path / "back"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "back").read_text() == "hello\n"
    done = copied(host, *protocol, f"{host.address}:none", str(tmp_path / "none"))
    assert done.returncode == 1


def test_a_file_cannot_be_opened_as_a_folder(host: Host) -> None:
    with host.ssh() as client, client.open_sftp() as sftp:
        with pytest.raises(OSError, match="Not a directory"):
            sftp.listdir("/var/log/syslog")
        with pytest.raises(FileNotFoundError):
            sftp.listdir("none")
        assert "syslog" in sftp.listdir("/var/log")


@pytest.mark.parametrize(
    "command",
    ["sudo systemctl is-active ssh", "sudo -n -E /usr/bin/systemctl is-active ssh"],
)
def test_sudo_runs_the_hosts_own_programs(host: Host, command: str) -> None:
    assert host.run(command)[:2] == (0, "active\n")


def test_sudo_drops_its_options(host: Host) -> None:
    assert host.run("sudo -n -u root -H X=1 sh -c 'echo $X'")[1] == "1\n"


def test_programs_that_would_change_the_machine_are_not_available(host: Host) -> None:
    status, _, errors = host.run("sudo apt-get install -y sl")

    assert (status, errors) == (
        1,
        "apt-get: not available on a host of the local cloud\n",
    )


def test_the_journal_is_the_syslog(host: Host) -> None:
    assert "Linux version" in host.run("journalctl -b")[1]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_termination_kills_every_process_also_the_detached(cloud: LocalCloud) -> None:
    host = cloud.host()
    _, output, _ = host.run(
        "for how in setsid nohup; do $how sh -c 'sleep 60 & echo $! >>pids; wait'"
        " </dev/null >/dev/null 2>&1 & done;"
        " touch pids; while [ $(wc -l <pids) -lt 2 ]; do sleep 0.05; done; cat pids"
    )
    pids = [int(word) for word in output.split()]
    assert len(pids) == 2 and all(map(alive, pids))

    cloud.ec2.terminate_instances(InstanceIds=[host.id])

    assert cloud.reaches(host.id, "terminated")
    assert not any(map(alive, pids))
    assert eventually(lambda: not host.tree.exists())
