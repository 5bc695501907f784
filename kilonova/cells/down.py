"""Servers whose cell does not answer, rendered from their mappings: what was asked for once, and no state.

They stand at their places in a list: created_at, uuid, project and user never change, and the rest is as it was asked
for. source: Nova, "Handling Down Cells" (2.69).
"""

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.cells.filters import Filters, Rendered
from kilonova.db.engine import Database, Row
from kilonova.db.schema.world import server_mapping as m

_KNOWN = {"user_id": m.c.user_id, "project_id": m.c.project_id, "uuid": m.c.server}
DOWN = "cell_down"  # a name beside the row's columns


def mark(row: Rendered) -> Rendered:
    """Return a rendered server as one whose cell does not answer."""
    return {**dict(row), DOWN: True}


def is_down(row: Rendered) -> bool:
    """Tell whether a row is of a server whose cell does not answer."""
    return isinstance(row, dict) and bool(row.get(DOWN))


def may_fit(f: Filters) -> bool:
    """Tell whether a list says anything of such servers: not when a filter asks for what only their cell knows."""
    known = Filters(project_id=f.project_id, uuids=f.uuids, equals=f.equals)
    return f == known and set(f.equals) <= set(_KNOWN)


def read(
    world: Database,
    render: Callable[[Row], Rendered],
    cells: Sequence[str],
    f: Filters,
    *,
    newest_first: bool | None,
    after: tuple[float, str] | None,
    limit: int,
) -> list[Rendered]:
    """Return the servers of cells that do not answer, rendered.

    newest_first: in order of creation, ``limit`` of them after ``after`` (created_at, uuid); None: all of them.
    """
    where: list[Any] = [m.c.cell.in_(list(cells)), m.c.soft_deleted == 0]
    if f.project_id is not None:
        where.append(m.c.project_id == f.project_id)
    for name, values in f.equals.items():
        where.append(_KNOWN[name].in_(list(values)))
    if f.uuids is not None:
        where.append(m.c.server.in_(f.uuids))
    statement = sa.select(m)
    if newest_first is not None:
        if after is not None:
            at, server = after
            beyond = m.c.created_at < at if newest_first else m.c.created_at > at
            rest = m.c.server < server if newest_first else m.c.server > server
            where.append(sa.or_(beyond, sa.and_(m.c.created_at == at, rest)))
        by = [c.desc() if newest_first else c.asc() for c in (m.c.created_at, m.c.server)]
        statement = statement.order_by(*by).limit(limit)
    rows = world.read(lambda tx: tx.select(statement.where(*where)))
    return [mark(render(row)) for row in rows]
