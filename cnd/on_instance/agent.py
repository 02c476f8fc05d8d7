#!/usr/bin/env python3
"""The agent: does on an instance, by way of S3, what others are told over SSH.

It runs on any Python from 3.6 on, with the standard library only:

    python3 agent.py 128 'cat /var/log/syslog'

beside pow.py, watchdog.py and boot.json.  The number is the index of the first instance
of its batch; its own place in the batch it asks of the metadata service.  The command
prints the system log.  It starts
the worker of its class, looks every few seconds at one object with the orchestrator's
word (stop; classes to take over; a count that shows that somebody follows the run),
and puts what its workers say, and in the end the system log, into one object of its
own.  When the count stands still it acts as `watchdog.py` does.

Its one rule: as the watchdog's, whatever fails, the instance is powered off.
"""

import contextlib
import json
import os
import random
import sys
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

try:
    from cnd.on_instance import watchdog
except ImportError:  # on an instance; isolated, Python does not look beside the file
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import watchdog  # type: ignore[import-not-found, no-redef]

METADATA = "http://169.254.169.254"
METADATA_ATTEMPTS = 30
NOT_MODIFIED = 304  # HTTP status
# Seconds for one request: long, as one given up too soon makes a busy server busier.
REQUEST_PATIENCE = 60.0
MOST_REPORT = 16 << 20  # bytes
FIRST_RETRY, LAST_RETRY = 1.0, 30.0  # seconds between attempts to report, growing
FAILURES = (OSError, HTTPException, ValueError)


class ControlMessage(NamedTuple):
    """What the orchestrator says to all: see `mailbox.py`."""

    beat: int
    stop: bool
    parts: Dict[str, List[Any]]  # name of an instance -> class, start, seconds
    given_away: Dict[str, List[str]]  # name of an instance -> parts that it has lost


# --- the outside: metadata, S3


def request(
    url: str,
    data: Optional[bytes] = None,
    headers: Optional[Dict[str, str]] = None,
    method: Optional[str] = None,
) -> Tuple[bytes, str]:
    """Return the body of an answer, and its ETag; one of FAILURES if there is none."""
    asked = urllib.request.Request(url, data, headers or {}, method=method)
    limit = watchdog.limited(REQUEST_PATIENCE)
    with limit, urllib.request.urlopen(asked, timeout=REQUEST_PATIENCE) as reply:
        return reply.read(), reply.headers.get("ETag", "")


def metadata(*names: str) -> List[str]:
    """Return what EC2's metadata service (version 2) says of this instance."""
    base = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or METADATA
    base = base.rstrip("/") + "/latest/"
    life = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    for _ in range(METADATA_ATTEMPTS):
        try:
            token = request(base + "api/token", b"", life, "PUT")[0].decode()
            with_token = {"X-aws-ec2-metadata-token": token}
            urls = [base + "meta-data/" + name for name in names]
            return [request(url, headers=with_token)[0].decode() for url in urls]
        except FAILURES:
            time.sleep(1.0 + random.random())
    raise OSError("the metadata service does not answer")


def post(form: Dict[str, Any], key: str, data: bytes) -> None:
    """Put an object by a signed form (S3's POST); one of FAILURES if that fails."""
    body, headers = watchdog.encoded(form, data, key)
    request(form["url"], body, headers, "POST")


def packed(report: Dict[str, Any]) -> bytes:
    """Return a report as JSON that S3 takes: of a log that is too large, the end."""
    while True:
        data = json.dumps(report, ensure_ascii=False).encode("utf-8", "replace")
        log = report.get("log", "")
        if len(data) <= MOST_REPORT or not log:
            return data
        # Half of it may be more than is too much; what is printed as it is, is not.
        report = dict(report, log=log[(len(log) + 1) // 2 :], log_missing=None)


class ControlChannel:
    """The orchestrator's word, looked for now and then; also says whether it lives.

    As with `watchdog.Heartbeat`, only changes count, and time in which nobody looked
    counts little.  Where S3 does not answer, nothing is known: that is no silence.
    """

    def __init__(self, url: str, poll: float, patience: float) -> None:
        self._url, self._poll, self._patience = url, poll, patience
        self.look = watchdog.LOOK
        self.word = ControlMessage(0, False, {}, {})
        self._etag = ""
        self._next = 0.0
        self._answered, self._silence = time.monotonic(), 0.0

    @property
    def silent(self) -> bool:
        """Look, if it is time; tell whether nobody was heard for too long."""
        if time.monotonic() >= self._next:
            # Not all at once: each a while before or after its turn.
            self._next = time.monotonic() + self._poll * (0.5 + random.random())
            with contextlib.suppress(KeyError, TypeError, *FAILURES):
                changed, now = self._fetch(), time.monotonic()
                self._silence += min(now - self._answered, 2 * self._poll)
                self._answered = now
                if changed:
                    self._silence = 0.0
        return self._silence >= self._patience

    def _fetch(self) -> bool:
        """Take in the word; return whether it has changed."""
        seen = {"If-None-Match": self._etag} if self._etag else {}
        try:
            body, etag = request(self._url, headers=seen)
        except urllib.error.HTTPError as error:
            if error.code == NOT_MODIFIED:
                return False
            raise
        record = json.loads(body.decode())
        self.word = ControlMessage(*(record[name] for name in ControlMessage._fields))
        changed, self._etag = etag != self._etag, etag
        return changed


# --- the workers


def start_worker(words: List[str]) -> Optional[str]:
    """Have a fork of this process detach as a worker; return why it did not.

    A program of its own would import anew what is imported here, which takes as long
    as all the rest of its start.
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

            status = worker.main(words)
        except Exception as error:
            os.write(2, repr(error).encode())
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader, "rb") as complaints:
        told = complaints.read().decode("utf-8", "replace").strip()
    return told if os.waitpid(child, 0)[1] else None


class Agent:
    """Serves one instance until it is powered off or terminated."""

    def __init__(self, boot: Dict[str, Any], index: int, instance: str) -> None:
        self._boot, self._index, self._instance = boot, index, instance
        self._name = f"Instance{index}"
        self._folder = os.getcwd()
        self._mailbox = ControlChannel(boot["word"], boot["poll"], boot["patience"])
        self._parts = {}  # type: Dict[str, watchdog.Lines]
        self._next_report, self._retry = 0.0, FIRST_RETRY
        self._due = True  # something is worth a report at once
        self._at_rest = False  # the latest report says that nothing runs here
        unsent = {"log_form": None, "report_form": None}  # this process sends both
        job = dict(boot["job"], instance=instance, **unsent, **boot["keeper"])
        orders = watchdog.Orders(
            **{name: job[name] for name in watchdog.Orders._fields}
        )
        self._watchdog = watchdog.Watchdog(
            orders, self._folder, boot["log"], self._mailbox
        )

    def run(self) -> None:
        """Return when the instance is to be powered off.

        That is not left to the instance's own timer: where the machine is none, as in
        a cloud that was killed, nobody else would end this.
        """
        end = time.monotonic() + self._boot["lifetime"]
        silent = self._mailbox.silent
        job = self._boot["job"]
        if self._index < job["of"]:  # one that was launched later stands by
            self._begin(self._index, self._index, job["time_limit"])
        while time.monotonic() < end:
            self._obey()
            self._watchdog.look_for_notice()
            self._read()
            self._report()
            if silent:
                watchdog.log("nobody follows the run any more: going on alone")
                if self._watchdog.alone():
                    self._read()
                    self._leave()
                    return
                watchdog.log("somebody follows the run again")
            # A host at rest only listens.
            time.sleep(self._boot["poll" if self._at_rest else "look"])
            silent = self._mailbox.silent

    def _obey(self) -> None:
        word = self._mailbox.word
        if word.stop:
            if not self._resting:
                watchdog.stop([w for w in watchdog.workers(self._folder) if w.alive])
            return
        for index, start, seconds in word.parts.get(self._name, []):
            self._begin(index, start, seconds)
        for name in word.given_away.get(self._name, []):
            if name in self._parts and not self._parts[name].ended:
                watchdog.stop([watchdog.WorkerProcess(name)])

    def _begin(self, index: int, start: int, seconds: float) -> None:
        """Start the worker of a class, once."""
        name = f"class-{index}-from-{start}"
        if name in self._parts or self._mailbox.word.stop:
            return
        job = dict(self._boot["job"], index=index, start=start, time_limit=seconds)
        with open(name + ".json", "w", encoding="utf-8") as file:
            json.dump(job, file)
        told = os.path.join(name, "events.jsonl")
        bits = job.get("witness_bits") or 0
        self._parts[name] = watchdog.Lines(told, job["block"], bits)
        trouble = start_worker(["--job", name + ".json", "--detach", name])
        if trouble is not None:
            self._parts[name].fail("the worker did not start: " + trouble[-500:])
        self._due = True

    def _read(self) -> None:
        """Take in what the workers say; notice one that died without a word."""
        for name, lines in self._parts.items():
            if lines.ended:
                continue
            alive = watchdog.WorkerProcess(
                name
            ).alive  # before its words: they are its last
            self._due |= lines.read()
            if not alive and not lines.ended:
                lines.fail("the worker died")
                self._due = True
        self._due |= self._resting and not self._at_rest

    @property
    def _resting(self) -> bool:
        """Whether no worker is left that may have something to say."""
        return all(lines.ended for lines in self._parts.values())

    def _report(self) -> None:
        """Put what there is to tell into S3, if it is time for that."""
        now = time.monotonic()
        resting = self._resting
        if now < self._next_report and not (self._due and self._retry == FIRST_RETRY):
            return
        if resting and not self._due:
            return
        report = self._told()
        if resting:
            text, report["log_missing"] = watchdog.system_log(self._boot["log"])
            report["log"] = text.decode("utf-8", "replace")
        try:
            self._post(self._name + ".json", packed(report))
        except FAILURES:
            self._next_report = now + self._retry * (1 + random.random())
            self._retry = min(2 * self._retry, LAST_RETRY)
            self._due = True
            return
        self._due, self._at_rest, self._retry = False, resting, FIRST_RETRY
        self._next_report = now + self._boot["every"] * (0.75 + random.random() / 2)

    def _told(self) -> Dict[str, Any]:
        told = {name: part.told() for name, part in self._parts.items()}
        return watchdog.report(self._instance, told)

    def _leave(self) -> None:
        """Leave all there is to tell, where nobody may be there to read it yet."""
        text, missing = watchdog.system_log(self._boot["log"])
        log = {"log": text.decode("utf-8", "replace"), "log_missing": missing}
        report = packed(dict(self._told(), **log))
        for what, name, data in (
            ("the report", ".json", report),
            ("the log", ".log", text),
        ):
            key = self._boot["prefix"] + self._name + name
            form = dict(self._boot["report"])
            form["fields"] = dict(form["fields"], key=key)
            watchdog.deliver(what, form, data)

    def _post(self, name: str, data: bytes) -> None:
        post(self._boot["report"], self._boot["prefix"] + name, data)


def main(arguments: List[str]) -> int:
    """Serve the instance to its end; return the exit status."""
    if len(arguments) != 2:
        sys.stderr.write("usage: agent.py INDEX_OF_THE_FIRST LOG_COMMAND\n")
        return 2
    with open("boot.json", encoding="utf-8") as file:
        boot = dict(json.load(file), log=arguments[1])
    try:
        place, instance = metadata("ami-launch-index", "instance-id")
        Agent(boot, int(arguments[0]) + int(place), instance).run()
    except OSError as error:
        watchdog.log(f"the agent failed: {type(error).__name__}")
    finally:  # whatever failed
        if boot["keeper"]["shutdown"]:
            watchdog.power_off()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
