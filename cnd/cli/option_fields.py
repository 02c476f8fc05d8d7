"""Options as the fields of frozen dataclasses: each is declared once, and typed.

One rule: a field declares everything about its option.  The name and the type are the
field's own; `option`, `text` and `flag` add the letter, the default, the help and the
parser.  Invoke's arguments, the help page and the values that a command works with are
all derived from that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Protocol, TypeVar

from cnd.errors import UsageError

KEY = "option"  # in the metadata of a field


class Options:
    """The base of the frozen dataclasses that hold the checked values of a command."""

    example: ClassVar[str] = ""  # the hint that parsers give with their errors
    # The names of the options that the command line has, whatever their values are.
    given: Collection[str] = ()


T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
AnyOptions = TypeVar("AnyOptions", bound=Options)


class Parse(Protocol[T_co]):
    """Turns the text of an option into its value.

    Args:
        text: as the user typed it, or the default of the option.
        option: how an error names the option: ``--n``.
        example: `Options.example`, for the hint of an error.

    Raises:
        UsageError: the text means no value that the option may have.
    """

    def __call__(self, text: str, option: str, example: str, /) -> T_co: ...


@dataclass(frozen=True)
class Option:
    """One option of a command; its name is the name of its field."""

    parse: Parse[Any]
    help: str
    letter: str = ""  # "n": the user may type ``-n`` and ``--n``, too
    # A text is parsed as if the user had typed it.
    default: str | bool | tuple[str, ...] = ""
    positional: bool = False  # the value may stand without the name
    title: str = ""  # how errors name the option; "": as the user types it
    is_rest: bool = False  # not an option: the words after ``--``

    def spelled(self, name: str) -> str:
        """Return what the user types to give the option: ``--n``, ``--no-report``."""
        negation = "no-" if self.default is True else ""
        return f"--{negation}{self.letter or name.replace('_', '-')}"

    def value(self, name: str, texts: Mapping[str, object], example: str) -> Any:
        """Return the value of the option; its default, where `texts` has no text."""
        given = texts.get(name, self.default)
        if not isinstance(given, str):  # a flag, or the words after ``--``
            return given
        return self.parse(given, self.title or self.spelled(name), example)


def option(
    letter: str = "",
    *,
    parse: Parse[T],
    help: str,
    default: str = "",
    positional: bool = False,
    title: str = "",
) -> T:
    """Declare an option whose text becomes a value by `parse`."""
    declared: T = _field(Option(parse, help, letter, default, positional, title))
    return declared


def text(*, help: str, default: str = "", positional: bool = False) -> str:
    """Declare an option whose value is its text."""
    return option(parse=_itself, help=help, default=default, positional=positional)


def flag(*, help: str, default: bool = False) -> bool:
    """Declare an option without a value; one with the default True takes ``--no-``."""
    declared: bool = _field(Option(_itself, help, default=default))
    return declared


def words_after_dashes() -> tuple[str, ...]:
    """Declare that the command takes the words after ``--``."""
    declared: tuple[str, ...] = _field(Option(_itself, "", default=(), is_rest=True))
    return declared


def again(kind: type[Options], name: str, before: str) -> Any:
    """Declare option `name` of `kind` for another command; `before` begins its help."""
    first = options_of(kind)[name]
    return _field(replace(first, help=f"{before}{first.help}"))


def _field(declared: Option) -> Any:
    return field(kw_only=True, metadata={KEY: declared})


def _itself(text: str, option: str, example: str, /) -> str:
    return text


def options_of(*kinds: type[Options]) -> dict[str, Option]:
    """Return the options of dataclasses by their names, in the order of the fields."""
    found: dict[str, Option] = {}
    for kind in kinds:
        each: Iterable[Any] = fields(kind)  # type: ignore[arg-type]  # a dataclass
        found |= {one.name: one.metadata[KEY] for one in each}
    return found


def read(
    kind: type[AnyOptions], texts: Mapping[str, object], given: Collection[str] = ()
) -> AnyOptions:
    """Return the checked values of a command.

    Args:
        given: see `Options.given`.

    Raises:
        UsageError: the text of an option means no value that the option may have.
    """
    declared = options_of(kind).items()
    made = kind(**{k: option.value(k, texts, kind.example) for k, option in declared})
    object.__setattr__(made, "given", frozenset(given))
    return made


def first_word(kind: type[Options], texts: Mapping[str, object]) -> str:
    """Return the value of the only positional option of `kind`.

    Raises:
        UsageError: its text means no value that it may have.
    """
    ((name, first),) = [o for o in options_of(kind).items() if o[1].positional]
    return str(first.value(name, texts, kind.example))


def check_taken(
    kind: type[Options], known: Mapping[str, Option], asked: Collection[str], what: str
) -> None:
    """Refuse the options that the user asks for and `kind` does not have.

    Args:
        known: all options of the command.
        asked: the names of those that the user asks for.
        what: how the error names the command that has the options of `kind`.

    Raises:
        UsageError: there is one.
    """
    for name, each in known.items():
        if name in asked and name not in options_of(kind):
            message = f"{what} does not take {each.spelled(name)}"
            raise UsageError(message, hint=kind.example)
