"""Who may import whom (docs/a-request-end-to-end.md has the picture). The rule is data; the test walks every file."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "kilonova"

_BASE = {"common", "objects"}
_STORES = _BASE | {"db", "bus"}
_CORE = _STORES | {"saga", "placement", "scheduler", "cells"}
_WORK = _CORE | {"operations", "reconcile"}
_NEIGHBOURS = {"identity", "image", "network", "volume"}
_HOST = _BASE | {"bus"}

MAY_IMPORT: dict[str, set[str]] = {
    "common": set(),
    "objects": {"common"},
    "db": _BASE,
    "bus": _BASE,
    "http": _BASE,
    "saga": _CORE,
    "placement": _CORE,
    "scheduler": _CORE,
    "cells": _CORE,
    "operations": _WORK,
    "reconcile": _WORK,
    "api": _WORK | {"http"},
    "agent": _HOST | {"virt", "console"},
    "virt": _HOST,
    "console": _HOST | {"http"},
    "identity": _BASE,
    "image": _BASE,
    "network": _BASE,
    "volume": _BASE,
    "cli": {"common", "server", "agent"},
    "database_service": {"common"},
}
"""Part -> other parts. A part may always import itself; ``server`` assembles and may import everything."""

EMBEDDED_TOO = {"db", "http", "bus"}
INTERFACES_FOR = {"operations", "reconcile", "cells", "api"}
"""These may import ``interface`` of a neighbour, and nothing else of it."""

EXCEPTIONS = {
    (
        "agent",
        "image.safe_convert",
    ): "the cache converts what a tenant uploaded with the one tool that may",
    ("agent", "image.inspect"): "the same",
    ("virt", "image.safe_convert"): "the same",
    (
        "agent",
        "db.engine",
    ): "an agent's own journal is a SQLite file too; it holds no credentials of the cloud's",
    ("agent", "db.sql"): "the same",
    ("virt", "db.engine"): "simulated guests rest in a SQLite file",
    ("virt", "db.sql"): "the same",
    (
        "volume",
        "saga",
    ): "its database is a home of the engine (docs/decisions/volumes-are-sagas.md)",
    ("db", "placement.schema"): "tables as data: the global database is made of them",
    ("db", "saga.schema"): "tables as data: every home database has a journal",
}


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    """Give (line, module below kilonova) of every import in a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for name in node.names:
                if name.name.startswith("kilonova."):
                    yield node.lineno, name.name.removeprefix("kilonova.")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kilonova"):
            module = (node.module or "").removeprefix("kilonova").removeprefix(".")
            for name in node.names:
                yield node.lineno, f"{module}.{name.name}".removeprefix(".")


def _allowed(part: str, path: Path, target: str) -> bool:
    to = target.split(".", maxsplit=1)[0]
    if part in ("server", to) or to == "__version__" or to in MAY_IMPORT[part]:
        return True
    if part in _NEIGHBOURS and "embedded" in path.parts and to in EMBEDDED_TOO:
        return True
    if to in _NEIGHBOURS and part in INTERFACES_FOR:
        return target.startswith(f"{to}.interface")
    return any(part == p and (target + ".").startswith(m + ".") for p, m in EXCEPTIONS)


FILES = sorted(p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE)


def test_there_is_a_rule_for_every_part() -> None:
    """A new folder gets a line above before it gets importers."""
    parts = {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert parts - {"server"} <= set(MAY_IMPORT)


def test_every_import_follows_the_rules() -> None:
    """One list of all that do not, so that one run shows them."""
    wrong = []
    for path in FILES:
        part = path.relative_to(PACKAGE).parts[0]
        wrong += [
            f"{path.relative_to(ROOT)}:{line} imports kilonova.{target}"
            for line, target in _imports(path)
            if not _allowed(part, path, target)
        ]
    assert wrong == []


@pytest.mark.parametrize(
    ("part", "target", "allowed"),
    [
        ("common", "objects.base", False),
        ("operations", "api.compute", False),
        ("operations", "network.interface", True),
        ("operations", "network.embedded.store", False),
        ("agent", "operations.hosts", False),
        ("cli", "db.engine", False),
    ],
)
def test_the_rules_bite(part: str, target: str, allowed: bool) -> None:
    """The checker itself tells right from wrong."""
    assert _allowed(part, PACKAGE / part / "x.py", target) is allowed


def test_no_asyncio_and_no_eventlet_in_the_core() -> None:
    """DESIGN: threads, synchronous code; asyncio only as an island behind a sync interface."""
    islands = {"bus/nats.py", "console"}
    wrong = []
    for path in FILES:
        name = str(path.relative_to(PACKAGE))
        if any(name.startswith(i) for i in islands):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [n.name for n in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            wrong += [
                f"{name}: {n}"
                for n in names
                if n.split(".")[0] in ("asyncio", "eventlet", "gevent")
            ]
    assert wrong == []
