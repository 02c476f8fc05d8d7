"""Other programs that push, run and fetch on many hosts, measured beside CND.

One rule: each does the task as its own documentation says, with as many hosts at a
time as it allows; a program that is not installed is left out.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fabric
from fabric.exceptions import GroupException

PATIENCE = 300.0  # seconds for one task on all hosts
AT_ONCE = 64  # processes of programs that start one or more for each host


@dataclass(frozen=True)
class TrialTask:
    """Push `program`, run it, fetch the system log, on every host."""

    name: str  # of one attempt: new to every host
    hosts: Sequence[tuple[str, int]]  # address and port
    user: str
    key: Path  # private
    host_key: str  # public, "ssh-ed25519 AAAA…", the same of all hosts
    program: Path
    nonces: int  # that it tests on each host
    folder: Path  # empty; the logs go here, under any names

    @property
    def pushed(self) -> str:
        return f"{self.name}.py"

    @property
    def command(self) -> str:
        """What to run; the last line in the log has `name` and how it ended."""
        program = f"python3 -I -S {self.pushed} --kernel hashlib"
        search = f"--difficulty 64 --nonces {self.nonces} --run {self.name}"
        # Its exit status means that nothing was found, which is no failure here.
        return f"{program} {search} >/dev/null; true"

    @property
    def done(self) -> int:
        """How many hosts' logs are here and have the line of its end."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        lines = {line for path in files for line in path.read_bytes().splitlines()}
        mine = f"run={self.name} ".encode()
        return sum(mine in line and b"exhausted" in line for line in lines)


def installed() -> dict[str, Callable[[TrialTask], None]]:
    """Return the installed programs by name; each returns when done or given up."""
    found: dict[str, Callable[[TrialTask], None]] = {"ThreadingGroup": threading_group}
    if shutil.which("parallel") and shutil.which("rsync"):
        found["GNU parallel"] = gnu_parallel
    if shutil.which("parallel-ssh") and shutil.which("parallel-slurp"):
        found["parallel-ssh"] = parallel_ssh
    if importlib.util.find_spec("pssh") and importlib.util.find_spec("pssh.clients"):
        found["ParallelSSHClient"] = parallel_ssh_client
    return found


def threading_group(task: TrialTask) -> None:
    """Fabric's own way to many hosts: one thread and one connection for each."""
    group = fabric.ThreadingGroup(
        *(f"{task.user}@{address}:{port}" for address, port in task.hosts),
        config=fabric.Config(overrides={"load_ssh_configs": False}),
        connect_kwargs={
            "key_filename": str(task.key),
            "allow_agent": False,
            "look_for_keys": False,
        },
    )
    log = f"{task.folder}/{{host}}-{{port}}.log"
    steps: list[Callable[[], object]] = [
        lambda: group.put(str(task.program), task.pushed),
        lambda: group.run(task.command, hide=True, in_stream=False),
        lambda: group.get("/var/log/syslog", local=log),
    ]
    watchdog = threading.Timer(PATIENCE, group.close)
    watchdog.daemon = True
    watchdog.start()
    for step in steps:
        with contextlib.suppress(GroupException):  # the other hosts went on
            step()
    watchdog.cancel()
    group.close()


def gnu_parallel(task: TrialTask) -> None:
    """GNU parallel: the file by rsync, the log as what the command prints."""
    shutil.copy(task.program, task.folder / task.pushed)
    ssh = f"ssh -F {_ssh_config(task)}"
    logins = task.folder / "logins"
    logins.write_text("".join(f"1/{ssh} {name}\n" for name in _names(task)))
    # The command arrives encoded, so that the local cloud cannot put the path of a
    # host's root into it.
    command = f"{task.command}; cat ~/../../var/log/syslog"
    _run(
        *("parallel", "--nonall", "-j", str(AT_ONCE), "--slf", str(logins)),
        *("--basefile", task.pushed, command),
        folder=task.folder,
    )


def parallel_ssh(task: TrialTask) -> None:
    """The programs of that name: scp, ssh and scp again."""
    hosts = task.folder / "hosts"
    hosts.write_text("".join(f"{name}\n" for name in _names(task)))
    common = ["-h", str(hosts), "-p", str(AT_ONCE), "-t", f"{PATIENCE:.0f}"]
    common += ["-x", f"-F {_ssh_config(task)}"]
    for program, *words in (
        ("parallel-scp", str(task.program), task.pushed),
        ("parallel-ssh", task.command),
        ("parallel-slurp", "-L", "logs", "/var/log/syslog", "log"),
    ):
        _run(program, *common, *words, folder=task.folder)


def parallel_ssh_client(task: TrialTask) -> None:
    """The library of that name: libssh2, and one greenlet for each host."""
    clients, gevent = (importlib.import_module(n) for n in ("pssh.clients", "gevent"))
    config = importlib.import_module("pssh.config")
    client: Any = clients.ParallelSSHClient(
        [address for address, _ in task.hosts],
        user=task.user,
        pkey=str(task.key),
        pool_size=len(task.hosts),
        timeout=PATIENCE,
        host_config=[config.HostConfig(port=port) for _, port in task.hosts],
    )
    gevent.joinall(client.copy_file(str(task.program), task.pushed), timeout=PATIENCE)
    output = client.run_command(task.command, stop_on_errors=False)
    client.join(output, timeout=PATIENCE)
    log = str(task.folder / "log")  # each host's address is added to it
    gevent.joinall(client.copy_remote_file("/var/log/syslog", log), timeout=PATIENCE)


def _names(task: TrialTask) -> list[str]:
    """Return what the hosts are called in the configuration of ssh(1)."""
    return [f"host-{i}" for i in range(len(task.hosts))]


def _ssh_config(task: TrialTask) -> Path:
    """Write a configuration for ssh(1) that knows the hosts, and nothing else."""
    known = task.folder / "known_hosts"
    known.write_text(f"host {task.host_key}\n")
    common = {
        "User": task.user,
        "IdentityFile": task.key,
        "IdentitiesOnly": "yes",
        "HostKeyAlias": "host",
        "UserKnownHostsFile": known,
        "GlobalKnownHostsFile": "none",
        "BatchMode": "yes",
    }
    blocks = [
        _block(name, {"HostName": address, "Port": port})
        for name, (address, port) in zip(_names(task), task.hosts, strict=True)
    ]
    path = task.folder / "ssh_config"
    path.write_text("".join([*blocks, _block("*", common)]))
    return path


def _block(host: str, options: Mapping[str, object]) -> str:
    lines = "".join(f"  {name} {value}\n" for name, value in options.items())
    return f"Host {host}\n{lines}"


def _run(*command: str, folder: Path) -> None:
    """Run a program for `PATIENCE` at most; keep what it prints."""
    with open(folder / "output", "ab") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        pass
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
