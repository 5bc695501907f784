"""What hosts say is in force: ports become ACTIVE, compute hears network-vif-plugged."""

import sqlalchemy as sa

from kilonova.common.log import get_logger
from kilonova.db.engine import Tx
from kilonova.db.sql import P, Q
from kilonova.network.embedded.schema import floating, port, router
from kilonova.objects.netstate import Applied
from kilonova.objects.port import NetworkEvent, NetworkEventName

log = get_logger(__name__)

_PORT = Q(
    sa.select(
        port.c.status, port.c.generation, port.c.device_id, port.c.operation, port.c.admin_up
    ).where(port.c.id == P("id"), port.c.host == P("host"))
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
                tx.run(_ROUTER_APPLIED, id=thing, generation=row["generation"])
                tx.run(_LEGS_UP, id=thing)
                tx.run(_FLOATING_UP, id=thing)
    return events


def _port(
    tx: Tx, host: str, port_id: str, generation: int, error: str | None
) -> NetworkEvent | None:
    row = tx.one(_PORT, id=port_id, host=host)
    if row is None or generation < row["generation"]:
        return None
    up = row["status"] == "ACTIVE"
    if error is not None:
        return None if up else _event(row["device_id"], row["operation"], port_id, "failed")
    status = "ACTIVE" if row["admin_up"] else "DOWN"
    tx.run(_PORT_APPLIED, id=port_id, generation=row["generation"], status=status)
    if up or status != "ACTIVE":
        return None
    return _event(row["device_id"], row["operation"], port_id, "completed")


def _event(device_id: str, operation: str, port_id: str, status: str) -> NetworkEvent | None:
    if not operation:
        return None
    return NetworkEvent(
        name=NetworkEventName.VIF_PLUGGED, server_id=device_id, port_id=port_id, status=status
    )
