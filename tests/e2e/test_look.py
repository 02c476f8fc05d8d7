"""To look at a run that is over: report, runs, logs, export."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from cnd.run import pending_reports
from cnd.view.html_report import page
from tests.support.local_cloud import environment
from tests.support.runs import HOPELESS, searching
from tests.support.terminal import Terminal
from tests.support.timelines import drawn, of
from tests.support.waiting import eventually

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking", "--disable-sync"),
    *("--disable-component-update", "--enable-logging=stderr"),
)


def test_a_run_can_be_looked_at_from_every_side(terminal: Terminal) -> None:
    result = terminal.json("start", "--d", "2", "--n", "2", CND_REPORT="1")
    run, folder = result["run"], terminal.state / "cnd" / "runs" / result["run"]
    shown = terminal.call("report").stdout.strip()  # it waits for what draws it
    assert shown == str(folder / "report.html")
    report = Path(shown).read_text()
    assert f"Golden nonce {result['nonce']}" in report
    assert (folder / "figures" / "timeline.png").stat().st_size > 1000
    bucket, key = result["logs"]["s3"].removeprefix("s3://").split("/", 1)
    kept = terminal.client("s3").get_object(Bucket=bucket, Key=f"{key}report.html")
    assert kept["Body"].read().decode() == report

    last = terminal.ask("runs")["runs"][-1]
    assert (last["run"], last["outcome"]) == (run, "found")
    assert (last["difficulty"], last["instances"]) == (2, 2)
    assert terminal.call("runs").stdout.splitlines()[-1].startswith(run)

    log = folder / "logs" / "Instance1.log"
    text = log.read_text()
    log.unlink()  # as of an orphan, which has put it into S3 only
    assert terminal.call("logs", run, "--instance", "1").stdout == text
    both = terminal.ask("logs", run)["logs"]
    assert both["Instance1.log"] == text
    assert "run.ended" in terminal.call("logs", run, "--events", "--follow").stdout
    assert terminal.call("logs", run, "--follow", "--instance", "1").stdout == text

    (first, second) = csv.DictReader(
        io.StringIO(terminal.call("export", run, "--format", "csv").stdout)
    )
    assert [first["index"], second["index"]] == ["0", "1"]
    file = terminal.folder / "run.json"
    assert terminal.call("export", run, "--output", str(file)).returncode == 0
    assert json.loads(file.read_text())["result"] == result


def test_a_run_that_was_started_elsewhere_is_brought_from_s3(
    terminal: Terminal,
) -> None:
    result = terminal.json("start", "--d", "1", "--n", "1")
    run = result["run"]
    folder = terminal.state / "cnd" / "runs" / run
    log = (folder / "logs" / "Instance0.log").read_text()
    shutil.rmtree(folder)
    assert terminal.call("logs", run).stdout == log
    assert terminal.ask("export", run)["result"] == result
    assert terminal.call("report", run).returncode == 0
    assert terminal.ask("runs")["runs"][-1]["run"] == run
    done = terminal.call("logs", "20200101-000000-abcd")
    assert done.returncode == 2
    assert "no run on this disk" in done.stderr


def test_what_is_no_run_in_the_folder_of_runs_is_passed_over(
    terminal: Terminal,
) -> None:
    folder = terminal.state / "cnd" / "runs"
    run = terminal.json("start", "--d", "1", "--n", "1")["run"]
    strays = [folder / "notes", folder / "20200101-000000-abcd"]
    strays[1].mkdir()
    (folder / "stray.txt").write_text("not a run")
    strays[0].mkdir()
    try:
        names = [each["run"] for each in terminal.ask("runs")["runs"]]
        assert run in names
        assert not {"notes", "stray.txt", "20200101-000000-abcd"} & set(names)
        assert terminal.call("status").returncode == 0
    finally:
        (folder / "stray.txt").unlink()
        for stray in strays:
            stray.rmdir()


@pytest.mark.paced
@pytest.mark.parametrize("words", [(), ("--instance", "1")])
def test_syslogs_are_followed_while_they_grow_until_the_run_ends(
    terminal: Terminal, words: tuple[str, ...]
) -> None:
    started, run = searching(terminal, *HOPELESS, "--n", "2")
    follower = terminal.spawn("logs", run.name, "--follow", *words)
    first = follower.stdout.readline() if follower.stdout else ""  # while it goes on
    assert started.poll() is None
    assert terminal.run("stop", "--run", run.name).returncode == 0
    rest, told = follower.communicate(timeout=60)
    started.communicate(timeout=60)
    assert follower.returncode == 0, told
    lines = [first, *rest.splitlines()]
    assert any("cnd-pow" in line for line in lines)
    prefixes = {"Instance0 | ", "Instance1 | "}
    assert {line[:12] for line in lines} & prefixes == (set() if words else prefixes)


@pytest.mark.paced
def test_a_user_interrupts_a_followed_log_and_the_run_goes_on(
    terminal: Terminal,
) -> None:
    started, run = searching(terminal, *HOPELESS, "--n", "1")
    follower = terminal.spawn("logs", run.name, "--follow", "--json")
    line = json.loads(follower.stdout.readline() if follower.stdout else "")
    assert line["instance"] == "Instance0"
    follower.send_signal(signal.SIGINT)
    _, told = follower.communicate(timeout=60)
    assert follower.returncode == 130
    assert "Traceback" not in told
    assert started.poll() is None
    assert terminal.run("stop", "--run", run.name).returncode == 0
    started.communicate(timeout=60)


def draws(terminal: Terminal, run: str) -> bool:
    """Return whether a process is drawing the report of a run."""
    with open(terminal.state / "cnd" / "reports" / run) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_the_prompt_does_not_wait_for_the_report_and_the_command_for_it_does(
    terminal: Terminal,
) -> None:
    gate = terminal.folder / "gate"
    slow = terminal.folder / "matplotlib.py"
    slow.write_text(
        f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
        "raise ModuleNotFoundError('gone', name='matplotlib')\n"
    )
    words = ("start", "--d", "1", "--n", "1")
    terminal.json(*words, CND_REPORT="1", PYTHONPATH=str(terminal.folder))
    folder = terminal.runs()[-1]
    assert draws(terminal, folder.name)
    assert not (folder / "report.html").exists()
    assert terminal.call("runs").stderr == ""  # nothing has failed
    waiting = terminal.spawn("report", folder.name)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(0.5)
        gate.touch()
        out, err = waiting.communicate(timeout=60)
    finally:
        gate.touch()
        waiting.kill()
    assert (out, err) == (f"{folder / 'report.html'}\n", "")
    assert "Golden nonce" in (folder / "report.html").read_text()
    assert not list((terminal.state / "cnd" / "reports").iterdir())


def test_a_report_that_fails_costs_the_report_only(terminal: Terminal) -> None:
    broken = terminal.folder / "matplotlib.py"
    broken.write_text("raise RuntimeError('broken')\n")
    words = ("start", "--d", "1", "--n", "1")
    done = terminal.run(*words, CND_REPORT="1", PYTHONPATH=str(terminal.folder))
    assert done.returncode == 0
    assert done.stdout.rstrip().endswith("0 instances running")
    run = terminal.runs()[-1].name
    eventually(lambda: not draws(terminal, run))
    done = terminal.call("runs")
    assert done.returncode == 0
    why = "no report: RuntimeError: broken"
    assert done.stderr == f"run {run}: {why}; `fab report {run}` draws it\n"
    assert terminal.call("runs").stderr == ""

    # The command that waits for a process that draws tells what that did not achieve.
    broken.write_text("raise ModuleNotFoundError('gone', name='matplotlib')\n")
    terminal.environment["PYTHONPATH"] = str(terminal.folder)
    with environment(terminal.state):
        lock = pending_reports.begin(run)
    waiting = terminal.spawn("report", run)
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(0.5)
    pending_reports.give_reason(lock, "no report: it failed")
    os.close(lock)
    out, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 0
    told, missing = err.splitlines()
    assert told == f"run {run}: no report: it failed"
    assert "pip install 'cnd[report]'" in missing
    assert "Golden nonce" in Path(out.strip()).read_text()
    assert terminal.call("runs").stderr == ""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("planted", ["", "<img src='http://127.0.0.1:9/x.png'>"])
def test_a_browser_shows_a_report_and_has_nothing_to_say_about_it(
    tmp_path: Path, planted: str
) -> None:
    """The page's policy makes every request a complaint; the planted one shows it."""
    line = of(8)
    file = tmp_path / "report.html"
    file.write_text(
        page(line, drawn(line), []).replace("<footer>", f"{planted}<footer>")
    )
    done = subprocess.run(
        [
            str(CHROMIUM),
            *QUIET,
            f"--user-data-dir={tmp_path / 'profile'}",
            "--host-resolver-rules=MAP * ~NOTFOUND",  # the browser's own curiosity
            "--dump-dom",
            file.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "Where the time went" in done.stdout
    assert ("CONSOLE" in done.stderr) is bool(planted)
