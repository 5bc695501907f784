"""Allocations and servers, in both directions, and providers that hold more than they have (R10)."""

import msgspec
import sqlalchemy as sa

from kilonova.common.errors import KilonovaError
from kilonova.db import mappings
from kilonova.db.engine import Tx
from kilonova.db.schema.cell import server as s
from kilonova.db.sql import P, Q
from kilonova.objects.base import decode
from kilonova.objects.server import RequestedServer
from kilonova.operations.services import CELL0, Services
from kilonova.placement import allocations as held
from kilonova.reconcile.finding import Finding, repaired
from kilonova.reconcile.picture import Held, Picture
from kilonova.saga.schema import TABLES
from kilonova.scheduler import request as requests

EVERY_S = 300.0
_WAS_A_SERVER = Q(sa.select(s.c.uuid).where(s.c.uuid == P("uuid")))
_WAS_WORKED_ON = Q(
    sa.select(TABLES.operation.c.id).where(TABLES.operation.c.resource == P("uuid")).limit(1)
)


def look(picture: Picture) -> list[Finding]:
    """Compare what is held with what lives."""
    found = []
    mapped = picture.mappings
    for consumer, what in picture.world["allocations"].items():
        mapping = mapped.get(consumer)
        if mapping is None or mapping["cell"] == CELL0:
            orphan = _orphan(picture, what)
            if orphan is not None:
                found.append(orphan)
        elif mapping["host"] is not None and mapping["host"] not in what.amounts:
            found.append(
                Finding(
                    kind="allocation_elsewhere",
                    subject=consumer,
                    where=", ".join(sorted(what.amounts)),
                    message=f"Server {consumer} is on host {mapping['host']} and holds resources of another.",
                    about=(consumer,),
                    since=what.since,
                )
            )
    for server, mapping in mapped.items():
        placed = mapping["cell"] not in (None, CELL0) and mapping["host"] is not None
        if placed and server not in picture.world["allocations"]:
            found.append(
                Finding(
                    kind="allocation_missing",
                    subject=server,
                    where=mapping["host"],
                    message=f"Server {server} is on host {mapping['host']} and holds nothing of it.",
                    repair="What its flavor says is claimed, if there is room.",
                    about=(server,),
                    since=mapping["updated_at"],
                )
            )
    return found + _over(picture)


def _orphan(picture: Picture, what: Held) -> Finding | None:
    if what.type == "MIGRATION":
        return _orphan_move(picture, what)
    if what.type != "INSTANCE" or what.consumer in picture.held_back:
        return None
    ours = was_ours(picture.services, what.consumer)
    return Finding(
        kind="allocation_orphan",
        subject=what.consumer,
        where=", ".join(sorted(what.amounts)),
        message=f"{what.consumer} holds resources, and there is no such server.",
        repair="They are released: it was a server once." if ours else None,
        about=(what.consumer,),
        since=what.since,
    )


def _orphan_move(picture: Picture, what: Held) -> Finding | None:
    """A migration keeps the old claim until it is confirmed or reverted, and no longer."""
    for cell in picture.cells.values():
        move = cell["moves"].get(what.consumer)
        if move is not None:
            return None
        if what.consumer in {h for r in cell["cleanups"] for h in msgspec.json.decode(r["holds"])}:
            return None
    if picture.unread:
        return None
    return Finding(
        kind="allocation_orphan",
        subject=what.consumer,
        where=", ".join(sorted(what.amounts)),
        message=f"Migration {what.consumer} holds resources, and it is over.",
        repair="They are released.",
        about=(what.consumer,),
        since=what.since,
    )


def was_ours(services: Services, consumer: str) -> bool:
    """Tell whether a consumer was a server here once; a client of placement may hold things for its own reasons."""
    if services.world.read(lambda tx: tx.one(_WAS_WORKED_ON, uuid=consumer)) is not None:
        return True
    return any(
        db.read(
            lambda tx: tx.one(_WAS_A_SERVER, uuid=consumer) or tx.one(_WAS_WORKED_ON, uuid=consumer)
        )
        for db in services.cells.values()
    )


def _over(picture: Picture) -> list[Finding]:
    found = []
    for r in picture.world["use"]:
        room = int((r["total"] - r["reserved"]) * r["allocation_ratio"])
        if r["used"] > room:
            found.append(
                Finding(
                    kind="over_capacity",
                    subject=f"{r['name']}:{r['resource_class']}",
                    where=r["name"],
                    message=f"{r['used']} of {r['resource_class']} are held, and {room} can be had.",
                )
            )
    return found


def mend(services: Services, finding: Finding) -> bool:
    """Release or claim in one global transaction that looks again."""
    if finding.kind == "allocation_orphan":
        return services.world.write(lambda tx: _release(tx, services, finding.subject))
    return services.world.write(lambda tx: _claim(tx, services, finding.subject))


def _release(tx: Tx, services: Services, consumer: str) -> bool:
    mapping = mappings.find(tx, consumer)
    if mapping is not None and mapping["cell"] != CELL0:
        return False
    services.scheduling.release(tx, consumer)
    return True


def _claim(tx: Tx, services: Services, server: str) -> bool:
    mapping = mappings.find(tx, server)
    if mapping is None or mapping["host"] is None or held.of_consumer(tx, server):
        return False
    state = services.hosts.find(mapping["host"])
    if state is None:
        raise KilonovaError("The host is not known.", host=mapping["host"])
    aliases = services.setting("pci_alias", ())
    asked = requests.build(tx, decode(mapping["requested"], RequestedServer), aliases=aliases)
    place = {
        "amounts": {state.uuid: asked.amounts()},
        "project": mapping["project_id"],
        "user": mapping["user_id"],
    }
    services.scheduling.claim(tx, server, place)
    return True


def run(services: Services) -> list[Finding]:
    """Look and repair."""
    return repaired(services, look, mend)
