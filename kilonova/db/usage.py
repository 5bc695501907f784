"""What counts against quotas, by Nova's names; counted from rows. Global database."""

import sqlalchemy as sa

from kilonova.db import keypairs, mappings, quotas
from kilonova.db.engine import Tx
from kilonova.db.schema.world import quota_limit as q
from kilonova.db.schema.world import server_group as g
from kilonova.db.sql import P, Q

_GROUPS_BY_USER = Q(
    sa.select(sa.func.count()).where(g.c.project_id == P("project_id"), g.c.user_id == P("user_id"))
)
_DROP_PROJECT = Q(sa.delete(q).where(q.c.project_id == P("project_id")))


def in_use(tx: Tx, project_id: str, user_id: str | None = None) -> dict[str, int]:
    """Return resource -> how much of it a project (or one user in it) uses now.

    Key pairs belong to users; group members are counted per group: both are 0 here, as Nova shows them.
    """
    servers, vcpus, memory_mib = mappings.used(tx, project_id, user_id)
    if user_id is None:
        groups = quotas.groups_used(tx, project_id)
    else:
        groups = int(tx.value(_GROUPS_BY_USER, project_id=project_id, user_id=user_id))
    return {"instances": servers, "cores": vcpus, "ram": memory_mib, "server_groups": groups}


def key_pairs(tx: Tx, user_id: str) -> int:
    """Return how many key pairs a user has."""
    return keypairs.count(tx, user_id)


def forget_project(tx: Tx, project_id: str) -> None:
    """Drop every limit of a project, those of its users too; the defaults hold again."""
    tx.run(_DROP_PROJECT, project_id=project_id)
