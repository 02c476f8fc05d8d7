"""Work that may block, done in other threads than the caller's.

One rule: every thread here is a daemon, which does not delay the end of the program;
every queue has a limit; and every wait has a limit that its caller gives.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")
Call = Callable[[], object]

START_PATIENCE = 5.0  # seconds for a new thread to begin

# What waiting for a future raises: in Python 3.10 not the built-in `TimeoutError`.
NotDone = FutureTimeout


class _Begun(threading.Event):
    """The event that a start of a thread waits for: without end, in Python's own."""

    def __init__(self, patience: float) -> None:
        super().__init__()
        self._patience = patience

    def wait(self, timeout: float | None = None) -> bool:
        if not super().wait(self._patience if timeout is None else timeout):
            raise RuntimeError("can't start new thread: it does not begin")
        return True


def begin(thread: threading.Thread, patience: float = START_PATIENCE) -> None:
    """Start a thread; one that has no memory to begin with is not waited for.

    Raises:
        RuntimeError: none is to be had.
    """
    # No public way: https://github.com/python/cpython/blob/main/Lib/threading.py
    thread._started = _Begun(patience)  # type: ignore[attr-defined]
    thread.start()


class Pool:
    """Threads for calls that come back as futures; `most` of them at a time.

    Unlike those of `ThreadPoolExecutor`, they are not waited for when Python exits.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Future[Any], Call]] = deque()
        self._threads = 0
        self._closed = False

    def submit(
        self, work: Callable[P, T], *arguments: P.args, **options: P.kwargs
    ) -> Future[T]:
        """Let a thread do `work`; the future is cancelled if the pool is closed.

        Where no thread can be started, the future fails with what Python raised.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                future.cancel()
                return future
            self._waiting.append((future, lambda: work(*arguments, **options)))
            if self._threads == self._most:
                return future
            self._threads += 1
        try:
            begin(threading.Thread(target=self._work, name=self._name, daemon=True))
        except (RuntimeError, MemoryError) as error:
            self._forgo(future, error)
        return future

    def _forgo(self, future: Future[Any], error: BaseException) -> None:
        """Let a future fail, unless another thread has it done meanwhile."""
        with self._lock:
            self._threads -= 1
            left = deque(each for each in self._waiting if each[0] is not future)
            waits = len(left) < len(self._waiting)
            self._waiting = left
        if waits:
            future.set_exception(error)

    def close(self, *, cancel: bool = False) -> None:
        """Take no more work; what waits is still done, unless it is cancelled."""
        waiting: deque[tuple[Future[Any], Call]] = deque()
        with self._lock:
            self._closed = True
            if cancel:
                waiting, self._waiting = self._waiting, waiting
        for future, _ in waiting:
            future.cancel()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                future, call = self._waiting.popleft()
            try:
                _complete(future, call)
            except BaseException as error:  # a wait for the future must end
                future.set_exception(error)
            del future, call  # the result belongs to the caller alone


def _complete(future: Future[Any], call: Call) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as error:  # `Future.result` raises it
        future.set_exception(error)
    else:
        future.set_result(result)


def within(seconds: float, work: Callable[[], T]) -> T:
    """Return what `work` returns, or raise what it raises.

    Raises:
        TimeoutError: it took longer; it goes on in its thread.
    """
    return answer(Pool(1, "within").submit(work), seconds)


def answer(future: Future[T], seconds: float) -> T:
    """Return what the work of a future returns, or raise what it raises.

    Raises:
        TimeoutError: it takes longer; it goes on in its thread.
    """
    try:
        return future.result(timeout=max(0.0, seconds))
    except NotDone:
        if future.done():
            raise  # its own
        raise TimeoutError(f"no answer within {seconds:g} s") from None


class CallQueue:
    """One thread that makes the calls it is given, in their order.

    To put a call never waits and takes no lock: a signal handler may do it.
    """

    def __init__(self, name: str, most: int) -> None:
        """Start the thread; at most `most` calls wait for it."""
        self._most = most
        self._calls: SimpleQueue[Call] = SimpleQueue()
        self.error: BaseException | None = None  # the first that a call has raised
        threading.Thread(target=self._work, name=name, daemon=True).start()

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return self._calls.qsize()

    def put(self, call: Call) -> bool:
        """Add a call; return False where too many wait: it is dropped then."""
        if self._calls.qsize() >= self._most:
            return False
        self._calls.put(call)
        return True

    def settle(self, seconds: float) -> bool:
        """Wait until all calls so far are made; return whether they were in time."""
        done = threading.Event()
        deadline = time.monotonic() + seconds
        while not self.put(done.set):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)
        return done.wait(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        while True:
            call = self._calls.get()
            try:
                call()
            except BaseException as error:  # for the reader of `error`
                self.error = self.error or error
