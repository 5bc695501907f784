"""A guest's domain XML, built from typed facts by functions, never by pasting text.

source: libvirt documentation, *Domain XML format*; SMBIOS as Nova's, because stock cloud images look for it.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase

from kilonova import __version__
from kilonova.objects.guest import (
    DeviceAddress,
    FileDisk,
    GuestBuild,
    Hardware,
    LocalDisk,
    NbdDisk,
    Nic,
)
from kilonova.objects.host import HostNode
from kilonova.virt.driver import DriverError
from kilonova.virt.libvirt import numa, passthrough
from kilonova.virt.libvirt.disks import DiskFile

MARK = "urn:kilonova:guest:1"
CONFIG_DRIVE_ALIAS = "ua-config-drive"
_PREFIX = {"virtio": "vd", "scsi": "sd", "sata": "sd", "usb": "sd", "ide": "hd"}
BUSES = frozenset(_PREFIX)
NIC_MODELS = frozenset({"virtio", "e1000", "e1000e", "rtl8139", "ne2k_pci", "pcnet", "vmxnet3"})
VIDEO_MODELS = frozenset({"vga", "cirrus", "virtio", "qxl", "none", "bochs"})
_PLACED = ("interface", "disk", "hostdev")
SPARE_SLOTS = 16  # of q35: devices of the first build included
ET.register_namespace("kilonova", MARK)


@dataclass(frozen=True)
class Facts:
    """Everything that a domain is made of. hardware: complete. taps: port id -> tap. tag: of this cloud."""

    build: GuestBuild
    hardware: Hardware
    files: Mapping[str, DiskFile]
    taps: Mapping[str, str]
    directory: Path
    tag: str
    vnc_socket: Path | None
    nvram: tuple[Path, Path] | None = None  # (code, variables) for UEFI
    host_nodes: tuple[HostNode, ...] = ()


def name_of(server_id: str) -> str:
    """Return the name of a server's domain."""
    return f"kn-{server_id}"


def bus_of(own: str, usual: str) -> str:
    """Return what a device is driven by: its own word, or the image's where the device has the default."""
    return usual if own == "virtio" else own


def domain(f: Facts) -> str:
    """Return the XML to define."""
    b, h = f.build, f.hardware
    top = ET.Element("domain", type=h.virt_type or "qemu")
    _text(top, "name", name_of(b.server_id))
    _text(top, "uuid", b.server_id)
    meta = ET.SubElement(top, "metadata")
    ET.SubElement(meta, f"{{{MARK}}}server", {"id": b.server_id, "tag": f.tag})
    _text(top, "memory", str(b.memory_mib), unit="MiB")
    _text(top, "vcpu", str(b.vcpus))
    numa.place(top, b.nodes, f.host_nodes)
    _os(top, f)
    features = ET.SubElement(top, "features")
    ET.SubElement(features, "acpi")
    ET.SubElement(features, "apic")
    _cpu(top, h)
    numa.show(top, b.nodes)
    ET.SubElement(top, "clock", offset="utc")
    _text(top, "on_poweroff", "destroy")
    _text(top, "on_reboot", "restart")
    _text(top, "on_crash", "destroy")
    devices = ET.SubElement(top, "devices")
    _spare_slots(devices, h)
    _disks(devices, f)
    _nics(devices, f)
    devices.extend(passthrough.element(d) for d in b.passed)
    _consoles(devices, f)
    _extras(devices, f)
    return ET.tostring(top, encoding="unicode")


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> ET.Element:
    child = ET.SubElement(parent, tag, attributes)
    child.text = text
    return child


def _os(top: ET.Element, f: Facts) -> None:
    os_ = ET.SubElement(top, "os")
    kind = _text(os_, "type", "hvm", arch="x86_64")
    if f.hardware.machine:
        kind.set("machine", f.hardware.machine)
    if f.nvram is not None:
        code, variables = f.nvram
        _text(os_, "loader", str(code), readonly="yes", type="pflash")
        _text(os_, "nvram", str(variables))
    ET.SubElement(os_, "bootmenu", enable="yes" if f.hardware.boot_menu else "no")
    ET.SubElement(os_, "smbios", mode="sysinfo")
    system = ET.SubElement(ET.SubElement(top, "sysinfo", type="smbios"), "system")
    for key, value in (
        ("manufacturer", "OpenStack Foundation"),
        ("product", "OpenStack Nova"),
        ("version", __version__),
        ("serial", f.build.server_id),
        ("uuid", f.build.server_id),
        ("family", "Virtual Machine"),
    ):
        _text(system, "entry", value, name=key)


def _cpu(top: ET.Element, h: Hardware) -> None:
    if h.cpu_model in ("host-passthrough", "host-model", "maximum"):
        ET.SubElement(top, "cpu", mode=h.cpu_model)
    elif h.cpu_model:
        cpu = ET.SubElement(top, "cpu", mode="custom", match="exact")
        _text(cpu, "model", h.cpu_model, fallback="forbid")


class _Names:
    """Gives targets: vda, vdb, sda … vdz, vdaa in the order of asking; a wanted name is taken as it is."""

    def __init__(self, used: Iterable[str] = ()) -> None:
        self._used: set[str] = set(used)

    def next(self, bus: str, wanted: str | None) -> str:
        prefix = _PREFIX[bus]
        if wanted is not None and wanted.startswith(prefix) and wanted not in self._used:
            self._used.add(wanted)
            return wanted
        for name in _letters(prefix):
            if name not in self._used:
                self._used.add(name)
                return name
        raise DriverError("The server has no room for another device.", bus=bus)


def _letters(prefix: str) -> Iterator[str]:
    for first in ("", *ascii_lowercase):
        for last in ascii_lowercase:
            yield f"{prefix}{first}{last}"


def _disks(devices: ET.Element, f: Facts) -> None:
    b, h = f.build, f.hardware
    names = _Names()
    drive_bus = h.cdrom_bus if h.cdrom_bus in BUSES else "virtio"
    buses = {bus_of(d.bus, h.disk_bus) for d in b.disks} | (
        {drive_bus} if b.config_drive else set()
    )
    if "scsi" in buses:
        ET.SubElement(devices, "controller", type="scsi", index="0", model=h.scsi_model)
    ordered = any(d.boot_index is not None and d.boot_index >= 0 for d in b.disks)
    for n, disk in enumerate(b.disks):
        bus = bus_of(disk.bus, h.disk_bus)
        target = names.next(bus, disk.device)
        if isinstance(disk, LocalDisk):
            file = f.files[disk.name]
            element = _disk(devices, "file", disk.device_type, file.format)
            ET.SubElement(element, "source", file=str(file.path))
            _identify(element, target, bus, disk.name, f"ua-disk-{disk.name}")
        else:
            element = volume_element(disk, target, bus)
            devices.append(element)
        if ordered and disk.boot_index is not None and disk.boot_index >= 0:
            ET.SubElement(element, "boot", order=str(disk.boot_index + 1))
        elif not ordered and n == 0:
            ET.SubElement(element, "boot", order="1")
    if b.config_drive:
        optical = drive_bus in ("ide", "sata", "scsi")
        element = _disk(devices, "file", "cdrom" if optical else "disk", "raw")
        ET.SubElement(element, "source", file=str(f.directory / f"{b.drive_name}.iso"))
        ET.SubElement(element, "target", dev=f"{_PREFIX[drive_bus]}z", bus=drive_bus)
        ET.SubElement(element, "readonly")
        ET.SubElement(element, "alias", name=CONFIG_DRIVE_ALIAS)


def volume_element(disk: NbdDisk | FileDisk, target: str, bus: str) -> ET.Element:
    """Return the disk of a volume. An NBD host that is a path is a unix socket of this host's own exports.

    The serial is the volume's id, of which virtio-blk shows the guest the first 20 characters, as with Nova; the
    alias has all of it.
    """
    top = ET.Element("devices")
    if isinstance(disk, FileDisk):
        element = _disk(top, "file", "disk", disk.format)
        ET.SubElement(element, "source", file=disk.path)
    else:
        element = _disk(top, "network", "disk", "raw")
        place = ET.SubElement(element, "source", protocol="nbd", name=disk.export)
        if disk.host.startswith("/"):
            ET.SubElement(place, "host", transport="unix", socket=disk.host)
        else:
            ET.SubElement(place, "host", name=disk.host, port=str(disk.port))
        if disk.tls_name:
            place.set("tls", "yes")
            place.set("tlsHostname", disk.tls_name)
    _identify(element, target, bus, disk.serial, f"ua-{disk.serial}")
    if disk.readonly:
        ET.SubElement(element, "readonly")
    if disk.shareable:
        ET.SubElement(element, "shareable")
    return element


def _identify(element: ET.Element, target: str, bus: str, serial: str, alias: str) -> None:
    ET.SubElement(element, "target", dev=target, bus=bus)
    _text(element, "serial", serial)
    ET.SubElement(element, "alias", name=alias)


def _disk(devices: ET.Element, kind: str, device: str, fmt: str) -> ET.Element:
    element = ET.SubElement(devices, "disk", type=kind, device=device)
    ET.SubElement(
        element,
        "driver",
        name="qemu",
        type=fmt,
        cache="none" if kind == "network" else "writeback",
        discard="unmap",
    )
    return element


def _nics(devices: ET.Element, f: Facts) -> None:
    for nic in f.build.nics:
        devices.append(nic_element(nic, f.taps[nic.port_id], f.hardware))


def nic_element(nic: Nic, tap: str, hardware: Hardware) -> ET.Element:
    """Return one interface; ``tap`` is plugged by the agent."""
    element = ET.Element("interface", type="ethernet")
    ET.SubElement(element, "mac", address=nic.mac)
    ET.SubElement(element, "target", dev=tap, managed="no")
    ET.SubElement(element, "model", type=bus_of(nic.model, hardware.nic_model))
    ET.SubElement(element, "mtu", size=str(nic.mtu))
    ET.SubElement(element, "rom", enabled="no")
    ET.SubElement(element, "alias", name=f"ua-{nic.port_id}")
    return element


def _spare_slots(devices: ET.Element, h: Hardware) -> None:
    """A PCI Express machine takes hotplugged devices only on root ports that were there at its start."""
    if h.machine and "q35" in h.machine:
        ET.SubElement(devices, "controller", type="pci", index="0", model="pcie-root")
        for n in range(SPARE_SLOTS):
            ET.SubElement(
                devices, "controller", type="pci", index=str(n + 1), model="pcie-root-port"
            )


def _consoles(devices: ET.Element, f: Facts) -> None:
    for port in range(max(1, f.hardware.serial_ports)):
        serial = ET.SubElement(devices, "serial", type="pty")
        if port == 0:
            ET.SubElement(serial, "log", file=str(f.directory / "console.log"), append="on")
        ET.SubElement(serial, "target", type="isa-serial", port=str(port))
    console = ET.SubElement(devices, "console", type="pty")
    ET.SubElement(console, "target", type="serial", port="0")
    if f.hardware.video_model == "none":
        return
    video = ET.SubElement(devices, "video")
    ET.SubElement(video, "model", type=f.hardware.video_model)
    if f.vnc_socket is not None:
        graphics = ET.SubElement(devices, "graphics", type="vnc")
        ET.SubElement(graphics, "listen", type="socket", socket=str(f.vnc_socket))
    else:
        graphics = ET.SubElement(devices, "graphics", type="vnc", autoport="yes")
        ET.SubElement(graphics, "listen", type="address", address="127.0.0.1")


def _extras(devices: ET.Element, f: Facts) -> None:
    h = f.hardware
    if h.rng:
        _text(
            ET.SubElement(devices, "rng", model="virtio"), "backend", "/dev/urandom", model="random"
        )
    if h.guest_agent:
        channel = ET.SubElement(devices, "channel", type="unix")
        ET.SubElement(channel, "target", type="virtio", name="org.qemu.guest_agent.0")
    if h.watchdog and h.watchdog != "disabled":
        ET.SubElement(devices, "watchdog", model="i6300esb", action=h.watchdog)
    balloon = ET.SubElement(devices, "memballoon", model="virtio")
    ET.SubElement(balloon, "stats", period="10")


# -- reading


def mark_of(text: str) -> tuple[str, str] | None:
    """Return (server id, cloud tag) of a domain's metadata element, None when it is not one of ours."""
    element = ET.fromstring(text)  # noqa: S314 - libvirt's own
    server, tag = element.get("id"), element.get("tag")
    return (server, tag) if server and tag is not None else None


def device_of(text: str, alias: str) -> ET.Element | None:
    """Return the device of a domain that has this alias of ours, None when it has none."""
    for kind in ("interface", "disk"):
        for element, name, _ in _devices(text, kind):
            if name == alias:
                return element
    return None


def address_of(element: ET.Element) -> tuple[str, str]:
    """Return (bus, address) of a device as the guest sees it."""
    return _address(element)


def with_addresses_of(text: str, before: str) -> str:
    """Return a domain whose devices stay where they were in the domain ``before``, known by their alias.

    A guest that is defined anew after a device was plugged or removed keeps the places of all others.
    """
    top = ET.fromstring(text)  # noqa: S314 - our own
    places = {
        alias: element.find("address")
        for kind in _PLACED
        for element, alias, _ in _devices(before, kind)
    }
    for kind in _PLACED:
        for element in top.iterfind(f"devices/{kind}"):
            alias = element.find("alias")
            place = None if alias is None else places.get(alias.get("name", ""))
            if place is not None and place.get("type") == "pci":
                element.append(place)
    return ET.tostring(top, encoding="unicode")


def ports_of(text: str) -> tuple[str, ...]:
    """Return the ids of the ports that a domain is defined with, in order."""
    return tuple(alias[3:] for _, alias, _ in _devices(text, "interface"))


def local_disks_of(text: str) -> set[str]:
    """Return the names of the local disks that a domain is defined with."""
    found = {alias for _, alias, _ in _devices(text, "disk")}
    return {a.removeprefix("ua-disk-") for a in found if a.startswith("ua-disk-")}


def first_disk_of(text: str) -> str | None:
    """Return our alias of the first disk that a domain is defined with."""
    return next((alias for _, alias, _ in _devices(text, "disk")), None)


def tags_of(build: GuestBuild) -> dict[str, str]:
    """Return the tags of a build's devices by their aliases."""
    found = {f"ua-{n.port_id}": n.tag for n in build.nics}
    for disk in build.disks:
        name = f"disk-{disk.name}" if isinstance(disk, LocalDisk) else disk.serial
        found[f"ua-{name}"] = disk.tag
    return {alias: tag for alias, tag in found.items() if tag}


def devices_of(text: str, tags: Mapping[str, str]) -> tuple[DeviceAddress, ...]:
    """Return where the guest sees NICs, disks and devices of the host; known from define on. text: XMLDesc."""
    found: list[DeviceAddress] = []
    for element, alias, (bus, address) in _devices(text, "interface"):
        mac = element.find("mac")
        found.append(
            DeviceAddress(
                kind="nic",
                bus=bus,
                address=address,
                tag=tags.get(alias),
                mac=None if mac is None else mac.get("address"),
            )
        )
    for element, alias, (bus, address) in _devices(text, "disk"):
        if alias == CONFIG_DRIVE_ALIAS:
            continue
        device = target_of(element)
        found.append(
            DeviceAddress(
                kind="disk",
                bus=bus,
                address=address,
                tag=tags.get(alias),
                serial=element.findtext("serial"),
                path=f"/dev/{device}" if device else None,
            )
        )
    for _, alias, (bus, address) in _devices(text, "hostdev"):
        path = passthrough.address_of(alias)
        found.append(DeviceAddress(kind="hostdev", bus=bus, address=address, path=path))
    return tuple(found)


def volumes_of(text: str) -> tuple[str, ...]:
    """Return the ids of the volumes of a domain, in order."""
    aliases = [alias for _, alias, _ in _devices(text, "disk") if alias != CONFIG_DRIVE_ALIAS]
    return tuple(a[3:] for a in aliases if not a.startswith("ua-disk-"))


def target_of(element: ET.Element) -> str:
    """Return the target's name of a disk: "vda"."""
    target = element.find("target")
    return "" if target is None else target.get("dev", "")


def targets_of(text: str) -> frozenset[str]:
    """Return the names of all targets of a domain's disks."""
    top = ET.fromstring(text)  # noqa: S314 - libvirt's own
    return frozenset(target_of(e) for e in top.iterfind("devices/disk"))


def sources_of(text: str) -> tuple[Path, ...]:
    """Return the files that a domain has as disks."""
    top = ET.fromstring(text)  # noqa: S314 - libvirt's own
    return tuple(Path(e.get("file", "")) for e in top.iterfind("devices/disk/source[@file]"))


def free_target(used: Iterable[str], bus: str, wanted: str | None) -> str:
    """Return a target's name that no disk has: the wanted one if it may be. DriverError when there is none."""
    return _Names(used).next(bus, wanted)


def _devices(text: str, kind: str) -> list[tuple[ET.Element, str, tuple[str, str]]]:
    """Return (element, our alias, (bus, address)) of the devices that have an alias of ours."""
    found = []
    for element in ET.fromstring(text).iterfind(f"devices/{kind}"):  # noqa: S314 - libvirt's own
        alias = element.find("alias")
        name = alias.get("name", "") if alias is not None else ""
        if name.startswith("ua-"):
            found.append((element, name, _address(element)))
    return found


def _address(element: ET.Element) -> tuple[str, str]:
    a = element.find("address")
    if a is None:
        return "none", ""
    if a.get("type") == "pci":
        d, b, s, f = (int(a.get(k, "0"), 16) for k in ("domain", "bus", "slot", "function"))
        return "pci", f"{d:04x}:{b:02x}:{s:02x}.{f:x}"
    target = element.find("target")
    bus = target.get("bus", "scsi") if target is not None else "scsi"
    return bus, ":".join(a.get(k, "0") for k in ("controller", "bus", "target", "unit"))
