"""The feed of events: what the databases' logs hold after a place, in one order, as subscribers get it.

A place (cursor) names how far each database was read: ``cell1:12,global:4``. It is good for as long as events are kept;
nothing between two places is left out, and nothing is told twice to one who goes on from the last.
"""

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from kilonova.common.clock import iso_micro
from kilonova.common.errors import BadRequest, KilonovaError
from kilonova.db import notifications as log
from kilonova.db.engine import Database, Row, Tx
from kilonova.operations import instance_notices
from kilonova.operations.services import Services

KEEP_S = 7 * 86400.0
LIMIT = 200
SKIPS = 50
GAP_S = 5.0
"""A number that is missing on a database server may be of a transaction that commits yet: so long it is waited for."""
_CURSOR = re.compile(r"[A-Za-z0-9_.-]{1,64}:[0-9]{1,18}(,[A-Za-z0-9_.-]{1,64}:[0-9]{1,18})*")


@dataclass(frozen=True)
class Wanted:
    """What a subscriber wants. project None: all, for an administrator (``admin``), who sees hosts too.

    server: of this one alone. names: patterns of event names, such as ``instance.create.*``; none: all.
    """

    project: str | None
    admin: bool = False
    server: str | None = None
    names: tuple[str, ...] = ()

    def takes(self, name: str, row: Row) -> bool:
        """Tell whether an event is wanted."""
        if self.project is not None and row["project_id"] != self.project:
            return False
        if self.server is not None and row["resource"] != self.server:
            return False
        return not self.names or any(fnmatch.fnmatchcase(name, p) for p in self.names)


@dataclass(frozen=True)
class Event:
    """One event. place: where a subscriber goes on after it. body: in the form of Nova's notifications."""

    place: str
    name: str
    project: str | None
    body: Mapping[str, Any] = field(hash=False)


def parse(text: str) -> dict[str, int]:
    """Return database -> number of a place. Raises BadRequest."""
    if not _CURSOR.fullmatch(text):
        raise BadRequest("Last-Event-ID is no place in the event stream.")
    return {name: int(seq) for name, _, seq in (part.partition(":") for part in text.split(","))}


def text_of(place: Mapping[str, int]) -> str:
    """Return a place as text."""
    return ",".join(f"{name}:{seq}" for name, seq in sorted(place.items()))


def end(services: Services) -> dict[str, int]:
    """Return the place after everything that happened."""
    found = {}
    for db in _logs(services):
        try:
            found[db.name] = db.ask(log.newest)
        except KilonovaError:
            continue
    return found


def _logs(services: Services) -> list[Database]:
    return [services.world, *services.cells.values()]


def settled(rows: list[Row], after: int, now: float, *, local: bool) -> list[Row]:
    """Return the rows up to the first number that is missing and may come yet."""
    if local:  # one writer: numbers are given in the order of commits
        return rows
    out = []
    for row in rows:
        if row["id"] != after + 1 and row["at"] > now - GAP_S:
            break
        out.append(row)
        after = row["id"]
    return out


def read(
    services: Services, place: dict[str, int], wanted: Wanted, limit: int = LIMIT
) -> list[Event]:
    """Return what is wanted after ``place``, at most about ``limit`` of each database, and move ``place``.

    What is not wanted is passed over, 10,000 of each database at a time. One that does not answer is read on when it
    does.
    """
    for _ in range(SKIPS):
        found, full = _read(services, place, wanted, limit)
        if found or not full:
            break
    return found


def _read(
    services: Services, place: dict[str, int], wanted: Wanted, limit: int
) -> tuple[list[Event], bool]:
    """Read once; return too whether there is more than ``limit`` in a database."""
    full = False
    found: list[tuple[float, str, int, str, dict[str, Any], str | None]] = []
    seen: dict[str, int] = {}
    for db in _logs(services):
        after = place.get(db.name, 0)
        try:
            rows = db.ask(lambda tx, after=after: log.after(tx, after, limit))  # type: ignore[misc]
            if not rows:
                continue
            full = full or len(rows) == limit
            local = bool(getattr(db, "is_local", True))
            rows = settled(rows, after, services.now(), local=local)
            made = db.read(lambda tx, rows=rows: _made(tx, rows, wanted))  # type: ignore[misc]
        except KilonovaError:
            continue
        if rows:
            seen[db.name] = rows[-1]["id"]
        latest = 0.0
        for at, seq, name, body, project in made:
            latest = max(latest, at)  # within one database the order is that of the numbers
            found.append((latest, db.name, seq, name, body, project))
    out = []
    for _, database, seq, name, body, project in sorted(found, key=lambda e: e[:3]):
        place[database] = seq
        out.append(Event(text_of(place), name, project, body))
    place.update(seen)
    return out, full


def _made(
    tx: Tx, rows: list[Row], wanted: Wanted
) -> list[tuple[float, int, str, dict[str, Any], str | None]]:
    made = []
    for row in rows:
        told = row["payload"] is not None
        name = row["event"] if told else instance_notices.name_of(row)
        if name is None or not wanted.takes(name, row):
            continue
        if told:
            body = msgspec.json.decode(row["payload"])
        else:
            body = instance_notices.payload(tx, row, admin=wanted.admin)
        if body is not None:
            made.append(
                (row["at"], row["id"], name, _enveloped(name, row, body, wanted), row["project_id"])
            )
    return made


def _enveloped(name: str, row: Row, body: dict[str, Any], wanted: Wanted) -> dict[str, Any]:
    host = row["host"] if wanted.admin else None
    return {
        "event_type": name,
        "payload": body,
        "priority": "ERROR" if name.endswith(".error") else "INFO",
        "publisher_id": f"nova-compute:{host}" if host else "nova-compute",
        "timestamp": iso_micro(row["at"]),
    }
