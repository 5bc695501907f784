"""Create a server: from an accepted request to a running guest, or to ERROR with nothing left.

    place    decide on a host and claim it, with the mapping and the journal, in one global transaction
    ports    make or adopt the ports, bound to the host
    volumes  make the volumes that are asked for, reserve all, let the host reach them (left out when there are none)
    record   put the server into the host's cell, then point the mapping there
    build    the host makes the guest; a fault of the host itself tries another host
    in_use   the volumes are attached (left out when there are none)
    finish   ACTIVE

Home is the global database to the end. While the mapping names no cell, the server is rendered from the request. An
unwound create leaves one row in ``cell0``: ERROR, one fault, a failed action, and nothing else.
"""

from typing import Any

import msgspec

from kilonova.common.clock import iso
from kilonova.common.errors import NotFound
from kilonova.db import actions, mappings, secrets, servers
from kilonova.db.engine import Row, Tx
from kilonova.objects.base import decode, encode
from kilonova.objects.guest import GuestBuilt, GuestDelete, PowerState
from kilonova.objects.order import Answer, Direction, Order, unpack
from kilonova.objects.port import BoundPort
from kilonova.objects.server import NicRecord, RequestedServer, ServerParams
from kilonova.operations import guest_orders, rows, server_disks, states
from kilonova.operations import server_create_volumes as volumes
from kilonova.operations.addresses import addresses_json
from kilonova.operations.cleanup import hold_of, park
from kilonova.operations.services import CELL0, Services
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

_encode = msgspec.json.encode
BUILD_DEADLINE_S = 1800.0


def requested_of(run: Run) -> tuple[Row, RequestedServer]:
    """Return the mapping and what was asked for. NotFound when somebody removed it."""
    services: Services = run.services
    mapping = services.world.ask(lambda tx: mappings.find(tx, run.resource))
    if mapping is None:
        raise NotFound(f"Instance {run.resource} could not be found.")
    requested = decode(mapping["requested"], RequestedServer)
    run.memo["requested"] = requested
    return mapping, requested


def requested_before(run: Run) -> RequestedServer:
    """Return what was asked for, as an earlier step read it: its name may be an older one. NotFound."""
    found: RequestedServer | None = run.memo.get("requested")
    return found if found is not None else requested_of(run)[1]


def place(run: Run) -> Output:
    """Choose a host; the hosts that failed this server before are not looked at."""
    services: Services = run.services
    _, requested = requested_of(run)
    retreats: Any = run.outputs.get("retreats", ())
    return services.scheduling.place(requested, avoid={str(note["host"]) for note in retreats})


def claim(tx: Tx, run: Run, output: Output) -> None:
    """Claim the chosen host and name it in the mapping, in the transaction that journals the choice."""
    services: Services = run.services
    services.scheduling.claim(tx, run.resource, output)
    if not mappings.place(tx, run.resource, cell=None, host=output["host"], now=services.now()):
        raise NotFound(f"Instance {run.resource} could not be found.")


def unclaim(tx: Tx, run: Run) -> None:
    """Give the host's resources back; fine if they were never claimed."""
    services: Services = run.services
    services.scheduling.release(tx, run.resource)
    mappings.place(tx, run.resource, cell=None, host=None, now=services.now())


def make_ports(run: Run) -> Output:
    """Make or adopt one port per NIC, found again by its key (operation, item)."""
    services: Services = run.services
    requested = requested_before(run)
    where = run.outputs["place"]
    nics, ports = [], []
    for i, nic in enumerate(requested.nics):
        port = services.network.ensure_port(
            (run.operation, f"nic{i}"),
            project_id=requested.project_id,
            network_id=None if nic.port_id else nic.network_id,
            port_id=nic.port_id,
            device_id=requested.server_id,
            host=where["host"],
            availability_zone=where["zone"],
            hostname=requested.hostname,
            fixed_ip=nic.fixed_ip,
            security_groups=tuple(g for g, _ in requested.security_groups),
            tag=nic.tag,
        )
        nics.append(_nic_record(port, f"nic{i}", nic.tag))
        ports.append(port)
    return {"nics": msgspec.to_builtins(nics), "ports": msgspec.to_builtins(ports)}


def ports_of(run: Run) -> list[BoundPort]:
    """Return the ports as they were bound by ``make_ports``."""
    return msgspec.convert(run.outputs["ports"]["ports"], list[BoundPort])


def _nic_record(port: BoundPort, item: str, tag: str | None) -> NicRecord:
    return NicRecord(
        port_id=port.port_id,
        network_id=port.network_id,
        network_name=port.network_name,
        mac=port.mac,
        mtu=port.mtu,
        item=item,
        tag=tag,
        preserve=port.preserve_on_delete,
        vif_type=port.vif_type,
    )


def remove_ports(run: Run) -> None:
    """Remove every port that this operation made; a port of the user's is only let go."""
    services: Services = run.services
    requested = requested_before(run)
    for i in range(len(requested.nics)):
        services.network.remove_port((run.operation, f"nic{i}"))


def put_record(run: Run) -> Output:
    """Insert the server into the cell of its host."""
    services: Services = run.services
    _, requested = requested_of(run)
    where = run.outputs["place"]
    row = rows.row_of(requested)
    row.update(
        host=where["host"],
        node=where["node"],
        availability_zone=where["zone"],
        task_state="spawning",
        nics=_encode(run.outputs["ports"]["nics"]).decode(),
        **volumes.columns(run),
        addresses=addresses_json(ports_of(run)),
        updated_at=services.now(),
    )

    def insert(tx: Tx) -> None:
        journal.fence_foreign(tx, run.operation, run.fence, run.seq)
        if servers.add(tx, **row):
            if requested.tags:
                servers.set_tags(tx, run.resource, requested.tags, row["tags"], row["updated_at"])
            open_action(tx, run)
            if requested.user_data is not None:
                services.world.read(
                    lambda w: services.vault.move(
                        w, tx, str(requested.user_data), owner=run.resource
                    )
                )

    services.cell(where["cell"]).write(insert, guarded=True)
    return {"cell": where["cell"]}


def open_action(tx: Tx, run: Run) -> None:
    """Open the instance action of the create, as of its acceptance."""
    actions.begin(
        tx,
        operation=run.operation,
        server=run.resource,
        action="create",
        ctx=run.context,
        now=run.accepted_at,
    )


def point_mapping(tx: Tx, run: Run, output: Output) -> None:
    """Make the cell's row the one that is seen."""
    services: Services = run.services
    host = run.outputs["place"]["host"]
    mappings.point(tx, run.resource, cell=output["cell"], host=host, now=services.now())


def remove_record(run: Run) -> None:
    """Take the row out of the cell; until the mapping follows, the server is rendered from the request."""
    services: Services = run.services
    where = run.outputs.get("place")
    if where is None:
        return

    def remove(tx: Tx) -> None:
        journal.fence_foreign(tx, run.operation, run.fence, run.seq)
        servers.erase(tx, run.resource)
        actions.erase(tx, run.operation)
        secrets.drop(tx, run.resource)

    services.cell(where["cell"]).write(remove)


def unpoint_mapping(tx: Tx, run: Run) -> None:
    """The mapping names no cell again."""
    services: Services = run.services
    mappings.place(tx, run.resource, cell=None, host=None, now=services.now())


def order_build(run: Run) -> Order:
    """Describe the whole guest to its host."""
    services: Services = run.services
    where = run.outputs["place"]
    row = guest_orders.server_row(services, where["cell"], run.resource)
    requested = requested_before(run)
    password = None
    if requested.admin_password is not None:
        ref = requested.admin_password
        password = services.world.ask(lambda tx: services.vault.get(tx, ref)).reveal()
    build = guest_orders.build_of(services, row, ports=ports_of(run), admin_password=password)
    return guest_orders.order(run, where["host"], "guest_build", build, BUILD_DEADLINE_S)


def built(run: Run, answer: Answer) -> Output:
    """Keep what the host froze: power state, hardware, device addresses."""
    result = unpack(answer.body, GuestBuilt)
    return {
        "power_state": result.power_state,
        "hardware": _encode(result.hardware).decode(),
        "devices": _encode(result.devices).decode(),
    }


def build_failed(run: Run, answer: Answer) -> None:
    """Go to another host when the fault is this one's; at most three hosts in all."""
    message = answer.message or "The host could not build the server."
    if answer.elsewhere:
        note = {"host": run.outputs["place"]["host"], "why": message}
        raise Retreat(message, to="place", note=note, details=answer.details)
    raise StepFailed(message, details=answer.details)


def order_unbuild(run: Run) -> Order | None:
    """Have the host remove whatever it made."""
    where = run.outputs.get("place")
    if where is None:
        return None
    payload = GuestDelete(server_id=run.resource)
    return guest_orders.order(run, where["host"], "guest_build", payload, 120.0, Direction.UNDO)


def hold(tx: Tx, run: Run, order: Order) -> None:
    """The host did not confirm that it removed the guest: what was claimed of it stays claimed until it does."""
    services: Services = run.services
    keeper = hold_of(run.operation, order.host)
    services.scheduling.hand_over(tx, run.resource, keeper, "INSTANCE")


def finish(run: Run) -> Output:
    """Make the server ACTIVE; its row is final before the operation is closed.

    Done again, it leaves alone what the owner did with the server since.
    """
    services: Services = run.services
    where, result = run.outputs["place"], run.outputs["build"]
    now = services.now()

    def settle(tx: Tx) -> None:
        journal.fence_foreign(tx, run.operation, run.fence, run.seq)
        launched = servers.launch(
            tx,
            run.resource,
            power_state=result["power_state"],
            hardware=result["hardware"],
            devices=result["devices"],
            now=now,
        )
        if not launched:
            row = servers.find(tx, run.resource)
            if row is not None and row["launched_at"] is not None:
                return
        actions.event(
            tx,
            operation=run.operation,
            step="build",
            name="compute__do_build_and_run_instance",
            started=run.accepted_at,
            finished=now,
            ok=True,
            host=where["host"],
        )
        actions.finish(tx, run.operation, now)

    services.cell(where["cell"]).write(settle, guarded=True)
    return {"at": iso(now)}


def drop_secrets(tx: Tx, run: Run, output: Output) -> None:
    """The operation's secrets end with it; the cell has its own copy of the user data."""
    secrets.drop(tx, run.operation, run.resource)


def bury(run: Run) -> None:
    """Leave the server in cell0: ERROR, one fault, a failed action."""
    services: Services = run.services
    try:
        mapping, requested = requested_of(run)
    except NotFound:
        return
    now = services.now()
    row = rows.row_of(requested)
    row.update(_dead(mapping), updated_at=now, user_data=None)

    def put(tx: Tx) -> None:
        journal.fence_foreign(tx, run.operation, run.fence, run.seq)
        servers.add(tx, **row)
        servers.set_tags(tx, run.resource, requested.tags, row["tags"], now)
        open_action(tx, run)
        actions.event(
            tx,
            operation=run.operation,
            step="build",
            name="conductor_schedule_and_build_instances",
            started=run.accepted_at,
            finished=now,
            ok=False,
            details=run.error,
        )
        actions.finish(tx, run.operation, now, error=True)
        if not run.cancelled:
            actions.add_fault(
                tx,
                id_=run.operation,
                server=run.resource,
                code=500,
                message=run.error or "The server could not be built.",
                details=run.error_details or "",
                host=None,
                now=now,
            )

    services.cell(CELL0).write(put)


def _dead(mapping: Row) -> dict[str, Any]:
    task = "deleting" if mapping["delete_requested"] else None
    return {"vm_state": states.ERROR, "task_state": task, "power_state": int(PowerState.NOSTATE)}


def point_to_cell0(tx: Tx, run: Run) -> None:
    """The row in cell0 is the one that is seen; the operation's secrets end."""
    services: Services = run.services
    mappings.place(tx, run.resource, cell=CELL0, host=None, now=services.now())
    secrets.drop(tx, run.operation, run.resource)


SAGA = register(
    Saga(
        kind="server_create",
        version=1,
        params=ServerParams,
        steps=(
            Step(
                "place",
                place,
                NoUndo("the claim is a row of home: unclaim takes it back"),
                30.0,
                record=claim,
                unrecord=unclaim,
                decides=True,
                guarded=True,  # locks the group, then the provider, then reads
            ),
            Step("ports", make_ports, remove_ports, 60.0),
            Step(
                "volumes",
                volumes.make,
                volumes.remove,
                volumes.DEADLINE_S,
                skip=volumes.none,
            ),
            Step(
                "record",
                put_record,
                remove_record,
                30.0,
                record=point_mapping,
                unrecord=unpoint_mapping,
                guarded=True,
            ),
            Ask(
                "build",
                order_build,
                built,
                order_unbuild,
                BUILD_DEADLINE_S,
                failed=build_failed,
                unrecord=unpoint_mapping,  # lists show it from here on before its row is removed
                park=hold,
                park_outside=park,
                queue="build",
            ),
            Step(
                "in_use",
                volumes.complete,
                NoUndo("ends with the attachments"),
                60.0,
                skip=volumes.none,
            ),
            Step(
                "finish",
                finish,
                NoUndo("writes the row that remove_record takes away"),
                30.0,
                record=drop_secrets,
                guarded=True,
            ),
        ),
        unwound=bury,
        unwound_record=point_to_cell0,
        in_turn=False,
    )
)


def prepare(
    tx: Tx, services: Services, requested: RequestedServer, run_ctx: Any, operation: str
) -> None:
    """Write mapping and journal of one accepted create; the caller reserved quota in the same transaction."""
    now = services.now()
    mappings.add(
        tx,
        server=requested.server_id,
        project_id=requested.project_id,
        user_id=requested.user_id,
        server_group=requested.server_group,
        vcpus=requested.flavor.vcpus,
        memory_mib=requested.flavor.memory_mib,
        requested=encode(requested),
        operation=operation,
        now=requested.created_at,
    )
    journal.accept(
        tx,
        id=operation,
        kind=SAGA.kind,
        version=SAGA.version,
        resource=requested.server_id,
        epoch=1,
        project_id=requested.project_id,
        context=run_ctx,
        params=ServerParams(
            server_id=requested.server_id,
            project_id=requested.project_id,
            action="create",
            volumes=bool(server_disks.volumes(requested.disks)),
        ),
        now=now,
        nudge=services.engine.nudge,
    )
