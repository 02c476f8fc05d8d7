"""A machine that speaks SSH as it likes: what it sends has limits, and asks nothing."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import paramiko
import pytest
from paramiko.server import InteractiveQuery

from cnd.errors import HostError
from cnd.transport import keys
from cnd.transport.ssh import Host
from cnd.transport.ssh_connection import Login
from tests.support.waiting import SOON

GREETING = b"SSH-2.0-hostile\r\n"
FLOOD = bytes(1 << 20)
LINES = 10_000 * b"a line that a reader is to take in\n"
MOST = 32 << 20  # bytes that may leave: what the sockets of both sides hold, and more
ALL = 256 << 20  # bytes, where nothing ends a flood


class Hostile:
    """A port where each connection is dealt with by a function of ours."""

    def __init__(self, deal: Callable[[socket.socket], None]) -> None:
        self._deal = deal
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.sent = 0  # bytes, on all connections
        self._threads: list[threading.Thread] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed: the end
            while True:
                link, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(link,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, link: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException), link:
            self._deal(link)

    def flood(self, send: Callable[[bytes], object], data: bytes = FLOOD) -> None:
        while self.sent < ALL:
            send(data)
            self.sent += len(data)

    def wait(self) -> None:
        """Wait until all connections have ended."""
        for thread in self._threads:
            thread.join(SOON)

    def close(self) -> None:
        self._listener.close()
        self.wait()


@pytest.fixture
def login(tmp_path: Path) -> Login:
    pair = keys.generate()
    (tmp_path / "key").write_text(pair.private)
    return Login("ubuntu", tmp_path / "key", pair.public)


@pytest.fixture
def hostile() -> Iterator[Callable[[Callable[[socket.socket], None]], Hostile]]:
    made: list[Hostile] = []

    def make(deal: Callable[[socket.socket], None]) -> Hostile:
        made.append(Hostile(deal))
        return made[-1]

    yield make
    for each in made:
        each.close()


Make = Callable[[Callable[[socket.socket], None]], Hostile]


def refused(host: Host) -> str:
    """Let a host connect for a second; return why it could not."""
    began = time.monotonic()
    with pytest.raises(HostError) as told:
        host.connect(lambda: began + 1.0)
    assert time.monotonic() < began + SOON
    return str(told.value)


@contextlib.contextmanager
def no_turn() -> Iterator[None]:
    pytest.fail("others wait while it is its turn, and it has said nothing yet")
    yield


@pytest.mark.parametrize(
    "before", [b"", b"a line\n" * 50, b"\xff\xfe", b"HTTP/1.1 400 Bad Request\r\n"]
)
def test_a_greeting_without_an_end_is_not_read_to_it(
    hostile: Make, login: Login, before: bytes
) -> None:
    def deal(link: socket.socket) -> None:
        link.sendall(before)
        server.flood(link.sendall)

    server = hostile(deal)
    host = Host("Instance0", "127.0.0.1", login, port=server.port, turn=no_turn)
    refused(host)
    host.close()
    assert server.sent < MOST


def test_a_greeting_that_trickles_is_not_waited_for(
    hostile: Make, login: Login
) -> None:
    def deal(link: socket.socket) -> None:
        while True:
            link.sendall(b"S")
            time.sleep(0.05)

    server = hostile(deal)
    host = Host("Instance0", "127.0.0.1", login, port=server.port, turn=no_turn)
    refused(host)
    host.close()


def test_a_packet_is_not_as_long_as_it_says(hostile: Make, login: Login) -> None:
    def deal(link: socket.socket) -> None:
        link.sendall(GREETING + ((1 << 31) + 4).to_bytes(4, "big") + bytes([4, 20]))
        server.flood(link.sendall)

    server = hostile(deal)
    host = Host("Instance0", "127.0.0.1", login, port=server.port)
    refused(host)
    host.close()
    assert server.sent < MOST


# --- one that has the host key, as every instance of a run has


class Door(paramiko.ServerInterface):
    """Lets everyone in; or says that a key is not enough."""

    def __init__(self, *, asks: bool = False) -> None:
        self._asks = asks
        self.asked = False
        self.commanded = threading.Event()

    def get_allowed_auths(self, username: str) -> str:
        return "keyboard-interactive" if self._asks else "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        if self._asks:
            return paramiko.common.AUTH_PARTIALLY_SUCCESSFUL
        return paramiko.common.AUTH_SUCCESSFUL

    def check_auth_interactive(
        self, username: str, submethods: str
    ) -> int | InteractiveQuery:
        self.asked = True
        return InteractiveQuery("AWS", "Sign in again", ("Password: ", False))

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.common.OPEN_SUCCEEDED

    def check_channel_exec_request(
        self, channel: paramiko.Channel, command: bytes
    ) -> bool:
        self.commanded.set()
        return True


@contextlib.contextmanager
def impostor(
    link: socket.socket, login: Login, door: Door
) -> Iterator[paramiko.Transport]:
    transport = paramiko.Transport(link)
    transport.add_server_key(keys.private_key(login.key))
    transport.start_server(server=door)
    try:
        yield transport
    finally:
        transport.close()


def test_a_host_that_asks_for_a_password_gets_no_answer(
    hostile: Make, login: Login, capsys: pytest.CaptureFixture[str]
) -> None:
    door = Door(asks=True)

    def deal(link: socket.socket) -> None:
        with impostor(link, login, door) as transport:
            transport.join(SOON)

    host = Host("Instance0", "127.0.0.1", login, port=hostile(deal).port)
    began = time.monotonic()
    with contextlib.suppress(HostError):  # it is let in at no time, or does not notice
        host.connect(lambda: began + 1.0)
    host.close()
    assert not door.asked
    assert "Password" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("stream", ["send", "send_stderr"])
def test_a_host_that_heeds_no_window_is_cut_off(
    hostile: Make, login: Login, stream: str
) -> None:
    door = Door()

    def deal(link: socket.socket) -> None:
        with impostor(link, login, door) as transport:
            channel = transport.accept(SOON)
            assert door.commanded.wait(SOON)
            assert channel
            channel.out_window_size = 1 << 40
            send = getattr(channel, stream)
            server.flood(lambda data: _all(send, data), LINES)

    server = hostile(deal)
    host = Host("Instance0", "127.0.0.1", login, port=server.port)
    host.connect(lambda: time.monotonic() + SOON)
    with contextlib.closing(host), pytest.raises(HostError):
        for _ in host.follow("folder"):
            server.wait()  # the reader is busy with other hosts
    assert server.sent < MOST


def _all(send: Callable[[bytes], int], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[send(bytes(view[:32768])) :]


def test_a_start_that_is_not_answered_yet_is_given_up_by_a_stop(
    hostile: Make, login: Login
) -> None:
    """Nothing was sent that could begin a worker; the connection stays, for the log."""
    door, left = Door(), threading.Event()

    def deal(link: socket.socket) -> None:
        with impostor(link, login, door) as transport:
            channel = transport.accept(SOON)
            assert channel
            while channel.recv(65536):
                pass
            left.set()
            transport.join(SOON)

    def code(machine: str) -> dict[str, bytes]:
        pytest.fail("the host has not said what it is")

    host = Host("Instance0", "127.0.0.1", login, port=hostile(deal).port)
    host.connect(lambda: time.monotonic() + SOON)
    with contextlib.closing(host):
        stop = threading.Thread(
            target=lambda: door.commanded.wait(SOON) and host.stop()
        )
        stop.start()
        began = time.monotonic()
        assert host.start("folder", "part", b"{}", code=code) is False
        assert time.monotonic() < began + SOON
        assert left.wait(SOON)  # what waits there ends with its session
        stop.join(SOON)
        assert host.start("folder", "part", b"{}", code=code) is False
        assert host.stop() is False
