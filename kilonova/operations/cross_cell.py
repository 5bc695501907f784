"""What a move to another cell, its confirm and its revert share: both cells, how they are accepted, their events.

The operation's home is the global database: it never moves, while the server's rows do. What is written in a cell is
written fenced. Between a move and its confirm or revert the source's rows stay, hidden, with its guest off.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from kilonova.common.context import Context
from kilonova.common.errors import Conflict, GenerationMismatch, KilonovaError, Unavailable
from kilonova.common.ids import new_uuid
from kilonova.db import actions, mappings, migrations, servers
from kilonova.db.engine import Row, Tx
from kilonova.objects.server import CrossCellParams, DiskRequest
from kilonova.operations import (
    accept,
    guest_orders,
    resizing,
    server_disks,
    settling,
    states,
)
from kilonova.operations.accept import Found
from kilonova.operations.services import Services
from kilonova.saga import journal
from kilonova.saga.definition import Run, Saga

POLICY = "compute:servers:resize:cross_cell"
CONNECT_S = 600.0
_decode = msgspec.json.decode


# -- rows in cells


def find_row(services: Services, cell: str, server: str) -> Row | None:
    """Return a server's row of one cell, or None."""
    return services.cell(cell).read(lambda tx: servers.find(tx, server))


def in_cell(run: Run, cell: str, write: Callable[[Tx], None]) -> None:
    """Write in a cell, fenced: a conductor that lost the operation cannot."""

    def put(tx: Tx) -> None:
        journal.fence_foreign(tx, run.operation, run.fence, run.seq)
        write(tx)

    run.services.cell(cell).write(put)


def event(tx: Tx, run: Run, name: str, host: str | None, *, error: str | None = None) -> None:
    """Record what became of a part of the move under its instance action."""
    actions.event(
        tx,
        operation=run.operation,
        step=name,
        name=name,
        started=run.accepted_at,
        finished=run.services.now(),
        ok=error is None,
        host=host,
        details=error,
    )


def volumes_of(row: Mapping[str, Any] | None) -> list[DiskRequest]:
    """Return a row's volumes; [] when there is no row."""
    return [] if row is None else server_disks.of_row(row)


def set_attachments(tx: Tx, server: str, ids: Mapping[str, str]) -> None:
    """Say by which attachment (volume -> attachment) a cell's row reaches each volume."""
    row = servers.find(tx, server)
    if row is None or not ids:
        return
    disks = [
        d.replace(attachment_id=ids[str(d.volume_id)]) if d.volume_id in ids else d
        for d in server_disks.read(row)
    ]
    servers.set_columns(tx, server, disks=server_disks.write(disks))


def attach_empty(run: Run, item: str, disks: list[DiskRequest]) -> dict[str, str]:
    """Make an attachment without a connector for each volume; return volume -> attachment. Repeatable."""
    services: Services = run.services
    return {
        str(d.volume_id): services.volumes.ensure_attachment(
            (run.operation, f"{item}-{d.volume_id}"),
            volume_id=str(d.volume_id),
            server_id=run.resource,
            mode=d.mode,
        ).id
        for d in disks
    }


def drop_attachments_but(run: Run, *rows: Row | None) -> None:
    """End every attachment of the server that none of these rows names."""
    services: Services = run.services
    if not services.has_volumes:
        return
    kept = {d.attachment_id for row in rows for d in volumes_of(row)}
    for a in services.volumes.attachments_of([run.resource]).get(run.resource, []):
        if a.id not in kept:
            services.volumes.remove_attachment(attachment_id=a.id)


def drop_made(run: Run, item: str, disks: list[DiskRequest], *, unnamed: bool = False) -> None:
    """End the attachments that ``attach_empty`` made; unnamed: only those that these disks do not name."""
    services: Services = run.services
    made = attach_empty(run, item, disks) if unnamed else {}
    for d in disks:
        if not unnamed or made[str(d.volume_id)] != d.attachment_id:
            services.volumes.remove_attachment(key=(run.operation, f"{item}-{d.volume_id}"))


# -- the accept


def _nothing_more(tx: Tx) -> None:
    """Nothing else is written when it is accepted."""


@dataclass(frozen=True)
class Wanted:
    """An operation that is to be accepted. world(tx): written in the accepting transaction, may refuse.

    begin(tx): the first write in the cell that the mapping names, after the server was given to the operation.
    """

    saga: Saga
    found: Found
    params: Mapping[str, Any]
    world: Callable[[Tx], None] = _nothing_more


def take(services: Services, ctx: Context, wanted: Wanted) -> str:
    """Accept an operation whose home is the global database; return its id. Raises Conflict.

    The commit there is the acceptance; the server's row is given to it at once, and by its first step if that fails.
    """
    found, saga = wanted.found, wanted.saga
    transition = states.TRANSITIONS[saga.kind]
    row = accept.startable(found, transition)
    if row["task_state"] is not None:
        raise accept.wrong_state(found.id, transition.verb, row)
    epoch, now = int(found.mapping["epoch"]) + 1, services.now()
    operation = ctx.operation or new_uuid()
    params: Any = saga.params(
        server_id=found.id,
        project_id=found.mapping["project_id"],
        action=transition.action,
        previous_vm_state=row["vm_state"],
        previous_task_state=row["task_state"],
        host=row["host"],
        **wanted.params,
    )

    def put(tx: Tx) -> None:
        if not mappings.take_epoch(tx, found.id, epoch - 1, now):
            raise GenerationMismatch(
                f"Another operation on instance {found.id} was accepted first; try again."
            )
        wanted.world(tx)
        journal.accept(
            tx,
            id=operation,
            kind=saga.kind,
            version=saga.version,
            resource=found.id,
            epoch=epoch,
            project_id=params.project_id,
            context=ctx,
            params=params,
            now=now,
        )

    services.world.write(put)
    beginning = Beginning(saga.kind, operation, epoch, params, ctx, now)
    try:
        services.cell(found.mapping["cell"]).write(beginning.write)
    except Conflict:
        services.world.write(lambda tx: journal.request_cancel(tx, operation, now=now))
        raise
    except KilonovaError:
        pass  # accepted all the same: its first step does it
    finally:
        services.engine.nudge(services.world.name, operation)
    return operation


@dataclass(frozen=True)
class Beginning:
    """The first write of an operation in the cell where the server is: the server is the operation's from then on.

    migration(tx): writes or marks the migration. Repeatable. Raises Conflict when something else came first.
    """

    kind: str
    operation: str
    epoch: int
    params: CrossCellParams
    ctx: Context
    now: float

    @classmethod
    def of(cls, run: Run) -> "Beginning":
        """Return it as an operation's first step does it."""
        return cls(run.kind, run.operation, run.epoch, run.params, run.context, run.accepted_at)

    def write(self, tx: Tx) -> None:
        """Give the server to the operation, open its action, write or mark the migration."""
        p, server = self.params, self.params.server_id
        transition = states.TRANSITIONS[self.kind]
        if actions.stands(tx, self.operation):
            return
        taken = servers.begin(
            tx,
            server,
            vm_state=p.previous_vm_state,
            task_state=transition.task_state,
            epoch=self.epoch,
            now=self.now,
        )
        row = servers.find(tx, server)
        if not taken or row is None:
            raise accept.wrong_state(server, transition.verb, row)
        actions.begin(
            tx,
            operation=self.operation,
            server=server,
            action=transition.action,
            ctx=self.ctx,
            now=self.now,
        )
        status = _STATUS.get(self.kind)
        if status is not None:
            migrations.set_status(tx, p.migration, status, self.now)
        elif p.migration:
            self._migration(tx, row)

    def _migration(self, tx: Tx, row: Row) -> None:
        """Write the migration, marked as one to another cell before anything else is done (CC-3.1)."""
        p = self.params
        kind, status = _MOVES.get(self.kind, ("resize", "pre-migrating"))
        migrations.add(
            tx,
            uuid=p.migration,
            server=p.server_id,
            project_id=row["project_id"],
            user_id=row["user_id"],
            operation=self.operation,
            kind=kind,
            status=status,
            source_host=row["host"],
            source_node=row["node"] or row["host"],
            old_flavor=row["flavor"],
            new_flavor=msgspec.json.encode(p.new_flavor).decode(),
            old_disks=row["disks"],
            old_vm_state=row["vm_state"],
            created_at=self.now,
            updated_at=self.now,
        )
        migrations.mark_cross_cell(tx, p.migration)


_MOVES = {  # kind -> as the API calls its migration, how that stands at first
    "server_migrate_cross_cell": ("migration", "pre-migrating"),
    "live_migrate_cross_cell": ("live-migration", "accepted"),
    "server_evacuate_cross_cell": ("evacuation", "accepted"),
}
_STATUS = {"confirm_resize_cross_cell": "confirming", "revert_resize_cross_cell": "reverting"}


_CONDUCTOR = {
    "live_migrate_cross_cell": "compute_live_migration",
    "server_evacuate_cross_cell": "compute_evacuate_instance",
    "confirm_resize_cross_cell": "conductor_confirm_snapshot_based_resize",
    "revert_resize_cross_cell": "conductor_revert_snapshot_based_resize",
}


def give_up(run: Run, cell: str, status: str) -> None:
    """End an unwound operation in the cell where the server is: as it was, one fault, the migration says so.

    An operation that never had the server leaves it alone, and keeps a late beginning of its own out.
    """
    services: Services = run.services

    def put(tx: Tx) -> None:
        stood = actions.stands(tx, run.operation)
        if stood == "open":
            migrations.set_status(tx, run.params.migration, status, services.now())
            name = _CONDUCTOR.get(run.kind, "conductor_migrate_server")
            actions.fail_events(tx, run.operation, services.now(), run.error or "")
            settling.fail(tx, run, states.TRANSITIONS[run.kind], step=name)
            event(tx, run, name, None, error=run.error or "")
        elif not stood:
            row = servers.find(tx, run.resource)
            if row is not None and row["epoch"] < run.epoch:
                servers.set_columns(tx, run.resource, epoch=run.epoch)

    in_cell(run, cell, put)


def check_up(services: Services, host: str) -> None:
    """Raise Unavailable, in Nova's words, when a host is down that the operation needs (CC-10.9)."""
    if not services.hosts.is_up(host):
        raise Unavailable("Service is unavailable at this time.")


def params_of(services: Services, found: Found, migration: Row) -> dict[str, Any]:
    """Return the parameters of a confirm or revert."""
    return {
        "migration": migration["uuid"],
        "new_flavor": resizing.flavor_of(migration["new_flavor"]),
        "old_flavor": resizing.flavor_of(migration["old_flavor"]),
        "from_host": migration["source_host"],
        "source_cell": services.hosts.cell_of(migration["source_host"]),
        "target_cell": found.mapping["cell"],
    }


def without_old_state(row: Row) -> str:
    """Return a row's system metadata without what a move kept there (CC-10.4)."""
    system = guest_orders.system_of(row)
    return msgspec.json.encode(msgspec.structs.replace(system, old_vm_state=None)).decode()
