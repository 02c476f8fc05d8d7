#!/usr/bin/env python3
"""The watchdog: brings an instance to its end when nobody follows its run any more.

It runs beside the worker, as one file, on any Python from 3.6 on, with the standard
library only:

    python3 watchdog.py class-3-from-3.json 'cat /var/log/syslog' 15

in the folder of a run: the job file, a command that prints the system log, and how many
seconds ago, at most, somebody was last heard for sure.  As
long as the orchestrator touches `heard`, it only looks on.  After some silence the
instance is an orphan: the search goes on, a golden nonce is put into S3, one that
another orphan has put there ends the search, and when no worker lives any more what
they have said and the system log go to S3, and the instance is powered off.

Its one rule: whatever fails, the instance is powered off.  The pre-signed URLs and
forms in the job file are secrets: no message contains one.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

HEARD = "heard"  # touched by the orchestrator's session
LOCK = "keeper.pid"
LOOK = 2.0  # seconds between two looks
HTTP_TIMEOUT = 10.0  # seconds without a byte
GET_PATIENCE = 20.0  # seconds for one request, however its bytes trickle
PUT_ONCE_PATIENCE = 60.0
PUT_PATIENCE = 300.0  # seconds for one object to get there
LONGEST_PAUSE = 30.0  # seconds between two attempts, growing
METADATA = "http://169.254.169.254"
NOTICE_EVERY = 5.0  # seconds between two looks for a spot notice, as AWS advises
STOP_PATIENCE = 10.0  # seconds for a worker to obey
COMMAND_TIMEOUT = 60.0  # seconds for the log to be read, or the shutdown to begin
MOST_LOG = 8 << 20  # bytes of the end of the system log
LOG_HEAD = b"log-bytes:"
LAST_LINE = 65536  # bytes from the end of a worker's events: more than one line
KEPT_LINES = 500  # of a worker's, besides its latest progress
# Of all witnesses that a worker shows; of more than so many, only those are kept that
# have one zero bit more, about a half.
KEPT_WITNESSES = 1024
MOST_WORDS = 1 << 20  # bytes of what all workers here have said
TRY_LATER = (408, 429)  # HTTP statuses that are no refusal, as are all from 500 on


class Orders(NamedTuple):
    """What the job file says to a keeper."""

    run: str
    instance: str
    block: str
    difficulty: int
    witness_bits: Optional[int]  # zero bits of a witness; None: there are none
    script: str  # somebody's own worker, whose claims nobody here can check; or ""
    patience: float  # seconds of silence that make an orphan
    poll: float  # seconds between two looks for the others' result
    shutdown: bool  # whether to power off at the end
    spot: bool  # whether EC2 may take the instance back
    result_get: str  # a pre-signed URL
    result_form: Dict[str, Any]  # a signed form: see `encoded`; {}: no bucket for it
    # None: whoever made this watchdog sends the log, and the report.
    log_form: Optional[Dict[str, Any]]
    report_form: Optional[Dict[str, Any]]


def read_orders(path: str) -> Orders:
    """Return the orders in a job file; an error if there are none."""
    with open(path, encoding="utf-8") as file:
        job = json.load(file)
    return Orders(**{name: job[name] for name in Orders._fields})


def golden(orders: Orders, nonce: Any) -> bool:
    """Tell whether a claim is a golden nonce: only that is ever believed."""
    if not isinstance(nonce, int) or isinstance(nonce, bool) or nonce < 0:
        return False
    if orders.script:
        return True  # it is a claim; who takes the run over asks the script
    return digest(orders.block, nonce).startswith("0" * orders.difficulty)


def digest(block: str, nonce: int) -> str:
    """Return the hash of a nonce, as `pow.digest`."""
    first = hashlib.sha256(b"%d" % nonce + block.encode()).hexdigest()
    return hashlib.sha256(first.encode()).hexdigest()


class Heartbeat:
    """Whether the orchestrator was heard of late.

    Only changes count, timed by the monotonic clock: the host's own may jump.  Time
    in which nobody looked counts little: after a freeze, the orchestrator gets
    another chance to be heard.
    """

    def __init__(self, path: str, patience: float, unheard: float = 0.0) -> None:
        """Begin to listen, `unheard` seconds late: it may have been silent since."""
        self._path, self._patience = path, patience
        self.look = min(LOOK, patience / 4)  # seconds between two looks
        self._seen = self._touched()
        since = unheard if self._seen is None else time.time() - self._seen / 1e9
        self._looked, self._silence = time.monotonic(), max(0.0, min(since, unheard))

    @property
    def silent(self) -> bool:
        touched, now = self._touched(), time.monotonic()
        self._silence += min(now - self._looked, 2 * self.look)
        self._looked = now
        if touched != self._seen:
            self._seen, self._silence = touched, 0.0
        return self._silence >= self._patience

    def _touched(self) -> Optional[int]:
        try:
            return os.stat(self._path).st_mtime_ns
        except OSError:
            return None


class WorkerProcess:
    """A worker of this host, in its folder; see `detach` in pow.py."""

    def __init__(self, folder: str) -> None:
        self.name = os.path.basename(folder)
        self.events = os.path.join(folder, "events.jsonl")
        self._pid_file = os.path.join(folder, "worker.pid")

    @property
    def alive(self) -> bool:
        """Whether its lock is held: by itself or by a child that it left behind."""
        try:
            with open(self._pid_file) as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            pass  # there is none
        return False

    def signal(self, number: int) -> None:
        """Send a signal to it while it lives."""
        with contextlib.suppress(OSError, ValueError), open(self._pid_file) as file:
            if self.alive:
                os.kill(int(file.read()), number)

    def tell(self, event: Dict[str, Any]) -> None:
        """Add an event to its own: whoever follows it hears that, too."""
        with contextlib.suppress(OSError), open(self.events, "ab", 0) as file:
            file.write(json.dumps(event).encode() + b"\n")

    def found(self) -> Any:
        """Return the nonce that it claims to have found, or None."""
        try:
            with open(self.events, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - LAST_LINE))
                events = [_object(line) for line in file.read().splitlines()]
        except OSError:
            return None
        claims = [e.get("nonce") for e in events if e.get("event") == "found"]
        return claims[-1] if claims else None


def workers(folder: str) -> List[WorkerProcess]:
    """Return the workers that were ever started in the run's folder."""
    found = []
    for name in sorted(os.listdir(folder)):
        if os.path.exists(os.path.join(folder, name, "worker.pid")):
            found.append(WorkerProcess(os.path.join(folder, name)))
    return found


def stop(those: List[WorkerProcess], patience: float = STOP_PATIENCE) -> None:
    """End workers, in order if they obey within `patience` seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for worker in those:
            worker.signal(number)
        deadline = time.monotonic() + patience
        while any(worker.alive for worker in those):
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)


def _object(text: bytes) -> Dict[str, Any]:
    """Return a JSON object, or an empty one if it is none."""
    try:
        value = json.loads(text.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


# --- what workers have said


class Lines:
    """What one worker has said: every line, but of its progress the latest only.

    That one has the witnesses of those before it as well.
    """

    def __init__(self, path: str, block: str = "", bits: int = 0) -> None:
        """Read a file; `bits` are the zero bits of a witness for `block`."""
        self._path = path
        self._block, self._bits = block, bits
        self._witnesses = []  # type: List[Tuple[int, int]]  # nonce, its zero bits
        self._thinned_to = None  # type: Optional[int]
        self._position = 0
        self._count = 0
        self._kept = []  # type: List[Tuple[int, str]]
        self._progress = None  # type: Optional[Tuple[int, str]]
        self.ended = False

    def read(self) -> bool:
        """Take in what is new; return whether it is worth a report at once."""
        urgent = False
        for text in self._new_lines():
            record = _object(text.encode())
            event = record.get("event")
            if isinstance(record.get("witnesses"), list):
                text = self._gathered(record)
            urgent |= self.add(text, progress=event == "progress")
            self.ended |= event in (
                "found",
                "exhausted",
                "timeout",
                "stopped",
                "failed",
            )
        return urgent

    def add(self, text: str, progress: bool = False) -> bool:
        """Take in a line; return whether it is more than progress."""
        self._count += 1
        if progress:
            self._progress = (self._count, text)
        else:
            self._kept = [*self._kept[-KEPT_LINES:], (self._count, text)]
        return not progress

    def _gathered(self, record: Dict[str, Any]) -> str:
        """Return an event with all witnesses so far, or the strongest."""
        thinned_to = record.get("thinned_to")
        if isinstance(thinned_to, int):
            self._thinned_to = max(thinned_to, self._thinned_to or 0)
        for nonce in record["witnesses"]:
            if not isinstance(nonce, int):
                continue
            hashed = int(digest(self._block, nonce), 16)
            self._witnesses.append((nonce, 256 - hashed.bit_length()))
        while len(self._witnesses) > KEPT_WITNESSES:
            self._thinned_to = (self._thinned_to or self._bits) + 1
            kept = [each for each in self._witnesses if each[1] >= self._thinned_to]
            self._witnesses = kept
        record["witnesses"] = [nonce for nonce, _ in self._witnesses]
        record["shown"] = 0  # before these
        if self._thinned_to is not None:
            record["thinned_to"] = self._thinned_to
        return json.dumps(record)

    def fail(self, reason: str) -> None:
        """Say in the worker's place that it has failed."""
        self.add(json.dumps({"event": "failed", "reason": reason}))
        self.ended = True

    def told(self) -> List[Tuple[int, str]]:
        """Return the lines with their numbers, from 1 on."""
        latest = [self._progress] if self._progress else []
        return sorted(self._kept + latest)

    def _new_lines(self) -> Iterator[str]:
        """Yield the lines that are whole now; they may be those of a week."""
        with contextlib.suppress(OSError), open(self._path, "rb") as file:
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._position += len(line)
                yield line[:-1].decode("utf-8", "replace")


Told = Dict[str, List[Tuple[int, str]]]  # name of a part -> its numbered lines


def report(instance: str, told: Told) -> Dict[str, Any]:
    """Return what an instance leaves in S3 of its workers' words."""
    return {"instance": instance, "time": round(time.time(), 3), "parts": told}


def packed(instance: str, told: Told) -> bytes:
    """Return a report as JSON; where it has too many bytes, its newest lines."""
    data = b""
    for most in (KEPT_LINES + 1, 50, 5, 1):
        newest = {name: lines[-most:] for name, lines in told.items()}
        data = json.dumps(report(instance, newest)).encode()
        if len(data) <= MOST_WORDS:
            break
    return data


# --- S3, by pre-signed URLs and signed forms


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise TimeoutError if the block takes longer: urllib limits each wait only."""

    def too_late(number: int, frame: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, too_late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def get(url: str, patience: float = GET_PATIENCE) -> Dict[str, Any]:
    """Return the JSON object behind a URL, or an empty one while there is none."""
    import urllib.request  # here: it takes memory, and most watchdogs go without
    from http.client import HTTPException

    try:
        with limited(patience), urllib.request.urlopen(
            url, timeout=HTTP_TIMEOUT
        ) as reply:
            return _object(reply.read(LAST_LINE))
    except (OSError, HTTPException, ValueError):
        return {}


def notice() -> str:
    """Return when EC2 takes this spot instance back (ISO 8601), or "" if it does not.

    Source:
    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
    """
    import urllib.request
    from http.client import HTTPException

    base = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or METADATA
    base = base.rstrip("/") + "/latest/"

    def ask(path: str, headers: Dict[str, str], method: str) -> bytes:
        asked = urllib.request.Request(base + path, headers=headers, method=method)
        with urllib.request.urlopen(asked, timeout=HTTP_TIMEOUT) as reply:
            body = reply.read(LAST_LINE)  # type: bytes
            return body

    life = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    try:
        with limited(GET_PATIENCE):
            token = ask("api/token", life, "PUT").decode()
            with_token = {"X-aws-ec2-metadata-token": token}
            answer = ask("meta-data/spot/instance-action", with_token, "GET")
    except (OSError, HTTPException, ValueError):
        return ""  # 404 as long as there is none
    return str(_object(answer).get("time", ""))


def encoded(
    form: Dict[str, Any], data: bytes, key: str = ""
) -> Tuple[bytes, Dict[str, str]]:
    """Return the body and headers that write an object by a signed form (S3's POST).

    Its signature holds for a name, or names that begin so, and limits the bytes.

    https://docs.aws.amazon.com/AmazonS3/latest/API/RESTObjectPOST.html

    Args:
        form: the URL, and the fields in which the signature is.
        key: the object's name, where that is not in the fields.
    """
    boundary = os.urandom(16).hex()
    fields = dict(form["fields"], key=key) if key else form["fields"]
    lines = []  # type: List[str]
    for name, value in fields.items():
        lines += ["--" + boundary, _disposition(name), "", value]
    lines += ["--" + boundary, _disposition("file") + '; filename="file"', "", ""]
    end = "\r\n--" + boundary + "--\r\n"
    body = "\r\n".join(lines).encode() + data + end.encode()
    return body, {"Content-Type": "multipart/form-data; boundary=" + boundary}


def _disposition(name: str) -> str:
    return 'Content-Disposition: form-data; name="' + name + '"'


def put(form: Dict[str, Any], data: bytes, patience: float = PUT_PATIENCE) -> str:
    """Write an object by a signed form, patiently; return why that failed, or ""."""
    deadline, pause = time.monotonic() + patience, 1.0
    while True:
        why, final = _put_once(form, data)
        if not why or final or time.monotonic() + pause > deadline:
            return why
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def _put_once(form: Dict[str, Any], data: bytes) -> Tuple[str, bool]:
    """Return why it failed, or "", and whether trying again is in vain."""
    import urllib.error
    import urllib.request
    from http.client import HTTPException

    try:
        body, headers = encoded(form, data)
        request = urllib.request.Request(form["url"], body, headers, method="POST")
        with limited(PUT_ONCE_PATIENCE), urllib.request.urlopen(
            request, timeout=HTTP_TIMEOUT
        ):
            return "", True
    except urllib.error.HTTPError as error:
        refused = error.code < 500 and error.code not in TRY_LATER
        return f"HTTP status {error.code}", refused
    except (OSError, HTTPException, ValueError, LookupError, TypeError) as error:
        # Its name only: its text may contain the URL.
        return type(getattr(error, "reason", error)).__name__, False


# --- the host


def log(text: str) -> None:
    """Write a line to the system log, if there is one."""
    run(["logger", "-t", "cnd-keeper", text])


def run(command: List[str], timeout: float = COMMAND_TIMEOUT) -> bytes:
    """Return what a command prints; nothing if it fails or hangs."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return b""
    try:
        return process.communicate(timeout=timeout)[0]
    except subprocess.TimeoutExpired:
        # With its children, and without waiting: a pipe that one of them holds would
        # be read for ever, and root's processes (sudo) cannot be killed by us.
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        return b""


def system_log(command: str) -> Tuple[bytes, Optional[int]]:
    """Return the end of the system log, and how many bytes before it are missing.

    None: some, and nobody knows how many.  A first line says so, too.

    Args:
        command: prints a first line with the log's length in bytes, or "?" for it, and
            at most `MOST_LOG` bytes of its end: see pull.py.
    """
    text = run(["sh", "-c", command])
    head, _, rest = text.partition(b"\n")
    size = head[len(LOG_HEAD) :].split()[:1] if head.startswith(LOG_HEAD) else []
    if not size:  # somebody's own command
        size, rest = [b"%d" % len(text)], text
    rest = rest[-MOST_LOG:]
    missing = None  # type: Optional[int]
    if size[0].isdigit():
        missing = max(0, int(size[0]) - len(rest))
    elif len(rest) < MOST_LOG:
        missing = 0
    if missing != 0:
        what = "some" if missing is None else f"{missing:,} bytes"
        note = "[cnd: " + what + " of the beginning of this log are missing here]\n"
        rest = note.encode() + rest.partition(b"\n")[2]
    return rest, missing


def deliver(what: str, form: Dict[str, Any], data: bytes) -> None:
    """Put something into S3, and log what came of it."""
    why = put(form, data) if form else "there is no bucket for it"
    log(f"{what} could not be sent: {why}" if why else f"sent {what}")


def power_off() -> None:
    """Power the instance off; EC2 terminates it then."""
    run(["sudo", "-n", "shutdown", "-P", "now"])
    time.sleep(STOP_PATIENCE)  # it has ended us by now, if it obeys
    run(["sudo", "-n", "systemctl", "poweroff"])


# --- the life of a watchdog


class Watchdog:
    """Looks on until the host is an orphan, and then until its work is done."""

    def __init__(
        self,
        orders: Orders,
        folder: str,
        log_command: str,
        heartbeat: Any = None,  # or something with the same properties
        unheard: float = 0.0,
    ) -> None:
        self._orders = orders
        self._folder = folder
        self._log_command = log_command
        heard = os.path.join(folder, HEARD)
        self._heartbeat = heartbeat or Heartbeat(heard, orders.patience, unheard)
        self._put_nonce = None  # type: Optional[int]
        self._noticed = not orders.spot
        self._next_notice = 0.0

    def run(self) -> None:
        """Return when the instance is to be powered off."""
        while True:
            while not self._heartbeat.silent:
                self.look_for_notice()
                time.sleep(self._heartbeat.look)
            log("nobody follows the run any more: going on alone")
            if self.alone() and self._heartbeat.silent:
                return
            log("somebody follows the run again")

    def look_for_notice(self) -> None:
        """Tell, once, among the workers' events, that EC2 takes the instance back."""
        now = time.monotonic()
        if self._noticed or now < self._next_notice:
            return
        self._next_notice = now + NOTICE_EVERY
        at = notice()
        living = [worker for worker in workers(self._folder) if worker.alive]
        for worker in living if at else []:
            worker.tell({"event": "notice", "time": round(time.time(), 3), "at": at})
            self._noticed = True

    def alone(self) -> bool:
        """Work as an orphan; return whether all is done and delivered."""
        next_look = 0.0
        while self._heartbeat.silent:
            self._deliver_result()
            living = [worker for worker in workers(self._folder) if worker.alive]
            if not living:
                self._deliver_report()
                self._deliver_log()
                return True
            if self._put_nonce is not None:
                stop(living)
            elif time.monotonic() >= next_look:
                if golden(self._orders, get(self._orders.result_get).get("nonce")):
                    log("another instance has found a golden nonce")
                    stop(living)
                next_look = time.monotonic() + self._orders.poll
            time.sleep(self._heartbeat.look)
        return False

    def _deliver_result(self) -> None:
        """Put the first golden nonce of a worker here into S3, once.

        But a smaller one that is there stays: with --smallest it is the answer.
        """
        if self._put_nonce is not None:
            return
        orders = self._orders
        for worker in workers(self._folder):
            nonce = worker.found()
            if golden(orders, nonce):
                claim = {
                    "run": orders.run,
                    "instance": orders.instance,
                    "nonce": nonce,
                    "hash": digest(orders.block, nonce),
                    "time": round(time.time(), 3),
                }
                self._put_nonce = nonce
                there = get(orders.result_get).get("nonce")
                if golden(orders, there) and there < nonce:
                    log("another instance has found a smaller golden nonce")
                else:
                    text = json.dumps(claim).encode()
                    deliver("the result", orders.result_form, text)
                return

    def _deliver_report(self) -> None:
        """Put what the workers here have said into S3: the syslog lacks the proofs."""
        orders = self._orders
        told = {}  # type: Told
        if orders.report_form is None:
            return
        for worker in workers(self._folder):
            lines = Lines(worker.events, orders.block, orders.witness_bits or 0)
            lines.read()
            if not lines.ended:
                lines.fail("the worker died")
            told[worker.name] = lines.told()
        text = packed(orders.instance, told)
        deliver("the report", orders.report_form, text)

    def _deliver_log(self) -> None:
        form = self._orders.log_form
        if form is None:
            return
        log("no worker lives here any more: sending this log, then powering off")
        deliver("the log", form, system_log(self._log_command)[0])


def only_one(folder: str) -> bool:
    """Hold the folder's lock until this process ends; False if another holds it."""
    descriptor = os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    os.ftruncate(descriptor, 0)
    os.write(descriptor, b"%d\n" % os.getpid())
    return True


def main(arguments: List[str]) -> int:
    """Keep the instance to its end; return the exit status."""
    if len(arguments) not in (2, 3):
        sys.stderr.write("usage: watchdog.py JOB_FILE LOG_COMMAND [SECONDS]\n")
        return 2
    folder = os.getcwd()
    if not only_one(folder):
        return 0
    try:
        orders = read_orders(arguments[0])
        unheard = float(arguments[2]) if arguments[2:] else 0.0
    except (OSError, ValueError, KeyError, TypeError) as error:
        log(f"no orders: {type(error).__name__}")
        return 2
    try:
        Watchdog(orders, folder, arguments[1], unheard=unheard).run()
    finally:  # whatever failed
        if orders.shutdown:
            power_off()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
