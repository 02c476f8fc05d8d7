#!/usr/bin/env python3
"""The runner: lets somebody's own script be a worker (docs/workers.md).

It runs beside pow.py, on any Python from 3.6 on, with the standard library only:

    python3 script_runner.py --job class-3-from-3.json --detach class-3-from-3

It starts the script with the class that it is to search, passes on what the script
says, and does for it what pow.py does for itself: it detaches, tells the progress every
second, ends at the time limit or at SIGTERM, and says the last word.

Its one rule: whatever the script does, there is exactly one last word, and nothing of
the script lives on after it.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any, Callable, Dict, List, Optional

try:
    from cnd import pow as worker
except ImportError:  # on an instance; isolated, Python does not look beside the file
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import pow as worker  # type: ignore[import-not-found, no-redef]

SCRIPTS = ("worker.py", "worker")  # what it is called here: for Python, or any program
LAST_WORDS = ("found", "exhausted", "failed")  # that a script may say
ENVELOPE = (
    "event",
    "time",
    "run",
    "verdict",
    "verdict_reason",
)  # not a script's to say
STOP_PATIENCE = 1.0  # seconds for a script to end by itself
LONGEST_LINE = 65536  # bytes
MOST_NOISE = 100  # lines that are no events, which are passed on


class Script:
    """The script's process, in a group of its own."""

    def __init__(self, command: List[str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            preexec_fn=worker.lower_priority,
        )
        assert self._process.stdout is not None
        self.descriptor = self._process.stdout.fileno()
        self._rest = b""

    def lines(self) -> Optional[List[bytes]]:
        """Return the lines that are here, or None if there will be no more."""
        data = os.read(self.descriptor, 65536)
        whole = (self._rest + data).split(b"\n")
        self._rest = whole.pop()[:LONGEST_LINE]
        if not data:  # the end; the last line may lack its newline
            last, self._rest = self._rest, b""
            return [last] if last else None
        return whole

    def end(self) -> int:
        """End it, in order if it obeys; return its exit status."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(subprocess.TimeoutExpired):
                if self._process.poll() is None:
                    self._signal(number)
                self._process.wait(STOP_PATIENCE)
                break
        self._signal(signal.SIGKILL)  # what it started and left behind
        return self._process.wait()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, number)


class Runner:
    """One class searched by a script, from `started` to the last word."""

    def __init__(self, job: Dict[str, Any], report: Any, stop: Any) -> None:
        self._job, self._report, self._stop = job, report, stop
        self._began = time.monotonic()
        self._deadline = self._began + job["time_limit"]
        self._told = (self._began, 0)  # when progress was told, and what
        # How far the script is, by its own words; what it has not said is not known.
        self._standing = {"cursor": job["start"]}
        self._noise = 0

    def run(self, started: Callable[[], None]) -> str:
        """Run the script to its end; return the kind of the last word."""
        job = self._job
        names = ("index", "of", "start", "nonces")
        told = {name: job[name] for name in names}
        self._report.event(
            "started",
            pid=os.getpid(),
            processes=1,
            kernel="own",
            python=sys.version.split()[0],
            **told,
        )
        started()
        try:
            script = Script(command(job))
        except OSError as error:
            return self._end("failed", reason=f"the script does not start: {error}")
        try:
            last = self._follow(script)
        finally:
            status = script.end()
        if last is None:
            reason = f"the script ended without a last word (exit status {status})"
            last = {"event": "failed", "reason": reason}
        kind = last.pop("event")
        return self._end(kind, **last)

    def _follow(self, script: Script) -> Optional[Dict[str, Any]]:
        """Pass on what the script says; return the last word, or None without one."""
        poll = select.poll()
        poll.register(script.descriptor, select.POLLIN | select.POLLHUP)
        poll.register(self._stop.descriptor, select.POLLIN)
        while True:
            now = time.monotonic()
            if self._stop.made:
                return {"event": "stopped"}
            if now >= self._deadline:
                return {"event": "timeout"}
            if now >= self._told[0] + self._job["progress"]:
                self._tell_progress(now)
            look = min(self._deadline, self._told[0] + self._job["progress"])
            for descriptor, _ in poll.poll(1000 * max(0.0, look - now)):
                if descriptor == self._stop.descriptor:
                    self._stop.clear()
                    continue
                lines = script.lines()
                if lines is None:
                    return None
                for line in lines:
                    last = self._take(line)
                    if last is not None:
                        return last

    def _take(self, line: bytes) -> Optional[Dict[str, Any]]:
        """Take in one line; return it if it is a last word."""
        text = line.decode("utf-8", "replace")
        try:
            record = json.loads(text)
            kind = record.get("event")
        except (ValueError, AttributeError, RecursionError):
            record, kind = {}, None
        if kind in LAST_WORDS:
            fields = {k: v for k, v in record.items() if k not in ENVELOPE}
            if kind == "exhausted":
                fields.update(self._whole_class())
            return dict(fields, event=kind)
        if kind == "progress":
            for name in ("cursor", "tested"):
                if isinstance(record.get(name), int):
                    self._standing[name] = record[name]
        elif text and self._noise < MOST_NOISE:
            self._noise += 1
            self._report.event("noise", text=text[:1000])
        return None

    def _whole_class(self) -> Dict[str, int]:
        """Return what it means to have tested the class to its end."""
        job = self._job
        size = max(0, -((job["start"] - job["nonces"]) // job["of"]))
        return {"cursor": job["start"] + size * job["of"], "tested": size}

    def _tell_progress(self, now: float) -> None:
        before, tested = self._told
        fields: Dict[str, Any] = dict(self._standing)
        if "tested" in fields:
            rate = max(0, fields["tested"] - tested) / (now - before)
            fields["rate"] = round(rate, 1)
        self._told = (now, fields.get("tested", 0))
        fields["seconds"] = round(now - self._began, 4)
        self._report.event("progress", **fields)

    def _end(self, kind: str, **fields: Any) -> str:
        seconds = max(time.monotonic() - self._began, 1e-9)
        standing = dict(self._standing, **fields)
        if isinstance(standing.get("tested"), int):
            standing["rate"] = round(standing["tested"] / seconds, 1)
        self._report.event(kind, **dict(standing, seconds=round(seconds, 4)))
        return kind


def command(job: Dict[str, Any]) -> List[str]:
    """Return how the script is called: its own words, then its class."""
    folder = os.path.dirname(os.path.abspath(__file__))
    path = os.path.join(folder, job["script"])
    if job["script"] == SCRIPTS[0]:
        program = [sys.executable, path]
    else:
        os.chmod(path, 0o700)
        program = [path]
    names = ("index", "of", "start", "nonces")
    of_class = [word for name in names for word in ("--" + name, str(job[name]))]
    return [*program, *map(str, job["words"]), *of_class]


def job_in(path: str) -> Dict[str, Any]:
    """Return the job in a file; ValueError if it is none."""
    job = worker.read_job(path)
    names = ("run", "index", "of", "start", "nonces", "time_limit", "progress", "words")
    missing = [name for name in names if name not in job]
    if missing or job.get("script") not in SCRIPTS:
        raise ValueError(f"the job file {path} is no job for a script")
    return job


def main(arguments: List[str]) -> int:
    """Run one script; return the exit status."""
    stop = worker.StopRequest()
    try:
        if len(arguments) != 4 or arguments[::2] != ["--job", "--detach"]:
            raise ValueError("usage: script_runner.py --job FILE --detach FOLDER")
        job = job_in(arguments[1])
        detached = worker.detach(arguments[3])
    except (ValueError, OSError) as error:
        worker.print_error(error)
        return worker.USAGE_STATUS
    report = worker.Reporter(sys.stdout.fileno(), job["run"], use_syslog=True)
    try:
        kind = Runner(job, report, stop).run(detached.started)
        return worker.STATUS[kind]
    except OSError as error:  # the disk is full
        worker.print_error(f"cannot go on: {error}")
        return worker.STATUS["failed"]
    finally:
        report.close()
        detached.ended()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
