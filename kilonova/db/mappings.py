"""Server mappings: where each server is, whether it is seen, and its epoch. Global database."""

import msgspec
import sqlalchemy as sa

from kilonova.db.engine import Row, Tx
from kilonova.db.portable import among
from kilonova.db.schema.world import server_mapping as m
from kilonova.db.sql import P, Q, insert

_ADD = insert(m)
_GET = Q(sa.select(m).where(m.c.server == P("server")))
_PLACE = Q(
    sa.update(m)
    .where(m.c.server == P("server_"))
    .values(cell=P("cell"), host=P("host"), updated_at=P("updated_at"))
)
_SWAP = Q(
    sa.update(m)
    .where(m.c.server == P("server_"), m.c.epoch == P("epoch_"), m.c.cell == P("cell_"))
    .values(cell=P("cell"), host=P("host"), updated_at=P("updated_at"))
)
_FOLLOW = Q(
    sa.update(m)
    .where(m.c.server == P("server_"), m.c.cell == P("cell_"))
    .values(cell=P("cell"), host=P("host"), updated_at=P("updated_at"))
)
_EPOCH = Q(
    sa.update(m)
    .where(m.c.server == P("server_"), m.c.epoch == P("epoch_"))
    .values(epoch=m.c.epoch + 1, updated_at=P("updated_at"))
)
_WANT_DELETE = Q(
    sa.update(m)
    .where(m.c.server == P("server_"))
    .values(epoch=m.c.epoch + 1, delete_requested=1, updated_at=P("updated_at"))
)
_REQUESTED = Q(
    sa.update(m)
    .where(m.c.server == P("server_"))
    .values(requested=P("requested"), updated_at=P("updated_at"))
)
_SIZE = Q(
    sa.update(m)
    .where(m.c.server == P("server_"))
    .values(vcpus=P("vcpus"), memory_mib=P("memory_mib"), updated_at=P("updated_at"))
)
_SOFT_DELETED = Q(
    sa.update(m)
    .where(m.c.server == P("server_"))
    .values(soft_deleted=P("soft_deleted"), updated_at=P("updated_at"))
)
_REMOVE = Q(sa.delete(m).where(m.c.server == P("server")))
_IN_GROUP = Q(sa.select(m.c.server, m.c.host).where(m.c.server_group == P("group")))
_ON_HOST = Q(sa.select(m).where(m.c.host == P("host")))
_USED = Q(
    sa.select(sa.func.count(), sa.func.sum(m.c.vcpus), sa.func.sum(m.c.memory_mib)).where(
        m.c.project_id == P("project"), m.c.soft_deleted == 0
    )
)
_USED_BY_USER = Q(
    sa.select(sa.func.count(), sa.func.sum(m.c.vcpus), sa.func.sum(m.c.memory_mib)).where(
        m.c.project_id == P("project"), m.c.user_id == P("user"), m.c.soft_deleted == 0
    )
)

_CELLS_OF = Q(sa.select(m.c.server, m.c.cell).where(among(m.c.server, "ids")))

_REQUESTS_OF = Q(sa.select(m.c.server, m.c.requested).where(among(m.c.server, "ids")))


_NO_LIMIT = 2**62


def _unplaced(project: bool, newest_first: bool, after: bool) -> Q:
    stmt = sa.select(m).where(m.c.cell.is_(None))
    if project:
        stmt = stmt.where(m.c.project_id == P("project"))
    if after:
        key, bound = sa.tuple_(m.c.created_at, m.c.server), sa.tuple_(P("at"), P("then"))
        stmt = stmt.where(key < bound if newest_first else key > bound)
    by = [c.desc() if newest_first else c.asc() for c in (m.c.created_at, m.c.server)]
    return Q(stmt.order_by(*by).limit(P("the_limit")))


_UNPLACED = {
    (project, newest_first, after): _unplaced(project, newest_first, after)
    for project in (False, True)
    for newest_first in (False, True)
    for after in (False, True)
}


def requests_of(tx: Tx, ids: list[str]) -> dict[str, bytes]:
    """Return what was asked for (an encoded RequestedServer) per server that is known."""
    rows = tx.all(_REQUESTS_OF, ids=msgspec.json.encode(ids).decode())
    return {r["server"]: r["requested"] for r in rows}


def add(
    tx: Tx,
    *,
    server: str,
    project_id: str,
    user_id: str,
    server_group: str | None,
    vcpus: int,
    memory_mib: int,
    requested: bytes,
    operation: str,
    now: float,
) -> None:
    """Insert the mapping of a server that is accepted and not placed yet; epoch 1."""
    tx.put(
        _ADD,
        server=server,
        project_id=project_id,
        user_id=user_id,
        cell=None,
        host=None,
        server_group=server_group,
        vcpus=vcpus,
        memory_mib=memory_mib,
        epoch=1,
        requested=requested,
        delete_requested=0,
        soft_deleted=0,
        create_operation=operation,
        created_at=now,
        updated_at=now,
    )


def find(tx: Tx, server: str) -> Row | None:
    """Return a mapping, or None."""
    return tx.one(_GET, server=server)


def place(tx: Tx, server: str, *, cell: str | None, host: str | None, now: float) -> bool:
    """Say where a server is; False when its mapping is gone."""
    return tx.run(_PLACE, server_=server, cell=cell, host=host, updated_at=now) == 1


def point(tx: Tx, server: str, *, cell: str | None, host: str | None, now: float) -> None:
    """``place``, not looked at: fine when the mapping is gone."""
    tx.put(_PLACE, server_=server, cell=cell, host=host, updated_at=now)


def swap(
    tx: Tx, server: str, *, epoch: int, source: str, target: str, host: str, now: float
) -> bool:
    """Let a server be seen in another cell; False when another operation (a delete) was accepted since ``epoch``."""
    values = {"server_": server, "epoch_": epoch, "cell_": source, "cell": target, "host": host}
    return tx.run(_SWAP, **values, updated_at=now) == 1


def follow(tx: Tx, server: str, *, source: str, target: str, host: str, now: float) -> bool:
    """Let a server whose guest has gone to another cell be seen there, whatever (a delete) was accepted since."""
    values = {"server_": server, "cell_": source, "cell": target, "host": host}
    return tx.run(_FOLLOW, **values, updated_at=now) == 1


def take_epoch(tx: Tx, server: str, epoch: int, now: float) -> bool:
    """Move the epoch from ``epoch`` to the next; False when another operation was accepted meanwhile."""
    return tx.run(_EPOCH, server_=server, epoch_=epoch, updated_at=now) == 1


def want_delete(tx: Tx, server: str, now: float) -> bool:
    """Mark that the server is to be deleted and take the next epoch; False when it is gone."""
    return tx.run(_WANT_DELETE, server_=server, updated_at=now) == 1


def set_requested(tx: Tx, server: str, requested: bytes, now: float) -> bool:
    """Replace what was asked for (a rename before the server is placed)."""
    return tx.run(_REQUESTED, server_=server, requested=requested, updated_at=now) == 1


def set_size(tx: Tx, server: str, vcpus: int, memory_mib: int, now: float) -> bool:
    """Say what a server counts in the quota; False when its mapping is gone."""
    return tx.run(_SIZE, server_=server, vcpus=vcpus, memory_mib=memory_mib, updated_at=now) == 1


def set_soft_deleted(tx: Tx, server: str, now: float, *, soft_deleted: bool) -> bool:
    """Say whether a server is only waiting for its end, which no quota counts; False when its mapping is gone."""
    value = int(soft_deleted)
    return tx.run(_SOFT_DELETED, server_=server, soft_deleted=value, updated_at=now) == 1


def remove(tx: Tx, server: str) -> bool:
    """Forget a server; the last act of its delete."""
    return tx.run(_REMOVE, server=server) == 1


def in_group(tx: Tx, group: str) -> list[Row]:
    """Return (server, host) of a server group's members."""
    return tx.all(_IN_GROUP, group=group)


def on_host(tx: Tx, host: str) -> list[Row]:
    """Return the mappings of a host's servers."""
    return tx.all(_ON_HOST, host=host)


def used(tx: Tx, project: str, user: str | None = None) -> tuple[int, int, int]:
    """Count (servers, vcpus, MiB) of a project, or of one user in it, but for soft-deleted ones. Never kept."""
    row = (
        tx.one(_USED, project=project)
        if user is None
        else tx.one(_USED_BY_USER, project=project, user=user)
    )
    return (0, 0, 0) if row is None else (int(row[0]), int(row[1] or 0), int(row[2] or 0))


def unplaced(
    tx: Tx,
    *,
    project_id: str | None,
    newest_first: bool = True,
    limit: int | None = None,
    after: tuple[float, str] | None = None,
) -> list[Row]:
    """Return mappings of servers without a cell in order of creation. after: (created_at, server) of the one before."""
    values: dict[str, object] = {"the_limit": _NO_LIMIT if limit is None else limit}
    if project_id is not None:
        values["project"] = project_id
    if after is not None:
        values["at"], values["then"] = after
    return tx.all(_UNPLACED[project_id is not None, newest_first, after is not None], **values)


def cells_of(tx: Tx, servers: list[str]) -> dict[str, str | None]:
    """Return server -> cell for those that have a mapping (one query; visibility is decided by it)."""
    ids = msgspec.json.encode(servers).decode()
    return {row[0]: row[1] for row in tx.all(_CELLS_OF, ids=ids)}
