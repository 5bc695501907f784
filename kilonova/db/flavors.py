"""Flavors and who may use them. Global database."""

from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.db.engine import Row, Tx
from kilonova.db.schema.world import flavor as f
from kilonova.db.schema.world import flavor_access as fa
from kilonova.db.sql import P, Q, insert_or_ignore
from kilonova.objects.server import FlavorRecord

_GET = Q(sa.select(f).where(f.c.flavorid == P("flavorid")))
_ADD = Q(sa.insert(f).values({c.name: P(c.name) for c in f.columns}))
_DROP = Q(sa.delete(f).where(f.c.flavorid == P("flavorid")))
_ACCESS = Q(sa.select(fa.c.project_id).where(fa.c.flavorid == P("flavorid")))
_may = sa.select(fa.c.project_id).where(
    fa.c.flavorid == f.c.flavorid, fa.c.project_id == P("project_id")
)
_GET_FOR = Q(
    sa.select(f).where(f.c.flavorid == P("flavorid"), sa.or_(f.c.is_public == 1, _may.exists()))
)
_GRANT = insert_or_ignore(fa, "flavorid", "project_id")
_REVOKE = Q(sa.delete(fa).where(fa.c.flavorid == P("flavorid"), fa.c.project_id == P("project_id")))


def find(tx: Tx, flavorid: str) -> Row | None:
    """Return a flavor by its id, or None."""
    return tx.one(_GET, flavorid=flavorid)


def find_for(tx: Tx, flavorid: str, project_id: str | None, *, admin: bool) -> Row | None:
    """Return a flavor that the project may use (public, or access given; admins: any), or None."""
    if admin:
        return find(tx, flavorid)
    return tx.one(_GET_FOR, flavorid=flavorid, project_id=project_id)


def record(row: Row) -> FlavorRecord:
    """Return a flavor as it is frozen into a server."""
    return FlavorRecord(
        flavorid=row["flavorid"],
        name=row["name"],
        vcpus=row["vcpus"],
        memory_mib=row["memory_mib"],
        root_gib=row["root_gib"],
        ephemeral_gib=row["ephemeral_gib"],
        swap_mib=row["swap_mib"],
        rxtx_factor=row["rxtx_factor"],
        is_public=bool(row["is_public"]),
        disabled=bool(row["disabled"]),
        description=row["description"],
        extra_specs=msgspec.json.decode(row["extra_specs"]),
    )


def add(tx: Tx, flavor: FlavorRecord, now: float) -> None:
    """Insert a flavor; an error when id or name are taken (check first)."""
    tx.run(
        _ADD,
        flavorid=flavor.flavorid,
        name=flavor.name,
        memory_mib=flavor.memory_mib,
        vcpus=flavor.vcpus,
        root_gib=flavor.root_gib,
        ephemeral_gib=flavor.ephemeral_gib,
        swap_mib=flavor.swap_mib,
        rxtx_factor=flavor.rxtx_factor,
        is_public=int(flavor.is_public),
        disabled=int(flavor.disabled),
        description=flavor.description,
        extra_specs=msgspec.json.encode(flavor.extra_specs).decode(),
        created_at=now,
    )


def list_(
    tx: Tx,
    *,
    project_id: str | None,
    is_public: bool | None,
    min_disk: int = 0,
    min_ram: int = 0,
) -> list[Row]:
    """Return flavors: public ones and those the project has access to (is_public True), all (None), or private ones."""
    stmt = sa.select(f).where(f.c.root_gib >= min_disk, f.c.memory_mib >= min_ram)
    if is_public is True:
        allowed = sa.select(fa.c.flavorid).where(fa.c.project_id == (project_id or ""))
        stmt = stmt.where(sa.or_(f.c.is_public == 1, f.c.flavorid.in_(allowed)))
    elif is_public is False:
        stmt = stmt.where(f.c.is_public == 0)
    return tx.select(stmt.order_by(f.c.flavorid))


def named(tx: Tx, name: str) -> Row | None:
    """Return a flavor by its name."""
    found = tx.select(sa.select(f).where(f.c.name == name))
    return found[0] if found else None


def update(tx: Tx, flavorid: str, **values: Any) -> bool:
    """Set columns of a flavor."""
    return tx.change(sa.update(f).where(f.c.flavorid == flavorid).values(**values)) == 1


def remove(tx: Tx, flavorid: str) -> bool:
    """Delete a flavor; servers keep their own copy."""
    return tx.run(_DROP, flavorid=flavorid) == 1


def access(tx: Tx, flavorid: str) -> list[str]:
    """Return the projects that may use a private flavor."""
    return [r[0] for r in tx.all(_ACCESS, flavorid=flavorid)]


def grant(tx: Tx, flavorid: str, project_id: str) -> bool:
    """Give a project access; False when it had it."""
    return tx.run(_GRANT, flavorid=flavorid, project_id=project_id) == 1


def revoke(tx: Tx, flavorid: str, project_id: str) -> bool:
    """Take access away; False when it had none."""
    return tx.run(_REVOKE, flavorid=flavorid, project_id=project_id) == 1
