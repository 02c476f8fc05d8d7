#!/usr/bin/env python3
"""The worker: searches one residue class of the nonce space, on every core.

    python3 pow.py --block COMSM0010cloud --difficulty 2 --index 4 --of 8

It prints one event per line, as JSON.  The last event is exactly one of `found`,
`exhausted`, `timeout`, `stopped` and `failed`.

One rule: every figure it reports is exact.  The nonce it finds is the smallest golden
nonce of its class, however many cores it uses.  A nonce counts as tested once, and only
after it was tested.  On request the worker proves its work: it also reports witnesses,
which are nonces with some zero bits, fewer than a golden nonce has.

The parent process assigns stretches of the class, in ascending order, to one child
process per core and records them (`Ledger`).  A child only scans: with the fastest
native kernel that passed its test (`NativeScanner`), or else with hashlib
(`HashlibScanner`).  If `gpu_scanner.py` is beside this file, each GPU has a child, too;
it gets stretches once it has passed the same test, and the cores search beside it.

This is one long file on purpose.  Users may copy it to any host and run it alone, on
any Python from 3.6 on, with the standard library only.  An instance receives it as one
piece of compiled code, too: every further module would have to be sent and compiled
there, before the search begins.
"""

import contextlib
import fcntl
import functools
import hashlib
import heapq
import json
import math
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

# Exit status by kind of the last event.
STATUS = {"found": 0, "failed": 1, "timeout": 10, "exhausted": 11, "stopped": 12}
USAGE_STATUS = 2

FIRST_STRETCH = 512  # nonces: about half a millisecond
STRETCH_SECONDS = 0.05  # duration of a stretch: long, so that the parent does little
MAX_GROWTH = 4  # a stretch is at most this many times as long as the one before
QUEUED = 2  # stretches assigned to a child at a time, so that it never waits
RATE_BURST = 0.5  # seconds of delay that a rate-limited worker may make up for
ONE_PROCESS_RATE = 500000  # nonces/s that one process reaches with any kernel
HASHLIB_RATE = 5000  # nonces/s; up to it, testing a kernel costs more than it saves
ANY_KERNEL_RATE = 50000  # nonces/s; up to it, finding the fastest kernel does
STRETCHES_PER_PROGRESS = 2  # of a rate-limited worker, between two progress events
FIRST_LIMITED = 0.01  # seconds; duration of its first stretch
STOP_CHECK = 1000  # nonces between two checks of the stop flag: about a millisecond
EXIT_DELAY = 3.0  # seconds that a detached worker lives on after its last event
END_PATIENCE = 1.0  # seconds for the children's last replies; a frozen child has none
START_PATIENCE = 30.0  # seconds for a detached worker's first event
# Seconds for a GPU to be found, and its kernel compiled and tested.  A new instance
# reads the driver from a slow disk: it is copied from S3 when it is first read.
GPU_PATIENCE = 120.0
GPU_SILENCE = 30.0  # seconds for the answer of a GPU that searches
MAX_GPUS = 16
MAX_GPU_DEATHS = 2  # in a row, of one GPU's process; then it is not used any more
GPU_EARLY_DEATH = 600.0  # seconds; as `EARLY_DEATH`
KILL_PATIENCE = 0.5  # seconds until a GPU's process that was killed is left to itself
EARLY_DEATH = 1.0  # seconds; a child that dies at a lower age counts as failed
MAX_EARLY_DEATHS = 3  # in a row, of one core; then the core is not used any more
SYSLOG_EVERY = 10.0  # seconds between two progress lines in the syslog
SYSLOG_PATIENCE = 1.0  # seconds for the last line to be written
MAX_LOG_DELAY = 1.0  # seconds from a worker's last event to its line in the syslog
# Of more witnesses than this, only the strongest are shown: a line stays below 48 KiB,
# all lines below 24 KiB/s.
WITNESSES_AT_ONCE = 2000
WITNESSES_AT_FIRST, WITNESSES_A_SECOND = 1500, 1000
WITNESSES_LEFT = 512  # the fewest witnesses of a run after weaker ones are left out
WITNESSES_SUMMED_UP = 1024  # the most in the event that replaces all before it
MOST_EVENTS = 4 << 20  # bytes of a detached worker's events; then they are replaced
LONGEST_WAIT = 3600.0  # seconds; poll(2) counts milliseconds in 32 bits
MIN_PROGRESS, MAX_SECONDS, MAX_RATE = 0.01, 1e9, 1e15
# Seconds that a searching process may compute before another one of them has its turn,
# longer than the slices of other programs (2.8 ms); and sched_setattr(2)'s number.
SLICE = 0.01
SET_SCHEDULING = {"x86_64": 314, "aarch64": 274}
GPU_NICE, CORE_NICE = 10, 19  # a GPU's process works little, and must not wait


# --- the proof of work


def digest(block: str, nonce: int) -> str:
    """Return the hash of `nonce` for `block`: 64 lower-case hex digits.

    The message is the nonce in decimal, followed by the block.  The second SHA-256
    (FIPS 180-4) reads the 64 hex digits of the first, not its 32 bytes.
    """
    first = hashlib.sha256(b"%d" % nonce + block.encode()).hexdigest()
    return hashlib.sha256(first.encode()).hexdigest()


def is_golden(hash_digits: str, difficulty: int) -> bool:
    """Tell whether a hash begins with at least `difficulty` zeros."""
    return hash_digits.startswith("0" * difficulty)


def zero_bits(hash_digits: str) -> int:
    """Return the number of leading zero bits of a hash, 0 to 256."""
    return 4 * HASH_DIGITS - int(hash_digits, 16).bit_length()


class _SearchFields(NamedTuple):
    block: str
    difficulty: int  # leading zero hex digits of the hash, 0..64
    nonces: int  # the space is range(nonces), up to 2**64
    # The class: nonces congruent to index modulo of.  (Hides tuple.index: not needed.)
    index: int  # type: ignore[assignment]
    of: int
    start: int  # the first nonce to test, a member of the class


class Search(_SearchFields):
    """What to search for, and in which residue class of the nonce space.

    Raises ValueError, with a message of one line, for an impossible search.
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
        """The number of nonces to test, from `start` on."""
        return max(0, -((self.start - self.nonces) // self.of))

    def nonce(self, position: int) -> int:
        """Return the nonce at `position` (0 is `start`)."""
        return self.start + position * self.of


class WorkerOptions(NamedTuple):
    """A search, and how to do it."""

    search: Search
    processes: int
    time_limit: Optional[float] = None  # seconds
    progress: float = 1.0  # seconds between two progress events
    kernel: str = "auto"
    run: str = ""  # the name of the run, a field of every event
    syslog: bool = True
    rate: Optional[float] = None  # nonces/s of all processes together, at most
    witness_bits: Optional[int] = None  # zero bits of a witness; None: show none
    most_events: int = MOST_EVENTS  # bytes of events in a file; then they are replaced
    gpu_patience: float = GPU_PATIENCE  # seconds until a GPU must have proved itself
    gpu_silence: float = GPU_SILENCE  # seconds until one that searches has answered
    # Seconds from the last event to its line in the syslog: hosts that share a machine
    # have their own last events to write.
    log_delay: float = 0.0
    # Whether a detached worker also writes its events to the output that it began with.
    echo: bool = False


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must be {low} to {high}, not {value}")


# --- scanners


class HashlibScanner:
    """Scans with the standard library: slow, and correct on every host.

    `scan` checks `stop[0]` about every millisecond, and returns early once it is not 0.
    It is a C int in memory shared with the parent, so that a native kernel can read it.
    """

    name = "hashlib"
    witnesses = ()  # type: Sequence[int]

    def __init__(self, block: str, difficulty: int, stop: Sequence[int] = (0,)) -> None:
        self._message = b"%d" + block.encode().replace(b"%", b"%%")
        # A nonce is golden if its hash, read as a number, is below this limit.
        bits = 4 * (HASH_DIGITS - difficulty)
        above_all = b"\xff" * 33
        self._limit = (1 << bits).to_bytes(32, "big") if difficulty else above_all
        self._stop = stop
        self.tested = 0  # nonces of the last stretch that were tested

    def scan(self, start: int, step: int, count: int) -> Optional[int]:
        """Return the first golden nonce of a stretch, or None.

        The stretch is start, start + step, ..., `count` nonces.  Afterwards `tested`
        is the number of them that were tested: up to the golden one, or to the stop.
        """
        end = start + step * count
        for first in range(start, end, step * STOP_CHECK):
            if self._stop[0]:
                self.tested = (first - start) // step
                return None
            nonce = self._first_golden(
                range(first, min(end, first + step * STOP_CHECK), step)
            )
            if nonce is not None:
                self.tested = (nonce - start) // step + 1
                return nonce
        self.tested = count
        return None

    def _first_golden(self, nonces: range) -> Optional[int]:
        # Local names, %-formatting and bytes throughout: the fastest form measured
        # that works for every step (tests/bench/bench_pow.py).
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


class WitnessScanner:
    """Finds golden nonces, and collects the witnesses before them.

    It uses a scanner of lower difficulty, which counts whole hex digits: the nonces
    that this one finds are hashed again here, to count their zero bits.
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
            make: makes a scanner from a block, a difficulty and a stop flag.
            bits: zero bits of a witness, fewer than a golden nonce has.
        """
        self._scanner = make(search.block, bits // 4, stop)
        self._search, self._bits = search, bits
        self.tested = 0  # nonces of the last stretch that were tested
        self.witnesses = []  # type: List[int]

    def scan(self, start: int, step: int, count: int) -> Optional[int]:
        """Return the first golden nonce of a stretch, or None, as `HashlibScanner`.

        Afterwards `witnesses` has the witnesses before it, in ascending order.
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


class RateLimitedScanner:
    """A scanner that tests `rate` nonces per second at most, on average.

    A stretch counts as tested when its time has passed, so a rate-limited worker
    reports what a worker on a slower machine would report.
    """

    def __init__(
        self, scanner: Any, rate: float, stop: Sequence[int], wakeup: int
    ) -> None:
        """Limit the rate of `scanner`.

        Args:
            wakeup: a descriptor that becomes readable when `stop` is raised.
        """
        self._scanner, self._rate, self._stop = scanner, rate, stop
        self._wakeup = wakeup
        self._due = time.monotonic()  # when the nonces tested so far are due

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
        """Scan a stretch, then wait until its time has passed, or for the stop."""
        nonce = self._scanner.scan(start, step, count)  # type: Optional[int]
        # Unused time may be made up for, but only a little of it.
        since = max(self._due, time.monotonic() - RATE_BURST)
        self._due = since + self.tested / self._rate
        while not self._stop[0]:
            left = self._due - time.monotonic()
            if left <= 0:
                break
            # No polling: hundreds of such workers may share one machine.
            ready, _, _ = select.select([self._wakeup], [], [], left)
            if ready:
                os.read(self._wakeup, 512)
        return nonce


# --- the native kernels

ANY = "any"  # kernel of the library
LIBRARY = "libcndpow.so"  # beside this file; built from cnd/kernel/
TRIAL_SLICE = 0.0003  # seconds; a kernel's rate is measured in three slices
TRIAL_START = 10**9  # ten digits, like most nonces of the default space
TRIAL_PATIENCE = 5.0  # seconds to test and measure a kernel, some milliseconds' work
FOUND, STOPPED, BAD = 1, 2, -1  # what cnd_scan returns: cnd/kernel/scan.h


class Refused(Exception):
    """A library or kernel is not used; the message says why."""


class Kernel(NamedTuple):
    """The kernel that was chosen, and why others were not."""

    name: str
    make: Callable[[str, int, Sequence[int]], Any]  # a scanner: block, difficulty, stop
    refused: Dict[str, str]  # reasons, by name of the kernel or of the library
    rate: float = 0.0  # nonces/s of one core in the trial; 0: not measured


class NativeScanner:
    """Scans with one kernel of the library; as exact as `HashlibScanner`.

    The library checks `stop` every few microseconds.
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
        import ctypes  # some Pythons lack it; they use no library

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
    """Return the path of this processor's library, beside this file or in kernel/."""
    folder = os.path.dirname(os.path.abspath(__file__))
    machine = os.uname().machine
    built = f"libcndpow-{machine}.so"
    if sys.platform == "darwin":
        built = f"libcndpow-{machine.replace('arm64', 'aarch64')}_darwin.dylib"
    for path in (os.path.join(folder, LIBRARY), os.path.join(folder, "kernel", built)):
        if os.path.exists(path):
            return path
    return None


def load_library(path: str) -> Any:
    """Load the library; `Refused` if it is not CND's, or not for this system."""
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
    """Return the library's kernels: names, and whether this processor supports them."""
    kernels = []  # type: List[Tuple[str, bool]]
    while library.cnd_kernel_name(len(kernels)):
        name = library.cnd_kernel_name(len(kernels)).decode()
        kernels.append((name, bool(library.cnd_kernel_supported(len(kernels)))))
    return kernels


def choose_kernel(
    wanted: str, block: str = DEFAULT_BLOCK, path: Optional[str] = None
) -> Kernel:
    """Return the fastest kernel that gives correct answers, or the `wanted` one.

    With ANY it is the first one that gives correct answers.
    `path` is the library's, if not in its usual place.  Which kernel is the fastest is
    measured for a few milliseconds only, so that other load on the same core can change
    the order.  Raises ValueError if the wanted kernel is not available.
    """
    path = path or find_library() or ""
    refused = {}  # type: Dict[str, str]
    if wanted == HashlibScanner.name:
        return _hashlib_kernel(wanted, [], refused)
    if wanted == GPU_KERNEL:
        return _gpu_kernel()
    try:
        if not path:
            raise Refused("is not here")
        trials = _trials_in_child(path, wanted, block)
        library = load_library(path)
    except Refused as reason:
        refused[os.path.basename(path) or LIBRARY] = str(reason)
        return _hashlib_kernel(wanted, [], refused)
    refused.update((trial.name, trial.reason) for trial in trials if trial.reason)
    best = max(trials, key=lambda trial: trial.rate, default=None)
    if best is None or not best.rate:
        return _hashlib_kernel(wanted, [trial.name for trial in trials], refused)
    number = trials.index(best)

    def make(block: str, difficulty: int, stop: Sequence[int]) -> NativeScanner:
        flag = stop if isinstance(stop, memoryview) else None
        return NativeScanner(library, number, block, difficulty, flag)

    return Kernel(best.name, make, refused, best.rate)


class Trial(NamedTuple):
    """The result of testing one of the library's kernels."""

    name: str
    rate: float  # nonces/s; 0 if it was refused or not tested
    reason: str  # why it was refused


def _trials_in_child(path: str, wanted: str, block: str) -> List[Trial]:
    """Test the kernels in a child process, since a broken one may crash or hang.

    One child tests all kernels, as its start takes longer than a test.  If that child
    fails, each kernel gets a child of its own, which shows the broken kernel.
    """
    try:
        trials = _in_child(
            lambda: _try_kernels(path, wanted, block, lambda work: work())
        )
    except Refused:
        return _try_kernels(path, wanted, block, _in_child)
    return [Trial(*trial) for trial in trials]


def _try_kernels(
    path: str, wanted: str, block: str, call: Callable[[Callable[[], Any]], Any]
) -> List[Trial]:
    """Test each kernel through `call`; `Refused` if the library cannot be used."""
    kernels = call(lambda: list_kernels(load_library(path)))
    library = load_library(path)
    answers = _answers(block)
    trials = []  # type: List[Trial]
    for number, (name, supported) in enumerate(kernels):
        rate, why = 0.0, ""
        # The last one is the plain reference: not needed if another one works.
        is_more = wanted == ANY or number == len(kernels) - 1
        needless = is_more and any(trial.rate for trial in trials)
        if wanted == name or (wanted in ("auto", ANY) and not needless):
            try:
                if not supported:
                    raise Refused("this processor lacks it")
                make = functools.partial(NativeScanner, library, number)
                rate = call(functools.partial(_verified_rate, make, block, answers))
            except Refused as reason:
                why = str(reason)
        trials.append(Trial(name, rate, why))
    return trials


def _hashlib_kernel(wanted: str, others: List[str], refused: Dict[str, str]) -> Kernel:
    """Return the standard library's kernel; ValueError if another one is wanted."""
    plain = HashlibScanner.name
    if wanted in ("auto", ANY, plain):
        return Kernel(plain, HashlibScanner, refused)
    if wanted in others:
        raise ValueError(f"kernel {wanted} is refused: {refused[wanted]}")
    message = f"no such kernel here: {wanted!r}; there is {', '.join([plain, *others])}"
    reasons = "".join(f"; {name} {reason}" for name, reason in refused.items())
    raise ValueError(message + reasons)


def _test_cases(block: str) -> List[Tuple[str, int, int, int, int]]:
    """Return the stretches that test a kernel: block, difficulty, start, step, count.

    The answers to the first two are published, with the report and in the test vectors.
    The others have nonces of every length; half of them cross to the next length.
    """
    cases = [(DEFAULT_BLOCK, 2, 0, 1, 117), (DEFAULT_BLOCK, 5, 46000, 1, 698)]
    for digits in range(1, len(str(MAX_NONCES)) + 1):
        seed = hashlib.sha256(b"%d" % digits).digest()  # random, and the same each time
        step = int.from_bytes(seed[:2], "big") % 10 ** min(digits, 4) + 1
        start = 10 ** (digits - 1) + int.from_bytes(seed[2:10], "big") % 10**digits
        if digits % 2:
            start = 10**digits - 40 * step
        start = max(0, min(start, MAX_NONCES - 100 * step))
        text = block if digits % 3 else block[:1] * 60  # two blocks of SHA-256
        cases.append((text, 1, start, step, 80))
    return cases


def _answers(block: str) -> List[List[int]]:
    return [golden_nonces(HashlibScanner, *case) for case in _test_cases(block)]


PUBLISHED = [[116], [46697]]  # the golden nonces of the first two test cases


def golden_nonces(
    make: Callable[[str, int], Any],
    block: str,
    difficulty: int,
    start: int,
    step: int,
    count: int,
) -> List[int]:
    """Return all golden nonces of a stretch; `Refused` if the scanner miscounts."""
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


def _verified_rate(
    make: Callable[[str, int], Any],
    block: str,
    answers: List[List[int]],
    seconds: float = TRIAL_SLICE,
) -> float:
    """Return a scanner's rate in nonces/s; `Refused` if it gives one wrong answer.

    `seconds`: duration of a slice for the measurement.
    """
    if answers[:2] != PUBLISHED:
        raise Refused("hashlib itself gives wrong answers")
    for case, answer in zip(_test_cases(block), answers):
        given = golden_nonces(make, *case)
        if given != answer:
            asked = "nonces from {2} by {3}".format(*case)
            raise Refused(f"wrong answer for {asked}: {given}, not {answer}")
    return _rate(make(block, HASH_DIGITS), seconds)


def _rate(scanner: Any, seconds: float) -> float:
    """Return the rate in nonces/s: the best of three slices."""
    count, took = 64, 0.0
    while took < seconds:
        count *= 2
        took = _seconds_for(scanner, count)
    return count / min(took, _seconds_for(scanner, count), _seconds_for(scanner, count))


def _seconds_for(scanner: Any, count: int) -> float:
    began = time.perf_counter()
    scanner.scan(TRIAL_START, 1, count)
    return time.perf_counter() - began


def _in_child(work: Callable[[], Any]) -> Any:
    """Return what `work` returns; a child process does it, as it may crash or hang.

    Raises `Refused` if `work` raises it, or if the child crashes or takes too long.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            try:
                reply = {"answer": work()}  # type: Dict[str, Any]
            except Refused as reason:
                reply = {"refused": str(reason)}
            os.write(writer, json.dumps(reply).encode())
        finally:
            os._exit(0)
    os.close(writer)
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    in_time = poll.poll(1000 * TRIAL_PATIENCE)
    if not in_time:
        os.kill(pid, signal.SIGKILL)
    text = os.read(reader, 65536) if in_time else b""
    os.close(reader)
    _, status = os.waitpid(pid, 0)
    if not in_time:
        raise Refused(f"gave no answer within {TRIAL_PATIENCE:g} s")
    if not text:
        signum = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        raise Refused(f"crashed (signal {signum})" if signum else "failed")
    reply = json.loads(text.decode())
    if "refused" in reply:
        raise Refused(reply["refused"])
    return reply["answer"]


# --- GPUs

GPU_KERNEL = "opencl"
GPU_SCANNER = "gpu_scanner.py"  # beside this file, on hosts that may have a GPU
GPU_SOURCE = "golden.cl"  # beside it
GPU_SLICE = 0.06  # seconds; as `TRIAL_SLICE`: some launches


def find_gpu_scanner() -> Optional[str]:
    """Return the path of the GPU scanner, if this host may have a GPU."""
    folder = os.path.dirname(os.path.abspath(__file__))
    path = os.path.join(folder, GPU_SCANNER)
    return path if os.path.exists(path) else None


def _gpu_kernel() -> Kernel:
    """Return the kernel of GPUs alone: no core searches, no native one is tried."""
    if find_gpu_scanner() is None:
        raise ValueError(f"kernel {GPU_KERNEL} is refused: {GPU_SCANNER} is not here")
    return Kernel(GPU_KERNEL, HashlibScanner, {})


class OpenedGpu(NamedTuple):
    """A GPU that has passed the test, in the process that uses it."""

    make: Callable[[str, int, Sequence[int]], Any]  # a scanner, as `Kernel.make`
    name: str
    rate: float  # nonces/s
    gpus: int  # how many the host has, this one among them
    is_gpu: bool  # if not, it is the processor, by a driver for that

    @property
    def hello(self) -> Dict[str, Any]:
        """What its process tells its parent before it searches."""
        return {"device": self.name, "rate": round(self.rate)}


def open_gpu(
    path: str,
    number: int,
    block: str,
    core_rate: float,
    source: str = "",
    listed: Callable[[int], None] = lambda count: None,
) -> OpenedGpu:
    """Return a GPU of this host, ready for use by this process only.

    Args:
        path: of the GPU scanner.
        core_rate: nonces/s of one core; a GPU that is slower is of no use.
        source: the path of the kernel, if not beside the scanner.
        listed: is called with how many GPUs the host has, before this one is tried:
            the others may do if it does not.

    Raises:
        Refused: there is none, it is slow, or it gives a wrong answer.
    """
    import importlib.util

    spec = importlib.util.spec_from_file_location("gpu_scanner", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)  # type: Any
    try:
        spec.loader.exec_module(module)
        source = source or os.path.join(os.path.dirname(path), GPU_SOURCE)
        with open(source, "rb") as file:
            device, gpus = module.open_device(number, file.read(), listed)
        make = functools.partial(module.OpenclScanner, device)
        rate = _verified_rate(make, block, _answers(block), GPU_SLICE)
    except (ImportError, OSError) as error:  # those of the scanner are OSErrors
        raise Refused(str(error)) from None
    found = device.found
    if found.is_gpu and rate < core_rate:  # a processor is used only if it is wanted
        rates = f"{rate:.3g} nonces/s, {core_rate:.3g}"
        raise Refused(f"{found.name} is slower than a core: {rates}")
    return OpenedGpu(make, found.name, rate, gpus, found.is_gpu)


# --- bookkeeping


class Ledger:
    """Which positions are assigned, tested and left; pure, no processes.

    Positions count the members of the class from 0.  All positions below `cursor` have
    been tested.  Once there is a hit, only the positions below it are needed.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.tested = 0
        self.cursor = 0
        self.hit: Optional[int] = None  # the smallest golden position known
        self._next = 0  # no position from here on was ever assigned
        self._out: Dict[int, List[Tuple[int, int]]] = {}  # (first, count) by child
        self._again: List[
            Tuple[int, int]
        ] = []  # a heap of returned, untested stretches
        self._done: List[Tuple[int, int]] = []  # a heap of (first, end) above cursor

    @property
    def end(self) -> int:
        """The first position that is not needed."""
        return self.size if self.hit is None else self.hit

    @property
    def decided(self) -> bool:
        """Whether the answer is known: all needed positions have been tested."""
        return self.cursor >= self.end

    @property
    def has_work(self) -> bool:
        """Whether `take` would return a stretch."""
        again = self._again[0][0] if self._again else self.size
        return min(self._next, again) < self.end

    @property
    def has_outstanding(self) -> bool:
        """Whether any child has a stretch that it has not answered."""
        return bool(self._out)

    def take(self, child: int, count: int) -> Optional[Tuple[int, int]]:
        """Assign up to `count` positions to `child`: (first, how many), or None."""
        if not self.has_work:
            return None
        if self._again and self._again[0][0] < self._next:
            first, left = heapq.heappop(self._again)
            stretch = (first, min(count, left))  # it may be of a far faster child
            if left > count:
                heapq.heappush(self._again, (first + count, left - count))
        else:
            stretch = (self._next, min(count, self.size - self._next))
            self._next += stretch[1]
        self._out.setdefault(child, []).append(stretch)
        return stretch

    def done(self, child: int, tested: int, hit: bool) -> None:
        """Record that `tested` positions of `child`'s oldest stretch were tested.

        `hit`: whether the last of them is golden.
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

    def reclaim(self, child: int) -> None:
        """Take back the stretches of a dead child, as untested."""
        for stretch in self._out.pop(child, []):
            heapq.heappush(self._again, stretch)

    def outstanding(self, child: int) -> int:
        """Return the number of stretches that `child` has not answered."""
        return len(self._out.get(child, ()))

    def is_needed(self, child: int) -> bool:
        """Whether a stretch of `child` could still change the answer."""
        return any(first < self.end for first, _ in self._out.get(child, ()))


class PendingWitnesses:
    """The witnesses that were found and are not reported yet; pure.

    If there are too many, `level` rises: from then on, witnesses with fewer zero bits
    are left out.
    """

    def __init__(self, block: str, bits: int) -> None:
        self.level = bits
        self._block, self._bits = block, bits
        self._waiting = []  # type: List[Tuple[int, int]]  # a heap: nonce, zero bits
        self._counts = [0] * (4 * HASH_DIGITS + 2)  # by their zero bits
        self._shown = 0
        # The strongest of those that were shown, with this many zero bits or more.
        self._strongest = []  # type: List[Tuple[int, int]]
        self._summed_up_from = bits

    def add(self, nonce: int) -> None:
        """Add a witness that a child has found."""
        zeros = zero_bits(digest(self._block, nonce))
        heapq.heappush(self._waiting, (nonce, zeros))

    def show(self, cursor: int, seconds: float, last: bool) -> Dict[str, Any]:
        """Return the fields of an event for the witnesses that were not shown yet.

        Args:
            cursor: witnesses below it are shown.
            seconds: of search, so far.
            last: show some of the witnesses above it, too.
        """
        ready = []
        while self._waiting and self._waiting[0][0] < cursor:
            nonce, zeros = heapq.heappop(self._waiting)
            self._counts[zeros] += 1
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
        self._keep_strongest(ready)
        fields = {"witnesses": [nonce for nonce, _ in ready], "shown": shown}
        thinned = self.level > self._bits
        return dict(fields, thinned_to=self.level) if thinned else fields

    def _keep_strongest(self, shown: List[Tuple[int, int]]) -> None:
        self._strongest += (w for w in shown if w[1] >= self._summed_up_from)
        while len(self._strongest) > WITNESSES_SUMMED_UP:
            self._summed_up_from += 1
            kept = [w for w in self._strongest if w[1] >= self._summed_up_from]
            self._strongest = kept

    def summary(self) -> Dict[str, Any]:
        """Return the fields of an event that replaces all events before it."""
        level = max(self.level, self._summed_up_from)
        witnesses = [nonce for nonce, zeros in self._strongest if zeros >= level]
        fields = {"witnesses": witnesses, "shown": self._shown}
        return dict(fields, thinned_to=level) if level > self._bits else fields

    def _too_many(self, count: int, seconds: float) -> bool:
        most = WITNESSES_AT_FIRST + WITNESSES_A_SECOND * seconds
        return count > WITNESSES_AT_ONCE or self._shown + count > most

    @property
    def _enough_left(self) -> bool:
        return sum(self._counts[self.level + 1 :]) >= WITNESSES_LEFT


# --- child processes

REQUEST = struct.Struct("<QQ")  # first nonce, how many
# tested, whether the last one is golden, seconds, number of witnesses; then these
REPLY = struct.Struct("<Q?dI")
FAILURE = (
    2**32 - 1
)  # in place of that number: `tested` bytes of text follow, the reason
MOST_FAILURE = 500  # bytes of it


class Reply(NamedTuple):
    """A child's result for one stretch, or why there will be none any more."""

    tested: int
    hit: bool  # whether the last of them is golden
    took: float  # seconds
    witnesses: Tuple[int, ...] = ()
    failure: str = ""  # why the child ends; "": it does not

    def packed(self) -> bytes:
        if self.failure:
            reason = self.failure.encode("utf-8", "replace")[:MOST_FAILURE]
            return REPLY.pack(len(reason), False, 0.0, FAILURE) + reason
        head = REPLY.pack(self.tested, self.hit, self.took, len(self.witnesses))
        return head + struct.pack(f"<{len(self.witnesses)}Q", *self.witnesses)


def unpack_replies(data: bytes) -> Tuple[List[Reply], bytes]:
    """Return the replies in `data`, and the rest: the beginning of another reply."""
    replies, at = [], 0  # type: List[Reply], int
    while len(data) - at >= REPLY.size:
        tested, hit, took, count = REPLY.unpack_from(data, at)
        start = at + REPLY.size
        end = start + (tested if count == FAILURE else 8 * count)
        if len(data) < end:
            break
        if count == FAILURE:
            reason = data[start:end].decode("utf-8", "replace")
            replies.append(Reply(0, False, 0.0, failure=reason))
        else:
            witnesses = struct.unpack_from(f"<{count}Q", data, start)
            replies.append(Reply(tested, hit, took, witnesses))
        at = end
    return replies, data[at:]


class Child:
    """One core's or GPU's process, as seen by its parent: three pipes and a process id.

    The process of a GPU first sends lines of JSON: how many the host has, and then that
    it is ready, or why it is not.
    """

    def __init__(
        self, number: int, pid: int, requests: int, replies: int, wakeup: int
    ) -> None:
        self.number = number
        self.gpu = None  # type: Optional[int]  # its number, if it is one's process
        self.ready = True  # whether it can get stretches
        self.stretch = FIRST_STRETCH
        self.born = self.heard = time.monotonic()  # heard: the last request or reply
        self.failure = ""  # why it ends, as far as it says so
        self.descriptor = replies
        self._pid = pid
        self._requests = requests
        self._wakeup = wakeup
        self._partial = b""

    def send(self, first: int, count: int) -> None:
        """Send one request; a dead child is noticed when its replies are read."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._requests, REQUEST.pack(first, count))

    def wake(self) -> None:
        """Wake the child if it waits for its rate limit."""
        with contextlib.suppress(OSError):  # it is dead, or its pipe is full
            os.write(self._wakeup, b".")

    def hello(self) -> Optional[List[Dict[str, Any]]]:
        """Return the first lines of a GPU's process that have come; None: it died."""
        received = os.read(self.descriptor, 65536)
        *lines, self._partial = (self._partial + received).split(b"\n")
        return [json.loads(line.decode()) for line in lines] if received else None

    def replies(self) -> Optional[List[Reply]]:
        """Return the replies that have arrived, or None if the child is dead."""
        received = os.read(self.descriptor, 65536)
        if not received:
            return None
        self.heard = time.monotonic()
        replies, self._partial = unpack_replies(self._partial + received)
        return replies

    def close(self) -> None:
        os.close(self._requests)
        os.close(self._wakeup)
        os.close(self.descriptor)

    def end(self) -> Optional[int]:
        """Kill the child, which has no data that could be lost; return its status.

        None: it is a GPU's, and not gone yet.  A driver may hold a process in the
        system's kernel, where it obeys no signal: nothing may wait for its end.
        """
        self.close()
        # It is not reaped yet, so that the pid is still its own.
        os.kill(self._pid, signal.SIGKILL)
        if self.gpu is None:
            return os.waitpid(self._pid, 0)[1]
        deadline, status = time.monotonic() + KILL_PATIENCE, self.reap()
        while status is None and time.monotonic() < deadline:
            time.sleep(0.001)
            status = self.reap()
        return status

    def reap(self) -> Optional[int]:
        """Return the status of a child that was killed, once it is gone."""
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        return status if pid else None


def _serve(
    requests: int, replies: int, scanner: HashlibScanner, step: int, stop: Sequence[int]
) -> None:
    """Scan the requested stretches until the parent is gone."""
    waiting = select.poll()
    waiting.register(requests, select.POLLIN)
    data = b""
    # A request is far shorter than PIPE_BUF, so a pipe never splits it.
    for request in iter(lambda: os.read(requests, REQUEST.size), b""):
        data += _answer(request, scanner, step).packed()
        # Once it is stopped, the parent waits for the last reply: it is woken once.
        if stop[0] and waiting.poll(0):
            continue
        while data:  # a reply may be longer than a pipe takes at once
            data = data[os.write(replies, data) :]


def _answer(request: bytes, scanner: HashlibScanner, step: int) -> Reply:
    """Scan a requested stretch."""
    start, count = REQUEST.unpack(request)
    began = time.perf_counter()
    nonce = scanner.scan(start, step, count)
    took = time.perf_counter() - began
    witnesses = tuple(scanner.witnesses)
    return Reply(scanner.tested, nonce is not None, took, witnesses)


class ProcessPool:
    """The child processes, each with a stop flag in memory shared with it."""

    def __init__(
        self,
        size: int,
        make: Callable[[Sequence[int], int], HashlibScanner],
        step: int,
        first_stretch: int = FIRST_STRETCH,
        open_gpu: Optional[Callable[[int, Callable[[int], None]], Any]] = None,
    ) -> None:
        """Make the pool of `size` cores, and of the host's GPUs.

        Args:
            open_gpu: takes the number of a GPU, and what is to be called with how many
                the host has; returns an `OpenedGpu`, and what `make` is for it.  None:
                the host has none.
        """
        self.children: Dict[int, Child] = {}  # by the descriptor of their replies
        self.failure = ""  # why a child is missing
        self._make = make  # makes a scanner from a stop flag and its wake-up pipe
        self._step = step
        self._first_stretch = first_stretch
        self._size = size
        self._open_gpu = open_gpu
        self._gpus = [size] if open_gpu else []  # slots; the first one counts them
        self._flags = memoryview(mmap.mmap(-1, 4 * (size + MAX_GPUS))).cast("i")
        # Cores and GPUs without a child, the last one first: a GPU takes long.
        self._free_slots = [*range(size - 1, -1, -1), *self._gpus]
        self._early_deaths = [0] * (size + MAX_GPUS)
        self._pid = os.getpid()
        self._killed = []  # type: List[Child]  # that are not gone yet
        self._poll = select.poll()

    @property
    def complete(self) -> bool:
        """Whether every core and GPU that is in use has a child."""
        return not self._free_slots

    def add_gpus(self, count: int) -> None:
        """Use further GPUs of the host, of `count` in all."""
        last = self._size + min(count, MAX_GPUS)
        more = [each for each in range(self._size, last) if each not in self._gpus]
        self._gpus += more
        self._free_slots += more

    def set_stop(self, child: Child, wanted: bool) -> None:
        """Raise or lower a child's stop flag; raised, its stretches return untested."""
        raised, self._flags[child.number] = self._flags[child.number], wanted
        if wanted and not raised:
            child.wake()

    def wait(self, also: int, seconds: float) -> List[int]:
        """Return the readable descriptors, of the children and `also`."""
        self._killed = [child for child in self._killed if child.reap() is None]
        self._poll.register(also, select.POLLIN)
        timeout = 1000 * min(max(0.0, seconds), LONGEST_WAIT)
        return [descriptor for descriptor, _ in self._poll.poll(timeout)]

    def add(self) -> Optional[Child]:
        """Fork a child for a free core; None, and `failure` is set, if that fails."""
        number = self._free_slots.pop()
        self._flags[number] = 0
        try:
            child = self._fork(number)
        except OSError as error:  # no memory, no descriptors, no more processes
            self.failure = f"cannot start a process: {error}"
            return None
        child.stretch = self._first_stretch
        if number >= self._size:
            child.gpu, child.ready = number - self._size, False
        self.children[child.descriptor] = child
        self._poll.register(child.descriptor, select.POLLIN)
        return child

    def remove_dead(self, child: Child) -> bool:
        """Remove a dead child; its core or GPU gets a new one, or is not used any more.

        Return whether it gets one.
        """
        early = EARLY_DEATH if child.gpu is None else GPU_EARLY_DEATH
        young = time.monotonic() - child.born < early
        deaths = self._early_deaths[child.number] + 1 if young else 0
        self._early_deaths[child.number] = deaths
        self._remove(child)
        self.failure = "the processes keep dying"
        most = MAX_EARLY_DEATHS if child.gpu is None else MAX_GPU_DEATHS
        if deaths < most:
            self._free_slots.append(child.number)
        return deaths < most

    def refuse(self, child: Child) -> Optional[int]:
        """End the process of a GPU that cannot be used; return its exit status.

        None: it is not known yet.
        """
        return self._remove(child)

    def end(self) -> None:
        """End all children."""
        for child in list(self.children.values()):
            self._remove(child)

    def _remove(self, child: Child) -> Optional[int]:
        self._poll.unregister(child.descriptor)
        del self.children[child.descriptor]
        status = child.end()
        if status is None:
            self._killed.append(child)
        return status

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
        request_read, request_write, reply_read, reply_write, wake_read, wake_write = (
            pipes
        )
        if pid == 0:
            # With a copy of a parent's end, a child would outlive its parent.
            for descriptor in (request_write, reply_read, wake_write):
                os.close(descriptor)
            self._run_child(number, request_read, reply_write, wake_read)
        for descriptor in (request_read, reply_write, wake_read):
            os.close(descriptor)
        os.set_blocking(wake_write, False)
        return Child(number, pid, request_write, reply_read, wake_write)

    def _run_child(
        self, number: int, requests: int, replies: int, wakeup: int
    ) -> NoReturn:
        """Run as a child process; never return to the parent's code."""
        try:
            for signum in (signal.SIGINT, signal.SIGTERM):
                signal.signal(signum, signal.SIG_IGN)  # the parent handles them
            signal.set_wakeup_fd(-1)
            for sibling in self.children.values():
                sibling.close()
            flag = self._flags[number : number + 1]
            lower_priority(CORE_NICE if number < self._size else GPU_NICE)
            lengthen_slices()
            make = self._make
            if number >= self._size:
                make = self._introduced(number - self._size, replies)
            _serve(requests, replies, make(flag, wakeup), self._step, flag)
        except BrokenPipeError:
            pass  # the parent is gone
        except OSError as error:  # a GPU has failed
            print_error(f"a process cannot go on: {error}")
            os.write(replies, Reply(0, False, 0.0, failure=str(error)).packed())
        finally:
            if sys.exc_info()[0]:  # a bug: print it, as `_exit` would hide it
                sys.excepthook(*sys.exc_info())
                sys.stderr.flush()
            os._exit(0)

    def _introduced(
        self, gpu: int, replies: int
    ) -> Callable[[Sequence[int], int], Any]:
        """In a GPU's process: send the first line; return what makes its scanner."""
        assert self._open_gpu

        def say(**fields: Any) -> None:
            os.write(replies, json.dumps(fields).encode() + b"\n")

        end_with(self._pid)
        os.dup2(2, 1)  # drivers print, too: nothing of theirs may be among the events
        try:
            opened, make = self._open_gpu(gpu, lambda count: say(gpus=count))
        except Refused as reason:
            say(refused=str(reason))
            os._exit(0)
        say(**opened.hello)
        made = make  # type: Callable[[Sequence[int], int], Any]
        return made


def end_with(parent: int) -> None:
    """Let the system kill this process when its parent ends, while a driver hangs, too.

    prctl(2), PR_SET_PDEATHSIG.  Elsewhere than on Linux, it ends once it sees the end
    of its requests.
    """
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def lower_priority(nice: int = CORE_NICE) -> None:
    """Give this process a lower priority than the host's services and the parent.

    If Linux groups processes by session, a nice level counts within a session only, and
    each session has a nice level of its own: sched(7), "The autogroup feature".
    """
    os.setsid()
    os.nice(nice)
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as group:
        group.write(f"{nice}")


def lengthen_slices() -> None:
    """Let any other program that has work interrupt this process at once.

    Linux from 6.12 on lets a process run on until its slice of time is over, also when
    one of a higher priority wakes, unless that one asks for a shorter slice:
    sched_setattr(2), EEVDF.
    """
    number = SET_SCHEDULING.get(os.uname()[4])
    # To import it takes longer than all else here; each native kernel needs it.
    ctypes = sys.modules.get("ctypes")  # type: Any
    if not sys.platform.startswith("linux") or number is None or not ctypes:
        return
    with contextlib.suppress(OSError, AttributeError):
        # size, policy (SCHED_OTHER), flags, nice, priority, slice, deadline, period
        fields = 48, 0, 0, os.nice(0), 0, int(SLICE * 1e9), 0, 0
        ctypes.CDLL(None).syscall(number, 0, struct.pack("<IIQiIQQQ", *fields), 0)


# --- events and the system log

GENERATION = "rotated"  # the file with the number of replacements
NOT_IN_SYSLOG = ("event", "witnesses")  # fields that are not written to the syslog


class Reporter:
    """Writes each event at once, as one whole line; important ones to syslog too.

    Where the events are a file, a summary can replace them before it is too large.
    """

    def __init__(
        self,
        descriptor: int,
        run: str,
        use_syslog: bool,
        folder: str = "",
        most: int = MOST_EVENTS,
        echo: "Optional[Echo]" = None,
    ) -> None:
        """Begin with no event.

        Args:
            folder: of the file that the events go to; "": they go elsewhere.
            most: bytes of that file.
            echo: sends that file on.
        """
        self._echo = echo
        self._descriptor = descriptor
        self._folder, self._most = folder, most
        self._size = self._rotations = 0
        self._run = run
        self._syslog = Syslog() if use_syslog else None
        self._logged = time.monotonic()
        self._held = ""  # a line that is to go to the syslog

    def event(self, kind: str, **fields: Any) -> None:
        """Write one event; `progress` goes to the syslog every SYSLOG_EVERY seconds."""
        self.last_event(kind, **fields)
        self._log_held()

    def last_event(self, kind: str, **fields: Any) -> None:
        """Write one event, which goes to the syslog when this reporter is closed."""
        record = {"event": kind, "time": round(time.time(), 3)}  # type: Dict[str, Any]
        if self._run:
            record["run"] = self._run
        record.update(fields)
        self._write(record)
        now = time.monotonic()
        if self._syslog and (kind != "progress" or now >= self._logged + SYSLOG_EVERY):
            self._logged = now
            kept = (each for each in record.items() if each[0] not in NOT_IN_SYSLOG)
            text = " ".join(f"{name}={value}" for name, value in kept)
            self._held = f"{kind} {text}"

    def _log_held(self) -> None:
        held, self._held = self._held, ""
        if self._syslog and held:
            self._syslog.line(held)

    def _write(self, record: Dict[str, Any]) -> None:
        line = (json.dumps(record) + "\n").encode()
        self._size += len(line)
        while line:
            line = line[os.write(self._descriptor, line) :]
        if self._echo:
            self._echo.send()

    @property
    def is_full(self) -> bool:
        """Whether the events in the file should be replaced by a summary."""
        return bool(self._folder) and self._size >= self._most

    def rotate(self, **fields: Any) -> None:
        """Replace the events so far by one progress event with the same meaning.

        The file stays the same, for those who follow it.  Its generation is written
        beside it before: a position in the file counts in one generation only.
        """
        number = self._rotations + 1
        path = os.path.join(self._folder, GENERATION)
        record = {"event": "progress", "rotated": number}  # type: Dict[str, Any]
        record.update(fields, time=round(time.time(), 3))
        try:
            with open(path + ".new", "w") as file:
                file.write(f"{number}\n")
            os.replace(path + ".new", path)
        except OSError:  # the disk is full: perhaps later
            return
        if self._echo:
            self._echo.restart()
        os.ftruncate(self._descriptor, 0)
        self._rotations, self._size = number, 0
        self._write(record)

    def release(self) -> None:
        """In a child: leave the syslog to the parent process."""
        syslog, self._syslog = self._syslog, None
        if syslog:
            syslog.release()

    def close(self, delay: float = 0.0) -> None:
        """Write the last line to the syslog, `delay` seconds from now."""
        if self._held:
            time.sleep(delay)
        self._log_held()
        syslog, self._syslog = self._syslog, None
        if syslog:
            syslog.close()


class Echo:
    """Sends the file with the events to the SSH session that started the worker.

    That is all of the file, also what other programs add.  The search never waits for
    the session: what it does not read in time stays in the file.
    """

    def __init__(self, session: int, events: int) -> None:
        """Begin with the first byte of the file, whose descriptor is `events`."""
        self._session, self._events, self._position = session, events, 0
        self._begun = False
        self._room = select.poll()
        self._room.register(session, select.POLLOUT)

    def begin(self) -> None:
        """Tell the session that the worker runs; send it the events so far."""
        with contextlib.suppress(OSError):  # the session is gone
            os.write(self._session, _introduction(os.getpid()))
        self._begun = True
        self.send()

    def send(self) -> None:
        """Send what the session has not got yet, as far as it reads."""
        if not self._begun or self._session < 0:
            return
        try:
            # So many bytes never block where a pipe or socket is writable.
            while self._room.poll(0):
                data = os.pread(self._events, select.PIPE_BUF, self._position)
                if not data:
                    break
                self._position += os.write(self._session, data)
        except OSError:  # the session is gone
            self._close()

    def restart(self) -> None:
        """Begin again, as the file is about to; the session must have all of it."""
        if self._position < os.fstat(self._events).st_size:
            self._close()
        self._position = 0

    def _close(self) -> None:
        if self._session >= 0:
            os.close(self._session)
        self._session = -1


class Syslog:
    """The `logger` program, given line by line; without it, nothing is logged."""

    def __init__(self) -> None:
        reader, self._pipe = os.pipe()
        self._ended, held = os.pipe()  # readable once the logger has ended
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.set_inheritable(held, True)
                null = os.open(os.devnull, os.O_RDWR)
                for source, target in ((reader, 0), (null, 1), (null, 2)):
                    os.dup2(source, target)
                for signum in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(signum, signal.SIG_IGN)  # the last line is to come
                os.execvp("logger", ["logger", "-t", "cnd-pow"])
            finally:
                os._exit(127)
        os.close(reader)
        os.close(held)
        # A logger that hangs must never delay the search.
        os.set_blocking(self._pipe, False)

    def line(self, text: str) -> None:
        # Without a logger, or with one that hangs, the events are the record.
        with contextlib.suppress(OSError):
            os.write(self._pipe, text.encode() + b"\n")

    def release(self) -> None:
        os.close(self._pipe)

    def close(self) -> None:
        """Wait for the last line to be written, SYSLOG_PATIENCE seconds at most."""
        os.close(self._pipe)
        ended, _, _ = select.select([self._ended], [], [], SYSLOG_PATIENCE)
        if not ended:
            os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


# --- the search


class StopRequest:
    """SIGTERM and SIGINT, from now on, as a flag and a descriptor to wait for."""

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
        self,
        options: WorkerOptions,
        kernel: Kernel,
        report: Reporter,
        stop: StopRequest,
    ) -> None:
        self._options = options
        self._search = search = options.search
        self._report = report
        self._stop = stop
        self._kernel = kernel
        self._ledger = Ledger(search.size)
        self._gpu_scanner = _wanted_gpu_scanner(options)
        self._cores = 0 if kernel.name == GPU_KERNEL else options.processes
        self._pool = ProcessPool(
            self._cores,
            functools.partial(self._scanner, kernel.make),
            search.of,
            _first_stretch(options),
            self._open_gpu if self._gpu_scanner else None,
        )
        self._stretch_seconds = _stretch_seconds(options)
        self._began = time.monotonic()
        limit = options.time_limit
        self._deadline = None if limit is None else self._began + limit
        self._last_progress = (self._began, 0)  # when, and nonces tested
        self._witnesses = None  # type: Optional[PendingWitnesses]
        if options.witness_bits is not None:
            self._witnesses = PendingWitnesses(search.block, options.witness_bits)
        self._ending = ""  # "stopped" or "timeout", once decided
        self._end_deadline: Optional[float] = None  # for the last replies

    def run(self, started: Callable[[], None], ended: Callable[[], None]) -> str:
        """Search; return the kind of the last event.

        Calls `started` after the first event and `ended` after the last.
        """
        self._report_start()
        started()
        try:
            self._update_state()
            while not self._finished():
                self._add_process()
                self._wait()
                self._update_state()
            kind = self._report_end()
            ended()
            return kind
        finally:
            self._pool.end()

    def _finished(self) -> bool:
        if self._end_deadline is not None:
            return (
                not self._ledger.has_outstanding
                or time.monotonic() >= self._end_deadline
            )
        return self._pool.complete and not self._pool.children

    def _scanner(
        self,
        make: Callable[[str, int, Sequence[int]], Any],
        stop: Sequence[int],
        wakeup: int,
        gpus: int = 1,
    ) -> Any:
        """Return a child's scanner; called in the child.

        `gpus`: how many share what one core has of a limited rate, if it is a GPU's.
        """
        self._report.release()  # the logger ends when its last writer is gone
        search, options = self._search, self._options
        if options.witness_bits is None:
            scanner = make(search.block, search.difficulty, stop)
        else:
            scanner = WitnessScanner(make, search, options.witness_bits, stop)
        if options.rate is None:
            return scanner
        shares = (self._cores + bool(self._gpu_scanner)) * gpus
        return RateLimitedScanner(scanner, options.rate / shares, stop, wakeup)

    def _open_gpu(
        self, number: int, listed: Callable[[int], None]
    ) -> Tuple[OpenedGpu, Any]:
        """Return a GPU and what makes its scanner; called in its process."""
        self._report.release()
        path, block, core_rate = (
            self._gpu_scanner or "",
            self._search.block,
            self._kernel.rate,
        )
        opened = open_gpu(path, number, block, core_rate, listed=listed)
        gpus = min(opened.gpus, MAX_GPUS)
        return opened, functools.partial(self._scanner, opened.make, gpus=gpus)

    def _welcome(self, gpu: Child) -> None:
        """Take the first lines of a GPU's process."""
        dead = [{"refused": ""}]  # type: List[Dict[str, Any]]
        lines = gpu.hello()
        for line in dead if lines is None else lines:
            if "gpus" in line:
                self._pool.add_gpus(line["gpus"])
            elif "device" in line:
                self._admit(gpu, line)
            else:
                self._refuse(gpu, line["refused"])

    def _admit(self, gpu: Child, hello: Dict[str, Any]) -> None:
        """Let a GPU search from now on."""
        gpu.ready = True
        if self._options.rate is None:
            gpu.stretch = max(1, int(hello["rate"] * self._stretch_seconds / 2))
        both = f"{GPU_KERNEL}+{self._kernel.name}"
        kernel = GPU_KERNEL if self._kernel.name == GPU_KERNEL else both
        self._report.event("device", number=gpu.gpu, kernel=kernel, **hello)
        self._assign_work(gpu)

    def _refuse(self, gpu: Child, reason: str) -> None:
        """Do without a GPU, and report why."""
        status = self._pool.refuse(gpu)
        signum = os.WTERMSIG(status) if status and os.WIFSIGNALED(status) else 0
        reason = reason or (f"crashed (signal {signum})" if signum else "failed")
        self._pool.failure = f"kernel {GPU_KERNEL} is refused: {reason}"
        self._report.event("device", number=gpu.gpu, refused=reason)

    def _give_up_overdue(self, now: float) -> None:
        """End the GPUs' processes that have not answered in time."""
        for child in list(self._pool.children.values()):
            if now < self._due(child):
                continue
            if child.ready:
                child.failure = f"gave no answer for {now - child.heard:.0f} s"
                self._remove_dead(child)
            else:
                patience = self._options.gpu_patience
                self._refuse(child, f"gave no answer within {patience:g} s")

    def _due(self, child: Child) -> float:
        """Return when a child must have answered, on the monotonic clock.

        Only a GPU's process may hang: in its driver.
        """
        if child.gpu is None:
            return math.inf
        if not child.ready:
            return child.born + self._options.gpu_patience
        if not self._ledger.outstanding(child.number):
            return math.inf
        # A rate-limited one answers when the time of its stretches has passed.
        slack = QUEUED * MAX_GROWTH * self._stretch_seconds
        return child.heard + self._options.gpu_silence + slack

    def _remove_dead(self, child: Child) -> None:
        """Take back what a dead child was to test; others may have had no work left."""
        self._ledger.reclaim(child.number)
        again = self._pool.remove_dead(child)
        if child.gpu is not None:
            reason = child.failure or "its process has died"
            self._pool.failure = f"kernel {GPU_KERNEL} fails: {reason}"
            kind = {"failed": reason} if again else {"refused": f"again: {reason}"}
            self._report.event("device", number=child.gpu, **kind)
        for other in self._pool.children.values():
            self._assign_work(other)

    @property
    def _must_continue(self) -> bool:
        """Whether to go on testing; below a hit always, as the answer is near."""
        return not self._ending or self._ledger.hit is not None

    def _add_process(self) -> None:
        """Fork one more child if there is work; the others search meanwhile."""
        if self._must_continue and self._ledger.has_work and not self._pool.complete:
            child = self._pool.add()
            if child:
                self._assign_work(child)

    def _assign_work(self, child: Child) -> None:
        ledger = self._ledger
        if not child.ready:
            return
        while self._must_continue and ledger.outstanding(child.number) < QUEUED:
            stretch = ledger.take(child.number, child.stretch)
            if stretch is None:
                return
            if ledger.outstanding(child.number) == 1:  # it had nothing to answer
                child.heard = time.monotonic()
            child.send(self._search.nonce(stretch[0]), stretch[1])

    def _wait(self) -> None:
        """Wait for replies, a signal or the next deadline; record the replies."""
        growing = (
            self._must_continue and self._ledger.has_work and not self._pool.complete
        )
        seconds = self._next_deadline() - time.monotonic()
        if growing or not self._pool.children:  # there is no reply to wait for
            seconds = 0.0
        for descriptor in self._pool.wait(self._stop.descriptor, seconds):
            if descriptor == self._stop.descriptor:
                self._stop.clear()
                continue
            child = self._pool.children[descriptor]
            if not child.ready:
                self._welcome(child)
                continue
            replies = child.replies()
            if replies is None:
                self._remove_dead(child)
                continue
            for reply in replies:
                self._record(child, reply)
            self._assign_work(child)

    def _record(self, child: Child, reply: Reply) -> None:
        if reply.failure:
            child.failure = reply.failure  # it ends
            return
        self._ledger.done(child.number, reply.tested, reply.hit)
        for nonce in reply.witnesses:
            if self._witnesses:
                self._witnesses.add(nonce)
        child.stretch = _next_stretch(
            child.stretch, reply.tested, reply.took, self._stretch_seconds
        )

    def _next_deadline(self) -> float:
        if self._end_deadline is not None:
            return self._end_deadline
        soonest = self._last_progress[0] + self._options.progress
        soonest = min([soonest, *map(self._due, self._pool.children.values())])
        return soonest if self._deadline is None else min(soonest, self._deadline)

    def _update_state(self) -> None:
        """Decide whether the search ends, and which children may stop early."""
        now = time.monotonic()
        self._give_up_overdue(now)
        if self._stop.made:
            self._ending = self._ending or "stopped"
        elif self._deadline is not None and now >= self._deadline:
            self._ending = self._ending or "timeout"
        if self._ending or self._ledger.decided:
            self._end_deadline = self._end_deadline or now + END_PATIENCE
        elif now >= self._last_progress[0] + self._options.progress:
            self._report_progress(now)
        if self._ending or self._ledger.hit is not None:
            for child in self._pool.children.values():
                needed = self._must_continue and self._ledger.is_needed(child.number)
                self._pool.set_stop(child, not needed)

    def _report_start(self) -> None:
        search = self._search
        self._report.event(
            "started",
            pid=os.getpid(),
            index=search.index,
            of=search.of,
            start=search.start,
            nonces=search.nonces,
            difficulty=search.difficulty,
            processes=self._options.processes,
            kernel=self._kernel.name,
            rate_cap=self._options.rate,
            witness_bits=self._options.witness_bits,
            refused=self._kernel.refused,
            python=sys.version.split()[0],
            version=VERSION,
        )

    def _report_progress(self, now: float) -> None:
        before, tested = self._last_progress
        self._last_progress = (now, self._ledger.tested)
        rate = (self._ledger.tested - tested) / (now - before)
        fields = dict(self._progress_fields(now), rate=round(rate, 1))
        self._report.event("progress", **fields)
        if self._report.is_full:
            if self._witnesses:
                fields.pop("thinned_to", None)
                fields.update(self._witnesses.summary())
            self._report.rotate(**fields)

    def _report_end(self) -> str:
        now, ledger = time.monotonic(), self._ledger
        fields = self._progress_fields(now, last=True)
        fields["rate"] = round(ledger.tested / max(now - self._began, 1e-9), 1)
        if ledger.decided and ledger.hit is not None:
            nonce = self._search.nonce(ledger.hit)
            found = {"nonce": nonce, "hash": digest(self._search.block, nonce)}
            self._report.last_event("found", **found, **fields)
            return "found"
        if ledger.decided:
            kind = "exhausted"
        elif self._ending:
            kind = self._ending
        else:
            kind = "failed"
            fields["reason"] = self._pool.failure
        self._report.last_event(kind, **fields)
        return kind

    def _progress_fields(self, now: float, last: bool = False) -> Dict[str, Any]:
        """Return the fields for the progress so far; `last`: of the last event."""
        fields = {
            "cursor": self._search.nonce(self._ledger.cursor),
            "tested": self._ledger.tested,
            "seconds": round(now - self._began, 4),
        }  # type: Dict[str, Any]
        if self._witnesses:
            seconds = now - self._began
            fields.update(self._witnesses.show(fields["cursor"], seconds, last))
        return fields


def _wanted_kernel(options: WorkerOptions) -> str:
    """Return the name of the kernel to use, ANY, or "auto" to test all of them."""
    rate = options.rate
    if options.kernel != "auto" or rate is None or rate > ANY_KERNEL_RATE:
        return options.kernel
    return HashlibScanner.name if rate <= HASHLIB_RATE else ANY


def _wanted_gpu_scanner(options: WorkerOptions) -> Optional[str]:
    """Return the path of the GPU scanner if GPUs are to search, too."""
    return (
        find_gpu_scanner() if _wanted_kernel(options) in ("auto", GPU_KERNEL) else None
    )


def _first_stretch(options: WorkerOptions) -> int:
    """Return the length of a child's first stretch, in nonces."""
    if options.rate is None:
        return FIRST_STRETCH
    count = int(options.rate / options.processes * FIRST_LIMITED)
    return max(1, min(FIRST_STRETCH, count))


def _next_stretch(stretch: int, tested: int, took: float, target: float) -> int:
    """Return how many nonces take `target` seconds, at the rate of the last stretch."""
    if tested == 0 or took <= 0:
        return stretch
    return max(1, min(int(tested * target / took), MAX_GROWTH * stretch))


def _stretch_seconds(options: WorkerOptions) -> float:
    """Return the duration of a stretch, in seconds.

    Many rate-limited hosts may share one machine, so their stretches are longer.
    """
    if options.rate is None:
        return STRETCH_SECONDS
    return max(STRETCH_SECONDS, options.progress / STRETCHES_PER_PROGRESS)


# --- detached


class Detached:
    """This process, running in the background in a folder whose lock it holds."""

    def __init__(
        self, pid_file: int, handshake: int, echo: Optional[Echo] = None
    ) -> None:
        self._pid_file = pid_file
        self._handshake = handshake
        self.echo = echo
        os.ftruncate(pid_file, 0)  # the file must never name a former process
        os.write(pid_file, b"%d\n" % os.getpid())

    def started(self) -> None:
        """Let the starting process end: it waits for this call."""
        if self.echo:
            self.echo.begin()
        with contextlib.suppress(BrokenPipeError):  # it was killed meanwhile
            os.write(self._handshake, b"%d" % os.getpid())
        os.close(self._handshake)

    def ended(self) -> None:
        """Clear the pid file: the system may soon give the pid to another process.

        Returns EXIT_DELAY seconds later: ending a process costs more than stopping a
        search, and other workers on this machine may have their last event to write.
        """
        os.ftruncate(self._pid_file, 0)
        time.sleep(EXIT_DELAY)


def detach(folder: str, echo: bool = False) -> Detached:
    """Continue as a background process in `folder`; return in that process only.

    The calling process waits until `started` is called, prints the id of the background
    process and exits.  Two workers never run in one folder: the worker and its children
    hold the lock on `worker.pid`.

    Args:
        echo: whether the background process keeps the standard output, for a copy of
            its events; it then prints its id, before them.
    """
    os.makedirs(folder, mode=0o700, exist_ok=True)
    pid_file = _locked(os.path.join(folder, "worker.pid"))
    streams = _streams(folder)
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        os._exit(_introduce(reader, folder, echo))
    os.close(reader)
    os.setsid()
    if os.fork():
        os._exit(0)  # not a session leader any more: it can never get a terminal
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    session = Echo(os.dup(1), 1) if echo else None
    for source, target in zip(streams, (0, 1, 2)):
        os.dup2(source, target)
        os.close(source)
    return Detached(pid_file, writer, session)


def _locked(path: str) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.read(descriptor, 20).decode().strip() or "unknown"
        message = f"a worker runs in this folder already (process {pid}): stop it first"
        raise ValueError(message) from None
    return descriptor


def _introduction(pid: int) -> bytes:
    return json.dumps({"event": "detached", "pid": pid}).encode() + b"\n"


def _introduce(handshake: int, folder: str, echo: bool) -> int:
    """Print the id of the background process once it has started; return the status."""
    ready, _, _ = select.select([handshake], [], [], START_PATIENCE)
    pid = os.read(handshake, 20) if ready else b""
    if pid:
        if not echo:
            os.write(1, _introduction(int(pid)))
        return 0
    complaints = os.path.join(folder, "worker.err")
    print_error(f"the worker did not start: see {complaints}")
    return STATUS["failed"]


def _streams(folder: str) -> Tuple[int, int, int]:
    """Open a detached worker's standard input (empty), output and errors."""
    name = os.path.join(folder, "events.jsonl")
    events = os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    size = os.fstat(events).st_size
    if size and os.pread(events, 1, size - 1) != b"\n":
        os.write(events, b"\n")  # a crashed worker left half a line
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    complaints = os.open(os.path.join(folder, "worker.err"), flags, 0o600)
    return os.open(os.devnull, os.O_RDONLY), events, complaints


# --- the command line


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
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
    "most_events": MOST_EVENTS,
    "gpu_patience": GPU_PATIENCE,
    "gpu_silence": GPU_SILENCE,
    "log_delay": 0.0,
    "echo": False,
}


def job_words(arguments: List[str]) -> Dict[str, Any]:
    """Return what `--job FILE --detach FOLDER [--echo]` gives; other words: nothing.

    The loader starts a worker with these words; no parser has to be imported for them.
    """
    shape, echo = arguments[:4:2], arguments[4:]
    if shape != ["--job", "--detach"] or echo not in ([], ["--echo"]):
        return {}
    return {"job": arguments[1], "detach": arguments[3], "echo": bool(echo)}


def parse(arguments: List[str]) -> Tuple[Dict[str, Any], str]:
    """Return the options and the folder to detach in ("": none).

    Flags override the job file, which overrides the defaults.
    """
    given = job_words(arguments) or _flags(arguments)
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
    # Imported here, as hosts do not need it: it takes as long as testing all kernels.
    import argparse

    class Parser(argparse.ArgumentParser):
        """Reports errors in one line, like the rest of this program."""

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
    add("--of", help="number of classes (1)")
    add("--nonces", help="size of the nonce space, up to 2**64 (2**32)")
    add("--start", help="the first nonce to test, of the class (its first)")
    add("--time-limit", help="seconds after which the search ends (never)")
    add("--processes", help="number of processes (one per usable core)")
    add("--progress", help="seconds between two progress events (1)")
    add("--kernel", help="auto, any, hashlib, opencl or a native kernel's name (auto)")
    add("--gpu-patience", help="seconds until a GPU must have proved itself (120)")
    add("--gpu-silence", help="seconds until a GPU that searches must answer (30)")
    add("--rate", help="nonces per second, at most (CND_RATE, or no limit)")
    add("--witness-bits", help="also report nonces with so many zero bits (none)")
    add("--run", help="the name of the run, a field of every event")
    add("--job", metavar="FILE", help="read options from a file with a JSON object")
    add("--detach", metavar="FOLDER", help="run in the background, in this folder")
    add("--echo", action="store_true", help="with --detach: print the events here, too")
    add("--no-syslog", dest="syslog", action="store_false", help="write no syslog")
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


def checked(raw: Dict[str, Any]) -> WorkerOptions:
    """Return the checked options; ValueError, in one line, if one is invalid."""
    if raw["difficulty"] is None:
        raise ValueError("difficulty is missing: add --difficulty 2, for example")
    start, limit = raw["start"], raw["time_limit"]
    rate = _rate_cap(raw["rate"])
    search = Search(
        _text("block", raw["block"]),
        _whole("difficulty", raw["difficulty"]),
        _whole("nonces", raw["nonces"]),
        _whole("index", raw["index"]),
        _whole("of", raw["of"]),
        None if start is None else _whole("start", start),
    )
    options = WorkerOptions(
        search,
        _processes(raw["processes"], rate),
        None if limit is None else _seconds("time limit", limit, 0),
        _seconds("progress", raw["progress"], MIN_PROGRESS),
        _text("kernel", raw["kernel"]),
        _text("run", raw["run"]),
        raw["syslog"],
        rate,
        _witness_bits(raw["witness_bits"], search.difficulty),
        _whole("most events", raw["most_events"]),
        _seconds("gpu patience", raw["gpu_patience"], 0),
        _seconds("gpu silence", raw["gpu_silence"], 0),
        _log_delay(raw["log_delay"]),
        raw["echo"] is True,
    )
    if len(options.run) > MAX_RUN_LENGTH or not options.run.isprintable():
        limits = f"at most {MAX_RUN_LENGTH} printable characters"
        raise ValueError(f"run must be {limits}, not {options.run[:200]!r}")
    if not isinstance(options.syslog, bool):
        raise ValueError(f"syslog must be true or false, not {options.syslog!r}")
    return options


def _rate_cap(value: Any) -> Optional[float]:
    """Return the rate limit from the option, or else from the host's environment."""
    value = os.environ.get("CND_RATE") if value is None else value
    if value is None:
        return None
    with contextlib.suppress(ValueError, TypeError):
        if not isinstance(value, bool) and 1 <= float(value) <= MAX_RATE:
            return float(value)
    raise ValueError(f"rate must be nonces a second, 1 or more, not {value!r}")


def _witness_bits(value: Any, difficulty: int) -> Optional[int]:
    """Return the zero bits of a witness, fewer than those of a golden nonce."""
    if value is None:
        return None
    bits = _whole("witness bits", value)
    _check_range("witness bits", bits, 0, 4 * difficulty - 1)
    return bits


def _log_delay(value: Any) -> float:
    delay = float(value) if isinstance(value, (int, float)) else -1.0
    if not 0 <= delay <= MAX_LOG_DELAY:
        raise ValueError(f"log delay must be 0 to {MAX_LOG_DELAY:g}, not {value!r}")
    return delay


def _processes(value: Any, rate: Optional[float]) -> int:
    if value is None:
        alone = rate is not None and rate <= ONE_PROCESS_RATE
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


def print_error(message: object) -> None:
    """Write a message of one line to standard error."""
    sys.stderr.write(f"pow.py: {message}\n")
    sys.stderr.flush()


def main(arguments: List[str]) -> int:
    """Run one search; return the exit status."""
    stop = StopRequest()
    try:
        raw, folder = parse(arguments)
        options = checked(raw)
        kernel = choose_kernel(_wanted_kernel(options), options.search.block)
        detached = detach(folder, options.echo) if folder else None
    except (ValueError, OSError) as error:
        print_error(error)
        return USAGE_STATUS
    report = Reporter(
        sys.stdout.fileno(),
        options.run,
        options.syslog,
        folder,
        options.most_events,
        detached.echo if detached else None,
    )

    def started() -> None:
        if detached:
            detached.started()

    def ended() -> None:
        report.close(options.log_delay)
        if detached:
            detached.ended()

    try:
        return STATUS[Worker(options, kernel, report, stop).run(started, ended)]
    except OSError as error:  # the reader of the events is gone, or the disk is full
        print_error(f"cannot go on: {error}")
        ended()
        return STATUS["failed"]


if __name__ == "__main__":
    # Everything is written and closed.  An orderly end of the interpreter would take
    # longer than everything from the signal to the last event.
    os._exit(main(sys.argv[1:]))
