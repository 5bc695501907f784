"""Which host keeps a new volume's data: the one with the most room among those that are up and enabled."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kilonova.common.errors import KilonovaError

ZONE = "nova"
POOL = "pool"
BACK_END = {
    "volume_backend_name": "qcow2",
    "storage_protocol": "nbd",
    "vendor_name": "Kilonova",
    "pool_name": POOL,
}


class NoRoom(KilonovaError):
    """No host that is up has room for the volume."""

    code = "no_room"


@dataclass(frozen=True)
class HostRoom:
    """What the volume service knows of a host. disk_gib: all that the host has for data."""

    host: str
    disk_gib: int
    up: bool
    disabled: bool = False


def address(host: str) -> str:
    """Return the name of a host's pool as Cinder writes it (``os-vol-host-attr:host``)."""
    return f"{host}@qcow2#{POOL}" if host else ""


def names(host: str) -> tuple[str, ...]:
    """Return what a host may be called where one is named: its pool, or what keeps it."""
    return (address(host), f"{host}@qcow2", host)


def choose(rooms: Iterable[HostRoom], kept: Mapping[str, int], size_gib: int) -> str:
    """Return the host for a volume. kept: GiB by host that are spoken for. Raises NoRoom."""
    free = [(r.disk_gib - kept.get(r.host, 0), r.host) for r in rooms if r.up and not r.disabled]
    fitting = [(room, host) for room, host in free if room >= size_gib]
    if not fitting:
        raise NoRoom(
            "No valid backend was found. No weighed backends available.",
            wanted_gib=size_gib,
            free={h: f for f, h in free},
        )
    most = max(room for room, _ in fitting)
    return min(host for room, host in fitting if room == most)
