"""What runs, for ``kilonova status``, ``host list`` and ``cell list``: one answer, read from memory and counts."""

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from kilonova.common.clock import iso
from kilonova.db.engine import Database, Tx
from kilonova.db.schema.cell import server
from kilonova.db.schema.world import server_mapping
from kilonova.http.request import Request
from kilonova.operations.services import CELL0, Services
from kilonova.saga import journal

_KEPT = server.c.deleted == 0


def show_status(req: Request) -> Any:
    """Count hosts, servers and operations; a cell whose database does not answer is shown as down."""
    services: Services = req.cloud
    states: dict[str, int] = {}
    per_host: dict[str, int] = {}
    live: dict[str, int] = {services.world.name: services.world.read(_live)}
    cells = []
    answers, silent = services.lists.ask_cells(_count)
    for name in services.cells:
        counted, hosted, live[name] = answers.get(name, ({}, {}, 0))
        _add(states, counted.items())
        _add(per_host, hosted.items())
        if name != CELL0:
            cells.append(
                {
                    "name": name,
                    "state": "down" if name in silent else "up",
                    "hosts": sum(h.cell == name for h in services.hosts.all()),
                    "servers": sum(counted.values()),
                    "operations": live[name],
                }
            )
    unplaced = services.world.read(lambda tx: tx.select(_UNPLACED))[0][0]
    _add(states, [("unplaced", unplaced)])
    return {
        "servers": states,
        "operations": live,
        "cells": cells,
        "hosts": _hosts(services, per_host),
        "databases": _sizes([*services.homes().values()]),
    }


_UNPLACED = sa.select(sa.func.count()).where(server_mapping.c.cell.is_(None))
_BY_STATE = sa.select(server.c.vm_state, sa.func.count()).where(_KEPT).group_by(server.c.vm_state)
_BY_HOST = sa.select(server.c.host, sa.func.count()).where(_KEPT).group_by(server.c.host)


_OPERATIONS = sa.select(sa.func.count()).where(journal.O.c.wake_at.isnot(None))


def _live(tx: Tx) -> int:
    return int(tx.select(_OPERATIONS)[0][0])


def _count(tx: Tx) -> tuple[dict[str, int], dict[str, int], int]:
    by_state = {str(r[0]): r[1] for r in tx.select(_BY_STATE)}
    by_host = {r[0]: r[1] for r in tx.select(_BY_HOST) if r[0]}
    return by_state, by_host, _live(tx)


def _add(total: dict[str, int], more: Iterable[tuple[str, int]]) -> None:
    for key, n in more:
        total[key] = total.get(key, 0) + n


def _hosts(services: Services, servers: dict[str, int]) -> list[dict[str, Any]]:
    return [
        {
            "host": h.host,
            "cell": h.cell,
            "state": "up" if services.hosts.is_up(h.host) else "down",
            "disabled": bool(h.disabled),
            "disabled_reason": h.disabled_reason,
            "servers": servers.get(h.host, 0),
            "seen_at": None if not h.seen_at else iso(h.seen_at),
        }
        for h in sorted(services.hosts.all(), key=lambda h: (h.cell, h.host))
    ]


def _sizes(databases: Iterable[Database]) -> dict[str, int]:
    """Return bytes per database file; a database that is no file is left out."""
    sizes = {}
    for db in databases:
        path = getattr(db, "path", None)
        if path is not None:
            parts = (path, path.with_name(f"{path.name}-wal"))
            sizes[db.name] = sum(p.stat().st_size for p in parts if p.exists())
    return sizes
