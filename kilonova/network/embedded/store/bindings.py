"""Rows of ports' inactive bindings: hosts that prepare for a port and pass none of its traffic.

The active binding is in the port's own row (host, vnic_type, profile, applied). What these functions change is told
to hosts by the caller (store/ports.py, moving.py).
"""

from typing import Any

import sqlalchemy as sa

from kilonova.db.engine import Row, Tx
from kilonova.db.portable import among
from kilonova.db.sql import P, Q, insert
from kilonova.network.embedded.schema import port, port_binding
from kilonova.network.embedded.store.common import by, listed

_b = port_binding.c
_HERE = (_b.port_id == P("port_id"), _b.host == P("host"))
_OF_PORT = Q(sa.select(port_binding).where(_b.port_id == P("port_id")).order_by(_b.host))
_OF_PORTS = Q(sa.select(port_binding).where(among(_b.port_id, "ids")).order_by(_b.host))
_FIND = Q(sa.select(port_binding).where(*_HERE))
_INSERT = insert(port_binding)
_DROP = Q(sa.delete(port_binding).where(*_HERE))
_DROP_ALL = Q(sa.delete(port_binding).where(_b.port_id == P("port_id")))
_CHANGE = Q(
    sa.update(port_binding).where(*_HERE).values(vnic_type=P("vnic_type"), profile=P("profile_"))
)
_APPLIED = Q(sa.update(port_binding).where(*_HERE).values(applied=P("generation")))
_OLD = Q(
    sa.select(port_binding, port.c.device_id, port.c.generation)
    .join(port, port.c.id == _b.port_id)
    .where(port.c.operation > "", _b.created_at < P("before"))
    .order_by(_b.port_id, _b.host)
)


def of_port(tx: Tx, port_id: str) -> list[Row]:
    """Return the inactive bindings of a port, by host."""
    return tx.all(_OF_PORT, port_id=port_id)


def of_ports(tx: Tx, port_ids: list[str]) -> dict[str, list[Row]]:
    """Return port id -> its inactive bindings; ports without any are absent."""
    return by(tx.all(_OF_PORTS, ids=listed(port_ids)), "port_id")


def find(tx: Tx, port_id: str, host: str) -> Row | None:
    """Return an inactive binding, or None."""
    return tx.one(_FIND, port_id=port_id, host=host)


def put(tx: Tx, port_id: str, host: str, vnic_type: str, profile: str, now: float) -> None:
    """Write an inactive binding that is not there yet; profile: JSON."""
    values: dict[str, Any] = {"vnic_type": vnic_type, "profile": profile, "created_at": now}
    tx.put(_INSERT, port_id=port_id, host=host, applied=0, **values)


def change(tx: Tx, port_id: str, host: str, vnic_type: str, profile: str) -> None:
    """Change an inactive binding; profile: JSON."""
    tx.put(_CHANGE, port_id=port_id, host=host, vnic_type=vnic_type, profile_=profile)


def applied(tx: Tx, port_id: str, host: str, generation: int) -> None:
    """Note what is in force at the host."""
    tx.put(_APPLIED, port_id=port_id, host=host, generation=generation)


def drop(tx: Tx, port_id: str, host: str) -> bool:
    """Remove an inactive binding; tell whether it was there."""
    return bool(tx.run(_DROP, port_id=port_id, host=host))


def drop_all(tx: Tx, port_id: str) -> list[str]:
    """Remove every inactive binding of a port; return their hosts."""
    hosts = [r["host"] for r in of_port(tx, port_id)]
    if hosts:
        tx.put(_DROP_ALL, port_id=port_id)
    return hosts


def of_servers(tx: Tx, before: float) -> list[Row]:
    """Return inactive bindings of servers' ports that are older than a moment, with device_id and generation."""
    return tx.all(_OLD, before=before)
