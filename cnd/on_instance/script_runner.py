#!/usr/bin/env python3
"""The script runner: runs a script of the user's own as a worker (docs/workers.md).

It runs beside pow.py, on any Python from 3.6 on, with the standard library only:

    python3 script_runner.py --job class-3-from-3.json --detach class-3-from-3

It starts the script for one class, passes its events on, and does the rest that pow.py
does for itself: it detaches, reports the progress every second, ends the script at the
time limit or on SIGTERM, and writes the final event.

One rule: whatever the script does, there is exactly one final event, and no process of
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

SCRIPTS = ("worker.py", "worker")  # its file name here: of Python, of another program
FINAL_EVENTS = ("found", "exhausted", "failed")  # of a script
# Fields of an event that a script cannot set.
RESERVED = ("event", "time", "run", "verdict", "verdict_reason")
STOP_PATIENCE = 1.0  # seconds for a script to end by itself
LONGEST_LINE = 65536  # bytes
MOST_NOISE = 100  # lines that are not events and are passed on


class Script:
    """The script's process, in a process group of its own."""

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
        """Return the lines that have arrived, or None after the last one."""
        data = os.read(self.descriptor, 65536)
        whole = (self._rest + data).split(b"\n")
        self._rest = whole.pop()[:LONGEST_LINE]
        if not data:  # the end; the last line may lack its newline
            last, self._rest = self._rest, b""
            return [last] if last else None
        return whole

    def end(self) -> int:
        """Stop the script, or kill it if it does not stop; return its exit status."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(subprocess.TimeoutExpired):
                if self._process.poll() is None:
                    self._signal(number)
                self._process.wait(STOP_PATIENCE)
                break
        self._signal(signal.SIGKILL)  # processes that it started and left behind
        return self._process.wait()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, number)


class ScriptRunner:
    """One class searched by a script, from `started` to the final event."""

    def __init__(self, job: Dict[str, Any], report: Any, stop: Any) -> None:
        self._job, self._report, self._stop = job, report, stop
        self._began = time.monotonic()
        self._deadline = self._began + job["time_limit"]
        self._last_progress = (self._began, 0)  # when, and nonces tested
        # The script's progress as reported by itself; other fields are not known.
        self._progress = {"cursor": job["start"]}
        self._noise = 0

    def run(self, started: Callable[[], None]) -> str:
        """Run the script to its end; return the kind of the final event."""
        job = self._job
        names = ("index", "of", "start", "nonces")
        fields = {name: job[name] for name in names}
        self._report.event(
            "started",
            pid=os.getpid(),
            processes=1,
            kernel="own",
            python=sys.version.split()[0],
            **fields,
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
            reason = f"the script ended without a final event (exit status {status})"
            last = {"event": "failed", "reason": reason}
        kind = last.pop("event")
        return self._end(kind, **last)

    def _follow(self, script: Script) -> Optional[Dict[str, Any]]:
        """Pass the script's events on; return the final one, or None without it."""
        poll = select.poll()
        poll.register(script.descriptor, select.POLLIN | select.POLLHUP)
        poll.register(self._stop.descriptor, select.POLLIN)
        while True:
            now = time.monotonic()
            if self._stop.made:
                return {"event": "stopped"}
            if now >= self._deadline:
                return {"event": "timeout"}
            next_progress = self._last_progress[0] + self._job["progress"]
            if now >= next_progress:
                self._report_progress(now)
                next_progress = now + self._job["progress"]
            until = min(self._deadline, next_progress)
            for descriptor, _ in poll.poll(1000 * max(0.0, until - now)):
                if descriptor == self._stop.descriptor:
                    self._stop.clear()
                    continue
                lines = script.lines()
                if lines is None:
                    return None
                for line in lines:
                    last = self._handle(line)
                    if last is not None:
                        return last

    def _handle(self, line: bytes) -> Optional[Dict[str, Any]]:
        """Handle one line of the script; return it if it is a final event."""
        text = line.decode("utf-8", "replace")
        try:
            record = json.loads(text)
            kind = record.get("event")
        except (ValueError, AttributeError, RecursionError):
            record, kind = {}, None
        if kind in FINAL_EVENTS:
            fields = {k: v for k, v in record.items() if k not in RESERVED}
            if kind == "exhausted":
                fields.update(self._whole_class())
            return dict(fields, event=kind)
        if kind == "progress":
            for name in ("cursor", "tested"):
                if isinstance(record.get(name), int):
                    self._progress[name] = record[name]
        elif text and self._noise < MOST_NOISE:
            self._noise += 1
            self._report.event("noise", text=text[:1000])
        return None

    def _whole_class(self) -> Dict[str, int]:
        """Return the progress of a class that was tested to its end."""
        job = self._job
        size = max(0, -((job["start"] - job["nonces"]) // job["of"]))
        return {"cursor": job["start"] + size * job["of"], "tested": size}

    def _report_progress(self, now: float) -> None:
        before, tested = self._last_progress
        fields: Dict[str, Any] = dict(self._progress)
        if "tested" in fields:
            rate = max(0, fields["tested"] - tested) / (now - before)
            fields["rate"] = round(rate, 1)
        self._last_progress = (now, fields.get("tested", 0))
        fields["seconds"] = round(now - self._began, 4)
        self._report.event("progress", **fields)
        if self._report.is_full:
            self._report.rotate(**fields)

    def _end(self, kind: str, **fields: Any) -> str:
        seconds = max(time.monotonic() - self._began, 1e-9)
        event = dict(self._progress, **fields)
        if isinstance(event.get("tested"), int):
            event["rate"] = round(event["tested"] / seconds, 1)
        self._report.event(kind, **dict(event, seconds=round(seconds, 4)))
        return kind


def command(job: Dict[str, Any]) -> List[str]:
    """Return the script's command line: the user's arguments, then the class."""
    folder = os.path.dirname(os.path.abspath(__file__))
    path = os.path.join(folder, job["script"])
    if job["script"] == SCRIPTS[0]:
        program = [sys.executable, path]
    else:
        os.chmod(path, 0o700)
        program = [path]
    names = ("index", "of", "start", "nonces")
    of_class = [text for name in names for text in ("--" + name, str(job[name]))]
    return [*program, *map(str, job["words"]), *of_class]


def read_job(path: str) -> Dict[str, Any]:
    """Return the job in a file; ValueError if it is not a job for a script."""
    job = worker.read_job(path)
    names = ("run", "index", "of", "start", "nonces", "time_limit", "progress", "words")
    missing = [name for name in names if name not in job]
    if missing or job.get("script") not in SCRIPTS:
        raise ValueError(f"the job file {path} is not a job for a script")
    return job


def main(arguments: List[str]) -> int:
    """Run one script; return the exit status."""
    stop = worker.StopRequest()
    try:
        given = worker.job_words(arguments)
        if not given:
            usage = "usage: script_runner.py --job FILE --detach FOLDER [--echo]"
            raise ValueError(usage)
        job, folder = read_job(given["job"]), given["detach"]
        detached = worker.detach(folder, given["echo"])
    except (ValueError, OSError) as error:
        worker.print_error(error)
        return worker.USAGE_STATUS
    out = sys.stdout.fileno()
    report = worker.Reporter(out, job["run"], True, folder, echo=detached.echo)
    try:
        kind = ScriptRunner(job, report, stop).run(detached.started)
        return worker.STATUS[kind]
    except OSError as error:  # the disk is full
        worker.print_error(f"cannot go on: {error}")
        return worker.STATUS["failed"]
    finally:
        report.close()
        detached.ended()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
