"""The two ends of a live migration: where it goes, what it claims there, how it is reached there."""

from typing import Any

import msgspec

from kilonova.common.errors import NotFound
from kilonova.db import mappings, migrations
from kilonova.db.engine import Row, Tx
from kilonova.objects.base import decode
from kilonova.objects.server import (
    CrossCellParams,
    DiskRequest,
    FlavorRecord,
    LiveMigrateParams,
    RequestedServer,
)
from kilonova.operations import guest_orders, server_disks, server_volumes
from kilonova.operations.services import Services
from kilonova.placement import allocations
from kilonova.saga import journal
from kilonova.saga.definition import Output, Run, StepFailed
from kilonova.scheduler.select import NoValidHost


def source_of(run: Run) -> str:
    """Return the host that the server comes from."""
    return str(run.params.host)


def target_of(run: Run) -> str:
    """Return the host that was chosen."""
    return str(run.outputs["place"]["host"])


def cell_of(run: Run) -> str:
    """Return the cell that has the server's record at this step: home, unless it moves to another cell."""
    if not isinstance(run.params, CrossCellParams):
        return run.home
    return str(run.outputs["place"]["cell"] if "migrate" in run.outputs else run.params.source_cell)


def row_of(run: Run) -> Row:
    """Return the server's record."""
    return guest_orders.server_row(run.services, cell_of(run), run.resource)


def wanted(mapping: Row, row: Row, params: LiveMigrateParams) -> RequestedServer:
    """Return what the scheduler is asked."""
    requested = decode(mapping["requested"], RequestedServer)
    return requested.replace(
        flavor=msgspec.json.decode(row["flavor"], type=FlavorRecord),
        image=guest_orders.system_of(row).image,
        availability_zone=None if params.force else row["requested_zone"],
        requested_host=params.to_host,
        requested_node=None,
        force_host=params.force,
    )


def decide(
    services: Services, cell: str, asked: RequestedServer, avoid: set[str]
) -> dict[str, Any]:
    """Return where it would go, claiming nothing. Raises NoValidHost."""
    return services.scheduling.place_again(asked, cell, avoid=avoid)


def _mapping(run: Run) -> Row:
    services: Services = run.services
    mapping = services.world.read(lambda tx: mappings.find(tx, run.resource))
    if mapping is None:
        raise NotFound(f"Instance {run.resource} could not be found.")
    return mapping


def place(run: Run) -> Output:
    """Choose another host and claim it; done again after it had claimed, it gives that back first."""
    services: Services = run.services
    row = guest_orders.server_row(services, run.home, run.resource)
    source, migration = str(run.params.host), run.params.migration
    retreats: Any = run.outputs.get("retreats", ())
    avoid = {source, *(str(note["host"]) for note in retreats)}
    try:
        chosen = decide(services, run.home, wanted(_mapping(run), row, run.params), avoid)
    except NoValidHost as exc:
        if not retreats:
            raise
        raise StepFailed(str(retreats[-1]["why"]), tried=len(retreats)) from exc

    def claim(tx: Tx) -> None:
        journal.fence_foreign(tx, run.operation, run.fence, run.seq)
        if allocations.held_by(tx, migration):
            services.scheduling.release(tx, run.resource)
        else:
            services.scheduling.hand_over(tx, run.resource, migration, "MIGRATION")
        services.scheduling.claim(tx, run.resource, chosen)
        mappings.place(tx, run.resource, cell=run.home, host=chosen["host"], now=services.now())

    services.world.write(claim)
    return {k: chosen[k] for k in ("host", "node", "zone")}


def placed(tx: Tx, run: Run, output: Output) -> None:
    """Say where the migration goes."""
    now, migration = run.services.now(), run.params.migration
    migrations.set_dest(tx, migration, output["host"], output["node"], now)
    migrations.set_status(tx, migration, "preparing", now)


def unplace(run: Run) -> None:
    """Let the server hold what it held before; fine when nothing was claimed."""
    services: Services = run.services
    source, migration = str(run.params.host), run.params.migration

    def put_back(tx: Tx) -> None:
        journal.fence_foreign(tx, run.operation, run.fence, run.seq)
        if allocations.held_by(tx, migration):
            services.scheduling.release(tx, run.resource)
            services.scheduling.hand_over(tx, migration, run.resource, "INSTANCE")
        mappings.place(tx, run.resource, cell=run.home, host=source, now=services.now())

    services.world.write(put_back)


# -- how it is reached


def reach(run: Run) -> Output:
    """Let the destination have the ports, inactive, and reach the volumes. Raises NotYet while that is prepared."""
    services: Services = run.services
    target, row = target_of(run), row_of(run)
    if services.network.binding_extended:
        services.network.add_bindings(run.resource, target)
    made: dict[str, str] = {}
    for disk in server_disks.of_row(row):
        if disk.attachment_id is None:
            continue
        again = services.volumes.ensure_attachment(
            _key(run, disk),
            volume_id=str(disk.volume_id),
            server_id=run.resource,
            mode=_mode(services, run.resource, disk.attachment_id),
        )
        made[disk.attachment_id] = again.id
    for attachment in made.values():
        server_volumes.connect(services, attachment, target, moves=True)
    return {"attachments": made, "plugged": services.network.binding_extended}


def _key(run: Run, disk: DiskRequest) -> tuple[str, str]:
    return (run.operation, f"move:{disk.volume_id}")


def _mode(services: Services, server_id: str, attachment_id: str) -> str:
    held = services.volumes.attachments_of([server_id]).get(server_id, [])
    return next((a.mode for a in held if a.id == attachment_id), "rw")


def unreach(run: Run) -> None:
    """Take the second bindings and attachments away."""
    services: Services = run.services
    where = run.outputs.get("place")
    if where is not None and services.network.binding_extended:
        services.network.delete_bindings(run.resource, str(where["host"]))
    row = row_of(run)
    for disk in server_disks.of_row(row):
        services.volumes.remove_attachment(key=_key(run, disk))


def disks_there(run: Run, row: Row) -> str:
    """Return a row's disks with the attachments of the destination; those that have them already stay as they are."""
    new = run.outputs["reach"]["attachments"]
    disks = [
        d.replace(attachment_id=new.get(d.attachment_id, d.attachment_id))
        for d in server_disks.read(row)
    ]
    return server_disks.write(disks)


def ports_of(run: Run) -> tuple[str, ...]:
    """Return the ids of the server's ports."""
    services: Services = run.services
    found = services.network.ports_of([run.resource]).get(run.resource, [])
    return tuple(p.port_id for p in found)
