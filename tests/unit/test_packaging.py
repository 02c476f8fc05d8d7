"""What `pip install` brings is what the modules import."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

import cnd
from tests.support.imports import files, modules

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# What is imported by another name than it is installed, or comes with something else.
INSTALLED_AS = {
    "botocore": "boto3",
    "flask_cors": "flask-cors",
    "markupsafe": "jinja2",
    "werkzeug": "flask",
    "yaml": "pyyaml",
}
# Modules that need an extra, by what their names begin with.
EXTRAS = {
    "local": "local",
    "view.figures": "report",
    "bench.charts": "report",
    "bench.process_usage": "bench",
}


def named(requirements: list[str]) -> set[str]:
    """Return the names of the packages that are required."""
    return {re.split(r"[^\w-]", each, maxsplit=1)[0].lower() for each in requirements}


def needed(module: str) -> set[str]:
    """Return the packages that a module imports, and does not find with Python."""
    tops = {name.partition(".")[0] for name in modules()[module]}
    # Programs on an instance import each other by their file names.
    ours = {"cnd"} | {name.rpartition(".")[2] for name in files()}
    typing = {top for top in tops if top.startswith(("_typeshed", "types_"))}
    outside = tops - ours - typing - sys.stdlib_module_names
    return {INSTALLED_AS.get(top, top) for top in outside}


@pytest.mark.parametrize("module", sorted(files()))
def test_every_package_that_is_imported_is_required(module: str) -> None:
    extra = next((x for name, x in EXTRAS.items() if module.startswith(name)), "")
    brought = named(PROJECT["dependencies"])
    if extra:
        brought |= named(PROJECT["optional-dependencies"][extra])
    assert needed(module) <= brought


def test_a_development_environment_has_all_extras_but_that_of_the_local_cloud() -> None:
    extras = PROJECT["optional-dependencies"]
    others = [extras[name] for name in sorted({*EXTRAS.values()} - {"local"})]
    assert {each for extra in others for each in extra} <= {*extras["dev"]}


def test_the_package_knows_its_version() -> None:
    assert PROJECT["version"] == cnd.__version__


def test_a_release_is_checked_and_built_with_kernels_before_it_is_published() -> None:
    """And only the job that publishes, which runs no code of ours, may sign for us."""
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    workflow = yaml.safe_load(text)
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML's "on"
    jobs = workflow["jobs"]
    assert {"run": "sh .ci/run"} in jobs["check"]["steps"]
    assert {"run": "CND_KERNELS=require python -m build"} in jobs["build"]["steps"]
    assert sorted(jobs["publish"]["needs"]) == ["build", "check"]
    assert workflow["permissions"] == {"contents": "read"}
    may_sign = [name for name, job in jobs.items() if "permissions" in job]
    assert may_sign == ["publish"]
    assert all("run" not in step for step in jobs["publish"]["steps"])
