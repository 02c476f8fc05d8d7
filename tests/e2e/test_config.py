"""What a user configures is obeyed, and told; help is there without being asked."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.terminal import Terminal


@pytest.mark.parametrize("file", ["cnd.toml", "fabric.yaml"])
def test_a_file_in_the_folder_sets_what_the_command_line_leaves_out(
    terminal: Terminal, file: str
) -> None:
    text = {"cnd.toml": 'block = "mine"', "fabric.yaml": "cnd: {block: mine}"}[file]
    (terminal.folder / file).write_text(text)

    configured = terminal.ask("verify", "--nonce", "5", "--d", "0")
    said = terminal.ask("verify", "--nonce", "5", "--d", "0", "--block", "mine")
    assert configured == said
    told = terminal.ask("config")
    assert told["block"]["value"] == "mine"
    assert file in told["block"]["from"]
    other = terminal.ask("verify", "--nonce", "5", "--d", "0", CND_BLOCK="yours")
    assert other != configured


def test_a_file_that_cannot_be_meant_is_one_line_and_status_2(
    terminal: Terminal,
) -> None:
    before = terminal.runs()
    (terminal.folder / "cnd.toml").write_text("colour = 3")

    done = terminal.call("start", "--d", "2")
    assert done.returncode == 2
    assert done.stderr.startswith("cnd: ./cnd.toml: no such option: 'colour'\nhint: ")
    assert terminal.runs() == before


def test_each_source_of_the_region_is_shown_in_its_order(terminal: Terminal) -> None:
    told = terminal.ask("config", AWS_DEFAULT_REGION="eu-west-2")["region"]
    assert told == {"value": "eu-west-2", "from": "AWS_DEFAULT_REGION"}
    profile = terminal.folder / "aws"
    profile.write_text("[profile mine]\nregion = eu-west-3\n")
    own: dict[str, Any] = {"AWS_CONFIG_FILE": str(profile), "AWS_PROFILE": "mine"}
    told = terminal.ask("config", **own)["region"]
    assert told == {"value": "eu-west-3", "from": "AWS profile mine"}
    assert terminal.ask("config", AWS_PROFILE="nobody")["region"]["value"] == ""
    last = terminal.call("config").stdout.splitlines()[-1]
    assert last.startswith("order: the command line > environment")


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("CND_BUDGET", "much", "budget must be an amount of USD"),
        ("CND_BUDGET", "-3", "budget must be more than 0 USD"),
        ("CND_IMAGE", "windows", "image must be ubuntu"),
    ],
)
def test_what_no_run_would_take_is_shown_as_bad(
    terminal: Terminal, name: str, value: str, told: str
) -> None:
    environment: dict[str, Any] = {name: value}
    done = terminal.call("config", **environment)
    assert done.returncode == 2
    assert told in done.stderr
    assert name in done.stderr.splitlines()[-1]
    assert value in done.stdout


@pytest.mark.parametrize("words", [(), ("--help",)])
def test_help_names_every_command(terminal: Terminal, words: tuple[str, ...]) -> None:
    listed = terminal.call("--complete", "--", "cnd").stdout.split()
    help = terminal.call(*words)
    assert help.returncode == 0
    assert all(f"  {name} " in help.stdout for name in listed if name[0] != "-")
