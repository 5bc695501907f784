"""Which devices and NUMA nodes of its host a server has: those that it holds in placement. Nothing else says so.

Between a move and its confirm or revert the migration holds what the server had where it was.
"""

import msgspec

from kilonova.common.errors import Conflict
from kilonova.db.engine import Row, Tx
from kilonova.objects.guest import GuestNode, PassedDevice
from kilonova.objects.server import FlavorRecord, ImageRecord
from kilonova.operations.services import Services
from kilonova.placement import allocations, reported
from kilonova.placement.allocations import BelowHost
from kilonova.scheduler import guest_numa, pci, request


def has_some(flavor: str) -> bool:
    """Tell whether a flavor, as a row keeps it, asks for devices of a host."""
    return pci.SPEC in flavor and pci.count_of(_flavor(flavor).extra_specs) > 0


def _flavor(text: str) -> FlavorRecord:
    return msgspec.json.decode(text, type=FlavorRecord)


def devices_of(services: Services, row: Row, holder: str | None = None) -> tuple[PassedDevice, ...]:
    """Return the devices of a server on the host that its row names.

    holder: the migration that holds what the server had there, if it holds anything there; else the server's own count.
    Raises Conflict when it holds fewer than its flavor asks for: a guest without them would be another one.
    """
    if not has_some(row["flavor"]):
        return ()
    held = [h for h in on_host(services, row, holder) if not h.key.startswith(reported.NODE_PREFIX)]
    if len(held) < pci.count_of(_flavor(row["flavor"]).extra_specs):
        raise Conflict("The server does not hold the devices that its flavor asks for.")
    return tuple(PassedDevice(address=h.key, resource_class=next(iter(h.amounts))) for h in held)


def cells_of(flavor: FlavorRecord, image: ImageRecord | None) -> tuple[guest_numa.Cell, ...]:
    """Return the NUMA nodes that a server asked for, none when it said nothing of them."""
    properties = {} if image is None else image.properties
    if not guest_numa.is_asked(flavor.extra_specs, properties):
        return ()
    return request.cells_of(flavor, properties)


def nodes_of(
    services: Services,
    row: Row,
    flavor: FlavorRecord,
    image: ImageRecord | None,
    holder: str | None = None,
) -> tuple[GuestNode, ...]:
    """Return the NUMA nodes of a server's guest, and where they are on the host that its row names. See devices_of."""
    cells = cells_of(flavor, image)
    if not cells:
        return ()
    places: dict[int, int] = {}
    if len(cells) > 1:
        prefix = reported.NODE_PREFIX
        held = {
            int(h.key.removeprefix(prefix)): h.amounts
            for h in on_host(services, row, holder)
            if h.key.startswith(prefix)
        }
        dedicated = request.is_dedicated(flavor.extra_specs)
        places = guest_numa.places(cells, held, dedicated=dedicated)
        if not places:
            raise Conflict("The server does not hold the NUMA nodes that it asks for.")
    return tuple(
        GuestNode(
            number=c.number,
            cpus=c.cpus,
            memory_mib=c.memory_mib,
            host_node=places.get(c.number),
        )
        for c in cells
    )


def on_host(services: Services, row: Row, holder: str | None) -> list[BelowHost]:
    """Return what is held of the parts of the host that a row names, by key."""
    state = services.hosts.find(row["host"])
    if state is None:
        raise Conflict("The host of the server is not known.", host=row["host"])

    def ask(tx: Tx) -> list[BelowHost]:
        for consumer in filter(None, (holder, row["uuid"])):
            found = allocations.below_host(tx, consumer, state.uuid)
            if found:
                return found
        return []

    ours = [
        BelowHost(h.provider, reported.key_of(state.host, h.key), h.amounts)
        for h in services.world.read(ask)
    ]
    return [h for h in ours if h.provider == reported.uuid_of(state.uuid, h.key)]
