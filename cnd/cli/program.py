"""How the command line becomes a call: the bridge to Invoke and Fabric.

One rule: nothing here knows what a task does.
"""

from __future__ import annotations

import atexit
import contextlib
import difflib
import functools
import gc
import inspect
import os
import re
import select
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import fabric
from fabric.executor import Executor as FabricExecutor
from fabric.main import Fab
from invoke.exceptions import Exit, ParseError
from invoke.parser.argument import Argument

from cnd.cli.settings import DEFAULTS, FABRIC, Setting, Source, setting, sources
from cnd.errors import CndError, UsageError
from cnd.model.events import harmless
from cnd.system import standard_streams

READERS = ("fabric.config", "invoke.config", "invoke.env")  # of Fabric's settings
MOST_SHOWN = 60  # characters of a value from a file
NEW_OBJECTS = 50_000  # before Python looks for garbage; some 10 MB


class TwoDashes(str):
    """A one-letter option name that Invoke spells ``--t``.

    Invoke's `to_flag` gives every name of one letter a single dash, and people type
    ``fab start --t 200``.  It measures the name and strips it; a name that claims
    to have two letters and survives the stripping takes the other branch.
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
    """An argument that stands without its option's name, or, optional, is left out.

    Invoke knows positional arguments only as required: as long as one has no value,
    its parser gives it the next word, whatever it is, and at the end it complains.  So
    it has none while the parser looks for the place of a word, unless that looks like
    an option; and the default whenever anybody else asks.
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
        """Return the word that Invoke's parser looks for a place for right now."""
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
    """A task whose options may have a letter, spelled ``-t`` as well as ``--t``."""

    def __init__(
        self,
        *args: Any,
        letters: Mapping[str, str] | None = None,
        takes_rest: bool = False,
        **kwargs: Any,
    ) -> None:
        self.letters = dict(letters or {})
        self.takes_rest = takes_rest
        super().__init__(*args, **kwargs)

    def get_arguments(self, *args: Any, **kwargs: Any) -> list[Argument]:
        arguments: list[Argument] = super().get_arguments(*args, **kwargs)
        for argument in arguments:
            if argument.positional:
                argument.__class__ = Positional
            if letter := self.letters.get(argument.name or ""):
                argument.names = (*argument.names, letter, TwoDashes(letter))
        return arguments

    def __call__(self, context: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(context, fabric.Connection):
            message = f"-H {context.host}: this command runs here, not on a host"
            raise shown(UsageError(message, hint="leave out -H"))
        return super().__call__(context, *args, **kwargs)


def task(
    *,
    letters: Mapping[str, str] | None = None,
    takes_rest: bool = False,
    despite_files: bool = False,
    **options: Any,
) -> Callable[[Callable[..., None]], Task]:
    """Make a task of a function; `letters` maps parameters to one-letter options.

    With `takes_rest` words after ``--`` are for it: see `rest`.  With `despite_files`
    a file of options that cannot be read is named and passed over.

    A `CndError` that leaves the function becomes one line and its exit status.
    Options of the names in `settings` that are left out are looked up there.
    """
    make = fabric.task(
        klass=Task,
        letters=letters,
        takes_rest=takes_rest,
        auto_shortflags=False,
        **options,
    )

    def decorate(body: Callable[..., None]) -> Task:
        made: Task = make(_reports_errors(_configured(body, despite_files)))
        return made

    return decorate


def _configured(body: Callable[..., None], despite: bool) -> Callable[..., None]:
    names = inspect.signature(body).parameters.keys() & DEFAULTS.keys()

    @functools.wraps(body)
    def wrapper(context: Any, *args: Any, **options: Any) -> None:
        files = files_of(context, despite=despite) if names else []
        found = [setting(name, options.get(name, ""), files) for name in names]
        for line in _obeyed(found, files):
            print(line, file=sys.stderr)
        body(context, *args, **{**options, **{each.name: each.value for each in found}})

    return wrapper


def files_of(context: Any, *, despite: bool = False) -> list[Source]:
    """Return what files say of options; with `despite`, of those that can be read.

    Raises:
        UsageError: one cannot be read, and not `despite`.
    """

    def pass_over(error: UsageError) -> None:
        print(f"cnd: {error}: passed over, with all that it sets", file=sys.stderr)

    own = isinstance(context.config, Config)
    told = pass_over if despite else None
    return sources(None if own else context.config, pass_over=told)


def _obeyed(found: Iterable[Setting], files: Iterable[Source]) -> Iterator[str]:
    """Yield a line for each file that sets options."""
    for name in (file.name for file in files):
        values = {each.name: each.value for each in found if each.source == name}
        if values:
            told = (f"{k} = {v[:MOST_SHOWN]}" for k, v in sorted(values.items()))
            yield harmless(f"{name} sets {', '.join(told)}")


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
            if not nobody_reads():
                raise
        except OSError as error:
            if (failure := standard_streams.unwritten()) is None:
                raise
            message = f"stdout cannot be written to: {failure.strerror}"
            raise shown(UsageError(message)) from error
        except (MemoryError, RuntimeError) as error:
            if (spent := _spent(error)) is None:
                raise
            raise shown(spent) from error
        finally:
            nobody_reads()

    return wrapper


def _spent(error: MemoryError | RuntimeError) -> CndError | None:
    """Return what this machine has no more of, if that is what was raised."""
    if isinstance(error, MemoryError):
        return CndError("there is no memory left on this machine")
    if "start new thread" in str(error):
        hint = "see `ulimit -u`, the limit of processes and threads, and `ulimit -v`"
        return CndError("this machine lets no more threads be started", hint=hint)
    return None


def nobody_reads() -> bool:
    """Flush our output; return whether its reader went away: no failure of a command.

    What is printed after that goes nowhere, so that Python does not complain of it.
    """
    # https://docs.python.org/3/library/signal.html#note-on-sigpipe
    gone = False
    for stream in (sys.stdout, sys.stderr):
        poll = select.poll()
        try:
            poll.register(stream, 0)
            stream.flush()
            broken = any(what & select.POLLERR for _, what in poll.poll(0))
        except BrokenPipeError:
            broken = True
        except ValueError:  # it is no file
            continue
        except OSError:  # the device is full
            standard_streams.silence(stream)
            continue
        if broken:
            standard_streams.silence(stream)
        gone = gone or broken
    return gone


def let_readers_go() -> None:
    """Make a reader that goes away no failure of a program that is not ours: `fab`."""
    usual = sys.excepthook

    def end(kind: Any, error: BaseException, trace: Any) -> None:
        if isinstance(error, BrokenPipeError) and nobody_reads():
            os._exit(0)  # a hook cannot change the exit status otherwise
        usual(kind, error, trace)

    sys.excepthook = end
    atexit.register(nobody_reads)


def own_up_to_settings() -> None:
    """Make what Fabric cannot read one line in `fab`, which would show a traceback.

    This holds from the fabfile on: `fab` has read ``~/.fabric.yaml`` before.
    """
    usual = sys.excepthook

    def end(kind: Any, error: BaseException, trace: Any) -> None:
        if isinstance(error, Exception) and (place := _setting_read(trace)):
            told = str(error).strip().partition("\n")[0] or kind.__name__
            print(harmless(f"cnd: {place} cannot be used: {told}"), file=sys.stderr)
            print("hint: `cnd` reads none of Fabric's settings", file=sys.stderr)
            nobody_reads()
            os._exit(UsageError.exit_status)  # as in `let_readers_go`
        usual(kind, error, trace)

    sys.excepthook = end


def _setting_read(trace: Any) -> str:
    """Return which of Fabric's settings was being read when an error came, or ""."""
    found = ""
    for frame, _ in traceback.walk_tb(trace):
        if frame.f_globals.get("__name__") in READERS:
            names = (frame.f_locals.get(n) for n in ("real_var", "filepath", "path"))
            found = next((str(n) for n in names if n), found or "its configuration")
    return found


def collect_rarely() -> None:
    """Have Python look for garbage after so many new objects, not after 700.

    Nearly all that a command loads stays until its end: to look through it again and
    again took a seventh of the computing of a short one (CPython 3.11, measured).
    """
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS)


@contextlib.contextmanager
def left_at_once() -> Iterator[None]:
    """Have the program end, after the block, without Python's tidying up its memory.

    That takes 0.4 s of computing with boto3 loaded, a third of a short command and many
    seconds on a busy machine, and Ctrl-C does not end it.  Threads that are no daemons
    are waited for as ever, and what registers with `atexit` in the block is called.
    """
    status = 1  # if it ends with a traceback

    def leave() -> None:
        nobody_reads()
        os._exit(status)

    atexit.register(leave)
    try:
        yield
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise


def shown(error: CndError) -> Exit:
    """Return what shows `error` as one line, its way out, and its exit status."""
    hint = f"\nhint: {error.hint}" if error.hint else ""
    return Exit(f"cnd: {harmless(str(error))}{hint}", code=error.exit_status)


class Executor(FabricExecutor):  # type: ignore[misc]
    """Fabric's own, which takes what follows ``--`` for a command to run on hosts.

    Here it is for a task that takes it.  `fabric.yaml` names this class to `fab`.
    """

    def expand_calls(self, calls: Any, apply_hosts: bool = True) -> Any:
        if self.core.remainder:
            tasks = [getattr(call, "task", call) for call in calls]
            if any(not getattr(each, "takes_rest", False) for each in tasks):
                message = f"-- {self.core.remainder}: no words after -- are expected"
                raise shown(UsageError(message, hint="they go to start --worker FILE"))
            self.core.remainder = ""
        return super().expand_calls(calls, apply_hosts)


def rest() -> list[str]:
    """Return the words after ``--`` as they were given: Invoke would join them."""
    words = sys.argv[1:]
    return words[words.index("--") + 1 :] if "--" in words else []


@dataclass(frozen=True)
class Help:
    """What `--help` says: words before and after the commands, in groups."""

    before: str
    groups: Mapping[str, tuple[Task, ...]]
    after: str

    def __str__(self) -> str:
        wide = max(len(task.name) for tasks in self.groups.values() for task in tasks)
        lines = [self.before]
        for title, tasks in self.groups.items():
            lines += ["", f"{title}:"]
            lines += [f"  {t.name:<{wide}}  {_first_line(t)}" for t in tasks]
        return "\n".join([*lines, "", self.after])


def _first_line(task: Task) -> str:
    return (task.__doc__ or "").strip().split("\n")[0]


class Config(fabric.Config):  # type: ignore[misc]
    """Fabric's configuration with nothing of the user's in it: no file, no variable.

    What Fabric finds by itself may be code (``fabric.py`` in this folder), meant for
    other programs, or broken; no task of ours runs commands by it.
    """

    def _nothing(self, *_: object, **__: object) -> None:
        """Load nothing."""

    load_system = load_user = load_project = load_runtime = _nothing
    load_base_conf_files = load_shell_env = load_ssh_config = _nothing


class Program(Fab):  # type: ignore[misc]
    """The `cnd` program: Fabric's own, with CND's tasks, from any folder."""

    def __init__(self, *args: Any, help: Help, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._help = help

    def print_help(self) -> None:
        """Say what there is; Fabric's own options, which few need, are left out."""
        print(self._help)

    def update_config(self, merge: bool = True) -> None:
        """Leave the configuration as it is; a file of Fabric's is not for us."""
        if file := self.args.config.value:
            message = f"-f {file}: cnd reads none of Fabric's configuration"
            raise shown(UsageError(message, hint=f"options may stand in ./{FABRIC}"))

    def run(self, *args: Any, **kwargs: Any) -> None:
        """Run it all; whoever stops reading stops no more than that."""
        try:
            super().run(*args, **kwargs)
        except BrokenPipeError:
            if not nobody_reads():
                raise
        finally:
            nobody_reads()

    def parse_core(self, argv: list[str] | None) -> None:
        self._with_status_2(super().parse_core, argv)

    def parse_tasks(self) -> None:
        self._with_status_2(super().parse_tasks)

    def parse_cleanup(self) -> None:
        self._with_status_2(super().parse_cleanup)

    def _with_status_2(self, parse: Callable[..., None], *args: Any) -> None:
        """Parse; what cannot be parsed is an impossible request, not a bug."""
        try:
            parse(*args)
        except ParseError as error:
            commands = list(getattr(getattr(self, "parser", None), "contexts", ()))
            hint = way_out(error, commands)
            raise Exit(f"cnd: {error}\nhint: {hint}", code=2) from error
        except ValueError as error:  # of an option of Fabric's own that is a number
            raise Exit(f"cnd: {error}", code=2) from error


def way_out(error: ParseError, commands: Iterable[str]) -> str:
    """Return what may have been meant by what could not be parsed, or where to look."""
    task = error.context if error.context and error.context.name else None
    unknown = re.search(r"No idea what '(.*)' is!", str(error))
    word = unknown[1] if unknown else ""
    names = list(task.flags) if task and word.startswith("-") else [*commands]
    if close := difflib.get_close_matches(word, names, 1):
        return f"did you mean {close[0]}?"
    if task:
        return f"`cnd {task.name} --help` shows what it takes"
    return "`cnd --list` shows the commands"
