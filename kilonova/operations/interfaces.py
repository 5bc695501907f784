"""What attaching and detaching a NIC share: the orders, and how the server's record follows."""

from functools import partial

import msgspec

from kilonova.common.ids import new_uuid
from kilonova.db import actions, servers
from kilonova.db.engine import Row, Tx
from kilonova.objects.guest import DeviceAddress, GuestAttachNic, GuestDetachNic, TapNic
from kilonova.objects.port import BoundPort
from kilonova.objects.server import NicRecord
from kilonova.operations import guest_orders, metadata, network_events, states
from kilonova.operations.addresses import addresses_json
from kilonova.operations.rows import nics_json
from kilonova.operations.services import Services
from kilonova.saga.definition import Run

DEADLINE_S = 300.0
_decode = msgspec.json.decode


def recorded(row: Row) -> list[NicRecord]:
    """Return the NICs in a server's record."""
    return _decode(row["nics"], type=list[NicRecord])


def ports_of(services: Services, server_id: str) -> list[BoundPort]:
    """Return the server's ports as the network service knows them."""
    return list(services.network.ports_of([server_id]).get(server_id, []))


def attach_payload(run: Run) -> GuestAttachNic:
    """Describe the NIC to the host, with the metadata as it reads when the guest has it."""
    services: Services = run.services
    nic: NicRecord = run.params.nic
    row = guest_orders.server_row(services, run.home, run.resource)
    nics = [n for n in recorded(row) if n.port_id != nic.port_id]
    with_nic = {**row, "nics": nics_json([*nics, nic])}
    ports = ports_of(services, run.resource)
    return GuestAttachNic(
        server_id=run.resource,
        nic=TapNic(
            port_id=nic.port_id,
            network_id=nic.network_id,
            mac=nic.mac,
            mtu=nic.mtu,
            tag=nic.tag,
        ),
        metadata=guest_orders.metadata_document(services, with_nic, ports),
    )


def detach_payload(run: Run) -> GuestDetachNic:
    """Name the NIC to the host, with the metadata as it reads when the guest has it no longer."""
    services: Services = run.services
    nic: NicRecord = run.params.nic
    row = guest_orders.server_row(services, run.home, run.resource)
    ports = [p for p in ports_of(services, run.resource) if p.port_id != nic.port_id]
    return GuestDetachNic(
        server_id=run.resource,
        port_id=nic.port_id,
        mac=nic.mac,
        metadata=guest_orders.metadata_document(services, row, ports),
    )


def follow(services: Services, server_id: str, but: str | None = None) -> dict[str, str]:
    """Return the columns of a server's row that say which ports it has. but: a port that it loses."""
    ports = [p for p in ports_of(services, server_id) if p.port_id != but]
    names = sorted({name for port in ports for _, name in port.security_groups})
    return {
        "addresses": addresses_json(ports),
        "security_groups": msgspec.json.encode([{"name": n} for n in names]).decode(),
    }


def put_nic(
    tx: Tx, run: Run, columns: dict[str, str], device: DeviceAddress | None, *, there: bool
) -> None:
    """Write a NIC into the server's row, or take it out (``there``); the guest's metadata follows after the commit."""
    services: Services = run.services
    nic: NicRecord = run.params.nic
    row = servers.find(tx, run.resource)
    if row is None or row["deleted"]:
        return
    nics = [n for n in recorded(row) if n.port_id != nic.port_id]
    devices = _decode(row["devices"], type=list[DeviceAddress])
    devices = [d for d in devices if d.mac != nic.mac]
    servers.set_columns(
        tx,
        run.resource,
        **columns,
        nics=nics_json([*nics, nic] if there else nics),
        devices=msgspec.json.encode(devices if device is None else [*devices, device]).decode(),
        metadata_generation=row["metadata_generation"] + 1,
        updated_at=services.now(),
    )
    tx.after_commit(lambda: metadata.push(services, run.resource))


def ended(tx: Tx, run: Run, *, ok: bool) -> None:
    """Close the action; the server has no task any more, unless a later operation owns it."""
    now = run.services.now()
    transition = states.TRANSITIONS[run.kind]
    actions.event(
        tx,
        operation=run.operation,
        step="guest",
        name=f"compute_{transition.action}",
        started=run.accepted_at,
        finished=now,
        ok=ok,
        host=run.params.host,
        details=None if ok else run.error,
    )
    actions.finish(tx, run.operation, now, error=not ok)
    servers.let_go(tx, run.resource, epoch=run.epoch)


def _refresh(services: Services, server_id: str) -> None:
    network_events.refresh(services, server_id)


def failed(tx: Tx, run: Run) -> None:
    """The last act of an unwind: the server is as it was, with a fault."""
    ended(tx, run, ok=False)
    services: Services = run.services
    row = servers.find(tx, run.resource)
    if row is None or row["deleted"]:
        return
    tx.after_commit(partial(_refresh, services, run.resource))
    if run.cancelled:
        return
    actions.add_fault(
        tx,
        id_=new_uuid(),
        server=run.resource,
        code=500,
        message=run.error or "The operation failed.",
        details=run.error_details or "",
        host=row["host"],
        now=services.now(),
    )
