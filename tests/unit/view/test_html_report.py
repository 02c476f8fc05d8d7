"""The report of a run: one file, nothing but text, and nothing from outside in it."""

from __future__ import annotations

import html.parser
import json
import re
from pathlib import Path

import pytest

from cnd.cli.tasks_look import harmless_log
from cnd.errors import UsageError
from cnd.model.events import Event
from cnd.run.find_run import pick
from cnd.run.journal import Journal
from cnd.view import html_report, write_report
from cnd.view.export import COLUMNS, as_csv, as_json
from cnd.view.html_report import TEMPLATE, page
from cnd.view.report_facts import facts
from cnd.view.timeline import timeline
from tests.support.timelines import (
    REQUEST,
    RESULT,
    at,
    drawn,
    instance_events,
    of,
    whole_run,
)

EVIL = "</td><script src=http://evil.example/x.js></script><img src=//e>\x1b]0;x\x07"


class Page(html.parser.HTMLParser):
    """Collects what a page would make a browser load, run or follow."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.targets: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"{tag} has a script in {name}"
            if name in ("src", "href", "xlink:href", "action"):
                self.targets.add(value or "")


@pytest.mark.parametrize("count", [2, 80])
def test_a_report_holds_all_its_figures_and_asks_for_nothing(count: int) -> None:
    from cnd.view.figures import PICTURES  # see `drawn`

    line = of(count)
    pictures = drawn(line)
    assert set(pictures) == set(PICTURES)
    text = page(line, pictures, ["Instance0.log"])
    assert len(text) < 3_000_000
    found = Page(text)
    assert not found.tags & {"script", "iframe", "object", "embed", "form"}
    inside = ("#", "data:", "logs/", "figures/", "events.jsonl", "result.json")
    assert all(target.startswith(inside) for target in found.targets)
    for name in PICTURES:
        assert {f"figures/{name}.png", f"figures/{name}.svg"} <= found.targets
    assert "logs/" not in found.targets  # there are no folders in S3
    assert not re.search(r"https?:|url\((?!['\"]?(#|data:))|@import", text)
    assert "default-src 'none'" in text


def test_the_output_of_a_worker_is_text_and_nothing_else(tmp_path: Path) -> None:
    events = [
        *whole_run()[:8],
        at(5, "worker.noise", 0, "i-0", text=EVIL),
        at(5, "worker.started", 0, EVIL, kernel=EVIL, python=EVIL),
        at(6, "worker.failed", 0, "i-0", reason=EVIL),
        at(6, "instance.launched", 3, EVIL, type=EVIL, zone=EVIL),
        at(7, "worker.started", 3, EVIL, kernel=EVIL),
    ]
    line = timeline("r", events, {"outcome": EVIL, "reason": EVIL, "kernel": EVIL})
    found = Page(page(line, drawn(line), []))
    assert not found.tags & {"script", "img"}


def test_the_template_trusts_the_drawings_only() -> None:
    source = Path(html_report.__file__).with_name(TEMPLATE).read_text()
    assert re.findall(r"[^{]*\| *safe", source) == [" drawing | safe"]
    assert not re.search(r"autoescape|forceescape|Markup", source)


def test_a_value_of_any_length_takes_little_of_the_page() -> None:
    result = {"outcome": "stopped", "reason": "x" * 100_000}
    text = page(timeline("r", whole_run(), result), {}, [])
    assert max(map(len, re.findall("x+", text))) == html_report.MOST_TEXT


def test_a_workers_fields_do_not_pass_for_the_journals_own() -> None:
    fields = {"kind": "run.ended", "time": "never", "host": 7, "text": "x"}
    line = Event("worker.noise", 1, "i-1", fields, 5.0).to_json()
    assert json.loads(line) == {
        "kind": "worker.noise",
        "time": 5.0,
        "index": 1,
        "host": "i-1",
        "text": "x",
    }


def test_the_tile_of_the_stop_has_the_time_in_the_text_of_its_figure() -> None:
    line = timeline("r", whole_run(), RESULT)
    text = page(line, drawn(line), [])
    assert "all within 250 ms" in text
    assert "<h2>stop</h2><p>250 ms</p>" in text


def test_gold_is_labelled_as_the_finders() -> None:
    line = timeline("r", whole_run(), {**RESULT, "index": 0, "instance_id": "i-0"})
    pictures = drawn(line)
    assert "the finder" in pictures["rate"].svg
    assert "the finder's" in pictures["coverage"].svg
    nobody = drawn(timeline("r", whole_run(), RESULT))
    assert "the finder" not in nobody["rate"].svg + nobody["coverage"].svg


def test_a_run_of_which_nothing_is_known_has_a_report() -> None:
    line = timeline("r", [], None)
    assert drawn(line) == {}
    assert "Not ended yet" in page(line, {}, [])


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    journal = Journal("20260101-000000-abcd")
    journal.create()
    for event in whole_run():
        journal.append(event)
    journal.write_result(RESULT)
    return journal


def test_a_report_comes_with_its_figures_as_files(journal: Journal) -> None:
    from cnd.view.figures import PICTURES  # see `drawn`

    files = write_report.write(journal)
    names = {f"figures/{name}.{kind}" for name in PICTURES for kind in ("png", "svg")}
    assert set(files) == names | {"report.html"}
    for name, path in files.items():
        assert path == journal.folder / name
        assert path.stat().st_size > 1000


def test_an_export_has_every_instance_and_is_plain_json(journal: Journal) -> None:
    journal.append(at(14, "worker.progress", 0, "i-0", rate=float("nan"), tested=5))

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    told = json.loads(as_json(journal), parse_constant=refuse)
    assert told["result"] == RESULT
    assert [each["id"] for each in told["instances"]] == ["i-0", "i-1"]
    assert told["instances"][0]["search_seconds"] == 6
    assert told["events"][0]["kind"] == "run.started"
    head, *rows = as_csv(journal).split("\r\n")
    assert head == ",".join(COLUMNS)
    assert len(set(COLUMNS)) == len(COLUMNS)
    assert told["instances"][0]["stop_latency_seconds"] == 0.25
    assert "stop_seconds" in COLUMNS  # the phase
    assert len([row for row in rows if row]) == 2


NAMES = ["20260101-000000-abcd", "20260102-000000-abcd", "20260102-000000-ef01"]


@pytest.mark.parametrize(
    ("text", "meant"),
    [("", 2), (NAMES[0], 0), ("20260101", 0), ("ef01", 2), ("20260102-000000-a", 1)],
)
def test_a_run_is_called_by_its_name_or_a_part_that_is_its_own(
    text: str, meant: int
) -> None:
    assert pick(NAMES, text) == NAMES[meant]


@pytest.mark.parametrize("text", ["abcd", "20260102", "nothing", "0102"])
def test_a_run_that_is_not_there_or_not_the_only_one_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=text) as caught:
        pick(NAMES, text)
    assert "fab runs" in str(caught.value.hint)


def test_a_log_gives_no_orders_to_a_terminal() -> None:
    assert harmless_log("a\tb\n\x1b[2Jc\r\x07é") == "a\tb\n [2Jc  é"


@pytest.mark.parametrize(
    ("verified", "headline"),
    [(True, "Answer <em>quiz</em>"), (False, "Unverified answer <em>quiz</em>")],
)
def test_what_a_worker_of_ones_own_found_is_no_golden_nonce(
    verified: bool, headline: str
) -> None:
    started = Event("run.started", fields={"script": "worker.py", "difficulty": 0})
    result = {"nonce": 7, "answer": "quiz", "verified": verified, "outcome": "found"}
    text = page(timeline("r1", [started], result), {}, [])
    assert headline in text
    assert "olden nonce" not in text


def test_what_a_worker_of_ones_own_has_not_reported_is_shown_as_unknown() -> None:
    instance = [e for e in instance_events(0, "i-0") if "tested" not in e.fields]
    request = {**REQUEST, "instances": 1, "script": "worker.py"}
    events = [at(0, "run.started", **request), *instance]
    told = {"index": 0, "cursor": 0, "tested": None, "repeated": 0, "ended": "found"}
    result = {**RESULT, "difficulty": None, "tested": None, "coverage": [told]}
    line = timeline("r", events, result)
    assert dict(facts(line))["tested"] == "-"
    assert "<h2>tested</h2><p>-</p>" in page(line, drawn(line), [])
    assert not line.instances[0].is_counted
