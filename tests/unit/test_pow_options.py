"""The worker's options: all sources of them, and every refusal in one line."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

import cnd
from cnd import pow as worker
from cnd.pow import HashlibScanner
from tests.support.vectors import VECTORS


def asked(*words: str, job: Path | None = None) -> worker.WorkerOptions:
    extra = ["--job", str(job)] if job else []
    return worker.checked(worker.parse([*words, *extra])[0])


def test_the_worker_has_the_version_of_the_package() -> None:
    assert cnd.__version__ == worker.VERSION


def test_the_worker_is_written_in_the_language_of_python_3_6() -> None:
    ast.parse(Path(worker.__file__).read_text(), feature_version=(3, 6))


def test_flags_override_the_job_and_the_job_overrides_defaults(tmp_path: Path) -> None:
    job = tmp_path / "job.json"
    job.write_text('{"difficulty": 3, "index": 2, "of": 4, "of_tomorrow": []}')
    order = asked("--index", "1", job=job)
    search = worker.Search(worker.DEFAULT_BLOCK, 3, worker.DEFAULT_NONCES, 1, 4)
    assert order.search == search
    assert (order.time_limit, order.progress, order.syslog) == (None, 1.0, True)


def test_a_folder_to_detach_in_is_no_option_of_the_search() -> None:
    options, folder = worker.parse(["--difficulty", "1", "--detach", "x"])
    assert (folder, "detach" in options) == ("x", False)


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ({"difficulty": 2.5}, "difficulty must be a whole number, not 2.5"),
        ({"difficulty": True}, "difficulty must be a whole number, not True"),
        ({"difficulty": None}, "difficulty is missing"),
        ({"nonces": 2**64 + 1}, "nonces must be 1 to 18446744073709551616"),
        ({"nonces": 3, "of": 4}, "cannot split 3 nonces 4 ways"),
        ({"index": 1, "of": 3, "start": 3}, "start must be a nonce of class 1"),
        ({"time_limit": 10**400}, "time limit must be a number of seconds above 0"),
        ({"time_limit": float("inf")}, "time limit must be a number of seconds"),
        ({"time_limit": "nan"}, "time limit must be a number of seconds"),
        ({"progress": 0.001}, "progress must be a number of seconds at least 0.01"),
        ({"processes": 0}, "processes must be 1 to 1024, not 0"),
        ({"block": 7}, "block must be text, not 7"),
        ({"block": "\ud800"}, "block is not text in UTF-8"),
        ({"block": "x" * 4097}, "block must be at most 4096 bytes, not 4097"),
        ({"run": "one\ntwo"}, "run must be at most 100 printable characters"),
        ({"run": "r" * 101}, "run must be at most 100 printable characters"),
        ({"syslog": "no"}, "syslog must be true or false, not 'no'"),
    ],
)
def test_a_bad_value_in_a_job_is_named_in_one_line(
    tmp_path: Path, job: dict[str, Any], message: str
) -> None:
    path = tmp_path / "job.json"
    path.write_text(json.dumps({"difficulty": 2, **job}))
    with pytest.raises(ValueError, match=r".") as refused:
        asked(job=path)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "[" * 100_000])
def test_a_job_file_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "job.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"job file \S+job\.json"):
        asked(job=path)


@pytest.mark.parametrize(
    "words", [["--bogus"], ["--diff", "2"], ["2"], ["--difficulty"]]
)
def test_a_bad_flag_is_refused_in_one_line(words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+; see --help$"):
        asked(*words)


def test_by_default_there_is_a_process_for_every_usable_core() -> None:
    assert asked("--difficulty", "1").processes == worker.usable_cores()


@pytest.mark.parametrize("of", ["2", "3", "5", "8", "13"])
def test_every_class_has_its_known_smallest_golden_nonce(of: str) -> None:
    blocks = VECTORS["blocks"][worker.DEFAULT_BLOCK]
    known = blocks["smallest_golden_of_difficulty_3_by_class"][of]
    scanner = HashlibScanner(worker.DEFAULT_BLOCK, 3)
    assert [scanner.scan(i, int(of), 2**16) for i in range(int(of))] == known


def test_known_hashes_are_reproduced() -> None:
    for block, nonce, known in VECTORS["hashes"]:
        assert worker.digest(block, nonce) == known


class Raised:
    """A stop flag that is raised before the second check."""

    def __init__(self) -> None:
        self.looks = 0

    def __getitem__(self, index: int) -> int:
        self.looks += 1
        return self.looks > 1


def test_a_scan_that_is_stopped_reports_what_it_has_tested() -> None:
    scanner = HashlibScanner("b", 64, Raised())  # type: ignore[arg-type]
    assert scanner.scan(5, 7, 10 * worker.STOP_CHECK) is None
    assert scanner.tested == worker.STOP_CHECK


def test_a_flag_raised_before_the_scan_means_nothing_is_tested() -> None:
    scanner = HashlibScanner("b", 0, (1,))
    assert (scanner.scan(0, 1, 10), scanner.tested) == (None, 0)
