"""Mappings and cells: the mapping alone says where a server is; what disagrees with it is found here (R11)."""

from collections.abc import Mapping, Set
from typing import Any

import sqlalchemy as sa

from kilonova.cells import move
from kilonova.db import mappings as db
from kilonova.db.engine import Tx
from kilonova.db.schema.world import server_mapping as m
from kilonova.db.sql import P, Q
from kilonova.operations import states
from kilonova.operations.services import CELL0, Services
from kilonova.reconcile.finding import Finding, repaired
from kilonova.reconcile.picture import Picture, flavor_amounts
from kilonova.saga import journal

EVERY_S = 300.0
_NOT_DELETED = Q(
    sa.update(m)
    .where(m.c.server == P("server_"), m.c.epoch == P("epoch_"))
    .values(delete_requested=0)
)


def look(picture: Picture) -> list[Finding]:
    """Compare both sides."""
    mapped, cells = picture.mappings, picture.cells
    found = []
    for cell, what in cells.items():
        moving = {m["server"] for m in what["moves"].values()}
        for server, row in what["servers"].items():
            found += of_row(cell, server, row, mapped.get(server))
            found += of_copy(cell, row, mapped.get(server), moving)
    for server, mapping in mapped.items():
        found += of_mapping(server, mapping, picture)
    return found


def of_row(cell: str, server: str, row: Any, mapping: Any) -> list[Finding]:
    """Decide what is wrong with a row, from its mapping."""
    about, since = (server,), float(row["updated_at"] or row["created_at"])
    if mapping is None:
        text = f"Cell {cell} has server {server}, which has no mapping: nobody can see it."
        return [
            Finding(
                kind="server_unmapped",
                subject=server,
                where=cell,
                message=text,
                about=about,
                since=since,
            )
        ]
    if mapping["cell"] != cell and not row["hidden"]:
        text = (
            f"Cell {cell} has server {server}, whose mapping names {mapping['cell'] or 'no cell'}."
        )
        return [
            Finding(
                kind="server_in_two_cells",
                subject=server,
                where=cell,
                message=text,
                about=about,
                since=since,
            )
        ]
    found = []
    if mapping["host"] != row["host"] and mapping["cell"] == cell and not row["hidden"]:
        text = f"Server {server} is on {row['host']}, and its mapping says {mapping['host']}."
        found.append(
            Finding(
                kind="host_differs",
                subject=server,
                where=cell,
                message=text,
                about=about,
                since=since,
            )
        )
    counted = (mapping["vcpus"], mapping["memory_mib"])
    resized = row["vm_state"] == states.RESIZED  # the larger of both sizes counts
    away = row["vm_state"] == states.SOFT_DELETED
    other = flavor_amounts(row["flavor"]) != counted and not resized
    if other or away != bool(mapping["soft_deleted"]):
        text = f"Server {server} counts in the quota as another flavor or state than it has."
        found.append(
            Finding(
                kind="quota_differs",
                subject=server,
                where=cell,
                message=text,
                about=about,
                since=since,
            )
        )
    return found


def of_copy(cell: str, row: Any, mapping: Any, moving: Set[str]) -> list[Finding]:
    """Decide what is wrong with a row that is hidden; ``moving``: servers with a move that is not over (CC-7.10)."""
    server, since = row["uuid"], float(row["updated_at"] or row["created_at"])
    if mapping is None or not row["hidden"]:
        return []
    if mapping["cell"] == cell:
        kind = "server_hidden"
        text = f"Server {server} is in cell {cell} by its mapping, and its record there says that it is hidden."
        repair: str | None = "The mapping decides: the record is not hidden any more."
    elif server not in moving:
        kind = "copy_left"
        text = f"Cell {cell} has a hidden copy of server {server}, which does not move."
        repair = None
    else:
        return []
    return [
        Finding(
            kind=kind,
            subject=server,
            where=cell,
            message=text,
            repair=repair,
            about=(server,),
            since=since,
        )
    ]


def of_mapping(server: str, mapping: Any, picture: Picture) -> list[Finding]:
    """Decide what is wrong with a mapping, from the cells that answered."""
    about, since = (server,), float(mapping["updated_at"])
    found = []
    cell = mapping["cell"]
    if cell is None:
        text = f"Server {server} has no cell, and no operation places it."
        found.append(
            Finding(
                kind="unplaced",
                subject=server,
                where="global",
                message=text,
                about=about,
                since=since,
            )
        )
    elif cell in picture.cells:
        servers: Mapping[str, Any] = picture.cells[cell]["servers"]
        if server not in servers:
            text = f"The mapping of server {server} names cell {cell}, which has no such server."
            found.append(
                Finding(
                    kind="mapping_without_server",
                    subject=server,
                    where=cell,
                    message=text,
                    about=about,
                    since=since,
                )
            )
    elif cell not in picture.services.cells:
        text = f"The mapping of server {server} names cell {cell}, which is not configured."
        found.append(
            Finding(
                kind="cell_unknown",
                subject=server,
                where="global",
                message=text,
                about=about,
                since=since,
            )
        )
    if mapping["delete_requested"]:
        found.append(
            Finding(
                kind="delete_lost",
                subject=server,
                where="global",
                message=f"Server {server} is marked for a delete that was never accepted.",
                repair="The mark is taken away; delete the server again.",
                about=about,
                since=since,
                extra=(str(mapping["epoch"]),),
            )
        )
    return found


def mend(services: Services, finding: Finding) -> bool:
    """Take the mark of a delete away whose second half was never written, or show a record, if nothing came since."""
    server = finding.subject
    for home in (services.world, *services.cells.values()):
        if home.read(lambda tx: journal.live_of(tx, server)):
            return False
    if finding.kind == "server_hidden":
        mapping = services.world.read(lambda tx: db.find(tx, server))
        if mapping is None or mapping["cell"] != finding.where:
            return False
        services.cell(finding.where).write(lambda tx: move.hide(tx, server, False))
        return True
    epoch = int(finding.extra[0])

    def clear(tx: Tx) -> bool:
        row = db.find(tx, server)
        if row is None or row["cell"] in (None, CELL0):
            return False
        return tx.run(_NOT_DELETED, server_=server, epoch_=epoch) == 1

    return services.world.write(clear)


def run(services: Services) -> list[Finding]:
    """Look and repair."""
    return repaired(services, look, mend, young_s=60.0)
