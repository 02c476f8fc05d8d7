"""Which run a user means.

One rule: no text is the newest run; a text that fits several runs, or none, is refused.
"""

from __future__ import annotations

from cnd.errors import UsageError
from cnd.model.run_name import is_run
from cnd.run.journal import Journal, runs
from cnd.run.stored_files import fetch_run
from cnd.run.viewer import Say


def chosen(text: str, say: Say, place: tuple[str, str] = ("", "")) -> Journal:
    """Return the run that `text` means: its name, or the only one that fits.

    A run that was started elsewhere is fetched from the bucket of the account.

    Args:
        place: the cloud and the region of that bucket; "": as configured.

    Raises:
        UsageError: there is none, or more than one.
    """
    names = runs()
    if is_run(text) and text not in names and fetch_run(Journal(text), say, place):
        return Journal(text)
    return Journal(pick(names, text))


def pick(names: list[str], text: str) -> str:
    """Return the name that begins or ends with `text`; the last one if it is empty."""
    if text in names:
        return text
    fits = [name for name in names if name.startswith(text) or name.endswith(text)]
    if fits and not text:
        return fits[-1]
    if len(fits) != 1:
        message = f"{len(fits)} runs are called {text!r}" if fits else ""
        none = f"no run on this disk is called {text!r}" if text else "there is no run"
        raise UsageError(message or none, hint="`fab runs` lists them")
    return fits[0]
