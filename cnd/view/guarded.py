"""A viewer in a thread of its own, whose failure ends that viewer only.

One rule: a run neither waits for its viewer nor ends because of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from cnd.model.events import PROGRESS, Event
from cnd.model.search_state import SearchState
from cnd.run.viewer import Viewer
from cnd.system.background import CallQueue

# What may wait to be shown: a terminal that takes nothing gets the rest late or never.
MOST_WAITING, MOST_MINOR = 20_000, 1000  # events; of the kinds that matter least
MINOR = frozenset({PROGRESS, "worker.noise"})
CLOSE_PATIENCE = 2.0  # seconds for the last lines to be shown


class BackgroundViewer:
    """Lets another viewer show a run, in a thread of its own.

    A terminal that takes nothing (Ctrl-S, a pipe that no process reads) delays its
    viewer and nothing else.  What the viewer raises is raised by the next call, once.
    """

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._calls = CallQueue("view", MOST_WAITING)
        self._search: SearchState | None = None  # as of the latest tick
        self._ticking = False  # a tick waits, which will show that
        self._raised = False

    def show(self, event: Event) -> None:
        self._raise()
        if event.kind not in MINOR or self._calls.waiting < MOST_MINOR:
            self._calls.put(lambda: self._viewer.show(event))

    def tick(self, search: SearchState) -> None:
        self._raise()
        self._search = search
        if not self._ticking:
            self._ticking = True
            if not self._calls.put(self._tick):
                self._ticking = False

    def _tick(self) -> None:
        self._ticking = False  # first: what changes from now on asks for another
        if self._search is not None:
            self._viewer.tick(self._search)

    def answer(self, text: str) -> None:
        """Show `text` soon: the signal handler that calls this must not wait."""
        self._calls.put(lambda: self._viewer.answer(text))

    def close(self) -> None:
        """Show what waits, and leave the terminal, if it can be written to."""
        self._calls.put(self._viewer.close)
        self._calls.settle(CLOSE_PATIENCE)

    def _raise(self) -> None:
        if self._calls.error and not self._raised:
            self._raised = True
            raise self._calls.error


class Silent:
    """Shows nothing."""

    def show(self, event: Event) -> None: ...

    def tick(self, search: SearchState) -> None: ...

    def answer(self, text: str) -> None: ...

    def close(self) -> None: ...


class FallbackViewer:
    """Shows a run by another viewer, whose failure ends that viewer only.

    A run must not end, nor end otherwise, because it could not be shown.
    """

    def __init__(self, *makers: Callable[[], Viewer]) -> None:
        """Show by what the first of `makers` makes; where that fails, by the next."""
        self._makers = [*makers]
        self._viewer: Viewer = Silent()
        self._go_on("")

    def show(self, event: Event) -> None:
        with self._guarded():
            self._viewer.show(event)

    def tick(self, search: SearchState) -> None:
        with self._guarded():
            self._viewer.tick(search)

    def answer(self, text: str) -> None:
        with self._guarded():
            self._viewer.answer(text)

    def close(self) -> None:
        with self._guarded():
            self._viewer.close()

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of any kind: the run must go on
            with contextlib.suppress(Exception):
                self._viewer.close()
            self._viewer = Silent()
            self._go_on(f"it could not be shown: {type(error).__name__}: {error}")

    def _go_on(self, trouble: str) -> None:
        if self._makers:
            with self._guarded():
                self._viewer = self._makers.pop(0)()
                if trouble:
                    fields = {"reason": trouble}
                    self._viewer.show(Event("cloud.trouble", fields=fields))
