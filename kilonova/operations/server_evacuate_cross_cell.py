"""Bring a server of a dead host back in another cell than the one that it was in.

    begin    the server is the operation's; its migration is marked cross_cell_move, whatever comes
    place    a host of another cell; what the server held of the dead host stays held; it claims the new one
    records  a complete hidden copy of all records there, in one transaction
    ports    its ports are bound there, its volumes can be reached there
    guest    the host makes the guest: of its image, or of the volume that it boots from
    show     the copy is complete, as the guest now is, and not hidden any more
    swap     the mapping names the other cell: from here on only forward
    finish   ACTIVE or SHUTOFF
    moved    every record in the cell that it left goes, and the dead host owes a cleanup, in one transaction

Only a host that an operator forced down is left, as in server_evacuate.py (R13): when it returns, it starts nothing of
the server while this operation is under way, nor afterwards. Undone, the server is where it was.
"""

from typing import Any

from kilonova.cells import move
from kilonova.common.context import Context
from kilonova.db import actions, migrations
from kilonova.db.engine import Tx
from kilonova.objects.order import Order
from kilonova.objects.server import EvacuateAway
from kilonova.operations import (
    accept,
    cleanup,
    cross_cell,
    resizing,
    server_unshelve_cross_cell,
    server_volumes,
    settling,
    states,
)
from kilonova.operations import cross_cell_places as there
from kilonova.operations import server_evacuate as evacuate
from kilonova.operations.accept import Found
from kilonova.operations.server_create import built, hold, order_unbuild
from kilonova.operations.services import Services
from kilonova.placement import allocations
from kilonova.saga.definition import Ask, NoUndo, Output, Run, Saga, Step, register

KIND = "server_evacuate_cross_cell"
POLICY = "compute:servers:evacuate:cross_cell"
TRANSITION = states.TRANSITIONS[KIND]


def _keeper(run: Run) -> str:
    """Return the consumer that keeps what the server held of the dead host."""
    return cleanup.hold_of(run.operation, str(run.params.host))


def claim(tx: Tx, run: Run, output: Output) -> None:
    """Keep what was held of the dead host, and claim the new one, in the transaction of the choice."""
    services: Services = run.services
    if not allocations.held_by(tx, _keeper(run)):
        services.scheduling.hand_over(tx, run.resource, _keeper(run), "INSTANCE")
    services.scheduling.claim(tx, run.resource, output)


def unclaim(tx: Tx, run: Run) -> None:
    """The server holds what it held before; fine when nothing was claimed."""
    services: Services = run.services
    if allocations.held_by(tx, _keeper(run)):
        services.scheduling.release(tx, run.resource)
        services.scheduling.hand_over(tx, _keeper(run), run.resource, "INSTANCE")


def copy_records(run: Run) -> Output:
    """Put a complete hidden copy into the other cell, in one transaction; the migration says where to."""
    where, now = run.outputs["place"], run.services.now()
    cross_cell.in_cell(
        run,
        run.params.source_cell,
        lambda tx: migrations.set_dest(tx, run.params.migration, where["host"], where["node"], now),
    )
    there.put_copy(run)
    return {}


def unbind(run: Run) -> None:
    """Bind the ports to the old host again, and let that one reach the volumes when it is back."""
    evacuate.bind_back(run, there.source_row(run))


def order_guest(run: Run) -> Order:
    """Have the new host make the guest."""
    return evacuate.order_of(run, there.target_row(run))


def show(run: Run) -> Output:
    """Bring all of the copy up to date, as the guest now is; it is not hidden any more."""
    guest = run.outputs["guest"]
    there.put_copy(
        run,
        power_state=guest["power_state"],
        hardware=guest["hardware"],
        devices=guest["devices"],
        hidden=0,
    )
    server_volumes.complete_all(run.services, there.target_row(run))
    return {}


def leave(run: Run) -> Output:
    """Take every record out of the cell that it left; its host owes a cleanup there."""
    there.hide_source(run)

    def put(tx: Tx) -> None:
        move.remove(tx, run.resource)
        evacuate.owe(tx, run)

    cross_cell.in_cell(run, run.params.source_cell, put)
    return {}


def finish(run: Run) -> Output:
    """The server is on its new host."""

    def put(tx: Tx) -> None:
        if actions.stands(tx, run.operation) != "open":
            return
        power = run.outputs["guest"]["power_state"]
        state = evacuate.end_state(run)
        settling.succeed(
            tx, run, TRANSITION, vm_state=state, power_state=power, step=cleanup.EVACUATED
        )
        migrations.set_status(tx, run.params.migration, "done", run.services.now())

    cross_cell.in_cell(run, there.target_cell(run), put)
    return {}


def unwound(run: Run) -> None:
    """The server is where it was."""
    cross_cell.give_up(run, run.params.source_cell, "failed")


_ONLY_ON = NoUndo("past the point of no return")
SAGA = register(
    Saga(
        kind=KIND,
        version=1,
        params=EvacuateAway,
        steps=(
            Step("begin", there.begin, NoUndo("the end of the unwind does it"), 30.0),
            Step(
                "place",
                there.place,
                NoUndo("the claims are rows of home: unclaim takes them back"),
                60.0,
                record=claim,
                unrecord=unclaim,
            ),
            Step("records", copy_records, there.remove_copy, 60.0),
            Step("ports", server_unshelve_cross_cell.bind, unbind, cross_cell.CONNECT_S),
            Ask(
                "guest",
                order_guest,
                built,
                order_unbuild,
                evacuate.BUILD_S,
                failed=evacuate.failed,
                park=hold,
                park_outside=cleanup.park,
                queue="build",
            ),
            Step("show", show, there.unshow, 60.0),
            there.SWAP,
            Step("finish", finish, _ONLY_ON, 60.0),
            Step(cleanup.EVACUATED, leave, _ONLY_ON, 60.0),
        ),
        unwound=unwound,
    )
)


def start(
    services: Services,
    ctx: Context,
    found: Found,
    *,
    host: str | None = None,
    force: bool = False,
    stay_off: bool = False,
) -> str | None:
    """Accept an evacuation into another cell; return the operation's id. The caller was asked for the policy.

    None: the scheduler prefers a host of the server's own cell, or finds none: server_evacuate.py says what is wrong
    then. host, force, stay_off, and what is raised: as there.
    """
    accept.check_lock(ctx, found)
    row, cell = accept.startable(found, TRANSITION), found.mapping["cell"]
    evacuate.check_hosts(services, row["host"], host)
    flavor = resizing.flavor_of(row["flavor"])
    asked: dict[str, Any] = {"to_host": host, "force": force, "stay_off": stay_off}
    params = EvacuateAway(server_id=found.id, new_flavor=flavor, **asked)
    wanted = there.wanted(services, params, row)
    target = there.cell_of_choice(services, wanted, cell, {row["host"]})
    if target is None or target == cell:
        return None
    more = {**asked, **there.same_size(flavor, cell, target)}
    return cross_cell.take(services, ctx, cross_cell.Wanted(SAGA, found, more))
