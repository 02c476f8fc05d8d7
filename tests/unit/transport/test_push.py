"""A program that answers in the loader's place is recognized, whatever it prints."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnd.transport import push

ORDER = {"part": "class-0-from-0", "program": "pow.py", "pause": 1, "log": "true"}


class Fixed:
    """A session whose output is fixed, whatever is sent."""

    def __init__(self, text: bytes) -> None:
        self._text = text

    def sendall(self, data: bytes) -> None:
        pass

    def recv(self, nbytes: int) -> bytes:
        chunk, self._text = self._text[:nbytes], self._text[nbytes:]
        return chunk


def begin(text: bytes) -> tuple[bool, bytes]:
    return push.begin(Fixed(text), "cnd", lambda machine: {"pow.py": b""}, b"{}", ORDER)


@pytest.mark.parametrize(
    "hello",
    [
        b'{"machine"',
        b'{"machine": 3}',
        b'{"machine": "x86_64"}',
        b'{"machine": "x86_64", "magic": "", "there": []}',
        b'{"machine": "../../x", "magic": "", "there": {}}',
        b'{"machine": ' + 5000 * b"[",
    ],
)
def test_a_greeting_of_another_form_is_refused_and_quoted(hello: bytes) -> None:
    with pytest.raises(push.Nonsense, match=r'it answered .*"machine"'):
        begin(hello + b"\n")


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_noise_alone_is_returned(noise: bytes) -> None:
    begun, output = begin(noise)
    assert begun or output == noise


@settings(deadline=None)
@given(st.dictionaries(st.text(), st.one_of(st.none(), st.booleans(), st.text())))
def test_no_list_of_the_files_there_is_fatal(there: object) -> None:
    hello = {"machine": "x86_64", "magic": 7, "there": there}
    assert begin(json.dumps(hello).encode() + b"\n{}\n")[0] is False


@pytest.mark.parametrize("text", [b"x", b"a greeting\n", b'{"machine": '])
def test_a_program_that_prints_without_end_is_refused_at_the_limit(text: bytes) -> None:
    class Endless(Fixed):
        taken = 0

        def recv(self, nbytes: int) -> bytes:
            self.taken += nbytes
            return (nbytes // len(text)) * text

    session = Endless(b"")
    with pytest.raises(push.Nonsense, match="without end"):
        push.begin(session, "cnd", lambda machine: {"pow.py": b""}, b"{}", ORDER)
    assert session.taken <= 3 * push.MOST_NOISE
