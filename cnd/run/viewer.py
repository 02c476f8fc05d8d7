"""The interface between the orchestrator and any view of a run.

One rule: a viewer is called by the deciding thread only, and must return at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from cnd.model.events import Event
from cnd.model.search_state import SearchState

Say = Callable[[str], None]  # takes a message for the user


class Viewer(Protocol):
    """A view of a run."""

    def show(self, event: Event) -> None:
        """Show an event."""

    def tick(self, search: SearchState) -> None:
        """Show the progress; called ten times a second, and after decisive events."""

    def answer(self, text: str) -> None:
        """Show `text` at once; called in a signal handler, amid any code."""

    def close(self) -> None:
        """Restore the terminal."""
