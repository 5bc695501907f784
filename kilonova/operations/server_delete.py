"""Delete a server, in whatever state it is: accepted at once, and it always ends.

    guest    wait until the operation that ran before has ended or unwound; then the host removes the guest
    kept     so does the host from which it moved, if that was never confirmed (left out when there is none)
    volumes  end its attachments, delete the volumes that were to end with it (left out when there are none)
    ports    remove its ports; the user's own are only let go
    forget   claim, secrets, group membership, mapping: gone; the row stays as a compact record

Home is the cell that the mapping names, or the global database while the server has none. A host that is down gets a
cleanup record instead of an answer: the server is gone for the user and its quota free, the claim stays held until the
host confirms, and so do its volumes. Forward only: a delete is never undone.
"""

from collections.abc import Mapping, Sequence

from kilonova.cells import move
from kilonova.common.context import Context
from kilonova.common.errors import NotFound
from kilonova.common.ids import new_uuid
from kilonova.db import actions, mappings, migrations, secrets, servers
from kilonova.db.engine import Row, Tx
from kilonova.objects.guest import GuestDelete
from kilonova.objects.order import Answer, Order
from kilonova.objects.server import ServerParams
from kilonova.operations import (
    cleanup,
    guest_orders,
    server_disks,
    server_volumes,
    shelving,
    states,
)
from kilonova.operations.accept import Found, check_lock
from kilonova.operations.cleanup import park
from kilonova.operations.services import Services
from kilonova.saga import journal
from kilonova.saga.definition import Ask, NotYet, NoUndo, Output, Run, Saga, Step, register

DEADLINE_S = 300.0
NO_UNDO = NoUndo("a delete only goes forward")


def start(services: Services, ctx: Context, found: Found, action: str = "delete") -> str:
    """Accept the delete of a server; return the operation's id. Deleting twice is fine.

    Raises Conflict when the server is locked and the caller may not pass over that.
    """
    check_lock(ctx, found)
    now = services.now()
    operation = ctx.operation or new_uuid()

    def accept_global(tx: Tx) -> Row:
        if not mappings.want_delete(tx, found.id, now):
            raise NotFound(f"Instance {found.id} could not be found.")
        mapping = mappings.find(tx, found.id)
        if mapping is None:
            raise NotFound(f"Instance {found.id} could not be found.")
        cancel(tx)
        if mapping["cell"] is None:
            journal_it(tx, mapping)
        return mapping

    def cancel(tx: Tx) -> None:
        for live in journal.live_of(tx, found.id):
            if live["kind"] != "server_delete":
                journal.request_cancel(tx, live["id"], now=now, nudge=services.engine.nudge)

    def journal_it(tx: Tx, mapping: Row) -> None:
        journal.accept(
            tx,
            id=operation,
            kind=SAGA.kind,
            version=SAGA.version,
            resource=found.id,
            epoch=mapping["epoch"],
            project_id=mapping["project_id"],
            context=ctx,
            params=ServerParams(
                server_id=found.id, project_id=mapping["project_id"], action=action
            ),
            now=now,
            nudge=services.engine.nudge,
        )

    def accept_in_cell(tx: Tx) -> None:
        servers.want_delete(tx, found.id, epoch=mapping["epoch"], now=now)
        actions.begin(tx, operation=operation, server=found.id, action=action, ctx=ctx, now=now)
        cancel(tx)
        journal_it(tx, mapping)

    mapping = services.world.write(accept_global)
    if mapping["cell"] is not None:
        services.cell(mapping["cell"]).write(accept_in_cell)
    return operation


def _wait_for_others(run: Run) -> Row | None:
    """Return the server's row once nobody else works on it, None when it has none; raise NotYet before."""
    services: Services = run.services
    mapping, live = services.world.read(
        lambda tx: (mappings.find(tx, run.resource), journal.live_of(tx, run.resource))
    )
    _alone(run, live)
    if mapping is None or mapping["cell"] is None:
        return None
    row, live = services.cell(mapping["cell"]).read(
        lambda tx: (servers.find(tx, run.resource), journal.live_of(tx, run.resource))
    )
    _alone(run, live)
    return row


def _alone(run: Run, live: list[Row]) -> None:
    for other in live:
        if other["id"] != run.operation and not (
            other["kind"] == "server_delete" and _younger(other, run)
        ):
            raise NotYet("an operation on the server has not ended yet", after_s=0.1)


def _younger(live: Row, run: Run) -> bool:
    return (float(live["accepted_at"]), str(live["id"])) > (run.accepted_at, run.operation)


def _where(run: Run) -> tuple[str | None, Row | None]:
    """Return (cell, row) of the server as it stands now; both None when it is gone or was never placed."""
    services: Services = run.services
    mapping = services.world.ask(lambda tx: mappings.find(tx, run.resource))
    if mapping is None or mapping["cell"] is None:
        return None, None
    row = services.cell(mapping["cell"]).ask(lambda tx: servers.find(tx, run.resource))
    return mapping["cell"], row


def order_delete(run: Run) -> Order | None:
    """Have the host remove guest and disks, once nobody else works on the server."""
    row = _wait_for_others(run)
    if row is None or row["host"] is None or row["deleted"]:
        return None
    payload = GuestDelete(server_id=run.resource)
    return guest_orders.order(run, row["host"], "guest_delete", payload, DEADLINE_S)


def gone(run: Run, answer: Answer) -> Output:
    """The host has no guest of this server any more."""
    cell, row = _where(run)
    return {
        **_moves_of(run, cell, row),
        "volumes": row is None or '"destination":"volume"' in row["disks"],
        "kept": row is None or row["vm_state"] == states.RESIZED,
    }


def none_kept(params: ServerParams, outputs: Mapping[str, Output]) -> bool:
    """Tell whether no other host is known to keep the server's guest."""
    return outputs["guest"].get("kept", True) is False


def order_delete_kept(run: Run) -> Order | None:
    """Have the source of a move that nobody confirmed remove what it kept."""
    cell, row = _where(run)
    if cell is None or row is None or row["deleted"] or row["vm_state"] != states.RESIZED:
        return None
    waiting = run.services.cell(cell).read(lambda tx: migrations.waiting(tx, run.resource))
    if waiting is None or waiting["source_host"] == row["host"]:
        return None
    payload = GuestDelete(server_id=run.resource)
    return guest_orders.order(run, waiting["source_host"], "guest_delete", payload, DEADLINE_S)


def none_left(run: Run, answer: Answer) -> Output:
    """It has none any more."""
    return {}


def no_volumes(params: ServerParams, outputs: Mapping[str, Output]) -> bool:
    """Tell whether the server is known to have no volumes."""
    return outputs["guest"].get("volumes") is False


def release_volumes(run: Run) -> Output:
    """Let go of the volumes, unless a host may still write them: then its cleanup does it (settle_held)."""
    services: Services = run.services
    if not services.has_volumes or server_volumes.held(services, run.resource):
        return {}
    _, row = _where(run)
    server_volumes.release(services, run.resource, [] if row is None else server_disks.read(row))
    return {}


def remove_ports(run: Run) -> Output:
    """Remove every port of the server."""
    services: Services = run.services
    services.network.remove_ports_of(run.resource)
    return {} if "moves" in run.outputs["guest"] else _moves(run)


def forget(run: Run) -> Output:
    """Release the claim and remove the mapping; a server in another database than home loses its row there."""
    services: Services = run.services
    cell, row = _where(run)
    now = services.now()
    parked = run.outputs.get("guest", {}).get("parked") is True
    noted = {**run.outputs["ports"], **run.outputs["guest"]}
    kept = list(noted["moves"] if "moves" in noted else _moves(run)["moves"])
    if cell is not None and cell != run.home and row is not None:
        services.cell(cell).write(lambda tx: _end_row(tx, run, now, kept, fenced=True))

    if kept:
        _erase_copies(run, cell)
    image = None if row is None else shelving.shelved_image(row)
    if image is not None:
        services.images.delete(image)

    def end(tx: Tx) -> None:
        if run.home != services.world.name:
            journal.fence_foreign(tx, run.operation, run.fence, run.seq)
        if not parked:
            services.scheduling.release(tx, run.resource)
        if not parked and run.outputs.get(cleanup.KEPT, {}).get("parked") is not True:
            for migration in kept:
                services.scheduling.release(tx, migration)
        secrets.drop(tx, run.resource)
        mappings.remove(tx, run.resource)

    services.world.write(end)
    return {"cell": cell, "kept": kept}


def _erase_copies(run: Run, cell: str | None) -> None:
    """Take out what is left of the server in a cell that it moved away from and was never confirmed."""
    services: Services = run.services

    def erase(tx: Tx) -> None:
        row = servers.find(tx, run.resource)
        if row is not None and row["hidden"]:
            if tx.database.name != run.home:
                journal.fence_foreign(tx, run.operation, run.fence, run.seq)
            move.remove(tx, run.resource)

    for name in services.real_cells():
        if name != cell:
            services.cell(name).write(erase)


def _moves(run: Run) -> dict[str, list[str]]:
    """Note the moves that keep something, before the mapping goes: nobody finds the row then."""
    return _moves_of(run, *_where(run))


def _moves_of(run: Run, cell: str | None, row: Row | None) -> dict[str, list[str]]:
    return {"moves": [] if row is None else _old_claims(run.services, cell, row)}


def _old_claims(services: Services, cell: str | None, row: Row) -> list[str]:
    """Return the migrations that keep an old claim of a server that was resized and never confirmed."""
    if cell is None or row["vm_state"] != states.RESIZED:
        return []
    moves = services.cell(cell).read(lambda tx: migrations.of_server(tx, row["uuid"]))
    return [m["uuid"] for m in moves if m["status"] not in migrations.ENDED]


def _end_row(tx: Tx, run: Run, now: float, kept: Sequence[str], *, fenced: bool) -> None:
    if fenced:
        journal.fence_foreign(tx, run.operation, run.fence, run.seq)
        actions.begin(
            tx,
            operation=run.operation,
            server=run.resource,
            action="delete",
            ctx=run.context,
            now=run.accepted_at,
        )
    for migration in kept:
        migrations.set_status(tx, migration, "confirmed", now)
    servers.mark_deleted(tx, run.resource, now)
    secrets.drop(tx, run.resource)
    actions.event(
        tx,
        operation=run.operation,
        step="guest",
        name="compute_terminate_instance",
        started=run.accepted_at,
        finished=now,
        ok=True,
    )
    actions.finish(tx, run.operation, now)


def end_row(tx: Tx, run: Run, output: Output) -> None:
    """Make the row a compact record, in the transaction that ends the operation."""
    services: Services = run.services
    if run.home == services.world.name:
        return
    if output["cell"] != run.home and servers.find(tx, run.resource) is None:
        actions.erase(tx, run.operation)  # it moved to another cell, and its history with it
    else:
        _end_row(tx, run, services.now(), output["kept"], fenced=False)


SAGA = register(
    Saga(
        kind="server_delete",
        version=1,
        params=ServerParams,
        steps=(
            Ask("guest", order_delete, gone, NO_UNDO, DEADLINE_S, park_outside=park),
            Ask(
                cleanup.KEPT,
                order_delete_kept,
                none_left,
                NO_UNDO,
                DEADLINE_S,
                park_outside=park,
                skip=none_kept,
            ),
            Step("volumes", release_volumes, NO_UNDO, 60.0, skip=no_volumes),
            Step("ports", remove_ports, NO_UNDO, 60.0),
            Step("forget", forget, NO_UNDO, 60.0, record=end_row),
        ),
        cancellable=False,
        forward_only=True,
        in_turn=False,  # it waits by itself, once it has asked the others to end
    )
)
