"""What a user configures is obeyed, and told; help is there without being asked."""

from __future__ import annotations

import pytest

from tests.conftest import Terminal


@pytest.mark.parametrize("file", ["cnd.toml", "fabric.yaml"])
def test_a_file_in_the_folder_sets_what_the_command_line_leaves_out(
    terminal: Terminal, file: str
) -> None:
    text = {"cnd.toml": 'block = "mine"', "fabric.yaml": "cnd: {block: mine}"}[file]
    (terminal.folder / file).write_text(text)

    configured = terminal.json("verify", "--nonce", "5", "--d", "0")
    said = terminal.json("verify", "--nonce", "5", "--d", "0", "--block", "mine")
    assert configured == said
    told = terminal.json("config")
    assert told["block"]["value"] == "mine"
    assert file in told["block"]["from"]
    other = terminal.json("verify", "--nonce", "5", "--d", "0", CND_BLOCK="yours")
    assert other != configured


def test_a_file_that_cannot_be_meant_is_one_line_and_status_2(
    terminal: Terminal,
) -> None:
    before = terminal.runs()
    (terminal.folder / "cnd.toml").write_text("colour = 3")

    done = terminal.run("start", "--d", "2")
    assert done.returncode == 2
    assert done.stderr.startswith("cnd: ./cnd.toml: no such option: 'colour'\nhint: ")
    assert terminal.runs() == before


@pytest.mark.parametrize("words", [(), ("--help",)])
def test_help_names_every_command(terminal: Terminal, words: tuple[str, ...]) -> None:
    listed = terminal.run("--complete", "--", "cnd").stdout.split()
    help = terminal.run(*words)
    assert help.returncode == 0
    assert all(f"  {name} " in help.stdout for name in listed if name[0] != "-")
