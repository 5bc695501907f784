"""ServerGroupAffinityFilter and ServerGroupAntiAffinityFilter. The soft policies are weighers."""

from kilonova.scheduler.columns import Bools
from kilonova.scheduler.filters.base import Asked, Filter, told
from kilonova.scheduler.filters.service import only


def _policy(asked: Asked) -> str | None:
    return None if asked.request.server_group is None else asked.request.server_group.policy


def _anti(asked: Asked) -> Bools | None:
    group = asked.request.server_group
    if group is None:
        return None
    full = {h: n for h, n in asked.group_members().items() if n >= group.max_per_host}
    return only(asked, asked.rows_of(full), stay=False) if full else None


def _together(asked: Asked) -> Bools | None:
    members = asked.group_members()
    return only(asked, asked.rows_of(members)) if members else None


FILTERS = (
    Filter(
        "ServerGroupAntiAffinityFilter",
        lambda a: _policy(a) == "anti-affinity",
        _anti,
        told(
            "already runs as many servers of the group as its policy allows",
            "already run as many servers of the group as its policy allows",
        ),
        change="outside the server group",
    ),
    Filter(
        "ServerGroupAffinityFilter",
        lambda a: _policy(a) == "affinity" and bool(a.group_members()),
        _together,
        told("does not run the servers of the group", "do not run the servers of the group"),
        change="outside the server group",
    ),
)
