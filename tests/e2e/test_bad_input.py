"""Bad input is one line and a status; nothing is launched."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.terminal import BIN, Terminal

START = ("start", "--t", "9", "--d", "2", "--n", "2")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("start",), "--d, the difficulty, is missing"),
        (("start", "--d", "65"), "--d must be 0 to 64, not 65"),
        (("start", "--d", "2", "--on", ""), "--on needs a run, not ''"),
        (("start", "--d", "-1"), "--d must be 0 to 64, not -1"),
        (("start", "--d", "two"), "--d must be a whole number, not 'two'"),
        (("start", "--d", "2", "--n", "0"), "--n must be 1 to 1000, not 0"),
        (("start", "--d", "2", "--n", "1.5"), "--n must be a whole number, not '1.5'"),
        (("start", "--d", "2", "--t", "0"), "--t must be more than 0 seconds, not 0"),
        (("start", "--d", "2", "--t", "soon"), "--t must be a number of seconds"),
        (("start", "--d", "2", "--nonces", "0"), "--nonces must be 1 to 2**64, not 0"),
        (("start", "--d", "2", "--nonces", "2**65"), "--nonces must be 1 to 2**64"),
        (("start", "--d", "2", "--nonces", "7", "--n", "8"), "8"),
        (("start", "--d", "2", "--block", "x" * 5000), "4096"),
        (("start", "--d", "2", "--block", b"\xff"), "block"),
        (("start", "--d", "2", "--kernel", "magic"), "--kernel must be one of auto,"),
        (("start", "--d", "2", "--confidence", "1"), "--confidence must be between 0"),
        (("start", "--d", "2", "--confidence", "sure"), "not 'sure'"),
        (("start", "--d", "9", "--confidence", "0.9"), "impossible: even all"),
        (
            ("start", "--d", "8", "--t", "1", "--n", "2", "--confidence", "0.6"),
            "chance",
        ),
        (("start", "--d", "2", "--budget", "0"), "--budget must be more than 0 USD"),
        (("start", "--d", "2", "--budget", "-3"), "--budget must be more than 0 USD"),
        (("start", "--d", "2", "--budget", "much"), "not 'much'"),
        (("start", "--d", "2", "--image", "windows"), "--image must be ubuntu,"),
        (("start", "--d", "2", "--n", "2", "--at-least", "3"), "must be 1 to 2, not 3"),
        (("start", "--d", "2", "--at-least", "1"), "--at-least is given without N"),
        (("plan", "--d", "2", "--spot", "--spot-or-on-demand"), "exclude each other"),
        (("plan", "--d", "2", "--address", "secret"), "must be one of public, private"),
        (("plan",), "--d, the difficulty, is missing"),
        (("plan", "--d", "2", "--confidence", "0"), "--confidence must be between 0"),
        (("plan", "--d", "9", "--confidence", "0.9"), "impossible: even all"),
        (("start", "--d", "2", "--cloud", "gcp"), "--cloud must be aws or local"),
        (("start", "--d", "2", "--cloud", "aws"), "no AWS credentials"),
        (("start", "--d", "2", "--region", "moon"), "no such AWS region: 'moon'"),
        (("start", "--d", "2", "--key-file", "/no/key"), "--key-file '/no/key'"),
        (("-H", "a,b", "start", "--d", "2"), "-H a: this command runs here"),
        (("scram", "--run", "nonsense"), "--run 'nonsense' is not the name of a run"),
        (("stop",), "no run is going on"),
        (("report", "nonsense"), "no run on this disk is called 'nonsense'"),
        (("export", "--format", "xml"), "--format must be one of json, csv, not 'xml'"),
        (("verify", "--d", "2"), "--nonce must be a whole number"),
        (("local", "sideways"), "must be one of up, down, status, fault, not"),
        (("local", "up", "--hosts", "container"), "process or vm, not 'container'"),
        (("local", "up", "--hosts", "vm"), "runs already, with --hosts process"),
        (("local", "up", "--weather", "storm"), "weather 'storm': it is calm or"),
        (("local", "up", "--weather", "aws:7,-rain"), "no habit 'rain', only unknown"),
        (("local", "up", "--weather", "aws:7"), "runs already, with --weather calm"),
        (("local", "up", "--account-kind", "rich"), "'rich' is none of the kinds"),
        (
            ("local", "up", "--account-kind", "lab"),
            "runs already, with --account-kind default",
        ),
        (
            ("local", "up", "--policy", "/none.json"),
            "--policy /none.json: No such file",
        ),
        (("start", "--d", "2", "--boot", "0"), "--boot must be more than 0 seconds"),
        (("report", "--opn"), "No idea what '--opn' is!"),
        (("bench", "--sconds", "3"), "No idea what '--sconds' is!"),
        (("export", "--json", "--format", "csv"), "exclude each other"),
        (("strat",), "No idea what 'strat' is!"),
        (("start", "--difculty", "2"), "No idea what '--difculty' is!"),
    ],
)
def test_an_impossible_request_is_one_line_and_status_2(
    terminal: Terminal, words: tuple[str, ...], told: str
) -> None:
    terminal.cloud()
    before = terminal.runs()
    done = terminal.call(*words)
    assert done.returncode == 2, done.stderr
    lines = [x for x in done.stderr.splitlines() if not x.startswith("cloud: ")]
    assert lines[0].startswith("cnd: ")
    assert told in lines[0]
    assert len(lines) <= 2
    assert done.stdout == ""
    assert terminal.runs() == before
    assert terminal.live() == []


# One for each way out of the program: Invoke's core options, its parser of commands, an
# option's value, two that exclude each other, the state on this disk, the cloud; and
# what is no text.
WAYS_OUT: list[tuple[str | bytes, ...]] = [
    ("-H", "a,b", "start", "--d", "2"),
    ("strat",),
    ("start", "--d", "two"),
    ("plan", "--d", "2", "--spot", "--spot-or-on-demand"),
    ("report", "nonsense"),
    ("start", "--d", "2", "--region", "moon"),
    ("start", "--d", "2", "--block", b"\xff"),
]


@pytest.mark.parametrize("words", WAYS_OUT)
def test_the_installed_program_ends_as_its_object_does(
    terminal: Terminal, words: tuple[str, ...]
) -> None:
    """The cases above and below do not start a process each; these do, beside it.

    Those of other files are forked from one that was started: the user sees no
    difference.
    """
    terminal.cloud()
    forked, called = terminal.run(*words), terminal.call(*words)
    terminal.forks = False
    done = terminal.run(*words)
    for other in (forked, called):
        assert (done.returncode, done.stdout) == (other.returncode, other.stdout)
        assert done.stderr == other.stderr
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("strat",), "did you mean start?"),
        (("--help", "rport"), "did you mean report?"),
        (("report", "--opn"), "did you mean --open?"),
        (("start", "--difculty", "2"), "did you mean --difficulty?"),
        (("status", "--zzzz"), "`cnd status --help` shows what it takes"),
        (("export", "--format", "xml"), "for example: fab export --format csv"),
    ],
)
def test_a_mistyped_name_is_answered_with_the_nearest_one(
    terminal: Terminal, words: tuple[str, ...], meant: str
) -> None:
    done = terminal.call(*words)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"hint: {meant}"


@pytest.mark.parametrize("words", [("report", "--help"), ("local", "--help")])
def test_an_option_is_no_word_for_a_place_of_its_own(
    terminal: Terminal, words: tuple[str, ...]
) -> None:
    done = terminal.call(*words)
    assert done.returncode == 0
    assert "Usage: " in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        *("--help", "--list", "runs", "config", "status", "export", "local status"),
        *("plan --d 2", "start --d 1 --n 1", "logs", "bench kernel --seconds 0.1"),
    ],
)
def test_a_reader_that_goes_away_is_no_failure(terminal: Terminal, words: str) -> None:
    if words in ("export", "logs"):  # of the newest run, which may have left none
        terminal.json("start", "--d", "1", "--n", "1")
    terminal.forks = words != "--list"  # which is a program from its beginning
    if words.startswith("bench"):  # without hashcat, which is measured for seconds
        terminal.environment["PATH"] = str(BIN)
    process = terminal.spawn(*words.split())
    assert process.stdout
    process.stdout.close()
    _, told = process.communicate(timeout=90)
    assert process.returncode == 0, told
    assert "Traceback" not in told
    assert "BrokenPipe" not in told


@pytest.mark.parametrize(
    "words", ["--help start", "--list", "verify --nonce 116 --d 2"]
)
def test_a_reader_that_goes_away_is_no_failure_of_the_stock_fab(words: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [BIN / "fab", *words.split()],
        cwd=Path(__file__).parents[2],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=90,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("words", "status"), [("--version", 0), ("nonsense", 2)])
def test_a_program_whose_work_is_done_does_not_tidy_up_its_memory(
    terminal: Terminal, words: str, status: int
) -> None:
    """That takes many seconds on a busy machine, and Ctrl-C does not end it."""
    (terminal.folder / "sitecustomize.py").write_text(
        "import os\n"
        "class Memory:\n"
        "    def __del__(self, write=os.write):\n"
        "        write(2, b'tidied up\\n')\n"
        "kept = Memory()\n"
    )
    done = terminal.run(words, PYTHONPATH=str(terminal.folder))
    assert done.returncode == status
    assert done.stdout if status == 0 else done.stderr
    assert "tidied up" not in done.stderr


def test_the_local_cloud_says_in_json_how_it_stands(terminal: Terminal) -> None:
    up = terminal.json("local", "up")
    assert up["up"] is True
    printed = terminal.call("local", "up").stdout
    for name, value in up["environment"].items():
        assert f"export {name}={value}\n" in printed
    assert up["environment"] == terminal.exports()
    assert terminal.json("local", "status")["url"] == up["url"]
    terminal.json("local", "fault", "--clear")  # those of other tests
    laid = terminal.json("local", "fault", "RunInstances", "--code", "InternalError")
    assert terminal.json("local", "fault")["faults"] == [laid]
    assert terminal.json("local", "fault", "--clear") == {"forgotten": 1}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--instance-type", "t9.huge"), "t9.huge"),
        (("--bucket", "nobodys-bucket"), "no such bucket: nobodys-bucket"),
    ],
)
def test_what_the_cloud_refuses_is_one_line_and_status_3(
    terminal: Terminal, words: tuple[str, ...], told: str
) -> None:
    done = terminal.run(*START, *words)
    assert done.returncode == 3, done.stderr
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("cnd: ")]
    assert told in line
    assert "Traceback" not in done.stderr
    assert terminal.live() == []


def test_an_endpoint_that_does_not_answer_is_one_line_and_status_3(
    terminal: Terminal,
) -> None:
    done = terminal.run(
        *START,
        AWS_ENDPOINT_URL="http://127.0.0.1:9",
        AWS_ACCESS_KEY_ID="x",
        AWS_SECRET_ACCESS_KEY="x",
        AWS_DEFAULT_REGION="eu-west-2",
    )
    assert done.returncode == 3
    assert done.stderr.startswith("cnd: could not reach the cloud")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("limits", "status"), [("-Sn 260", 0), ("-n 260", 2)], ids=["soft", "hard"]
)
def test_the_limit_of_open_files_is_raised_or_the_way_out_named(
    terminal: Terminal, limits: str, status: int
) -> None:
    terminal.exports()
    words = ("start", "--t", "60", "--d", "2", "--n", "2")
    start = [str(BIN / "cnd"), *words]
    done = subprocess.run(
        ["sh", "-c", f'ulimit {limits} && exec "$@"', "sh", *start],
        cwd=terminal.folder,
        env=terminal.environment,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == status, done.stderr
    refused = "cnd: --n 2: takes 264 open files, 260 are allowed here"
    assert (refused in done.stderr) == (status == 2)
    assert ("ulimit -Hn 264" in done.stderr) == (status == 2)
    assert terminal.live() == []


def test_a_file_that_is_no_key_is_refused(terminal: Terminal, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("not a key")
    done = terminal.call(*START, "--key-file", str(file))
    assert done.returncode == 2
    assert "is not a private key" in done.stderr


def test_verify_tells_golden_from_not(terminal: Terminal) -> None:
    golden = terminal.call("verify", "--nonce", "116", "--d", "2")
    assert (golden.returncode, golden.stdout[:2]) == (0, "00")
    other = terminal.call("verify", "--nonce", "117", "--d", "2")
    assert other.returncode == 1
    assert "117 is not golden at difficulty 2" in other.stdout


def test_the_commands_in_the_reference_are_those_that_there_are(
    terminal: Terminal,
) -> None:
    reference = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    listed = terminal.call("--list").stdout.splitlines()
    commands = {x.split()[0] for x in listed if x.startswith("  ") and x[2] != " "}
    assert {f"`fab {command}" in reference for command in commands} == {True}
