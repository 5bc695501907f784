"""Cells as the global database knows them: those that were added or disabled; the configuration names the others."""

import sqlalchemy as sa

from kilonova.common.ids import new_uuid
from kilonova.db.engine import Row, Tx
from kilonova.db.schema.world import cell as c
from kilonova.db.schema.world import host_mapping as hm
from kilonova.db.schema.world import server_mapping as sm
from kilonova.db.sql import P, Q, insert

_ADD = insert(c)
_GET = Q(sa.select(c).where(c.c.name == P("name")))
_ALL = Q(sa.select(c).order_by(c.c.name))
_DISABLE = Q(sa.update(c).where(c.c.name == P("the_name")).values(disabled=P("disabled")))
_SET_URL = Q(sa.update(c).where(c.c.name == P("the_name")).values(url=P("url")))
_DROP = Q(sa.delete(c).where(c.c.name == P("name")))
_SERVERS = Q(sa.select(sa.func.count()).where(sm.c.cell == P("name")))
_HOSTS = Q(sa.select(sa.func.count()).where(hm.c.cell == P("name")))


def all_cells(tx: Tx) -> list[Row]:
    """Return what is known of cells, by name."""
    return tx.all(_ALL)


def find(tx: Tx, name: str) -> Row | None:
    """Return a cell's row, or None."""
    return tx.one(_GET, name=name)


def add(tx: Tx, name: str, url: str, now: float, *, disabled: bool = False) -> None:
    """Insert a cell. url: sealed; "" for one that the configuration names."""
    tx.run(_ADD, name=name, uuid=new_uuid(), url=url, disabled=int(disabled), created_at=now)


def set_disabled(tx: Tx, name: str, now: float, *, disabled: bool) -> None:
    """Take a cell out of scheduling, or back in. Repeatable."""
    if tx.run(_DISABLE, the_name=name, disabled=int(disabled)) == 0:
        add(tx, name, "", now, disabled=disabled)


def set_url(tx: Tx, name: str, url: str) -> None:
    """Say where a cell's database is. url: sealed. Repeatable."""
    tx.run(_SET_URL, the_name=name, url=url)


def drop(tx: Tx, name: str) -> None:
    """Forget a cell; fine when it is not known."""
    tx.run(_DROP, name=name)


def uses(tx: Tx, name: str) -> tuple[int, int]:
    """Return how many servers and hosts a cell has."""
    return int(tx.value(_SERVERS, name=name)), int(tx.value(_HOSTS, name=name))
