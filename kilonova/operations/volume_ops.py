"""What attach and detach share: acceptance beside other operations on the server, and what their end leaves.

They leave ``task_state`` alone, as Nova does: several may be accepted at once, and go one after the other in the order
of their epochs (Saga.in_turn). The disk stands in the server's record from acceptance on, so that names are never given
twice; the row's epoch follows when the operation begins.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from kilonova.common.context import Context
from kilonova.common.errors import BadRequest, Conflict, NotFound
from kilonova.common.ids import new_uuid
from kilonova.db import actions, mappings, servers
from kilonova.db.engine import Row, Tx
from kilonova.objects.server import AttachParams, DiskRequest, SwapParams
from kilonova.operations import server_disks, states
from kilonova.operations.accept import Found, check_lock, find_server, wrong_state
from kilonova.operations.services import Services
from kilonova.saga import journal
from kilonova.saga.definition import Output, Run, Saga

TRIES = 20
Change = Callable[[list[DiskRequest]], tuple[list[DiskRequest], DiskRequest]]


@dataclass(frozen=True)
class Accepted:
    """What is accepted. operation: its id. change(disks) -> (disks after, the disk); it may raise what refuses.

    to: of a swap, the new volume's id and its attachment's.
    """

    operation: str
    change: Change
    to: tuple[str, str] | None = None


def check_state(found: Found, transition: states.Transition) -> Row:
    """Return the server's row when the operation may be accepted now. Raises Conflict in Nova's words."""
    row = found.row
    if row is None or row["vm_state"] not in transition.start:
        raise wrong_state(found.id, transition.verb, row)
    if row["task_state"] is not None and row["task_state"] not in transition.busy:
        raise wrong_state(found.id, transition.verb, row)
    if row["launched_at"] is None:
        raise Conflict(
            f"Cannot '{transition.verb}' instance {found.id} while it has never been active"
        )
    return row


def check_host(services: Services, row: Row) -> None:
    """Refuse what only a host could do that is down. source: Nova, ServiceUnavailable of a detach, a 409."""
    if row["host"] is not None and services.host_is_down(row["host"]):
        raise Conflict("Service is unavailable at this time.", host=row["host"])


def marked(found: Found, volume_id: str, state: str) -> Change:
    """Return the change that has a volume's disk show ``state``. It raises NotFound, and BadRequest: it is busy."""

    def mark(disks: list[DiskRequest]) -> tuple[list[DiskRequest], DiskRequest]:
        mine = _find_disk(found, disks, volume_id)
        check_settled(mine)
        mine = mine.replace(state=state)
        return [mine if d.volume_id == volume_id else d for d in disks], mine

    return mark


def disk_of(found: Found, volume_id: str) -> DiskRequest:
    """Return a volume's disk as it stands in the server's record. NotFound: it has no such one."""
    disks = [] if found.row is None else server_disks.read(found.row)
    return _find_disk(found, disks, volume_id)


def _find_disk(found: Found, disks: Sequence[DiskRequest], volume_id: str) -> DiskRequest:
    disk = server_disks.find_volume(disks, volume_id)
    if disk is None:
        raise NotFound(f"Instance {found.id} is not attached to volume {volume_id}")
    return disk


def check_settled(disk: DiskRequest) -> None:
    """Raise BadRequest while something is done to a disk."""
    if disk.state:
        raise BadRequest(
            f"Invalid volume: Volume {disk.volume_id} status must be in-use, "
            f"but current status is: {disk.state}."
        )


def begin_detaching(services: Services, volume_id: str, server_id: str) -> None:
    """Show a volume as detaching. BadRequest unless it is in use."""
    try:
        services.volumes.begin_detaching(volume_id, server_id)
    except Conflict as exc:
        raise BadRequest(f"Invalid input received: {exc.message}") from exc


def accept(
    services: Services, ctx: Context, saga: Saga, found: Found, wanted: Accepted
) -> DiskRequest:
    """Accept an operation on one disk; return the disk as it stands in the record then.

    Conflict when locked or in a wrong state.
    """
    check_lock(ctx, found)
    for _ in range(TRIES):
        check_state(found, states.TRANSITIONS[saga.kind])
        if services.world.write(partial(_take, found, services.now())):
            disk = _accept_in_cell(services, ctx, saga, found, wanted)
            if disk is not None:
                return disk
        found = find_server(services, ctx, found.id)
    raise Conflict(f"Other operations on instance {found.id} were accepted first; try again.")


def _take(found: Found, now: float, tx: Tx) -> bool:
    return mappings.take_epoch(tx, found.id, int(found.mapping["epoch"]), now)


def _accept_in_cell(
    services: Services, ctx: Context, saga: Saga, found: Found, wanted: Accepted
) -> DiskRequest | None:
    """Write disks, action and journal in one transaction; None when an operation of a higher epoch has begun."""
    transition, now = states.TRANSITIONS[saga.kind], services.now()
    epoch = int(found.mapping["epoch"]) + 1

    def put(tx: Tx) -> DiskRequest | None:
        row = servers.find(tx, found.id)
        row = check_state(Found(found.mapping, row), transition)
        if row["epoch"] >= epoch:
            return None
        disks, disk = wanted.change(server_disks.read(row))
        servers.set_columns(tx, found.id, disks=server_disks.write(disks), updated_at=now)
        actions.begin(
            tx,
            operation=wanted.operation,
            server=found.id,
            action=transition.action,
            ctx=ctx,
            now=now,
        )
        journal.accept(
            tx,
            id=wanted.operation,
            kind=saga.kind,
            version=saga.version,
            resource=found.id,
            epoch=epoch,
            project_id=found.mapping["project_id"],
            context=ctx,
            params=_params(found, row, transition.action, disk, wanted.to),
            now=now,
            nudge=services.engine.nudge,
        )
        return disk

    return services.cell(found.mapping["cell"]).write(put)


def _params(
    found: Found, row: Row, action: str, disk: DiskRequest, to: tuple[str, str] | None
) -> AttachParams:
    of: dict[str, Any] = {
        "server_id": found.id,
        "project_id": found.mapping["project_id"],
        "action": action,
        "previous_vm_state": row["vm_state"],
        "host": row["host"],
        "disk": disk,
    }
    if to is None:
        return AttachParams(**of)
    return SwapParams(**of, new_volume_id=to[0], new_attachment_id=to[1])


def no_host(params: AttachParams, outputs: Any) -> bool:
    """Tell whether no host has the server (shelved and offloaded): nothing is plugged."""
    return params.host is None


def begin(tx: Tx, run: Run, output: Output) -> None:
    """The operation's turn has come: hosts that ask are told its epoch, unless others are accepted already."""
    row = servers.find(tx, run.resource)
    if row is not None and row["epoch"] < run.epoch:
        servers.set_columns(tx, run.resource, epoch=run.epoch)


def disks_now(tx: Tx, run: Run) -> list[DiskRequest] | None:
    """Return the server's disks, None when it is gone."""
    row = servers.find(tx, run.resource)
    return None if row is None or row["deleted"] else server_disks.read(row)


def put_disks(tx: Tx, run: Run, disks: list[DiskRequest], **more: Any) -> None:
    """Write the server's disks; a guest's document that names its devices is a newer one."""
    servers.set_columns(
        tx,
        run.resource,
        disks=server_disks.write(disks),
        **more,
        updated_at=run.services.now(),
    )


def closed(tx: Tx, run: Run, step: str, *, ok: bool) -> None:
    """End the instance action; an operation that was unwound and not cancelled leaves a fault."""
    now = run.services.now()
    actions.event(
        tx,
        operation=run.operation,
        step=step,
        name=f"compute_{run.params.action}",
        started=run.accepted_at,
        finished=now,
        ok=ok,
        host=run.params.host,
        details=None if ok else run.error,
    )
    actions.finish(tx, run.operation, now, error=not ok)
    if not ok and not run.cancelled and disks_now(tx, run) is not None:
        actions.add_fault(
            tx,
            id_=new_uuid(),
            server=run.resource,
            code=500,
            message=run.error or "The operation failed.",
            details=run.error_details or "",
            host=run.params.host,
            now=now,
        )
