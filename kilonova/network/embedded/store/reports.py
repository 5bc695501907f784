"""What hosts say is in force: ports become ACTIVE, compute hears network-vif-plugged."""

import sqlalchemy as sa

from kilonova.common.log import get_logger
from kilonova.db.engine import Row, Tx
from kilonova.db.sql import P, Q
from kilonova.network.embedded.schema import floating, port, port_binding, router
from kilonova.network.embedded.store import bindings
from kilonova.objects.netstate import Applied
from kilonova.objects.port import NetworkEvent, NetworkEventName

log = get_logger(__name__)

_PORT = Q(  # prepared: the generation in force where the host has an inactive binding, else None
    sa.select(
        port.c.host,
        port.c.status,
        port.c.generation,
        port.c.device_id,
        port.c.operation,
        port.c.device_owner,
        port.c.admin_up,
        port_binding.c.applied.label("prepared"),
    )
    .outerjoin(
        port_binding,
        sa.and_(port_binding.c.port_id == port.c.id, port_binding.c.host == P("host")),
    )
    .where(
        port.c.id == P("id"),
        sa.or_(port.c.host == P("host"), port_binding.c.applied.is_not(None)),
    )
)
_PORT_APPLIED = Q(
    sa.update(port)
    .where(port.c.id == P("id"), port.c.applied < P("generation"))
    .values(applied=P("generation"), status=P("status"))
)
_ROUTER = Q(
    sa.select(router.c.generation).where(router.c.id == P("id"), router.c.host == P("host"))
)
_ROUTER_APPLIED = Q(
    sa.update(router)
    .where(router.c.id == P("id"), router.c.applied < P("generation"))
    .values(applied=P("generation"))
)
_LEGS_UP = Q(
    sa.update(port)
    .where(
        port.c.device_id == P("id"),
        port.c.device_owner.like("network:router%"),
        port.c.status != "ACTIVE",
    )
    .values(status="ACTIVE", applied=port.c.generation)
)
_FLOATING_UP = Q(
    sa.update(floating)
    .where(floating.c.router_id == P("id"), floating.c.status != "ACTIVE")
    .values(status="ACTIVE")
)


def take_report(tx: Tx, report: Applied, now: float) -> list[NetworkEvent]:
    """Record which generations are in force; return the events for compute.

    A line about a port or router that is not placed on the reporting host is dropped: a host speaks for itself only.
    """
    events: list[NetworkEvent] = []
    for kind, thing, generation, error in report.items:
        if error is not None:
            log.warning(
                "a host could not apply a document",
                extra={"host": report.host, "kind": kind, "id": thing, "error": error[:500]},
            )
        if kind == "port":
            event = _port(tx, report.host, thing, generation, error)
            if event is not None:
                events.append(event)
        elif kind == "router" and error is None:
            row = tx.one(_ROUTER, id=thing, host=report.host)
            if row is not None and generation >= row["generation"]:
                tx.put(_ROUTER_APPLIED, id=thing, generation=row["generation"])
                tx.put(_LEGS_UP, id=thing)
                tx.put(_FLOATING_UP, id=thing)
    return events


def _port(
    tx: Tx, host: str, port_id: str, generation: int, error: str | None
) -> NetworkEvent | None:
    row = tx.one(_PORT, id=port_id, host=host)
    if row is None or generation < row["generation"]:
        return None
    if row["host"] != host:
        return _prepared(tx, row, host, port_id, error)
    up = row["status"] == "ACTIVE"
    if error is not None:
        return None if up else _event(row, host, port_id, "failed")
    status = "ACTIVE" if row["admin_up"] else "DOWN"
    tx.put(_PORT_APPLIED, id=port_id, generation=row["generation"], status=status)
    if up or status != "ACTIVE":
        return None
    return _event(row, host, port_id, "completed")


def _prepared(tx: Tx, row: Row, host: str, port_id: str, error: str | None) -> NetworkEvent | None:
    """Note what a host with an inactive binding has in force; compute hears when it has the port for the first time."""
    if error is None:
        bindings.applied(tx, port_id, host, row["generation"])
    if row["prepared"]:
        return None
    return _event(row, host, port_id, "completed" if error is None else "failed")


def _event(row: Row, host: str, port_id: str, status: str) -> NetworkEvent | None:
    # Who may name a host is an administrator or a service, so a bound port is its server's (not what a tenant claims).
    if not (row["operation"] or row["device_owner"].startswith("compute:")):
        return None
    return NetworkEvent(
        name=NetworkEventName.VIF_PLUGGED,
        server_id=row["device_id"],
        port_id=port_id,
        status=status,
        host=host,
    )
