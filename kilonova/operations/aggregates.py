"""Change aggregates: checked and written in one global transaction, mirrored in placement, then read by the scheduler.

A host is in at most one zone, and a change never moves a server to another zone under its owner's feet.
"""

from collections.abc import Callable, Iterable, Mapping

from kilonova.common.errors import BadRequest, Conflict, KilonovaError, NotFound
from kilonova.common.ids import new_uuid
from kilonova.db import aggregates as db
from kilonova.db import mappings
from kilonova.db.engine import Row, Tx
from kilonova.operations import notices
from kilonova.operations.services import Services
from kilonova.placement import aggregates as placement

ZONE = "availability_zone"


def _get(tx: Tx, id_: int) -> Row:
    row = db.find(tx, id_)
    if row is None:
        raise NotFound(f"Aggregate {id_} could not be found.")
    return row


def _changed(services: Services, what: str, change: Callable[[Tx], Row]) -> Row:
    def put(tx: Tx) -> Row:
        row = change(tx)
        notices.aggregate(tx, f"aggregate.{what}.end", row, services.now())
        return row

    row = services.world.write(put)
    services.scheduling.aggregates_changed()
    return row


def create(services: Services, name: str, zone: str | None) -> Row:
    """Make an aggregate, a zone if one is named. Raises Conflict."""

    def put(tx: Tx) -> Row:
        if db.named(tx, name) is not None:
            raise Conflict(f"Aggregate {name} already exists.")
        metadata = {} if zone is None else {ZONE: zone}
        return db.add(tx, uuid=new_uuid(), name=name, metadata=metadata, now=services.now())

    return _changed(services, "create", put)


def update(services: Services, id_: int, changes: Mapping[str, str | None]) -> Row:
    """Rename an aggregate or move it to another zone. Raises NotFound, Conflict, BadRequest."""

    def put(tx: Tx) -> Row:
        row = _get(tx, id_)
        name = changes.get("name") or row["name"]
        if name != row["name"] and db.named(tx, name) is not None:
            raise Conflict(f"Aggregate {name} already exists.")
        metadata = db.metadata(row)
        if ZONE in changes:
            _check_zone(tx, row, changes[ZONE], _refusal("update", id_))
            metadata[ZONE] = str(changes[ZONE])
        db.put(tx, id_, name=name, metadata=metadata, now=services.now())
        return _get(tx, id_)

    return _changed(services, "update_prop", put)


def set_metadata(services: Services, id_: int, changes: Mapping[str, str | None]) -> Row:
    """Set metadata keys, drop those that are null. Raises NotFound, BadRequest."""

    def put(tx: Tx) -> Row:
        row = _get(tx, id_)
        if ZONE in changes:
            _check_zone(tx, row, changes[ZONE], _refusal("update metadata of", id_))
        kept = {k: v for k, v in {**db.metadata(row), **changes}.items() if v is not None}
        db.put(tx, id_, name=row["name"], metadata=kept, now=services.now())
        return _get(tx, id_)

    return _changed(services, "update_metadata", put)


def delete(services: Services, id_: int) -> None:
    """Delete an aggregate that has no hosts. Raises NotFound, BadRequest."""

    def drop(tx: Tx) -> Row:
        row = _get(tx, id_)
        if db.hosts(tx, id_):
            raise BadRequest(
                f"Cannot remove host from aggregate {id_}. Reason: Host aggregate is not empty."
            )
        db.remove(tx, id_)
        return row

    _changed(services, "delete", drop)


def add_host(services: Services, id_: int, host: str) -> Row:
    """Take a host in. Raises NotFound: unknown; Conflict: it is in, or its servers would change their zone."""
    if services.hosts.find(host) is None:
        raise NotFound(f"Host '{host}' is not mapped to any cell")

    def put(tx: Tx) -> Row:
        row, refuse = _get(tx, id_), _refusal("add host to", id_, Conflict)
        zone = db.metadata(row).get(ZONE)
        if zone is not None:
            _check_one_zone(tx, row, zone, [host], refuse)
            old = _zones(db.of_host(tx, host))
            count = len(mappings.on_host(tx, host))
            if count and old != {zone}:
                raise refuse(_would_move("added to", min(old, default=None), zone, count))
        if not db.join(tx, id_, host, services.now()):
            raise Conflict(f"Aggregate {id_} already has host {host}.")
        placement.mirror_host(tx, host, row["uuid"], True, services.now())
        return _get(tx, id_)

    return _changed(services, "add_host", put)


def remove_host(services: Services, id_: int, host: str) -> Row:
    """Take a host out. Raises NotFound: it is not in; Conflict: its servers would change their zone."""

    def put(tx: Tx) -> Row:
        row = db.find(tx, id_)
        if row is None or host not in db.hosts(tx, id_):
            raise NotFound(f"Cannot remove host {host} in aggregate {id_}")
        zone = db.metadata(row).get(ZONE)
        count = len(mappings.on_host(tx, host))
        left = _zones(r for r in db.of_host(tx, host) if r["id"] != id_)
        if zone is not None and count and zone not in left:
            why = _would_move("removed from", zone, min(left, default=None), count)
            raise _refusal("remove host from", id_, Conflict)(why)
        take_out(tx, row, host, services.now())
        return _get(tx, id_)

    return _changed(services, "remove_host", put)


def take_out(tx: Tx, row: Row, host: str, now: float) -> None:
    """Take a host out of an aggregate, in the caller's global transaction."""
    db.leave(tx, row["id"], host, now)
    placement.mirror_host(tx, host, row["uuid"], False, now)


Refuse = Callable[[str], KilonovaError]


def _refusal(what: str, id_: int, kind: type[KilonovaError] = BadRequest) -> Refuse:
    return lambda why: kind(f"Cannot {what} aggregate {id_}. Reason: {why}.")


def _zones(rows: Iterable[Row]) -> set[str]:
    return {m[ZONE] for m in map(db.metadata, rows) if ZONE in m}


def _check_zone(tx: Tx, row: Row, zone: str | None, refuse: Refuse) -> None:
    """Refuse a zone that is empty, that its hosts cannot join, or that would move servers."""
    if not zone:
        raise refuse(f"Aggregate {row['name']} does not support empty named availability zone")
    hosts = db.hosts(tx, row["id"])
    _check_one_zone(tx, row, zone, hosts, refuse)
    if db.metadata(row).get(ZONE) != zone and any(mappings.on_host(tx, h) for h in hosts):
        raise refuse("One or more hosts contain instances in this zone")


def _check_one_zone(tx: Tx, row: Row, zone: str, hosts: Iterable[str], refuse: Refuse) -> None:
    others: set[str] = set()
    for host in hosts:
        others |= _zones(r for r in db.of_host(tx, host) if r["id"] != row["id"])
    if others - {zone}:
        raise refuse(f"One or more hosts already in availability zone(s) {sorted(others - {zone})}")


def _would_move(how: str, old: str | None, new: str | None, count: int) -> str:
    return (
        f"The host cannot be {how} the aggregate: its availability zone would change from '{old}' to "
        f"'{new}' and it has {count} instance(s), whose zone does not change. Move them away first"
    )
