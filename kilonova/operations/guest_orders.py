"""Orders for a host, made from a server's row: self-contained, repeatable, secrets opened only here."""

from typing import Any

import msgspec

from kilonova.common.errors import NotFound
from kilonova.db import servers
from kilonova.db.engine import Row, Tx
from kilonova.objects.base import Versioned
from kilonova.objects.guest import (
    AddressConfig,
    Belongings,
    Disk,
    GuestBuild,
    Hardware,
    ImageSource,
    LocalDisk,
    MetadataDocument,
    NicConfig,
    TapNic,
)
from kilonova.objects.image_properties import ImageProperties
from kilonova.objects.order import Direction, Order, pack
from kilonova.objects.port import BoundPort
from kilonova.objects.server import DiskRequest, FlavorRecord, ImageRecord, NicRecord
from kilonova.operations import host_devices, server_disks, server_volumes
from kilonova.operations.services import Services
from kilonova.saga.definition import Run

_decode = msgspec.json.decode


class SystemMetadata(msgspec.Struct):
    """What a row keeps of the image, and of operations under way. disk_config is first: views look for it there."""

    disk_config: str = "MANUAL"
    image: ImageRecord | None = None
    old_vm_state: str | None = None
    shelved_image: str | None = None  # what keeps the root disk of a shelved server
    rescue: ImageRecord | None = None  # what a rescued server is booted from
    belongings: Belongings | None = None  # what a shelved server left on its host besides disks


def order(
    run: Run,
    host: str,
    verb: str,
    payload: Versioned,
    deadline_s: float,
    direction: Direction = Direction.DO,
) -> Order:
    """Return an order of this step; the same step gives the same order."""
    return Order(
        host=host,
        verb=verb,
        server_id=run.resource,
        epoch=run.epoch,
        operation=run.operation,
        step=run.step,
        direction=direction,
        fence=run.fence,
        seq=run.seq,
        answer_to=run.home,
        deadline_s=deadline_s,
        body=pack(payload),
    )


def server_row(services: Services, cell: str, server_id: str) -> Row:
    """Return a server's row; NotFound when it is not in that cell."""
    row = services.cell(cell).ask(lambda tx: servers.find(tx, server_id))
    if row is None:
        raise NotFound(f"Instance {server_id} could not be found.")
    return row


def row_in(tx: Tx, server_id: str) -> Row:
    """Return a server's row inside a transaction of its cell; NotFound."""
    row = servers.find(tx, server_id)
    if row is None:
        raise NotFound(f"Instance {server_id} could not be found.")
    return row


def system_of(row: Row) -> SystemMetadata:
    """Return what a row keeps of its image and of operations."""
    return _decode(row["system_metadata"], type=SystemMetadata)


def metadata_document(services: Services, row: Row, ports: list[BoundPort]) -> MetadataDocument:
    """Return all that the guest may read about itself. ``ports``: the server's bound ports in order."""
    flavor = _decode(row["flavor"], type=FlavorRecord)
    nics = {n.port_id: n for n in _decode(row["nics"], type=list[NicRecord])}
    user_data = None
    if row["user_data"]:
        cell = services.cell(row_cell(services, row))
        user_data = cell.read(lambda tx: services.vault.get(tx, row["user_data"])).reveal()
    return MetadataDocument(
        server_id=row["uuid"],
        generation=row["metadata_generation"],
        name=row["name"],
        hostname=row["hostname"],
        project_id=row["project_id"],
        availability_zone=row["availability_zone"] or "nova",
        launch_index=row["launch_index"],
        reservation_id=row["reservation_id"],
        instance_type=flavor.name,
        image_id=row["image_id"] or None,
        meta=_decode(row["metadata"]),
        keys=tuple(tuple(k) for k in _decode(row["keys"])),
        user_data=user_data,
        security_groups=tuple(g["name"] for g in _decode(row["security_groups"])),
        networks=tuple(
            _nic_config(p, nics[p.port_id].tag if p.port_id in nics else None) for p in ports
        ),
        created_at=row["created_at"],
    )


def next_document(services: Services, row: Row) -> MetadataDocument:
    """Return a placed server's document as the next change makes it."""
    ports = list(services.network.ports_of([row["uuid"]]).get(row["uuid"], []))
    document = metadata_document(services, row, ports)
    return document.replace(generation=document.generation + 1)


def device_columns(tx: Tx, run: Run) -> dict[str, Any]:
    """Return what an answer with the guest's devices changes in its row; {} when no host was asked."""
    out, row = run.outputs.get("guest"), servers.find(tx, run.resource)
    if out is None or row is None:
        return {}
    return {
        "devices": msgspec.json.encode(out["devices"]).decode(),
        "metadata_generation": row["metadata_generation"] + 1,
    }


def row_cell(services: Services, row: Row) -> str:
    """Return the name of the cell in which a server's host is."""
    host = row["host"]
    return services.hosts.cell_of(host)


def _nic_config(port: BoundPort, tag: str | None) -> NicConfig:
    subnets = {s.id: s for s in port.subnets}
    addresses = []
    for fixed in port.fixed_ips:
        subnet = subnets.get(fixed.subnet_id)
        if subnet is None:
            continue
        addresses.append(
            AddressConfig(
                address=fixed.ip_address,
                cidr=subnet.cidr,
                gateway=subnet.gateway,
                dns=subnet.dns,
                routes=subnet.routes,
                dhcp=subnet.enable_dhcp,
                ipv6_mode=subnet.ipv6_mode,
            )
        )
    return NicConfig(
        port_id=port.port_id,
        network_id=port.network_id,
        mac=port.mac,
        mtu=port.mtu,
        addresses=tuple(addresses),
        floating_ip=next((f for fixed in port.fixed_ips for f in fixed.floating), None),
        tag=tag,
    )


def build_of(
    services: Services,
    row: Row,
    *,
    ports: list[BoundPort] | None = None,
    start: bool = True,
    admin_password: str | None = None,
    holder: str | None = None,
) -> GuestBuild:
    """Return the complete description of a server's guest, from its row. ports: as bound just now, else asked for.

    holder: the migration that keeps what the server holds of that host, of a guest as it was before a move.
    """
    flavor = _decode(row["flavor"], type=FlavorRecord)
    system = _decode(row["system_metadata"], type=SystemMetadata)
    nics = _decode(row["nics"], type=list[NicRecord])
    if ports is None:
        ports = services.network.ports_of([row["uuid"]]).get(row["uuid"], [])
    found = {p.port_id: p for p in ports}
    document = metadata_document(
        services, row, [found[n.port_id] for n in nics if n.port_id in found]
    )
    if admin_password is not None:
        document = document.replace(admin_password=admin_password)
    disks = disks_of(services, row)
    meta = document.meta
    faults = meta.get("kilonova:fault", "") if services.simulated else ""
    return GuestBuild(
        server_id=row["uuid"],
        name=row["name"],
        project_id=row["project_id"],
        vcpus=flavor.vcpus,
        memory_mib=flavor.memory_mib,
        disks=disks,
        nics=tuple(
            TapNic(port_id=n.port_id, network_id=n.network_id, mac=n.mac, mtu=n.mtu, tag=n.tag)
            for n in nics
            if n.port_id in found  # else its owner deleted it: nobody will ever apply it
        ),
        images=_images(services, row["host"] or "", system.image, disks),
        hardware=hardware_of(row["hardware"], system.image),
        metadata=document,
        config_drive=bool(row["config_drive"]),
        start=start,
        faults=tuple(f.strip() for f in faults.split(",") if f.strip()),
        belongings=system.belongings,
        passed=host_devices.devices_of(services, row, holder),
        nodes=host_devices.nodes_of(services, row, flavor, system.image, holder),
    )


def _images(
    services: Services, host: str, image: ImageRecord | None, disks: tuple[Disk, ...]
) -> tuple[ImageSource, ...]:
    """Return the image, if a disk is made from it on the host."""
    needed = image is not None and any(isinstance(d, LocalDisk) and d.image_id for d in disks)
    return (source_of(services, host, image),) if image is not None and needed else ()


def source_of(services: Services, host: str, image: ImageRecord) -> ImageSource:
    """Return where a host gets an image from."""
    return ImageSource(
        image_id=image.id,
        url=services.image_url(image.id, host, "GET"),
        disk_format=image.disk_format,
        size=image.size,
        hash_algo=image.hash_algo,
        hash_value=image.hash_value,
        min_disk_gib=image.min_disk_gib,
    )


def disks_of(services: Services, row: Row) -> tuple[Disk, ...]:
    """Return all disks of a guest; of volumes how its host reaches them now. Raises as server_volumes.connections."""
    disks = [d for d in server_disks.read(row) if d.state != "attaching"]
    found = server_volumes.connections(services, row["uuid"], disks)
    return tuple(
        _disk(d)
        if d.destination != "volume"
        else server_volumes.guest_disk(d, found[str(d.attachment_id)])
        for d in disks
    )


def _disk(d: DiskRequest) -> LocalDisk:
    return LocalDisk(
        name=d.name,
        size_gib=d.size_gib,
        size_mib=d.size_mib,
        image_id=d.image_id,
        boot_index=d.boot_index,
        bus=d.bus or "virtio",
        device=d.device,
        guest_format=d.guest_format,
        tag=d.tag,
        device_type=d.device_type or "disk",
    )


def hardware_of(frozen: str, image: ImageRecord | None) -> Hardware:
    """Return the hardware as frozen at the first build, else what the image's properties ask for."""
    if frozen != "{}":
        return _decode(frozen, type=Hardware)
    if image is None:
        return Hardware()
    return Hardware(**ImageProperties.read(image.properties).hardware())
