"""Record changes: rename, metadata, tags, lock. One transaction in the server's cell, then the guest's document.

While a server has no cell, its request is changed instead; an operation that is about to place it sees the new one.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from kilonova.common.context import Context
from kilonova.common.errors import Conflict, NotFound
from kilonova.common.ids import new_uuid
from kilonova.db import actions, mappings, notifications, servers
from kilonova.db.engine import Row, Tx
from kilonova.objects.base import decode, encode
from kilonova.objects.server import RequestedServer
from kilonova.operations import metadata, states
from kilonova.operations.accept import Found, check_lock, find_server, wrong_state
from kilonova.operations.services import Services

Written = TypeVar("Written")


class Elsewhere(Conflict):
    """The record is the one that a server left behind in another cell."""


_UNPLACED = frozenset(
    ("name", "description", "hostname", "access_ip_v4", "access_ip_v6", "disk_config")
)
_SHOWN_TO_GUEST = frozenset(("name", "hostname", "metadata"))


def change_server(
    services: Services, ctx: Context, found: Found, action: str | None, **values: Any
) -> None:
    """Set columns of a server's row. ``action`` names an instance action to record, if the API has one for it.

    Raises Conflict when the server is locked (lock and unlock excepted) or not placed yet where that matters.
    """
    if action not in ("lock", "unlock"):
        check_lock(ctx, found)
    if not values:
        return
    where_it_is(services, ctx, found, lambda at: _change(services, ctx, at, action, values))


def where_it_is(
    services: Services, ctx: Context, found: Found, change: Callable[[Found], Written]
) -> Written:
    """Change a server's record; once more where it is now, when it went to another cell since it was found."""
    try:
        return change(found)
    except (Elsewhere, NotFound):
        again = find_server(services, ctx, found.id)
        if again.mapping["cell"] == found.mapping["cell"]:
            raise
        return change(again)


def _seen(tx: Tx, server: str) -> Row:
    """Return the record of a server that is to be changed. NotFound; Elsewhere: it is not the one that is seen."""
    row = servers.find(tx, server)
    if row is None or row["deleted"]:
        raise NotFound(f"Instance {server} could not be found.")
    if row["hidden"]:
        raise Elsewhere(f"Instance {server} moved to another cell meanwhile; try again.")
    return row


def _change(
    services: Services, ctx: Context, found: Found, action: str | None, values: dict[str, Any]
) -> None:
    now = services.now()
    if found.row is None:
        _change_unplaced(services, found, values, now)
        return
    cell = services.cell(found.mapping["cell"])
    guest_sees = bool(_SHOWN_TO_GUEST & set(values))

    def put(tx: Tx) -> None:
        row = _seen(tx, found.id)
        more = {"metadata_generation": row["metadata_generation"] + 1} if guest_sees else {}
        servers.set_columns(tx, found.id, **_columns(row, values), **more, updated_at=now)
        if action is not None:
            record = new_uuid()
            actions.begin(tx, operation=record, server=found.id, action=action, ctx=ctx, now=now)
            actions.finish(tx, record, now)
        else:
            notifications.updated(tx, ctx, found.id, now)

    cell.write(put)
    if guest_sees:
        metadata.push(services, found.id)


def _columns(row: Row, values: dict[str, Any]) -> dict[str, Any]:
    """Return values as columns: disk_config rests in the system metadata, beside what operations keep there."""
    if "disk_config" not in values:
        return values
    kept = msgspec.json.decode(row["system_metadata"])
    kept.pop("disk_config", None)
    system = {"disk_config": values["disk_config"], **kept}
    rest = {k: v for k, v in values.items() if k != "disk_config"}
    return rest | {"system_metadata": msgspec.json.encode(system).decode()}


SETTLED = frozenset((states.ACTIVE, states.PAUSED, states.SUSPENDED, states.STOPPED))
Decide = Callable[[Row], Mapping[str, Any]]


def change_by(
    services: Services,
    ctx: Context,
    found: Found,
    verb: str,
    decide: Decide,
    *,
    while_busy: bool = False,
) -> Row:
    """Change a server's metadata or tags by what they are now; return the row as it is after.

    decide: row -> columns to set; it may raise, and {} changes nothing. ``tags`` is a list of names here. Atomic:
    two callers never undo each other's change. Conflict when the server is locked, not built, or busy.
    """
    check_lock(ctx, found)
    if found.row is None:
        raise wrong_state(found.id, verb, None)
    now = services.now()

    def put(tx: Tx) -> tuple[Row, bool]:
        row = _seen(tx, found.id)
        if row["vm_state"] not in SETTLED:
            raise Conflict(
                f"Cannot '{verb}' instance {found.id} while it is in vm_state {row['vm_state']}"
            )
        if row["task_state"] is not None and not while_busy:
            raise wrong_state(found.id, verb, row)
        values = dict(decide(row))
        tags = values.pop("tags", None)
        if tags is not None:
            names = sorted(set(tags))
            servers.set_tags(tx, found.id, names, msgspec.json.encode(names).decode(), now)
        guest_sees = bool(_SHOWN_TO_GUEST & set(values))
        if guest_sees:
            values["metadata_generation"] = row["metadata_generation"] + 1
        if values:
            servers.set_columns(tx, found.id, **values, updated_at=now)
        if values or tags is not None:
            notifications.updated(tx, ctx, found.id, now)
        return servers.find(tx, found.id), guest_sees

    row, guest_sees = where_it_is(
        services, ctx, found, lambda at: services.cell(at.mapping["cell"]).write(put)
    )
    if guest_sees:
        metadata.push(services, found.id)
    return row


def reset_state(services: Services, found: Found, vm_state: str) -> None:
    """Set the state of a server that nothing works on; safe to repeat. Conflict while an operation owns it."""

    def put(tx: Tx) -> None:
        row = servers.find(tx, found.id)
        if row is None or row["deleted"]:
            raise NotFound(f"Instance {found.id} could not be found.")
        if row["task_state"] is not None:
            raise wrong_state(found.id, "reset_state", row)
        servers.set_columns(tx, found.id, vm_state=vm_state, updated_at=services.now())

    services.cell(found.mapping["cell"]).write(put)
    services.world.write(
        lambda tx: mappings.set_soft_deleted(tx, found.id, services.now(), soft_deleted=False)
    )


def _change_unplaced(services: Services, found: Found, values: dict[str, Any], now: float) -> None:
    if not set(values) <= _UNPLACED:
        raise Conflict(
            f"Instance {found.id} is not ready for this yet; try again when it is built."
        )

    def put(tx: Tx) -> None:
        mapping = mappings.find(tx, found.id)
        if mapping is None:
            raise NotFound(f"Instance {found.id} could not be found.")
        requested = decode(mapping["requested"], RequestedServer)
        mappings.set_requested(tx, found.id, encode(requested.replace(**values)), now)

    services.world.write(put)
