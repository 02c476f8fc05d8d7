"""Starts and ends the hosts: sends orders to the fork server, and receives its reports.

One rule: it knows hosts, not EC2; `instances` decides what a report means for an
instance.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

from cnd.errors import UsageError
from cnd.local.api import memory
from cnd.local.api.addresses import Addresses
from cnd.local.api.faults import HostFault
from cnd.local.host import metadata, tree, wire
from cnd.local.host.guard import guarded, log
from cnd.local.host.wire import HostSpec, Message
from cnd.local.settings import Delay
from cnd.system import private_files

END_SECONDS = 8.0  # for the fork server to kill every host
READ_BYTES = 1 << 16
PROGRAMS = "bin"  # beside the trees of the hosts


class Hardware(NamedTuple):
    """What an instance type gives a host."""

    vcpus: int
    gpus: int = 0


class HostManager:
    """Boots and kills hosts, and writes `ssh_config` and `known_hosts` for users.

    `image` is the folder of the image of virtual machines, `accelerator` how they run;
    empty: hosts are processes.
    `next_fault` is called once per host, for its fault as it boots.
    Make it in the main thread: the fork server dies with the thread that started it
    (PR_SET_PDEATHSIG).
    """

    def __init__(
        self,
        folder: Path,
        boot: Delay,
        next_fault: Callable[[], HostFault | None],
        *,
        image: str = "",
        accelerator: str = "",
        rate: float | None = None,
        gpu: Mapping[str, str] | None = None,
    ) -> None:
        self._folder, self._boot, self._next_fault = folder, boot, next_fault
        self._image, self._accelerator = image, accelerator
        self._rate = rate  # nonces/s of each host's worker, at most
        self._gpu = dict(gpu or {})  # variables of hosts of types with GPUs
        self.host_bytes = memory.MACHINE if image else memory.PROCESS
        self.cloud_port = 0  # set before the first boot
        self.addresses = Addresses()
        self._numbers = count()
        self._lock = threading.Lock()
        self._writing = threading.Lock()  # the SSH files: one at a time
        self._up: dict[str, tuple[HostSpec, str]] = {}  # id: spec, public host key
        self._files_due = False  # the SSH files are out of date
        self._failure = ""  # why they could not be written the last time
        self._specs: dict[str, HostSpec] = {}
        self._write_ssh_files()
        tree.build_programs(folder / "hosts" / PROGRAMS)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cnd.local.host.fork_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={
                name: os.environ[name]
                for name in ("HOME", "LANG", "PATH", "PYTHONPATH", "TZ")
                if name in os.environ
            },
        )
        assert self._process.stdin and self._process.stdout
        self._orders = self._process.stdin.fileno()
        self._reports = self._process.stdout.fileno()

    def boot(
        self,
        instance: str,
        *,
        address: str,
        port: int,
        user: str,
        public_key: str,
        user_data: str,
        hardware: Hardware,
        launch_index: int,
    ) -> None:
        """Boot the host of `instance`; the report is `up`, or `lost`."""
        fault = self._next_fault()
        spec = HostSpec(
            id=instance,
            address=address,
            port=port,
            user=user,
            public_key=public_key,
            user_data=user_data,
            cpus=cores(_available_cores(), hardware.vcpus, next(self._numbers)),
            delay=self._boot.draw(),
            root=str(self._folder / "hosts" / instance),
            programs=str(self._folder / "hosts" / PROGRAMS),
            fault=fault.kind if fault else "",
            fault_seconds=fault.seconds if fault else 0.0,
            launch_index=launch_index,
            image=self._image,
            accelerator=self._accelerator,
            rate=self._rate,
            cloud_port=self.cloud_port,
            gpu=self._gpu if hardware.gpus else {},
        )
        with self._lock:
            self._specs[instance] = spec
            wire.send(self._orders, wire.boot(spec))

    def kill(self, instances: Iterable[str], *, keep: bool = False) -> None:
        """End hosts with all their processes; each is reported `down`.

        `keep`: do not remove their file trees, as when an instance is stopped.
        """
        order = {"kind": "kill", "ids": list(instances), "keep": keep}
        with self._lock:
            wire.send(self._orders, order)

    def apply_fault(self, fault: HostFault) -> None:
        """Apply a fault to a host that is up; UsageError if there is no such host."""
        with self._lock:
            if fault.host not in self._specs:
                raise UsageError(f"no host is up with the id {fault.host!r}")
            order = {"kind": "fault", "id": fault.host, "what": fault.kind}
            wire.send(self._orders, order)

    def give_notice(self, fault: HostFault) -> None:
        """Let a host's metadata service give notice of its interruption."""
        end = dt.datetime.now(dt.timezone.utc) + dt.timedelta(seconds=fault.seconds)
        action = {"action": "terminate", "time": f"{end:%Y-%m-%dT%H:%M:%SZ}"}
        with self._lock:
            if spec := self._specs.get(fault.host):
                path = Path(spec.root, metadata.NOTICE)
                if path.parent.is_dir():  # a virtual machine has no such tree
                    path.write_text(json.dumps(action))

    def listen(self, handle: Callable[[Message], None]) -> None:
        """Pass every report to `handle` until the fork server ends; blocks.

        A failure with one report is logged, and does not end the cloud.
        """
        lines = wire.MessageReader()
        while data := os.read(self._reports, READ_BYTES):
            reports = list(lines.feed(data))
            # Files first: a user that sees "running" may call ssh at once.
            for report in reports:
                with guarded(f"the report {report}"):
                    self._files_due |= self._note(report)
            self.keep_files()
            for report in reports:
                with guarded(f"the report {report}"):
                    handle(report)

    def keep_files(self) -> None:
        """Write `ssh_config` and `known_hosts` if they are out of date; safe to repeat.

        If that fails, as on a full disk, they stay out of date until the next call.
        """
        with self._writing:
            if not self._files_due:
                return
            try:
                self._write_ssh_files()
                self._files_due, failure = False, ""
            except OSError as error:
                failure = f"ssh_config, known_hosts: {error}"
            if failure != self._failure:  # each failure is logged once
                log(failure)
            self._failure = failure

    def end(self) -> None:
        """Kill all hosts and the fork server; return when they are gone."""
        assert self._process.stdin
        with self._lock:
            self._process.stdin.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()  # the hosts die with it
            self._process.wait()

    def _note(self, report: Message) -> bool:
        """Record which hosts are up; return whether that has changed."""
        if report["kind"] == "up":
            self._up[report["id"]] = self._specs[report["id"]], report["host_key"]
            return True
        if report["kind"] in ("down", "lost"):
            self._specs.pop(report["id"], None)
            return self._up.pop(report["id"], None) is not None
        return False

    def _write_ssh_files(self) -> None:
        up = list(self._up.values())
        known_hosts = self._folder / "known_hosts"
        private_files.write(known_hosts, known_hosts_text(up))
        private_files.write(
            self._folder / "ssh_config", ssh_config_text(up, known_hosts)
        )


def cores(available: Sequence[int], vcpus: int, number: int) -> tuple[int, ...]:
    """Return the cores of the `number`th host: as many as its vCPUs, in rotation."""
    size = min(vcpus, len(available))
    start = number * size
    return tuple(available[(start + i) % len(available)] for i in range(size))


def known_hosts_text(up: Iterable[tuple[HostSpec, str]]) -> str:
    """Return the file with the host keys that ssh(1) accepts."""
    lines = []
    for spec, key in up:
        standard = spec.port == 22
        name = spec.address if standard else f"[{spec.address}]:{spec.port}"
        lines.append(f"{name} {key}\n")
    return "".join(lines)


def ssh_config_text(up: Iterable[tuple[HostSpec, str]], known_hosts: Path) -> str:
    """Return a configuration for `ssh -F`: hosts by address or by id.

    An address may belong to several hosts; the entry of the latest counts.
    """
    entries = [
        f"Host {spec.address} {spec.id}\n"
        f"  HostName {spec.address}\n  Port {spec.port}\n  User {spec.user}\n"
        for spec, _ in up
    ]
    common = (
        f"Host *\n  UserKnownHostsFile {known_hosts}\n"
        "  GlobalKnownHostsFile none\n  StrictHostKeyChecking yes\n"
    )
    return "".join(entries) + common


def _available_cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
