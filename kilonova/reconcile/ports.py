"""Ports and servers: ports made for what is not there are removed by key; NICs without a port leave the record.

An inactive binding belongs to a server that moves, or waits for confirm or revert; any other is removed.
"""

import msgspec

from kilonova.db import mappings, migrations, servers
from kilonova.db.engine import Row
from kilonova.objects.port import PortClaim
from kilonova.operations import interface_attach, network_events
from kilonova.operations.services import CELL0, Services
from kilonova.reconcile.finding import Finding, repaired
from kilonova.reconcile.picture import Picture
from kilonova.saga import journal

EVERY_S = 300.0
_RESERVED = "It was reserved for an attach that never came to be: it is removed, or let go if the user made it."


def look(picture: Picture) -> list[Finding]:
    """Compare every port that has a key with the servers."""
    claims = picture.claims
    found = []
    known: set[str] = set()
    for claim in claims:
        known.add(claim.port_id)
        mapping = picture.mappings.get(claim.device_id)
        if mapping is None or mapping["cell"] == CELL0:
            found.append(
                Finding(
                    kind="port_orphan",
                    subject=claim.port_id,
                    where="network",
                    message=f"Port {claim.port_id} was made for server {claim.device_id}, which is not there.",
                    repair="It is removed; one that the user made is only let go.",
                    about=(claim.device_id, claim.operation),
                    since=claim.created_at,
                    extra=(claim.operation, claim.item, claim.device_id),
                )
            )
    return found + _records(picture, claims, known) + _bindings(picture)


def _bindings(picture: Picture) -> list[Finding]:
    moving = {m["server"] for cell in picture.cells.values() for m in cell["moves"].values()}
    found = []
    for b in picture.bindings:
        if b.server_id in moving or picture.row_of(b.server_id) is None:
            continue
        found.append(
            Finding(
                kind="port_binding_left",
                subject=b.port_id,
                where="network",
                message=f"Port {b.port_id} is also bound to {b.host}, and server {b.server_id} does not move.",
                repair="That binding is removed; the active one stays.",
                about=(b.server_id,),
                since=b.created_at,
                extra=(b.server_id, b.host),
            )
        )
    return found


def _records(picture: Picture, claims: list[PortClaim], known: set[str]) -> list[Finding]:
    """Compare the NICs in the records with the ports."""
    found = []
    recorded: dict[str, set[str]] = {}
    for name, cell in picture.cells.items():
        for server, row in cell["servers"].items():
            ports = {n["port_id"] for n in msgspec.json.decode(row["nics"])}
            recorded.setdefault(server, set()).update(ports)
            for port in sorted(ports - known) if name != CELL0 else ():
                found.append(
                    Finding(
                        kind="port_missing",
                        subject=port,
                        where=name,
                        message=f"Server {server} has a NIC with port {port}, which the network does not know.",
                        repair="The NIC is taken out of the record, and out of the guest as soon as that lets go.",
                        about=(server,),
                        since=row["updated_at"] or 0.0,
                        extra=(server,),
                    )
                )
    for claim in claims:
        server, port = claim.device_id, claim.port_id
        if picture.row_of(server) is not None and port not in recorded.get(server, ()):
            found.append(
                Finding(
                    kind="port_unrecorded",
                    subject=port,
                    where="network",
                    message=f"Port {port} belongs to server {server}, whose record has no such NIC.",
                    repair=_RESERVED if claim.item == interface_attach.ITEM else None,
                    about=(server, claim.operation),
                    since=claim.created_at,
                    extra=(claim.operation, claim.item, server),
                )
            )
    return [f for f in found if not _in_cell0(picture, f.about[0])]


def _in_cell0(picture: Picture, server: str) -> bool:
    mapping = picture.mappings.get(server)
    return mapping is not None and mapping["cell"] == CELL0


def mend(services: Services, finding: Finding) -> bool:
    """Mend one finding, if nothing works on the server by now."""
    if finding.kind == "port_missing":
        (server,) = finding.extra
        return not _worked_on(services, server) and network_events.refresh(services, server)
    if finding.kind == "port_binding_left":
        server, host = finding.extra
        if _worked_on(services, server) or _moves(services, server):
            return False
        return services.network.delete_bindings(server, host) > 0
    operation, item, server = finding.extra
    if _worked_on(services, server, operation):
        return False
    mapping = services.world.read(lambda tx: mappings.find(tx, server))
    if finding.kind == "port_unrecorded":
        return _was_reserved(services, mapping, finding) and _sweep(services, operation, item)
    if mapping is not None and mapping["cell"] != CELL0:
        return False
    return _sweep(services, operation, item)


def _moves(services: Services, server: str) -> bool:
    """Tell whether a move of the server keeps what it had claimed."""
    moves = (m for db in services.cells.values() for m in db.read(migrations.holding))
    return any(m["server"] == server for m in moves)


def _worked_on(services: Services, server: str, operation: str = "") -> bool:
    for db in (services.world, *services.cells.values()):
        row = db.read(lambda tx: journal.find_row(tx, operation)) if operation else None
        if row is not None and row["ended_at"] is None:
            return True
        if db.read(lambda tx: journal.live_of(tx, server)):
            return True
    return False


def _was_reserved(services: Services, mapping: Row | None, finding: Finding) -> bool:
    """Tell whether the record still lacks the port: its attach was never accepted, or unwound."""
    if mapping is None or mapping["cell"] in (None, CELL0):
        return False
    row = services.cell(mapping["cell"]).read(lambda tx: servers.find(tx, finding.extra[2]))
    nics = [] if row is None else msgspec.json.decode(row["nics"])
    return finding.subject not in {n["port_id"] for n in nics}


def _sweep(services: Services, operation: str, item: str) -> bool:
    return services.network.sweep([(operation, item)]) > 0


def run(services: Services) -> list[Finding]:
    """Look and repair."""
    return repaired(services, look, mend)
