"""The watchdog as a program of its own: what an instance without orchestrator does."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from werkzeug.formparser import FormDataParser
from werkzeug.http import parse_options_header

from cnd import pow as worker
from cnd import s3logs
from cnd.cloud.connection import Cloud
from cnd.on_instance import http_client, watchdog, worker_events
from cnd.transport import orphans
from tests.support.processes import MINORS, python, required_python
from tests.support.waiting import SOON, eventually

SECRET = "X-Amz-Signature=0123456789abcdef"
ENDLESS = ("--difficulty", "30")
RATE = 20_000  # nonces/s of each worker, so that the machine is free for other tests
# With its smallest golden nonce: two seconds of search.
BLOCK, DIFFICULTY, GOLDEN = "alone 16", 4, 42880
PATIENCE, POLL = 1.0, 0.3
UNBROKEN = 4.0  # seconds of patience that no heartbeat of a busy machine exceeds
RESULT, LOG, REPORT = "result", "log", "report"
DROP = 0  # instead of an HTTP status: the connection is reset


class Bucket:
    """S3 as a watchdog uses it: GET by URL, POST by form; with faults on request."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.faults: dict[str, list[int]] = {}  # statuses of the next writes
        self.puts: list[str] = []  # every attempt
        self.gets = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/{name}?{SECRET}"

    def form(self, name: str) -> dict[str, Any]:
        fields = {"key": name, "Content-Type": "text/plain", "policy": SECRET}
        return {
            "url": f"http://127.0.0.1:{self._server.server_port}/",
            "fields": fields,
        }

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(bucket: Bucket) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                bucket.gets += 1
                found = bucket.objects.get(self._name())
                self._answer(404 if found is None else 200, found or b"<Error/>")

            def do_POST(self) -> None:
                kind, options = parse_options_header(self.headers["Content-Type"])
                body = io.BytesIO(self.rfile.read(int(self.headers["Content-Length"])))
                _, fields, files = FormDataParser().parse(body, kind, None, options)
                assert fields["policy"] == SECRET
                name, data = fields["key"], files["file"].read()
                bucket.puts.append(name)
                faults = bucket.faults.get(name)
                status = faults.pop(0) if faults else 204
                if status == DROP:
                    linger = struct.pack("ii", 1, 0)  # closing it resets it
                    self.connection.setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, linger
                    )
                    self.close_connection = True
                    return
                if status == 204:
                    bucket.objects[name] = data
                self._answer(status, b"")

            def _name(self) -> str:
                path, _, query = self.path.partition("?")
                assert query == SECRET
                return path.strip("/")

            def _answer(self, status: int, text: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                """Log nothing."""

        return Handler


@dataclass
class Instance:
    """A folder as on an instance, with replaced programs first in PATH."""

    root: Path
    bucket: Bucket
    interpreter: str = sys.executable
    _processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        for module in (worker, watchdog, http_client, worker_events):
            assert module.__file__
            shutil.copy(module.__file__, self.folder)
        programs = self.root / "bin"
        programs.mkdir()
        # A power-off ends every process, also the one that requested it.
        self._program("sudo", f'printf "%s\\n" "$*" >>{self.root}/calls; kill -9 $PPID')
        self._program("logger", f'printf "%s\\n" "$*" >>{self.root}/syslog')
        self.touch()

    @property
    def folder(self) -> Path:
        return self.root / "cnd-run"

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": f"{self.root}/bin:{os.environ['PATH']}"}

    def _program(self, name: str, script: str) -> None:
        path = self.root / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def touch(self) -> None:
        (self.folder / "heard").write_bytes(b"")

    @contextlib.contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Touch `heard` often, while the block runs."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(PATIENCE / 10):
                self.touch()

        thread = threading.Thread(target=beat)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def work(self, part: str, *words: str) -> int:
        """Start a detached worker; return its process id."""
        options = (
            "--kernel",
            "hashlib",
            "--no-syslog",
            "--processes",
            "1",
            "--rate",
            str(RATE),
            "--block",
            BLOCK,
        )
        command = ["-I", "-S", "pow.py", *options, *words, "--detach", part]
        done = subprocess.run(
            [self.interpreter, *command],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr
        return int(json.loads(done.stdout)["pid"])

    def watch(self, **orders: object) -> subprocess.Popen[str]:
        """Start a watchdog."""
        job = {
            "run": "r1",
            "instance": "i-1",
            "block": BLOCK,
            "difficulty": DIFFICULTY,
            "script": "",
            "patience": PATIENCE,
            "poll": POLL,
            "shutdown": True,
            "spot": False,
            "result_get": self.bucket.url(RESULT),
            "result_form": self.bucket.form(RESULT),
            "log_form": self.bucket.form(LOG),
            "report_form": self.bucket.form(REPORT),
            "witness_bits": None,
            **orders,
        }
        (self.folder / "job.json").write_text(json.dumps(job))
        words = ["-I", "-S", "watchdog.py", "job.json", f"cat {self.root}/syslog"]
        process = subprocess.Popen(
            [self.interpreter, *words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._processes.append(process)
        return process

    @property
    def off(self) -> bool:
        """Whether a power-off was requested."""
        path = self.root / "calls"
        return path.exists() and path.read_text() == "-n shutdown -P now\n"

    def goes_off(self) -> None:
        eventually(lambda: self.off)

    @property
    def syslog(self) -> str:
        path = self.root / "syslog"
        return path.read_text() if path.exists() else ""

    @property
    def alone(self) -> bool:
        return watchdog.ORPHAN in self.syslog

    def last(self, part: str) -> dict[str, Any]:
        """Return the last event of a worker."""
        text = (self.folder / part / "events.jsonl").read_text()
        event: dict[str, Any] = json.loads(text.splitlines()[-1])
        return event

    def pids(self) -> list[int]:
        texts = [path.read_text() for path in self.folder.glob("*/worker.pid")]
        return [int(text) for text in texts if text]

    def close(self) -> None:
        """End all processes, and check that no message contains a secret."""
        for process in self._processes:
            process.kill()
            out, err = process.communicate(timeout=60)
            assert SECRET not in out + err
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert SECRET not in self.syslog
        assert SECRET.encode() not in b"".join(self.bucket.objects.values())


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    bucket = Bucket()
    yield bucket
    bucket.close()


@pytest.fixture
def instance(tmp_path: Path, bucket: Bucket) -> Iterator[Instance]:
    instance = Instance(tmp_path, bucket)
    yield instance
    instance.close()


@contextlib.contextmanager
def held(pid: int) -> Iterator[None]:
    """Freeze a worker while the block runs."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.kill(pid, signal.SIGCONT)


SEARCH = ("--difficulty", str(DIFFICULTY))


def test_nothing_happens_while_the_orchestrator_is_not_silent(
    instance: Instance,
) -> None:
    instance.work("class-0", *ENDLESS)
    with instance.heartbeat():
        process = instance.watch(patience=UNBROKEN)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=2 * UNBROKEN)
    assert (instance.syslog, instance.bucket.puts, instance.bucket.gets) == ("", [], 0)
    assert instance.last("class-0")["event"] in ("started", "progress")


def test_an_orphan_that_finds_writes_result_and_log_then_powers_off(
    instance: Instance,
) -> None:
    with held(instance.work("class-0", *SEARCH)):
        instance.watch()
        eventually(lambda: instance.alone)
    instance.goes_off()
    assert instance.bucket.puts == [RESULT, REPORT, LOG]
    claim = json.loads(instance.bucket.objects[RESULT])
    at = claim.pop("time")
    assert abs(at - time.time()) < 60
    assert claim == {
        "run": "r1",
        "instance": "i-1",
        "nonce": GOLDEN,
        "hash": worker.digest(BLOCK, GOLDEN),
    }
    assert watchdog.ORPHAN.encode() in instance.bucket.objects[LOG]
    assert b"sent the result" in instance.bucket.objects[LOG]


def test_the_result_of_a_search_that_ended_before_is_written_too(
    instance: Instance,
) -> None:
    with instance.heartbeat():
        instance.work("class-0", *SEARCH)
        instance.watch(patience=UNBROKEN)
        eventually(lambda: instance.last("class-0")["event"] == "found")
        assert instance.bucket.puts == []
    instance.goes_off()
    assert json.loads(instance.bucket.objects[RESULT])["nonce"] == GOLDEN


@pytest.mark.parametrize(
    "words",
    [
        (*ENDLESS, "--nonces", "1000"),
        (*ENDLESS, "--time-limit", "0.1"),
    ],
)
def test_a_search_that_ended_without_a_nonce_writes_the_log_only(
    instance: Instance, words: tuple[str, ...]
) -> None:
    instance.work("class-0", *words)
    instance.watch()
    instance.goes_off()
    assert instance.bucket.puts == [REPORT, LOG]


def test_the_golden_nonce_of_another_orphan_ends_the_search(instance: Instance) -> None:
    instance.work("class-0", *ENDLESS)
    instance.watch()
    eventually(lambda: instance.bucket.gets >= 2)
    assert instance.pids() != []
    instance.bucket.objects[RESULT] = json.dumps({"nonce": GOLDEN}).encode()
    instance.goes_off()
    assert instance.last("class-0")["event"] == "stopped"
    assert instance.bucket.puts == [REPORT, LOG]


@pytest.mark.parametrize("there", ["smaller", "larger"])
def test_of_two_golden_nonces_the_smaller_stays_in_the_bucket(
    instance: Instance, there: str
) -> None:
    golden = [n for n in range(5000) if worker.is_golden(worker.digest(BLOCK, n), 1)]
    found = next(n for n in golden if worker.is_golden(worker.digest(BLOCK, n), 2))
    other = golden[0] if there == "smaller" else golden[-1]
    assert other != found
    with instance.heartbeat():
        instance.work("class-0", "--difficulty", "2")
        eventually(lambda: instance.last("class-0")["event"] == "found")
        instance.bucket.objects[RESULT] = json.dumps({"nonce": other}).encode()
        instance.watch(difficulty=1)
    instance.goes_off()
    assert json.loads(instance.bucket.objects[RESULT])["nonce"] == min(found, other)


def test_a_false_result_in_the_bucket_ends_nothing(instance: Instance) -> None:
    instance.work("class-0", *ENDLESS)
    instance.bucket.objects[RESULT] = json.dumps({"nonce": GOLDEN + 1}).encode()
    process = instance.watch()
    eventually(lambda: instance.bucket.gets >= 3)
    assert instance.last("class-0")["event"] in ("started", "progress")
    assert (process.poll(), instance.bucket.puts) == (None, [])


@pytest.mark.parametrize(
    ("text", "believed"),
    [
        (json.dumps({"nonce": GOLDEN}), True),
        (json.dumps({"nonce": GOLDEN + 1}), False),
        (json.dumps({"nonce": str(GOLDEN)}), False),
        (json.dumps({"nonce": float(GOLDEN)}), False),
        (json.dumps({"nonce": -GOLDEN}), False),
        (json.dumps({"nonce": True}), False),
        (json.dumps([GOLDEN]), False),
        ('{"nonce": ' + "9" * 60000 + "}", False),
        ("{", False),
        ("[" * 60000, False),
        ("\xff", False),
        ("", False),
    ],
)
def test_only_a_golden_nonce_is_accepted(
    bucket: Bucket, text: str, believed: bool
) -> None:
    bucket.objects[RESULT] = text.encode("latin-1")
    orders = watchdog.WatchdogJob(
        "r", "i", BLOCK, DIFFICULTY, None, "", 1, 1, True, False, "", {}, None, None
    )
    claim = http_client.get(bucket.url(RESULT)).get("nonce")
    assert watchdog.is_golden(orders, claim) == believed


def test_a_false_claim_of_a_worker_is_not_written(instance: Instance) -> None:
    folder = instance.folder / "class-0"
    folder.mkdir()
    (folder / "worker.pid").touch()
    lie = {"event": "found", "nonce": GOLDEN + 1}
    (folder / "events.jsonl").write_text(json.dumps(lie) + '\n{"half')
    instance.watch()
    instance.goes_off()
    assert instance.bucket.puts == [REPORT, LOG]


def test_an_orchestrator_that_comes_back_finds_the_search_undisturbed(
    instance: Instance,
) -> None:
    pid = instance.work("class-0", *ENDLESS)
    process = instance.watch(patience=UNBROKEN)
    eventually(lambda: instance.alone)
    with instance.heartbeat():
        eventually(lambda: watchdog.NO_ORPHAN in instance.syslog)
        before = instance.bucket.gets
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1.5 * UNBROKEN)
        assert instance.bucket.gets == before
    assert instance.pids() == [pid]
    eventually(lambda: instance.syslog.count(watchdog.ORPHAN) == 2)
    assert instance.bucket.puts == []


def test_an_orchestrator_that_comes_back_while_the_log_is_sent_keeps_the_instance(
    instance: Instance,
) -> None:
    instance.bucket.faults[LOG] = [500]
    process = instance.watch()
    eventually(lambda: instance.bucket.puts == [REPORT, LOG])
    with instance.heartbeat():
        eventually(lambda: watchdog.NO_ORPHAN in instance.syslog)
        assert process.poll() is None
    instance.goes_off()


def test_of_two_workers_the_one_that_finds_ends_the_other(instance: Instance) -> None:
    instance.work("class-1", *ENDLESS, "--index", "1", "--of", "2")
    instance.work("class-0", *SEARCH, "--index", "0", "--of", "2")
    instance.watch()
    instance.goes_off()
    assert instance.bucket.puts == [RESULT, REPORT, LOG]
    assert instance.last("class-1")["event"] == "stopped"
    assert json.loads(instance.bucket.objects[RESULT])["nonce"] == GOLDEN


def test_one_worker_that_ends_does_not_end_the_other(instance: Instance) -> None:
    instance.work("class-0", *ENDLESS, "--nonces", "1000")
    instance.work("class-1", *ENDLESS)
    process = instance.watch()
    eventually(lambda: instance.bucket.gets >= 3)
    assert (process.poll(), instance.bucket.puts) == (None, [])
    assert instance.last("class-1")["event"] in ("started", "progress")


@pytest.mark.parametrize(
    ("faults", "attempts"),
    [([403], 1), ([404], 1), ([500, 503], 3), ([DROP, 429], 3)],
)
def test_a_refused_or_troubled_bucket_never_keeps_an_instance_on(
    instance: Instance, faults: list[int], attempts: int
) -> None:
    instance.bucket.faults[LOG] = faults
    instance.watch()
    instance.goes_off()
    assert instance.bucket.puts == [REPORT, *[LOG] * attempts]
    refused = attempts == 1
    assert (LOG not in instance.bucket.objects) == refused
    assert ("the log could not be sent: HTTP status 40" in instance.syslog) == refused


def test_a_result_that_is_refused_ends_the_instance_with_its_log(
    instance: Instance,
) -> None:
    instance.bucket.faults[RESULT] = [403]
    instance.work("class-0", *SEARCH)
    instance.watch()
    instance.goes_off()
    assert list(instance.bucket.objects) == [REPORT, LOG]
    assert b"result could not be sent: HTTP status 403" in instance.bucket.objects[LOG]


def test_an_unreachable_bucket_is_given_up_and_only_the_reason_is_logged() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # no server listens there
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/log?{SECRET}"
        form = {"url": url, "fields": {}}
        assert http_client.put(form, b"text", patience=1.5) == "ConnectionRefusedError"
        assert http_client.get(url) == {}


@pytest.mark.parametrize("url", ["no-url?secret", "http://x y/?secret", "ftp://?s"])
def test_an_invalid_url_is_never_logged(url: str) -> None:
    why = http_client.put({"url": url, "fields": {"policy": "?"}}, b"text", patience=0)
    assert why
    assert not set("?/ ") & set(why)
    assert http_client.get(url) == {}


def test_a_slow_server_does_not_block_a_watchdog() -> None:
    over = threading.Event()

    class Trickle(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while not over.wait(0.05):
                    self.wfile.write(b" ")

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Trickle)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        began = time.monotonic()
        url = f"http://127.0.0.1:{server.server_port}/"
        assert http_client.get(url, patience=0.5) == {}
        assert time.monotonic() - began < SOON
    finally:
        over.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("interpreter", [sys.executable, python(6)])
def test_a_log_that_cannot_be_read_in_time_is_left_out(
    interpreter: str | None, tmp_path: Path
) -> None:
    if interpreter is None:
        pytest.skip("no Python 3.6 here")
    for module in (watchdog, http_client, worker_events):
        assert module.__file__
        shutil.copy(module.__file__, tmp_path)
    script = (
        "import sys; sys.path.insert(0, '.'); import watchdog;"
        "print(watchdog.run(['sh', '-c', 'echo half; sleep 60 | cat; true'], 0.5))"
    )
    done = subprocess.run(
        [interpreter, "-I", "-S", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("b''\n", "")


def test_a_worker_that_does_not_stop_is_killed(instance: Instance) -> None:
    with held(instance.work("class-0", *ENDLESS)):
        (stubborn,) = watchdog.workers(str(instance.folder))
        assert stubborn.alive
        watchdog.stop([stubborn], patience=0.3)
        eventually(lambda: not stubborn.alive)
        # A worker without the lock gets no signal: its pid may be another process's.
        stubborn.signal(signal.SIGKILL)
        (instance.folder / "class-0" / "worker.pid").write_text("")


def test_a_watchdog_that_was_frozen_waits_again(instance: Instance) -> None:
    process = instance.watch(patience=6)
    eventually(lambda: (instance.folder / "keeper.pid").exists())
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=7)
    os.kill(process.pid, signal.SIGCONT)
    with instance.heartbeat(), pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=2)
    assert instance.syslog == ""


def test_a_watchdog_that_fails_powers_off(instance: Instance) -> None:
    pid = instance.work("class-0", *ENDLESS)
    process = instance.watch()
    try:
        eventually(lambda: instance.alone)
        shutil.rmtree(instance.folder)
        instance.goes_off()
        process.wait(timeout=60)
    finally:
        os.kill(pid, signal.SIGKILL)


def test_an_instance_that_is_to_stay_is_left_on(instance: Instance) -> None:
    process = instance.watch(shutdown=False)
    assert process.wait(timeout=60) == 0
    assert instance.bucket.puts == [REPORT, LOG]
    assert not (instance.root / "calls").exists()


def test_a_second_watchdog_ends_at_once_without_a_message(instance: Instance) -> None:
    with instance.heartbeat():
        first = instance.watch()
        path = instance.folder / "keeper.pid"
        eventually(lambda: path.exists() and path.read_text() == f"{first.pid}\n")
        second = instance.watch()
        assert second.communicate(timeout=60) == ("", "")
        assert (second.returncode, first.poll()) == (0, None)


def test_a_watchdog_ends_at_once_on_a_signal(instance: Instance) -> None:
    instance.bucket.faults[REPORT] = 1000 * [503]  # or it may be over before
    process = instance.watch()
    eventually(lambda: instance.alone)
    began = time.monotonic()
    process.terminate()
    assert process.wait(timeout=60) == -signal.SIGTERM
    assert time.monotonic() - began < SOON
    assert not instance.off


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"run": "r"}', "\xff"])
def test_an_invalid_job_file_changes_nothing(instance: Instance, text: str) -> None:
    (instance.folder / "bad.json").write_bytes(text.encode("latin-1"))
    done = subprocess.run(
        [sys.executable, "-I", "-S", "watchdog.py", "bad.json", "true"],
        cwd=instance.folder,
        env=instance.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")
    assert "no valid job file" in instance.syslog


@pytest.mark.parametrize("minor", MINORS)
def test_a_watchdog_runs_on_every_python(
    minor: int, tmp_path: Path, bucket: Bucket
) -> None:
    interpreter = required_python(minor)
    instance = Instance(tmp_path, bucket, interpreter)
    try:
        instance.work("class-0", "--difficulty", "4")
        instance.watch(difficulty=4)
        instance.goes_off()
    finally:
        instance.close()
    assert bucket.puts == [RESULT, REPORT, LOG]


def test_pre_signed_urls_of_a_real_bucket_are_enough(
    aws: Cloud, run: str, instance: Instance
) -> None:
    name = f"bucket-{run}"
    s3logs.ensure_bucket(aws.s3, name, "eu-west-2", aws.account)
    give = orphans.orders(aws.s3, name, run, seconds=600, shutdown=True)
    instance.work("class-7", *SEARCH)
    instance.watch(**{**give("i-7", "Instance7"), "run": run, "patience": PATIENCE})
    instance.goes_off()
    claim = orphans.result(aws.s3, name, run)
    assert claim is not None
    assert (claim["instance"], claim["nonce"]) == ("i-7", GOLDEN)
    log = s3logs.fetch(aws.s3, name, run, "logs/Instance7.log", most=10_000)
    assert log is not None
    assert b"sent the result" in log
    assert "Signature" not in instance.syslog


def test_what_only_a_script_could_check_ends_an_orphan_as_a_claim() -> None:
    orders = watchdog.WatchdogJob(
        "r", "i", "", 0, None, "worker.py", 1, 1, True, False, "", {}, None, None
    )
    assert watchdog.is_golden(orders, 5)
    assert not watchdog.is_golden(orders, "5")
