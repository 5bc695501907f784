"""Steer a live migration that is under way: end it (abort), or have it end soon (force complete).

Neither is an operation of its own. An abort is a cancel of the operation, in its journal; the message to the source
only hastens it. A force complete is a message: one that is lost is asked for again. source of the words: Nova.
"""

from collections.abc import Collection

from kilonova.common.errors import BadRequest, Conflict, NotFound
from kilonova.db import migrations
from kilonova.db.engine import Row, Tx
from kilonova.objects.live_orders import LiveWish
from kilonova.operations import live_moves
from kilonova.operations.accept import Found
from kilonova.operations.services import Services
from kilonova.saga import journal

RUNNING = ("running",)
BEFORE_TOO = ("accepted", "queued", "preparing", "running")


def find(services: Services, found: Found, number: str) -> Row:
    """Return a live migration of a server by its number. NotFound in Nova's words."""
    server, cell = found.id, found.mapping["cell"]
    rows = [] if cell is None else services.cell(cell).read(lambda tx: _all(tx, server))
    row = next((r for r in rows if str(r["id"]) == number), None)
    if row is None:
        raise NotFound(f"Migration {number[:80]} for server {server} could not be found.")
    if row["kind"] != "live-migration":
        raise NotFound(f"Migration {number} for server {server} is not live-migration.")
    return row


def under_way(services: Services, found: Found, number: str) -> Row:
    """``find``, of one that has not ended."""
    row = find(services, found, number)
    if row["status"] not in migrations.LIVE:
        raise NotFound(f"Migration {number} for server {found.id} is not in progress.")
    return row


def listed(services: Services, found: Found) -> list[Row]:
    """Return the live migrations of a server that are under way."""
    cell = found.mapping["cell"]
    if cell is None:
        return []
    rows = services.cell(cell).read(lambda tx: _all(tx, found.id))
    return [r for r in rows if r["kind"] == "live-migration" and r["status"] in migrations.LIVE]


def abort(services: Services, found: Found, number: str, *, early: bool) -> None:
    """End it: the server stays where it is. early: also before its memory is being sent.

    Conflict: the server is not being moved. NotFound. BadRequest: it is too late, or too early. One that arrives in
    this very moment is completed.
    """
    row = find(services, found, number)
    _check_moves(found, "abort live migration")
    _check(row, BEFORE_TOO if early else RUNNING, "abort live migration")
    now, nudge = services.now(), services.engine.nudge

    def cancel(tx: Tx) -> None:
        journal.request_cancel(tx, row["operation"], now=now, nudge=nudge)

    home = services.world if row["cross_cell"] else services.cell(found.mapping["cell"])
    home.write(cancel)
    live_moves.steer(services, row["source_host"], found.id, LiveWish.ABORT)


def force_complete(services: Services, found: Found, number: str) -> None:
    """Let it end soon, by a pause of the guest. Raises as ``abort``."""
    row = find(services, found, number)
    _check_moves(found, "force_complete")
    _check(row, RUNNING, "force complete")
    live_moves.steer(services, row["source_host"], found.id, LiveWish.FORCE_COMPLETE)


def _check_moves(found: Found, verb: str) -> None:
    if found.row is None or found.row["task_state"] != "migrating":
        task = None if found.row is None else found.row["task_state"]
        raise Conflict(f"Cannot '{verb}' instance {found.id} while it is in task_state {task}")


def _check(row: Row, statuses: Collection[str], method: str) -> None:
    if row["status"] not in statuses:
        raise BadRequest(
            f"Migration {row['id']} state of instance {row['server']} is {row['status']}. "
            f"Cannot {method} while the migration is in this state."
        )


def _all(tx: Tx, server: str) -> list[Row]:
    return migrations.of_server(tx, server)
