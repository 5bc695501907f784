"""What is told of things other than servers: payloads in the form of Nova's versioned notifications, made when written.

source: Nova's notification samples (doc/notification_samples), field names alone.
"""

from typing import Any

import msgspec

from kilonova.common.clock import iso
from kilonova.common.context import Context
from kilonova.db import aggregates, notifications
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


def keypair(tx: Tx, ctx: Context, event: str, row: Row | None, now: float) -> None:
    """A key pair came or went: keypair.create.end, keypair.import.end, keypair.delete.end."""
    if row is None:
        return
    data = {
        "fingerprint": row["fingerprint"],
        "name": row["name"],
        "public_key": row["public_key"],
        "type": row["type"],
        "user_id": row["user_id"],
    }
    _tell(tx, event, row["name"], nova_object("KeypairPayload", "1.0", data), ctx, now)


def flavor(tx: Tx, event: str, row: Row | None, now: float) -> None:
    """A flavor came, changed or went: flavor.create, flavor.update, flavor.delete."""
    if row is None:
        return
    data = {
        "description": row["description"],
        "disabled": bool(row["disabled"]),
        "ephemeral_gb": row["ephemeral_gib"],
        "extra_specs": msgspec.json.decode(row["extra_specs"]),
        "flavorid": row["flavorid"],
        "is_public": bool(row["is_public"]),
        "memory_mb": row["memory_mib"],
        "name": row["name"],
        "projects": None,
        "root_gb": row["root_gib"],
        "rxtx_factor": row["rxtx_factor"],
        "swap": row["swap_mib"],
        "vcpu_weight": 0,
        "vcpus": row["vcpus"],
    }
    _tell(tx, event, row["flavorid"], nova_object("FlavorPayload", "1.4", data), None, now)


def server_group(tx: Tx, ctx: Context, event: str, row: Row | None, now: float) -> None:
    """A server group came or went: server_group.create, server_group.delete."""
    if row is None:
        return
    data = {
        "hosts": None,
        "members": [],
        "name": row["name"],
        "policies": [row["policy"]],
        "policy": row["policy"],
        "project_id": row["project_id"],
        "rules": {k: str(v) for k, v in msgspec.json.decode(row["rules"]).items()},
        "user_id": row["user_id"],
        "uuid": row["uuid"],
    }
    _tell(tx, event, row["uuid"], nova_object("ServerGroupPayload", "1.1", data), ctx, now)


def aggregate(tx: Tx, event: str, row: Row, now: float) -> None:
    """An aggregate came, changed or went: aggregate.<create, update_prop, add_host …>.end."""
    data = {
        "hosts": aggregates.hosts(tx, row["id"]),
        "id": row["id"],
        "metadata": aggregates.metadata(row),
        "name": row["name"],
        "uuid": row["uuid"],
    }
    _tell(tx, event, row["uuid"], nova_object("AggregatePayload", "1.1", data), None, now)
