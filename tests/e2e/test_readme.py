"""Every command of README.md and docs/cli.md does what it says, as it stands there.

What is too long for a test is run smaller: with the same options and other numbers.
A command that they name and this file does not is a failure.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.terminal import BIN, Terminal, clean_environment

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
REFERENCE = (ROOT / "docs" / "cli.md").read_text()
MAIN_JOB = "fab start --t 200 --d 2 --n 8"
KERNELS = "fab bench kernel"

# Each row of "Commands": what is run for it, where that is not the row itself, and the
# exit status.  RUN is a run that has found its nonce, and is over.
ROWS: dict[str, tuple[list[str], int]] = {
    MAIN_JOB: ([], 0),
    "fab plan --t 200 --d 7 --n 8": ([], 0),
    "fab start --t 200 --d 7 --confidence 0.95 --budget 1": (
        ["fab start --t 200 --d 3 --confidence 0.95 --budget 1"],
        0,
    ),
    "fab start --t 200 --d 7 --n 64 --spot --at-least 32": (
        ["fab start --t 200 --d 3 --n 4 --spot --at-least 2"],
        0,
    ),
    "fab start --t 200 --d 5 --n 8 --smallest": (
        ["fab start --t 200 --d 3 --n 4 --smallest"],
        0,
    ),
    # RUN has left no fleet: tests/e2e/test_again.py searches on some that have.
    "fab start --t 200 --d 3 --on RUN [--extend]": (
        ["fab start --t 200 --d 3 --on RUN --extend"],
        2,
    ),
    "fab start --t 200 --d 8 --confidence 0.6 --instance-type auto": (
        ["fab start --t 20 --d 4 --confidence 0.6 --instance-type auto"],
        0,
    ),
    "fab start --t 60 --d 8 --n 500 --bootstrap user-data": (
        ["fab start --t 60 --d 3 --n 5 --bootstrap user-data"],
        0,
    ),
    "fab start --worker my_worker.py --nonces 26**4 --n 4 -- ARGS": (
        [
            "fab start --worker examples/worker_template.py --nonces 1000 --n 2"
            " -- --divisor 997"
        ],
        0,
    ),
    "fab doctor --n 8": ([], 0),
    "fab config": ([], 0),
    # RUN has found its nonce.
    "fab resume [RUN] --n 12 --t 3600": (["fab resume RUN --n 12 --t 3600"], 2),
    "fab attach [RUN]": (["fab attach RUN"], 2),
    "fab stop [--run ID]": (["fab stop --run RUN"], 2),
    "fab scram [--run ID] [--all-regions]": (
        ["fab scram --run RUN", "fab scram --all-regions"],
        0,
    ),
    "fab report [RUN] [--open]": (["fab report", "fab report RUN --open"], 0),
    "fab runs": ([], 0),
    "fab logs [RUN] [--instance 3] [--follow]": (
        ["fab logs", "fab logs RUN --instance 3", "fab logs RUN --follow"],
        0,
    ),
    "fab export [RUN] --format json": (
        ["fab export --format json", "fab export RUN --format csv"],
        0,
    ),
    "fab clean [--yes] [--bucket-too]": (
        ["fab clean", "fab clean --yes", "fab clean --yes --bucket-too"],
        0,
    ),
    "fab status": ([], 0),
    "fab verify --nonce 116 --d 2": ([], 0),
    "fab bench scaling --n 1,2,4,8 --d 5": (
        ["fab bench scaling --n 1,2 --d 3 --repeat 1"],
        0,
    ),
    "fab bench types --types t3.micro,c5.large": (
        ["fab bench types --types t3.micro,c5.large --seconds 0.2"],
        0,
    ),
    "fab bench scale --n 8,32,128": (
        ["fab bench scale --n 1,2 --repeat 1 --no-rivals"],
        0,
    ),
    "fab bench kernel": (["fab bench kernel --seconds 0.2"], 0),
    "fab local up": (["fab local up", "fab local status"], 0),
    # A cloud that is up keeps its weather.
    "fab local up --weather aws:7": ([], 2),
    "fab local fault RunInstances --code InternalError": (
        [
            "fab local fault RunInstances --code InternalError",
            "fab local fault --clear",
        ],
        0,
    ),
}


def rows(text: str) -> list[str]:
    """Return the commands in the first column of a table."""
    return re.findall(r"^\| `(fab [^`]*)` \|", text, re.MULTILINE)


def blocks() -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def options(command: str) -> set[str]:
    """Return its command and options, those in brackets, too."""
    words = re.sub(r"[][]", " ", command.partition(" -- ")[0]).split()
    return {words[1], *(word for word in words if word.startswith("--"))}


@pytest.fixture(scope="module")
def user(state: Path) -> Terminal:
    """A user in the checkout, with a browser that looks at nothing."""
    return Terminal(state, {**clean_environment(state), "BROWSER": "true"}, ROOT)


@pytest.fixture(scope="module")
def run(user: Terminal) -> str:
    """A run that has found its nonce."""
    return str(user.json("start", "--t", "60", "--d", "2", "--n", "4")["run"])


def test_every_command_of_the_tables_is_tried_with_all_of_its_options() -> None:
    assert rows(REFERENCE) == list(ROWS)
    everyday = rows(README)
    assert len(everyday) == 10 and set(everyday) <= ROWS.keys()
    for row, (smaller, _) in ROWS.items():
        assert options(row) <= {o for each in smaller or [row] for o in options(each)}


@pytest.mark.parametrize("row", ROWS)
def test_a_command_of_the_tables_works(user: Terminal, run: str, row: str) -> None:
    smaller, status = ROWS[row]
    for command in smaller or [row]:
        program, *words = command.replace("RUN", run).split()
        # Drawing takes seconds: one run shows that each has its report.
        drawn = str(int(row == MAIN_JOB))
        typist = replace(user, forks=row != MAIN_JOB)
        # Without other programs that a bench would measure beside, for many seconds.
        path = str(BIN) if row == KERNELS else user.environment["PATH"]
        done = typist.run(*words, program=program, CND_REPORT=drawn, PATH=path)
        if row == MAIN_JOB:
            user.call("report")  # it waits for the one of the run
            assert (user.runs()[-1] / "report.html").exists()
        assert done.returncode == status, done.stderr + done.stdout
        assert done.stdout or done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_kernels_are_measured_beside_whatever_is_installed(user: Terminal) -> None:
    ((command,), _) = ROWS[KERNELS]
    done = user.run(*command.split()[1:], program="fab")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_the_completion_line_completes_commands(user: Terminal) -> None:
    asked = r'`eval "\$\(cnd (--print-completion-script bash)\)"`'
    (line,) = re.findall(asked, REFERENCE)
    script = user.run(*line.split()).stdout
    asked = 'COMP_WORDS=(cnd sta); COMP_CWORD=1; COMP_LINE="cnd sta"; COMP_POINT=7'
    words = f'{asked}; _complete_cnd cnd sta; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(
        ["bash", "-c", f"{script}\n{words}"],
        env={**user.environment, "PATH": f"{BIN}:{user.environment['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == ["start", "status"], done.stderr


def test_the_blocks_of_readme_are_the_first_line_and_the_test_command() -> None:
    """The gate runs the second one; the first has a slow test of its own."""
    first, second = blocks()
    assert first.endswith(f"{MAIN_JOB}\n")
    assert second.endswith("pytest -n auto\n")


@pytest.mark.slow
def test_the_first_line_of_readme_leads_a_stranger_to_a_nonce(tmp_path: Path) -> None:
    """As it stands there: in a fresh clone, with a new virtual environment."""
    clone, state = tmp_path / "clone", tmp_path / "state"
    subprocess.run(
        ["git", "clone", "-q", str(ROOT), str(clone)], check=True, timeout=60
    )
    environment = clean_environment(state) | {"CND_REPORT": "1"}
    cnd = str(clone / ".venv/bin/cnd")
    try:
        done = subprocess.run(
            ["sh", "-euc", blocks()[0]],
            cwd=clone,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        subprocess.run([cnd, "report"], env=environment, check=False, timeout=90)
    finally:
        down = [cnd, "local", "down"]
        subprocess.run(down, env=environment, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "golden nonce   " in done.stdout
    assert done.stdout.rstrip().endswith("0 instances running")
    (report,) = state.glob("cnd/runs/*/report.html")
    assert report.stat().st_size > 10_000
