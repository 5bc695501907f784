"""Bring a shelved server back: unshelve. One that is on its host is started there; else it is placed anew.

place      decide on a host of its cell, claim it, and name it in the mapping
ports      its ports are bound there, its volumes can be reached there
guest      the host makes the guest of the image that keeps its root disk, or starts it
active     the record says where it is: from here on only forward
image      the image is deleted

A host that is itself to blame sends it back to ``place``, without that host. Undone, it is shelved as before.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from kilonova.common.context import Context
from kilonova.common.errors import BadRequest, Conflict, NotFound
from kilonova.db import mappings
from kilonova.db.engine import Row, Tx
from kilonova.objects.base import decode
from kilonova.objects.guest import (
    GuestBuild,
    GuestBuilt,
    GuestDelete,
    GuestPower,
    GuestState,
    PowerAction,
)
from kilonova.objects.order import Answer, Direction, Order, unpack
from kilonova.objects.server import DiskRequest, RequestedServer, UnshelveParams
from kilonova.operations import (
    accept,
    guest_orders,
    images,
    server_volumes,
    settling,
    shelving,
    states,
)
from kilonova.operations.accept import Found, check_lock
from kilonova.operations.cleanup import park
from kilonova.operations.services import Services
from kilonova.saga import journal
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

TRANSITION = states.TRANSITIONS["server_unshelve"]
BUILD_S = 1800.0


def start(
    services: Services,
    ctx: Context,
    found: Found,
    *,
    zone: str | None = None,
    unpin: bool = False,
    host: str | None = None,
) -> str:
    """Accept an unshelve. zone: where it shall be pinned; unpin: to none. host: exactly there.

    Raises Conflict: the state does not allow it; BadRequest: an unknown zone or host.
    """
    check_lock(ctx, found)
    row = accept.startable(found, TRANSITION)
    placed = row["vm_state"] == states.SHELVED
    if placed and (zone is not None or unpin or host is not None):
        what = "host" if host is not None else "availability zone"
        raise Conflict(
            f"Specifying a {what} when unshelving server {found.id} with status SHELVED is not "
            "supported: it must be SHELVED_OFFLOADED."
        )
    if zone is not None and zone not in services.scheduling.zones():
        raise BadRequest("The requested availability zone is not available")
    if host is not None and services.hosts.find(host) is None:
        raise BadRequest(f"Compute host {host[:80]} could not be found.")
    return accept.on_server(
        services, ctx, SAGA, found, TRANSITION, zone=zone, unpin=unpin, to_host=host, placed=placed
    )


def is_placed(params: UnshelveParams, outputs: Mapping[str, Output]) -> bool:
    """Tell whether the server is on its host still."""
    return params.placed


def begin(run: Run) -> Output:
    """Nothing is done yet; the steps that follow may be left out."""
    return {}


def place(run: Run) -> Output:
    """Choose and claim a host, in one global transaction with the mapping. Done again, it finds what it chose."""
    services: Services = run.services
    row = guest_orders.server_row(services, run.home, run.resource)
    retreats: Any = run.outputs.get("retreats", ())
    chosen = services.scheduling.place_again(
        wanted(run, row), run.home, avoid={str(note["host"]) for note in retreats}
    )

    def claim(tx: Tx) -> None:
        journal.fence_foreign(tx, run.operation, run.fence, run.seq)
        services.scheduling.claim(tx, run.resource, chosen)
        if not mappings.place(
            tx, run.resource, cell=run.home, host=chosen["host"], now=services.now()
        ):
            raise NotFound(f"Instance {run.resource} could not be found.")

    services.world.write(claim)
    return {k: chosen[k] for k in ("host", "node", "zone")}


def wanted(run: Run, row: Row) -> RequestedServer:
    """Return what the scheduler is asked: the server as it was asked for, with what has changed since."""
    services: Services = run.services
    mapping = services.world.read(lambda tx: mappings.find(tx, run.resource))
    if mapping is None:
        raise NotFound(f"Instance {run.resource} could not be found.")
    requested = decode(mapping["requested"], RequestedServer)
    p: UnshelveParams = run.params
    return requested.replace(
        flavor=msgspec.json.decode(row["flavor"], type=type(requested.flavor)),
        image=guest_orders.system_of(row).image,
        availability_zone=None if p.unpin else p.zone or row["requested_zone"],
        requested_host=p.to_host,
        requested_node=None,
        force_host=False,
    )


def unplace(run: Run) -> None:
    """Give the claim back; the mapping names no host."""
    services: Services = run.services

    def release(tx: Tx) -> None:
        journal.fence_foreign(tx, run.operation, run.fence, run.seq)
        services.scheduling.release(tx, run.resource)
        mappings.place(tx, run.resource, cell=run.home, host=None, now=services.now())

    services.world.write(release)


def bind(run: Run) -> Output:
    """Bind the ports to the chosen host, and let it reach the volumes. Raises NotYet while that is prepared."""
    services: Services = run.services
    host = run.outputs["place"]["host"]
    services.network.bind_ports(run.resource, host)
    row = guest_orders.server_row(services, run.home, run.resource)
    server_volumes.connect_all(services, row, host)
    return {}


def unbind(run: Run) -> None:
    """Let the ports go from every host."""
    services: Services = run.services
    services.network.bind_ports(run.resource, None)


def host_of(run: Run) -> str | None:
    """Return the host that the server comes to be on; None when none was chosen."""
    if run.params.placed:
        return str(run.params.host)
    where = run.outputs.get("place")
    return None if where is None else str(where["host"])


def order_guest(run: Run) -> Order:
    """Have the host start the guest, or make it of its image."""
    services: Services = run.services
    row = guest_orders.server_row(services, run.home, run.resource)
    host = str(host_of(run))
    if run.params.placed:
        build = guest_orders.build_of(services, row)
        payload = GuestPower(server_id=run.resource, action=PowerAction.START, build=build)
        return guest_orders.order(run, host, "guest_power", payload, 300.0)
    return guest_orders.order(run, host, "guest_build", again(services, row, host), BUILD_S)


def again(services: Services, row: Row, host: str) -> GuestBuild:
    """Return the guest on its new host, its root disk made of the image that kept it."""
    image_id = shelving.shelved_image(row)
    if image_id is None:  # it boots from a volume
        return guest_orders.build_of(services, {**dict(row), "host": host})
    image = services.images.find(image_id)
    if image is None or image.status != "active":
        raise Conflict("The image of the shelved server is gone.")
    kept = images.record(image)
    disks = [
        d.replace(image_id=image_id) if d.boot_index == 0 else d
        for d in msgspec.json.decode(row["disks"], type=list[DiskRequest])
    ]
    system = msgspec.structs.replace(guest_orders.system_of(row), image=kept)
    new = {
        **dict(row),
        "host": host,
        "disks": msgspec.json.encode(disks).decode(),
        "system_metadata": msgspec.json.encode(system).decode(),
    }
    build = guest_orders.build_of(services, new)
    return build.replace(metadata=build.metadata.replace(image_id=row["image_id"] or None))


def made(run: Run, answer: Answer) -> Output:
    """Keep what the host says."""
    if run.params.placed:
        return {"power_state": unpack(answer.body, GuestState).power_state}
    result = unpack(answer.body, GuestBuilt)
    return {
        "power_state": result.power_state,
        "hardware": msgspec.json.encode(result.hardware).decode(),
        "devices": msgspec.json.encode(result.devices).decode(),
    }


def failed(run: Run, answer: Answer) -> None:
    """Go to another host when the fault is this one's."""
    message = answer.message or "The host could not build the server."
    if answer.elsewhere and not run.params.placed and run.params.to_host is None:
        note = {"host": host_of(run), "why": message}
        raise Retreat(message, to="place", note=note, details=answer.details)
    raise StepFailed(message, details=answer.details)


def order_unmake(run: Run) -> Order | None:
    """Have the host remove what it made, or turn off what it started."""
    host = host_of(run)
    if host is None:
        return None
    if run.params.placed:
        off = GuestPower(server_id=run.resource, action=PowerAction.STOP, timeout_s=0.0)
        return guest_orders.order(run, host, "guest_power", off, 120.0, Direction.UNDO)
    payload = GuestDelete(server_id=run.resource)
    return guest_orders.order(run, host, "guest_build", payload, 120.0, Direction.UNDO)


def show_active(tx: Tx, run: Run, output: Output) -> None:
    """ACTIVE, where it is now."""
    row = guest_orders.row_in(tx, run.resource)
    result = run.outputs["guest"]
    columns: dict[str, Any] = {"system_metadata": shelving.with_shelved(row, None)}
    if not run.params.placed:
        where = run.outputs["place"]
        columns |= {"host": where["host"], "node": where["node"]}
        columns |= {"availability_zone": where["zone"]}
        columns |= {"hardware": result["hardware"], "devices": result["devices"]}
        if run.params.unpin or run.params.zone is not None:
            columns["requested_zone"] = run.params.zone
    settling.succeed(
        tx,
        run,
        TRANSITION,
        vm_state=states.ACTIVE,
        power_state=result["power_state"],
        **columns,
    )


def note_image(run: Run) -> Output:
    """Say that the volumes are in use; remember which image goes: the record forgets it with this step."""
    row = guest_orders.server_row(run.services, run.home, run.resource)
    server_volumes.complete_all(run.services, row)
    return {"image": shelving.shelved_image(row)}


def drop_image(run: Run) -> Output:
    """Delete the image; what was written to it is on the host now."""
    services: Services = run.services
    image = run.outputs["active"]["image"]
    if image is not None:
        services.images.delete(image)
    return {}


def fail(tx: Tx, run: Run) -> None:
    """Shelved as before."""
    settling.fail(tx, run, TRANSITION)


SAGA = register(
    Saga(
        kind="server_unshelve",
        version=1,
        params=UnshelveParams,
        steps=(
            Step("begin", begin, NoUndo("does nothing"), 10.0),
            Step("place", place, unplace, 30.0, skip=is_placed),
            Step("ports", bind, unbind, 60.0, skip=is_placed),
            Ask(
                "guest",
                order_guest,
                made,
                order_unmake,
                BUILD_S,
                failed=failed,
                park_outside=park,
                queue="build",
            ),
            Step(
                "active",
                note_image,
                NoUndo("the record changes last"),
                30.0,
                record=show_active,
                point_of_no_return=True,
            ),
            Step("image", drop_image, NoUndo("the image is not needed any more"), 60.0),
        ),
        unwound_record=fail,
    )
)
