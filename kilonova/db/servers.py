"""Servers of one cell: one question, one function. The caller holds the transaction."""

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from kilonova.db.engine import Row, Tx
from kilonova.db.schema.cell import server as s
from kilonova.db.schema.cell import server_tag as t
from kilonova.db.sql import P, Q, insert, insert_or_ignore

_ADD = insert_or_ignore(s)
_GET = Q(sa.select(s).where(s.c.uuid == P("uuid")))
_DEFAULTS: dict[str, Any] = {
    "description": None,
    "task_state": None,
    "power_state": 0,
    "progress": 0,
    "host": None,
    "node": None,
    "availability_zone": None,
    "requested_zone": None,
    "key_name": None,
    "config_drive": "",
    "access_ip_v4": "",
    "access_ip_v6": "",
    "metadata": "{}",
    "tags": "[]",
    "addresses": "{}",
    "security_groups": "[]",
    "nics": "[]",
    "disks": "[]",
    "hardware": "{}",
    "devices": "[]",
    "keys": "[]",
    "trusted_certs": "null",
    "system_metadata": "{}",
    "locked_by": None,
    "locked_reason": None,
    "launch_index": 0,
    "root_device": "/dev/vda",
    "user_data": None,
    "server_group": None,
    "metadata_generation": 1,
    "epoch": 1,
    "hidden": 0,
    "deleted": 0,
    "updated_at": None,
    "launched_at": None,
    "terminated_at": None,
}
_BEGIN = Q(
    sa.update(s)
    .where(
        s.c.uuid == P("uuid_"),
        s.c.deleted == 0,
        s.c.vm_state == P("vm_state_"),
        s.c.task_state.is_not_distinct_from(P("task_state_")),
        s.c.epoch < P("epoch"),
    )
    .values(task_state=P("task_state"), epoch=P("epoch"), updated_at=P("updated_at"))
)
_LET_GO = Q(
    sa.update(s)
    .where(
        s.c.uuid == P("uuid_"),
        s.c.deleted == 0,
        s.c.epoch == P("epoch_"),
        s.c.task_state != "deleting",
    )
    .values(task_state=None)
)
_WANT_DELETE = Q(
    sa.update(s)
    .where(s.c.uuid == P("uuid_"), s.c.deleted == 0)
    .values(task_state="deleting", epoch=P("epoch"), updated_at=P("updated_at"))
)
_SETTLE = Q(
    sa.update(s)
    .where(s.c.uuid == P("uuid_"), s.c.deleted == 0)
    .values(
        vm_state=P("vm_state"),
        task_state=sa.case((s.c.task_state == "deleting", "deleting"), else_=None),
        power_state=P("power_state"),
        updated_at=P("updated_at"),
    )
)
_LAUNCH = Q(
    sa.update(s)
    .where(s.c.uuid == P("uuid_"), s.c.deleted == 0, s.c.launched_at.is_(None))
    .values(
        vm_state="active",
        task_state=sa.case((s.c.task_state == "deleting", "deleting"), else_=None),
        power_state=P("power_state"),
        hardware=P("hardware"),
        devices=P("devices"),
        launched_at=P("now"),
        updated_at=P("now"),
    )
)
_POWER = Q(
    sa.update(s)
    .where(s.c.uuid == P("uuid_"), s.c.deleted == 0, s.c.task_state.is_(None))
    .values(vm_state=P("vm_state"), power_state=P("power_state"), updated_at=P("updated_at"))
)
_DELETED = Q(
    sa.update(s)
    .where(s.c.uuid == P("uuid_"), s.c.deleted == 0)
    .values(
        deleted=1,
        vm_state="deleted",
        task_state=None,
        power_state=0,
        user_data=None,
        updated_at=P("now"),
        terminated_at=P("now"),
    )
)
_ON_HOST = Q(sa.select(s).where(s.c.host == P("host"), s.c.deleted == 0))
_POWERS = Q(
    sa.select(s.c.uuid, s.c.vm_state, s.c.task_state, s.c.power_state).where(
        s.c.host == P("host"), s.c.deleted == 0
    )
)
_IN_STATE = Q(
    sa.select(s.c.uuid, s.c.project_id)
    .where(
        s.c.vm_state == P("vm_state"),
        s.c.updated_at <= P("before"),
        s.c.deleted == 0,
        s.c.task_state.is_(None),
    )
    .limit(100)
)
_COUNTS = Q(
    sa.select(s.c.host, sa.func.count())
    .where(s.c.deleted == 0, s.c.host.isnot(None))
    .group_by(s.c.host)
)
_ERASE = Q(sa.delete(s).where(s.c.uuid == P("uuid")))
_TAG_DROP = Q(sa.delete(t).where(t.c.server == P("server")))
_TAG_ADD = insert(t)


def add(tx: Tx, **values: Any) -> bool:
    """Insert a server; columns not given have their defaults. False when it is there already."""
    return tx.run(_ADD, **{**_DEFAULTS, **values}) == 1


def find(tx: Tx, uuid: str) -> Row | None:
    """Return a server's row, deleted ones too, or None."""
    return tx.one(_GET, uuid=uuid)


def begin(
    tx: Tx,
    uuid: str,
    *,
    vm_state: str,
    task_state: str,
    epoch: int,
    now: float,
    task_before: str | None = None,
) -> bool:
    """Give the server to an operation by compare-and-swap; False when its state is another by now."""
    return (
        tx.run(
            _BEGIN,
            uuid_=uuid,
            vm_state_=vm_state,
            task_state_=task_before,
            task_state=task_state,
            epoch=epoch,
            updated_at=now,
        )
        == 1
    )


def want_delete(tx: Tx, uuid: str, *, epoch: int, now: float) -> bool:
    """Show the server as being deleted, whatever else goes on."""
    return tx.run(_WANT_DELETE, uuid_=uuid, epoch=epoch, updated_at=now) == 1


def settle(tx: Tx, uuid: str, *, vm_state: str, power_state: int, now: float) -> None:
    """End an operation on the server: final states, no task (a delete that waits keeps showing)."""
    tx.put(_SETTLE, uuid_=uuid, vm_state=vm_state, power_state=power_state, updated_at=now)


def let_go(tx: Tx, uuid: str, *, epoch: int) -> None:
    """End an operation that changed no state: no task, unless a later one owns the server already."""
    tx.put(_LET_GO, uuid_=uuid, epoch_=epoch)


def launch(tx: Tx, uuid: str, *, power_state: int, hardware: str, devices: str, now: float) -> bool:
    """Make a server that was built ACTIVE, with what its host froze; False when it was launched already, or is gone.

    A delete that waits keeps showing.
    """
    done = tx.run(
        _LAUNCH,
        uuid_=uuid,
        power_state=power_state,
        hardware=hardware,
        devices=devices,
        now=now,
    )
    return done == 1


def set_power(tx: Tx, uuid: str, *, vm_state: str, power_state: int, now: float) -> bool:
    """Record that a guest changed by itself; only while no operation owns the server."""
    return (
        tx.run(_POWER, uuid_=uuid, vm_state=vm_state, power_state=power_state, updated_at=now) == 1
    )


def update(tx: Tx, uuid: str, **values: Any) -> bool:
    """Set columns of a server that is not deleted (off the hot path)."""
    return tx.change(sa.update(s).where(s.c.uuid == uuid, s.c.deleted == 0).values(**values)) == 1


_UPDATES: dict[tuple[str, ...], Q] = {}


def set_columns(tx: Tx, uuid: str, **values: Any) -> bool:
    """Set columns, with the statement kept per set of names (hot path)."""
    names = tuple(values)
    q = _UPDATES.get(names)
    if q is None:
        stmt = sa.update(s).where(s.c.uuid == P("uuid_"), s.c.deleted == 0)
        q = _UPDATES[names] = Q(stmt.values({n: P(n) for n in names}))
    return tx.run(q, uuid_=uuid, **values) == 1


def mark_deleted(tx: Tx, uuid: str, now: float) -> bool:
    """Make the row a compact record of what was; False when it was one already."""
    done = tx.run(_DELETED, uuid_=uuid, now=now) == 1
    tx.put(_TAG_DROP, server=uuid)
    return done


def on_host(tx: Tx, host: str) -> list[Row]:
    """Return the servers of a host."""
    return tx.all(_ON_HOST, host=host)


def powers_on(tx: Tx, host: str) -> list[Row]:
    """Return (uuid, vm_state, task_state, power_state) of a host's servers."""
    return tx.all(_POWERS, host=host)


def in_state_since(tx: Tx, vm_state: str, before: float) -> list[Row]:
    """Return (uuid, project_id) of at most 100 servers that are in a state since ``before``, with nothing going on."""
    return tx.all(_IN_STATE, vm_state=vm_state, before=before)


def counts(tx: Tx) -> dict[str, int]:
    """Return host -> number of servers."""
    return {r[0]: r[1] for r in tx.all(_COUNTS)}


def set_tags(tx: Tx, uuid: str, tags: Iterable[str], encoded: str, now: float) -> None:
    """Replace a server's tags."""
    tx.put(_TAG_DROP, server=uuid)
    tx.many(_TAG_ADD, [{"server": uuid, "tag": tag} for tag in tags])
    set_columns(tx, uuid, tags=encoded, updated_at=now)


def erase(tx: Tx, uuid: str) -> None:
    """Take a row out as if it had never been (the undo of an insert, not a delete)."""
    tx.put(_TAG_DROP, server=uuid)
    tx.put(_ERASE, uuid=uuid)
