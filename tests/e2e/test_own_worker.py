"""A script of the user's own as the worker, through the front door."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.support.terminal import Terminal

EXAMPLES = Path(__file__).parents[2] / "examples"
ODD = """\
import json, sys
words = dict(zip(sys.argv[2::2], sys.argv[3::2]))
if "--check" in words:
    print(json.dumps({check}))
elif words["--index"] == "1":
    print(json.dumps({{"event": "found", "nonce": int(words["--start"])}}))
else:
    print(json.dumps({{"event": "exhausted"}}))
"""


def odd(terminal: Terminal, check: str) -> str:
    """Write a script that claims to have found what it got in class 1."""
    path = terminal.folder / "odd.py"
    path.write_text(ODD.format(check=check))
    return str(path)


def test_the_word_behind_a_salted_hash_is_found_and_confirmed(
    terminal: Terminal,
) -> None:
    digest = hashlib.sha256(b"a salt" + b"qzx").hexdigest()
    words = ("--n", "3", "--nonces", "26**3", "--no-report", "--json")
    done = terminal.run(
        *("start", "--worker", str(EXAMPLES / "salted_hash.py"), *words),
        *("--", "--salt", "a salt", "--length", "3", "--digest", digest),
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["answer"], result["verified"]) == ("qzx", True)
    assert (result["difficulty"], result["left_running"]) == (None, 0)
    coverage = result["coverage"][result["index"]]
    assert coverage["tested"] == result["nonce"] // 3 + 1


def test_the_stock_fab_takes_words_for_a_worker(terminal: Terminal) -> None:
    terminal.folder = EXAMPLES.parent
    done = terminal.run(
        *("start", "--worker", "examples/worker_template.py", "--n", "1"),
        *("--nonces", "1000", "--no-report", "--", "--divisor", "997"),
        program="fab",
    )
    assert done.returncode == 0, done.stderr
    assert "answer         997" in done.stdout


def test_a_find_that_cannot_be_checked_is_called_unverified(terminal: Terminal) -> None:
    script = odd(terminal, "None")
    words = ("--n", "2", "--nonces", "100", "--no-report")
    done = terminal.run("start", "--worker", script, *words, "--", "x")
    assert done.returncode == 0, done.stderr
    assert "UNVERIFIED: its script has no check" in done.stdout
    assert "\ntested         -" in done.stdout


def test_a_find_that_its_own_check_refutes_ends_nothing(terminal: Terminal) -> None:
    script = odd(terminal, '{"valid": False}')
    words = ("--n", "2", "--nonces", "100", "--no-report")
    done = terminal.run("start", "--worker", script, *words, "--", "x")
    assert done.returncode == 4, done.stderr
    assert "is not believed" in done.stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--worker", "none.py"), "--worker 'none.py' cannot be read"),
        (("--worker", "plain"), "neither Python (.py) nor with a first line #!"),
        (("--worker", "w.py", "--d", "3"), "--d is for golden nonces"),
        (("--worker", "w.py", "--kernel", "scalar"), "--kernel is for golden nonces"),
        (("--worker", "w.py", "--smallest"), "--worker and --smallest exclude"),
        (("--worker", "w.py", "--bootstrap", "user-data"), "--worker does not go"),
        (("--d", "3", "--", "x"), "there is no worker that takes these words"),
    ],
)
def test_a_worker_that_makes_no_sense_is_refused(
    terminal: Terminal, words: tuple[str, ...], reason: str
) -> None:
    (terminal.folder / "plain").write_text("echo")
    (terminal.folder / "w.py").write_text("print(1)")
    before = terminal.runs()
    done = terminal.run("start", *words)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert reason in done.stderr
    assert terminal.runs() == before
