"""Cleanup records: orders that a host which is down must still perform; done when it returns, shown by audit."""

import uuid
from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from kilonova.common.ids import new_uuid
from kilonova.db import mappings, migrations, servers
from kilonova.db.engine import Row, Tx
from kilonova.db.schema.cell import cleanup as c
from kilonova.db.sql import P, Q, insert_or_ignore
from kilonova.objects.base import decode, encode
from kilonova.objects.guest import GuestAttachNic, GuestDetachNic
from kilonova.objects.order import Order, unpack
from kilonova.operations.services import Services
from kilonova.saga import journal
from kilonova.saga.definition import Run

_ADD = insert_or_ignore(c)
_OF_HOST = Q(sa.select(c).where(c.c.host == P("host")).order_by(c.c.created_at))
_OF_SERVER = Q(sa.select(c.c.order).where(c.c.server == P("server")))
_ALL = Q(sa.select(c).order_by(c.c.created_at).limit(1000))
_DONE = Q(sa.delete(c).where(c.c.id == P("id")))
_TRIED = Q(
    sa.update(c).where(c.c.id == P("id_")).values(tries=c.c.tries + 1, last_error=P("last_error"))
)


EVACUATED = "moved"
"""The step of an evacuation that leaves its old host a record."""
KEPT, DROPPED = "kept", "drop"
"""Steps that remove a guest which was seen to be off: at the source of a move, or at its destination after a revert."""


def hold_of(operation: str, host: str) -> str:
    """Return the consumer that keeps what an unwound create had claimed of a host that has not confirmed."""
    return str(uuid.uuid5(uuid.UUID(operation), host))


def park(run: Run, order: Order) -> None:
    """Keep an order for later, in the cell of its host; repeating it keeps one. For ``Ask.park_outside``."""
    services: Services = run.services
    cell = services.cell(services.hosts.cell_of(order.host))

    def put(tx: Tx) -> None:
        moves = migrations.of_server(tx, order.server_id)
        kept = [m["uuid"] for m in moves if m["status"] not in migrations.ENDED]
        kept.append(hold_of(run.operation, order.host))
        put_record(tx, run.operation, order, services.now(), holds=(order.server_id, *kept))

    cell.write(put)


def record_id(operation: str, step: str, host: str) -> str:
    """Return the id of the record of one order; a create may leave one at each host that it tried."""
    return f"{operation}:{step}:{host}"


def put_record(tx: Tx, operation: str, order: Order, now: float, holds: Sequence[str] = ()) -> None:
    """Write a cleanup record. holds: consumers whose claims stand until it is done, beside the server's."""
    tx.run(
        _ADD,
        id=record_id(operation, order.step, order.host) if operation else new_uuid(),
        host=order.host,
        server=order.server_id,
        operation=operation,
        order=encode(order),
        holds=msgspec.json.encode(list(holds or (order.server_id,))).decode(),
        created_at=now,
        tries=0,
        last_error=None,
    )


def of_host(tx: Tx, host: str) -> list[Row]:
    """Return what a host still has to clean up, oldest first."""
    return tx.all(_OF_HOST, host=host)


def may_write(tx: Tx, server: str) -> bool:
    """Tell whether a host of the cell that still has to clean up after a server may be running its guest.

    Not one that the server was evacuated from: it had been declared dead before (R13). Nor one that had said that the
    guest is off.
    """
    orders = [decode(r["order"], Order) for r in tx.all(_OF_SERVER, server=server)]
    off = {EVACUATED, KEPT, DROPPED}
    return any(o.verb != "guest_delete" or o.step not in off for o in orders)


def hosts_of_server(tx: Tx, server: str) -> set[str]:
    """Return the hosts of the cell that still have to clean up after a server."""
    return {decode(r["order"], Order).host for r in tx.all(_OF_SERVER, server=server)}


def all_records(tx: Tx) -> list[Row]:
    """Return at most 1000 cleanup records of a cell."""
    return tx.all(_ALL)


def done(tx: Tx, id_: str) -> None:
    """Forget a record: the host did it."""
    tx.run(_DONE, id=id_)


def tried(tx: Tx, id_: str, error: str) -> None:
    """Count a try that failed."""
    tx.run(_TRIED, id_=id_, last_error=error)


def still_wanted(services: Services, order: Order) -> bool | None:
    """Tell whether a parked order is to be sent: None not now, False never, as the server has changed since.

    An undo that puts a NIC in or takes one out asks: the record may have gained or lost that very NIC meanwhile. So
    does the removal of a guest whose server left that host: it may be back. What a rebuild, a rescue or a move left
    behind is taken back only while nothing else was done with the server.
    """
    if order.verb == "guest_delete":
        return _is_elsewhere(services, order)
    if order.verb in ("guest_remake", "guest_leave", "guest_return"):
        return _is_untouched(services, order)
    if order.verb not in ("guest_attach_nic", "guest_detach_nic"):
        return True
    mapping = services.world.read(lambda tx: mappings.find(tx, order.server_id))
    if mapping is None or mapping["cell"] is None:
        return False
    cell = services.cell(mapping["cell"])
    if cell.read(lambda tx: journal.live_of(tx, order.server_id)):
        return None
    row = cell.read(lambda tx: servers.find(tx, order.server_id))
    if row is None or row["deleted"] or row["host"] != order.host:
        return False
    if order.verb == "guest_detach_nic":
        port, puts_in = unpack(order.body, GuestAttachNic).nic.port_id, True
    else:
        port, puts_in = unpack(order.body, GuestDetachNic).port_id, False
    has = any(n["port_id"] == port for n in msgspec.json.decode(row["nics"]))
    return has == puts_in


def _is_elsewhere(services: Services, order: Order) -> bool | None:
    """Tell whether a server is not on the order's host (any more); None while an operation works on it."""
    mapping = services.world.read(lambda tx: mappings.find(tx, order.server_id))
    if mapping is None or mapping["cell"] is None:
        return True
    for home in (services.world, services.cell(mapping["cell"])):
        if home.read(lambda tx: journal.live_of(tx, order.server_id)):
            return None
    return bool(mapping["host"] != order.host)


def _is_untouched(services: Services, order: Order) -> bool | None:
    """Tell whether a server is as the order's operation left it; None while another one works on it."""
    mapping = services.world.read(lambda tx: mappings.find(tx, order.server_id))
    if mapping is None or mapping["cell"] is None:
        return False
    cell = services.cell(mapping["cell"])
    if cell.read(lambda tx: journal.live_of(tx, order.server_id)):
        return None
    return bool(mapping["epoch"] == order.epoch and mapping["host"] == order.host)
