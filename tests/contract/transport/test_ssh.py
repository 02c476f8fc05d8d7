"""What `cnd.transport.ssh` promises, against OpenSSH's sshd and the local cloud's.

The network between is a relay, which can be cut, frozen and mended.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import platform
import secrets
import select
import shutil
import signal
import socket
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from cnd import pow as worker
from cnd.errors import HostError, HostLost
from cnd.pow import GENERATION
from cnd.provision import user_data
from cnd.transport import keys
from cnd.transport.shell import EVENTS
from cnd.transport.ssh import Host
from cnd.transport.ssh_connection import SILENCE, Login
from tests.support.local_cloud import SECONDS, LocalCloud
from tests.support.waiting import SOON, eventually

WORKER = {"pow.py": Path(worker.__file__).read_bytes()}
SSHD = shutil.which("sshd", path="/usr/sbin:/usr/bin:/sbin")


# --- the network


class Relay:
    """A TCP port that leads to another one, until it is cut."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._moving = threading.Event()  # clear: bytes are kept back
        self._moving.set()
        self._open = True
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed: the end
            while True:
                near, _ = self._listener.accept()
                self.connections += 1
                if not self._open:
                    near.close()
                    continue
                far = socket.create_connection(self._target, timeout=SECONDS)
                self._pairs.append((near, far))
                threading.Thread(
                    target=self._pump, args=(near, far), daemon=True
                ).start()

    def _pump(self, near: socket.socket, far: socket.socket) -> None:
        other = {near: far, far: near}
        with contextlib.suppress(OSError, ValueError), near, far:
            while True:
                readable, _, _ = select.select([near, far], [], [])
                self._moving.wait()
                for end in readable:
                    if not (data := end.recv(65536)):
                        return
                    other[end].sendall(data)

    def cut(self) -> None:
        """Break every connection; new ones are possible."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def freeze(self) -> None:
        """Let nothing through any more, and close nothing."""
        self._moving.clear()

    def thaw(self) -> None:
        """Let everything through again, also what was kept back."""
        self._moving.set()

    def refuse(self, refusing: bool) -> None:
        """Hang up on every new connection, or take them again."""
        self._open = not refusing

    def close(self) -> None:
        self._listener.close()
        self._moving.set()
        self.cut()


# --- the servers


@dataclass
class Server:
    """A machine with SSH, and where its files are seen from here."""

    login: Login
    address: tuple[str, int]
    authorized_keys: Path
    folder: str  # of the worker's code, as the login user names it
    local_folder: Path  # the same, seen from here
    relays: list[Relay] = field(default_factory=list)
    standing_in: subprocess.Popen[bytes] | None = None  # for a worker

    @property
    def part(self) -> Path:
        """The folder of the worker's events."""
        return self.local_folder / "part"

    def host(self, **changes: object) -> tuple[Host, Relay]:
        """Return a host that is not connected yet, and the network in between."""
        relay = Relay(self.address)
        self.relays.append(relay)
        login = replace(self.login, **changes)  # type: ignore[arg-type]
        return Host("Instance0", "127.0.0.1", login, port=relay.port), relay

    def connected(self) -> tuple[Host, Relay]:
        host, relay = self.host()
        host.connect(within(SECONDS))
        return host, relay

    def write(self, *lines: str) -> None:
        """Write events as a worker does: appended, at once."""
        if not self.part.exists():
            self.part.mkdir(parents=True)
            self.standing_in = subprocess.Popen(["sleep", "300"])
            (self.part / "worker.pid").write_text(f"{self.standing_in.pid}\n")
        with (self.part / EVENTS).open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))

    def follow(
        self, host: Host, position: int = 0, silence: float = SECONDS
    ) -> Iterator[bytes]:
        return host.follow(f"{self.folder}/part", position=position, silence=silence)

    def end(self) -> None:
        for relay in self.relays:
            relay.close()
        if self.standing_in:
            self.standing_in.kill()
            self.standing_in.wait()

    def programs(self, name: str) -> list[int]:
        """Return the processes of that name that run in the worker's folder."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                here = Path(os.readlink(process / "cwd")) == self.part
                if here and (process / "comm").read_text().strip() == name:
                    found.append(int(process.name))
        return found


def within(seconds: float) -> Callable[[], float]:
    deadline = time.monotonic() + seconds
    return lambda: deadline


@pytest.fixture(scope="module")
def openssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """OpenSSH's sshd, running as the current user."""
    if SSHD is None:
        pytest.skip("needs OpenSSH's sshd")
    if getpass.getuser() == "root":
        Path("/run/sshd").mkdir(exist_ok=True)  # its privilege separation needs it
    home = tmp_path_factory.mktemp("sshd")
    user = keys.user_key(home / "user")
    machine = keys.generate()
    (home / "host_key").write_text(machine.private)
    (home / "host_key").chmod(0o600)
    (home / "authorized_keys").write_text(user.public + "\n")
    python = Path(shutil.which("python3") or "").resolve().parent
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (home / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {home}/host_key\n"
        f"AuthorizedKeysFile {home}/authorized_keys\nStrictModes no\nPidFile none\n"
        f"PasswordAuthentication no\nSubsystem sftp internal-sftp\n"
        f"SetEnv PATH={python}:/usr/bin:/bin\nMaxStartups 100\n"
    )
    with (home / "log").open("w") as log:
        command = [SSHD, "-D", "-e", "-f", str(home / "sshd_config")]
        process = subprocess.Popen(command, stderr=log)
    try:
        assert eventually(
            lambda: (
                "listening" in (home / "log").read_text() or process.poll() is not None
            )
        )
        assert process.poll() is None, (home / "log").read_text()
        yield Server(
            Login(getpass.getuser(), user.path, machine.public),
            ("127.0.0.1", port),
            home / "authorized_keys",
            "",
            home,
        )
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def booted_host(cloud: LocalCloud) -> Server:
    """A host of the local cloud, booted with the user data of a run."""
    machine = keys.generate()
    host = cloud.host(UserData=user_data.user_data(lifetime=600, host_key=machine))
    home = host.tree / "home" / "ubuntu"
    return Server(
        Login("ubuntu", cloud.key, machine.public),
        (host.address, host.port),
        home / ".ssh" / "authorized_keys",
        "",
        home,
    )


@contextlib.contextmanager
def fresh(machine: Server, *, whole_paths: bool) -> Iterator[Server]:
    """Give a machine a new folder for a worker."""
    name = f"cnd-{secrets.token_hex(4)}"
    folder = machine.local_folder / name
    named = str(folder) if whole_paths else name
    server = replace(machine, folder=named, local_folder=folder, relays=[])
    yield server
    server.end()


@pytest.fixture(params=["openssh", "booted_host"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Each kind of machine."""
    machine: Server = request.getfixturevalue(request.param)
    # The host of the local cloud sees its own tree only: there, from the home.
    with fresh(machine, whole_paths=request.param == "openssh") as server:
        yield server


@pytest.fixture
def any_server(booted_host: Server) -> Iterator[Server]:
    """One machine, for tests of the network before it."""
    with fresh(booted_host, whole_paths=False) as server:
        yield server


# Slowly, to leave the processor to other tests.
NEVER_FOUND = {"difficulty": 16, "rate": 20_000}


def job(**options: object) -> bytes:
    return json.dumps(
        {**NEVER_FOUND, "syslog": False, "time_limit": 30, **options}
    ).encode()


def start(server: Server, host: Host, **options: object) -> None:
    host.start(server.folder, "part", job(**options), code=lambda machine: WORKER)


def next_event(lines: Iterator[bytes], kind: str) -> dict[str, object]:
    for line in lines:
        event = dict(json.loads(line))
        if event["event"] == kind:
            return event
    raise AssertionError(f"the lines ended without {kind}")


def once(
    condition: Callable[[], object], act: Callable[[], object]
) -> threading.Thread:
    """Act in another thread as soon as a condition holds."""

    def wait() -> None:
        eventually(condition)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


# --- connecting


def test_a_host_is_known_by_the_key_that_its_run_gave_it(server: Server) -> None:
    host, _ = server.connected()
    assert host.run("echo here") == "here\n"
    host.close()


def test_a_host_that_shows_another_key_is_refused_at_once(server: Server) -> None:
    host, relay = server.host(host_key=keys.generate().public)
    began = time.monotonic()
    with pytest.raises(HostError, match="not this run's: not trusted"):
        host.connect(within(100))
    assert time.monotonic() - began < SOON
    assert relay.connections == 1
    host.close()


def test_a_host_whose_port_is_closed_is_tried_until_it_opens(server: Server) -> None:
    host, relay = server.host()
    relay.refuse(True)
    once(lambda: relay.connections, lambda: relay.refuse(False))

    host.connect(within(SECONDS))

    assert relay.connections > 1
    assert host.run("echo here") == "here\n"
    host.close()


def test_a_key_that_is_refused_is_tried_until_it_is_accepted(server: Server) -> None:
    """cloud-init writes the user's key when sshd may answer already."""
    accepted = server.authorized_keys.read_text()
    server.authorized_keys.write_text("")
    host, relay = server.host()
    written = once(
        lambda: relay.connections > 1,
        lambda: server.authorized_keys.write_text(accepted),
    )
    try:
        host.connect(within(SECONDS))
    finally:
        written.join()
    assert relay.connections > 1
    host.close()


def test_a_key_that_is_never_accepted_ends_at_the_deadline(
    any_server: Server, tmp_path: Path
) -> None:
    """And is tried seldom: OpenSSH 9.8 refuses a machine that tries often."""
    stranger = keys.user_key(tmp_path)
    host, relay = any_server.host(key=stranger.path)
    began = time.monotonic()
    with pytest.raises(HostError, match=r"Instance0: SSH did not answer in time"):
        host.connect(within(3.0))
    assert time.monotonic() - began < SOON
    assert relay.connections <= 2
    assert host.answered


def test_a_port_without_a_listener_ends_at_the_deadline(any_server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    host = Host("Instance0", "127.0.0.1", any_server.login, port=port)
    began = time.monotonic()
    with pytest.raises(HostError, match="did not answer in time"):
        host.connect(within(0.5))
    assert time.monotonic() - began < SOON
    assert host.answered  # by a refusal, which has passed every rule on its way


def test_a_port_that_sends_nothing_ends_at_the_deadline(any_server: Server) -> None:
    host, relay = any_server.host()
    relay.freeze()
    began = time.monotonic()
    with pytest.raises(HostError, match="did not answer in time"):
        host.connect(within(1.0))
    assert time.monotonic() - began < SOON


def test_a_shorter_deadline_counts_from_the_next_attempt(any_server: Server) -> None:
    """The end of a run brings the deadline of every host forward."""
    host, relay = any_server.host()
    relay.refuse(True)
    deadline = [time.monotonic() + 100]
    hurry = threading.Timer(0.3, deadline.__setitem__, [0, 0.0])
    hurry.start()
    began = time.monotonic()
    with pytest.raises(HostError, match="did not answer in time"):
        host.connect(lambda: deadline[0])
    assert time.monotonic() - began < SOON


@pytest.mark.parametrize("way", ["refuse", "freeze"])
def test_closing_ends_the_attempts_to_connect(any_server: Server, way: str) -> None:
    host, relay = any_server.host()
    relay.refuse(way == "refuse")
    if way == "freeze":
        relay.freeze()
    closing = threading.Timer(0.3, host.close)
    closing.start()
    began = time.monotonic()
    with pytest.raises(HostError):
        host.connect(within(100))
    assert time.monotonic() - began < SOON


def test_a_host_that_never_connected_fails_with_that_reason(any_server: Server) -> None:
    host, _ = any_server.host()
    with pytest.raises(HostError, match="is not connected"):
        host.run("true")
    assert host.stop() is False
    host.close()


# --- commands


def test_a_worker_whose_start_went_out_before_the_stop_is_stopped_as_one(
    server: Server,
) -> None:
    host, _ = server.connected()

    def code(machine: str) -> dict[str, bytes]:
        assert host.stop() is False  # there is none to be told yet
        return WORKER

    assert host.start(server.folder, "part", job(), code=code)
    lines = server.follow(host)
    next_event(lines, "started")
    assert host.stop()
    next_event(lines, "stopped")
    host.close()


def test_files_are_pushed_as_they_are_and_for_their_owner_only(server: Server) -> None:
    host, _ = server.connected()
    content = bytes(range(256)) * 4000

    machines = []

    def code(machine: str) -> dict[str, bytes]:
        machines.append(machine)
        return {**WORKER, "a": content, "b": b""}

    order = job(nonces=1)
    host.start(server.folder, "one", order, code=code)
    host.start(server.folder, "two", order, code=lambda _: {**WORKER, "b": b"anew"})

    assert machines == [platform.machine()]
    assert (server.local_folder / "a").read_bytes() == content
    assert (server.local_folder / "b").read_bytes() == b"anew"
    assert (server.local_folder / "two.json").read_bytes() == order
    assert server.local_folder.stat().st_mode & 0o777 == 0o700
    for name in ("a", "two.json"):
        assert (server.local_folder / name).stat().st_mode & 0o777 == 0o600
    host.close()


def test_a_host_that_freezes_while_it_is_set_up_is_noticed_in_seconds(
    server: Server,
) -> None:
    host, relay = server.connected()

    def code(machine: str) -> dict[str, bytes]:
        relay.freeze()
        return WORKER

    began = time.monotonic()
    with pytest.raises(HostLost):
        host.start(server.folder, "one", job(), code=code)
    took = time.monotonic() - began
    print(f"noticed after {took:.1f} s")
    assert took < SOON  # and not after the minute that a push may take
    host.close()


@pytest.mark.slow
def test_a_host_that_takes_its_time_to_be_set_up_is_waited_for(server: Server) -> None:
    host, _ = server.connected()

    def code(machine: str) -> dict[str, bytes]:
        time.sleep(1.5 * SILENCE)
        return WORKER

    host.start(server.folder, "one", job(nonces=1), code=code)
    assert next(host.follow(f"{server.folder}/one"))
    host.close()


def test_a_folder_that_cannot_be_made_is_a_failure_of_the_host(server: Server) -> None:
    host, _ = server.connected()
    host.run(f"touch {server.folder}-file")
    with pytest.raises(HostError, match=r"cannot take the files: .*Not a directory"):
        host.start(f"{server.folder}-file/sub", "part", job(), code=lambda _: WORKER)
    host.close()


def test_a_command_that_fails_is_reported_with_its_own_message(server: Server) -> None:
    host, _ = server.connected()
    with pytest.raises(HostError, match=r"Instance0: no, not that"):
        host.run("echo no, not that >&2; exit 3")
    with pytest.raises(HostError, match="exit status 4"):
        host.run("exit 4")
    assert host.run("echo and on") == "and on\n"
    host.close()


def test_a_command_that_prints_too_much_is_a_failure_and_takes_no_memory(
    server: Server,
) -> None:
    host, _ = server.connected()
    tracemalloc.start()
    with pytest.raises(HostError, match="printed more than 65536 bytes"):
        host.run("head -c 50000000 /dev/zero")
    with pytest.raises(HostError, match=r"x{100}"):
        host.run("head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 3")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6
    assert host.run("echo and on") == "and on\n"
    host.close()


def test_a_command_that_hangs_ends_with_its_time_out(any_server: Server) -> None:
    host, _ = any_server.connected()
    began = time.monotonic()
    with pytest.raises(HostError, match="no answer within 1 s: sleep 600"):
        host.run("sleep 600", timeout=1)
    assert time.monotonic() - began < SOON
    host.close()


def test_a_frozen_network_ends_a_command_with_its_time_out(any_server: Server) -> None:
    host, relay = any_server.connected()
    relay.freeze()
    began = time.monotonic()
    with pytest.raises(HostError, match="no answer within 1 s: true"):
        host.run("true", timeout=1)
    assert time.monotonic() - began < SOON
    host.close()


def test_a_connection_cut_under_a_command_is_a_failure_of_the_host(
    any_server: Server,
) -> None:
    host, relay = any_server.connected()
    there = any_server.local_folder.with_name(f"{any_server.local_folder.name}-there")
    once(there.exists, relay.cut)
    began = time.monotonic()
    with pytest.raises(HostError, match="connection lost"):
        host.run(f"touch {any_server.folder}-there; sleep 600")
    assert time.monotonic() - began < SOON
    host.close()


def test_closing_a_connection_that_was_cut_is_harmless(server: Server) -> None:
    for _ in range(5):
        host, relay = server.connected()
        host.run("true")
        relay.cut()
        host.close()
        host.close()


def test_a_closed_host_is_not_connected_to_again(any_server: Server) -> None:
    host, relay = any_server.connected()
    host.close()
    for call in (
        lambda: host.run("true"),
        lambda: start(any_server, host),
        lambda: next(any_server.follow(host)),
    ):
        with pytest.raises(HostError, match="is not connected"):
            call()
    assert relay.connections == 1


def test_the_system_log_is_read(booted_host: Server, tmp_path: Path) -> None:
    host, relay = booted_host.connected()
    host.run("logger -t test 'a line of the log'")
    host.log(tmp_path / "log")
    assert "a line of the log" in (tmp_path / "log").read_text()
    host.close()
    relay.close()


def test_what_a_worker_logs_after_its_last_event_is_in_the_log(
    booted_host: Server, tmp_path: Path
) -> None:
    host, relay = booted_host.connected()
    host.run(
        "mkdir ended; (sleep 0.4; logger -t test 'the last line'; : >ended/worker.pid)"
        " </dev/null >/dev/null 2>&1 & echo $! >ended/worker.pid"
    )
    for folder in ("ended", "not-there"):
        host.log(tmp_path / "log", folder)
        assert "the last line" in (tmp_path / "log").read_text()
    host.close()
    relay.close()


# --- the worker


def test_a_worker_is_started_and_outlives_the_connection(server: Server) -> None:
    host, relay = server.connected()
    start(server, host)
    relay.cut()
    host.close()
    host, _ = server.connected()
    lines = server.follow(host)
    assert next_event(lines, "started")
    assert next_event(lines, "progress")
    assert host.stop()
    assert next_event(lines, "stopped")
    host.close()


def test_a_worker_that_cannot_start_is_reported_with_the_reason(server: Server) -> None:
    host, _ = server.connected()
    with pytest.raises(HostError, match="difficulty must be 0 to 64, not 65"):
        start(server, host, difficulty=65)
    host.close()


def test_a_followed_worker_obeys_a_stop_at_once(server: Server) -> None:
    host, _ = server.connected()
    start(server, host)
    lines = server.follow(host)
    next_event(lines, "progress")

    asked = time.monotonic()
    assert host.stop()
    next_event(lines, "stopped")

    assert time.monotonic() - asked < SOON
    host.close()


def test_a_message_without_a_followed_worker_is_not_sent(any_server: Server) -> None:
    host, _ = any_server.connected()
    assert host.stop() is False
    host.close()


# --- following


def numbers(lines: Iterator[bytes], count: int) -> list[int]:
    return [int(next(lines)) for _ in range(count)]


def test_what_was_written_before_and_after_comes_in_order(server: Server) -> None:
    server.write("1", "2")
    host, _ = server.connected()
    lines = server.follow(host)
    assert numbers(lines, 2) == [1, 2]
    server.write("3", "4")
    assert numbers(lines, 2) == [3, 4]
    host.close()


def test_half_a_line_is_kept_until_it_is_complete(any_server: Server) -> None:
    any_server.write("1")
    host, _ = any_server.connected()
    lines = any_server.follow(host)
    assert numbers(lines, 1) == [1]
    with (any_server.part / EVENTS).open("a") as file:
        for part in ("12", "34", "5\n6\n"):
            file.write(part)
            file.flush()
    assert numbers(lines, 2) == [12345, 6]
    host.close()


def test_a_worker_that_died_is_reported_at_once(server: Server) -> None:
    server.write("1")
    host, _ = server.connected()
    lines = server.follow(host)
    assert numbers(lines, 1) == [1]
    assert server.standing_in
    server.standing_in.kill()
    server.standing_in.wait()
    assert json.loads(next(lines))["reason"] == "the worker died"
    host.close()


def test_a_dropped_connection_is_taken_up_with_nothing_lost_or_doubled(
    server: Server,
) -> None:
    """Cut in the middle of lines, repeatedly, while the worker writes."""
    total = 3000
    server.write("0")

    def write() -> None:
        with (server.part / EVENTS).open("a", buffering=1) as file:
            for number in range(1, total):
                file.write(f"{number}\n")
                if number % 10 == 0:
                    time.sleep(0.002)

    writer = threading.Thread(target=write)
    host, relay = server.connected()
    writer.start()
    position, got, cuts = 0, list[int](), 0
    while len(got) < total:
        try:
            for line in server.follow(host, position):
                position += len(line) + 1
                got.append(int(line))
                if len(got) == total:
                    break
                if len(got) // 600 > cuts:
                    cuts += 1
                    relay.cut()
        except HostError:
            host.connect(within(SECONDS))
    writer.join()
    assert cuts >= 3
    assert got == list(range(total))
    host.close()


def test_events_go_on_by_file_when_the_session_that_started_the_worker_drops(
    server: Server,
) -> None:
    host, relay = server.connected()
    start(server, host, progress=0.02)
    got, stops = list[bytes](), False
    lines, late = server.follow(host), time.monotonic() + SECONDS
    while not got or b'"stopped"' not in got[-1]:
        assert time.monotonic() < late
        try:
            got.append(next(lines))
            if len(got) in (20, 40):
                relay.cut()
            if len(got) >= 60 and not stops:
                stops = host.stop()
        except HostError:
            host.connect(within(SECONDS))
            lines = server.follow(host, host.position)
            stops = False  # what was sent as the connection dropped is lost
    assert stops
    assert got == (server.part / EVENTS).read_bytes().splitlines()
    host.close()


def test_a_worker_that_died_in_the_session_that_started_it_is_reported_in_it(
    server: Server,
) -> None:
    host, relay = server.connected()
    start(server, host)
    lines = server.follow(host)
    pid = next_event(lines, "started")["pid"]
    assert isinstance(pid, int)
    os.kill(pid, signal.SIGKILL)
    assert next_event(lines, "failed")["reason"] == "the worker died"
    assert relay.connections == 1
    host.close()


# Writes two events, but only half of the second one to its session, and is gone.
HALF_SENT = b"""
import os
os.mkdir("part")
open("part/worker.pid", "w").write("%d\\n" % os.getpid())
open("part/events.jsonl", "w").write("11\\n22\\n")
os.write(1, b'{"event": "detached", "pid": 1}\\n11\\n2')
"""


def test_what_a_worker_could_not_send_to_its_session_is_read_from_the_file(
    server: Server,
) -> None:
    host, _ = server.connected()
    host.start(server.folder, "part", job(), code=lambda machine: {"pow.py": HALF_SENT})
    lines = server.follow(host)
    assert numbers(lines, 2) == [11, 22]
    assert json.loads(next(lines))["reason"] == "the worker died"
    assert host.position == len("11\n22\n")
    host.close()


def test_who_follows_a_dead_worker_again_gets_no_event_twice(server: Server) -> None:
    """Also where it died in the middle of a line."""
    server.write("1", "2")
    with (server.part / EVENTS).open("a") as file:
        file.write('{"ev')
    host, _ = server.connected()
    lines = server.follow(host)
    assert numbers(lines, 2) == [1, 2]
    assert server.standing_in
    server.standing_in.kill()
    server.standing_in.wait()
    for _ in range(2):
        assert json.loads(next(lines))["reason"] == "the worker died"
        assert host.position == len("1\n2\n")
        lines = server.follow(host, host.position)
    host.close()


def test_no_program_is_left_on_the_host_when_the_connection_drops(
    server: Server,
) -> None:
    server.write("1")
    host, relay = server.connected()
    assert numbers(server.follow(host), 1) == [1]
    assert eventually(lambda: len(server.programs("tail")) == 1)

    relay.cut()

    assert eventually(lambda: server.programs("tail") == [])
    assert eventually(lambda: server.programs("sh") + server.programs("bash") == [])
    host.close()


def test_nothing_is_left_of_a_connection_that_fell_silent(server: Server) -> None:
    server.write("1")
    host, _ = server.connected()
    with pytest.raises(HostError, match="silent"):
        list(server.follow(host, silence=2.0))
    assert len(server.programs("tail")) == 1

    host.connect(within(SECONDS))

    assert eventually(lambda: server.programs("tail") == [])
    assert host.run("echo here") == "here\n"
    host.close()


def test_no_program_is_left_when_the_servers_session_is_killed(
    openssh: Server,
) -> None:
    """As when a machine runs out of memory: sshd's process for this session dies."""
    with fresh(openssh, whole_paths=True) as server:
        server.write("1")
        host, _ = server.connected()
        lines = server.follow(host)
        assert numbers(lines, 1) == [1]
        assert eventually(lambda: len(server.programs("tail")) == 1)

        (session,) = sessions(server)
        os.kill(session, signal.SIGKILL)

        with pytest.raises(HostError, match="connection lost"):
            next(lines)
        assert eventually(lambda: server.programs("tail") == [])
        host.close()


def sessions(server: Server) -> list[int]:
    """Return the sshd processes above the shell that runs in the worker's folder."""
    (tail,) = server.programs("tail")
    found: list[int] = []
    pid = tail
    while pid > 1 and not found:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        if Path(f"/proc/{pid}/comm").read_text().startswith("sshd"):
            found.append(pid)
    return found


def test_a_closed_connection_ends_the_following(server: Server) -> None:
    server.write("1")
    host, _ = server.connected()
    lines = server.follow(host)
    assert numbers(lines, 1) == [1]
    closing = threading.Timer(0.2, host.close)
    closing.start()
    with pytest.raises(HostError, match="connection lost"):
        next(lines)
    assert eventually(lambda: server.programs("tail") == [])


def test_a_silent_host_is_lost_after_some_seconds(server: Server) -> None:
    server.write("1")
    host, relay = server.connected()
    lines = server.follow(host, silence=2.0)
    assert numbers(lines, 1) == [1]
    relay.freeze()
    server.write("2")
    began = time.monotonic()
    with pytest.raises(HostError, match="silent for 2 s"):
        next(lines)
    assert 1.8 < time.monotonic() - began < SOON
    host.close()


def test_a_frozen_host_can_be_taken_up_again_when_it_thaws(server: Server) -> None:
    server.write("1")
    host, relay = server.connected()
    lines = server.follow(host, silence=2.0)
    assert numbers(lines, 1) == [1]
    relay.freeze()
    with pytest.raises(HostError, match="silent"):
        next(lines)
    server.write("2")
    relay.thaw()

    host.connect(within(SECONDS))

    assert numbers(server.follow(host, 2), 1) == [2]
    host.close()


def rotate(server: Server, number: int, *lines: str) -> None:
    """Replace a worker's events by a summary, as `pow.Reporter.rotate` does."""
    (server.part / GENERATION).write_text(f"{number}\n")
    path = server.part / EVENTS
    with path.open("r+") as file:
        file.truncate(0)
    summary = f'{{"event": "progress", "rotated": {number}}}'
    server.write(summary, *lines)


def test_events_are_followed_through_their_replacement(server: Server) -> None:
    server.write(*map(str, range(1000)))
    host, relay = server.connected()
    lines = server.follow(host)
    assert numbers(lines, 1000) == list(range(1000))

    rotate(server, 1, "1000")
    assert json.loads(next(lines))["rotated"] == 1
    assert numbers(lines, 1) == [1000]
    relay.cut()
    with pytest.raises(HostError):
        next(lines)
    server.write("1001")
    host.connect(within(SECONDS))

    # In the same generation a position counts.
    assert numbers(server.follow(host, host.position), 1) == [1001]
    host.close()


def test_after_a_replacement_while_out_of_touch_the_summary_comes_first(
    server: Server,
) -> None:
    """Also where the new file is longer by then than the old one was."""
    server.write("1", "2")
    host, relay = server.connected()
    lines = server.follow(host)
    assert numbers(lines, 2) == [1, 2]
    relay.cut()
    with pytest.raises(HostError):
        next(lines)

    rotate(server, 1, *map(str, range(500)))
    host.connect(within(SECONDS))
    lines = server.follow(host, host.position)

    assert json.loads(next(lines))["rotated"] == 1
    assert numbers(lines, 500) == list(range(500))
    host.close()
