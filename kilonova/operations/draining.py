"""What a drain of a host has to do, read from the records alone: so it can be looked at before, and gone on with after
any crash.

A move of a drain is an ordinary operation whose id follows from the drain, the server and the number of the try.
"""

import contextlib
import enum
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple, TypeVar

import msgspec

from kilonova.common.errors import KilonovaError, Unavailable
from kilonova.db import migrations, servers
from kilonova.db.engine import Row, Tx
from kilonova.operations import move_places, resizing, states
from kilonova.operations.services import Services
from kilonova.saga import journal

T = TypeVar("T")
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

    live: servers that an operation works on. moves: of this host's servers, since the drain began, newest first, also
    those whose server is in another cell by now.
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
    """Read what is on a host, in one snapshot of its cell, and what became of it in others. since: the drain's begin.

    What a cell that does not answer knows is left out: it is read again the next time.
    """
    home = services.hosts.cell_of(host)
    rows = services.cell(home).read(lambda tx: servers.on_host(tx, host))
    here = {r["uuid"] for r in rows if not r["hidden"]}

    def look(tx: Tx) -> tuple[list[Row], list[Row]]:
        filters = {"source_host": host, "since": since}
        moves = [] if since is None else migrations.listed(tx, filters, MOST, None)
        waiting = [m for m in migrations.holding(tx) if m["source_host"] == host]
        return [m for m in waiting if m["status"] == "finished"], moves

    kept: dict[str, Row] = {}
    moves: dict[str, Row] = {}
    for found in _everywhere(services, home, look):
        kept |= {m["uuid"]: m for m in found[0] if m["server"] not in here}
        moves |= {m["uuid"]: m for m in found[1]}
    every = {*here, *(m["server"] for m in kept.values()), *(r["uuid"] for r in rows)}
    live = _live(services, home, every)
    left = {m["server"] for m in kept.values()}
    shown = [r for r in rows if not (r["hidden"] and r["uuid"] in left)]
    newest = sorted(moves.values(), key=lambda m: m["created_at"], reverse=True)
    return View(shown, list(kept.values()), live, newest)


def _everywhere(services: Services, home: str, question: Callable[[Tx], T]) -> list[T]:
    """Ask all cells, the home first: of a move's two records the later one is that of the cell it went to."""
    answers = [services.cell(home).read(question)]
    for cell in services.real_cells():
        if cell != home:
            with contextlib.suppress(Unavailable):
                answers.append(services.cell(cell).read(question))
    return answers


def _live(services: Services, home: str, every: Set[str]) -> frozenset[str]:
    def look(tx: Tx) -> set[str]:
        return {s for s in every if journal.live_of(tx, s)}

    across = services.world.read(look)
    return frozenset(across.union(*_everywhere(services, home, look)))


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
    if row["uuid"] in view.live or (row["task_state"] is not None and not row["hidden"]):
        return task._replace(way=Way.WAIT, why="an operation works on it")
    if row["hidden"]:
        return task._replace(why="its record is kept for a cell that does not answer")
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


class Goal(NamedTuple):
    """Where a server would go: a host and its cell, or why there is none."""

    host: str | None = None
    cell: str | None = None
    why: str = ""


def where_to(services: Services, host: str, row: Row, *, across: bool = False) -> Goal:
    """Return the host that the scheduler would choose now for a server of a host.

    across: another cell's, when its own has none.
    """
    flavor, home = resizing.flavor_of(row["flavor"]), services.hosts.cell_of(host)
    others = [c for c in services.real_cells() if c != home] if across else []
    why = ""
    for cell in (home, *others):
        try:
            chosen = move_places.choose(services, cell, row, flavor, {host})
        except KilonovaError as exc:
            why = why or exc.message
            continue
        return Goal(str(chosen["host"]), cell)
    return Goal(why=why)


def next_try(services: Services, view: View, drain: str, host: str, server: str) -> str | None:
    """Return the id of the next try to move a server; None: it was tried too often.

    One that ended before it wrote a migration counts too: no operation is accepted twice.
    """
    homes = (services.world, services.cell(services.hosts.cell_of(host)))
    for number in range(count_tries(view, drain, server), TRIES + 1):
        operation = operation_of(drain, server, number)
        if not any(db.read(lambda tx, op=operation: journal.find_row(tx, op)) for db in homes):  # type: ignore[misc]
            return operation
    return None


def shown(tasks: Iterable[Task], to: Mapping[str, Goal]) -> list[dict[str, Any]]:
    """Return a plan as the API shows it."""
    out = []
    for t in tasks:
        goal = to.get(t.server, Goal())
        entry = msgspec.to_builtins(t._asdict())
        where = {"to": goal.host, "to_cell": goal.cell}
        out.append({**entry, "way": str(t.way), **where, "why": t.why or goal.why})
    return out
