"""Files of the state folder: whole or not at all, and the owner's alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnd.system import private_files


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "Instance0.log"
    private_files.write(path, b"all of it")
    with pytest.raises(RuntimeError), private_files.replaced(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"all of it"
    with pytest.raises(OSError):
        private_files.write(tmp_path / "none" / "Instance2.log", b"x")
    assert [each.name for each in tmp_path.iterdir()] == ["Instance0.log"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_written_once_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "key"
    private_files.write_once(path, "first")
    private_files.write_once(path, "second")
    assert path.read_text() == "first"
    assert [each.name for each in tmp_path.iterdir()] == ["key"]
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileNotFoundError):
        private_files.write_once(tmp_path / "none" / "key", "x")
