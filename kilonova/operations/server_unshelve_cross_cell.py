"""Bring a shelved server back in another cell than the one that it was shelved in.

    begin    the server is the operation's
    place    a host of the other cell; the server claims it
    records  a complete hidden copy of all records there, in one transaction
    ports    its ports are bound there, its volumes can be reached there
    guest    the host makes the guest of the image that keeps its root disk, or of its volume
    show     the copy is complete, and not hidden any more
    swap     the mapping names the other cell: from here on only forward
    source   every record in the cell that it left goes
    finish   the image is deleted: ACTIVE

Undone, it is shelved as before, and the other cell has nothing of it. A host that is itself to blame sends it back to
``place``, without that host.
"""

from typing import Any

import msgspec

from kilonova.cells import move
from kilonova.common.context import Context
from kilonova.common.errors import NotFound
from kilonova.db import actions, mappings, servers
from kilonova.db.engine import Row, Tx
from kilonova.objects.base import decode
from kilonova.objects.order import Answer, Order
from kilonova.objects.server import FlavorRecord, RequestedServer, UnshelveAway
from kilonova.operations import (
    accept,
    cleanup,
    cross_cell,
    guest_orders,
    resizing,
    server_unshelve,
    server_volumes,
    shelving,
    states,
)
from kilonova.operations import cross_cell_places as there
from kilonova.operations.accept import Found
from kilonova.operations.server_create import built, hold, order_unbuild
from kilonova.operations.services import Services
from kilonova.saga.definition import (
    Ask,
    NoUndo,
    Output,
    Retreat,
    Run,
    Saga,
    Step,
    StepFailed,
    register,
)

KIND = "server_unshelve_cross_cell"


def wanted(services: Services, p: UnshelveAway, row: Row) -> RequestedServer:
    """Return what the scheduler is asked: the server as it was asked for, with what has changed since."""
    mapping = services.world.read(lambda tx: mappings.find(tx, p.server_id))
    if mapping is None:
        raise NotFound(f"Instance {p.server_id} could not be found.")
    return decode(mapping["requested"], RequestedServer).replace(
        flavor=msgspec.json.decode(row["flavor"], type=FlavorRecord),
        image=guest_orders.system_of(row).image,
        availability_zone=None if p.unpin else p.zone or row["requested_zone"],
        requested_host=p.to_host,
        requested_node=None,
        force_host=False,
    )


def place(run: Run) -> Output:
    """Choose a host of the other cell, but none that failed or still has to clean up after this server."""
    services: Services = run.services
    cell = run.params.target_cell
    retreats: Any = run.outputs.get("retreats", ())
    unclean = services.cell(cell).read(lambda tx: cleanup.hosts_of_server(tx, run.resource))
    avoid = {*(str(n["host"]) for n in retreats), *unclean}
    asked = wanted(services, run.params, there.source_row(run))
    return services.scheduling.place_again(asked, cell, avoid)


def claim(tx: Tx, run: Run, output: Output) -> None:
    """Claim it, in the transaction of the choice."""
    run.services.scheduling.claim(tx, run.resource, output)


def unclaim(tx: Tx, run: Run) -> None:
    """Give the claim back; fine when there is none."""
    run.services.scheduling.release(tx, run.resource)


def copy_records(run: Run) -> Output:
    """Put a complete hidden copy into the other cell, in one transaction."""
    there.put_copy(run)
    return {}


def bind(run: Run) -> Output:
    """Bind the ports to the host, and let it reach the volumes. Raises NotYet while that is prepared."""
    host = there.target_host(run)
    run.services.network.bind_ports(run.resource, host)
    server_volumes.connect_all(run.services, there.target_row(run), host)
    return {}


def order_guest(run: Run) -> Order:
    """Have the host make the guest of its image, or of its volume."""
    host = there.target_host(run)
    payload = server_unshelve.again(run.services, there.target_row(run), host)
    return guest_orders.order(run, host, "guest_build", payload, server_unshelve.BUILD_S)


def failed(run: Run, answer: Answer) -> None:
    """Go to another host when the fault is this one's."""
    message = answer.message or "The host could not build the server."
    if answer.elsewhere and run.params.to_host is None:
        note = {"host": there.target_host(run), "why": message}
        raise Retreat(message, to="place", note=note, details=answer.details)
    raise StepFailed(message, details=answer.details)


def show(run: Run) -> Output:
    """Complete the copy, as the guest now is; it is not hidden any more. Remember which image goes."""
    guest, source = run.outputs["guest"], there.source_row(run)
    server_volumes.complete_all(run.services, there.target_row(run))

    def put(tx: Tx) -> None:
        there.refresh_copy(tx, run, source)
        columns: dict[str, Any] = {"system_metadata": shelving.with_shelved(source, None)}
        if run.params.unpin or run.params.zone is not None:
            columns["requested_zone"] = run.params.zone
        servers.set_columns(
            tx,
            run.resource,
            vm_state=states.ACTIVE,
            power_state=guest["power_state"],
            hardware=guest["hardware"],
            devices=guest["devices"],
            updated_at=run.services.now(),
            **columns,
        )
        move.hide(tx, run.resource, False)

    cross_cell.in_cell(run, there.target_cell(run), put)
    return {"image": shelving.shelved_image(source)}


def finish(run: Run) -> Output:
    """Delete the image; what was written to it is on the host now."""
    now, image = run.services.now(), run.outputs["show"]["image"]
    if image is not None:
        run.services.images.delete(image)

    def put(tx: Tx) -> None:
        row = servers.find(tx, run.resource)
        if row is not None and actions.stands(tx, run.operation) == "open":
            power = row["power_state"]
            servers.settle(tx, run.resource, vm_state=row["vm_state"], power_state=power, now=now)
        cross_cell.event(tx, run, "compute_unshelve_instance", there.target_host(run))
        actions.finish(tx, run.operation, now)

    cross_cell.in_cell(run, there.target_cell(run), put)
    return {}


def unwound(run: Run) -> None:
    """Shelved as before."""
    cross_cell.give_up(run, run.params.source_cell, "error")


def unbind(run: Run) -> None:
    """Let the ports go from every host."""
    run.services.network.bind_ports(run.resource, None)


_ONLY_ON = NoUndo("past the point of no return")
SAGA = register(
    Saga(
        kind=KIND,
        version=1,
        params=UnshelveAway,
        steps=(
            Step("begin", there.begin, NoUndo("the end of the unwind does it"), 30.0),
            Step(
                "place",
                place,
                NoUndo("the claim is a row of home: unclaim takes it back"),
                60.0,
                record=claim,
                unrecord=unclaim,
            ),
            Step("records", copy_records, there.remove_copy, 60.0),
            Step("ports", bind, unbind, cross_cell.CONNECT_S),
            Ask(
                "guest",
                order_guest,
                built,
                order_unbuild,
                server_unshelve.BUILD_S,
                failed=failed,
                park=hold,
                park_outside=cleanup.park,
                queue="build",
            ),
            Step("show", show, there.unshow, 60.0),
            there.SWAP,
            Step("source", there.leave_source, _ONLY_ON, 60.0),
            Step("finish", finish, _ONLY_ON, 60.0),
        ),
        unwound=unwound,
    )
)


def start(
    services: Services,
    ctx: Context,
    found: Found,
    *,
    zone: str | None = None,
    unpin: bool = False,
    host: str | None = None,
) -> str | None:
    """Accept an unshelve into another cell; return the operation's id. The caller was asked for the policy.

    None: it is on its host still, or the scheduler prefers its own cell, or finds no host at all: server_unshelve.py
    says what is wrong then. Raises Conflict (locked, state).
    """
    row, cell = found.row, found.mapping["cell"]
    if row is None or row["vm_state"] != states.SHELVED_OFFLOADED:
        return None
    accept.check_lock(ctx, found)
    accept.startable(found, states.TRANSITIONS[KIND])
    asked: dict[str, Any] = {"zone": zone, "unpin": unpin, "to_host": host}
    params = UnshelveAway(server_id=found.id, **asked)
    target = there.cell_of_choice(services, wanted(services, params, row), cell, set())
    if target in (None, cell):
        return None
    more = {**asked, "source_cell": cell, "target_cell": target}
    more["old_flavor"] = resizing.flavor_of(row["flavor"])
    return cross_cell.take(services, ctx, cross_cell.Wanted(SAGA, found, more))
