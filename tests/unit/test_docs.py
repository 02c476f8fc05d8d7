"""What documents and docstrings name is there: files, modules, documents, sections."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
LINK = re.compile(r"\]\(([^)#\s]*)(#[^)\s]*)?\)")
# `cnd/run/job.py` or, as the architecture writes it, `run/job.py`.
FILE = re.compile(r"`((?:[\w.]+/)+[\w.]+\.(?:py|c|h|md|toml|yaml))`")
# `cnd.run.job`, or a name in a module: `cnd.cloud.replies.read`.
DOTTED = re.compile(r"`(cnd(?:\.\w+)+)`")
TEXTS = [*DOCUMENTS, *sorted((ROOT / "cnd").rglob("*.py"))]


def anchors(document: Path) -> set[str]:
    """Return the names of a document's sections, as they stand in a link."""
    titles = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", title.lower()) for title in titles)
    return {"#" + title.strip().replace(" ", "-") for title in plain}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_link_leads_somewhere(document: Path) -> None:
    for target, anchor in LINK.findall(document.read_text()):
        if target.startswith(("http:", "https:")):
            continue
        path = document.parent / target if target else document
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path), target + anchor


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_file_that_a_document_names_is_there(document: Path) -> None:
    for name in FILE.findall(document.read_text()):
        places = (ROOT / name, ROOT / "cnd" / name, document.parent / name)
        assert any(place.exists() for place in places), name


def is_there(dotted: str) -> bool:
    """Return whether a module has this name, or contains its last part."""
    if dotted == "cnd.toml":  # a configuration file
        return True
    path = ROOT / dotted.replace(".", "/")
    if path.is_dir() or path.with_suffix(".py").exists():
        return True
    module, last = path.parent, path.name
    if module.is_dir():
        module /= "__init__"
    source = module.with_suffix(".py")
    return source.exists() and bool(re.search(rf"\b{last}\b", source.read_text()))


def test_a_module_that_a_text_names_is_there() -> None:
    found = {
        f"{text.relative_to(ROOT)}: {dotted}"
        for text in TEXTS
        for dotted in DOTTED.findall(text.read_text())
        if not is_there(dotted)
    }
    assert found == set()
