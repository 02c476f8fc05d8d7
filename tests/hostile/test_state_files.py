"""What CND keeps is its owner's alone, whatever the umask is and was."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cnd.system import private_files
from tests.fault.truth import Victim
from tests.support.processes import ended
from tests.support.runs import Run, told
from tests.support.terminal import BIN, clean_environment
from tests.support.waiting import eventually

OTHERS = 0o077
MASKS = [0o000, 0o022, 0o077, 0o277]


@pytest.fixture
def mask(request: pytest.FixtureRequest) -> Iterator[int]:
    """A umask that holds during the test."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def loose(folder: Path) -> list[str]:
    """Return what others than its owner may touch, of a folder and all in it."""
    found = [path for path in (folder, *folder.rglob("*")) if not path.is_symlink()]
    return [
        f"{path} {path.stat().st_mode & 0o777:o}"
        for path in found
        if path.stat().st_mode & OTHERS
    ]


@pytest.mark.parametrize("mask", MASKS, indirect=True)
def test_folders_and_files_are_the_owners_whatever_the_umask(
    tmp_path: Path, mask: int
) -> None:
    inner = private_files.folder(tmp_path / "a" / "b")
    private_files.write(inner / "file", "text")
    with private_files.open_end(inner / "journal") as file:
        file.write(b"line\n")
    assert loose(tmp_path / "a") == []
    assert (inner.stat().st_mode & 0o777, (inner / "file").read_text()) == (
        0o700,
        "text",
    )


def test_what_was_open_to_others_is_closed_when_it_is_used(tmp_path: Path) -> None:
    folder = tmp_path / "cnd"
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "journal").touch()
    (folder / "journal").chmod(0o644)
    private_files.folder(folder)
    private_files.open_end(folder / "journal").close()
    assert loose(folder) == []
    assert tmp_path.stat().st_mode & OTHERS == 0  # pytest's own
    tmp_path.chmod(0o755)
    private_files.folder(folder / "inner")
    assert tmp_path.stat().st_mode & 0o777 == 0o755  # it is not ours to close


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    for name in ("log", "journal"):
        (tmp_path / name).symlink_to(target)
    private_files.write(tmp_path / "log", "a log")
    with pytest.raises(OSError, match="symbolic links"):
        private_files.open_end(tmp_path / "journal")
    assert target.read_text() == "precious"
    assert (tmp_path / "log").read_text() == "a log"
    assert not (tmp_path / "log").is_symlink()


def test_a_draft_that_is_not_finished_leaves_nothing(tmp_path: Path) -> None:
    private_files.write(tmp_path / "file", "old")
    with (
        pytest.raises(ZeroDivisionError),
        private_files.replaced(tmp_path / "file") as file,
    ):
        file.write(b"new")
        raise ZeroDivisionError
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        private_files.folder(tmp_path / "file")


def test_a_run_with_no_umask_leaves_nothing_that_others_may_touch(
    tmp_path: Path,
) -> None:
    """Also what an earlier version has left open; only hosts have a tree of theirs."""
    old = tmp_path / "cnd" / "runs"
    old.mkdir(parents=True)
    for folder in (old, old.parent):
        folder.chmod(0o777)
    environment = {**clean_environment(tmp_path), "CND_REPORT": "1"}

    def cnd(*words: str) -> None:
        command = [str(BIN / "cnd"), *words]
        done = subprocess.run(
            command, env=environment, umask=0, capture_output=True, timeout=90
        )
        assert done.returncode == 0, done.stderr

    try:
        cnd("start", "--d", "2", "--n", "2", "--keep")
        cnd("report")  # it waits for the one of the run
        hosts = tmp_path / "cnd" / "local" / "hosts"
        found = loose(tmp_path / "cnd")
        assert [each for each in found if not each.startswith(f"{hosts}/")] == []
        homes = [path for path in hosts.glob("i-*/home/*/.ssh")]
        assert len(homes) == 2
        assert all(path.stat().st_mode & 0o022 == 0 for path in homes)
    finally:
        cnd("local", "down")


def test_a_log_is_never_written_through_a_link(terminal: Victim) -> None:
    precious = terminal.folder / "precious"
    precious.write_text("precious")
    run = Run(terminal, "start", "--d", "30", "--n", "1", "--t", "2", "--json")
    folder = run.folder

    def is_pulling() -> bool:
        assert run.process.poll() is None
        return (folder / "logs").is_dir()

    eventually(is_pulling, every=0.0)  # the log itself comes next
    (folder / "logs" / "Instance0.log").symlink_to(precious)
    code, _, err = ended(run.process)
    assert code == 10, err
    assert precious.read_text() == "precious"
    (pulled,) = told(folder, "log.pulled")
    assert not Path(pulled["path"]).is_symlink()
    assert "cnd-pow" in Path(pulled["path"]).read_text()
