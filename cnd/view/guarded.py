"""A viewer in a thread of its own, whose failure ends that viewer only.

One rule: a run neither waits for its view nor ends because of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from cnd.model.events import PROGRESS, Event
from cnd.model.search_state import SearchState
from cnd.run.viewer import Viewer
from cnd.system.background import Lane

# What may wait to be shown: a terminal that takes nothing gets the rest later, or not.
MOST_WAITING, MOST_MINOR = 20_000, 1000  # events; of the kinds that matter least
MINOR = frozenset({PROGRESS, "worker.noise"})
CLOSE_PATIENCE = 2.0  # seconds for the last lines to be shown


class BackgroundViewer:
    """Has another viewer show a run, in a thread of its own.

    A terminal that takes nothing (Ctrl-S, a pipe that nobody reads) holds up its view
    and nothing else.  What the viewer raises is raised by the next call, once.
    """

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._lane = Lane("view", MOST_WAITING)
        self._race: SearchState | None = None  # as of the latest tick
        self._ticking = False  # a tick waits, which will show that
        self._raised = False

    def show(self, event: Event) -> None:
        self._raise()
        if event.kind not in MINOR or self._lane.waiting < MOST_MINOR:
            self._lane.put(lambda: self._viewer.show(event))

    def tick(self, race: SearchState) -> None:
        self._raise()
        self._race = race
        if not self._ticking:
            self._ticking = True
            if not self._lane.put(self._tick):
                self._ticking = False

    def _tick(self) -> None:
        self._ticking = False  # first: what changes from now on asks for another
        if self._race is not None:
            self._viewer.tick(self._race)

    def answer(self, text: str) -> None:
        """Say `text` soon: the signal handler that calls this must not wait."""
        self._lane.put(lambda: self._viewer.answer(text))

    def close(self) -> None:
        """Leave the terminal, if it can be written to; see that all was shown."""
        self._lane.put(self._viewer.close)
        self._lane.settle(CLOSE_PATIENCE)

    def _raise(self) -> None:
        if self._lane.error and not self._raised:
            self._raised = True
            raise self._lane.error


class Silent:
    """Shows nothing."""

    def show(self, event: Event) -> None: ...

    def tick(self, race: SearchState) -> None: ...

    def answer(self, text: str) -> None: ...

    def close(self) -> None: ...


class FallbackViewer:
    """Shows a run by another viewer, whose failure is the end of that viewer only.

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

    def tick(self, race: SearchState) -> None:
        with self._guarded():
            self._viewer.tick(race)

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
        except Exception as error:  # of whatever kind: the rule is the caller's life
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
