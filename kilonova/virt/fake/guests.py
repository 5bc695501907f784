"""What becomes of simulated guests: pure functions that the parts of the driver share."""

import time

import msgspec

from kilonova.common.ids import new_hex
from kilonova.objects.guest import GuestBuild, LocalDisk, PowerState
from kilonova.virt.fake.disks import defined
from kilonova.virt.fake.world import FakeGuest, logged


def booted(guest: FakeGuest) -> FakeGuest:
    """Return a guest that has just booted."""
    boots = guest.boots + 1
    lines = [
        f"GUEST START simulated boot={boots}",
        *(f"GUEST NIC name=eth{n} mac={mac}" for n, (_, mac) in enumerate(guest.nics)),
        f"GUEST READY uuid={guest.server} hostname={guest.name}",
    ]
    return msgspec.structs.replace(
        logged(guest, *lines), power=int(PowerState.RUNNING), boots=boots
    )


def fresh(build: GuestBuild) -> FakeGuest:
    """Return a guest whose disks are there and that is not defined yet."""
    h = build.hardware
    guest = FakeGuest(
        server=build.server_id,
        name=build.name,
        power=PowerState.NOSTATE,
        vcpus=build.vcpus,
        memory_mib=build.memory_mib,
        disks=(),
        volumes=(),
        nics=(),
        hardware=h
        if h.machine
        else h.replace(
            machine="pc-simulated-1",
            cpu_model=h.cpu_model or "simulated",
            virt_type=h.virt_type or "fake",
        ),
        faults=build.faults,
        generation=build.metadata.generation,
        made_at=time.time(),
        images=images_of(build),
        variables=_variables(build),
    )
    return defined(guest, build)


def _variables(build: GuestBuild) -> str:
    """Return those that the guest brings, else fresh ones; "" without UEFI."""
    brought = build.belongings.variables if build.belongings is not None else None
    return brought or (new_hex() if build.hardware.firmware == "uefi" else "")


def images_of(build: GuestBuild) -> dict[str, str]:
    """Return what the local disks of a build are made of: name -> image id, "" for an empty one."""
    return {d.name: d.image_id or "" for d in build.disks if isinstance(d, LocalDisk)}
