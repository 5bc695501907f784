"""The disks in a server's record: which are volumes, what they are called, how they are written. No effects here."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from kilonova.common.errors import Forbidden
from kilonova.objects.server import DiskRequest

MAX_DISKS = 26
_PREFIX = {"virtio": "vd", "scsi": "sd", "sata": "sd", "usb": "sd", "ide": "hd", "fdc": "fd"}
_decode = msgspec.json.Decoder(list[DiskRequest]).decode


def read(row: Mapping[str, Any]) -> list[DiskRequest]:
    """Return a row's disks, the root disk first."""
    return _decode(row["disks"])


def write(disks: Iterable[DiskRequest]) -> str:
    """Encode disks for a row."""
    return msgspec.json.encode(list(disks)).decode()


def volumes(disks: Iterable[DiskRequest]) -> list[DiskRequest]:
    """Return those that are volumes, or are to become some."""
    return [d for d in disks if d.destination == "volume"]


def is_root(disk: DiskRequest) -> bool:
    """Tell whether the guest boots from a disk."""
    return disk.boot_index == 0


def volume_backed(disks: Iterable[DiskRequest]) -> bool:
    """Tell whether the root disk is a volume: no host keeps it."""
    return any(is_root(d) and d.destination == "volume" for d in disks)


def find_volume(disks: Iterable[DiskRequest], volume_id: str) -> DiskRequest | None:
    """Return the disk that is a volume, or None."""
    return next((d for d in disks if d.volume_id == volume_id), None)


def of_row(row: Mapping[str, Any]) -> list[DiskRequest]:
    """Return a row's volumes that exist; cheap for rows that have none (lists of servers)."""
    if '"volume_id":"' not in row["disks"]:
        return []
    return [d for d in read(row) if d.volume_id is not None]


def free_name(taken: Iterable[str | None], bus: str | None, wanted: str | None = None) -> str:
    """Return a device name ("vdb") that no disk has; the wanted one if it fits the bus and is free.

    source: Nova with libvirt, where a name in a request is a wish. Forbidden when all 26 are taken.
    """
    used, prefix = set(taken), _PREFIX.get(bus or "virtio", "vd")
    if wanted is not None:
        name = wanted.removeprefix("/dev/")
        if name.startswith(prefix) and len(name) == 3 and name not in used:
            return name
    for n in range(MAX_DISKS):
        name = f"{prefix}{chr(ord('a') + n)}"
        if name not in used:
            return name
    raise Forbidden(
        f"The maximum allowed number of disk devices ({MAX_DISKS}) to attach to a single instance "
        "has been exceeded."
    )


def named(disks: Sequence[DiskRequest]) -> tuple[DiskRequest, ...]:
    """Put the root disk first and give every disk a device name; wishes come before the rest."""
    ordered = sorted(disks, key=lambda d: not is_root(d))
    names: dict[int, str] = {}
    for wishes in (True, False):
        for i, disk in enumerate(ordered):
            if (disk.device is not None) == wishes:
                names[i] = free_name(names.values(), disk.bus, disk.device)
    return tuple(d.replace(device=names[i]) for i, d in enumerate(ordered))


def path_of(disk: DiskRequest) -> str | None:
    """Return a disk's device as the API shows it."""
    return None if disk.device is None else f"/dev/{disk.device}"
