"""Who answers in the loader's place is told from it, whatever he says."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnd.transport import push

ORDER = {"part": "class-0-from-0", "program": "pow.py", "pause": 1, "log": "true"}


class Said:
    """A session in which somebody says the same, whatever he is told."""

    def __init__(self, text: bytes) -> None:
        self._text = text

    def sendall(self, data: bytes) -> None:
        pass

    def recv(self, nbytes: int) -> bytes:
        said, self._text = self._text[:nbytes], self._text[nbytes:]
        return said


def begin(text: bytes) -> tuple[bool, bytes]:
    return push.begin(Said(text), "cnd", lambda machine: {"pow.py": b""}, b"{}", ORDER)


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
def test_a_hello_that_is_none_is_refused_with_what_was_said(hello: bytes) -> None:
    with pytest.raises(push.Nonsense, match=r'it said .*"machine"'):
        begin(hello + b"\n")


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_noise_alone_is_handed_back(noise: bytes) -> None:
    begun, said = begin(noise)
    assert begun or said == noise


@settings(deadline=None)
@given(st.dictionaries(st.text(), st.one_of(st.none(), st.booleans(), st.text())))
def test_whatever_there_is_said_to_be_is_no_reason_to_break(there: object) -> None:
    hello = {"machine": "x86_64", "magic": 7, "there": there}
    assert begin(json.dumps(hello).encode() + b"\n{}\n")[0] is False


@pytest.mark.parametrize("text", [b"x", b"a greeting\n", b'{"machine": '])
def test_who_talks_without_end_is_refused_after_so_much(text: bytes) -> None:
    class Endless(Said):
        taken = 0

        def recv(self, nbytes: int) -> bytes:
            self.taken += nbytes
            return (nbytes // len(text)) * text

    session = Endless(b"")
    with pytest.raises(push.Nonsense, match="without end"):
        push.begin(session, "cnd", lambda machine: {"pow.py": b""}, b"{}", ORDER)
    assert session.taken <= 3 * push.MOST_NOISE
