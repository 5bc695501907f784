"""What resize, confirm and revert share: the two claims, the disks of a flavor, the rows as they were.

Between a resize and its confirm or revert the server holds its new size and the migration its old one.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from kilonova.common.errors import BadRequest, Conflict
from kilonova.db import mappings, migrations
from kilonova.db.engine import Row, Tx
from kilonova.objects.server import DiskRequest, FlavorRecord, ResizeParams
from kilonova.operations.accept import Found
from kilonova.operations.services import Services
from kilonova.placement import allocations
from kilonova.saga import journal
from kilonova.saga.definition import Run

DEADLINE_S = 1800.0
_decode = msgspec.json.decode
_encode = msgspec.json.encode


def waiting_migration(services: Services, found: Found) -> Row:
    """Return the migration that waits for confirm or revert. BadRequest, in Nova's words, when none does."""
    home = services.cell(found.mapping["cell"])
    row = home.read(lambda tx: migrations.waiting(tx, found.id))
    if row is None:
        raise BadRequest("Instance has not been resized.")
    return row


def check_host(services: Services, row: Row) -> None:
    """Raise Conflict, in Nova's words, when the server's host is down: its disks cannot be had."""
    if not services.hosts.is_up(row["host"]):
        raise Conflict("Service is unavailable at this time.")


def source_of(migration: Row, row: Row) -> str | None:
    """Return the host that a server came from, None when it is still there."""
    source: str = migration["source_host"]
    return None if source == row["host"] else source


class Move(NamedTuple):
    """What a migration record says of a move. kind: as the API has it. flavor: None when it stays the same."""

    uuid: str
    kind: str
    flavor: FlavorRecord | None = None
    status: str = "pre-migrating"
    dest_host: str | None = None


def remember(tx: Tx, found: Found, row: Row, move: Move, *, operation: str, now: float) -> None:
    """Write the migration, with what the server was."""
    migrations.add(
        tx,
        uuid=move.uuid,
        server=found.id,
        project_id=found.mapping["project_id"],
        user_id=found.mapping["user_id"],
        operation=operation,
        kind=move.kind,
        status=move.status,
        source_host=row["host"],
        source_node=row["node"] or row["host"],
        dest_host=move.dest_host,
        old_flavor=row["flavor"],
        new_flavor=row["flavor"] if move.flavor is None else _encode(move.flavor).decode(),
        old_disks=row["disks"],
        old_vm_state=row["vm_state"],
        created_at=now,
        updated_at=now,
    )


def new_flavor(params: ResizeParams) -> FlavorRecord:
    """Return the flavor that the server gets."""
    if params.new_flavor is None:
        raise Conflict("The move names no flavor.")
    return params.new_flavor


def flavor_of(text: str) -> FlavorRecord:
    """Return an encoded flavor."""
    return _decode(text, type=FlavorRecord)


def disks_for(
    disks: Sequence[DiskRequest], old: FlavorRecord, new: FlavorRecord
) -> tuple[DiskRequest, ...]:
    """Return a server's disks under another flavor: what the old one sized follows the new one; volumes stay."""
    out = []
    for d in disks:
        if d.destination != "local":
            out.append(d)
        elif d.name == "root":
            out.append(d.replace(size_gib=max(new.root_gib, 0)))
        elif d.name == "swap" and d.size_mib == old.swap_mib:
            if new.swap_mib:
                out.append(d.replace(size_mib=new.swap_mib))
        elif d.name == "ephemeral0" and d.size_gib == old.ephemeral_gib:
            if new.ephemeral_gib:
                out.append(d.replace(size_gib=new.ephemeral_gib))
        else:
            out.append(d)
    names = {d.name for d in out}
    bus = next((d.bus for d in disks if d.boot_index == 0), None)
    if new.ephemeral_gib and not old.ephemeral_gib and "ephemeral0" not in names:
        out.append(
            DiskRequest(source="blank", size_gib=new.ephemeral_gib, bus=bus, name="ephemeral0")
        )
    if new.swap_mib and not old.swap_mib and "swap" not in names:
        out.append(
            DiskRequest(
                source="blank", size_mib=new.swap_mib, bus=bus, guest_format="swap", name="swap"
            )
        )
    return tuple(out)


def merged_disks(kept: str, now: str) -> tuple[DiskRequest, ...]:
    """Return the local disks as they were and the volumes as they are: attaching went on meanwhile."""
    was = _decode(kept, type=list[DiskRequest])
    have = _decode(now, type=list[DiskRequest])
    local = [d for d in was if d.destination == "local"]
    volumes = [d for d in have if d.destination != "local"]
    return tuple(sorted([*local, *volumes], key=lambda d: d.boot_index != 0))


def encoded(disks: Sequence[DiskRequest]) -> str:
    """Return disks as a row keeps them."""
    return _encode(msgspec.to_builtins(disks)).decode()


def as_row(row: Row, flavor: FlavorRecord, disks: Sequence[DiskRequest]) -> dict[str, Any]:
    """Return a server's row as it reads in another size."""
    return {**dict(row), "flavor": _encode(flavor).decode(), "disks": encoded(disks)}


def give_back(run: Run) -> None:
    """Let the server hold what it held before, where it was; fine when nothing was claimed. The quota follows."""
    services: Services = run.services
    migration, old = run.params.migration, run.params.old_flavor
    back = run.params.from_host or run.params.host

    def put(tx: Tx) -> None:
        journal.fence_foreign(tx, run.operation, run.fence, run.seq)
        if allocations.held_by(tx, migration):
            services.scheduling.release(tx, run.resource)
            services.scheduling.hand_over(tx, migration, run.resource, "INSTANCE")
        mappings.place(tx, run.resource, cell=run.home, host=back, now=services.now())
        mappings.set_size(tx, run.resource, old.vcpus, old.memory_mib, services.now())

    services.world.write(put)


def is_volume_backed(disks: Sequence[DiskRequest]) -> bool:
    """Tell whether a server boots from a volume."""
    return any(d.boot_index == 0 and d.destination == "volume" for d in disks)
