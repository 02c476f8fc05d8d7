"""Options that are left out come from the first place that knows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnd.cli.settings import DEFAULTS, Setting, setting, sources, variable
from cnd.errors import UsageError


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Be in a folder of one's own, with nothing configured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in DEFAULTS:
        monkeypatch.delenv(variable(name), raising=False)
    return tmp_path


def write_own(folder: Path, text: str) -> Path:
    path = folder / "config" / "cnd" / "cnd.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def test_each_place_goes_before_those_that_are_further_from_the_user(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(given: str = "") -> tuple[str, str]:
        chosen = setting("image", given, sources(fabric))
        return chosen.value, chosen.source

    fabric: dict[str, object] = {}
    assert found() == ("auto", "default")
    own = write_own(elsewhere, 'image = "own"')
    assert found() == ("own", str(own))
    fabric = {"cnd": {"image": "fabric"}}
    assert found() == ("fabric", "fabric.yaml")
    Path("cnd.toml").write_text('image = "here"')
    assert found() == ("here", "./cnd.toml")
    monkeypatch.setenv("CND_IMAGE", "environment")
    assert found() == ("environment", "CND_IMAGE")
    assert found("flag") == ("flag", "the command line")


def test_a_name_may_have_dashes_and_a_value_may_be_a_number() -> None:
    Path("cnd.toml").write_text('instance-type = "c5.large"\nbudget = 1.5')

    files = sources({})
    assert setting("instance_type", "", files).value == "c5.large"
    assert setting("budget", "", files) == Setting("budget", "1.5", "./cnd.toml")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("typ = 1", "no such option: 'typ'"),
        ("image = true", "image must be text or a number, not True"),
        ("image = [", "cannot read cnd.toml"),
    ],
)
def test_a_file_that_means_nothing_is_refused(text: str, told: str) -> None:
    Path("cnd.toml").write_text(text)
    with pytest.raises(UsageError, match=told):
        sources({})


def test_what_fabric_reads_must_be_a_table() -> None:
    with pytest.raises(UsageError, match=r"fabric\.yaml: cnd must be a table"):
        sources({"cnd": 7})
