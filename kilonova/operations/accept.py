"""Accept an operation on a server: the commit of its journal row is the acceptance; the nudge comes after.

For a server that has a cell, home is that cell: a short global transaction takes the next epoch, then one
transaction in the cell moves ``task_state`` by compare-and-swap, opens the instance action and writes the journal.
An epoch that was taken and not used is only a gap in a number.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kilonova.common.context import Context
from kilonova.common.errors import Conflict, GenerationMismatch, NotFound
from kilonova.common.ids import new_uuid
from kilonova.db import actions, mappings, servers
from kilonova.db.engine import Row, Tx
from kilonova.operations import states
from kilonova.operations.services import Services
from kilonova.saga import journal
from kilonova.saga.definition import Saga


@dataclass(frozen=True)
class Found:
    """A server as found at accept: its mapping, and its row in the cell (None while it is unplaced)."""

    mapping: Row
    row: Row | None

    @property
    def id(self) -> str:
        uuid: str = self.mapping["server"]
        return uuid


def find_server(services: Services, ctx: Context, server_id: str) -> Found:
    """Return a server that the caller may see. NotFound alike for one that is missing and one that is not theirs."""
    missing = NotFound(f"Instance {server_id} could not be found.")
    mapping = services.world.ask(lambda tx: mappings.find(tx, server_id))
    if mapping is None or (mapping["project_id"] != ctx.project_id and not ctx.is_admin):
        raise missing
    cell = mapping["cell"]
    if cell is None:
        return Found(mapping, None)
    row = services.ask_cell(cell, lambda tx: servers.find(tx, server_id))
    if row is None or row["deleted"]:
        again = services.world.read(lambda tx: mappings.find(tx, server_id))
        if again is None:
            raise missing
        if again["cell"] not in (None, cell):
            return find_server(services, ctx, server_id)  # it moved between the two reads
        return Found(again, None if again["cell"] is None else row)
    return Found(mapping, row)


def wrong_state(server_id: str, verb: str, row: Row | None) -> Conflict:
    """Return Nova's refusal of an action in a state that does not allow it."""
    if row is not None and row["task_state"] is not None:
        attr, value = "task_state", row["task_state"]
    else:
        attr, value = "vm_state", states.BUILDING if row is None else row["vm_state"]
    return Conflict(f"Cannot '{verb}' instance {server_id} while it is in {attr} {value}")


def check_lock(ctx: Context, found: Found, override: bool = False) -> None:
    """Refuse when the server is locked: an admin (or who may override) passes. source: Nova, check_instance_lock."""
    if (
        found.row is not None
        and found.row["locked_by"] is not None
        and not (ctx.is_admin or override)
    ):
        raise Conflict(f"Instance {found.id} is locked")


@dataclass(frozen=True)
class Also:
    """What else is written when an operation is accepted.

    world(tx): in the global transaction that takes the epoch (quota, say). home(tx, operation id): in the accepting
    one. Either may raise what refuses the operation. operation: its id, when that was minted before.
    """

    world: Callable[[Tx], None] | None = None
    home: Callable[[Tx, str], None] | None = None
    operation: str | None = None


NOTHING_ELSE = Also()
TRIES = 20


def on_server(
    services: Services,
    ctx: Context,
    saga: Saga,
    found: Found,
    transition: states.Transition,
    also: Also = NOTHING_ELSE,
    **params: Any,
) -> str:
    """Accept ``saga`` on a placed server; return the operation's id. params: of the saga's own type.

    Raises Conflict when the server's state does not allow it, or another operation came first; one that may queue
    behind others looks again instead.
    """
    for _ in range(TRIES if transition.busy else 1):
        try:
            return _once(services, ctx, saga, found, transition, also, params)
        except GenerationMismatch as exc:
            first = exc
            found = find_server(services, ctx, found.id)
    raise first


def _once(
    services: Services,
    ctx: Context,
    saga: Saga,
    found: Found,
    transition: states.Transition,
    also: Also,
    params: Mapping[str, Any],
) -> str:
    row = startable(found, transition)
    overtaken = GenerationMismatch(
        f"Another operation on instance {found.id} was accepted first; try again."
    )
    epoch = int(found.mapping["epoch"])
    now = services.now()

    def take(tx: Tx) -> bool:
        taken = mappings.take_epoch(tx, found.id, epoch, now)
        if taken and also.world is not None:
            also.world(tx)
        return taken

    if not services.world.write(take):
        raise overtaken
    operation = also.operation or ctx.operation or new_uuid()
    given: Any = saga.params(
        server_id=found.id,
        project_id=found.mapping["project_id"],
        action=transition.action,
        previous_vm_state=row["vm_state"],
        previous_task_state=row["task_state"],
        host=row["host"],
        **params,
    )

    def accept(tx: Tx) -> None:
        if not servers.begin(
            tx,
            found.id,
            vm_state=row["vm_state"],
            task_state=transition.task_state,
            epoch=epoch + 1,
            now=now,
            task_before=row["task_state"],
        ):
            startable(Found(found.mapping, servers.find(tx, found.id)), transition)
            raise overtaken
        actions.begin(
            tx, operation=operation, server=found.id, action=transition.action, ctx=ctx, now=now
        )
        journal.accept(
            tx,
            id=operation,
            kind=saga.kind,
            version=saga.version,
            resource=found.id,
            epoch=epoch + 1,
            project_id=given.project_id,
            context=ctx,
            params=given,
            now=now,
            nudge=services.engine.nudge,
        )
        if also.home is not None:
            also.home(tx, operation)

    services.cell(found.mapping["cell"]).write(accept)
    return operation


def startable(found: Found, transition: states.Transition) -> Row:
    """Return the server's row when the operation may start now. Raises Conflict."""
    row = found.row
    if row is None or row["vm_state"] not in transition.start:
        raise wrong_state(found.id, transition.verb, row)
    if row["task_state"] is not None and row["task_state"] not in transition.busy:
        raise wrong_state(found.id, transition.verb, row)
    away = row["vm_state"] == states.SHELVED_OFFLOADED
    if (row["host"] is None and not away) or row["launched_at"] is None:
        raise Conflict(
            f"Cannot '{transition.verb}' instance {found.id} while it has never been active"
        )
    return row
