"""Where a move to another cell goes: the host, its claims, the hidden copy, inactive bindings, empty attachments.

Nothing here touches the guest or the source's records but the migration, so that another host can be tried (CC-5.12).
"""

from collections.abc import Mapping, Set
from typing import Any

import msgspec

from kilonova.cells import move
from kilonova.common.errors import Conflict, KilonovaError, NotFound, Unavailable
from kilonova.common.ids import new_uuid
from kilonova.db import mappings, migrations, servers
from kilonova.db.engine import Row, Tx
from kilonova.network.interface import PortBindingFailed
from kilonova.objects.base import decode
from kilonova.objects.guest import GuestBuild
from kilonova.objects.order import Answer, Order
from kilonova.objects.server import CrossCellParams, FlavorRecord, RequestedServer
from kilonova.operations import (
    cleanup,
    cross_cell,
    guest_orders,
    moving,
    server_disks,
)
from kilonova.operations.services import Services
from kilonova.placement import allocations
from kilonova.saga.definition import NoUndo, Output, Retreat, Run, Step, StepFailed
from kilonova.scheduler.select import NoValidHost

TRIES = 5
THERE = "there"
PRE_CHECK = "Migration pre-check error: "
_decode, _encode = msgspec.json.decode, msgspec.json.encode


def begin(run: Run) -> Output:
    """Take the server, unless the accept did. Raises Conflict when something else came first."""
    cross_cell.in_cell(run, run.params.source_cell, cross_cell.Beginning.of(run).write)
    return {}


def erase_source(run: Run) -> Output:
    """Take every record of the server out of the cell that it left."""
    cell = run.params.source_cell
    cross_cell.in_cell(run, cell, lambda tx: move.remove(tx, run.resource))
    return {}


def leave_source(run: Run) -> Output:
    """Hide the source's record, then take all of it out."""
    hide_source(run)
    return erase_source(run)


def source_row(run: Run) -> Row:
    """Return the server's row in the cell that it leaves."""
    return guest_orders.server_row(run.services, run.params.source_cell, run.resource)


def target_row(run: Run) -> Row:
    """Return the server's row in the cell that it comes to."""
    return guest_orders.server_row(run.services, target_cell(run), run.resource)


def target_cell(run: Run) -> str:
    """Return the cell that it comes to."""
    return str(run.outputs["place"]["cell"])


def target_host(run: Run) -> str:
    """Return the host that it comes to."""
    return str(run.outputs["place"]["host"])


def elsewhere(run: Run, message: str, **facts: object) -> KilonovaError:
    """Return what a failed pre-check raises: another host is tried, unless this one was asked for."""
    text = PRE_CHECK + message
    if run.params.to_host is not None:
        return StepFailed(text, **facts)
    where = run.outputs["place"]
    note = {"host": where["host"], "cell": where["cell"], "why": message}
    return Retreat(text, to="place", note=note, limit=TRIES, **facts)


# -- the host and its claims


def check(run: Run) -> Output:
    """Refuse, before anything is copied, when the network cannot bind a port to two hosts (CC-3.2)."""
    if not run.services.network.binding_extended:
        raise StepFailed(
            PRE_CHECK + "Required networking service API extension 'binding-extended' not found."
        )
    return {}


def place(run: Run) -> Output:
    """Choose a host of the cell that was decided on; of other cells when none of that is left (CC-5.12).

    Never a host that failed, nor one that still has to clean up after this server. Raises NoValidHost.
    """
    services: Services = run.services
    params: CrossCellParams = run.params
    retreats: Any = run.outputs.get("retreats", ())
    asked = wanted(services, params, source_row(run))
    cells = [params.target_cell]
    if retreats and params.to_host is None:
        cells += [c for c in services.real_cells() if c not in (*cells, params.source_cell)]
    refused: KilonovaError | None = None
    for cell in cells:
        try:
            unclean = services.cell(cell).read(lambda tx: cleanup.hosts_of_server(tx, run.resource))
            avoid = {*(str(n["host"]) for n in retreats), *unclean}
            return services.scheduling.place_again(asked, cell, avoid)
        except (NoValidHost, Unavailable) as exc:  # a cell that does not answer is none to go to
            refused = refused or exc
    raise refused or StepFailed("No valid host was found.")


def cell_of_choice(
    services: Services, asked: RequestedServer, cell: str, avoid: Set[str]
) -> str | None:
    """Return the cell that the scheduler would take, rather ``cell``; None when there is no host at all."""
    if asked.requested_host is not None:
        state = services.hosts.find(asked.requested_host)
        return None if state is None else state.cell
    try:
        return str(services.scheduling.prefer(asked, cell, avoid)["cell"])
    except (NoValidHost, Conflict):
        return None


def same_size(flavor: FlavorRecord, cell: str, target: str) -> dict[str, Any]:
    """Return the parameters of a move that leaves a server's size as it is: its migration, from where, to where."""
    return {
        "migration": new_uuid(),
        "new_flavor": flavor,
        "old_flavor": flavor,
        "source_cell": cell,
        "target_cell": target,
    }


def wanted(services: Services, params: CrossCellParams, row: Row) -> RequestedServer:
    """Return what the scheduler is asked: the server as it was asked for, in its new size."""
    mapping = services.world.read(lambda tx: mappings.find(tx, params.server_id))
    if mapping is None:
        raise NotFound(f"Instance {params.server_id} could not be found.")
    return decode(mapping["requested"], RequestedServer).replace(
        flavor=moving.new_flavor(params),
        image=guest_orders.system_of(row).image,
        availability_zone=None if params.force else row["requested_zone"],
        requested_host=params.to_host,
        requested_node=None,
        force_host=params.force,
    )


def claim(tx: Tx, run: Run, output: Output) -> None:
    """The migration takes over the old claim, the server claims the new size; in the transaction of the choice."""
    services: Services = run.services
    if not allocations.held_by(tx, run.params.migration):
        services.scheduling.hand_over(tx, run.resource, run.params.migration, "MIGRATION")
    services.scheduling.claim(tx, run.resource, output)


def unclaim(tx: Tx, run: Run) -> None:
    """The server holds what it held before; fine when nothing was claimed."""
    services: Services = run.services
    if allocations.held_by(tx, run.params.migration):
        services.scheduling.release(tx, run.resource)
        services.scheduling.hand_over(tx, run.params.migration, run.resource, "INSTANCE")


# -- the hidden copy


def copy_records(run: Run) -> Output:
    """Put a complete hidden copy into the target cell, in one transaction; both migrations say where to."""
    services: Services = run.services
    where, migration, now = run.outputs["place"], run.params.migration, services.now()

    def going(tx: Tx) -> None:
        migrations.set_dest(tx, migration, where["host"], where["node"], now)
        cross_cell.event(tx, run, "conductor_migrate_server", None)

    cross_cell.in_cell(run, run.params.source_cell, going)
    row = source_row(run)
    system = guest_orders.system_of(row)
    kept = msgspec.structs.replace(system, old_vm_state=row["vm_state"])
    put_copy(run, system_metadata=_encode(kept).decode())
    return {}


def put_copy(run: Run, **columns: Any) -> None:
    """Put all records of the server into the target cell, in one transaction, in place of what is there. Repeatable.

    columns: of its row, that differ there; hidden unless they say otherwise.
    """
    services: Services = run.services
    where = run.outputs["place"]
    records = services.cell(run.params.source_cell).read(lambda tx: move.read(tx, run.resource))
    at = {"host": where["host"], "node": where["node"], "availability_zone": where["zone"]}
    cross_cell.in_cell(
        run, where["cell"], lambda tx: move.write(tx, run.resource, records, **at, **columns)
    )


def remove_copy(run: Run) -> None:
    """Take the copy out as if it had never been there (CC-4.5)."""
    where = run.outputs.get("place")
    if where is not None:
        cross_cell.in_cell(run, where["cell"], lambda tx: move.remove(tx, run.resource))


# -- the neighbours


def bind(run: Run) -> Output:
    """Have the destination prepare for the ports; no traffic goes there yet (CC-5.2)."""
    host = target_host(run)
    try:
        run.services.network.add_bindings(run.resource, host)
    except PortBindingFailed as exc:
        raise elsewhere(
            run,
            "Failed to create port bindings.",
            details=f"Failed to create port bindings for host {host}",
        ) from exc
    return {}


def unbind(run: Run) -> None:
    """The ports are bound to the source alone."""
    if "place" in run.outputs:
        run.services.network.delete_bindings(run.resource, target_host(run))


def attach(run: Run) -> Output:
    """Make an empty attachment for each volume; the copy names them (CC-5.3)."""
    ids = cross_cell.attach_empty(run, THERE, cross_cell.volumes_of(source_row(run)))
    cross_cell.in_cell(
        run, target_cell(run), lambda tx: cross_cell.set_attachments(tx, run.resource, ids)
    )
    return {}


def unattach(run: Run) -> None:
    """End those attachments."""
    row = cross_cell.find_row(run.services, run.params.source_cell, run.resource)
    cross_cell.drop_made(run, THERE, cross_cell.volumes_of(row))


# -- the destination's guest


def build_of(run: Run, *, check_only: bool = False) -> GuestBuild:
    """Return the guest in its new size, its disks made of the images that were sent. Raises StepFailed.

    check_only: without volumes and of its own image, to be looked at only.
    """
    services: Services = run.services
    row = target_row(run)
    disks = moving.new_disks(row, run.params)
    there = {
        **dict(row),
        "flavor": _encode(moving.new_flavor(run.params)).decode(),
        "disks": server_disks.write(
            [d for d in disks if not check_only or d.destination == "local"]
        ),
    }
    start = run.params.previous_vm_state == "active"
    build = guest_orders.build_of(services, there, start=start)
    made: Mapping[str, str] = run.outputs.get("images", {}).get("images", {})
    return moving.of_copies(services, build, made, target_host(run)) if made else build


def order_check(run: Run) -> Order:
    """Ask the destination whether it can make the guest: nothing was touched yet."""
    build = build_of(run, check_only=True)
    return guest_orders.order(run, target_host(run), "guest_check", build, 60.0)


def checked(run: Run, answer: Answer) -> Output:
    """It can."""
    return {}


def refused(run: Run, answer: Answer) -> None:
    """It cannot, or does not answer: try another one."""
    message = answer.message or "The host cannot make the server."
    raise elsewhere(run, message, details=answer.details)


def refresh_copy(tx: Tx, run: Run, source: Row) -> None:
    """Take over what the owner changed in the source's record since it was copied."""
    names = (n for n, whose in move.ON_REVERT.items() if whose == move.TARGET)
    skip = {"system_metadata", "updated_at", "nics", "tags"}
    servers.set_columns(tx, run.resource, **{n: source[n] for n in names if n not in skip})
    tags = _decode(source["tags"])
    servers.set_tags(tx, run.resource, tags, source["tags"], run.services.now())


def hide_source(run: Run) -> None:
    """Hide the source's record after the swap; a name, tags or a lock given there in that very moment go along.

    Nobody changes a record that is hidden. What the owner changed in the target since is newer, and stays. Repeatable.
    """
    server = run.resource
    cross_cell.in_cell(run, run.params.source_cell, lambda tx: move.hide(tx, server, True))
    source = cross_cell.find_row(run.services, run.params.source_cell, server)

    def put(tx: Tx) -> None:
        target = servers.find(tx, server)
        if (
            source is not None
            and target is not None
            and target["updated_at"] <= source["updated_at"]
        ):
            refresh_copy(tx, run, source)

    cross_cell.in_cell(run, target_cell(run), put)


def unshow(run: Run) -> None:
    """The copy is hidden again, until it goes."""
    cell = target_cell(run)
    cross_cell.in_cell(run, cell, lambda tx: move.hide(tx, run.resource, True))


def nothing(run: Run) -> Output:
    """Only the mapping changes."""
    return {}


def swap(tx: Tx, run: Run, output: Output) -> None:
    """Let the server be seen in its new cell, if nobody asked for anything else since (CC-7.6, second)."""
    where = run.outputs["place"]
    swapped = mappings.swap(
        tx,
        run.resource,
        epoch=run.epoch,
        source=run.params.source_cell,
        target=where["cell"],
        host=where["host"],
        now=run.services.now(),
    )
    if not swapped:
        raise StepFailed("Another operation on the server was accepted meanwhile.")


SWAP = Step(
    "swap",
    nothing,
    NoUndo("the last step that can fail"),
    30.0,
    record=swap,
    point_of_no_return=True,
)
"""From here on only forward; the mapping alone decides which copy is seen."""
