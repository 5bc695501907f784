"""Guests that become others in place, by both drivers; nothing is lost before it is forgotten."""

import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from kilonova.common.ids import new_uuid
from kilonova.objects import guest as g
from kilonova.virt.driver import DriverError
from kilonova.virt.fake.disks import sealed
from kilonova.virt.remaking import Change, Made, RemakeDriver
from tests.contracts.test_driver import OFF, RUNNING, Host, build, host, quiet, until_done

__all__ = ["build", "host"]  # fixtures


def driver_of(host: Host) -> RemakeDriver:
    assert isinstance(host.driver, RemakeDriver)
    return host.driver


def remake(host: Host, build: g.GuestBuild, *anew: str) -> Made:
    """Do it twice, as after a lost answer; return what the second said."""
    change = Change(anew, build.server_id[:8])
    until_done(lambda: driver_of(host).remake(build, change, quiet))
    made: Made = until_done(lambda: driver_of(host).remake(build, change, quiet))
    return made


def restore(host: Host, build: g.GuestBuild, *drop: str) -> Made:
    driver_of(host).restore(build, drop, quiet)
    return driver_of(host).restore(build, drop, quiet)


def of_image(build: g.GuestBuild) -> g.GuestBuild:
    """The same server with a root disk made of an image."""
    image = new_uuid()
    root, *others = build.disks
    assert isinstance(root, g.LocalDisk)
    source = g.ImageSource(image_id=image, url=f"image:{image}", disk_format="qcow2", size=1)
    return build.replace(disks=(root.replace(image_id=image), *others), images=(source,))


def rescued(build: g.GuestBuild) -> g.GuestBuild:
    image = new_uuid()
    source = g.ImageSource(image_id=image, url=f"image:{image}", disk_format="qcow2", size=1)
    disk = g.LocalDisk(name="rescue", size_gib=0, image_id=image, boot_index=0)
    own = tuple(d.replace(boot_index=None) for d in build.disks)
    return build.replace(disks=(disk, *own), images=(*build.images, source))


def disks_of(made: Made) -> list[str | None]:
    return [d.path or d.address for d in made[2] if d.kind == "disk"]


def test_rebuilt_restored_rebuilt_again(host: Host, build: g.GuestBuild) -> None:
    first, second = of_image(build), of_image(build)
    host.build(first)
    assert remake(host, second, "root", "swap")[0] == RUNNING
    assert restore(host, first)[0] == RUNNING
    assert not driver_of(host).forget_aside(build.server_id)
    assert remake(host, second, "root")[0] == RUNNING
    assert driver_of(host).forget_aside(build.server_id)
    assert not driver_of(host).forget_aside(build.server_id)
    assert remake(host, first.replace(start=False), "root", "ephemeral0")[0] == OFF
    assert restore(host, second.replace(start=False))[0] == OFF


def test_a_guest_that_is_not_there_is_made(host: Host, build: g.GuestBuild) -> None:
    host.made.append(build.server_id)
    assert remake(host, of_image(build), "root")[0] == RUNNING


def test_rescued_and_back(host: Host, build: g.GuestBuild) -> None:
    host.build(build)
    made = remake(host, rescued(build))
    assert made[0] == RUNNING and len(disks_of(made)) == 4
    made = remake(host, build)
    assert made[0] == RUNNING and len(disks_of(made)) == 3
    assert driver_of(host).forget_aside(build.server_id)


@pytest.mark.parametrize(("device", "bus"), [("disk", "virtio"), ("cdrom", "sata")])
def test_a_stable_rescue(host: Host, build: g.GuestBuild, device: str, bus: str) -> None:
    """hw_rescue_device: the guest's own disks stay where it knows them, the rescue disk comes last and boots."""
    own = devices_of(host.build(build))
    asked = rescued(build)
    first, *others = asked.disks
    assert isinstance(first, g.LocalDisk)
    rescue = first.replace(device_type=device, bus=bus)
    asked = asked.replace(disks=(*others, rescue))
    made = remake(host, asked)
    assert (made[0], devices_of(made)[: len(own)]) == (RUNNING, own)
    if host.driver.name != "fake":
        text = host.driver._find(build.server_id).XMLDesc()  # type: ignore[attr-defined]
        disks = ET.fromstring(text).findall("devices/disk")
        booted = [d for d in disks if d.find("boot") is not None]
        assert [(d.get("device"), d.find("alias").get("name")) for d in booted] == [  # type: ignore[union-attr]
            (device, "ua-disk-rescue")
        ]
    made = remake(host, build)
    assert (made[0], devices_of(made)) == (RUNNING, own)
    driver_of(host).forget_aside(build.server_id)


def devices_of(made: Made) -> list[tuple[str, str]]:
    return [(d.kind, d.address) for d in made[2]]


def test_a_rescue_tells_its_password(host: Host, build: g.GuestBuild) -> None:
    """By a config drive of its own, whether the server has one or not; the server's own stays as it was."""
    first, second = sealed("first-1"), sealed("second-2")
    own = build.replace(metadata=build.metadata.replace(admin_password="first-1"))
    asked = rescued(build).replace(config_drive=True, drive_name="rescue")
    asked = asked.replace(metadata=build.metadata.replace(admin_password="second-2"))
    host.build(own)
    assert told(host, build.server_id) == {"config-drive": first}
    remake(host, asked)
    assert told(host, build.server_id) == {"config-drive": first, "rescue": second}
    restore(host, build, "rescue")
    assert told(host, build.server_id) == {"config-drive": first}
    remake(host, asked)
    remake(host, build)
    driver_of(host).forget_aside(build.server_id)
    assert told(host, build.server_id) == {"config-drive": first}


def told(host: Host, server: str) -> dict[str, str]:
    """Return the passwords that a guest's config drives tell, sealed."""
    if host.driver.name == "fake":
        driver: Any = host.driver
        return dict(driver._find(server).drives)
    left: Any = host.left(server)
    found = {}
    for path in left[0].glob("*.iso"):
        text = re.search(rb'"admin_pass": ?"([^"]+)"', path.read_bytes())
        found[path.stem] = "" if text is None else sealed(text.group(1).decode())
    return found


def test_a_rescue_taken_back(host: Host, build: g.GuestBuild) -> None:
    """And the end of one: the rescue disk that was put aside comes back."""
    host.build(build)
    remake(host, rescued(build))
    assert len(disks_of(restore(host, build, "rescue"))) == 3
    again = rescued(build)
    remake(host, again)
    remake(host, build)
    assert len(disks_of(restore(host, again))) == 4


def test_what_fails_first_touches_nothing(host: Host, build: g.GuestBuild) -> None:
    """An image that cannot be had: the guest goes on, and the undo leaves it alone."""
    host.build(build)
    if host.driver.name == "fake":
        pytest.skip("simulated guests need no images")
    root, *others = build.disks
    lost = build.replace(disks=(root.replace(image_id=new_uuid()), *others))
    with pytest.raises(DriverError, match="names no source"):
        driver_of(host).remake(lost, Change(("root",), "mark"), quiet)
    assert host.driver.guests()[build.server_id] == RUNNING
    assert restore(host, build)[0] == RUNNING


def test_what_a_guest_writes_on_its_disk_is_no_format(host: Host, build: g.GuestBuild) -> None:
    """S5: a raw disk that begins like a qcow2 file stays a raw disk, whatever is done with the guest."""
    if host.driver.name == "fake":
        pytest.skip("simulated disks hold nothing")
    host.build(build)
    host.power(build, g.PowerAction.STOP, 0.0)
    (directory,) = host.left(build.server_id)  # type: ignore[misc]
    disk = directory / "ephemeral0.raw"
    planted = b"QFI\xfb" + (3).to_bytes(4, "big") + bytes(1000)
    with disk.open("r+b") as file:
        file.write(planted)
    for made in (rescued(build), build):
        remake(host, made)
        text = host.driver._find(build.server_id).XMLDesc()  # type: ignore[attr-defined]
        (found,) = [
            d
            for d in ET.fromstring(text).iterfind("devices/disk")
            if (d.find("source") is not None and d.find("source").get("file") == str(disk))  # type: ignore[union-attr]
        ]
        driver = found.find("driver")
        assert driver is not None and driver.get("type") == "raw"
    with disk.open("rb") as file:
        assert file.read(len(planted)) == planted
