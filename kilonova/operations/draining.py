"""What a drain of a host has to do, read from the records alone: so it can be looked at before, and gone on with after
any crash.

A move of a drain is an ordinary operation whose id follows from the drain, the server and the number of the try.
"""

import enum
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from kilonova.common.errors import KilonovaError
from kilonova.db import migrations, servers
from kilonova.db.engine import Row, Tx
from kilonova.operations import move_places, resizing, states
from kilonova.operations.services import Services
from kilonova.saga import journal

TRIES = 2
MOST = 100_000


class Way(enum.StrEnum):
    """How a server gets off its host. CONFIRM: it has left; what the host keeps of it goes."""

    LIVE = "live"
    COLD = "cold"
    OFFLOAD = "offload"
    CONFIRM = "confirm"
    WAIT = "wait"
    NONE = "none"


class Task(NamedTuple):
    """One server of the host. why: why it waits or stays."""

    server: str
    name: str
    vm_state: str
    way: Way
    why: str = ""


class View(NamedTuple):
    """What the records say. kept: moves whose source this host is, that nobody confirmed or reverted.

    live: servers that an operation works on. moves: of this host's servers, since the drain began, newest first.
    """

    rows: Sequence[Row]
    kept: Sequence[Row]
    live: frozenset[str]
    moves: Sequence[Row]


_STAY = {
    states.SUSPENDED: "it is suspended: resume or stop it first",
    states.RESCUED: "it is rescued: unrescue it first",
    states.RESIZED: "it waits until its resize is confirmed or reverted",
    states.SOFT_DELETED: "it is soft-deleted: restore it, or let it go",
    states.ERROR: "it is in ERROR",
    states.BUILDING: "it is being built",
}


def operation_of(drain: str, server: str, number: int) -> str:
    """Return the id of a drain's n-th try to move a server."""
    return str(uuid.uuid5(uuid.UUID(drain), f"{server}/{number}"))


def read(services: Services, host: str, since: float | None = None) -> View:
    """Read what is on a host, in one snapshot of its cell. since: when the drain began."""
    cell = services.cell(services.hosts.cell_of(host))

    def look(tx: Tx) -> View:
        rows = servers.on_host(tx, host)
        filters = {"source_host": host, "since": since}
        moves = [] if since is None else migrations.listed(tx, filters, MOST, None)
        here = {r["uuid"] for r in rows}
        kept = [
            m
            for m in migrations.holding(tx)
            if (m["status"], m["source_host"]) == ("finished", host) and m["server"] not in here
        ]
        every = {*here, *(m["server"] for m in kept)}
        live = frozenset(s for s in every if journal.live_of(tx, s))
        return View(rows, kept, live, moves)

    return cell.read(look)


def plan(view: View, drain: str | None, *, cold: bool) -> list[Task]:
    """Decide, without touching anything, how each server gets off the host. drain: which has begun, if one has.

    cold: one that runs may be turned off for it, once a live migration has failed.
    """
    tried = _tries(view.moves, drain)
    tasks = [_of_row(row, view, tried.get(row["uuid"], ()), cold) for row in view.rows]
    for move in view.kept:
        server = move["server"]
        mine = any(m["uuid"] == move["uuid"] for m in tried.get(server, ()))
        if server in view.live:
            way, why = Way.WAIT, "an operation works on it"
        elif mine:
            way, why = Way.CONFIRM, ""
        else:
            way, why = Way.NONE, "what it was is kept here until its move is confirmed or reverted"
        tasks.append(Task(server, "", states.RESIZED, way, why))
    return tasks


def _of_row(row: Row, view: View, tries: Sequence[Row], cold: bool) -> Task:
    state = row["vm_state"]
    task = Task(row["uuid"], row["name"], state, Way.NONE)
    if row["uuid"] in view.live or row["task_state"] is not None:
        return task._replace(way=Way.WAIT, why="an operation works on it")
    failed = [m["kind"] for m in tries if m["status"] in ("error", "failed", "cancelled")]
    if len(failed) >= TRIES:
        return task._replace(why="it could not be moved; its fault says why")
    if state == states.STOPPED:
        return task._replace(way=Way.COLD)
    if state == states.SHELVED:
        return task._replace(way=Way.OFFLOAD)
    if state == states.ACTIVE and cold and "live-migration" in failed:
        return task._replace(way=Way.COLD)
    if state in (states.ACTIVE, states.PAUSED):
        return task._replace(way=Way.LIVE)
    return task._replace(why=_STAY.get(state, f"it is {state}"))


def _tries(moves: Iterable[Row], drain: str | None) -> dict[str, list[Row]]:
    """Return the moves that a drain began, by server."""
    found: dict[str, list[Row]] = {}
    for m in moves if drain is not None else ():
        ids = {operation_of(str(drain), m["server"], n) for n in range(TRIES + 1)}
        if m["operation"] in ids:
            found.setdefault(m["server"], []).append(m)
    return found


def count_tries(view: View, drain: str, server: str) -> int:
    """Return how often a drain has tried to move a server."""
    return len(_tries(view.moves, drain).get(server, ()))


def moved(view: View, drain: str) -> int:
    """Return how many servers a drain has got off the host for good."""
    gone = {"confirmed", "completed", "done"}
    tries = _tries(view.moves, drain)
    return sum(any(m["status"] in gone for m in of) for of in tries.values())


def where_to(services: Services, host: str, row: Row) -> tuple[str | None, str]:
    """Return the host that the scheduler would choose now for a server of a host, or why there is none."""
    flavor = resizing.flavor_of(row["flavor"])
    try:
        chosen = move_places.choose(services, services.hosts.cell_of(host), row, flavor, {host})
    except KilonovaError as exc:
        return None, exc.message
    return str(chosen["host"]), ""


def shown(tasks: Iterable[Task], to: Mapping[str, tuple[str | None, str]]) -> list[dict[str, Any]]:
    """Return a plan as the API shows it."""
    out = []
    for t in tasks:
        host, why = to.get(t.server, (None, ""))
        entry = msgspec.to_builtins(t._asdict())
        out.append({**entry, "way": str(t.way), "to": host, "why": t.why or why})
    return out
