"""A running domain's XML as its destination needs it: other paths, other ways to volumes, nothing of this run.

source: libvirt documentation, *Domain XML format*; virDomainMigrateToURI3, VIR_MIGRATE_PARAM_DEST_XML.
"""

import xml.etree.ElementTree as ET
from pathlib import Path

from kilonova.objects.guest import GuestBuild, LocalDisk
from kilonova.virt.libvirt import xml

_OF_THIS_RUN = ("backingStore", "mirror")


def moved(text: str, build: GuestBuild, source: Path, target: Path) -> str:
    """Return the XML for the destination. source, target: the guest's directory on either host. Aliases stay."""
    top = ET.fromstring(text)  # noqa: S314 - libvirt's own
    volumes = {
        f"ua-{d.serial}": xml.volume_element(d, "vda", "virtio")
        for d in build.disks
        if not isinstance(d, LocalDisk)
    }
    for disk in top.iterfind("devices/disk"):
        for kind in _OF_THIS_RUN:
            for element in disk.findall(kind):
                disk.remove(element)
        alias = disk.find("alias")
        there = volumes.get("" if alias is None else alias.get("name", ""))
        if there is not None:
            _reached(disk, there)
    for element in top.iter():
        for key in ("file", "socket", "path"):
            value = element.get(key)
            if value is not None:
                element.set(key, _there(value, source, target))
    nvram = top.find("os/nvram")
    if nvram is not None and nvram.text:
        nvram.text = _there(nvram.text, source, target)
    for kind in ("serial", "console", "channel"):
        for device in top.iterfind(f"devices/{kind}"):
            _forget_run(device)
    return ET.tostring(top, encoding="unicode")


def targets(text: str, names: list[str]) -> dict[str, str]:
    """Return the target ("vda") of each of these local disks."""
    found = {}
    for name in names:
        element = xml.device_of(text, f"ua-disk-{name}")
        if element is not None:
            found[name] = xml.target_of(element)
    return found


def _reached(disk: ET.Element, there: ET.Element) -> None:
    """Let a volume be reached as the destination reaches it."""
    for source in disk.findall("source"):
        disk.remove(source)
    disk.set("type", there.get("type", "network"))
    for kind in ("driver", "source"):
        new, old = there.find(kind), disk.find(kind)
        if old is not None:
            disk.remove(old)
        if new is not None:
            disk.insert(0, new)


def _there(value: str, source: Path, target: Path) -> str:
    prefix = f"{source}/"
    return f"{target}/{value.removeprefix(prefix)}" if value.startswith(prefix) else value


def _forget_run(device: ET.Element) -> None:
    """A terminal, or a socket that libvirt named itself, is another one there."""
    device.attrib.pop("tty", None)
    for element in device.findall("source"):
        path = element.get("path", "")
        if device.get("type") == "pty" or "/channel/target/" in path:
            device.remove(element)
