"""The local cloud as a process: it starts once, outlives callers, ends completely."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
import types
import urllib.request
from pathlib import Path

import pytest

from cnd import local
from cnd.errors import CloudError, UsageError
from cnd.local import files
from tests.support.forking import begin_cloud
from tests.support.local_cloud import LocalCloud, environment, running_cloud
from tests.support.processes import alive, family
from tests.support.waiting import eventually

UP = "from cnd import local; print(local.up().url)"
proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


def test_no_cloud_runs_before_it_is_started(tmp_path: Path) -> None:
    with environment(tmp_path):
        assert local.status() is None
        assert local.down() is False


def test_a_second_up_starts_no_second_cloud(cloud: LocalCloud) -> None:
    with environment(cloud.endpoint.folder.parents[1]):
        assert local.up() == cloud.endpoint
        assert local.status() == cloud.endpoint


def test_concurrent_callers_start_exactly_one_cloud(tmp_path: Path) -> None:
    with environment(tmp_path):
        callers = [
            subprocess.Popen([sys.executable, "-c", UP], stdout=subprocess.PIPE)
            for _ in range(5)
        ]
        urls = {caller.communicate(timeout=60)[0] for caller in callers}
        assert len(urls) == 1
        assert local.down() is True


@proc
def test_it_outlives_its_caller_and_the_callers_terminal(tmp_path: Path) -> None:
    with environment(tmp_path):
        caller = subprocess.Popen(
            [sys.executable, "-c", UP + "; import time; time.sleep(60)"],
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert caller.stdout is not None
        caller.stdout.readline()
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGKILL):
            os.killpg(caller.pid, number)
        caller.communicate()

        endpoint = local.status()
        assert endpoint is not None
        assert local.down() is True
        assert not alive(endpoint.pid)


@proc
def test_down_leaves_no_process_and_no_tree_and_a_stale_record_is_no_cloud(
    tmp_path: Path,
) -> None:
    with running_cloud(tmp_path) as cloud:
        host = cloud.host()
        host.run("setsid sleep 60 </dev/null >/dev/null 2>&1 &")
        pids = [cloud.endpoint.pid, *family(cloud.endpoint.pid)]
        assert len(pids) >= 4
        record = cloud.endpoint.folder / "endpoint.json"
        stale = record.read_text()

        with environment(tmp_path):
            assert local.down() is True
            assert local.status() is None

            assert not any(map(alive, pids))
            assert not (cloud.endpoint.folder / "hosts").exists()
            assert not record.exists()

            record.write_text(stale)  # as left by a cloud that was killed
            assert local.status() is None
            assert local.down() is False


@proc
@pytest.mark.parametrize("victim", ["server", "fork server", "both"])
def test_no_host_outlives_a_killed_cloud(tmp_path: Path, victim: str) -> None:
    with running_cloud(tmp_path) as cloud:
        host = cloud.host()
        host.run("setsid sleep 60 </dev/null >/dev/null 2>&1 &")
        server = cloud.endpoint.pid
        pids = family(server)
        (fork_server,) = family(server)[:1]
        doomed = {"server": [server], "fork server": [fork_server]}
        for pid in doomed.get(victim, [fork_server, server]):
            os.kill(pid, signal.SIGKILL)

        assert eventually(lambda: not any(map(alive, pids)))
        with environment(tmp_path):
            assert eventually(lambda: local.status() is None)
            assert local.up(begin=begin_cloud).pid != server


@proc
def test_what_a_killed_host_leaves_behind_is_ended(tmp_path: Path) -> None:
    with running_cloud(tmp_path) as cloud:
        host = cloud.host()
        _, output, _ = host.run("setsid sleep 60 </dev/null >/dev/null 2>&1 & echo $!")
        (fork_server,) = family(cloud.endpoint.pid)[:1]
        host_pid, *_ = family(fork_server)

        os.kill(host_pid, signal.SIGKILL)

        assert cloud.reaches(host.id, "terminated")
        assert eventually(lambda: not alive(int(output)))
        reason = cloud.describe(host.id)["StateReason"]["Code"]
        assert reason == "Server.InternalError"


def test_two_clouds_run_side_by_side(tmp_path: Path) -> None:
    with (
        running_cloud(tmp_path / "a") as one,
        running_cloud(tmp_path / "b") as two,
    ):
        first, second = one.host(), two.host()
        assert first.address != second.address or first.port != second.port
        assert first.run("cat /etc/hostname; pwd") != second.run(
            "cat /etc/hostname; pwd"
        )
        with environment(tmp_path / "a"):
            local.down()
        assert second.run("echo here")[1] == "here\n"


def test_it_ends_by_itself_when_it_has_been_idle(tmp_path: Path) -> None:
    with running_cloud(tmp_path, CND_LOCAL_IDLE_SECONDS="5") as cloud:
        (instance,) = cloud.launch()
        assert cloud.reaches(instance, "running")
        time.sleep(5.5)  # longer than the limit: a live instance keeps it up
        with environment(tmp_path):
            assert local.status() is not None
            cloud.ec2.terminate_instances(InstanceIds=[instance])
            assert eventually(lambda: local.status() is None, every=0.2)
            assert eventually(
                lambda: not (cloud.endpoint.folder / "endpoint.json").exists()
            )


def test_a_failed_start_gives_the_reason(tmp_path: Path) -> None:
    with environment(tmp_path):
        assert local.status() is None
        (tmp_path / "cnd/local").mkdir(parents=True)
        (tmp_path / "cnd/local/hosts").write_text("in the way")
        with pytest.raises(CloudError, match=r"did not start: .*Error") as error:
            local.up()

    assert "cloud.log" in str(error.value.hint)


@pytest.mark.parametrize("package", ["moto", "asyncssh", "flask_cors"])
def test_a_missing_package_is_named_with_the_way_to_get_it(package: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None; from cnd import errors, local\n"
    )
    code += "try: local.up()\nexcept errors.CloudError as e: print(repr(e), e.hint)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert f"CloudError('the local cloud needs {package}')" in done.stdout
    assert "pip install 'cnd[local]'" in done.stdout


def test_a_bad_setting_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with (
        environment(tmp_path, CND_LOCAL_BOOT_SECONDS="soon"),
        pytest.raises(UsageError, match="CND_LOCAL_BOOT_SECONDS: 'soon'"),
    ):
        local.up()


def test_a_state_folder_that_a_shell_would_misread_has_another_name(
    tmp_path: Path,
) -> None:
    state = tmp_path / "with space"
    found = files.made_folder({"XDG_STATE_HOME": str(state), "XDG_RUNTIME_DIR": "x"})
    assert files.is_plain(found)
    assert found.resolve() == state / "cnd/local"
    assert stat.S_IMODE(found.parent.stat().st_mode) == 0o700
    again = files.made_folder({"XDG_STATE_HOME": str(state)})
    assert again == found
    found.unlink()


def test_its_records_are_for_its_user_only(cloud: LocalCloud) -> None:
    folder = cloud.endpoint.folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "endpoint.json").stat().st_mode) == 0o600


def test_it_listens_on_loopback_only(cloud: LocalCloud) -> None:
    assert cloud.endpoint.url.startswith("http://127.0.0.1:")


def test_a_part_of_moto_that_is_still_being_loaded_has_no_schedules() -> None:
    # One thread executes schedules while the call of another imports this module.
    pytest.importorskip("moto")
    from cnd.local.api import templates

    half = types.ModuleType("moto.autoscaling.models")
    templates.keep_schedules({half.__name__: half})
    templates.keep_schedules({})


def test_its_summary_counts_instances_by_state(cloud: LocalCloud) -> None:
    host = cloud.host()
    summary = local.summary(cloud.endpoint)

    assert summary["instances"]["running"] >= 1
    assert summary["live"] >= 1
    assert summary["pid"] == cloud.endpoint.pid
    cloud.ec2.terminate_instances(InstanceIds=[host.id])


def test_it_returns_callers_their_address(cloud: LocalCloud) -> None:
    with urllib.request.urlopen(cloud.endpoint.url + "/checkip", timeout=60) as reply:
        assert reply.read() == b"127.0.0.1\n"


def test_nothing_of_the_callers_environment_reaches_a_host(tmp_path: Path) -> None:
    with running_cloud(
        tmp_path, AWS_SECRET_ACCESS_KEY="hush", CND_LOCAL_TEST="hush"
    ) as cloud:
        host = cloud.host(UserData="#!/bin/sh\nenv >/root/env\n")
        assert host.logs("user script: exit status 0")
        seen = host.run("env")[1] + (host.tree / "root/env").read_text()

    assert "hush" not in seen


def test_importing_it_imports_nothing_heavy() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, json, cnd.local; print(json.dumps(sorted(sys.modules)))",
        ],
        capture_output=True,
        check=True,
        timeout=60,
    )

    heavy = {"moto", "asyncssh", "werkzeug", "boto3", "yaml", "cnd.local.api.server"}
    assert heavy.isdisjoint(json.loads(done.stdout))
