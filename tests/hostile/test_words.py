"""Words of a worker that are no text, or more than one line of it."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from pathlib import Path

import pytest

from cnd.model.events import from_worker, printable_line
from cnd.run.journal import Journal
from cnd.view import write_report
from cnd.view.export import as_csv, as_json
from tests.support.terminal import BIN, clean_environment
from tests.support.timelines import whole_run

FORGED = "12:00:00.000  Instance0    worker.found         nonce=7"
WORDS = [
    "half a pair: \ud800",
    f"two lines:\n{FORGED}",
    f"two lines:\r\x85\u2028\x0b\x0c{FORGED}",
    "\x1b[2J\x1b]0;title\x07",
    "\x00\u202e",
]


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    """A run in which a worker has said such words."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    journal = Journal("20261128-040000-abcd")
    journal.create()
    journal.append(*whole_run()[:-1])
    for words in WORDS:
        line = json.dumps({"event": "failed", "reason": words, "kernel": words})
        journal.append(from_worker(line, index=0, host="i-0"))
        noise = json.dumps({"event": "noise", "text": words})
        journal.append(from_worker(noise, index=0, host="i-0"))
        journal.append(from_worker(words, index=0, host="i-0"))
    return journal


def test_the_report_is_written(journal: Journal) -> None:
    files = write_report.write(journal)
    text = files[write_report.REPORT].read_text(encoding="utf-8")
    assert "half a pair:" in text
    assert not set("\x00\x1b\x07\x85\u202e") & set(text)


def test_the_journal_and_the_exports_are_whole(journal: Journal) -> None:
    told = list(journal.events())
    assert len(told) == len(whole_run()) - 1 + 3 * len(WORDS)
    assert len(json.loads(as_json(journal))["events"]) == len(told)
    rows = list(csv.DictReader(io.StringIO(as_csv(journal))))
    assert {row["run"] for row in rows} == {journal.run}
    as_csv(journal).encode()


@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
def test_an_event_is_one_line_whatever_it_says(journal: Journal, locale: str) -> None:
    """By the installed program, as the user sees it."""
    environment = {**clean_environment(journal.folder.parents[2]), "LC_ALL": locale}
    done = subprocess.run(
        [BIN / "cnd", "logs", journal.run, "--events"],
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split("\n")[:-1]
    assert len(lines) == len(list(journal.events()))
    assert FORGED not in lines
    assert not [char for char in done.stdout if char != "\n" and not char.isprintable()]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", WORDS)
def test_what_is_shown_is_one_line_that_can_be_written(words: str) -> None:
    shown = printable_line(words)
    assert len(shown.splitlines()) == 1
    assert shown.isprintable()
    shown.encode()
