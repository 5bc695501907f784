"""Cells for operators: add one by its database's URL, give it another URL, take one out of scheduling.

The processes of the control plane are told at once, and use a cell that was added within seconds (cell_table.py).
"""

import base64
import re
import sqlite3
from contextlib import closing
from typing import Any
from urllib.parse import unquote, urlsplit

import sqlalchemy as sa

from kilonova.common.config import BadConfig
from kilonova.common.errors import BadRequest, Conflict, KilonovaError, NotFound
from kilonova.common.secret import Secret
from kilonova.db import cells, mappings
from kilonova.db.engine import Database, Row, Tx
from kilonova.db.opening import check, open_database
from kilonova.db.schema.cell import host, server
from kilonova.db.schema.world import host_mapping
from kilonova.db.secrets import Vault
from kilonova.db.versions import ensure
from kilonova.operations.services import CELL0, Services
from kilonova.operations.stores import CELL
from kilonova.saga.schema import TABLES

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?")
_KIND = "cell_url"
_SAMPLE = 200
CHANGED = "cells.changed"
"""The subject on which it is said that the table of cells has changed."""
_ONE = sa.select(sa.literal(1))
_TAKEN = frozenset((CELL0, "global", "identity", "image", "network", "volume"))


class CannotUse(KilonovaError):
    """A cell's database cannot be opened, or is not the cell's; the message is for an admin."""

    code = "cell_unusable"


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
    with closing(_checked(name, url)) as database:
        if database.read(_is_used):
            raise BadRequest(
                f"url: the database for cell {name} has hosts or servers, or had them: it is a cell's. "
                "Make an empty one."
            )

    def put(tx: Tx) -> None:
        if cells.find(tx, name) is not None:
            raise Conflict(f"There is a cell {name} already.")
        cells.add(tx, name, _sealed(services, name, url), services.now())

    services.world.write(put)
    _tell(services)


def set_url(services: Services, name: str, url: str) -> None:
    """Say where the database of a cell that was added is now. BadRequest: another one is there; NotFound; Conflict."""
    row = services.world.read(lambda tx: cells.find(tx, name))
    if row is None and name not in services.real_cells():
        raise NotFound(f"Cell {name[:80]} could not be found.")
    if row is None or not row["url"]:
        raise Conflict(f"Cell {name} is in the configuration: change it there.")
    with closing(_checked(name, url)) as database:
        wrong = why_not_ours(services.world, name, database)
    if wrong is not None:
        raise BadRequest(f"url: {wrong}")
    sealed = _sealed(services, name, url)
    services.world.write(lambda tx: cells.set_url(tx, name, sealed))
    _tell(services)


def _sealed(services: Services, name: str, url: str) -> str:
    return base64.b64encode(services.vault.seal(f"{_KIND}:{name}", Secret(url))).decode()


def _tell(services: Services) -> None:
    """Say that the table of cells has changed: this process follows before the answer, the others at once."""
    services.bus.publish(CHANGED, b"")
    services.look_at_cells()


def _checked(name: str, url: str) -> Database:
    """Return the database at a URL, with a cell's tables. BadRequest."""
    database = _open(name, url)
    try:
        ensure(database, CELL)
    except (KilonovaError, OSError, sqlite3.Error) as exc:
        database.close()
        raise BadRequest(
            f"url: the database of cell {name} at {where(url)} cannot be used: {reason(exc, url)}"
        ) from exc
    return database


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


def reason(exc: BaseException, url: str) -> str:
    """Return why a database cannot be used, in its driver's words where there are some, without the password."""
    facts = exc.facts if isinstance(exc, KilonovaError) else {}
    text = " ".join(str(facts.get("why") or exc).split())
    for secret in {urlsplit(url).password, unquote(urlsplit(url).password or "")} - {None, ""}:
        text = text.replace(str(secret), "***")
    return text


def _is_used(tx: Tx) -> bool:
    """Tell whether a database is or was a cell's: two cells would have the same servers."""
    return any(
        tx.select(sa.select(sa.func.count()).select_from(t))[0][0]
        for t in (host, server, TABLES.incarnation)
    )


def why_not_ours(world: Database, name: str, database: Database) -> str | None:
    """Return what speaks against a database's being this cell's, by its hosts and servers; None: nothing.

    The global database knows of every server before its cell does, and of a host right after.
    """
    mapped = {
        r[0]
        for r in world.read(
            lambda tx: tx.select(sa.select(host_mapping.c.host).where(host_mapping.c.cell == name))
        )
    }
    there = {r[0] for r in database.read(lambda tx: tx.select(sa.select(host.c.host)))}
    if mapped & there:
        return None
    if mapped:
        return (
            f"the database knows none of the {len(mapped)} hosts of cell {name}: it is another one."
        )
    live = sa.select(server.c.uuid).where(server.c.deleted == 0).limit(_SAMPLE)
    servers = [r[0] for r in database.read(lambda tx: tx.select(live))]
    if servers and not world.read(lambda tx: mappings.cells_of(tx, servers)):
        return "the database has servers that are not this cloud's: it is a cell of another cloud."
    return None


def where(url: str) -> str:
    """Return a URL as it may be shown: without user and password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"


def set_disabled(services: Services, name: str, *, disabled: bool) -> None:
    """Let no server be placed in a cell, or let them again; those that are there go on. NotFound."""
    if name not in known(services):
        raise NotFound(f"Cell {name[:80]} could not be found.")
    services.world.write(lambda tx: cells.set_disabled(tx, name, services.now(), disabled=disabled))
    services.bus.publish(CHANGED, b"")
    services.scheduling.cells_changed()


def shown(services: Services) -> list[dict[str, Any]]:
    """Return every cell: whether its database answers, whether servers are placed there, and where it is."""
    _, silent = services.lists.ask_cells(lambda tx: tx.select(_ONE))
    absent = services.absent_cells
    out = []
    for name, row in known(services).items():
        state = "down" if name in silent else "up"
        if name not in services.cells and name not in silent:
            state = "new"
        servers, hosts = services.world.read(lambda tx, name=name: cells.uses(tx, name))  # type: ignore[misc]
        out.append(
            {
                "name": name,
                "state": state,
                "why": absent.get(name, ""),
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


def open_cell(world: Database, vault: Vault, row: Row, synchronous: str) -> Database:
    """Return the database of a cell that was added. Raises CannotUse, in words for an admin."""
    name = row["name"]
    try:
        url = opened(vault, row)
    except KilonovaError as exc:
        raise CannotUse("its URL was sealed with another key: secret.key differs here") from exc
    try:
        database = open_database(url, name, synchronous)
    except (KilonovaError, OSError, sqlite3.Error) as exc:
        raise CannotUse(reason(exc, url)) from exc
    try:
        ensure(database, CELL)
        wrong = why_not_ours(world, name, database)
    except (KilonovaError, OSError, sqlite3.Error) as exc:
        database.close()
        raise CannotUse(reason(exc, url)) from exc
    if wrong is not None:
        database.close()
        raise CannotUse(wrong)
    return database
