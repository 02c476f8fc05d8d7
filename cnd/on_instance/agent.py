#!/usr/bin/env python3
"""The agent: runs the workers of an instance that is reached through S3, without SSH.

It runs on any Python from 3.6 on, with the standard library only, beside pow.py,
watchdog.py, worker_events.py, http_client.py and boot.json:

    python3 agent.py 128 'cat /var/log/syslog'

The number is the index of the first instance of its batch; the metadata service gives
its own place in the batch.  The command prints the system log.

The agent starts the worker of its class.  Every few seconds it reads one object with
the orchestrator's message: whether to stop, which classes to take over, and a counter
that shows that an orchestrator follows the run.  It writes the events of its workers,
and in the end the system log, into one object of its own.  If the counter stands still
it does what `watchdog.py` does.

One rule: whatever fails, the instance is powered off.
"""

import contextlib
import json
import os
import random
import sys
import time
import urllib.error
from typing import Any, Dict, List, NamedTuple, Optional

try:
    from cnd.on_instance import http_client, watchdog, worker_events
except ImportError:  # on an instance; isolated, Python does not look beside the file
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import http_client  # type: ignore[import-not-found, no-redef]
    import watchdog  # type: ignore[import-not-found, no-redef]
    import worker_events  # type: ignore[import-not-found, no-redef]

METADATA_ATTEMPTS = 30
NOT_MODIFIED = 304  # HTTP status
# Long, as a request that is given up too soon makes a busy server busier.
REQUEST = http_client.Limits(60.0, 60.0)
MOST_REPORT = 16 << 20  # bytes
FIRST_RETRY, LAST_RETRY = 1.0, 30.0  # seconds between attempts to report, growing
FAILURES = http_client.FAILURES


class ControlMessage(NamedTuple):
    """The orchestrator's message to all instances: see `transport/s3_protocol.py`."""

    beat: int
    stop: bool
    # Name of an instance -> class, start, seconds; perhaps also residue and modulus.
    parts: Dict[str, List[Any]]
    given_away: Dict[str, List[str]]  # name of an instance -> parts that it has lost


# --- metadata and reports


def own_metadata(*names: str) -> List[str]:
    """Return values from the metadata service, which may not answer at once."""
    for _ in range(METADATA_ATTEMPTS):
        try:
            return http_client.metadata(list(names), REQUEST)
        except FAILURES:
            time.sleep(1.0 + random.random())
    raise OSError("the metadata service does not answer")


def packed(report: Dict[str, Any]) -> bytes:
    """Return a report as JSON, MOST_REPORT bytes at most: of a long log, the end."""
    while True:
        data = json.dumps(report, ensure_ascii=False).encode("utf-8", "replace")
        log = report.get("log", "")
        if len(data) <= MOST_REPORT or not log:
            return data
        # Halved again until it fits: JSON makes some characters six times as long.
        report = dict(report, log=log[(len(log) + 1) // 2 :], log_missing=None)


class ControlChannel:
    """The orchestrator's message, read regularly; it also shows that it lives.

    As with `watchdog.Heartbeat`, only changes count, and time in which this process did
    not run counts little.  While S3 does not answer, no silence is counted.
    """

    def __init__(self, url: str, poll: float, patience: float) -> None:
        self._url, self._poll, self._patience = url, poll, patience
        self.interval = watchdog.CHECK_EVERY
        self.message = ControlMessage(0, False, {}, {})
        self._etag = ""
        self._next = 0.0
        self._answered, self._silence = time.monotonic(), 0.0

    @property
    def silent(self) -> bool:
        """Read the message if it is due; return whether it has not changed too long."""
        if time.monotonic() >= self._next:
            # At random times, so that the instances do not all read at once.
            self._next = time.monotonic() + self._poll * (0.5 + random.random())
            with contextlib.suppress(KeyError, TypeError, *FAILURES):
                changed, now = self._fetch(), time.monotonic()
                self._silence += min(now - self._answered, 2 * self._poll)
                self._answered = now
                if changed:
                    self._silence = 0.0
        return self._silence >= self._patience

    def _fetch(self) -> bool:
        """Read the message; return whether it has changed."""
        seen = {"If-None-Match": self._etag} if self._etag else {}
        try:
            body, etag = http_client.fetch(self._url, headers=seen, limits=REQUEST)
        except urllib.error.HTTPError as error:
            if error.code == NOT_MODIFIED:
                return False
            raise
        record = json.loads(body.decode())
        fields = [record[name] for name in ControlMessage._fields]
        self.message = ControlMessage(*fields)
        changed, self._etag = etag != self._etag, etag
        return changed


# --- the workers


def start_worker(arguments: List[str]) -> Optional[str]:
    """Start a detached worker in a fork of this process; return an error, or None.

    A new program would import the same modules again, which takes as long as the rest
    of its start.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            null = os.open(os.devnull, os.O_RDWR)
            for source, target in ((null, 0), (null, 1), (writer, 2)):
                os.dup2(source, target)
            for descriptor in (null, reader, writer):
                os.close(descriptor)
            import pow as worker  # type: ignore[import-not-found]

            status = worker.main(arguments)
        except Exception as error:
            os.write(2, repr(error).encode())
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader, "rb") as errors:
        message = errors.read().decode("utf-8", "replace").strip()
    return message if os.waitpid(child, 0)[1] else None


class Agent:
    """Serves one instance until it is powered off or terminated."""

    def __init__(self, boot: Dict[str, Any], index: int, instance: str) -> None:
        self._boot, self._index, self._instance = boot, index, instance
        self._name = f"Instance{index}"
        self._folder = os.getcwd()
        self._channel = ControlChannel(boot["word"], boot["poll"], boot["patience"])
        self._parts = {}  # type: Dict[str, worker_events.EventBuffer]
        self._next_report, self._retry = 0.0, FIRST_RETRY
        self._urgent = True  # there is something to report at once
        self._reported_idle = False  # the latest report says that no worker runs here
        forms = {"log_form": None, "report_form": None}  # the agent sends both
        job = dict(boot["job"], instance=instance, **forms, **boot["keeper"])
        names = watchdog.WatchdogJob._fields
        self._watchdog = watchdog.Watchdog(
            watchdog.WatchdogJob(**{name: job[name] for name in names}),
            self._folder,
            boot["log"],
            self._channel,
        )

    def run(self) -> None:
        """Return when the instance is to be powered off.

        The instance's own timer does not suffice: on a host of a local cloud that was
        killed, no such timer would end this process.
        """
        end = time.monotonic() + self._boot["lifetime"]
        silent = self._channel.silent
        job = self._boot["job"]
        # An instance that was launched later stands by; in a run that resumes another
        # one, each waits for the message with its classes.
        if self._index < job["of"] and not self._boot.get("waits"):
            self._start_part(self._index, self._index, job["time_limit"])
        while time.monotonic() < end:
            self._apply_message()
            self._watchdog.check_spot_notice()
            self._read()
            self._report()
            if silent:
                watchdog.log(watchdog.ORPHAN)
                if self._watchdog.run_alone():
                    self._read()
                    self._deliver_final_report()
                    return
                watchdog.log(watchdog.NO_ORPHAN)
            # An idle host only waits for messages.
            time.sleep(self._boot["poll" if self._reported_idle else "look"])
            silent = self._channel.silent

    def _apply_message(self) -> None:
        message = self._channel.message
        if message.stop:
            if not self._idle:
                watchdog.stop([w for w in watchdog.workers(self._folder) if w.alive])
            return
        for index, start, seconds, *other in message.parts.get(self._name, []):
            self._start_part(index, start, seconds, *other)
        for name in message.given_away.get(self._name, []):
            if name in self._parts and not self._parts[name].ended:
                watchdog.stop([watchdog.WorkerProcess(name)])

    def _start_part(
        self,
        index: int,
        start: int,
        seconds: float,
        residue: Optional[int] = None,
        modulus: Optional[int] = None,
    ) -> None:
        """Start the worker of class number `index`, unless it was started already."""
        name = f"class-{index}-from-{start}"
        if name in self._parts or self._channel.message.stop:
            return
        job = dict(self._boot["job"], index=index, start=start, time_limit=seconds)
        if modulus is not None:
            job.update(index=residue, of=modulus)
        with open(name + ".json", "w", encoding="utf-8") as file:
            json.dump(job, file)
        events = os.path.join(name, "events.jsonl")
        bits = job.get("witness_bits") or 0
        self._parts[name] = worker_events.EventBuffer(events, job["block"], bits)
        error = start_worker(["--job", name + ".json", "--detach", name])
        if error is not None:
            self._parts[name].fail("the worker did not start: " + error[-500:])
        self._urgent = True

    def _read(self) -> None:
        """Read the workers' events; notice a worker that died without a final event."""
        for name, part in self._parts.items():
            if part.ended:
                continue
            # Before its events are read: a dead worker adds no more.
            alive = watchdog.WorkerProcess(name).alive
            self._urgent |= part.read()
            if not alive and not part.ended:
                part.fail("the worker died")
                self._urgent = True
        self._urgent |= self._idle and not self._reported_idle

    @property
    def _idle(self) -> bool:
        """Whether all workers have ended."""
        return all(part.ended for part in self._parts.values())

    def _report(self) -> None:
        """Write the report to S3 if it is due."""
        now, idle = time.monotonic(), self._idle
        at_once = self._urgent and self._retry == FIRST_RETRY
        if now < self._next_report and not at_once:
            return
        if idle and not self._urgent:
            return
        report = self._events()
        if idle:
            text, report["log_missing"] = watchdog.system_log(self._boot["log"])
            report["log"] = text.decode("utf-8", "replace")
        try:
            self._post(self._name + ".json", packed(report))
        except FAILURES:
            self._next_report = now + self._retry * (1 + random.random())
            self._retry = min(2 * self._retry, LAST_RETRY)
            self._urgent = True
            return
        self._urgent, self._reported_idle, self._retry = False, idle, FIRST_RETRY
        self._next_report = now + self._boot["every"] * (0.75 + random.random() / 2)

    def _events(self) -> Dict[str, Any]:
        parts = {name: part.numbered() for name, part in self._parts.items()}
        return worker_events.report(self._instance, parts)

    def _deliver_final_report(self) -> None:
        """Write the system log and a last report, for a later orchestrator to read."""
        text, missing = watchdog.system_log(self._boot["log"])
        log = {"log": text.decode("utf-8", "replace"), "log_missing": missing}
        report = packed(dict(self._events(), **log))
        for what, name, data in (
            ("the report", ".json", report),
            ("the log", ".log", text),
        ):
            key = self._boot["prefix"] + self._name + name
            form = dict(self._boot["report"])
            form["fields"] = dict(form["fields"], key=key)
            watchdog.deliver(what, form, data)

    def _post(self, name: str, data: bytes) -> None:
        key = self._boot["prefix"] + name
        http_client.post(self._boot["report"], data, key, REQUEST)


def main(arguments: List[str]) -> int:
    """Run the agent until its instance ends; return the exit status."""
    if len(arguments) != 2:
        sys.stderr.write("usage: agent.py INDEX_OF_THE_FIRST LOG_COMMAND\n")
        return 2
    with open("boot.json", encoding="utf-8") as file:
        boot = dict(json.load(file), log=arguments[1])
    try:
        place, instance = own_metadata("ami-launch-index", "instance-id")
        Agent(boot, int(arguments[0]) + int(place), instance).run()
    except OSError as error:
        watchdog.log(f"the agent failed: {type(error).__name__}")
    finally:  # even if something failed
        if boot["keeper"]["shutdown"]:
            watchdog.power_off()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
