"""What the written pages name exists: files, modules, targets of the Makefile, links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docgen.tables import DOCS

ROOT = DOCS.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
CURRENT = [page for page in PAGES if page.parent.name != "lab"]
_FOLDERS = {
    path.name for path in ROOT.iterdir() if path.is_dir() and (path / "__init__.py").exists()
} | {"backends", "client", "deploy", "docs", "model_repository"}
_MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
_TARGETS = set(re.findall(r"^([a-z-]+):", _MAKEFILE, re.MULTILINE))

each_page = pytest.mark.parametrize("page", CURRENT, ids=lambda page: page.name)


def _words(text: str) -> list[str]:
    """The words in backticks."""
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [word.rstrip(".,:") for span in spans for word in span.split()]


def _exists(word: str) -> bool:
    if word.partition("/")[0] in _FOLDERS and "/" in word:
        return (ROOT / word).exists()
    return not word.endswith(".py") or any(
        next((ROOT / folder).rglob(word), None) for folder in _FOLDERS
    )


def _anchors(page: Path) -> set[str]:
    """Where links into the page may lead, as GitHub names its headings."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_files_that_it_names_exist(page: Path) -> None:
    words = [word for word in _words(page.read_text("utf-8")) if re.fullmatch(r"[\w./-]+", word)]
    assert [word for word in words if "NAME" not in word and not _exists(word)] == []


@each_page
def test_commands_that_it_names_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    modules = [name.replace(".", "/") for name in re.findall(r"python3? -m ([a-z_.]+\w)", text)]
    own = [ROOT / name for name in modules if name.partition("/")[0] in _FOLDERS]
    missing = [path for path in own if not (path.is_dir() or path.with_suffix(".py").exists())]
    assert missing == []
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= _TARGETS


def test_pages_that_the_makefile_names_exist() -> None:
    assert [
        each for each in re.findall(r"docs/[\w/]+\.md", _MAKEFILE) if not (ROOT / each).exists()
    ] == []


def test_names_of_the_code_in_the_architecture_exist() -> None:
    files = (file for folder in _FOLDERS for file in (ROOT / folder).rglob("*.py"))
    sources = "".join(file.read_text("utf-8") for file in files)
    words = _words((DOCS / "architecture.md").read_text("utf-8"))
    names = [word for word in words if re.fullmatch(r"[A-Z][a-z]+[A-Z]\w+(\.\w+)?", word)]
    parts = {part for name in names for part in name.split(".")}
    assert len(names) > 10
    assert [each for each in parts if not re.search(rf"(class|def) {each}\b", sources)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link
