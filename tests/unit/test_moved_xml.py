"""The XML that a guest has at the destination of a live migration."""

import xml.etree.ElementTree as ET
from pathlib import Path

from kilonova.objects.guest import GuestBuild, Hardware, LocalDisk, MetadataDocument, NbdDisk
from kilonova.virt.libvirt.moved_xml import moved, targets

ID = "11111111-2222-4333-8444-555555555555"
VOLUME = "aaaaaaaa-2222-4333-8444-555555555555"
OLD, NEW = Path(f"/srv/one/{ID}"), Path(f"/srv/two/{ID}")
TEXT = f"""<domain type="qemu"><os><nvram>{OLD}/nvram.fd</nvram></os><devices>
<disk type="file" device="disk"><driver name="qemu" type="qcow2"/><source file="{OLD}/root.qcow2"/>
  <backingStore type="file"><source file="{OLD}/root.base.qcow2"/></backingStore>
  <target dev="vda" bus="virtio"/><alias name="ua-disk-root"/></disk>
<disk type="network" device="disk"><driver name="qemu" type="raw" cache="none"/>
  <source protocol="nbd" name="old"><host transport="unix" socket="/run/old"/></source>
  <target dev="vdb" bus="virtio"/><serial>{VOLUME}</serial><alias name="ua-{VOLUME}"/></disk>
<serial type="pty"><source path="/dev/pts/3"/><log file="{OLD}/console.log" append="on"/></serial>
<channel type="unix"><source mode="bind" path="/var/lib/libvirt/qemu/channel/target/d/org.qemu.guest_agent.0"/>
  <target type="virtio" name="org.qemu.guest_agent.0"/></channel>
<graphics type="vnc" socket="{OLD}/vnc.sock"><listen type="socket" socket="{OLD}/vnc.sock"/></graphics>
<interface type="ethernet"><target dev="kn-t1" managed="no"/><alias name="ua-{ID}"/></interface>
</devices></domain>"""


def _build() -> GuestBuild:
    volume = NbdDisk(name=VOLUME, host="/run/new", port=0, export="new", serial=VOLUME)
    return GuestBuild(
        server_id=ID,
        name="web",
        project_id="p",
        vcpus=1,
        memory_mib=64,
        disks=(LocalDisk(name="root", size_gib=1), volume),
        nics=(),
        images=(),
        hardware=Hardware(),
        metadata=MetadataDocument(
            server_id=ID,
            generation=1,
            name="web",
            hostname="web",
            project_id="p",
            availability_zone="nova",
        ),
    )


def test_paths_and_ways_are_the_destinations() -> None:
    """Nothing names the source's directory, its export, its terminal or its sockets; aliases and targets stay."""
    text = moved(TEXT, _build(), OLD, NEW)
    assert str(OLD) not in text and "/run/old" not in text and "/dev/pts" not in text
    assert "channel/target" not in text and "backingStore" not in text
    top = ET.fromstring(text)
    root, volume = top.findall("devices/disk")
    source = root.find("source")
    assert source is not None and source.get("file") == f"{NEW}/root.qcow2"
    reached = volume.find("source")
    assert reached is not None and reached.get("name") == "new"
    host = reached.find("host")
    assert host is not None and host.get("socket") == "/run/new"
    aliases = [e.get("name") for e in top.iterfind("devices/*/alias")]
    assert aliases == ["ua-disk-root", f"ua-{VOLUME}", f"ua-{ID}"]
    assert [e.get("dev") for e in top.iterfind("devices/disk/target")] == ["vda", "vdb"]
    assert top.findtext("os/nvram") == f"{NEW}/nvram.fd"


def test_targets_of_local_disks() -> None:
    assert targets(TEXT, ["root", "swap"]) == {"root": "vda"}
