"""The runs on this disk that go on from another one: its rest must not be tested twice.

One rule: nothing is changed here but a lock; a run that has tested nothing is none of
them, nor is one of which nothing can be known.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from cnd.errors import UsageError
from cnd.model.resumption import require_open
from cnd.model.run_name import is_run
from cnd.run import past_run
from cnd.run.journal import Journal, runs
from cnd.system import locks

LOCK = "resume.lock"  # in the folder of a run, held by the one that goes on from it


def newest(names: Iterable[str]) -> dict[str, str]:
    """Return the runs that others go on from, each with the newest of these.

    Args:
        names: of the runs to be looked at, the oldest first.
    """
    found: dict[str, str] = {}
    for name in names:
        chain = _chain(journal := Journal(name))
        if chain and (journal.is_followed or _has_searched(journal)):
            found |= dict.fromkeys(chain, name)
    return found


def _chain(journal: Journal) -> list[str]:
    """Return the runs that a run resumes, the newest last; all are older than it."""
    first = next(journal.events(), None)
    if first is None or first.kind != "run.started":
        return []
    chain = first.fields.get("chain", ())
    return [name for name in chain if is_run(name) and name < journal.run]


def _has_searched(journal: Journal) -> bool:
    """Whether a run has tested something, or its instances may have."""
    if (result := journal.result()) is not None:
        return result.get("tested") != 0
    if journal.is_over:
        return False  # its result is damaged
    kinds = {event.kind for event in journal.events()}
    launched = "instance.requested" in kinds and "run.aborted" not in kinds
    return "worker.started" in kinds or launched


def _origin(run: str) -> str:
    """Return the run whose rest is that of `run`, which may have tested nothing."""
    while (chain := _chain(journal := Journal(run))) and Journal(chain[-1]).is_there:
        if journal.is_followed or _has_searched(journal):
            break
        run = chain[-1]
    return run


@contextlib.contextmanager
def claimed(journal: Journal, *, smallest: bool) -> Iterator[None]:
    """Be the only process that goes on from a run, as long as the block lasts.

    Args:
        smallest: whether the smallest golden nonce is wanted.

    Raises:
        UsageError: another process does, or a later run has gone on from it.
    """
    with locks.held(Journal(_origin(journal.run)).folder / LOCK) as taken:
        require_none(journal.run, smallest=smallest)
        if not taken:
            message = f"another process resumes run {journal.run} right now"
            raise UsageError(message, hint="`fab status` shows its run in a moment")
        yield


def require_none(run: str, *, smallest: bool) -> None:
    """Refuse a run from which a later one on this disk goes on, and name that one.

    Raises:
        UsageError: there is one.
    """
    origin = _origin(run)
    later = newest(name for name in runs() if name > origin).get(origin)
    if later is None:
        return
    journal = Journal(later)
    if journal.is_followed:
        message = f"run {later} goes on from run {run}, and still searches"
        hint = f"`fab stop --run {later}` ends it, `fab resume {later}` then goes on"
        raise UsageError(message, hint=hint)
    try:
        past = past_run.read(journal)
    except UsageError:
        return  # what it has tested cannot be known
    gone_on = f"run {run} has gone on as run {later}"
    try:
        require_open(past, smallest=smallest)
    except UsageError as error:
        raise UsageError(f"{gone_on}: {error}", hint=error.hint) from error
    message = f"{gone_on}: {past.left:,} nonces are left"
    raise UsageError(message, hint=f"`fab resume {later}` goes on from there")
