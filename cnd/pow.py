#!/usr/bin/env python3
"""The worker: searches one residue class of the nonce space, on every core.

It runs alone, as one file, on any Python from 3.6 on, with the standard library only:

    python3 pow.py --block COMSM0010cloud --difficulty 2 --index 4 --of 8

It prints one event a line, as JSON, and ends with exactly one of `found`, `exhausted`,
`timeout`, `stopped` and `failed`.  Its one rule: what it says is exact.  The nonce it
finds is the smallest golden one of its class, however many cores it has; a nonce is
counted as tested once, after it was tested.  On request it proves its work: it also
shows its witnesses, the nonces with some zero bits, fewer than a golden one has.

The parent hands out stretches of the class, in ascending order, to one child process
per core, and keeps the books (`Ledger`); a child only scans, with the fastest native
kernel that proved itself (`NativeScanner`) or else with hashlib (`HashlibScanner`).
"""

import contextlib
import fcntl
import functools
import hashlib
import heapq
import json
import mmap
import os
import select
import signal
import struct
import sys
import time
from binascii import hexlify
from typing import (
    Any,
    Callable,
    Dict,
    List,
    NamedTuple,
    NoReturn,
    Optional,
    Sequence,
    Tuple,
)

VERSION = "0.1.0"
DEFAULT_BLOCK = "COMSM0010cloud"
HASH_DIGITS = 64
DEFAULT_NONCES = 2**32
MAX_NONCES = 2**64
MAX_BLOCK_BYTES = 4096
MAX_RUN_LENGTH = 100
MAX_PROCESSES = 1024

# Exit status by the last event.
STATUS = {"found": 0, "failed": 1, "timeout": 10, "exhausted": 11, "stopped": 12}
USAGE_STATUS = 2

FIRST_STRETCH = 512  # nonces: about half a millisecond
TARGET = 0.05  # seconds a stretch, so that the parent has little to do
GROWTH = 4  # the most that a stretch grows over the one before
AHEAD = 2  # stretches that a child has before it, so that it never waits
PACE_MEMORY = 0.5  # seconds that a paced worker may be late and catch up
PACED_ALONE = 500000  # nonces/s that one process does, whatever the kernel
PACED_PLAIN = 50000  # nonces/s; below, trying the kernels costs more than it saves
PACED_STRETCHES = 2  # of a paced worker between two words on its progress
FIRST_PACED = 0.01  # seconds of its first stretch
POLL = 1000  # nonces between two looks at the stop flag: about a millisecond
LINGER = 3.0  # seconds a detached worker stays after its last word
END_PATIENCE = 1.0  # seconds for the children's last answers; a frozen one has none
START_PATIENCE = 30.0  # seconds for a detached worker's first event
YOUNG = 1.0  # seconds; a child that dies younger was not kept alive
MAX_YOUNG_DEATHS = 3  # in a row, of one core; then the core is given up
SYSLOG_EVERY = 10.0  # seconds between two lines of progress in the syslog
SYSLOG_PATIENCE = 1.0  # seconds for the last line to get there
# Of more witnesses than these only the strongest are shown: a line stays below 48 KiB,
# all lines below 24 KiB/s.
WITNESSES_AT_ONCE = 2000
WITNESSES_AT_FIRST, WITNESSES_A_SECOND = 1500, 1000
WITNESSES_LEFT = 512  # so many must be left, of all, when the weaker are left out
LONGEST_WAIT = 3600.0  # seconds; poll(2) counts milliseconds in 32 bits
MIN_PROGRESS, MAX_SECONDS, MAX_RATE = 0.01, 1e9, 1e15


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


def zero_bits(hash_digits: str) -> int:
    """Return with how many zero bits a hash begins, 0 to 256."""
    return 4 * HASH_DIGITS - int(hash_digits, 16).bit_length()


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


class WorkerOptions(NamedTuple):
    """A search, and how to go about it."""

    search: Search
    processes: int
    time_limit: Optional[float] = None  # seconds
    progress: float = 1.0  # seconds between two progress events
    kernel: str = "auto"
    run: str = ""  # a name that the events carry
    syslog: bool = True
    rate: Optional[float] = None  # the most nonces a second, of all processes
    witness_bits: Optional[int] = None  # zero bits of a witness; None: show none


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must be {low} to {high}, not {value}")


# --- the seam: whoever can scan


class HashlibScanner:
    """Scans with the standard library: slow, and right everywhere.

    `stop[0]` is looked at every millisecond or so; once it is not 0, `scan` returns
    early.  It is a C int in memory shared with the parent, fit for a native kernel.
    """

    name = "hashlib"
    witnesses = ()  # type: Sequence[int]

    def __init__(self, block: str, difficulty: int, stop: Sequence[int] = (0,)) -> None:
        self._message = b"%d" + block.encode().replace(b"%", b"%%")
        # Golden means that the hash, as a number, is below this one.
        bits = 4 * (HASH_DIGITS - difficulty)
        above_all = b"\xff" * 33
        self._limit = (1 << bits).to_bytes(32, "big") if difficulty else above_all
        self._stop = stop
        self.tested = 0  # nonces of the last stretch that were tested

    def scan(self, start: int, step: int, count: int) -> Optional[int]:
        """Return the first golden nonce of a stretch, or None.

        The stretch is start, start + step, ..., `count` nonces.  `tested` tells
        afterwards how many of them were tested: up to the golden one, or to the stop.
        """
        end = start + step * count
        for first in range(start, end, step * POLL):
            if self._stop[0]:
                self.tested = (first - start) // step
                return None
            nonce = self._first_golden(
                range(first, min(end, first + step * POLL), step)
            )
            if nonce is not None:
                self.tested = (nonce - start) // step + 1
                return nonce
        self.tested = count
        return None

    def _first_golden(self, nonces: range) -> Optional[int]:
        # Names of its own, %-formatting and bytes throughout: measured the fastest
        # form that works for every step (tests/bench/bench_pow.py).
        sha256, hexed, message, limit = (
            hashlib.sha256,
            hexlify,
            self._message,
            self._limit,
        )
        for nonce in nonces:
            if sha256(hexed(sha256(message % nonce).digest())).digest() < limit:
                return nonce
        return None


class Witnessing:
    """Finds golden nonces with a scanner that stops at less, and notes the witnesses.

    The scanner counts whole hex digits; what it stops at is hashed again here.
    """

    def __init__(
        self,
        make: Callable[[str, int, Sequence[int]], Any],
        search: Search,
        bits: int,
        stop: Sequence[int],
    ) -> None:
        """Make a scanner for `search`.

        Args:
            make: a scanner, from a block, a difficulty and a stop flag.
            bits: zero bits of a witness, fewer than a golden nonce has.
        """
        self._scanner = make(search.block, bits // 4, stop)
        self._search, self._bits = search, bits
        self.tested = 0  # nonces of the last stretch that were tested
        self.witnesses = []  # type: List[int]

    def scan(self, start: int, step: int, count: int) -> Optional[int]:
        """Return the first golden nonce of a stretch, or None, as `HashlibScanner`.

        `witnesses` has those before it afterwards, in ascending order.
        """
        block, difficulty = self._search.block, self._search.difficulty
        self.tested, self.witnesses = 0, []
        while self.tested < count:
            first = start + step * self.tested
            nonce = self._scanner.scan(first, step, count - self.tested)
            self.tested += self._scanner.tested
            if nonce is None:
                break
            hash_digits = digest(block, nonce)
            if is_golden(hash_digits, difficulty):
                return int(nonce)
            if zero_bits(hash_digits) >= self._bits:
                self.witnesses.append(nonce)
        return None


class Paced:
    """A scanner that is held to `rate` nonces a second, on average.

    A stretch counts as tested when its time has come, so what a paced worker says is
    what a slower machine would say.
    """

    def __init__(
        self, scanner: Any, rate: float, stop: Sequence[int], bell: int
    ) -> None:
        """Make a scanner that waits.

        Args:
            bell: a descriptor that can be read when `stop` was raised.
        """
        self._scanner, self._rate, self._stop = scanner, rate, stop
        self._bell = bell
        self._due = time.monotonic()  # when what was tested so far is paid for

    @property
    def tested(self) -> int:
        """Nonces of the last stretch that were tested."""
        return int(self._scanner.tested)

    @property
    def witnesses(self) -> Sequence[int]:
        """The witnesses of the last stretch."""
        found = self._scanner.witnesses  # type: Sequence[int]
        return found

    def scan(self, start: int, step: int, count: int) -> Optional[int]:
        """Scan as the scanner, then wait until that may be over, or for the stop."""
        nonce = self._scanner.scan(start, step, count)  # type: Optional[int]
        # Time that was not used is not saved up for long.
        since = max(self._due, time.monotonic() - PACE_MEMORY)
        self._due = since + self.tested / self._rate
        while not self._stop[0]:
            left = self._due - time.monotonic()
            if left <= 0:
                break
            # Whoever shares a machine with hundreds must not wake up to look.
            rung, _, _ = select.select([self._bell], [], [], left)
            if rung:
                os.read(self._bell, 512)
        return nonce


# --- the native kernels

LIBRARY = "libcndpow.so"  # beside this file; built from cnd/kernel/
TRIAL_SLICE = 0.0003  # seconds; three of them are a kernel's trial
TRIAL_START = 10**9  # ten digits, like most nonces of the default space
PROOF_PATIENCE = 5.0  # seconds for a kernel's proof and trial, some milliseconds' work
FOUND, STOPPED, BAD = 1, 2, -1  # what cnd_scan returns: cnd/kernel/scan.h


class Refused(Exception):
    """A library or kernel that is not used, and why."""


class Kernel(NamedTuple):
    """Whoever scans, and why others do not."""

    name: str
    make: Callable[[str, int, Sequence[int]], Any]  # a scanner: block, difficulty, stop
    refused: Dict[str, str]  # by name of the kernel, or of the library


class NativeScanner:
    """Scans with one kernel of the library; as exact as `HashlibScanner`.

    The library looks at `stop` every few microseconds.
    """

    witnesses = ()  # type: Sequence[int]

    def __init__(
        self,
        library: Any,
        number: int,
        block: str,
        difficulty: int,
        stop: Optional[memoryview] = None,
    ) -> None:
        import ctypes  # some Pythons lack it; then there is no library either

        self._block = block.encode()
        self._tested, self._nonce = ctypes.c_uint64(), ctypes.c_uint64()
        flag = None if stop is None else ctypes.c_int.from_buffer(stop)
        self._before = (number, self._block, len(self._block), difficulty)
        self._after = (
            None if flag is None else ctypes.byref(flag),
            ctypes.byref(self._tested),
            ctypes.byref(self._nonce),
        )
        self._scan = library.cnd_scan
        self.tested = 0

    def scan(self, start: int, step: int, count: int) -> Optional[int]:
        """Return the first golden nonce of a stretch, or None, as `HashlibScanner`."""
        result = self._scan(*self._before, start, step, count, *self._after)
        if result == BAD:
            raise ValueError(f"the kernel cannot scan {count} by {step} from {start}")
        self.tested = self._tested.value
        return int(self._nonce.value) if result == FOUND else None


def find_library() -> Optional[str]:
    """Return the path of this processor's library: pushed here, or of a checkout."""
    folder = os.path.dirname(os.path.abspath(__file__))
    built = f"libcndpow-{os.uname().machine}.so"
    for path in (os.path.join(folder, LIBRARY), os.path.join(folder, "kernel", built)):
        if os.path.exists(path):
            return path
    return None


def load_library(path: str) -> Any:
    """Load the library; `Refused` if that is none of ours, or not for this system."""
    try:
        import ctypes

        library = ctypes.CDLL(path)
        number, word, pointer = ctypes.c_uint, ctypes.c_uint64, ctypes.c_void_p
        library.cnd_scan.argtypes = [
            *(number, ctypes.c_char_p, ctypes.c_size_t, number),
            *(word, word, word, pointer, pointer, pointer),
        ]
        library.cnd_kernel_name.restype = ctypes.c_char_p
        library.cnd_kernel_supported.restype = ctypes.c_int
    except (ImportError, OSError, AttributeError) as error:
        raise Refused(f"cannot be loaded: {error}") from None
    return library


def list_kernels(library: Any) -> List[Tuple[str, bool]]:
    """Return the names in the library's table, and whether this processor can."""
    kernels = []  # type: List[Tuple[str, bool]]
    while library.cnd_kernel_name(len(kernels)):
        name = library.cnd_kernel_name(len(kernels)).decode()
        kernels.append((name, bool(library.cnd_kernel_supported(len(kernels)))))
    return kernels


def choose_kernel(
    wanted: str, block: str = DEFAULT_BLOCK, path: Optional[str] = None
) -> Kernel:
    """Return the fastest kernel that proved itself, or the `wanted` one.

    `path` is the library's, if not where it is looked for.  Only the trial of a few
    milliseconds says which is the fastest: a neighbour on the same core can turn the
    order round.  Raises ValueError if a kernel is wanted that is not to be had.
    """
    path = path or find_library() or ""
    refused = {}  # type: Dict[str, str]
    if wanted == HashlibScanner.name:
        return _by_hashlib(wanted, [], refused)
    try:
        if not path:
            raise Refused("is not here")
        trials = _examined(path, wanted, block)
        library = load_library(path)
    except Refused as reason:
        refused[os.path.basename(path) or LIBRARY] = str(reason)
        return _by_hashlib(wanted, [], refused)
    refused.update((trial.name, trial.reason) for trial in trials if trial.reason)
    best = max(trials, key=lambda trial: trial.rate, default=None)
    if best is None or not best.rate:
        return _by_hashlib(wanted, [trial.name for trial in trials], refused)
    number = trials.index(best)

    def make(block: str, difficulty: int, stop: Sequence[int]) -> NativeScanner:
        flag = stop if isinstance(stop, memoryview) else None
        return NativeScanner(library, number, block, difficulty, flag)

    return Kernel(best.name, make, refused)


class Trial(NamedTuple):
    """What became of one of the library's kernels."""

    name: str
    rate: float  # nonces a second; 0 if it was refused or not tried
    reason: str  # why it was refused


def _examined(path: str, wanted: str, block: str) -> List[Trial]:
    """Try the kernels in a child, since a broken one may crash or hang.

    One child for all of them: its start takes longer than a trial.  If it does not
    come back, each kernel gets a child of its own, and who is to blame shows.
    """
    try:
        trials = _asked(lambda: _trials(path, wanted, block, lambda work: work()))
    except Refused:
        return _trials(path, wanted, block, _asked)
    return [Trial(*trial) for trial in trials]


def _trials(
    path: str, wanted: str, block: str, ask: Callable[[Callable[[], Any]], Any]
) -> List[Trial]:
    """Try the kernels, each through `ask`; `Refused` if the library is no good."""
    kernels = ask(lambda: list_kernels(load_library(path)))
    library = load_library(path)
    answers = [_goldens(HashlibScanner, *question) for question in _questions(block)]
    trials = []  # type: List[Trial]
    for number, (name, supported) in enumerate(kernels):
        rate, why = 0.0, ""
        # The last one is the plain reference: it need not try if another can.
        needless = number == len(kernels) - 1 and any(trial.rate for trial in trials)
        if wanted == name or (wanted == "auto" and not needless):
            try:
                if not supported:
                    raise Refused("this processor lacks it")
                rate = ask(functools.partial(_proved, library, number, block, answers))
            except Refused as reason:
                why = str(reason)
        trials.append(Trial(name, rate, why))
    return trials


def _by_hashlib(wanted: str, others: List[str], refused: Dict[str, str]) -> Kernel:
    """Return the standard library's kernel, unless a certain other one is wanted."""
    plain = HashlibScanner.name
    if wanted in ("auto", plain):
        return Kernel(plain, HashlibScanner, refused)
    if wanted in others:
        raise ValueError(f"kernel {wanted} is refused: {refused[wanted]}")
    message = f"no such kernel here: {wanted!r}; there is {', '.join([plain, *others])}"
    reasons = "".join(f"; {name} {reason}" for name, reason in refused.items())
    raise ValueError(message + reasons)


def _questions(block: str) -> List[Tuple[str, int, int, int, int]]:
    """Return what a kernel must answer: block, difficulty, start, step, count.

    The first two are published, with the report and with the vectors of the tests.
    The others take nonces of every length, half of them crossing to the next one.
    """
    questions = [(DEFAULT_BLOCK, 2, 0, 1, 117), (DEFAULT_BLOCK, 5, 46000, 1, 698)]
    for digits in range(1, len(str(MAX_NONCES)) + 1):
        seed = hashlib.sha256(b"%d" % digits).digest()  # as good as any random one
        step = int.from_bytes(seed[:2], "big") % 10 ** min(digits, 4) + 1
        start = 10 ** (digits - 1) + int.from_bytes(seed[2:10], "big") % 10**digits
        if digits % 2:
            start = 10**digits - 40 * step
        start = max(0, min(start, MAX_NONCES - 100 * step))
        text = block if digits % 3 else block[:1] * 60  # two blocks of SHA-256
        questions.append((text, 1, start, step, 80))
    return questions


PUBLISHED = [[116], [46697]]  # the golden nonces of the first two questions


def _goldens(
    make: Callable[[str, int], Any],
    block: str,
    difficulty: int,
    start: int,
    step: int,
    count: int,
) -> List[int]:
    """Return all golden nonces of a stretch; `Refused` if the count of them is off."""
    scanner, found = make(block, difficulty), []  # type: Any, List[int]
    while count:
        nonce = scanner.scan(start, step, count)
        tested = scanner.tested
        end = start + step * tested
        if nonce != (end - step if nonce is not None else None):
            raise Refused(f"says {nonce} after {tested} nonces from {start} by {step}")
        if nonce is None:
            if tested != count:
                raise Refused(f"tested {tested} nonces instead of {count}")
            break
        found.append(nonce)
        start, count = end, count - tested
    return found


def _proved(library: Any, number: int, block: str, answers: List[List[int]]) -> float:
    """Return a kernel's nonces a second; `Refused` if it gives one wrong answer."""

    def make(block: str, difficulty: int) -> NativeScanner:
        return NativeScanner(library, number, block, difficulty)

    if answers[:2] != PUBLISHED:
        raise Refused("hashlib itself gives wrong answers")
    for question, answer in zip(_questions(block), answers):
        given = _goldens(make, *question)
        if given != answer:
            asked = "nonces from {2} by {3}".format(*question)
            raise Refused(f"wrong answer for {asked}: {given}, not {answer}")
    return _rate(make(block, HASH_DIGITS))


def _rate(scanner: NativeScanner) -> float:
    """Return the nonces a second of the best of three short slices."""
    count, took = 64, 0.0
    while took < TRIAL_SLICE:
        count *= 2
        took = _timed(scanner, count)
    return count / min(took, _timed(scanner, count), _timed(scanner, count))


def _timed(scanner: NativeScanner, count: int) -> float:
    began = time.perf_counter()
    scanner.scan(TRIAL_START, 1, count)
    return time.perf_counter() - began


def _asked(work: Callable[[], Any]) -> Any:
    """Return what `work` returns, done by a child: it may crash or never end.

    Raises `Refused`: what `work` raised, or what became of the child.
    """
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            try:
                reply = {"answer": work()}  # type: Dict[str, Any]
            except Refused as reason:
                reply = {"refused": str(reason)}
            os.write(theirs, json.dumps(reply).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    poll = select.poll()
    poll.register(ours, select.POLLIN)
    in_time = poll.poll(1000 * PROOF_PATIENCE)
    if not in_time:
        os.kill(pid, signal.SIGKILL)
    text = os.read(ours, 65536) if in_time else b""
    os.close(ours)
    _, status = os.waitpid(pid, 0)
    if not in_time:
        raise Refused(f"gave no answer within {PROOF_PATIENCE:g} s")
    if not text:
        signum = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        raise Refused(f"crashed (signal {signum})" if signum else "failed")
    reply = json.loads(text.decode())
    if "refused" in reply:
        raise Refused(reply["refused"])
    return reply["answer"]


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
        self.hit: Optional[int] = None  # the smallest golden position known
        self._next = 0  # nothing from here on was ever handed out
        self._out: Dict[int, List[Tuple[int, int]]] = {}  # (first, count) by child
        self._again: List[Tuple[int, int]] = []  # a heap of what came back untested
        self._done: List[Tuple[int, int]] = []  # a heap of (first, end) above cursor

    @property
    def end(self) -> int:
        """Where positions stop to matter."""
        return self.size if self.hit is None else self.hit

    @property
    def over(self) -> bool:
        """Whether the answer is known: all that matters has been tested."""
        return self.cursor >= self.end

    @property
    def more(self) -> bool:
        """Whether `take` has something to give."""
        again = self._again[0][0] if self._again else self.size
        return min(self._next, again) < self.end

    @property
    def busy(self) -> bool:
        """Whether any child owes an answer."""
        return bool(self._out)

    def take(self, child: int, count: int) -> Optional[Tuple[int, int]]:
        """Hand out up to `count` positions to `child`: (first, how many), or None."""
        if not self.more:
            return None
        if self._again and self._again[0][0] < self._next:
            stretch = heapq.heappop(self._again)
        else:
            stretch = (self._next, min(count, self.size - self._next))
            self._next += stretch[1]
        self._out.setdefault(child, []).append(stretch)
        return stretch

    def done(self, child: int, tested: int, hit: bool) -> None:
        """Book `child`'s oldest stretch: its first `tested` positions were tested.

        `hit` says that the last of them is golden.
        """
        first, count = self._out[child].pop(0)
        if not self._out[child]:
            del self._out[child]
        end = first + tested
        self.tested += tested
        if hit and (self.hit is None or end - 1 < self.hit):
            self.hit = end - 1
        if tested < count:
            heapq.heappush(self._again, (end, count - tested))
        if tested:
            heapq.heappush(self._done, (first, end))
        while self._done and self._done[0][0] == self.cursor:
            self.cursor = heapq.heappop(self._done)[1]

    def lost(self, child: int) -> None:
        """Take back what a dead child had: as far as is known, it was not tested."""
        for stretch in self._out.pop(child, []):
            heapq.heappush(self._again, stretch)

    def held(self, child: int) -> int:
        """Return how many stretches `child` has before it."""
        return len(self._out.get(child, ()))

    def matters(self, child: int) -> bool:
        """Whether what `child` has before it could still change the answer."""
        return any(first < self.end for first, _ in self._out.get(child, ()))


class Witnesses:
    """The witnesses that were met, until they are shown; pure.

    Where there are too many, `level` rises: from then on, those with fewer zero bits
    are left out.
    """

    def __init__(self, block: str, bits: int) -> None:
        self.level = bits
        self._block, self._bits = block, bits
        self._waiting = []  # type: List[Tuple[int, int]]  # a heap: nonce, zero bits
        self._met = [0] * (4 * HASH_DIGITS + 2)  # by their zero bits
        self._shown = 0

    def add(self, nonce: int) -> None:
        """Take one that a child has met."""
        zeros = zero_bits(digest(self._block, nonce))
        heapq.heappush(self._waiting, (nonce, zeros))

    def show(self, cursor: int, seconds: float, last: bool) -> Dict[str, Any]:
        """Return what an event says of those that were not shown yet.

        Args:
            cursor: those below it are shown.
            seconds: of search, so far.
            last: show some of those above it, too.
        """
        ready = []
        while self._waiting and self._waiting[0][0] < cursor:
            nonce, zeros = heapq.heappop(self._waiting)
            self._met[zeros] += 1
            if zeros >= self.level:
                ready.append((nonce, zeros))
        while self._too_many(len(ready), seconds) and self._enough_left:
            self.level += 1
            ready = [each for each in ready if each[1] >= self.level]
        if last:
            above = (each for each in self._waiting if each[1] >= self.level)
            room = max(0, WITNESSES_AT_ONCE - len(ready))
            ready += heapq.nsmallest(room, above)
        shown, self._shown = self._shown, self._shown + len(ready)
        told = {"witnesses": [nonce for nonce, _ in ready], "shown": shown}
        return dict(told, thinned_to=self.level) if self.level > self._bits else told

    def _too_many(self, count: int, seconds: float) -> bool:
        most = WITNESSES_AT_FIRST + WITNESSES_A_SECOND * seconds
        return count > WITNESSES_AT_ONCE or self._shown + count > most

    @property
    def _enough_left(self) -> bool:
        return sum(self._met[self.level + 1 :]) >= WITNESSES_LEFT


# --- child processes

REQUEST = struct.Struct("<QQ")  # first nonce, how many
# tested, whether the last of them is golden, seconds, how many witnesses; then these
REPLY = struct.Struct("<Q?dI")


class Reply(NamedTuple):
    """What a child says of one stretch."""

    tested: int
    hit: bool  # whether the last of them is golden
    took: float  # seconds
    witnesses: Tuple[int, ...] = ()

    def packed(self) -> bytes:
        head = REPLY.pack(self.tested, self.hit, self.took, len(self.witnesses))
        return head + struct.pack(f"<{len(self.witnesses)}Q", *self.witnesses)


def unpacked(data: bytes) -> Tuple[List[Reply], bytes]:
    """Return the replies in `data`, and what is left: the beginning of another."""
    replies, at = [], 0  # type: List[Reply], int
    while len(data) - at >= REPLY.size:
        tested, hit, took, count = REPLY.unpack_from(data, at)
        end = at + REPLY.size + 8 * count
        if len(data) < end:
            break
        witnesses = struct.unpack_from(f"<{count}Q", data, at + REPLY.size)
        replies.append(Reply(tested, hit, took, witnesses))
        at = end
    return replies, data[at:]


class Child:
    """One core's process, as its parent sees it: a pipe to it, a pipe from it."""

    def __init__(
        self, number: int, pid: int, requests: int, replies: int, bell: int
    ) -> None:
        self.number = number
        self.stretch = FIRST_STRETCH
        self.born = time.monotonic()
        self.descriptor = replies
        self._pid = pid
        self._requests = requests
        self._bell = bell
        self._partial = b""

    def hand(self, first: int, count: int) -> None:
        """Send one request; a dead child is noticed when its answer is awaited."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._requests, REQUEST.pack(first, count))

    def ring(self) -> None:
        """Wake it, if it waits."""
        with contextlib.suppress(OSError):  # it is dead, or does not even listen
            os.write(self._bell, b".")

    def replies(self) -> Optional[List[Reply]]:
        """Return the replies that are here, or None if the child is dead."""
        received = os.read(self.descriptor, 65536)
        if not received:
            return None
        replies, self._partial = unpacked(self._partial + received)
        return replies

    def close(self) -> None:
        os.close(self._requests)
        os.close(self._bell)
        os.close(self.descriptor)

    def end(self) -> None:
        """Kill it; it holds nothing that could be lost."""
        self.close()
        os.kill(self._pid, signal.SIGKILL)  # not reaped yet: the pid is its own
        os.waitpid(self._pid, 0)


def _serve(requests: int, replies: int, scanner: HashlibScanner, step: int) -> None:
    """Scan what is asked for until the parent is gone."""
    # Requests are far below PIPE_BUF: a pipe has them whole.
    for request in iter(lambda: os.read(requests, REQUEST.size), b""):
        start, count = REQUEST.unpack(request)
        began = time.perf_counter()
        nonce = scanner.scan(start, step, count)
        took = time.perf_counter() - began
        told = (scanner.tested, nonce is not None, took, tuple(scanner.witnesses))
        data = Reply(*told).packed()
        while data:  # it may be more than a pipe takes at once
            data = data[os.write(replies, data) :]


class ProcessPool:
    """The child processes, each with a stop flag in memory shared with it."""

    def __init__(
        self,
        size: int,
        make: Callable[[Sequence[int], int], HashlibScanner],
        step: int,
        first_stretch: int = FIRST_STRETCH,
    ) -> None:
        self.children: Dict[int, Child] = {}  # by the descriptor of their replies
        self.trouble = ""  # why there is a child less than there should be
        self._make = make  # a scanner, from a stop flag and its bell
        self._step = step
        self._first_stretch = first_stretch
        self._flags = memoryview(mmap.mmap(-1, 4 * size)).cast("i")
        self._vacant = list(range(size - 1, -1, -1))  # cores without a child
        self._young_deaths = [0] * size
        self._poll = select.poll()

    @property
    def complete(self) -> bool:
        """Whether there is a child for every core that is not given up."""
        return not self._vacant

    def hurry(self, child: Child, wanted: bool) -> None:
        """Raise or lower a child's flag: under it, stretches come back untested."""
        raised, self._flags[child.number] = self._flags[child.number], wanted
        if wanted and not raised:
            child.ring()

    def wait(self, also: int, seconds: float) -> List[int]:
        """Return the descriptors, of children and `also`, that have something."""
        self._poll.register(also, select.POLLIN)
        timeout = 1000 * min(max(0.0, seconds), LONGEST_WAIT)
        return [descriptor for descriptor, _ in self._poll.poll(timeout)]

    def grow(self) -> Optional[Child]:
        """Fork a child for a vacant core; None, and `trouble`, if that fails."""
        number = self._vacant.pop()
        self._flags[number] = 0
        try:
            child = self._fork(number)
        except OSError as error:  # no memory, no descriptors, no more processes
            self.trouble = f"cannot start a process: {error}"
            return None
        child.stretch = self._first_stretch
        self.children[child.descriptor] = child
        self._poll.register(child.descriptor, select.POLLIN)
        return child

    def bury(self, child: Child) -> None:
        """Clear away a child that died; its core is vacant, or given up."""
        young = time.monotonic() - child.born < YOUNG
        deaths = self._young_deaths[child.number] + 1 if young else 0
        self._young_deaths[child.number] = deaths
        self._remove(child)
        self.trouble = "the processes keep dying"
        if deaths < MAX_YOUNG_DEATHS:
            self._vacant.append(child.number)

    def end(self) -> None:
        """End all children."""
        for child in list(self.children.values()):
            self._remove(child)

    def _remove(self, child: Child) -> None:
        self._poll.unregister(child.descriptor)
        del self.children[child.descriptor]
        child.end()

    def _fork(self, number: int) -> Child:
        pipes: List[int] = []
        try:
            for _ in range(3):
                pipes += os.pipe()
            pid = os.fork()
        except OSError:
            for descriptor in pipes:
                os.close(descriptor)
            raise
        theirs_in, ours_out, ours_in, theirs_out, bell, ours_bell = pipes
        if pid == 0:
            # A copy of a parent's end would keep a process alive after its parent.
            for descriptor in (ours_out, ours_in, ours_bell):
                os.close(descriptor)
            self._live(number, theirs_in, theirs_out, bell)
        for descriptor in (theirs_in, theirs_out, bell):
            os.close(descriptor)
        os.set_blocking(ours_bell, False)
        return Child(number, pid, ours_out, ours_in, ours_bell)

    def _live(self, number: int, requests: int, replies: int, bell: int) -> NoReturn:
        """Be a child: serve, and never return to what the parent was doing."""
        try:
            for signum in (signal.SIGINT, signal.SIGTERM):
                signal.signal(signum, signal.SIG_IGN)  # the parent's business
            signal.set_wakeup_fd(-1)
            for sibling in self.children.values():
                sibling.close()
            step_back()
            scanner = self._make(self._flags[number : number + 1], bell)
            _serve(requests, replies, scanner, self._step)
        except BrokenPipeError:
            pass  # the parent is gone
        finally:
            if sys.exc_info()[0]:  # a bug: say so here, before it is gone
                sys.excepthook(*sys.exc_info())
                sys.stderr.flush()
            os._exit(0)


def step_back() -> None:
    """Let whoever serves this machine, or must hear a stop, go before this process.

    Where Linux groups processes by session, a nice level only counts within one, and
    each session has one of its own: sched(7), "The autogroup feature".
    """
    os.setsid()
    os.nice(19)
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as group:
        group.write("19")


# --- telling

UNLOGGED = ("event", "witnesses")  # fields that the syslog does without


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
            kept = (each for each in record.items() if each[0] not in UNLOGGED)
            told = (f"{name}={value}" for name, value in kept)
            self._syslog.line(f"{kind} {' '.join(told)}")

    def leave(self) -> None:
        """Leave it to the process that forked this one."""
        if self._syslog:
            self._syslog.leave()

    def close(self) -> None:
        syslog, self._syslog = self._syslog, None
        if syslog:
            syslog.close()


class Syslog:
    """The `logger` program, fed line by line; without one, nothing is logged."""

    def __init__(self) -> None:
        reader, self._pipe = os.pipe()
        self._ended, held = os.pipe()  # readable once nobody holds the other end
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.set_inheritable(held, True)
                null = os.open(os.devnull, os.O_RDWR)
                for source, target in ((reader, 0), (null, 1), (null, 2)):
                    os.dup2(source, target)
                for signum in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(signum, signal.SIG_IGN)  # it has the last line to log
                os.execvp("logger", ["logger", "-t", "cnd-pow"])
            finally:
                os._exit(127)
        os.close(reader)
        os.close(held)
        # A logger that hangs must never hold up the search.
        os.set_blocking(self._pipe, False)

    def line(self, text: str) -> None:
        # No logger, or one that hangs: the events are the record.
        with contextlib.suppress(OSError):
            os.write(self._pipe, text.encode() + b"\n")

    def leave(self) -> None:
        os.close(self._pipe)

    def close(self) -> None:
        """Let the last line get there, within reason."""
        os.close(self._pipe)
        ended, _, _ = select.select([self._ended], [], [], SYSLOG_PATIENCE)
        if not ended:
            os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


# --- the search


class StopRequest:
    """SIGTERM and SIGINT, from now on, as something to look at and to wait for."""

    def __init__(self) -> None:
        self.made = False
        self.descriptor, wakes = os.pipe()  # readable after a signal
        os.set_blocking(self.descriptor, False)
        os.set_blocking(wakes, False)
        signal.set_wakeup_fd(wakes)
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._note)

    def _note(self, signum: int, frame: Any) -> None:
        self.made = True

    def clear(self) -> None:
        """Make the descriptor unreadable again."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.descriptor, 512)


class Worker:
    """One search on all cores, from `started` to its last event."""

    def __init__(
        self, order: WorkerOptions, kernel: Kernel, report: Reporter, stop: StopRequest
    ) -> None:
        self._order = order
        self._search = search = order.search
        self._report = report
        self._stop = stop
        self._kernel = kernel
        self._ledger = Ledger(search.size)
        self._crew = ProcessPool(
            order.processes,
            self._scanner,
            search.of,
            first_stretch=_first_stretch(order),
        )
        self._target = _target(order)
        self._began = time.monotonic()
        limit = order.time_limit
        self._deadline = None if limit is None else self._began + limit
        self._told = (self._began, 0)  # when progress was told, and what
        self._witnesses = None  # type: Optional[Witnesses]
        if order.witness_bits is not None:
            self._witnesses = Witnesses(search.block, order.witness_bits)
        self._ending = ""  # "stopped" or "timeout", once decided
        self._patience: Optional[float] = None  # until when last answers are awaited

    def run(self, started: Callable[[], None], told: Callable[[], None]) -> str:
        """Search; return the kind of the last event.

        Calls `started` after the first event and `told` after the last.
        """
        self._tell_start()
        started()
        try:
            self._look_round()
            while not self._finished():
                self._grow()
                self._wait()
                self._look_round()
            kind = self._tell_end()
            told()
            return kind
        finally:
            self._crew.end()

    def _finished(self) -> bool:
        if self._patience is not None:
            return not self._ledger.busy or time.monotonic() >= self._patience
        return self._crew.complete and not self._crew.children

    def _scanner(self, stop: Sequence[int], bell: int) -> Any:
        """Return what a child searches with; called in the child."""
        self._report.leave()  # the logger ends when nobody can write to it any more
        search, order = self._search, self._order
        make = self._kernel.make
        if order.witness_bits is None:
            scanner = make(search.block, search.difficulty, stop)
        else:
            scanner = Witnessing(make, search, order.witness_bits, stop)
        if order.rate is None:
            return scanner
        return Paced(scanner, order.rate / order.processes, stop, bell)

    @property
    def _wanted(self) -> bool:
        """Whether to go on testing; below a hit always: the answer is that close."""
        return not self._ending or self._ledger.hit is not None

    def _grow(self) -> None:
        """Fork one more child if there is work: the first search while others start."""
        if self._wanted and self._ledger.more and not self._crew.complete:
            child = self._crew.grow()
            if child:
                self._hand_out(child)

    def _hand_out(self, child: Child) -> None:
        ledger = self._ledger
        while self._wanted and ledger.held(child.number) < AHEAD:
            stretch = ledger.take(child.number, child.stretch)
            if stretch is None:
                return
            child.hand(self._search.nonce(stretch[0]), stretch[1])

    def _wait(self) -> None:
        """Wait for an answer, a signal or the clock; book the answers."""
        growing = self._wanted and self._ledger.more and not self._crew.complete
        seconds = self._next_look() - time.monotonic()
        if growing or not self._crew.children:  # nobody is there to wait for
            seconds = 0.0
        for descriptor in self._crew.wait(self._stop.descriptor, seconds):
            if descriptor == self._stop.descriptor:
                self._stop.clear()
                continue
            child = self._crew.children[descriptor]
            replies = child.replies()
            if replies is None:
                self._ledger.lost(child.number)
                self._crew.bury(child)
                for other in self._crew.children.values():
                    self._hand_out(other)  # one that had nothing left to do
                continue
            for tested, hit, took, witnesses in replies:
                self._ledger.done(child.number, tested, hit)
                for nonce in witnesses:
                    if self._witnesses:
                        self._witnesses.add(nonce)
                child.stretch = _next_stretch(child.stretch, tested, took, self._target)
            self._hand_out(child)

    def _next_look(self) -> float:
        if self._patience is not None:
            return self._patience
        progress = self._told[0] + self._order.progress
        return progress if self._deadline is None else min(progress, self._deadline)

    def _look_round(self) -> None:
        """See whether the end has come, and who need not finish what it has."""
        now = time.monotonic()
        if self._stop.made:
            self._ending = self._ending or "stopped"
        elif self._deadline is not None and now >= self._deadline:
            self._ending = self._ending or "timeout"
        if self._ending or self._ledger.over:
            self._patience = self._patience or now + END_PATIENCE
        elif now >= self._told[0] + self._order.progress:
            self._tell_progress(now)
        if self._ending or self._ledger.hit is not None:
            for child in self._crew.children.values():
                needed = self._wanted and self._ledger.matters(child.number)
                self._crew.hurry(child, not needed)

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
            kernel=self._kernel.name,
            rate_cap=self._order.rate,
            witness_bits=self._order.witness_bits,
            refused=self._kernel.refused,
            python=sys.version.split()[0],
            version=VERSION,
        )

    def _tell_progress(self, now: float) -> None:
        before, tested = self._told
        self._told = (now, self._ledger.tested)
        rate = (self._ledger.tested - tested) / (now - before)
        standing = dict(self._standing(now), rate=round(rate, 1))
        self._report.event("progress", **standing)

    def _tell_end(self) -> str:
        now, ledger = time.monotonic(), self._ledger
        standing = self._standing(now, last=True)
        standing["rate"] = round(ledger.tested / max(now - self._began, 1e-9), 1)
        if ledger.over and ledger.hit is not None:
            nonce = self._search.nonce(ledger.hit)
            found = {"nonce": nonce, "hash": digest(self._search.block, nonce)}
            self._report.event("found", **found, **standing)
            return "found"
        if ledger.over:
            kind = "exhausted"
        elif self._ending:
            kind = self._ending
        else:
            kind = "failed"
            standing["reason"] = self._crew.trouble
        self._report.event(kind, **standing)
        return kind

    def _standing(self, now: float, last: bool = False) -> Dict[str, Any]:
        """Return how far it is, with witnesses for it; `last`: nothing comes after."""
        standing = {
            "cursor": self._search.nonce(self._ledger.cursor),
            "tested": self._ledger.tested,
            "seconds": round(now - self._began, 4),
        }  # type: Dict[str, Any]
        if self._witnesses:
            seconds = now - self._began
            standing.update(self._witnesses.show(standing["cursor"], seconds, last))
        return standing


def _wanted_kernel(order: WorkerOptions) -> str:
    """Return the kernel to use, or "auto" where they are to be tried."""
    slow = order.rate is not None and order.rate <= PACED_PLAIN
    return HashlibScanner.name if slow and order.kernel == "auto" else order.kernel


def _first_stretch(order: WorkerOptions) -> int:
    """Return how many nonces a child begins with."""
    if order.rate is None:
        return FIRST_STRETCH
    paced = int(order.rate / order.processes * FIRST_PACED)
    return max(1, min(FIRST_STRETCH, paced))


def _next_stretch(stretch: int, tested: int, took: float, target: float) -> int:
    """Return how many nonces would take `target` seconds, going by the last stretch."""
    if tested == 0 or took <= 0:
        return stretch
    return max(1, min(int(tested * target / took), GROWTH * stretch))


def _target(order: WorkerOptions) -> float:
    """Return the seconds that a stretch is to take.

    Many hosts that are held to a rate may share one machine: they do not hurry.
    """
    if order.rate is None:
        return TARGET
    return max(TARGET, order.progress / PACED_STRETCHES)


# --- detached


class Detached:
    """This process, gone on by itself in a folder whose lock it holds."""

    def __init__(self, pid_file: int, handshake: int) -> None:
        self._pid_file = pid_file
        self._handshake = handshake
        os.ftruncate(pid_file, 0)  # better no process than a former one
        os.write(pid_file, b"%d\n" % os.getpid())

    def started(self) -> None:
        """Let the process that waits for this one go."""
        with contextlib.suppress(BrokenPipeError):  # it was killed: no matter
            os.write(self._handshake, b"%d" % os.getpid())
        os.close(self._handshake)

    def ended(self) -> None:
        """Say that nothing runs here: soon the pid may be somebody else's.

        Returns a while later: to take down processes costs more than to stop them, and
        others who share the machine may have their last words ahead of them.
        """
        os.ftruncate(self._pid_file, 0)
        time.sleep(LINGER)


def detach(folder: str) -> Detached:
    """Go on as a process of its own in `folder`; return in that process only.

    The caller's process waits until `started` is called, then says which process
    goes on and exits.  Two workers never run in one folder: the lock on `worker.pid`
    lives as long as the worker and its children.
    """
    os.makedirs(folder, mode=0o700, exist_ok=True)
    pid_file = _locked(os.path.join(folder, "worker.pid"))
    streams = _streams(folder)
    ours, theirs = os.pipe()
    if os.fork():
        os.close(theirs)
        os._exit(_introduce(ours, folder))
    os.close(ours)
    os.setsid()
    if os.fork():
        os._exit(0)  # not a session leader any more: it can never get a terminal
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for source, target in zip(streams, (0, 1, 2)):
        os.dup2(source, target)
        os.close(source)
    return Detached(pid_file, theirs)


def _locked(path: str) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.read(descriptor, 20).decode().strip() or "unknown"
        message = f"a worker runs in this folder already (process {pid}): stop it first"
        raise ValueError(message) from None
    return descriptor


def _introduce(handshake: int, folder: str) -> int:
    """Say which process goes on, once it has started; return the exit status."""
    ready, _, _ = select.select([handshake], [], [], START_PATIENCE)
    pid = os.read(handshake, 20) if ready else b""
    if pid:
        os.write(1, json.dumps({"event": "detached", "pid": int(pid)}).encode() + b"\n")
        return 0
    complaints = os.path.join(folder, "worker.err")
    complain(f"the worker did not start: see {complaints}")
    return STATUS["failed"]


def _streams(folder: str) -> Tuple[int, int, int]:
    """Open what a detached worker reads (nothing), and its two files."""
    name = os.path.join(folder, "events.jsonl")
    events = os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    size = os.fstat(events).st_size
    if size and os.pread(events, 1, size - 1) != b"\n":
        os.write(events, b"\n")  # a crash left half a line
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    complaints = os.open(os.path.join(folder, "worker.err"), flags, 0o600)
    return os.open(os.devnull, os.O_RDONLY), events, complaints


# --- the command line


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


DEFAULTS: Dict[str, Any] = {
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
    "rate": None,
    "witness_bits": None,
}


def parse(arguments: List[str]) -> Tuple[Dict[str, Any], str]:
    """Return the options (flags over job file over defaults) and where to detach."""
    if len(arguments) == 4 and arguments[::2] == ["--job", "--detach"]:
        given = dict(zip(("job", "detach"), arguments[1::2]))  # type: Dict[str, Any]
    else:
        given = _flags(arguments)
    folder = given.pop("detach", "")
    job = read_job(given.pop("job")) if "job" in given else {}
    for name in ("block", "run"):
        if name in given:  # UTF-8 whatever the locale: Python 3.6 reads ASCII in C's
            given[name] = os.fsencode(given[name]).decode("utf-8", "surrogateescape")
    options = dict(DEFAULTS)
    options.update((name, job[name]) for name in DEFAULTS if name in job)
    options.update(given)
    return options, folder


def _flags(arguments: List[str]) -> Dict[str, Any]:
    """Return the options on the command line."""
    # Here, since hosts do without: it takes as long as the trial of all kernels.
    import argparse

    class Parser(argparse.ArgumentParser):
        """Refuses in one line, like everything here."""

        def error(self, message: str) -> Any:
            raise ValueError(f"{message}; see --help")

    parser = Parser(
        prog="pow.py",
        description="Search one residue class of the nonce space for a golden nonce.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
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
    add("--kernel", help="auto, hashlib or a native one's name (auto)")
    add("--rate", help="the most nonces a second (CND_RATE, or without limit)")
    add("--witness-bits", help="show nonces with so many zero bits too (none)")
    add("--run", help="a name that the events carry")
    add("--job", metavar="FILE", help="take options from a JSON object")
    add("--detach", metavar="FOLDER", help="go on in the background, in this folder")
    add("--no-syslog", dest="syslog", action="store_false", help="log no line")
    return vars(parser.parse_args(arguments))


def read_job(path: str) -> Dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            job = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"cannot read the job file {path}: {error}") from None
    if not isinstance(job, dict):
        raise ValueError(f"the job file {path} holds no JSON object")
    return job


def checked(options: Dict[str, Any]) -> WorkerOptions:
    """Return what `options` ask for; ValueError, in one line, if they make no sense."""
    if options["difficulty"] is None:
        raise ValueError("difficulty is missing: say --difficulty 2")
    start, limit = options["start"], options["time_limit"]
    rate = _rate_cap(options["rate"])
    search = Search(
        _text("block", options["block"]),
        _whole("difficulty", options["difficulty"]),
        _whole("nonces", options["nonces"]),
        _whole("index", options["index"]),
        _whole("of", options["of"]),
        None if start is None else _whole("start", start),
    )
    order = WorkerOptions(
        search,
        _processes(options["processes"], rate),
        None if limit is None else _seconds("time limit", limit, 0),
        _seconds("progress", options["progress"], MIN_PROGRESS),
        _text("kernel", options["kernel"]),
        _text("run", options["run"]),
        options["syslog"],
        rate,
        _witness_bits(options["witness_bits"], search.difficulty),
    )
    if len(order.run) > MAX_RUN_LENGTH or not order.run.isprintable():
        limits = f"at most {MAX_RUN_LENGTH} printable characters"
        raise ValueError(f"run must be {limits}, not {order.run[:200]!r}")
    if not isinstance(order.syslog, bool):
        raise ValueError(f"syslog must be true or false, not {order.syslog!r}")
    return order


def _rate_cap(value: Any) -> Optional[float]:
    """Return the cap that an option, or else the host's environment, sets."""
    value = os.environ.get("CND_RATE") if value is None else value
    if value is None:
        return None
    with contextlib.suppress(ValueError, TypeError):
        if not isinstance(value, bool) and 1 <= float(value) <= MAX_RATE:
            return float(value)
    raise ValueError(f"rate must be nonces a second, 1 or more, not {value!r}")


def _witness_bits(value: Any, difficulty: int) -> Optional[int]:
    """Return the zero bits of a witness: fewer than those of a golden nonce."""
    if value is None:
        return None
    bits = _whole("witness bits", value)
    _check_range("witness bits", bits, 0, 4 * difficulty - 1)
    return bits


def _processes(value: Any, rate: Optional[float]) -> int:
    if value is None:
        alone = rate is not None and rate <= PACED_ALONE
        return 1 if alone else min(usable_cores(), MAX_PROCESSES)
    processes = _whole("processes", value)
    _check_range("processes", processes, 1, MAX_PROCESSES)
    return processes


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, not {value!r}")
    return value


def _whole(name: str, value: Any) -> int:
    with contextlib.suppress(ValueError):
        if isinstance(value, (int, str)) and not isinstance(value, bool):
            return int(value)
    raise ValueError(f"{name} must be a whole number, not {value!r}")


def _seconds(name: str, value: Any, least: float) -> float:
    with contextlib.suppress(ValueError, OverflowError):
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            number = float(value)
            if least <= number <= MAX_SECONDS and number > 0:
                return number
    above = f"at least {least}" if least else "above 0"
    raise ValueError(f"{name} must be a number of seconds {above}, not {value!r}")


def complain(message: object) -> None:
    """Say in one line, on stderr, what is wrong."""
    sys.stderr.write(f"pow.py: {message}\n")
    sys.stderr.flush()


def main(arguments: List[str]) -> int:
    """Run one search; return the exit status."""
    stop = StopRequest()
    try:
        options, folder = parse(arguments)
        order = checked(options)
        kernel = choose_kernel(_wanted_kernel(order), order.search.block)
        detached = detach(folder) if folder else None
    except (ValueError, OSError) as error:
        complain(error)
        return USAGE_STATUS
    report = Reporter(sys.stdout.fileno(), order.run, order.syslog)

    def started() -> None:
        if detached:
            detached.started()

    def told() -> None:
        report.close()
        if detached:
            detached.ended()

    try:
        return STATUS[Worker(order, kernel, report, stop).run(started, told)]
    except OSError as error:  # nobody reads the events any more, or the disk is full
        complain(f"cannot go on: {error}")
        told()
        return STATUS["failed"]


if __name__ == "__main__":
    # All is written and closed.  An interpreter that ends in order takes longer for it
    # than for everything from the signal to the last word.
    os._exit(main(sys.argv[1:]))
