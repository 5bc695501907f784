"""Quota limits, and what counts against them. Usage is counted from rows, never kept. Global database."""

import sqlalchemy as sa

from kilonova.common.errors import QuotaExceeded
from kilonova.db import mappings
from kilonova.db.engine import Tx
from kilonova.db.schema.world import quota_limit as q
from kilonova.db.schema.world import server_group as g
from kilonova.db.schema.world import server_mapping as m
from kilonova.db.sql import P, Q, insert_or_replace

# Nova's names and defaults; those of the old network are kept for clients that read them. -1: no limit.
DEFAULTS: dict[str, int] = {
    "instances": 10,
    "cores": 20,
    "ram": 50 * 1024,
    "metadata_items": 128,
    "injected_files": 5,
    "injected_file_content_bytes": 10 * 1024,
    "injected_file_path_bytes": 255,
    "key_pairs": 100,
    "server_groups": 10,
    "server_group_members": 10,
    "fixed_ips": -1,
    "floating_ips": -1,
    "security_groups": -1,
    "security_group_rules": -1,
}
CLASS = "class:default"
_LIMITS = Q(
    sa.select(q).where(
        q.c.project_id.in_((P("project_id"), CLASS)), q.c.user_id.in_(("", P("user_id")))
    )
)
_SET = insert_or_replace(q)
_DROP = Q(sa.delete(q).where(q.c.project_id == P("project_id"), q.c.user_id == P("user_id")))
_GROUPS = Q(sa.select(sa.func.count()).where(g.c.project_id == P("project_id")))
_MEMBERS = Q(
    sa.select(sa.func.count()).where(m.c.server_group == P("group"), m.c.soft_deleted == 0)
)


def limits(tx: Tx, project_id: str, user_id: str = "") -> dict[str, int]:
    """Return every limit in force: the defaults, the default class, the project's, the user's (lowest layer first)."""
    out = dict(DEFAULTS)
    rank = {(CLASS, ""): 0, (project_id, ""): 1, (project_id, user_id): 2}
    rows = tx.all(_LIMITS, project_id=project_id, user_id=user_id)
    for row in sorted(rows, key=lambda r: rank.get((r["project_id"], r["user_id"]), -1)):
        if row["resource"] in out and (row["project_id"], row["user_id"]) in rank:
            out[row["resource"]] = row["hard_limit"]
    return out


def set_limit(tx: Tx, project_id: str, user_id: str, resource: str, limit: int) -> None:
    """Set one limit of a project, of a user in it, or of the default class."""
    tx.run(_SET, project_id=project_id, user_id=user_id, resource=resource, hard_limit=limit)


def reset(tx: Tx, project_id: str, user_id: str = "") -> None:
    """Go back to the defaults."""
    tx.run(_DROP, project_id=project_id, user_id=user_id)


def groups_used(tx: Tx, project_id: str) -> int:
    """Count a project's server groups."""
    return int(tx.value(_GROUPS, project_id=project_id))


def members_used(tx: Tx, group: str) -> int:
    """Count a server group's members."""
    return int(tx.value(_MEMBERS, group=group))


def check_growth(
    tx: Tx, project_id: str, user_id: str, *, vcpus: int, memory_mib: int, servers: int = 0
) -> None:
    """Check that a project may have so many cores and MiB more; the caller enlarges in the same transaction.

    Raises QuotaExceeded, in Nova's words. What does not grow is not asked for.
    """
    have = limits(tx, project_id, user_id)
    count, cores, ram = mappings.used(tx, project_id)
    wanted = (("instances", servers, count), ("cores", vcpus, cores), ("ram", memory_mib, ram))
    over = [
        (name, more, used, have[name])
        for name, more, used in wanted
        if more > 0 and 0 <= have[name] < used + more
    ]
    if over:
        names, asked, taken, limit = (", ".join(str(o[i]) for o in over) for i in range(4))
        raise QuotaExceeded(
            f"Quota exceeded for {names}: Requested {asked}, but already used {taken} of {limit} {names}"
        )


def reserve_servers(
    tx: Tx, project_id: str, user_id: str, *, low: int, high: int, vcpus: int, memory_mib: int
) -> int:
    """Return how many servers (low to high) fit the quota now; the caller inserts them in the same transaction.

    Raises QuotaExceeded, in Nova's words, when fewer than ``low`` fit.
    """
    have = limits(tx, project_id, user_id)
    names = ("instances", "cores", "ram")
    if all(have[name] < 0 for name in names):
        return high
    used = mappings.used(tx, project_id)
    wanted = {"instances": 1, "cores": vcpus, "ram": memory_mib}
    fit, over = high, ""
    for name, in_use in zip(names, used, strict=True):
        limit, each = have[name], wanted[name]
        if limit < 0 or each == 0:
            continue
        room = max(0, (limit - in_use) // each)
        if room < fit:
            fit = room
            over = name
    if fit < low:
        taken = dict(zip(names, used, strict=True))
        raise QuotaExceeded(
            f"Quota exceeded for {over}: Requested {wanted[over] * low}, but already used "
            f"{taken[over]} of {have[over]} {over}"
        )
    return fit
