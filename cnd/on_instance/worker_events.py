"""The events of an instance's workers, kept and packed for a report in S3.

It runs on any Python from 3.6 on, with the standard library only.

One rule: a report does not grow with the search.  Of a worker's progress it has the
latest only, with all witnesses so far or the strongest of them, and there are limits
for the number of lines, of witnesses and of bytes.
"""

import contextlib
import hashlib
import json
import os
import sys
import time
from typing import Any, Dict, Iterator, List, Optional, Tuple

try:
    from cnd.on_instance import http_client
except ImportError:  # on an instance; isolated, Python does not look beside the file
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import http_client  # type: ignore[import-not-found, no-redef]

KEPT_LINES = 500  # of a worker, besides its latest progress
# Of a worker's witnesses.  If there are more, only those with one zero bit more are
# kept: about a half.
KEPT_WITNESSES = 1024
MOST_BYTES = 1 << 20  # of the events of all workers of an instance
FINAL_EVENTS = ("found", "exhausted", "timeout", "stopped", "failed")
Parts = Dict[str, List[Tuple[int, str]]]  # name of a part -> its numbered lines


def digest(block: str, nonce: int) -> str:
    """Return the hash of a nonce, as `pow.digest`."""
    first = hashlib.sha256(b"%d" % nonce + block.encode()).hexdigest()
    return hashlib.sha256(first.encode()).hexdigest()


class EventBuffer:
    """The events of one worker to report: all of them, but only the latest progress.

    The latest progress has the witnesses of all progress events before it, too.
    """

    def __init__(self, path: str, block: str = "", bits: int = 0) -> None:
        """Read events from `path`; a witness for `block` has `bits` zero bits."""
        self._path = path
        self._block, self._bits = block, bits
        self._witnesses: List[Tuple[int, int]] = []  # nonce, its zero bits
        self._thinned_to: Optional[int] = None
        self._last = -1  # the highest witness
        self._position = 0
        self._generation = ""  # of the file; a position counts in one only
        self._count = 0
        self._kept: List[Tuple[int, str]] = []
        self._progress: Optional[Tuple[int, str]] = None
        self.ended = False

    def read(self) -> bool:
        """Read the new events; return whether they are to be reported at once."""
        urgent = False
        for text in self._new_lines():
            record = http_client.json_object(text.encode())
            event = record.get("event")
            if record.pop("rotated", None) is not None:  # it sums up what was read
                text = json.dumps(record)
            if isinstance(record.get("witnesses"), list):
                text = self._with_all_witnesses(record)
            urgent |= self.add(text, progress=event == "progress")
            self.ended |= event in FINAL_EVENTS
        return urgent

    def add(self, text: str, progress: bool = False) -> bool:
        """Add a line; return whether it is more than progress."""
        self._count += 1
        if progress:
            self._progress = (self._count, text)
        else:
            self._kept = [*self._kept[-KEPT_LINES:], (self._count, text)]
        return not progress

    def _with_all_witnesses(self, record: Dict[str, Any]) -> str:
        """Return an event with all witnesses so far, or the strongest of them."""
        thinned_to = record.get("thinned_to")
        if isinstance(thinned_to, int):
            self._thinned_to = max(thinned_to, self._thinned_to or 0)
        for nonce in record["witnesses"]:
            if not isinstance(nonce, int) or nonce <= self._last:
                continue
            self._last = nonce
            hashed = int(digest(self._block, nonce), 16)
            self._witnesses.append((nonce, 256 - hashed.bit_length()))
        while len(self._witnesses) > KEPT_WITNESSES:
            self._thinned_to = (self._thinned_to or self._bits) + 1
            kept = [each for each in self._witnesses if each[1] >= self._thinned_to]
            self._witnesses = kept
        record["witnesses"] = [nonce for nonce, _ in self._witnesses]
        record["shown"] = 0  # none were shown before these
        if self._thinned_to is not None:
            record["thinned_to"] = self._thinned_to
        return json.dumps(record)

    def fail(self, reason: str) -> None:
        """Add, in place of the worker, the event that it has failed."""
        self.add(json.dumps({"event": "failed", "reason": reason}))
        self.ended = True

    def numbered(self) -> List[Tuple[int, str]]:
        """Return the lines with their numbers, from 1 on."""
        latest = [self._progress] if self._progress else []
        return sorted(self._kept + latest)

    def _current_generation(self) -> str:
        """Return how often the worker has replaced its events: see `pow.Reporter`."""
        path = os.path.join(os.path.dirname(self._path), "rotated")
        with contextlib.suppress(OSError), open(path) as file:
            return file.read(20)
        return ""

    def _new_lines(self) -> Iterator[str]:
        """Yield the new lines that are whole; they may be many."""
        with contextlib.suppress(OSError), open(self._path, "rb") as file:
            generation = self._current_generation()
            size = os.fstat(file.fileno()).st_size
            if size < self._position or generation != self._generation:
                self._position = 0  # the worker has replaced its events by a summary
            self._generation = generation
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._position += len(line)
                yield line[:-1].decode("utf-8", "replace")


def report(instance: str, parts: Parts) -> Dict[str, Any]:
    """Return the report of an instance: the events of its workers."""
    return {"instance": instance, "time": round(time.time(), 3), "parts": parts}


def packed(instance: str, parts: Parts) -> bytes:
    """Return a report as JSON: of too many bytes, the newest lines."""
    data = b""
    for most in (KEPT_LINES + 1, 50, 5, 1):
        newest = {name: lines[-most:] for name, lines in parts.items()}
        data = json.dumps(report(instance, newest)).encode()
        if len(data) <= MOST_BYTES:
            break
    return data
