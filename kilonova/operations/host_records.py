"""What a host says of itself when it registers, and what is written down of it: all the first time, later what changed.

Most registrations change nothing (a conductor or an agent was started again), so they are answered by reads alone:
ten thousand hosts come back within seconds.
"""

from typing import Any

import msgspec

from kilonova.common.ids import new_uuid
from kilonova.db import hosts as db
from kilonova.db.engine import Row, Tx
from kilonova.objects.base import at_rest
from kilonova.objects.host import HostRegister
from kilonova.operations import notices
from kilonova.placement import reported


def said(r: HostRegister) -> dict[str, Any]:
    """Return what a host says, by column of its record."""
    return {
        "boot_id": r.boot_id,
        "journal_id": r.journal_id,
        "driver": r.driver,
        "release": r.release,
        "versions": msgspec.json.encode(r.versions).decode(),
        "inventory": at_rest(r.inventory),
    }


def find_same(tx: Tx, r: HostRegister) -> Row | None:
    """Return a host's record if it says all that the host says; None: there is something to write."""
    row = db.find(tx, r.host)
    if row is None or row["host_id"] != r.host_id:
        return None
    return row if all(row[k] == v for k, v in said(r).items()) else None


def record(tx: Tx, r: HostRegister, now: float) -> Row | None:
    """Write what a host says of itself; None when another host has its name."""
    row = db.find(tx, r.host)
    if row is not None and row["host_id"] != r.host_id:
        return None
    values = {**said(r), "digest": "", "seen_at": now, "updated_at": now}
    if row is not None:
        db.register(tx, r.host, **values)
    else:
        db.add(
            tx,
            host=r.host,
            uuid=new_uuid(),
            host_id=r.host_id,
            disabled=0,
            disabled_reason=None,
            forced_down=0,
            created_at=now,
            **values,
        )
        notices.service(tx, "service.create", db.find(tx, r.host), now)
    return db.find(tx, r.host)


def is_in_world(tx: Tx, r: HostRegister, uuid: str, mapped: Row | None) -> bool:
    """Tell whether ``put_in_world`` would change nothing. mapped: the host's mapping."""
    return (
        mapped is not None
        and mapped["host_id"] == r.host_id
        and reported.is_reported(tx, uuid=uuid, name=r.host, report=r.inventory)
    )


def put_in_world(tx: Tx, r: HostRegister, uuid: str, now: float) -> None:
    """Map a host to its cell, and make its resource provider what it reports; repeatable. Global database."""
    db.map_host(tx, host=r.host, cell=r.cell, host_id=r.host_id)
    reported.ensure_reported(tx, uuid=uuid, name=r.host, report=r.inventory, now=now)
