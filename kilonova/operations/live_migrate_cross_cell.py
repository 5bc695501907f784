"""Move a running server to a host of another cell: same uuid, addresses, ports, volumes and history, and no new boot.

    begin              the server is the operation's; its migration is marked cross_cell_move, whatever comes
    check              the network can bind a port to two hosts, else nothing is begun
    place              a host of another cell; the migration takes over the old claim, the server claims there
    check_destination  can that host take the guest, and how is it reached
    check_source       can the guest leave, and what has to be copied
    records            a complete hidden copy of all records in the target cell, in one transaction
    reach              inactive bindings of its ports there, a second attachment of each of its volumes
    prepare            that host makes disks, taps and metadata ready
    migrate            the source moves the guest; it runs there: the copy is complete, and the mapping names that cell
    hide               the source's record is hidden
    switch             the ports' traffic goes to the new host, its volumes' attachments are in use
    leave              the old host removes what the guest left
    arrive             the new host keeps the guest
    release            the old attachments, bindings and claims go
    finish             as before, in another cell
    source             every record in the cell that it left goes, when that answers

Until the guest has arrived all can be taken back, and another host is tried unless one was asked for; from its arrival
on only forward, whatever else was accepted: a guest that runs there is seen there. There is nothing to confirm.
"""

import contextlib
from typing import Any

from kilonova.cells import move
from kilonova.common.context import Context
from kilonova.common.errors import Unavailable
from kilonova.db import actions, mappings, migrations, servers
from kilonova.db.engine import Tx
from kilonova.network.interface import PortBindingFailed
from kilonova.objects.live_orders import LiveDestination, LivePlan, LivePrepared
from kilonova.objects.order import Answer
from kilonova.objects.server import LiveAway
from kilonova.operations import (
    accept,
    cleanup,
    cross_cell,
    live_ends,
    resizing,
    states,
)
from kilonova.operations import cross_cell_places as there
from kilonova.operations import live_migrate as live
from kilonova.operations.accept import Found
from kilonova.operations.server_create import hold
from kilonova.operations.services import Services
from kilonova.saga.definition import (
    Ask,
    NoUndo,
    Output,
    Run,
    Saga,
    Step,
    StepFailed,
    register,
)
from kilonova.scheduler.select import NoValidHost

KIND = "live_migrate_cross_cell"
POLICY = "compute:servers:live_migrate:cross_cell"
TRANSITION = states.TRANSITIONS[KIND]


def place(run: Run) -> Output:
    """Choose a host of the cell that was decided on, or of another; when none is left, say what the last one lacked."""
    retreats: Any = run.outputs.get("retreats", ())
    try:
        return there.place(run)
    except NoValidHost as exc:
        if not retreats:
            raise
        raise StepFailed(str(retreats[-1]["why"]), tried=len(retreats)) from exc


def copy_records(run: Run) -> Output:
    """Put a complete hidden copy into the target cell, in one transaction; the migration says where to."""
    where, migration, now = run.outputs["place"], run.params.migration, run.services.now()

    def going(tx: Tx) -> None:
        migrations.set_dest(tx, migration, where["host"], where["node"], now)
        migrations.set_status(tx, migration, "preparing", now)

    cross_cell.in_cell(run, run.params.source_cell, going)
    there.put_copy(run)
    return {}


def reach(run: Run) -> Output:
    """Let the destination have the ports, inactive, and reach the volumes. Raises NotYet while that is prepared."""
    try:
        return live_ends.reach(run)
    except PortBindingFailed as exc:
        raise there.elsewhere(run, "Failed to create port bindings.") from exc


def prepared(run: Run, answer: Answer) -> Output:
    """Keep what was prepared; show that it stands in line, or runs."""
    _status(run, "queued")
    return dict(live.kept(LivePrepared)(run, answer))


def _status(run: Run, status: str) -> None:
    now = run.services.now()
    cross_cell.in_cell(
        run,
        run.params.source_cell,
        lambda tx: migrations.set_status(tx, run.params.migration, status, now),
    )


# -- it runs there


def moved(run: Run, answer: Answer) -> Output:
    """Keep what the source says of the guest, and complete the copy."""
    return _arrived(run, live.moved(run, answer))


def seen(run: Run) -> Output | None:
    """Look where the guest is before anything is taken back. Raises NotYet while nobody can tell."""
    output = live.seen(run)
    return None if output is None else _arrived(run, output)


def _arrived(run: Run, output: Output) -> Output:
    """Bring all of the copy up to date, with what its owner did while the guest moved; it is not hidden any more.

    When the cell that it leaves does not answer, the copy is as it was made: a dead cell holds nothing up (R11).
    """
    try:
        _status(run, "post-migrating")
        row = there.source_row(run)
        there.put_copy(run, disks=live_ends.disks_there(run, row), hidden=0)
    except Unavailable:
        _show_copy(run)
    return output


def _show_copy(run: Run) -> None:
    """Let the copy be seen as it was made before the guest moved."""
    row, now = there.target_row(run), run.services.now()

    def put(tx: Tx) -> None:
        servers.set_columns(tx, run.resource, disks=live_ends.disks_there(run, row))
        migrations.set_status(tx, run.params.migration, "post-migrating", now)
        move.hide(tx, run.resource, False)

    cross_cell.in_cell(run, there.target_cell(run), put)


def follow(tx: Tx, run: Run, output: Output) -> None:
    """The server is seen where its guest runs. A delete that was accepted meanwhile finds it there."""
    where = run.outputs["place"]
    mappings.follow(
        tx,
        run.resource,
        source=run.params.source_cell,
        target=where["cell"],
        host=where["host"],
        now=run.services.now(),
    )


def hide(run: Run) -> Output:
    """Hide the source's record, unless its cell does not answer: the mapping decided before, and it goes in the end."""
    with contextlib.suppress(Unavailable):
        there.hide_source(run)
    return {}


def release(run: Run) -> Output:
    """End what the source had of the ports and volumes."""
    services: Services = run.services
    for attachment in run.outputs["reach"]["attachments"]:
        services.volumes.remove_attachment(attachment_id=attachment)
    services.network.delete_bindings(run.resource, live_ends.source_of(run))
    return {}


def release_claim(tx: Tx, run: Run, output: Output) -> None:
    """Give back what was held of the source."""
    run.services.scheduling.release(tx, run.params.migration)


def finish(run: Run) -> Output:
    """As before, in another cell."""

    def put(tx: Tx) -> None:
        if actions.stands(tx, run.operation) != "open":
            return
        live.end(tx, run, TRANSITION)

    cross_cell.in_cell(run, there.target_cell(run), put)
    return {}


# -- what a failure leaves


def unwound(run: Run) -> None:
    """As before, where it was."""
    cross_cell.give_up(run, run.params.source_cell, live.status_of(run))


_ON = NoUndo("the guest runs at the destination")
_LOOKS = NoUndo("it only looks")
SAGA = register(
    Saga(
        kind=KIND,
        version=1,
        params=LiveAway,
        steps=(
            Step("begin", there.begin, NoUndo("the end of the unwind does it"), 30.0),
            Step("check", there.check, _LOOKS, 30.0),
            Step(
                "place",
                place,
                NoUndo("the claims are rows of home: unclaim takes them back"),
                60.0,
                record=there.claim,
                unrecord=there.unclaim,
            ),
            Ask(
                "check_destination",
                live.order_check_destination,
                live.kept(LiveDestination),
                _LOOKS,
                live.CHECK_S,
                failed=live.refused,
            ),
            Ask(
                "check_source",
                live.order_check_source,
                live.kept(LivePlan),
                _LOOKS,
                live.CHECK_S,
                failed=live.refused,
            ),
            Step("records", copy_records, there.remove_copy, 60.0),
            Step("reach", reach, live_ends.unreach, 180.0),
            Ask(
                "prepare",
                live.order_prepare,
                prepared,
                live.order_rollback,
                live.PREPARE_S,
                failed=live.refused,
                park=hold,
                park_outside=cleanup.park,
            ),
            Ask(
                "migrate",
                live.order_migrate,
                moved,
                live.order_abort,
                live.MIGRATE_S,
                record=follow,
                seen=seen,
                park_outside=cleanup.park,
                queue=live.QUEUE,
                point_of_no_return=True,
            ),
            Step("hide", hide, _ON, 60.0),
            Step("switch", live.switch, _ON, 60.0),
            Ask(
                "leave",
                live.order_leave,
                live.left,
                _ON,
                live.TIDY_S,
                park_outside=cleanup.park,
            ),
            Ask(
                "arrive",
                live.order_arrive,
                live.stays,
                _ON,
                live.TIDY_S,
                park_outside=cleanup.park,
            ),
            Step("release", release, _ON, 60.0, record=release_claim),
            Step("finish", finish, _ON, 60.0),
            Step("source", there.leave_source, _ON, 60.0),
        ),
        unwound=unwound,
    )
)


# -- the accept


def start(
    services: Services,
    ctx: Context,
    found: Found,
    *,
    host: str | None = None,
    force: bool = False,
    block: bool | None = None,
) -> str | None:
    """Accept a live migration into another cell; return the operation's id. The caller was asked for the policy.

    None: the scheduler prefers a host of the server's own cell, or finds none: live_migrate.py says what is wrong then.
    host: exactly there (force: without asking the filters). block: copy local disks (None: if there are any).
    Raises Conflict (locked, state, a silent source), BadRequest: the target.
    """
    accept.check_lock(ctx, found)
    row, cell = accept.startable(found, TRANSITION), found.mapping["cell"]
    flavor = resizing.flavor_of(row["flavor"])
    asked: dict[str, Any] = {"to_host": host, "force": force, "block": block}
    params = LiveAway(server_id=found.id, new_flavor=flavor, **asked)
    target = there.cell_of_choice(
        services, there.wanted(services, params, row), cell, {row["host"]}
    )
    if target is None or target == cell:
        return None
    live.check_hosts(services, found.id, row["host"], host)
    live.check_devices(row)
    more = {**asked, **there.same_size(flavor, cell, target)}
    return cross_cell.take(services, ctx, cross_cell.Wanted(SAGA, found, more))
