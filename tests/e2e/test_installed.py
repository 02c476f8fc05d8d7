"""The local cloud asks for nothing but what the extra `local` installs."""

from __future__ import annotations

from pathlib import Path

from cnd.local.files import LOG
from tests.support.terminal import Terminal, clean_environment

# What moto's own extra "server" would install, by the names under which it is imported.
NEEDLESS = (
    *("antlr4", "attr", "attrs", "aws_xray_sdk", "cfnlint", "docker", "graphql"),
    *("joserfc", "jsonpatch", "jsonpath_ng", "jsonpointer", "jsonschema"),
    *("lazy_object_proxy", "mpmath", "networkx", "openapi_schema_validator"),
    *("openapi_spec_validator", "pathable", "pydantic", "pydantic_core", "pyparsing"),
    *("referencing", "regex", "rpds", "sympy"),
)
# Read by every Python of the user before anything else.
WATCH = """
import sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {needless!r}:
            with open({asked!r}, "a") as file:
                file.write(name + "\\n")
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Watch())
"""


def test_nothing_that_is_not_installed_is_asked_for(tmp_path: Path) -> None:
    state, asked = tmp_path / "state", tmp_path / "asked"
    watch = tmp_path / "watch"
    watch.mkdir()
    text = WATCH.format(needless=NEEDLESS, asked=str(asked))
    (watch / "sitecustomize.py").write_text(text)
    environment = {**clean_environment(state), "PYTHONPATH": str(watch)}
    user = Terminal(state, environment, tmp_path)
    try:
        for how in ((), ("--spot",), ("--hold",), ("--bootstrap", "user-data")):
            result = user.json("start", "--d", "1", "--n", "1", *how)
            assert (result["outcome"], result["left_running"]) == ("found", 0)
        assert not asked.exists(), asked.read_text()
        assert "Traceback" not in (state / "cnd" / "local" / LOG).read_text()
    finally:
        user.run("local", "down")
