#!/usr/bin/env python3
"""The worker: searches one residue class of the nonce space, on every core.

It runs alone, as one file, on any Python from 3.6 on, with the standard library only:

    python3 pow.py --block COMSM0010cloud --difficulty 2 --index 4 --of 8

It prints one event a line, as JSON, and ends with exactly one of `found`, `exhausted`,
`timeout`, `stopped` and `failed`.  Its one rule: what it says is exact.  The nonce it
finds is the smallest golden one of its class, however many cores it has; a nonce is
counted as tested once, after it was tested.

The parent hands out stretches of the class, in ascending order, to one child process
per core, and keeps the books (`Ledger`); a child only scans (`HashlibScanner`).
"""

import argparse
import contextlib
import errno
import fcntl
import hashlib
import heapq
import json
import mmap
import os
import platform
import select
import signal
import socket
import struct
import sys
import time
from binascii import hexlify
from typing import Any, Callable, Dict, List, NamedTuple, NoReturn, Optional, Tuple

VERSION = "0.1.0"
DEFAULT_BLOCK = "COMSM0010cloud"
HASH_DIGITS = 64
DEFAULT_NONCES = 2**32
MAX_NONCES = 2**64
MAX_BLOCK_BYTES = 4096
MAX_PROCESSES = 1024

# Exit status by the last event.
STATUS = {"found": 0, "failed": 1, "timeout": 10, "exhausted": 11, "stopped": 12}
USAGE_STATUS = 2

FIRST_STRETCH = 512  # nonces: about a millisecond
TARGET = 0.02  # seconds a stretch; a stop is obeyed within one
GROWTH = 4  # the most that a stretch grows over the one before
AHEAD = 2  # stretches that a child has before it, so that it never waits
SYSLOG_EVERY = 10.0  # seconds between two lines of progress in the syslog
SYSLOG_PATIENCE = 1.0  # seconds for the last line to get there
MAX_DEATHS = 3  # per process; then the machine, not the process, is at fault


# --- the proof of work


def digest(block: str, nonce: int) -> str:
    """Return the hash of `nonce` for `block`: 64 lower-case hex digits.

    The nonce stands in front, in decimal; the second SHA-256 (FIPS 180-4) reads the
    64 hex digits of the first, not its 32 bytes.
    """
    first = hashlib.sha256(b"%d" % nonce + block.encode()).hexdigest()
    return hashlib.sha256(first.encode()).hexdigest()


def is_golden(hash_digits: str, difficulty: int) -> bool:
    """Tell whether a hash begins with at least `difficulty` zeros."""
    return hash_digits.startswith("0" * difficulty)


class _SearchFields(NamedTuple):
    block: str
    difficulty: int  # leading zero hex digits of the hash, 0..64
    nonces: int  # the space is range(nonces), up to 2**64
    # The class: nonces congruent to index modulo of.  (Hides tuple.index: no loss.)
    index: int  # type: ignore[assignment]
    of: int
    start: int  # where in the class to begin


class Search(_SearchFields):
    """What to look for, and in which residue class of the nonce space.

    Raises ValueError, in one line, for a search that makes no sense.
    """

    __slots__ = ()

    def __new__(
        cls,
        block: str,
        difficulty: int,
        nonces: int = DEFAULT_NONCES,
        index: int = 0,
        of: int = 1,
        start: Optional[int] = None,
    ) -> "Search":
        first = index if start is None else start
        _check_range("difficulty", difficulty, 0, HASH_DIGITS)
        _check_range("nonces", nonces, 1, MAX_NONCES)
        if not 1 <= of <= nonces:
            raise ValueError(f"cannot split {nonces} nonces {of} ways")
        _check_range("index", index, 0, of - 1)
        if first % of != index or first < 0:
            name = f"class {index} modulo {of}"
            raise ValueError(f"start must be a nonce of {name}, not {first}")
        try:
            size = len(block.encode())
        except UnicodeEncodeError:
            raise ValueError(f"block is not text in UTF-8: {block!r}") from None
        if size > MAX_BLOCK_BYTES:
            limit = f"at most {MAX_BLOCK_BYTES} bytes"
            raise ValueError(f"block must be {limit}, not {size}")
        return super().__new__(cls, block, difficulty, nonces, index, of, first)

    @property
    def size(self) -> int:
        """How many nonces there are to test, from `start` on."""
        return max(0, -((self.start - self.nonces) // self.of))

    def nonce(self, position: int) -> int:
        """Return the nonce at `position` (0 is `start`)."""
        return self.start + position * self.of


class Order(NamedTuple):
    """A search, and how to go about it."""

    search: Search
    processes: int
    time_limit: Optional[float] = None  # seconds
    progress: float = 1.0  # seconds between two progress events
    kernel: str = "auto"
    run: str = ""  # a name that the events carry
    syslog: bool = True


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must be {low} to {high}, not {value}")


# --- the seam: whoever can scan


class HashlibScanner:
    """Scans with the standard library: slow, and right everywhere."""

    name = "hashlib"

    def __init__(self, block: str, difficulty: int) -> None:
        self._message = b"%d" + block.encode().replace(b"%", b"%%")
        # Golden means that the hash, as a number, is below this one.
        bits = 4 * (HASH_DIGITS - difficulty)
        above_all = b"\xff" * 33
        self._limit = (1 << bits).to_bytes(32, "big") if difficulty else above_all
        self.tested = 0  # nonces of the last stretch that were tested

    def scan(self, start: int, step: int, count: int) -> Optional[int]:
        """Return the first golden nonce of a stretch, or None.

        The stretch is start, start + step, ..., `count` nonces.  `tested` tells
        afterwards how many of them were tested, up to the golden one.
        """
        sha256, message, limit, hexed = (
            hashlib.sha256,
            self._message,
            self._limit,
            hexlify,
        )
        for nonce in range(start, start + step * count, step):
            first = sha256(message % nonce).digest()
            if sha256(hexed(first)).digest() < limit:
                self.tested = (nonce - start) // step + 1
                return nonce
        self.tested = count
        return None


def make_scanner(order: Order) -> HashlibScanner:
    """Return what scans for `order`; ValueError if it names a kernel unknown here."""
    if order.kernel not in ("auto", HashlibScanner.name):
        raise ValueError(f"no such kernel here: {order.kernel!r}; there is hashlib")
    return HashlibScanner(order.search.block, order.search.difficulty)


# --- the books


class Ledger:
    """Which positions are handed out, tested and left; pure, no processes.

    Positions count the members of the class from 0.  All that are below `cursor`
    have been tested.  Once there is a hit, only what lies below it matters.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.tested = 0
        self.cursor = 0
        self.hit = None  # type: Optional[int]
        self._next = 0
        self._out = {}  # type: Dict[int, List[Tuple[int, int]]]
        self._again = []  # type: List[Tuple[int, int]]
        self._done = []  # type: List[Tuple[int, int]]

    def take(self, child: int, count: int) -> Optional[Tuple[int, int]]:
        """Hand out up to `count` positions to `child`: (first, how many), or None."""
        end = self.size if self.hit is None else self.hit
        if self._again and self._again[0][0] < end:
            stretch = heapq.heappop(self._again)
        elif self._next < end:
            stretch = (self._next, min(count, self.size - self._next))
            self._next += stretch[1]
        else:
            return None
        self._out.setdefault(child, []).append(stretch)
        return stretch

    def done(self, child: int, tested: int, hit: bool) -> None:
        """Book `child`'s oldest stretch: its first `tested` positions were tested."""
        first, count = self._out[child].pop(0)
        end = first + tested
        self.tested += tested
        if hit and (self.hit is None or end - 1 < self.hit):
            self.hit = end - 1
        if tested < count:
            heapq.heappush(self._again, (end, count - tested))
        heapq.heappush(self._done, (first, end))
        while self._done and self._done[0][0] == self.cursor:
            self.cursor = heapq.heappop(self._done)[1]

    def lost(self, child: int) -> None:
        """Take back what a dead child had; it was not tested, as far as known."""
        for stretch in self._out.pop(child, []):
            heapq.heappush(self._again, stretch)

    def held(self, child: int) -> int:
        """Return how many stretches `child` has before it."""
        return len(self._out.get(child, ()))

    @property
    def over(self) -> bool:
        """Whether nothing is left that could change the answer."""
        end = self.size if self.hit is None else self.hit
        held = [first for stretches in self._out.values() for first, _ in stretches]
        waiting = [first for first, _ in self._again]
        return self._next >= end and not any(f < end for f in held + waiting)


# --- child processes

REQUEST = struct.Struct("<QQ")  # first nonce, how many
REPLY = struct.Struct("<Q?d")  # tested, whether the last of them is golden, seconds


class Child:
    """One core's process, as its parent sees it."""

    def __init__(self, number: int, pid: int, channel: socket.socket) -> None:
        self.number = number
        self.pid = pid
        self.channel = channel
        self.stretch = FIRST_STRETCH
        self.partial = b""

    def hand(self, first: int, count: int) -> None:
        """Send one request; a dead child is noticed when its answer is awaited."""
        try:
            self.channel.sendall(REQUEST.pack(first, count))
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                raise

    def replies(self) -> Optional[List[Tuple[int, bool, float]]]:
        """Return the replies that are here, or None if the child is dead."""
        try:
            received = self.channel.recv(4096)
        except ConnectionResetError:
            received = b""
        if not received:
            return None
        self.partial += received
        whole = len(self.partial) // REPLY.size * REPLY.size
        ready, self.partial = self.partial[:whole], self.partial[whole:]
        return list(REPLY.iter_unpack(ready))

    def end(self) -> None:
        """Kill it; it holds nothing that could be lost."""
        self.channel.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def _serve(
    channel: socket.socket, scanner: HashlibScanner, step: int, flag: mmap.mmap
) -> None:
    """Scan what is asked for until the parent is gone or the flag is up."""
    request = b""
    while True:
        while len(request) < REQUEST.size:
            received = channel.recv(4096)
            if not received:
                return
            request += received
        start, count = REQUEST.unpack(request[: REQUEST.size])
        request = request[REQUEST.size :]
        if flag[0]:
            channel.sendall(REPLY.pack(0, False, 0.0))
            continue
        began = time.perf_counter()
        nonce = scanner.scan(start, step, count)
        took = time.perf_counter() - began
        channel.sendall(REPLY.pack(scanner.tested, nonce is not None, took))


class Crew:
    """The child processes, and the stop flag that they share."""

    def __init__(self, search: Search, scanner: HashlibScanner, size: int) -> None:
        self._search = search
        self._scanner = scanner
        self._flag = mmap.mmap(-1, mmap.PAGESIZE)  # shared with every child
        self._deaths = 0
        self._limit = MAX_DEATHS * size
        self.children = {}  # type: Dict[int, Child]
        for number in range(size):
            self._fork(number)

    def hurry(self, wanted: bool) -> None:
        """Raise or lower the flag: under it, stretches come back untested."""
        self._flag[0] = wanted

    def replace(self, child: Child) -> None:
        """Fork again for a child that died, unless that is hopeless."""
        self._remove(child)
        self._deaths += 1
        if self._deaths < self._limit:
            self._fork(child.number)

    def end(self) -> None:
        """End all children."""
        for child in list(self.children.values()):
            self._remove(child)

    def _remove(self, child: Child) -> None:
        del self.children[child.channel.fileno()]
        child.end()

    def _fork(self, number: int) -> None:
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid:
            theirs.close()
            self.children[ours.fileno()] = Child(number, pid, ours)
            return
        try:
            # A copy of a sibling's end would keep that sibling alive after us.
            ours.close()
            for sibling in self.children.values():
                sibling.channel.close()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's business
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            _serve(theirs, self._scanner, self._search.of, self._flag)
        except OSError:
            pass  # the parent is gone
        finally:
            os._exit(0)


# --- telling


class Reporter:
    """Writes events, each line at once and whole; the important ones to syslog too."""

    def __init__(self, descriptor: int, run: str, use_syslog: bool) -> None:
        self._descriptor = descriptor
        self._run = run
        self._syslog = Syslog() if use_syslog else None
        self._logged = time.monotonic()

    def event(self, kind: str, **fields: Any) -> None:
        """Write one event; `progress` goes to the syslog only now and then."""
        record = {"event": kind, "time": round(time.time(), 3)}  # type: Dict[str, Any]
        if self._run:
            record["run"] = self._run
        record.update(fields)
        line = (json.dumps(record) + "\n").encode()
        while line:
            line = line[os.write(self._descriptor, line) :]
        now = time.monotonic()
        if self._syslog and (kind != "progress" or now >= self._logged + SYSLOG_EVERY):
            self._logged = now
            told = (
                f"{name}={value}" for name, value in record.items() if name != "event"
            )
            self._syslog.line(f"{kind} {' '.join(told)}")

    def close(self) -> None:
        if self._syslog:
            self._syslog.close()


class Syslog:
    """The `logger` program, fed line by line; without one, nothing is logged."""

    def __init__(self) -> None:
        reader, self._pipe = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                null = os.open(os.devnull, os.O_RDWR)
                for source, target in ((reader, 0), (null, 1), (null, 2)):
                    os.dup2(source, target)
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                os.execvp("logger", ["logger", "-t", "cnd-pow"])
            finally:
                os._exit(127)
        os.close(reader)
        # A logger that hangs must never hold up the search.
        os.set_blocking(self._pipe, False)

    def line(self, text: str) -> None:
        # No logger, or one that hangs: the events are the record.
        with contextlib.suppress(OSError):
            os.write(self._pipe, text.encode() + b"\n")

    def close(self) -> None:
        """Let the last line get there, within reason."""
        os.close(self._pipe)
        deadline = time.monotonic() + SYSLOG_PATIENCE
        while os.waitpid(self._pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline:
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
                return
            time.sleep(0.002)


# --- the search


class Worker:
    """One search on all cores, from `started` to its last event."""

    def __init__(
        self, order: Order, report: Reporter, started: Callable[[], None]
    ) -> None:
        self._order = order
        self._search = order.search
        self._report = report
        self._started = started  # called after the first event
        self._scanner = make_scanner(order)
        self._ledger = Ledger(order.search.size)
        self._began = time.monotonic()
        limit = order.time_limit
        self._deadline = None if limit is None else self._began + limit
        self._told = (self._began, 0)  # when progress was told, and what
        self._ending = ""  # "stopped" or "timeout", once decided

    def run(self) -> str:
        """Search; return the kind of the last event."""
        wakeup, wakes = os.pipe()
        os.set_blocking(wakes, False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.set_wakeup_fd(wakes)
        self._tell_start()
        self._started()
        crew = Crew(self._search, self._scanner, self._order.processes)
        try:
            while not self._over(crew):
                self._hand_out(crew)
                self._wait(crew, wakeup)
                self._look_at_clock(crew)
        finally:
            crew.end()
        return self._tell_end(crew)

    def _stop(self, number: int, frame: Any) -> None:
        self._ending = self._ending or "stopped"

    def _over(self, crew: Crew) -> bool:
        if self._ledger.over or not crew.children:
            return True
        held = sum(self._ledger.held(c.number) for c in crew.children.values())
        return not self._wanted and held == 0

    @property
    def _wanted(self) -> bool:
        """Whether stretches are still to be tested; below a hit they always are."""
        return not self._ending or self._ledger.hit is not None

    def _hand_out(self, crew: Crew) -> None:
        for child in crew.children.values():
            while self._wanted and self._ledger.held(child.number) < AHEAD:
                stretch = self._ledger.take(child.number, child.stretch)
                if stretch is None:
                    break
                child.hand(self._search.nonce(stretch[0]), stretch[1])

    def _wait(self, crew: Crew, wakeup: int) -> None:
        """Wait for an answer, a signal or the clock; book the answers."""
        timeout = max(0.0, self._next_look() - time.monotonic())
        readable, _, _ = select.select([wakeup, *crew.children], [], [], timeout)
        for descriptor in readable:
            if descriptor == wakeup:
                os.read(wakeup, 512)
                continue
            child = crew.children[descriptor]
            replies = child.replies()
            if replies is None:
                self._ledger.lost(child.number)
                crew.replace(child)
                continue
            for tested, hit, took in replies:
                self._ledger.done(child.number, tested, hit)
                child.stretch = _next_stretch(child.stretch, tested, took)

    def _next_look(self) -> float:
        progress = self._told[0] + self._order.progress
        if self._deadline is None or self._ending:
            return progress
        return min(progress, self._deadline)

    def _look_at_clock(self, crew: Crew) -> None:
        now = time.monotonic()
        if self._deadline is not None and now >= self._deadline:
            self._ending = self._ending or "timeout"
        crew.hurry(not self._wanted)
        if not self._ending and now >= self._told[0] + self._order.progress:
            self._tell_progress(now)

    def _tell_start(self) -> None:
        search = self._search
        self._report.event(
            "started",
            pid=os.getpid(),
            index=search.index,
            of=search.of,
            start=search.start,
            nonces=search.nonces,
            difficulty=search.difficulty,
            processes=self._order.processes,
            kernel=self._scanner.name,
            python=platform.python_version(),
            version=VERSION,
        )

    def _tell_progress(self, now: float) -> None:
        before, tested = self._told
        self._told = (now, self._ledger.tested)
        rate = (self._ledger.tested - tested) / (now - before)
        self._report.event("progress", rate=round(rate, 1), **self._standing(now))

    def _tell_end(self, crew: Crew) -> str:
        now, ledger = time.monotonic(), self._ledger
        standing = self._standing(now)
        rate = ledger.tested / max(now - self._began, 1e-9)
        standing["rate"] = round(rate, 1)
        if ledger.over and ledger.hit is not None:
            nonce = self._search.nonce(ledger.hit)
            found = {"nonce": nonce, "hash": digest(self._search.block, nonce)}
            self._report.event("found", **found, **standing)
            return "found"
        if ledger.over:
            kind = "exhausted"
        elif not crew.children and not self._ending:
            standing["reason"] = "its processes keep dying"
            kind = "failed"
        else:
            kind = self._ending
        self._report.event(kind, **standing)
        return kind

    def _standing(self, now: float) -> Dict[str, Any]:
        return {
            "cursor": self._search.nonce(self._ledger.cursor),
            "tested": self._ledger.tested,
            "seconds": round(now - self._began, 4),
        }


def _next_stretch(stretch: int, tested: int, took: float) -> int:
    """Return how many nonces would take `TARGET` seconds, going by the last stretch."""
    if tested == 0 or took <= 0:
        return stretch
    return max(1, min(int(tested * TARGET / took), GROWTH * stretch))


# --- detached


def detach(folder: str) -> Callable[[], None]:
    """Go on as a process of its own in `folder`; return what to call once started.

    The caller's process waits for that call, then says which process it is and
    exits.  Two workers never run in one folder: the lock on `worker.pid` lives as
    long as the worker and its children.
    """
    os.makedirs(folder, mode=0o700, exist_ok=True)
    pid_file = _locked(os.path.join(folder, "worker.pid"))
    ours, theirs = os.pipe()
    if os.fork():
        os.close(theirs)
        _leave(ours, folder)
    os.setsid()
    if os.fork():
        os._exit(0)  # not a session leader: it can never get a terminal
    os.close(ours)
    os.chdir(folder)
    _redirect()
    os.ftruncate(pid_file, 0)
    os.write(pid_file, b"%d\n" % os.getpid())

    def started() -> None:
        os.write(theirs, b"%d" % os.getpid())
        os.close(theirs)

    return started


def _locked(path: str) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.read(descriptor, 20).decode().strip()
        message = f"a worker runs in this folder already (process {pid})"
        raise ValueError(message) from None
    return descriptor


def _leave(handshake: int, folder: str) -> NoReturn:
    """Say which process goes on, once it has started; else pass on its complaint."""
    pid = os.read(handshake, 20)
    if pid:
        sys.stdout.write(json.dumps({"event": "detached", "pid": int(pid)}) + "\n")
        sys.stdout.flush()
        os._exit(0)
    with open(os.path.join(folder, "worker.err")) as file:
        sys.stderr.write(file.read()[-1000:] or "the worker died\n")
    sys.stderr.flush()
    os._exit(1)


def _redirect() -> None:
    """Take stdin from nowhere; events and complaints go to files."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    events = os.open("events.jsonl", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    size = os.fstat(events).st_size
    if size and os.pread(events, 1, size - 1) != b"\n":
        os.write(events, b"\n")  # a crash left half a line
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    complaints = os.open("worker.err", flags, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (events, 1), (complaints, 2)):
        os.dup2(source, target)
        os.close(source)


# --- the command line


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


DEFAULTS = {
    "block": DEFAULT_BLOCK,
    "difficulty": None,
    "index": 0,
    "of": 1,
    "nonces": DEFAULT_NONCES,
    "start": None,
    "time_limit": None,
    "processes": None,
    "progress": 1.0,
    "kernel": "auto",
    "run": "",
    "syslog": True,
}  # type: Dict[str, Any]


def parse(arguments: List[str]) -> Tuple[Dict[str, Any], str]:
    """Return the options (flags over job file over defaults) and where to detach."""
    parser = _parser()
    given = vars(parser.parse_args(arguments))
    folder = given.pop("detach", "")
    job = _read_job(given.pop("job")) if "job" in given else {}
    known = {name: job[name] for name in DEFAULTS if name in job}
    options = dict(DEFAULTS)
    options.update(known)
    options.update(given)
    return options, folder


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pow.py",
        description="Search one residue class of the nonce space for a golden nonce.",
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("--block", help=f"the block's text ({DEFAULT_BLOCK})")
    add("--difficulty", help="leading zero hex digits of the hash, 0 to 64")
    add("--index", help="the class: nonces congruent to it modulo --of (0)")
    add("--of", help="how many classes there are (1)")
    add("--nonces", help="size of the nonce space, up to 2**64 (2**32)")
    add("--start", help="the nonce of the class to begin with (the first)")
    add("--time-limit", help="seconds after which to give up (never)")
    add("--processes", help="how many processes (one per usable core)")
    add("--progress", help="seconds between two progress events (1)")
    add("--kernel", help="auto or hashlib (auto)")
    add("--run", help="a name that the events carry")
    add("--job", metavar="FILE", help="take options from a JSON object")
    add("--detach", metavar="FOLDER", help="go on in the background, in this folder")
    add("--no-syslog", dest="syslog", action="store_false", help="log no line")
    return parser


def _read_job(path: str) -> Dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            job = json.load(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the job file {path}: {error}") from None
    if not isinstance(job, dict):
        raise ValueError(f"the job file {path} holds no JSON object")
    return job


def checked(options: Dict[str, Any]) -> Order:
    """Return what `options` ask for; ValueError, in one line, if they make no sense."""
    if options["difficulty"] is None:
        raise ValueError("difficulty is missing: say --difficulty 2")
    start, limit = options["start"], options["time_limit"]
    search = Search(
        _text("block", options["block"]),
        _whole("difficulty", options["difficulty"]),
        _whole("nonces", options["nonces"]),
        _whole("index", options["index"]),
        _whole("of", options["of"]),
        None if start is None else _whole("start", start),
    )
    processes = _whole("processes", options["processes"] or usable_cores())
    _check_range("processes", processes, 1, MAX_PROCESSES)
    order = Order(
        search,
        processes,
        None if limit is None else _seconds("time limit", limit),
        _seconds("progress", options["progress"]),
        _text("kernel", options["kernel"]),
        _text("run", options["run"]),
        bool(options["syslog"]),
    )
    make_scanner(order)
    return order


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, not {value!r}")
    return value


def _whole(name: str, value: Any) -> int:
    try:
        if isinstance(value, (int, str)) and not isinstance(value, bool):
            return int(value)
    except ValueError:
        pass
    raise ValueError(f"{name} must be a whole number, not {value!r}")


def _seconds(name: str, value: Any) -> float:
    try:
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            number = float(value)
            if 0 < number < 1e9:
                return number
    except ValueError:
        pass
    raise ValueError(f"{name} must be a number of seconds above 0, not {value!r}")


def main(arguments: List[str]) -> int:
    """Run one search; return the exit status."""
    try:
        options, folder = parse(arguments)
        order = checked(options)
        started = detach(folder) if folder else _nothing
    except (ValueError, OSError) as error:
        sys.stderr.write(f"pow.py: {error}\n")
        return USAGE_STATUS
    report = Reporter(sys.stdout.fileno(), order.run, order.syslog)
    try:
        return STATUS[Worker(order, report, started).run()]
    except BrokenPipeError:
        return STATUS["failed"]  # nobody reads the events any more
    finally:
        report.close()


def _nothing() -> None:
    """Nobody waits for the start of a worker that is not detached."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
