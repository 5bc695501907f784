"""Secrets end with their owner; what is left of one is removed."""

from kilonova.db import mappings, secrets, servers
from kilonova.operations.services import Services
from kilonova.reconcile.finding import Finding, repaired
from kilonova.reconcile.picture import Picture
from kilonova.saga import journal

EVERY_S = 600.0


def look(picture: Picture) -> list[Finding]:
    """Find secrets without an owner: in the global database servers and operations, in a cell its servers."""
    found = []
    for r in picture.world["secrets"]:
        if r["owner"] not in picture.mappings:
            found.append(_orphan(r, "global"))
    for name, cell in picture.cells.items():
        found += [_orphan(r, name) for r in cell["secrets"] if r["owner"] not in cell["servers"]]
    return found


def _orphan(r: object, where: str) -> Finding:
    return Finding(
        kind="secret_orphan",
        subject=r["id"],  # type: ignore[index]
        where=where,
        message="A secret has outlived its owner.",
        repair="It is removed.",
        about=(r["owner"],),  # type: ignore[index]
        since=r["created_at"],  # type: ignore[index]
        extra=(r["owner"],),  # type: ignore[index]
    )


def mend(services: Services, finding: Finding) -> bool:
    """Remove every secret of the owner, if that does not live."""
    owner = finding.extra[0]
    for db in (services.world, *services.cells.values()):
        op = db.read(lambda tx: journal.find_row(tx, owner))
        if op is not None and op["ended_at"] is None:
            return False
    if finding.where == "global":
        if services.world.read(lambda tx: mappings.find(tx, owner)) is not None:
            return False
        services.world.write(lambda tx: secrets.drop(tx, owner))
        return True
    cell = services.cell(finding.where)
    row = cell.read(lambda tx: servers.find(tx, owner))
    if row is not None and not row["deleted"]:
        return False
    cell.write(lambda tx: secrets.drop(tx, owner))
    return True


def run(services: Services) -> list[Finding]:
    """Look and repair."""
    return repaired(services, look, mend)
