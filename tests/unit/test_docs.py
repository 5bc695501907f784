"""The pages tell the truth about the files: what they name is there."""

import re
import tomllib
from pathlib import Path

import pytest

from kilonova.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
)
_FOLDERS = (
    "kilonova/",
    "tests/",
    "docs/",
    "examples/",
    "tools/",
    "packaging/",
    "benchmarks/",
    "guest-image/",
)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_links_exist(page: Path) -> None:
    """Every relative link, and every path in backticks that begins with a folder of ours."""
    text = page.read_text()
    links = [m.split("#")[0] for m in re.findall(r"\]\(([^)]+)\)", text) if "://" not in m]
    missing = [link for link in links if link and not (page.parent / link).exists()]
    named = [m for m in re.findall(r"`([\w./-]+)`", text) if m.startswith(_FOLDERS)]
    missing += [name for name in named if not (ROOT / name).exists()]
    assert missing == []


def test_every_promise_names_its_proof() -> None:
    """Each row of docs/guarantees.md that promises names at least one test file."""
    page = (ROOT / "docs" / "guarantees.md").read_text().split("## Durability")[0]
    rows = [
        line
        for line in page.splitlines()
        if line.startswith("| ") and not line.startswith("| promise")
    ]
    assert len(rows) > 20
    assert [row for row in rows if "`tests/" not in row] == []


def test_every_dependency_has_its_reason() -> None:
    """Each pinned package is named in the table of docs/decisions/README.md."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = [
        *project["dependencies"],
        *(p for e in project["optional-dependencies"].values() for p in e),
    ]
    page = (ROOT / "docs" / "decisions" / "README.md").read_text()
    assert all("==" in p for p in pinned)
    assert [p for p in pinned if p.partition("==")[0] not in page] == []


def test_every_command_is_documented() -> None:
    """first-steps.md or operations.md shows each command of the command line."""
    text = (ROOT / "docs" / "first-steps.md").read_text() + (
        ROOT / "docs" / "operations.md"
    ).read_text()
    shown = set(re.findall(r"`(?:kilonova )?([a-z]+)[` ]", text)) | set(
        re.findall(r"kilonova ([a-z]+)", text)
    )
    assert set(COMMANDS) - shown - {"cell", "db"} == set()
    assert {"cell list", "db upgrade"} <= {w for w in ("cell list", "db upgrade") if w in text}


def test_the_readme_begins_with_what_and_two_commands() -> None:
    """What it is in three sentences, then ``make up`` and ``make test``."""
    text = (ROOT / "README.md").read_text()
    first = text.split("\n\n")[1]
    assert len(re.findall(r"\.(?:\s|$)", first)) == 3
    assert text.index("make up") < text.index("make test") < 1500
