"""What is on the user's machine already works, or is one line; never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.terminal import BIN, Terminal, clean_environment
from tests.support.users import START, nameless, nameless_all, refused

VERIFY = ("verify", "--nonce", "116", "--d", "2")
GOLDEN = "00a722b0e1eab12e68928824ce82e5bc7cec6740e6cd0d3ffbe63260badc53fa"
CODE = "import os; os.write(2, b'EXECUTED'); os._exit(77)\n"


@pytest.fixture
def home(terminal: Terminal) -> Path:
    """A home folder of the user's own, empty."""
    folder = terminal.folder / "home"
    (folder / ".ssh").mkdir(parents=True)
    terminal.environment |= {"HOME": str(folder)}
    return folder


def verified(terminal: Terminal, *words: str) -> str:
    """Return what `verify` says on stderr; it works."""
    done = terminal.run(*VERIFY, *words)
    assert done.returncode == 0, done.stderr
    assert GOLDEN in done.stdout
    return done.stderr


# --- code, and Fabric's own configuration


@pytest.mark.parametrize("place", ["fabric.py", "home/.fabric.py", "paramiko.py"])
def test_no_code_of_the_folder_or_the_home_is_run(
    terminal: Terminal, home: Path, place: str
) -> None:
    (terminal.folder / place).write_text(CODE)
    assert verified(terminal) == ""
    words = [sys.executable, "-m", "cnd", *VERIFY]
    done = subprocess.run(
        words, cwd=terminal.folder, env=terminal.environment, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_report_is_drawn_without_code_of_the_folder(terminal: Terminal) -> None:
    terminal.environment["CND_REPORT"] = "1"
    for name in ("cnd", "json", "matplotlib", "socket"):
        (terminal.folder / f"{name}.py").write_text(CODE)
    done = terminal.run(*START)
    assert done.returncode == 0, done.stderr
    assert "EXECUTED" not in done.stderr
    done = terminal.run("report")  # it waits for the one of the run
    assert (done.returncode, done.stderr) == (0, "")


def test_a_bench_starts_no_code_of_the_folder(terminal: Terminal) -> None:
    for name in ("cnd", "json", "fabric"):
        (terminal.folder / f"{name}.py").write_text(CODE)
    words = ("--instances", "1", "--difficulty", "2", "--repeat", "1", "--json")
    done = terminal.run("bench", "scale", *words)
    assert done.returncode == 0, done.stderr


BROKEN_YAML = {
    "a tab": b"run:\n\techo: true\n",
    "nothing": b"run:\n",
    "a class": b"tasks: {executor_class: os.system}\n",
    "bytes": b"\xff\xfe\x00",
    "an ssh_config": b"ssh_config_path: /no/such/file\n",
}


@pytest.mark.parametrize("text", BROKEN_YAML.values(), ids=BROKEN_YAML)
def test_fabrics_configuration_of_the_user_is_not_read(
    terminal: Terminal, home: Path, text: bytes
) -> None:
    for name in (".fabric.yaml", ".invoke.yaml"):
        (home / name).write_bytes(text)
    terminal.environment |= {"FABRIC_PORT": "abc", "FABRIC_RUN_ECHO": "1"}
    terminal.environment |= {"INVOKE_RUNTIME_CONFIG": str(home / ".invoke.yaml")}
    assert verified(terminal) == ""


def test_of_the_folders_fabric_yaml_only_ours_is_read(terminal: Terminal) -> None:
    text = "tasks: {executor_class: no.such}\nrun:\ncnd: {block: COMSM0010cloud}\n"
    (terminal.folder / "fabric.yaml").write_text(text)
    assert verified(terminal) == "fabric.yaml sets block = COMSM0010cloud\n"
    told = refused(terminal.run("-f", "fabric.yaml", *VERIFY))
    assert told.startswith("cnd: -f fabric.yaml: cnd reads none of Fabric's")


@pytest.mark.parametrize(
    ("variable", "text", "told"),
    [
        ("FABRIC_PORT", "", "cnd: FABRIC_PORT cannot be used: invalid literal"),
        ("", "ssh_config_path: /no/such/file\n", "cnd: /no/such/file cannot be used"),
    ],
)
def test_under_stock_fab_a_setting_that_cannot_be_used_is_one_line(
    terminal: Terminal, home: Path, variable: str, text: str, told: str
) -> None:
    terminal.folder = Path(__file__).parents[2]
    (home / ".fabric.yaml").write_text(text)
    terminal.environment |= {variable: "abc"} if variable else {}
    done = terminal.run(*VERIFY, program="fab")
    assert refused(done).startswith(told)


def test_an_ssh_configuration_that_paramiko_cannot_read_is_not_read(
    terminal: Terminal, home: Path
) -> None:
    (home / ".ssh/config").write_bytes(b"# caf\xe9\nMatch host=x\nProxyCommand\n")
    (home / ".ssh/known_hosts").write_bytes(b"\xe9 @revoked |1|x|y ssh-rsa AAAA=\n")
    assert verified(terminal) == ""
    result = terminal.json(*START)
    assert (result["outcome"], result["nonce"]) == ("found", 116)


# --- our own


def test_a_byte_order_mark_is_no_part_of_a_file(terminal: Terminal) -> None:
    text = b'\xef\xbb\xbfblock = "COMSM0010cloud"\n'
    (terminal.folder / "cnd.toml").write_bytes(text)
    assert verified(terminal) == "./cnd.toml sets block = COMSM0010cloud\n"


ODD_FILES = {
    "bytes": b"\xff\x00",
    "deep": b"x = " + b"[" * 5000,
    "wrong": b"colour = 3\n",
    "a table": b"[block]\nx = 1\n",
    "huge": b"#" * (2 << 20),
}


@pytest.mark.parametrize("data", ODD_FILES.values(), ids=ODD_FILES)
def test_what_a_file_sets_is_passed_over_where_it_cannot_be_read(
    terminal: Terminal, data: bytes
) -> None:
    """By what does not need it; a run would be another one than was meant."""
    terminal.environment["XDG_CONFIG_HOME"] = str(terminal.folder / "config")
    own = terminal.folder / "config/cnd/cnd.toml"
    own.parent.mkdir(parents=True)
    own.write_bytes(data)
    (terminal.folder / "cnd.toml").write_bytes(data)
    (terminal.folder / "fabric.yaml").write_text("cnd: [1]\n")
    passed = verified(terminal).splitlines()
    assert [line.endswith("passed over, with all that it sets") for line in passed] == [
        True
    ] * 3
    assert "cnd.toml" in refused(terminal.run(*START))


def test_scram_and_status_work_with_a_broken_file(terminal: Terminal) -> None:
    terminal.cloud()
    (terminal.folder / "cnd.toml").write_text("region = \n")
    for command in ("scram", "status"):
        done = terminal.run(command)
        assert done.returncode == 0, done.stderr
        assert "cannot read cnd.toml" in done.stderr
    assert refused(terminal.run("stop")).count("no run is going on") == 1


@pytest.mark.parametrize("put", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_waited_for(terminal: Terminal, put: object) -> None:
    assert callable(put)
    put(terminal.folder / "cnd.toml")
    assert "cnd.toml" in refused(terminal.run("plan", "--d", "2", "--n", "1"))


# --- any bytes

count = pytest.mark.parametrize(
    "count", [10, pytest.param(200, marks=pytest.mark.slow)]
)


@count
@pytest.mark.parametrize(
    "names", [("cnd.toml", "home/.fabric.yaml"), ("fabric.yaml", "home/.ssh/config")]
)
def test_any_bytes_in_a_file_are_no_traceback(
    terminal: Terminal, home: Path, names: tuple[str, ...], count: int
) -> None:
    """Each is read by the whole program; `verify` works all the same."""
    syntax = b'cnd: |block| = |"|\n|[|{|: |&a|*a|!!|Host *\n|Match |run:|\t|\xe9|0x|- '
    words = st.sampled_from(syntax.split(b"|"))

    @settings(deadline=None, max_examples=count, database=None)
    @given(st.one_of(st.binary(), st.lists(words, max_size=12).map(b"".join)))
    def check(data: bytes) -> None:
        for name in names:
            (terminal.folder / name).write_bytes(data)
        done = terminal.run(*VERIFY)
        assert done.returncode in (0, 1, 2), done.stderr  # 1: of another block
        assert "Traceback" not in done.stderr

    check()


# --- the user


def test_descriptions_of_services_in_the_home_are_not_read_by_the_local_cloud(
    terminal: Terminal, home: Path, tmp_path: Path
) -> None:
    terminal.environment["XDG_STATE_HOME"] = str(tmp_path)  # with a cloud of its own
    for name in ("endpoints.json", "s3/2099-01-01/service-2.json"):
        path = home / ".aws" / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[")
    try:
        done = terminal.run(*START)
        assert (done.returncode, "trouble" in done.stderr) == (0, False), done.stderr
    finally:
        terminal.run("local", "down")


def test_a_user_without_a_name_and_a_home_runs_as_any_other(
    terminal: Terminal, tmp_path: Path
) -> None:
    state = tmp_path / "other"
    state.mkdir()
    os.chmod(state, 0o777)
    for folder in state.parents:
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o755)
    terminal.environment = clean_environment(state)
    del terminal.environment["HOME"]
    try:
        done = nameless(terminal, *START)
        assert done.returncode == 0, done.stderr
        assert "golden nonce   116" in done.stdout
    finally:
        nameless(terminal, "local", "down")


@pytest.mark.parametrize("home", ["another's", "/dev/null", None, "somewhere"])
def test_without_a_folder_for_its_state_a_run_is_not_begun_and_others_work(
    terminal: Terminal, home: str | None, tmp_path: Path
) -> None:
    if home == "another's":
        home = str(tmp_path)
    del terminal.environment["XDG_STATE_HOME"]
    terminal.environment.pop("HOME", None)
    terminal.environment |= {"HOME": home} if home else {}
    others = [[command] for command in ("status", "scram", "runs", "config")]
    start, *rest = nameless_all(terminal, [START, *others])
    assert "XDG_STATE_HOME" in refused(start)
    for done in rest:
        assert done.returncode == 0, done.stderr


def test_a_relative_state_folder_is_not_obeyed(terminal: Terminal, home: Path) -> None:
    terminal.environment["XDG_STATE_HOME"] = "state"
    (terminal.folder / "state").mkdir()
    assert refused(terminal.run("report")).startswith("cnd: there is no run")
    assert terminal.run("plan", "--d", "2", "--n", "1").returncode == 0
    assert list((terminal.folder / "state").iterdir()) == []
    assert not (terminal.folder / "~").exists()


@pytest.mark.parametrize("name", ["jörg's Google Drive", "a\udcffb"])
def test_a_state_folder_may_have_any_name(terminal: Terminal, name: str) -> None:
    state = terminal.folder / name
    state.mkdir()
    terminal.environment |= {"XDG_STATE_HOME": str(state)}
    try:
        result = terminal.json(*START)
        assert (result["outcome"], result["left_running"]) == ("found", 0)
        (folder,) = (state / "cnd/runs").iterdir()
        assert (folder / "logs/Instance0.log").stat().st_size
        again = terminal.json("status")
        assert [run["run"] for run in again["runs"]] == [folder.name]
    finally:
        terminal.run("local", "down")


# --- keys, workers, limits

KEYS = {
    "rsa": (["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f"], ""),
    "ed25519 pkcs8": (["openssl", "genpkey", "-algorithm", "ed25519", "-out"], ""),
    "ecdsa": (["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f"], "of the kind EC;"),
    "x25519": (["openssl", "genpkey", "-algorithm", "X25519", "-out"], "kind X25519;"),
    "with a passphrase": (["ssh-keygen", "-q", "-N", "secret", "-f"], "a passphrase"),
    "nothing": (["touch"], "the file is empty"),
}


@pytest.mark.parametrize(("make", "told"), KEYS.values(), ids=KEYS)
def test_a_key_works_or_is_refused_before_anything_is_bought(
    terminal: Terminal, make: list[str], told: str
) -> None:
    path = terminal.folder / "key"
    subprocess.run([*make, path], check=True, capture_output=True)
    path.chmod(0o600)
    done = terminal.run(*START, "--key-file", str(path))
    if told:
        assert told in refused(done)
        assert "launching" not in done.stderr
    else:
        assert done.returncode == 0, done.stderr


def test_a_certificate_beside_a_key_is_left_where_it_is(terminal: Terminal) -> None:
    path = str(terminal.folder / "key")
    make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path]
    subprocess.run(make, check=True)
    subprocess.run(["ssh-keygen", "-q", "-s", path, "-I", "me", f"{path}.pub"])
    assert Path(f"{path}-cert.pub").exists()
    done = terminal.run(*START, "--boot", "10", "--key-file", path)
    assert done.returncode == 0, done.stderr


def test_cnds_own_key_is_named_where_it_is_empty(
    terminal: Terminal, tmp_path: Path
) -> None:
    (tmp_path / "cnd").mkdir()
    (tmp_path / "cnd/id_ed25519").touch()
    terminal.environment["XDG_STATE_HOME"] = str(tmp_path)
    told = refused(terminal.run(*START))
    assert "id_ed25519, CND's own key, cannot be used: the file is empty" in told


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"#!/bin/sh\r\necho\r\n", "its first line ends with a carriage return"),
        (b"#! \r\necho\r\n", "its first line #! names no interpreter"),
    ],
)
def test_a_worker_that_no_system_can_start_is_refused(
    terminal: Terminal, data: bytes, why: str
) -> None:
    script = terminal.folder / "worker.sh"
    script.write_bytes(data)
    told = refused(terminal.call("start", "--worker", str(script), "--n", "1"))
    assert why in told


def test_no_more_of_a_worker_is_read_than_one_may_have(terminal: Terminal) -> None:
    script = terminal.folder / "worker.py"
    with script.open("wb") as file:
        file.truncate(1 << 40)
    told = refused(terminal.call("start", "--worker", str(script), "--n", "1"))
    assert "1 to 1048576 bytes, not 1099511627776" in told


@pytest.mark.parametrize(("limit", "fewer"), [(256, ""), (300, "or at most --n 11")])
def test_too_few_open_files_are_reported_with_a_way_out_that_works(
    terminal: Terminal, limit: int, fewer: str
) -> None:
    words = f'ulimit -n {limit}; exec "$0" start --d 2 --n 64 --t 5'
    done = subprocess.run(
        ["sh", "-c", words, BIN / "cnd"],
        env=terminal.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    told = refused(done)
    assert "ulimit -Hn 512" in told
    assert fewer in told
    assert fewer or "at most" not in told
