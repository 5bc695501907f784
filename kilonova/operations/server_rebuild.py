"""Make a server anew on its host, of the same or of another image: rebuild.

check     every filter is asked again about the server's host, when the image is another one (RELIABILITY S26)
off, root, reimage   of a server that boots from a volume, from 2.93 on: rebuild_volume.py
guest     the host makes new disks, exchanges them, and starts the guest
in_use    of such a server: its root volume is in use again
forget    the old disks are removed, and the record says what the server is now

Addresses, ports, other volumes, tags, flavor and host stay. Until the guest runs with its new disks all is taken back:
the old disks are only aside.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from kilonova.common.context import Context
from kilonova.common.errors import BadRequest
from kilonova.common.ids import new_uuid
from kilonova.common.secret import Secret
from kilonova.db import keypairs, secrets
from kilonova.db.engine import Row, Tx
from kilonova.objects.guest import GuestBuild, PowerState
from kilonova.objects.image import Image
from kilonova.objects.order import Order
from kilonova.objects.server import DiskRequest, FlavorRecord, ImageRecord, RebuildParams
from kilonova.operations import (
    accept,
    guest_orders,
    host_devices,
    images,
    rebuild_volume,
    remakes,
    server_disks,
    settling,
    snapshots,
    states,
)
from kilonova.operations.accept import Also, Found, check_lock
from kilonova.operations.cleanup import park
from kilonova.operations.services import Services
from kilonova.saga.definition import Ask, NoUndo, Output, Run, Saga, Step, register

TRANSITION = states.TRANSITIONS["server_rebuild"]
_encode, _decode = msgspec.json.encode, msgspec.json.decode


@dataclass(frozen=True)
class Rebuild:
    """What a caller asks for. columns: the row's columns that change. user_data: base64, "" takes it away.

    key_name: "" takes the key away. reimage: a volume that the server boots from is written anew (2.93).
    """

    image_ref: str
    admin_password: str
    columns: Mapping[str, Any]
    preserve_ephemeral: bool = False
    key_name: str | None = None
    user_data: str | None = None
    reimage: bool = False


def start(services: Services, ctx: Context, found: Found, asked: Rebuild) -> dict[str, Any]:
    """Accept a rebuild; return the columns that the server will have. Raises Conflict, BadRequest, QuotaExceeded."""
    check_lock(ctx, found)
    row = accept.startable(found, TRANSITION)
    trusted = images.trusted_of({**dict(row), **asked.columns})
    source = images.usable(services, ctx, asked.image_ref, trusted)
    image = images.record(source)
    reimages = _reimages(services, row, source, asked)
    flavor = _decode(row["flavor"], type=FlavorRecord)
    images.check_memory(source, flavor)
    if not snapshots.is_volume_backed(row):
        images.check_disk(source, flavor)
    _check_nodes(row, flavor, image)
    columns = dict(asked.columns)
    if "metadata" in columns:
        snapshots.check_metadata(services, found, columns["metadata"])
        columns["metadata"] = _encode(columns["metadata"]).decode()
    if asked.key_name is not None:
        columns |= _key(services, str(ctx.user_id), asked.key_name)
    refs = {"password": new_uuid()}
    if asked.user_data is not None:
        refs |= {"user_data": new_uuid()} if asked.user_data else {}
        columns["user_data"] = refs.get("user_data")

    def keep(tx: Tx, operation: str) -> None:
        given = {"password": asked.admin_password, "user_data": asked.user_data or ""}
        for kind, ref in refs.items():
            value, now = Secret(given[kind]), services.now()
            services.vault.put(tx, owner=operation, kind=kind, value=value, now=now, id_=ref)

    accept.on_server(
        services,
        ctx,
        SAGA,
        found,
        TRANSITION,
        Also(home=keep),
        image=image,
        columns=_encode(columns).decode(),
        password=refs["password"],
        preserve_ephemeral=asked.preserve_ephemeral,
        reimage=reimages,
    )
    return {**columns, "image_id": image.id if row["image_id"] else ""}


def _check_nodes(row: Row, flavor: FlavorRecord, image: ImageRecord) -> None:
    """Refuse an image that asks for other NUMA nodes: what the server holds of its host stays. BadRequest."""
    now = host_devices.cells_of(flavor, guest_orders.system_of(row).image)
    if host_devices.cells_of(flavor, image) != now:
        raise BadRequest(
            "An instance's NUMA topology cannot be changed as part of a rebuild. "
            "The image provided is invalid for this instance."
        )


def _reimages(services: Services, row: Row, image: Image, asked: Rebuild) -> bool:
    """Tell whether the server boots from a volume that is to be written anew.

    BadRequest: before 2.93 its image is the one that the volume was made from.
    """
    root = next((d for d in server_disks.read(row) if server_disks.is_root(d)), None)
    if root is None or root.destination != "volume":
        return False
    if asked.reimage:
        rebuild_volume.check(services, root, image)
        return True
    volume = services.volumes.find(str(root.volume_id))
    if volume is None or volume.image.get("image_id") != image.id:
        raise BadRequest("Unable to rebuild with a different image for a volume-backed server.")
    return False


def _key(services: Services, user: str, name: str) -> dict[str, Any]:
    if not name:
        return {"key_name": None, "keys": "[]"}
    row = services.world.read(lambda tx: keypairs.find(tx, user, name))
    if row is None:
        raise BadRequest("Invalid key_name provided.")
    keys = [(row["name"], row["type"], row["public_key"])]
    return {"key_name": name, "keys": _encode(keys).decode()}


# -- the steps


def check(run: Run) -> Output:
    """Ask every filter about the host that the server is on. Raises NoValidHost."""
    services: Services = run.services
    row = remakes.row_of(run)
    own = guest_orders.system_of(row).image
    if own is None or own.id != run.params.image.id:
        services.scheduling.check_rebuild(row, run.params.image)
    return {"ran": row["power_state"] == PowerState.RUNNING}


def becoming(run: Run, row: Row, generation: int) -> dict[str, Any]:
    """Return the row as it will be."""
    new = {**dict(row), **_decode(run.params.columns)}
    new["metadata_generation"] = row["metadata_generation"] + generation
    image: ImageRecord = run.params.image
    system = guest_orders.system_of(row)
    if snapshots.is_volume_backed(row):
        if run.params.reimage:
            of_volume = msgspec.structs.replace(system, image=image.replace(id="", size=0))
            new |= {"hardware": "{}", "system_metadata": _encode(of_volume).decode()}
        return new
    if system.image is None or system.image.id != image.id:
        new["hardware"] = "{}"  # another image may ask for another
    disks = _decode(row["disks"], type=list[DiskRequest])
    new["disks"] = _encode(
        [d.replace(image_id=image.id) if d.boot_index == 0 else d for d in disks]
    ).decode()
    new["system_metadata"] = _encode(msgspec.structs.replace(system, image=image)).decode()
    new["image_id"] = image.id
    return new


def order_rebuild(run: Run) -> Order:
    """Have the host make the guest anew. One that was off stays off."""
    services: Services = run.services
    row = remakes.row_of(run)
    home = services.home(run.home)
    password = home.read(lambda tx: services.vault.get(tx, run.params.password)).reveal()
    build = guest_orders.build_of(
        services,
        becoming(run, row, 1),
        start=run.params.previous_vm_state != states.STOPPED,
        admin_password=password,
    )
    anew = _anew(row, build, run.params.preserve_ephemeral)
    return remakes.remake(run, row, build, anew=anew, drive=run.params.reimage)


def _anew(row: Row, build: GuestBuild, preserve_ephemeral: bool) -> tuple[str, ...]:
    names = [d.name for d in _decode(row["disks"], type=list[DiskRequest]) if d.volume_id is None]
    local = {d.name for d in build.disks}
    kept = "ephemeral" if preserve_ephemeral else "-"
    return tuple(n for n in names if n in local and not n.startswith(kept))


def order_restore(run: Run) -> Order:
    """Have the host make the guest what it was."""
    row = remakes.row_of(run)
    ran = run.outputs["check"]["ran"]
    before = {**dict(row), "metadata_generation": row["metadata_generation"] + 2}
    build = guest_orders.build_of(run.services, before, start=ran)
    return remakes.restore(run, row, build)


def finish(tx: Tx, run: Run, output: Output) -> None:
    """Write the row as it is now; the secrets of the operation end, but those that the server goes on with."""
    row = guest_orders.row_in(tx, run.resource)
    new = becoming(run, row, 1)
    made = run.outputs["guest"]
    names = ("disks", "system_metadata", "image_id", "metadata_generation")
    columns = {n: new[n] for n in (*names, *_decode(run.params.columns))}
    if new["user_data"] != row["user_data"]:
        if row["user_data"]:
            secrets.drop_one(tx, row["user_data"])
        if new["user_data"]:
            secrets.give(tx, new["user_data"], run.resource)
    secrets.drop(tx, run.operation)
    stopped = run.params.previous_vm_state == states.STOPPED
    settling.succeed(
        tx,
        run,
        TRANSITION,
        vm_state=states.STOPPED if stopped else states.ACTIVE,
        power_state=made["power_state"],
        hardware=made["hardware"],
        devices=made["devices"],
        launched_at=run.services.now(),
        **columns,
    )


def fail(tx: Tx, run: Run) -> None:
    """The server is what it was; the guest's document has been told twice."""
    secrets.drop(tx, run.operation)
    row = guest_orders.row_in(tx, run.resource)
    settling.fail(
        tx,
        run,
        TRANSITION,
        vm_state=states.ERROR if row["vm_state"] == states.ERROR else None,
        metadata_generation=row["metadata_generation"] + 2,
    )


SAGA = register(
    Saga(
        kind="server_rebuild",
        version=1,
        params=RebuildParams,
        steps=(
            Step("check", check, NoUndo("only looks"), 30.0),
            Ask(
                "off",
                rebuild_volume.order_off,
                rebuild_volume.is_off,
                rebuild_volume.order_on,
                rebuild_volume.OFF_S,
                park_outside=park,
                skip=rebuild_volume.left_out,
            ),
            Step(
                "root",
                rebuild_volume.detach,
                rebuild_volume.attach_again,
                60.0,
                record=rebuild_volume.put_attachment,
                skip=rebuild_volume.left_out,
            ),
            Step(
                "reimage",
                rebuild_volume.reimage,
                rebuild_volume.end_reimage,
                rebuild_volume.REIMAGE_S,
                skip=rebuild_volume.left_out,
            ),
            Ask(
                "guest",
                order_rebuild,
                remakes.made,
                order_restore,
                remakes.DEADLINE_S,
                park_outside=park,
                queue="build",
                point_of_no_return=True,
            ),
            Step(
                "in_use",
                rebuild_volume.in_use,
                NoUndo("forward only from here"),
                60.0,
                skip=rebuild_volume.left_out,
            ),
            Ask(
                "forget",
                remakes.forget,
                remakes.forgotten,
                NoUndo("the old disks are not needed any more"),
                300.0,
                record=finish,
                park_outside=park,
            ),
        ),
        unwound_record=fail,
    )
)
