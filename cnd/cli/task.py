"""How a function becomes a command: the bridge to Invoke's parser.

One rule: nothing here knows what a command does.  The function takes one dataclass of
checked values; all that Invoke needs is derived from that dataclass.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import fabric
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.parser.argument import Argument

from cnd.cli import settings
from cnd.cli.option_fields import (
    AnyOptions,
    Option,
    check_taken,
    first_word,
    options_of,
    read,
)
from cnd.cli.output import reader_is_gone, say
from cnd.errors import CndError, UsageError
from cnd.model.events import printable_line
from cnd.run import pending_reports
from cnd.system import standard_streams


class TwoDashes(str):
    """A one-letter option name that Invoke spells ``--t``.

    Invoke's `to_flag` gives every name of one letter a single dash, and users type
    ``fab start --t 200``.  `to_flag` measures the name and strips it: a name whose
    length is 2 and that stripping leaves as it is takes the other branch.
    """

    def __len__(self) -> int:
        return 2

    def lstrip(self, chars: str | None = None, /) -> TwoDashes:
        return self

    def rstrip(self, chars: str | None = None, /) -> TwoDashes:
        return self

    def replace(self, *args: Any, **kwargs: Any) -> TwoDashes:
        return self


class Positional(Argument):
    """An argument whose value may stand without the option's name, or be left out.

    In Invoke a positional argument is required: while it has no value, the parser
    gives it the next word, whatever the word is, and reports an error at the end.
    Therefore this argument has no value while the parser looks for the place of a word,
    unless the word looks like an option; it has its default in all other cases.
    """

    @property
    def value(self) -> Any:
        if self._value is None and (word := self._offered()) is not None:
            return word if word.startswith("-") else None
        return super().value

    @value.setter
    def value(self, text: str) -> None:
        self.set_value(text, cast=True)

    @staticmethod
    def _offered() -> str | None:
        """Return the word whose place Invoke's parser is looking for right now."""
        frame, asked = inspect.currentframe(), ""
        for _ in range(5):
            if frame is None:
                return None
            name = frame.f_code.co_name
            if name == "see_positional_arg":
                return str(frame.f_locals["value"])
            if name == "handle" and asked == "missing_positional_args":
                return str(frame.f_locals["token"])
            frame, asked = frame.f_back, name
        return None


class Task(fabric.tasks.Task):  # type: ignore[misc]  # Fabric has no types
    """A command whose options are the fields of dataclasses: see `option_fields`."""

    def __init__(
        self, *args: Any, options: Mapping[str, Option], **kwargs: Any
    ) -> None:
        super().__init__(*args, positional=(), **kwargs)
        self._options = options
        self.takes_rest = any(option.is_rest for option in options.values())

    def get_arguments(self, *args: Any, **kwargs: Any) -> list[Argument]:
        """Return the options as Invoke's arguments, the positional ones first."""
        made = [
            _argument(name, option)
            for name, option in self._options.items()
            if not option.is_rest
        ]
        return sorted(made, key=lambda argument: not argument.positional)

    def __call__(self, context: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(context, fabric.Connection):
            message = f"-H {context.host}: this command runs here, not on a host"
            raise shown(UsageError(message, hint="leave out -H"))
        return super().__call__(context, *args, **kwargs)


def _argument(name: str, option: Option) -> Argument:
    """Return an option as Invoke's argument; a letter is spelled ``-t`` and ``--t``."""
    names = [name.replace("_", "-")]
    if option.letter:
        names += [option.letter, TwoDashes(option.letter)]
    is_flag = isinstance(option.default, bool)
    # None: the option was left out, and `read` knows its default.  Invoke would require
    # a positional one.
    default = option.default if is_flag or option.positional else None
    return (Positional if option.positional else Argument)(
        names=names,
        attr_name=name if "_" in name else None,
        kind=bool if is_flag else str,
        default=default,
        help=option.help,
        positional=option.positional,
    )


def tell_failed_reports() -> None:
    """Print why the reports of some runs could not be drawn, each once."""
    for run, why in pending_reports.failures().items():
        say(printable_line(f"run {run}: {why}"))


Body = Callable[[Context, AnyOptions], None]


def task(
    kind: type[AnyOptions],
    *,
    kinds: Mapping[str, type[AnyOptions]] | None = None,
    despite_files: bool = False,
    configured: Collection[str] = tuple(settings.DEFAULTS),
    name: str | None = None,
) -> Callable[[Body[AnyOptions]], Task]:
    """Make a command of a function that takes a dataclass of options.

    A `CndError` that leaves the function becomes one line and its exit status.
    Options of the names in `settings` that are left out are looked up there.

    Args:
        kind: the dataclass.
        kinds: classes below `kind`, one of which the first word of the command chooses.
        configured: the options that files and the environment may set.
        despite_files: a file of settings that cannot be read is reported and ignored.
        name: of the command; default: the name of the function.
    """
    options = options_of(*(kinds.values() if kinds else [kind]))

    def decorate(body: Body[AnyOptions]) -> Task:
        @functools.wraps(body)
        def called(context: Context, **given: object) -> None:
            tell_failed_reports()
            texts = {k: text for k, text in given.items() if text is not None}
            texts |= {k: tuple(rest()) for k, each in options.items() if each.is_rest}
            on_line = _on_line(options, texts)
            files: list[settings.Source] = []
            if names := options.keys() & set(configured):
                files = settings.files_of(context, despite=despite_files)
            settled = settings.settled(names, texts, files)
            exact = kind
            if kinds:
                word = first_word(kind, texts)
                exact, command = kinds[word], f"{body.__name__} {word}"
                check_taken(exact, options, _asked(options, texts, files), command)
            body(context, read(exact, {**texts, **settled}, on_line))

        make = fabric.task(klass=Task, options=options, name=name)
        made: Task = make(_reports_errors(called))
        return made

    return decorate


def _on_line(options: Mapping[str, Option], texts: Mapping[str, object]) -> list[str]:
    """Return the options that the command line has.

    Invoke has a text for flags and positional ones that were left out, too.
    """
    return [
        name
        for name, given in texts.items()
        if not (options[name].positional or isinstance(options[name].default, bool))
        or given != options[name].default
    ]


def _asked(
    options: Mapping[str, Option],
    texts: Mapping[str, object],
    files: Sequence[settings.Source],
) -> set[str]:
    """Return the options that the command line asks for, and that no file sets so."""

    def left_out(name: str) -> object:
        if name in settings.DEFAULTS:
            return settings.setting(name, "", files).value
        default = options[name].default
        return default if isinstance(default, bool) else ""

    return {name for name, given in texts.items() if given != left_out(name)}


def _reports_errors(body: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(body)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        try:
            body(*args, **kwargs)
            sys.stdout.flush()
        except CndError as error:
            raise shown(error) from error
        except KeyboardInterrupt as error:
            raise Exit("cnd: interrupted", code=130) from error
        except BrokenPipeError:
            if not reader_is_gone():
                raise
        except OSError as error:
            if (failure := standard_streams.unwritten()) is None:
                raise
            message = f"stdout cannot be written to: {failure.strerror}"
            raise shown(UsageError(message)) from error
        except (MemoryError, RuntimeError) as error:
            if (exhausted := _exhausted(error)) is None:
                raise
            raise shown(exhausted) from error
        finally:
            reader_is_gone()

    return wrapper


def _exhausted(error: MemoryError | RuntimeError) -> CndError | None:
    """Return the error that names what this machine has run out of, if that is it."""
    if isinstance(error, MemoryError):
        return CndError("there is no memory left on this machine")
    if "start new thread" in str(error):
        hint = "see `ulimit -u`, the limit of processes and threads, and `ulimit -v`"
        return CndError("this machine lets no more threads be started", hint=hint)
    return None


def shown(error: CndError) -> Exit:
    """Return the exit that shows `error`: one line, its hint, and its exit status."""
    hint = f"\nhint: {error.hint}" if error.hint else ""
    return Exit(f"cnd: {printable_line(str(error))}{hint}", code=error.exit_status)


def rest() -> list[str]:
    """Return the words after ``--``, one by one: Invoke would join them."""
    words = sys.argv[1:]
    return words[words.index("--") + 1 :] if "--" in words else []
