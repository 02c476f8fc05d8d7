"""What is kept of a host's system log, whatever the host sends."""

from __future__ import annotations

import gzip
import io
import random
import subprocess
from pathlib import Path

import pytest

from cnd.model import system_log

TEXT = b"".join(b"a line of a log: %06d\n" % number for number in range(20_000))


def kept(
    data: bytes, most: int, *, pieces: int = 1000
) -> tuple[system_log.LogPart, bytes]:
    file = io.BytesIO()
    chunks = [data[i : i + pieces] for i in range(0, len(data), pieces)]
    return system_log.keep(chunks, most, file), file.getvalue()


@pytest.mark.parametrize("pieces", [1, 7, 65536])
@pytest.mark.parametrize("pack", [gzip.compress, bytes])
def test_a_log_arrives_complete_compressed_or_not(pack: object, pieces: int) -> None:
    data = pack(b"log-bytes: %d\n" % len(TEXT) + TEXT)  # type: ignore[operator]
    part, text = kept(data, 1 << 20, pieces=pieces)
    assert (part.whole, part.fields, text) == (True, {}, TEXT)


def test_the_missing_part_is_counted_where_the_host_knows_the_length() -> None:
    part, _ = kept(b"log-bytes: 9000000\n" + TEXT, len(TEXT))
    assert part.fields == {"missing": 9_000_000 - len(TEXT)}
    part, _ = kept(b"log-bytes: ?\n" + TEXT, len(TEXT))
    assert (part.whole, part.fields) == (False, {"missing": None})
    part, _ = kept(b"log-bytes: ?\n" + TEXT, len(TEXT) + 1)
    assert part.whole


def test_a_part_begins_with_a_note_and_a_whole_line() -> None:
    source, target = io.BytesIO(b"of a line\n" + TEXT), io.BytesIO()
    system_log.copy(system_log.LogPart(10 + len(TEXT), 4_200_000), source, target)
    note, _, rest = target.getvalue().partition(b"\n")
    assert b"4,200,000 bytes of the beginning of this log are missing" in note
    assert rest == TEXT


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (gzip.compress(b"log-bytes: 3\n" + bytes(1 << 23)), "more than it was asked"),
        (b"log-bytes: 3\n" + bytes(1 << 21), "more than"),
        (gzip.compress(b"log-bytes: 3\n") + bytes(1 << 21), "after its end"),
        (gzip.compress(b"log-bytes: 99\n" + TEXT)[:-9], "cut short"),
        (b"\x1f\x8b and no more", "no valid gzip data"),
        (b"<html>", "it answers"),
        (b"", "it sends none"),
        (b"log-bytes: " + b"9" * 5000 + b"\n", "it answers"),
    ],
)
def test_an_invalid_answer_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(system_log.InvalidLog, match=reason):
        kept(data, 1 << 20)


def test_a_decompression_bomb_is_never_unpacked_beyond_the_limit() -> None:
    file = io.BytesIO()
    bomb = gzip.compress(b"log-bytes: 3\n" + bytes(1 << 26))
    with pytest.raises(system_log.InvalidLog):
        system_log.keep([bomb], 1 << 20, file)
    assert len(file.getvalue()) <= (1 << 20) + system_log.SLACK


def test_random_bytes_are_refused_or_kept_and_raise_nothing_else() -> None:
    chance = random.Random(14)
    packed = gzip.compress(b"log-bytes: 9\n" + TEXT)
    for _ in range(300):
        data = bytearray(packed[: chance.randrange(1, 400)])
        data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            kept(bytes(data), 1 << 20)
        except system_log.InvalidLog:
            continue


@pytest.mark.parametrize("instances", [1, 8, 64, 65, 512, 10_000])
def test_the_logs_of_a_fleet_have_a_limit_together(instances: int) -> None:
    most = system_log.most_of(instances)
    assert system_log.LEAST <= most <= system_log.MOST
    assert most * instances <= system_log.MOST_OF_FLEET or most == system_log.LEAST


@pytest.mark.parametrize("most", [system_log.LEAST, 5 << 20, system_log.MOST])
def test_the_newest_part_is_requested_first(most: int) -> None:
    steps = list(system_log.steps(most))
    assert steps == sorted(set(steps))
    assert steps[-1] == most


@pytest.mark.parametrize("wrap", [system_log.command, system_log.packed])
def test_the_commands_are_valid_shell(wrap: object) -> None:
    command = wrap(1000)  # type: ignore[operator]
    subprocess.run(["sh", "-n", "-c", command], check=True)


def test_a_log_cut_by_the_command_is_the_end_of_the_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(TEXT)
    command = system_log.packed(50_000).replace(
        "/var/log/syslog", str(tmp_path / "log")
    )
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=True)
    part, text = kept(done.stdout, 50_000)
    assert part == system_log.LogPart(50_000, len(TEXT) - 50_000)
    assert text == TEXT[-50_000:]
