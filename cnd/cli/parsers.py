"""The parsers of the option table: each makes a checked value of an option's text.

One rule: a parser looks at the text alone, and at files that the text names.  What
depends on several options is checked where they come together, in `request`.
"""

from __future__ import annotations

from pathlib import Path

from cnd.cli import arguments
from cnd.cli.option_fields import Parse, T
from cnd.errors import UsageError
from cnd.run import custom_worker
from cnd.system.folders import expanded


def optional(parse: Parse[T]) -> Parse[T | None]:
    """Make a parser for an option that may be left out: an empty text is None."""
    return lambda text, *more: parse(text, *more) if text else None


def whole(low: int, high: int) -> Parse[int]:
    """Make a parser of whole numbers from `low` to `high`."""
    return lambda text, option, example: arguments.whole(
        text, option, low, high, example
    )


def whole_list(low: int, high: int) -> Parse[tuple[int, ...]]:
    """Make a parser of whole numbers with commas between them, the smallest first."""

    def parse(text: str, option: str, example: str) -> tuple[int, ...]:
        each = arguments.names(text, option)
        found = [arguments.whole(one, option, low, high, example) for one in each]
        return tuple(sorted(found))

    return parse


def integer(text: str, option: str, example: str) -> int:
    """Parse a whole number whose range depends on other options."""
    return arguments.integer(text, option, example)


def seconds(text: str, option: str, example: str) -> float:
    """Parse a number of seconds above zero."""
    return arguments.seconds(text, option, example)


def seconds_such_as(example: str) -> Parse[float]:
    """Make a parser of seconds with an example of its own."""
    return lambda text, option, _: arguments.seconds(text, option, example)


def number(meaning: str) -> Parse[float]:
    """Make a parser of numbers; `meaning` names what the option takes."""
    return lambda text, option, _: arguments.number(text, option, meaning)


def choice(*allowed: str, hint: str | None = None) -> Parse[str]:
    """Make a parser that takes one of `allowed`."""
    return lambda text, option, _: arguments.choice(text, option, allowed, hint)


def names(text: str, option: str, example: str) -> tuple[str, ...]:
    """Parse one or more names with commas between them."""
    return tuple(arguments.names(text, option))


def run_name(text: str, option: str, example: str) -> str:
    """Parse the name of a run, or nothing."""
    return arguments.run_name(text)


def existing_file(text: str, option: str, example: str) -> Path:
    """Parse the path of a file that can be read."""
    return arguments.existing_file(text, option)


def script(text: str, option: str, example: str) -> Path:
    """Parse the path of a script that can be a worker."""
    path = arguments.existing_file(text, option)
    custom_worker.read(path)
    return path


def chart(text: str, option: str, example: str) -> Path:
    """Parse where to draw a chart; a later failure to write it would come too late."""
    path = expanded(text)
    if path.suffix not in (".svg", ".png"):
        raise UsageError(f"{option} must end in .svg or .png, not {text!r}")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{option} {text!r}: there is no such folder")
    return path
