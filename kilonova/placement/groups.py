"""A claim's last look at the server group: decisions made side by side must not break its policy together."""

import msgspec
import sqlalchemy as sa

from kilonova.common.errors import Conflict
from kilonova.db import mappings
from kilonova.db.engine import Tx
from kilonova.db.schema.world import server_group as g
from kilonova.db.sql import P, Q

_LOCK = Q(sa.update(g).where(g.c.uuid == P("uuid_")).values(name=g.c.name))
_GET = Q(sa.select(g.c.policy, g.c.rules).where(g.c.uuid == P("uuid")))


class GroupPolicyViolated(Conflict):
    """Another member of the group was placed meanwhile, so this host is not allowed any more; decide again."""

    code = "group_policy_violated"


def recheck(tx: Tx, *, group: str, server: str, host: str) -> None:
    """Lock the group's row and check that ``server`` may go to ``host``; the caller then writes the server's mapping.

    Soft policies never fail; neither does a group that is gone. Raises GroupPolicyViolated.
    """
    tx.run(_LOCK, uuid_=group)
    row = tx.one(_GET, uuid=group)
    if row is None or row["policy"] not in ("affinity", "anti-affinity"):
        return
    others = [h for s, h in mappings.in_group(tx, group) if s != server and h is not None]
    if row["policy"] == "affinity":
        if others and host not in others:
            raise GroupPolicyViolated("The servers of the group run on another host.", host=host)
        return
    most = int(msgspec.json.decode(row["rules"] or "{}").get("max_server_per_host", 1))
    if others.count(host) >= most:
        raise GroupPolicyViolated(
            "The host runs as many servers of the group as its policy allows.", host=host
        )
