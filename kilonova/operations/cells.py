"""Cells for operators: add one by its database's URL, take one out of scheduling, forget one that is empty.

A cell that is added is used once the processes of the control plane were started again; each opens it then.
"""

import base64
import re
import sqlite3
from collections.abc import Collection
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa

from kilonova.common.config import BadConfig
from kilonova.common.errors import BadRequest, Conflict, NotFound, Unavailable
from kilonova.common.log import get_logger
from kilonova.common.secret import Secret
from kilonova.db import cells
from kilonova.db.engine import Database, Row, Tx
from kilonova.db.opening import check, open_database
from kilonova.db.schema.cell import host, server
from kilonova.db.secrets import Vault
from kilonova.db.versions import ensure
from kilonova.operations.services import CELL0, Services
from kilonova.operations.stores import CELL

log = get_logger(__name__)
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?")
_KIND = "cell_url"
_ONE = sa.select(sa.literal(1))
_TAKEN = frozenset((CELL0, "global", "identity", "image", "network", "volume"))


def known(services: Services) -> dict[str, Row | None]:
    """Return name -> row (None: never added nor disabled) of every cell but cell0."""
    rows: dict[str, Row | None] = dict.fromkeys(services.real_cells())
    for row in services.world.read(cells.all_cells):
        rows[row["name"]] = row
    return dict(sorted(rows.items()))


def add(services: Services, name: str, url: str) -> None:
    """Check a cell's database, make its tables, and remember it. BadRequest names what is wrong; Conflict."""
    if not _NAME.fullmatch(name) or name in _TAKEN:
        raise BadRequest(
            "name: 1 to 64 lower-case letters, digits and dashes, and none of the cloud's own databases."
        )
    if name in known(services):
        raise Conflict(f"There is a cell {name} already.")
    with closing(_open(name, url)) as database:
        try:
            ensure(database, CELL)
        except (Unavailable, OSError, sqlite3.Error) as exc:
            raise BadRequest(
                f"url: the database of cell {name} at {where(url)} cannot be used: {exc}"
            ) from exc
        _check_empty(services, name, database)
    sealed = base64.b64encode(services.vault.seal(f"{_KIND}:{name}", Secret(url))).decode()

    def put(tx: Tx) -> None:
        if cells.find(tx, name) is not None:
            raise Conflict(f"There is a cell {name} already.")
        cells.add(tx, name, sealed, services.now())

    services.world.write(put)


def _open(name: str, url: str) -> Database:
    try:
        if check(url) == "sqlite" and not urlsplit(url).path.startswith("//"):
            raise BadConfig("the path of a SQLite file begins at the root: sqlite:////path/cell.db")
        return open_database(url, name)
    except (BadConfig, ValueError) as exc:
        raise BadRequest(f"url: {exc}") from exc
    except (OSError, sqlite3.Error) as exc:
        raise BadRequest(
            f"url: the database of cell {name} at {where(url)} cannot be opened: {exc}"
        ) from exc


def _check_empty(services: Services, name: str, database: Database) -> None:
    """Refuse a database that is a cell's already: two cells would have the same servers."""

    def count(tx: Tx) -> int:
        return sum(
            int(tx.select(sa.select(sa.func.count()).select_from(t))[0][0]) for t in (host, server)
        )

    if database.read(count):
        raise BadRequest(f"url: the database for cell {name} has hosts or servers: it is a cell's.")


def where(url: str) -> str:
    """Return a URL as it may be shown: without user and password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"


def set_disabled(services: Services, name: str, *, disabled: bool) -> None:
    """Let no server be placed in a cell, or let them again; those that are there go on. NotFound."""
    if name not in known(services):
        raise NotFound(f"Cell {name[:80]} could not be found.")
    services.world.write(lambda tx: cells.set_disabled(tx, name, services.now(), disabled=disabled))
    services.scheduling.cells_changed()


def delete(services: Services, name: str) -> None:
    """Forget a cell that was added and is empty; its database stays. NotFound; Conflict."""

    def drop(tx: Tx) -> None:
        row = cells.find(tx, name)
        if row is None and name not in services.real_cells():
            raise NotFound(f"Cell {name[:80]} could not be found.")
        servers, hosts = cells.uses(tx, name)
        if servers or hosts:
            raise Conflict(
                f"Cell {name} has {servers} servers and {hosts} hosts: delete or move them first."
            )
        if row is None or not row["url"]:
            raise Conflict(f"Cell {name} is in the configuration: take it out there.")
        cells.drop(tx, name)

    services.world.write(drop)
    services.scheduling.cells_changed()


def shown(services: Services) -> list[dict[str, Any]]:
    """Return every cell: whether its database answers, whether servers are placed there, and where it is."""
    _, silent = services.lists.ask_cells(lambda tx: tx.select(_ONE))
    out = []
    for name, row in known(services).items():
        state = "down" if name in silent else "up"
        if name not in services.cells and name not in silent:
            state = "waits for a restart"
        servers, hosts = services.world.read(lambda tx, name=name: cells.uses(tx, name))  # type: ignore[misc]
        out.append(
            {
                "name": name,
                "state": state,
                "disabled": row is not None and bool(row["disabled"]),
                "added": row is not None and bool(row["url"]),
                "database": where(opened(services.vault, row)) if row and row["url"] else "",
                "servers": servers,
                "hosts": hosts,
            }
        )
    return out


def opened(vault: Vault, row: Row) -> str:
    """Return the URL of a cell that was added."""
    sealed = base64.b64decode(row["url"])
    return vault.unseal(f"{_KIND}:{row['name']}", sealed).reveal()


def open_added(
    world: Database, vault: Vault, there: Collection[str], synchronous: str
) -> tuple[dict[str, Database], list[str]]:
    """Open the cells that were added and are not there yet; return them, and those that cannot be reached now."""
    made: dict[str, Database] = {}
    absent = []
    for row in world.read(cells.all_cells):
        if not row["url"] or row["name"] in there:
            continue
        name = row["name"]
        try:
            database = open_database(opened(vault, row), name, synchronous)
            ensure(database, CELL)
            made[name] = database
        except (Unavailable, BadConfig, OSError, sqlite3.Error) as exc:
            log.error("a cell cannot be reached", extra={"cell": name, "why": str(exc)})
            absent.append(name)
    return made, absent
