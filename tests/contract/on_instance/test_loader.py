"""The loader as a program of its own: what a host does with the files it receives."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from cnd import pow as worker
from cnd.transport import push
from tests.support.processes import MINORS, required_python
from tests.support.waiting import eventually

WORKER = {"pow.py": Path(worker.__file__).read_bytes()}
JOB = json.dumps({"difficulty": 0, "nonces": 9, "syslog": False}).encode()
ORDER = {"part": "part", "program": "pow.py", "pause": 60}
COMMAND = push.command("true")


class Shell:
    """A session as sshd starts it, without the network."""

    def __init__(
        self, home: Path, command: str, damage: Callable[[bytes], bytes]
    ) -> None:
        self._process = subprocess.Popen(
            ["sh", "-c", command],
            cwd=home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._damage = damage

    def sendall(self, data: bytes) -> None:
        assert self._process.stdin
        self._process.stdin.write(self._damage(data))
        self._process.stdin.flush()

    def recv(self, nbytes: int) -> bytes:
        assert self._process.stdout
        return self._process.stdout.read1(nbytes)  # type: ignore[attr-defined, no-any-return]

    def ended(self) -> tuple[int, str]:
        """Return its exit status and its error output."""
        _, complaints = self._process.communicate(timeout=30)
        return self._process.returncode, complaints.decode()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


Begin = Callable[..., Shell]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Send files to a loader in a folder of its own; check whether the worker began."""
    shells = []

    def begin(
        files: Mapping[str, bytes] = WORKER,
        *,
        began: bool = True,
        command: str = COMMAND,
        damage: Callable[[bytes], bytes] = lambda data: data,
        folder: str = "run",
        former: Sequence[str] = (),
        **order: object,
    ) -> Shell:
        shell = Shell(tmp_path, command, damage)
        shells.append(shell)
        work = (folder, lambda _: files, JOB, {**ORDER, **order}, former)
        assert push.begin(shell, *work)[0] is began
        return shell

    yield begin
    for shell in shells:
        shell.close()


def last_word(folder: Path) -> str:
    path = folder / "events.jsonl"
    eventually(lambda: '"found"' in path.read_text())
    return path.read_text()


@pytest.mark.parametrize("minor", MINORS)
def test_every_python_becomes_the_worker(
    begin: Begin, tmp_path: Path, minor: int
) -> None:
    interpreter = required_python(minor)
    command = COMMAND.replace("python3", interpreter)
    assert begin(command=command).ended()[0] == 0
    assert f'"python": "3.{minor}.' in last_word(tmp_path / "run" / "part")


def test_the_compiled_program_is_what_runs(begin: Begin, tmp_path: Path) -> None:
    """A host with the same Python does not compile the program, which takes long."""
    seen = []

    def damage(data: bytes) -> bytes:
        if data.startswith(b'{"part"'):
            seen.append(json.loads(data)["code"])
        return data

    begin(damage=damage)
    assert seen[0] > 10_000
    last_word(tmp_path / "run" / "part")


def test_a_host_with_another_python_compiles_the_program(
    begin: Begin, tmp_path: Path
) -> None:
    sizes = []

    def damage(data: bytes) -> bytes:
        if data.startswith(b'{"part"'):
            sizes.append(json.loads(data)["code"])
        # As long as the text that it replaces.
        return data.replace(b"MAGIC_NUMBER.hex()", b"'another one of 1'")

    begin(damage=damage)
    last_word(tmp_path / "run" / "part")
    assert sizes == [0]


def test_what_is_there_is_not_sent_again(begin: Begin, tmp_path: Path) -> None:
    sizes = []

    def damage(data: bytes) -> bytes:
        if data.startswith(b'{"part"'):
            sizes.append(len(json.loads(data)["files"]))
        return data

    for part in ("one", "two"):
        begin({**WORKER, "other": b"x"}, damage=damage, part=part)
        last_word(tmp_path / "run" / part)
    assert sizes == [2, 0]


def test_what_an_earlier_run_left_is_used_where_its_digest_is_the_same(
    begin: Begin, tmp_path: Path
) -> None:
    sent = []

    def damage(data: bytes) -> bytes:
        if data.startswith(b'{"part"'):
            sent.append([name for name, *_ in json.loads(data)["files"]])
        return data

    older = {**WORKER, "same.py": b"1", "other.py": b"1"}
    newer = {**older, "other.py": b"2"}
    begin(older, folder="first", damage=damage)
    last_word(tmp_path / "first" / "part")
    begin(newer, folder="second", former=["none", "first"], damage=damage)
    last_word(tmp_path / "second" / "part")
    assert sent == [[*older], ["other.py"]]
    read = [(tmp_path / run / "other.py").read_text() for run in ("first", "second")]
    assert read == ["1", "2"]
    # Neither the job nor the heartbeat of the earlier run.
    left = {path.name for path in (tmp_path / "second").iterdir() if path.is_file()}
    assert left == {*newer, "part.json"}


def test_a_greeting_does_not_disturb(begin: Begin, tmp_path: Path) -> None:
    begin(command=f"echo 'Welcome to {{'; {COMMAND}")
    last_word(tmp_path / "run" / "part")


def test_what_arrives_damaged_is_not_used(begin: Begin, tmp_path: Path) -> None:
    def damage(data: bytes) -> bytes:
        if not data.startswith(b'{"part"'):
            return data
        order = json.loads(data)
        order["files"][0][2] = "0" * 64
        return json.dumps(order).encode() + b"\n"

    shell = begin(damage=damage, began=False)
    status, complaints = shell.ended()
    assert (status, "arrived damaged: pow.py" in complaints) == (1, True)
    assert [path.name for path in (tmp_path / "run").iterdir()] == []


def test_a_host_without_python_says_so(begin: Begin) -> None:
    command = COMMAND.replace("python3", "no-python")
    status, complaints = begin(command=command, began=False).ended()
    assert (status, "not found" in complaints) == (127, True)


def test_a_worker_is_not_begun_twice(begin: Begin, tmp_path: Path) -> None:
    begin()
    last_word(tmp_path / "run" / "part")
    status, complaints = begin(began=False).ended()
    assert (status, complaints) == (1, "a worker runs in this folder already\n")
