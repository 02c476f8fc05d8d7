"""Text from the command line into checked values.

One rule: an impossible value is a `UsageError` in one line that names the value, the
reason and the way out, before anything is bought.  Invoke would guess types from
defaults, and a bad value would end in a traceback: so options arrive here as text.
"""

from __future__ import annotations

import math
from pathlib import Path

from cnd.errors import UsageError
from cnd.model.run_name import is_run
from cnd.system import small_files
from cnd.system.folders import expanded


def whole(text: str, option: str, low: int, high: int, hint: str) -> int:
    """Return `text` as an integer in ``low..high``; ``2**32`` is understood too."""
    value = integer(text, option, hint)
    if not low <= value <= high:
        message = f"{option} must be {_bounds(low, high)}, not {_short(text)}"
        raise UsageError(message, hint=hint)
    return value


def integer(text: str, option: str, hint: str) -> int:
    """Return `text` as an integer of any size."""
    try:
        base, power, exponent = text.partition("**")
        return int(base) ** _exponent(exponent) if power else int(base)
    except ValueError as error:
        message = f"{option} must be a whole number, not {text!r}"
        raise UsageError(message, hint=hint) from error


def seconds(text: str, option: str, hint: str) -> float:
    """Return `text` as a finite number of seconds above zero."""
    try:
        value = float(text)
    except ValueError as error:
        message = f"{option} must be a number of seconds, not {text!r}"
        raise UsageError(message, hint=hint) from error
    if not (value > 0 and math.isfinite(value)):
        message = f"{option} must be more than 0 seconds, not {text}"
        raise UsageError(message, hint=hint)
    return value


def number(text: str, option: str, meaning: str) -> float:
    """Return `text` as a number; its range depends on what the number is for.

    Args:
        meaning: what the option takes: "an amount of USD such as 1.50".
    """
    try:
        return float(text)
    except ValueError as error:
        message = f"{option} must be {meaning}, not {text!r}"
        raise UsageError(message) from error


def choice(
    text: str, option: str, allowed: tuple[str, ...], hint: str | None = None
) -> str:
    """Return `text` if it is one of `allowed`."""
    if text not in allowed:
        message = f"{option} must be one of {', '.join(allowed)}, not {text!r}"
        raise UsageError(message, hint=hint)
    return text


def names(text: str, option: str) -> list[str]:
    """Return the names in `text`, with commas between; each once, and one at least."""
    found = [name.strip() for name in text.split(",")]
    if twice := [name for name in found if name and found.count(name) > 1]:
        message = f"{option} {_short(text)} has {_short(twice[0])} twice"
        raise UsageError(message, hint="once is enough")
    if not all(found):
        message = (
            f"{option} must be a name, or several with commas, not {_short(text)!r}"
        )
        raise UsageError(message)
    return found


def run_name(text: str) -> str:
    """Return the name of a run, or an empty text; no other text reaches a cloud."""
    if text and not is_run(text):
        message = f"--run {_short(text)!r} is not the name of a run"
        raise UsageError(message, hint="`fab status` shows runs")
    return text


def existing_file(text: str, option: str) -> Path:
    """Return the path of a file that exists and can be read."""
    path = expanded(text)
    try:
        with small_files.opened(path):
            return path
    except OSError as error:
        message = f"{option} {text!r} cannot be read: {error.strerror}"
        raise UsageError(message) from error


def _exponent(text: str) -> int:
    """Return an exponent, if a power of it is computed in no time."""
    value = int(text)
    if not 0 <= value <= 1024:
        raise ValueError(f"exponent {value} is out of range")
    return value


def _bounds(low: int, high: int) -> str:
    return f"{low} to {_power(high)}"


def _power(value: int) -> str:
    """Return 2**64 as a power: few readers recognise 18446744073709551616."""
    if value > 10**6 and value & (value - 1) == 0:
        return f"2**{value.bit_length() - 1}"
    return str(value)


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
