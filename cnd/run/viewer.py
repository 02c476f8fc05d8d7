"""What shows a run: the interface between the orchestrator and any view.

One rule: a viewer is called by the deciding thread only, and must return at once.
"""

from __future__ import annotations

from typing import Protocol

from cnd.model.events import Event
from cnd.model.search_state import SearchState


class Viewer(Protocol):
    """Whoever shows a run."""

    def show(self, event: Event) -> None:
        """Show something that happened."""

    def tick(self, race: SearchState) -> None:
        """Show how far the run is; called ten times a second, and after what counts."""

    def answer(self, text: str) -> None:
        """Say `text` at once; called in a signal handler, in the middle of anything."""

    def close(self) -> None:
        """Leave the terminal as it is to be left."""
