"""The user's AWS credentials, as botocore finds them.

One rule: whatever fetching them raises, at the first call or at any later one, becomes
a `CredentialFailure` with the profile's name and a way out; and the wait for a
`credential_process` has a deadline.
"""

from __future__ import annotations

import bisect
import math
import os
import selectors
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError

from cnd.cloud.replies import excerpt

if TYPE_CHECKING:
    from botocore.credentials import Credentials

# The first time a credential_process may ask its user to log in; later a run waits for
# it.  The limit is that of AWS's SDK for Go:
# https://pkg.go.dev/github.com/aws/aws-sdk-go-v2/credentials/processcreds
FIRST_SECONDS = 60.0
LATER_SECONDS = 15.0
MOST_SAID = 1 << 20  # bytes of what such a program prints
HUNG_FOR = 5.0  # seconds after a hang in which no other call tries the program again
MOST_LIFE = 7 * 24 * 60  # minutes; no temporary credentials hold longer
EXPIRED = "refreshed credentials are still expired"  # botocore, in a RuntimeError
# botocore's names of the sources of credentials -> the names that users know.
SOURCES = {
    "custom-process": "credential_process",
    "sso": "sso",
    "login": "login",
    "assume-role": "role_arn",
    "assume-role-with-web-identity": "web identity",
    "iam-role": "instance metadata",
}
# How the names of botocore's single sign-on errors begin, also for a role based on it.
SIGN_ON = ("SSO", "UnauthorizedSSO", "PendingAuthorization", "TokenRetrieval")
LOGINS = {"sso": "aws sso login", "login": "aws login"}


class CredentialFailure(Exception):
    """The credentials of a profile could not be fetched; the cause says why."""

    def __init__(self, profile: str, method: str, cause: Exception) -> None:
        self.profile, self.method = profile, method
        where = f"of profile {profile!r} ({SOURCES.get(method, method)})"
        if method == "env":
            where = "in the environment"
        super().__init__(f"the credentials {where} failed: {_reason(cause)}")
        self.hint = self._hint(cause)
        self.code = "ExpiredToken" if EXPIRED in str(cause) else ""  # as AWS says it

    def _hint(self, cause: Exception) -> str:
        name = "" if self.profile == "default" else f" --profile {self.profile}"
        kind = type(cause).__name__
        if self.method in LOGINS or kind.startswith(SIGN_ON):
            return f"run `{LOGINS.get(self.method, LOGINS['sso'])}{name}`"
        if EXPIRED in str(cause):
            return "these credentials have expired: log in again"
        where = f"profile {self.profile} in ~/.aws/config"
        if self.method == "env":
            where = "AWS_ACCESS_KEY_ID and its like"
        return f"check {where}, or use `--cloud local`, which needs no account"


def _reason(cause: Exception) -> str:
    if isinstance(cause, JSONDecodeError):
        return "what came is no JSON"
    if isinstance(cause, EOFError):
        return "it asks for a code, and there is no terminal to ask at"
    if isinstance(cause, (BotoCoreError, OSError, RuntimeError)):
        return excerpt(cause, 160)
    return f"{type(cause).__name__}: {excerpt(cause)}"


@contextmanager
def _named(profile: str, method: str) -> Iterator[None]:
    try:
        yield
    except CredentialFailure:
        raise
    except Exception as error:  # of any kind: a provider may raise anything
        raise CredentialFailure(profile, method, error) from error


def _sendable(found: Any) -> Any:
    """Return credentials as they are; RuntimeError if no header has room for them.

    Whatever sends them would fail with a message that contains them.
    """
    for name in ("access_key", "secret_key", "token"):
        text, shown = getattr(found, name), name.replace("_", " ")
        if not text and name != "token":
            raise RuntimeError(f"the {shown} is empty")
        if any(c.isspace() or not c.isprintable() for c in text or ""):
            raise RuntimeError(f"the {shown} has a space or a line break")
    return found


def guard(session: Any) -> None:
    """Let a botocore session find its credentials through this module."""
    # Here: it takes a tenth of a second, and some commands do not need it.
    from botocore.credentials import CredentialResolver, ProcessProvider

    start = _ProcessLauncher()

    def timed(provider: Any, profile: str) -> Any:
        if isinstance(provider, ProcessProvider):
            return ProcessProvider(profile, lambda: session.full_config, popen=start)
        # Of a role; there is no public way to the profiles that it builds on.
        if inner := getattr(provider, "_profile_provider_builder", None):
            provider._profile_provider_builder = _Profiles(inner, timed)
        return provider

    resolver = session.get_component("credential_provider")
    profile = session.get_config_variable("profile") or "default"
    guarded: Any = [_Provider(timed(p, profile), profile) for p in resolver.providers]
    session.register_component("credential_provider", CredentialResolver(guarded))


class _Profiles:
    """botocore's maker of the providers of another profile, on which a role builds."""

    def __init__(self, inner: Any, timed: Callable[[Any, str], Any]) -> None:
        self._inner, self._timed = inner, timed

    def providers(self, profile_name: str, **options: Any) -> list[Any]:
        found = self._inner.providers(profile_name, **options)
        return [_Provider(self._timed(p, profile_name), profile_name) for p in found]


class _Provider:
    """One of botocore's providers of credentials."""

    def __init__(self, provider: Any, profile: str) -> None:
        self._provider, self._profile = provider, profile
        self.METHOD = provider.METHOD
        self.CANONICAL_NAME = provider.CANONICAL_NAME

    def load(self) -> Guarded | None:
        with _named(self._profile, self.METHOD):
            found = self._provider.load()
        return None if found is None else Guarded(found, self._profile, self.METHOD)


class Guarded:
    """botocore's credentials: the same for a signer, except for what they raise."""

    def __init__(self, inner: Any, profile: str, method: str) -> None:
        self._inner, self._profile, self._method = inner, profile, method
        self._fetching = threading.local()

    def get_frozen_credentials(self) -> Any:
        with _named(self._profile, self._method):
            # botocore would wait for itself, without end.
            if getattr(self._fetching, "now", False):
                raise RuntimeError("to fetch them takes these very credentials")
            self._fetching.now = True
            try:
                return _sendable(self._inner.get_frozen_credentials())
            finally:
                self._fetching.now = False

    def get_deferred_property(self, name: str) -> Any:
        return lambda: getattr(self, name, None)

    def __getattr__(self, name: str) -> Any:
        if name not in vars(self._inner) and not hasattr(type(self._inner), name):
            raise AttributeError(name)
        with _named(self._profile, self._method):
            return getattr(self._inner, name)

    @property
    def inner(self) -> Any:
        return self._inner


def life_left(credentials: Credentials | Guarded | None) -> float | None:
    """Return for how many seconds credentials are valid, rounded to minutes.

    Infinity if they do not expire, None if that is not known.
    """
    from botocore.credentials import RefreshableCredentials

    found = credentials.inner if isinstance(credentials, Guarded) else credentials
    if not isinstance(found, RefreshableCredentials):
        return None if found and found.token else math.inf
    # botocore says only whether they expire within so many seconds.
    expiry = bisect.bisect_left(
        range(MOST_LIFE),
        True,
        key=lambda minutes: found.refresh_needed(refresh_in=60 * minutes),
    )
    return 60.0 * max(0, expiry - 1)


class _ProcessLauncher:
    """Starts a credential_process with a time limit; used in place of `Popen`."""

    def __init__(self) -> None:
        self._limit = FIRST_SECONDS
        self._hung = -math.inf  # when one last timed out, on the monotonic clock
        self._lock = threading.Lock()

    def __call__(self, words: list[str], **options: Any) -> _TimedProcess:
        with self._lock:
            if time.monotonic() < self._hung + HUNG_FOR:
                raise TimeoutError("it hung a moment ago")
            limit, self._limit = self._limit, LATER_SECONDS
        return _TimedProcess(words, limit, self._note_timeout, options)

    def _note_timeout(self) -> None:
        with self._lock:
            self._hung = time.monotonic()


class _TimedProcess:
    """What botocore uses of a process: `communicate` and `returncode`."""

    def __init__(
        self, words: list[str], limit: float, late: Any, options: dict[str, Any]
    ) -> None:
        self._limit, self._late = limit, late
        self._process = subprocess.Popen(words, **options)
        self.returncode: int | None = None

    def communicate(self) -> tuple[bytes, bytes]:
        process, deadline = self._process, time.monotonic() + self._limit
        try:
            told = _said(process, deadline)
            self.returncode = process.wait(max(0.0, deadline - time.monotonic()))
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            self._late()
            message = f"it did not answer within {self._limit:g} s"
            raise TimeoutError(message) from error
        finally:
            process.kill()
            for pipe in (process.stdout, process.stderr):
                if pipe:
                    pipe.close()
        if self.returncode and not told[1].strip():  # botocore shows that and no more
            return told[0], _ending(self.returncode).encode()
        return told


def _said(process: subprocess.Popen[bytes], deadline: float) -> tuple[bytes, bytes]:
    """Return what a program prints to stdout and stderr.

    Raises:
        TimeoutError: it goes on after the deadline, on the monotonic clock.
        RuntimeError: it prints more than `MOST_SAID`.
    """
    told = {process.stdout: bytearray(), process.stderr: bytearray()}
    with selectors.DefaultSelector() as selector:
        for pipe in told:
            selector.register(pipe, selectors.EVENT_READ)  # type: ignore[arg-type]
        while selector.get_map():
            if not (ready := selector.select(max(0.0, deadline - time.monotonic()))):
                raise TimeoutError
            for key, _ in ready:
                if not (piece := os.read(key.fd, MOST_SAID)):
                    selector.unregister(key.fileobj)
                told[key.fileobj] += piece  # type: ignore[index]
            if sum(map(len, told.values())) > MOST_SAID:
                raise RuntimeError(f"it printed more than {MOST_SAID >> 20} MiB")
    out, err = told.values()
    return bytes(out), bytes(err)


def _ending(status: int) -> str:
    return f"a signal ({-status})" if status < 0 else f"exit status {status}"
