"""What is told of things other than servers: payloads in the form of Nova's versioned notifications, made when written.

source: Nova's notification samples (doc/notification_samples), field names alone.
"""

from typing import Any

import msgspec

from kilonova.common.clock import iso
from kilonova.common.context import Context
from kilonova.db import notifications
from kilonova.db.engine import Row, Tx


def nova_object(name: str, version: str, data: dict[str, Any]) -> dict[str, Any]:
    """Return an object as Nova's notifications nest them."""
    return {
        "nova_object.name": name,
        "nova_object.namespace": "nova",
        "nova_object.version": version,
        "nova_object.data": data,
    }


def _tell(
    tx: Tx, event: str, resource: str, payload: dict[str, Any], ctx: Context | None, now: float
) -> None:
    text = msgspec.json.encode(payload).decode()
    notifications.told(tx, event, resource, text, ctx, now)


def service(tx: Tx, event: str, row: Row | None, now: float) -> None:
    """A compute service came, changed or went: service.create, service.update, service.delete."""
    if row is None:
        return
    data = {
        "availability_zone": None,
        "binary": "nova-compute",
        "disabled": bool(row["disabled"]),
        "disabled_reason": row["disabled_reason"],
        "forced_down": bool(row["forced_down"]),
        "host": row["host"],
        "last_seen_up": iso(row["seen_at"]) if row["seen_at"] else None,
        "report_count": 0,
        "topic": "compute",
        "uuid": row["uuid"],
        "version": 0,
    }
    _tell(tx, event, row["host"], nova_object("ServiceStatusPayload", "1.1", data), None, now)
