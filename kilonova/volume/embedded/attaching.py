"""Attachments: reserve, connect, complete, detach. Functions of one transaction; no operation of the engine's.

source of states and words: cinder.volume.api (attachment_create) and cinder.db (volume_attached).
"""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from kilonova.common.errors import BadRequest, Conflict
from kilonova.common.ids import new_uuid
from kilonova.db.engine import Row, Tx
from kilonova.objects.volume import Connection, Connector, FileConnection, NbdConnection
from kilonova.volume.embedded.exporting import Exports, new_name, state_of
from kilonova.volume.embedded.faults import invalid_volume, missing
from kilonova.volume.embedded.store import attachments, volumes
from kilonova.volume.interface import Key, NotReady

FREE = ("available",)  # Cinder's "downloading" is here a volume that is written anew
_SHOWN = (("attached", "in-use"), ("attaching", "attaching"), ("reserved", "reserved"))
MIGRATES = ("starting", "migrating", "completing")
HELD = ("reserved", "attaching", "in-use", "detaching")


@dataclass(frozen=True)
class Reserve:
    """One attachment that is wanted. mode None: what the volume allows. instance: a server's id, "" for a host."""

    volume_id: str
    instance: str = ""
    mode: str | None = None
    key: Key = ("", "")
    mountpoint: str | None = None
    id: str = field(default_factory=new_uuid)


def reserve(tx: Tx, wanted: Reserve, now: float) -> Row:
    """Add an attachment without a connector. BadRequest in Cinder's words; NotFound."""
    row = volumes.get(tx, wanted.volume_id)
    held = attachments.of_volume(tx, row["id"])
    allowed = (*FREE, "in-use") if row["multiattach"] else FREE
    if row["status"] not in allowed and not _moves(held, wanted.instance):
        raise invalid_volume(
            f"Volume {row['id']} status must be {' or '.join(allowed)} to reserve, "
            f"but the current status is {row['status']}."
        )
    if row["migration_status"] in MIGRATES:
        raise invalid_volume(f"Volume {row['id']} is migrating: it cannot be attached meanwhile.")
    if row["status"] == "extending" and any(a["export_name"] for a in held):
        raise invalid_volume(f"Volume {row['id']} is growing: its server moves once it has.")
    if row["readonly"] and wanted.mode == "rw":
        raise invalid_volume(
            f"Invalid attaching mode 'rw' for volume {row['id']}: it is marked readonly."
        )
    attachments.add(
        tx,
        id=wanted.id,
        volume_id=row["id"],
        project_id=row["project_id"],
        server_id=wanted.instance,
        status="reserved",
        mode=wanted.mode or ("ro" if row["readonly"] else "rw"),
        mountpoint=wanted.mountpoint,
        operation=wanted.key[0],
        item=wanted.key[1],
        created_at=now,
        updated_at=now,
    )
    if row["status"] in FREE:
        volumes.change(tx, row["id"], now, status="reserved")
    return attachments.get(tx, wanted.id)


def _moves(held: list[Row], server_id: str) -> bool:
    """Tell whether the volume is this server's alone already: a second attachment of one that moves."""
    return bool(held) and bool(server_id) and all(a["server_id"] == server_id for a in held)


def connect(tx: Tx, exports: Exports, row: Row, connector: Connector, now: float) -> None:
    """Let a host reach the volume by an attachment; another connector takes the place of the one before."""
    volume = volumes.get(tx, row["volume_id"])
    if not volume["host"] or not volume["path"]:
        raise invalid_volume(f"Volume {volume['id']} has no data yet.")
    # what several servers write is opened by one process alone, its host's exporter, also for guests beside it
    elsewhere = connector.host != volume["host"] or connector.exported
    remote = elsewhere or bool(volume["multiattach"])
    same = row["host"] == connector.host and bool(row["export_name"]) == remote
    if same:
        return
    name = new_name() if remote else ""
    if name or row["export_name"]:
        exports.touch(tx, volume["host"], volume["id"])
    attachments.change(
        tx,
        row["id"],
        now,
        host=connector.host,
        connector=msgspec.json.encode(connector).decode(),
        export_name=name,
        status="attached" if row["status"] == "attached" else "attaching",
    )
    if volume["status"] == "reserved":
        volumes.change(tx, volume["id"], now, status="attaching")


def connection(tx: Tx, row: Row) -> Connection | None:
    """Return how the connector's host reaches the volume; None while the volume's host has not made it so.

    BadRequest: its host could not export it.
    """
    volume = volumes.get(tx, row["volume_id"])
    state = state_of(tx, volume["host"])
    if volume["status"] == "downloading":  # it is being written anew
        return None
    pending = volume["export_generation"]
    if pending and (state is None or state["applied"] < pending):
        return None
    readonly = row["mode"] == "ro" or bool(volume["readonly"])
    shareable = bool(volume["multiattach"])
    if not row["export_name"]:
        return FileConnection(
            attachment_id=row["id"],
            volume_id=volume["id"],
            path=volume["path"],
            format=volume["format"],
            readonly=readonly,
            shareable=shareable,
        )
    if state is None or not state["address"]:  # a unix socket has no port
        return None
    failed = dict(msgspec.json.decode(state["failed"], type=list[tuple[str, str]]))
    if row["id"] in failed:
        raise BadRequest(
            f"Unable to update the attachment. Volume {volume['id']} could not be exported.",
            why=failed[row["id"]],
        )
    ports = dict(msgspec.json.decode(state["ports"], type=list[tuple[str, int]]))
    return NbdConnection(
        attachment_id=row["id"],
        volume_id=volume["id"],
        host=state["address"],
        port=ports.get(row["id"], state["port"]),
        export=row["export_name"],
        readonly=readonly,
        shareable=shareable,
        tls_name=state["tls_name"],
    )


def complete(tx: Tx, row: Row, now: float) -> None:
    """The disk is there: attached, in use. Repeatable. BadRequest unless it was connected."""
    if row["status"] not in ("attaching", "attached", "reserved", "detaching"):
        raise invalid_volume(f"Attachment {row['id']} is {row['status']}.")
    if row["status"] != "attached":
        attachments.change(tx, row["id"], now, status="attached", attached_at=now)
    volumes.change(
        tx, row["volume_id"], now, only=("reserved", "attaching", "in-use"), status="in-use"
    )


def end(tx: Tx, exports: Exports, row: Row, now: float) -> None:
    """Remove an attachment; the volume's status follows what is left."""
    volume = volumes.find(tx, row["volume_id"])
    attachments.drop(tx, row["id"])
    if volume is None:
        return
    if row["export_name"]:
        exports.touch(tx, volume["host"], volume["id"])
    volumes.change(tx, volume["id"], now, only=HELD, status=resting(tx, volume["id"]))


def resting(tx: Tx, volume_id: str) -> str:
    """Return the status that a volume's attachments give it."""
    held = {a["status"] for a in attachments.of_volume(tx, volume_id)}
    for found, shown in _SHOWN:
        if found in held:
            return shown
    return "available"


def free(tx: Tx, volume_id: str, now: float) -> None:
    """Give a volume the status of its attachments, also one that somebody reset."""
    busy = (*HELD, "error", "error_extending", "maintenance")
    volumes.change(tx, volume_id, now, only=busy, status=resting(tx, volume_id))


def rest(tx: Tx, volume_id: str, now: float, busy: str, **values: Any) -> None:
    """End what a volume was ``busy`` with: its status follows its attachments, unless somebody changed it meanwhile."""
    volumes.change(tx, volume_id, now, only=(busy,), status=resting(tx, volume_id))
    if values:
        volumes.change(tx, volume_id, now, **values)


def begin_detaching(tx: Tx, volume_id: str, server_id: str | None, now: float) -> None:
    """in-use -> detaching. Conflict unless it is in use (by this server, if one is named)."""
    row = volumes.get(tx, volume_id)
    held = attachments.of_volume(tx, volume_id)
    mine = [a for a in held if server_id is None or a["server_id"] == server_id]
    if not mine:
        raise Conflict(f"Volume {volume_id} is not attached to the server.")
    if row["status"] == "detaching":
        return
    if row["status"] != "in-use":
        raise Conflict(
            f"Invalid volume: Volume {volume_id} status must be in-use, but current status is: {row['status']}."
        )
    volumes.change(tx, volume_id, now, status="detaching")


def roll_detaching(tx: Tx, volume_id: str, now: float) -> None:
    """detaching -> in-use; fine when it is in use. NotFound."""
    if volumes.find(tx, volume_id) is None:
        raise missing("volume", volume_id)
    volumes.change(tx, volume_id, now, only=("detaching",), status="in-use")


def ready(found: Connection | None) -> Connection:
    """Return a connection that is in force; raise NotReady else."""
    if found is None:
        raise NotReady("The volume is being made reachable.")
    return found


def connector_of(row: Row) -> Any:
    """Return an attachment's connector, None without."""
    return msgspec.json.decode(row["connector"])
