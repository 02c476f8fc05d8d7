"""Credentials that fail, in whatever way and phase of a run: a fleet ends, or is named.

They come from a program of the user's, asked at every call: what it hands out is over
in five minutes, and botocore wants new ones ten minutes before.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cnd.local import Endpoint
from tests.fault.truth import Victim
from tests.support.phases import phased
from tests.support.processes import ended
from tests.support.runs import Run
from tests.support.terminal import BIN
from tests.support.waiting import eventually

SECONDS = 2.0  # for which trouble lasts that goes by
JOB = (
    *("start", "--d", "30", "--n", "2", "--t", "4", "--json"),
    *("--cloud", "aws", "--ssh-from", "127.0.0.1/32"),
)
PROFILE = "work"
# What the program does instead: a line of shell.
WAYS = {
    "html": "echo '<html>Please log in</html>'",
    "list": "echo '[]'",
    "nothing": ":",
    "half": """printf '{"Version": 1, "AccessKeyId": "AK'""",
    "fails": "echo 'the session is over' >&2; exit 7",
    "hangs": "exec sleep 600",
    "expired": "expires=2019-11-01T00:00:00Z; hand_out",
    "flood": "exec cat /dev/zero",
    "killed": "kill -9 $$",
    "nulls": """echo '{"Version": 1, "AccessKeyId": null, "SecretAccessKey": ""}'""",
    "gone": "",  # there is no such program any more
}
PROGRAM = """\
#!/bin/sh
hand_out() {{
    printf '{{"Version": 1, "AccessKeyId": "{key}", "SecretAccessKey": "{secret}", '
    printf '"SessionToken": "", "Expiration": "%s"}}' "$expires"
}}
expires=$(date -u -d '5 minutes' +%FT%TZ)
{trouble}
"""


class Helper:
    """The program that hands out credentials."""

    def __init__(self, path: Path, cloud: Endpoint) -> None:
        self._path, self._cloud = path, cloud
        self.write("hand_out")

    def write(self, trouble: str) -> None:
        keys = {"key": self._cloud.access_key, "secret": self._cloud.secret_key}
        new = self._path.with_suffix(".new")
        new.write_text(PROGRAM.format(trouble=trouble, **keys))
        new.chmod(0o700)
        new.replace(self._path)

    def fail(self, way: str) -> None:
        if way == "gone":
            self._path.unlink()
        else:
            self.write(WAYS[way])

    def recover(self) -> None:
        self.write("hand_out")


@pytest.fixture
def helper(terminal: Victim, cloud: Endpoint, tmp_path: Path) -> Iterator[Helper]:
    """A user whose AWS, the cloud, knows them by what a program hands out."""
    path, config = tmp_path / "helper", tmp_path / "config"
    config.write_text(
        f"[profile {PROFILE}]\ncredential_process = {path}\nregion = us-east-1\n"
    )
    terminal.environment |= {
        "AWS_ENDPOINT_URL": cloud.url,
        "AWS_CONFIG_FILE": str(config),
        "AWS_PROFILE": PROFILE,
    }
    yield Helper(path, cloud)


def one_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Fail unless a command ended with one line that says so, and a way out."""
    assert done.returncode == 3, done.stderr
    told, hint = done.stderr.splitlines()
    assert told.startswith("cnd: ")
    assert hint.startswith("hint: ")
    assert all(word in done.stderr for word in words), done.stderr


@pytest.mark.parametrize(
    "way",
    [pytest.param(w, marks=pytest.mark.slow if w == "hangs" else ()) for w in WAYS],
)
def test_credentials_that_cannot_be_had_are_one_line_before_a_run(
    terminal: Victim, helper: Helper, way: str
) -> None:
    helper.fail(way)
    done = terminal.call("status", "--cloud", "aws")
    one_line(done, f"profile '{PROFILE}' (credential_process) failed")


def config(text: str) -> Callable[[Path], dict[str, str]]:
    def made(folder: Path) -> dict[str, str]:
        path = folder / "other-config"
        path.write_text(text.format(folder=folder))
        return {"AWS_CONFIG_FILE": str(path)}

    return made


ROLE = """\
[profile base]
credential_process = {program}
region = us-east-1
[profile work]
role_arn = arn:aws:iam::123456789012:role/x
source_profile = base
region = us-east-1
"""


@pytest.mark.parametrize(
    ("way", "told"),
    [
        ("killed", "a signal (9)"),
        ("flood", "it printed more than 1 MiB"),
        ("nulls", "the access key is empty"),
        pytest.param("hangs", "did not answer within 60 s", marks=pytest.mark.slow),
    ],
)
def test_a_role_builds_on_credentials_that_fail_as_any_others(
    terminal: Victim, helper: Helper, tmp_path: Path, way: str, told: str
) -> None:
    (tmp_path / "config").write_text(ROLE.format(program=tmp_path / "helper"))
    helper.fail(way)
    done = terminal.run("status", "--cloud", "aws")
    one_line(done, "profile 'base' (credential_process) failed", told)


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])
def test_a_secret_with_a_line_break_is_refused_and_not_shown(
    terminal: Victim, name: str
) -> None:
    secret = {**terminal.exports(), name: "hidden\nhere"}
    done = terminal.call("status", "--cloud", "aws", **secret)
    one_line(done, "has a space or a line break")
    assert "hidden" not in done.stderr


def test_a_configuration_that_no_client_takes_is_one_line_with_the_files_name(
    terminal: Victim, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text("[default]\nregion = us-east-1\ns3 = 5\n")
    exports = {**terminal.exports(), "AWS_CONFIG_FILE": str(tmp_path / "config")}
    done = terminal.call("status", "--cloud", "aws", **exports)
    one_line(done, f"mend {tmp_path / 'config'}, ")
    exports["AWS_ENDPOINT_URL"] = "http://127.0.0.1:99999"
    done = terminal.call("status", "--cloud", "aws", **exports)
    assert done.returncode == 2
    assert "hint: check AWS_ENDPOINT_URL" in done.stderr


SSO = """\
[profile work]
sso_session = corp
sso_account_id = 123456789012
sso_role_name = admin
region = us-east-1
[sso-session corp]
sso_region = us-east-1
sso_start_url = https://example.com/start
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "[profile work]\nregion = us-east-1\nrole_arn = arn:aws:iam::1:role/x\n"
            "web_identity_token_file = {folder}/no-such-token\n",
            ("no-such-token", "profile 'work'"),
        ),
        (SSO, ("run `aws sso login --profile work`",)),
    ],
)
def test_other_sources_of_credentials_fail_in_one_line(
    terminal: Victim, helper: Helper, tmp_path: Path, text: str, words: tuple[str, ...]
) -> None:
    done = terminal.call(
        "status", "--cloud", "aws", HOME=str(tmp_path), **config(text)(tmp_path)
    )
    one_line(done, *words)


def test_a_half_written_login_is_one_line_with_the_way_to_a_whole_one(
    terminal: Victim, helper: Helper, tmp_path: Path
) -> None:
    cache = tmp_path / ".aws" / "sso" / "cache"
    cache.mkdir(parents=True)
    token = cache / f"{hashlib.sha1(b'corp').hexdigest()}.json"
    for text in ("", "[]", '{"accessToken": "x"}', '{"accessToken'):
        token.write_text(text)
        done = terminal.call(
            "status", "--cloud", "aws", HOME=str(tmp_path), **config(SSO)(tmp_path)
        )
        one_line(done, "aws sso login --profile work")


def test_a_code_that_no_user_is_there_to_give_is_one_line(
    terminal: Victim, helper: Helper, tmp_path: Path
) -> None:
    text = (
        "[profile base]\naws_access_key_id = a\naws_secret_access_key = b\n"
        "[profile work]\nregion = us-east-1\nrole_arn = arn:aws:iam::1:role/x\n"
        "source_profile = base\nmfa_serial = arn:aws:iam::1:mfa/me\n"
    )
    done = subprocess.run(
        [BIN / "cnd", "status", "--cloud", "aws"],
        env={**terminal.environment, **config(text)(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,  # without a terminal
        timeout=60,
    )
    assert done.returncode == 3, done.stderr
    assert "profile 'work' (role_arn) failed: it asks for a code" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("way", "phase"),
    phased(WAYS, ("gone", "launch"), ("html", "search"), ("expired", "end")),
)
def test_credentials_that_fail_for_a_while_cost_a_run_nothing(
    terminal: Victim, helper: Helper, way: str, phase: str
) -> None:
    run = Run(terminal, *JOB)
    kind = {"launch": "run.started", "search": "worker.progress", "end": "log.pulled"}
    eventually(lambda: run.told(kind[phase]), every=0.002)
    helper.fail(way)
    time.sleep(SECONDS)
    helper.recover()
    code, out, err = ended(run.process, within=240)
    assert "Traceback" not in err
    assert terminal.live() == []
    if phase == "launch" and code == 3:
        return  # it was told before anything was bought
    assert code == 10, err
    result = json.loads(out)
    assert (result["terminated"], result["left_running"]) == (2, 0)


@pytest.mark.slow  # a termination is tried for five minutes
@pytest.mark.parametrize("way", ["html", "hangs"])
def test_credentials_that_stay_away_are_reported_with_all_that_may_run(
    terminal: Victim, helper: Helper, way: str
) -> None:
    run = Run(terminal, *JOB)
    hosts = run.searching(2)
    helper.fail(way)
    code, _, err = ended(run.process, within=500)
    assert code == 5, err
    assert "Traceback" not in err
    assert all(host in err for host in hosts)
    assert f"fab scram --run {run.folder.name}" in err
    helper.recover()
    assert terminal.run("scram", "--cloud", "aws").returncode == 0
    assert terminal.live() == []
