#!/usr/bin/env python3
"""The watchdog: ends an instance whose orchestrator is gone.

It runs beside the worker, http_client.py and worker_events.py, on any Python from 3.6
on, with the standard library only, in the folder of a run:

    python3 watchdog.py class-3-from-3.json 'cat /var/log/syslog' 15

The arguments are the job file, a command that prints the system log, and the seconds
for which the orchestrator may have been silent already.  While the orchestrator touches
the file `heard`, the watchdog only waits.  After some silence the instance is an
orphan: its search continues, its golden nonce goes to S3, and a golden nonce of another
orphan ends its search.  When no worker lives any more, their events and the system log
go to S3, and the instance is powered off.

One rule: whatever fails, the instance is powered off.  The pre-signed URLs and forms in
the job file are secrets: no message contains one.
"""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

try:
    from cnd.on_instance import http_client, worker_events
except ImportError:  # on an instance; isolated, Python does not look beside the file
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import http_client  # type: ignore[import-not-found, no-redef]
    import worker_events  # type: ignore[import-not-found, no-redef]

HEARTBEAT = "heard"  # touched by the orchestrator's session
LOCK = "keeper.pid"
CHECK_EVERY = 2.0  # seconds between two checks
NOTICE_EVERY = 5.0  # seconds between two checks for a spot notice, as AWS advises
STOP_PATIENCE = 10.0  # seconds for a worker to stop
COMMAND_TIMEOUT = 60.0  # seconds to read the log, or to begin the shutdown
MOST_LOG = 8 << 20  # bytes of the end of the system log
LOG_HEAD = b"log-bytes:"
LAST_LINE = 65536  # bytes from the end of a worker's events: more than one line
ORPHAN = "no orchestrator follows the run any more: continuing alone"
NO_ORPHAN = "an orchestrator follows the run again"


class WatchdogJob(NamedTuple):
    """The fields of the job file that the watchdog uses."""

    run: str
    instance: str
    block: str
    difficulty: int
    witness_bits: Optional[int]  # zero bits of a witness; None: there are none
    script: str  # a worker of the user's own: its claims cannot be checked here; or ""
    patience: float  # seconds of silence that make an orphan
    poll: float  # seconds between two checks for the others' result
    shutdown: bool  # whether to power off at the end
    spot: bool  # whether EC2 may take the instance back
    result_get: str  # a pre-signed URL
    result_form: Dict[str, Any]  # a signed form: see http_client.py; {}: no bucket
    # None: the agent sends the log and the report.
    log_form: Optional[Dict[str, Any]]
    report_form: Optional[Dict[str, Any]]


def read_job(path: str) -> WatchdogJob:
    """Return the job in a file; raises an error if there is none."""
    with open(path, encoding="utf-8") as file:
        job = json.load(file)
    return WatchdogJob(**{name: job[name] for name in WatchdogJob._fields})


def is_golden(job: WatchdogJob, nonce: Any) -> bool:
    """Tell whether a claim is a golden nonce: no other claim is accepted."""
    if not isinstance(nonce, int) or isinstance(nonce, bool) or nonce < 0:
        return False
    if job.script:
        return True  # only a claim: the orchestrator that comes back asks the script
    return worker_events.digest(job.block, nonce).startswith("0" * job.difficulty)


class Heartbeat:
    """Whether the orchestrator has touched its file recently.

    Only changes count, timed by the monotonic clock, as the host's clock may jump.
    Time in which this process did not run counts little, so that after a freeze the
    orchestrator has another chance to touch the file.
    """

    def __init__(self, path: str, patience: float, silence: float = 0.0) -> None:
        """Begin to watch; the orchestrator may be silent since `silence` seconds."""
        self._path, self._patience = path, patience
        self.interval = min(CHECK_EVERY, patience / 4)  # seconds between two checks
        self._seen = self._touched()
        since = silence if self._seen is None else time.time() - self._seen / 1e9
        self._looked, self._silence = time.monotonic(), max(0.0, min(since, silence))

    @property
    def silent(self) -> bool:
        touched, now = self._touched(), time.monotonic()
        self._silence += min(now - self._looked, 2 * self.interval)
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
    """A worker of this host, by its folder; see `detach` in pow.py."""

    def __init__(self, folder: str) -> None:
        self.name = os.path.basename(folder)
        self.events = os.path.join(folder, "events.jsonl")
        self._pid_file = os.path.join(folder, "worker.pid")

    @property
    def alive(self) -> bool:
        """Whether the worker, or a child that it left behind, holds its lock."""
        try:
            with open(self._pid_file) as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            pass  # there is none
        return False

    def signal(self, number: int) -> None:
        """Send a signal to the worker if it lives."""
        with contextlib.suppress(OSError, ValueError), open(self._pid_file) as file:
            if self.alive:
                os.kill(int(file.read()), number)

    def append_event(self, event: Dict[str, Any]) -> None:
        """Add an event to the worker's own, for the followers of its events."""
        with contextlib.suppress(OSError), open(self.events, "ab", 0) as file:
            file.write(json.dumps(event).encode() + b"\n")

    def claimed_nonce(self) -> Any:
        """Return the nonce that the worker claims to have found, or None."""
        try:
            with open(self.events, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - LAST_LINE))
                lines = file.read().splitlines()
        except OSError:
            return None
        events = [http_client.json_object(line) for line in lines]
        claims = [e.get("nonce") for e in events if e.get("event") == "found"]
        return claims[-1] if claims else None


def workers(folder: str) -> List[WorkerProcess]:
    """Return the workers, alive or not, that were started in the run's folder."""
    folders = [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
    pid_files = [os.path.join(path, "worker.pid") for path in folders]
    return [WorkerProcess(os.path.dirname(p)) for p in pid_files if os.path.exists(p)]


def living_workers(folder: str) -> List[WorkerProcess]:
    """Return the workers of the run's folder that are alive."""
    return [worker for worker in workers(folder) if worker.alive]


def stop(those: List[WorkerProcess], patience: float = STOP_PATIENCE) -> None:
    """Stop workers; kill those that still live after `patience` seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for worker in those:
            worker.signal(number)
        deadline = time.monotonic() + patience
        while any(worker.alive for worker in those):
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)


# --- the host


def log(text: str) -> None:
    """Write a line to the system log, if there is one."""
    run(["logger", "-t", "cnd-keeper", text])


def run(command: List[str], timeout: float = COMMAND_TIMEOUT) -> bytes:
    """Return the output of a command; nothing if it does not start or hangs."""
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
        # Kill its children, too, and do not wait: a child may hold the pipe open for
        # ever, and this process may not kill processes of root (sudo).
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        return b""


def system_log(command: str) -> Tuple[bytes, Optional[int]]:
    """Return the end of the system log, and the number of missing bytes before it.

    None: an unknown number is missing.  The log then begins with a line that says so.

    Args:
        command: prints a first line with the log's length in bytes, or "?" for it, and
            at most `MOST_LOG` bytes of its end: see transport/ssh.py.
    """
    text = run(["sh", "-c", command])
    head, _, rest = text.partition(b"\n")
    size = head[len(LOG_HEAD) :].split()[:1] if head.startswith(LOG_HEAD) else []
    if not size:  # a command of the user's own
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
    """Write an object to S3, and log the result."""
    why = http_client.put(form, data) if form else "there is no bucket for it"
    log(f"{what} could not be sent: {why}" if why else f"sent {what}")


def power_off() -> None:
    """Power the instance off; EC2 then terminates it."""
    run(["sudo", "-n", "shutdown", "-P", "now"])
    time.sleep(STOP_PATIENCE)  # a shutdown ends this process before
    run(["sudo", "-n", "systemctl", "poweroff"])


# --- the watchdog


class Watchdog:
    """Waits until the host is an orphan, and then until its work is done."""

    def __init__(
        self,
        job: WatchdogJob,
        folder: str,
        log_command: str,
        heartbeat: Any = None,  # or something with the same properties
        silence: float = 0.0,
    ) -> None:
        self._job, self._folder, self._log_command = job, folder, log_command
        path = os.path.join(folder, HEARTBEAT)
        self._heartbeat = heartbeat or Heartbeat(path, job.patience, silence)
        self._delivered_nonce = None  # type: Optional[int]
        self._noticed = not job.spot
        self._next_notice = 0.0

    def run(self) -> None:
        """Return when the instance is to be powered off."""
        while True:
            while not self._heartbeat.silent:
                self.check_spot_notice()
                time.sleep(self._heartbeat.interval)
            log(ORPHAN)
            if self.run_alone() and self._heartbeat.silent:
                return
            log(NO_ORPHAN)

    def check_spot_notice(self) -> None:
        """Add an event to the workers' own, once, if EC2 takes the instance back."""
        now = time.monotonic()
        if self._noticed or now < self._next_notice:
            return
        self._next_notice = now + NOTICE_EVERY
        at = http_client.spot_notice()
        event = {"event": "notice", "time": round(time.time(), 3), "at": at}
        for worker in living_workers(self._folder) if at else []:
            worker.append_event(event)
            self._noticed = True

    def run_alone(self) -> bool:
        """Work as an orphan; return whether all work is done and delivered."""
        next_check = 0.0
        while self._heartbeat.silent:
            self._deliver_result()
            living = living_workers(self._folder)
            if not living:
                self._deliver_report()
                self._deliver_log()
                return True
            if self._delivered_nonce is not None:
                stop(living)
            elif time.monotonic() >= next_check:
                if is_golden(
                    self._job, http_client.get(self._job.result_get).get("nonce")
                ):
                    log("another instance has found a golden nonce")
                    stop(living)
                next_check = time.monotonic() + self._job.poll
            time.sleep(self._heartbeat.interval)
        return False

    def _deliver_result(self) -> None:
        """Write the first golden nonce of a worker here to S3, once.

        A smaller one in S3 stays there: with --smallest that is the answer.
        """
        if self._delivered_nonce is not None:
            return
        job = self._job
        for worker in workers(self._folder):
            nonce = worker.claimed_nonce()
            if is_golden(job, nonce):
                claim = {
                    "run": job.run,
                    "instance": job.instance,
                    "nonce": nonce,
                    "hash": worker_events.digest(job.block, nonce),
                    "time": round(time.time(), 3),
                }
                self._delivered_nonce = nonce
                there = http_client.get(job.result_get).get("nonce")
                if is_golden(job, there) and there < nonce:
                    log("another instance has found a smaller golden nonce")
                else:
                    text = json.dumps(claim).encode()
                    deliver("the result", job.result_form, text)
                return

    def _deliver_report(self) -> None:
        """Write the workers' events to S3, as the system log has no witnesses."""
        job = self._job
        if job.report_form is None:
            return
        parts = {}  # type: worker_events.Parts
        for worker in workers(self._folder):
            bits = job.witness_bits or 0
            events = worker_events.EventBuffer(worker.events, job.block, bits)
            events.read()
            if not events.ended:
                events.fail("the worker died")
            parts[worker.name] = events.numbered()
        report = worker_events.packed(job.instance, parts)
        deliver("the report", job.report_form, report)

    def _deliver_log(self) -> None:
        form = self._job.log_form
        if form is None:
            return
        log("no worker lives any more: sending this log, then powering off")
        deliver("the log", form, system_log(self._log_command)[0])


def take_lock(folder: str) -> bool:
    """Take the folder's lock until this process ends; False if another one has it."""
    descriptor = os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    os.ftruncate(descriptor, 0)
    os.write(descriptor, b"%d\n" % os.getpid())
    return True


def main(arguments: List[str]) -> int:
    """Run the watchdog until its instance ends; return the exit status."""
    if len(arguments) not in (2, 3):
        sys.stderr.write("usage: watchdog.py JOB_FILE LOG_COMMAND [SECONDS]\n")
        return 2
    folder = os.getcwd()
    if not take_lock(folder):
        return 0
    try:
        job = read_job(arguments[0])
        silence = float(arguments[2]) if arguments[2:] else 0.0
    except (OSError, ValueError, KeyError, TypeError) as error:
        log(f"no valid job file: {type(error).__name__}")
        return 2
    try:
        Watchdog(job, folder, arguments[1], silence=silence).run()
    finally:  # even if something failed
        if job.shutdown:
            power_off()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
