"""What a host reports of itself, as resource providers: its own, and below it one per NUMA node and per PCI device.

A device's provider is named as Nova names it (``<host>_<PCI address>``) and gives one unit; a virtual function has one
of its own. A NUMA node's gives dedicated CPUs, and what guests with NUMA nodes of their own take of it; what a host
has as a whole stays with the host's provider. What is below a host and not ours (by its uuid) is an operator's.
source: Nova, "PCI tracking in Placement".
"""

import dataclasses
import uuid as uuids
from collections.abc import Mapping
from dataclasses import dataclass

from kilonova.common.log import get_logger
from kilonova.db.engine import Tx
from kilonova.objects.host import HostDevice, HostNode
from kilonova.objects.host import Inventory as Report
from kilonova.placement import allocations, classes, inventories, names, providers, traits
from kilonova.placement.inventories import Inventory
from kilonova.placement.providers import Provider

log = get_logger(__name__)
NODE_PREFIX = "numa"


@dataclass(frozen=True)
class Part:
    """One provider below a host. key: what tells it from the host's other parts."""

    key: str
    inventory: Mapping[str, Inventory]
    traits: frozenset[str]


def uuid_of(host: str, key: str) -> str:
    """Return the uuid of a host's part. host: uuid of its provider."""
    return str(uuids.uuid5(uuids.UUID(host), key))


def name_of(host: str, key: str) -> str:
    """Return the name of a host's part. host: the host's name."""
    return f"{host}_{key}"


def key_of(host: str, name: str) -> str:
    """Return which part of a host a name is of: ``0000:81:00.0``, ``numa1``."""
    return name.removeprefix(f"{host}_")


def parts_of(host: str, report: Report) -> dict[str, Part]:
    """Return uuid -> part of all that a host reports. host: uuid of its provider."""
    parts = [_node(n) for n in report.nodes] + [_device(d) for d in report.devices]
    return {uuid_of(host, p.key): p for p in parts}


def _node(node: HostNode) -> Part:
    found = {}
    if node.cpus:
        n = len(node.cpus)
        found[names.NODE_VCPU] = Inventory(n, 0, 1, n, 1, inventories.CPU_RATIO)
    if node.memory_mib > 0:
        found[names.NODE_MEMORY_MB] = Inventory(node.memory_mib, 0, 1, node.memory_mib, 1, 1.0)
    if node.dedicated:
        n = len(node.dedicated)
        found[names.PCPU] = Inventory(n, 0, 1, n, 1, 1.0)
    return Part(f"{NODE_PREFIX}{node.number}", found, frozenset({names.NODE}))


def _device(device: HostDevice) -> Part:
    one = {device.resource_class: Inventory(1, 0, 1, 1, 1, 1.0)}
    return Part(device.address, one, frozenset({names.DEVICE, *device.traits}))


def ensure_reported(tx: Tx, *, uuid: str, name: str, report: Report, now: float) -> bool:
    """Make a host's providers what the host reports; tell whether anything changed. Safe to repeat.

    What an operator set stays: ratios, what is reserved, CUSTOM_ traits. A part that is not reported any more goes once
    nobody holds it; until then it can be given to nobody else, for it is taken.
    """
    changed = providers.ensure_host(
        tx,
        uuid=uuid,
        name=name,
        inventory=inventories.of_host(report),
        traits_=report.traits,
        now=now,
    )
    wanted = parts_of(uuid, report)
    have = _ours(tx, providers.get(tx, uuid))
    for id_, part in wanted.items():
        changed |= _ensure_part(tx, have.get(id_), id_, part, (uuid, name), now)
    for gone in have.keys() - wanted.keys():
        if not allocations.used_by_provider(tx, have[gone].id):
            providers.delete(tx, have[gone], now)
            changed = True
    return changed


def is_reported(tx: Tx, *, uuid: str, name: str, report: Report) -> bool:
    """Tell whether ``ensure_reported`` would change nothing: most hosts register as what they were."""
    provider = providers.find(tx, uuid)
    return (
        provider is not None
        and provider.name == name
        and inventories.is_reported(tx, provider.id, inventories.of_host(report))
        and traits.is_reported(tx, provider.id, frozenset(report.traits))
        and _parts_are(tx, provider, report)
    )


def _parts_are(tx: Tx, root: Provider, report: Report) -> bool:
    wanted, have = parts_of(root.uuid, report), _ours(tx, root)
    return wanted.keys() == have.keys() and all(
        have[id_].name == name_of(root.name, part.key)
        and inventories.of(tx, have[id_].id) == _kept(tx, have[id_], part)
        and traits.is_reported(tx, have[id_].id, part.traits)
        for id_, part in wanted.items()
    )


def _ours(tx: Tx, root: Provider) -> dict[str, Provider]:
    """Return the parts that we made below a host, by uuid."""
    below = providers.children(tx, root.id)
    return {p.uuid: p for p in below if p.uuid == uuid_of(root.uuid, key_of(root.name, p.name))}


def _kept(tx: Tx, provider: Provider, part: Part) -> dict[str, Inventory]:
    """Return a part's inventory with the ratios and reservations that are there."""
    have = inventories.of(tx, provider.id)
    return {
        rc: record
        if rc not in have
        else dataclasses.replace(
            record,
            allocation_ratio=have[rc].allocation_ratio,
            reserved=min(have[rc].reserved, record.total),
        )
        for rc, record in part.inventory.items()
    }


def _ensure_part(
    tx: Tx, found: Provider | None, id_: str, part: Part, host: tuple[str, str], now: float
) -> bool:
    """Make one part what is reported. host: (uuid, name). A name that somebody else took is left to him."""
    made = found is None
    if found is None:
        try:
            found = providers.create(
                tx, uuid=id_, name=name_of(host[1], part.key), parent=host[0], now=now
            )
        except providers.Duplicate as exc:
            log.warning("a part of a host has no provider", extra={"why": exc.message})
            return False
    for resource_class in part.inventory:
        if names.CUSTOM.fullmatch(resource_class):
            classes.make(tx, resource_class, now)
    wanted, have = _kept(tx, found, part), inventories.of(tx, found.id)
    used = inventories.used(tx, found.id)
    gone = [rc for rc in have.keys() - wanted.keys() if not used.get(rc)]
    for rc in gone:
        inventories.remove(tx, found.id, rc, used)
    news = [rc for rc, record in wanted.items() if have.get(rc) != record]
    for rc in news:
        inventories.write(tx, found.id, rc, wanted[rc])
    changed = traits.report(tx, found.id, part.traits, now) or bool(gone or news)
    if changed:
        providers.touch(tx, found.id, now)
    return made or changed


def remove_parts(tx: Tx, root: Provider, now: float) -> None:
    """Remove the parts that we made below a host. Raises InUse while somebody holds one."""
    for part in _ours(tx, root).values():
        providers.delete(tx, part, now)


__all__ = [
    "NODE_PREFIX",
    "Part",
    "ensure_reported",
    "is_reported",
    "key_of",
    "name_of",
    "parts_of",
    "remove_parts",
    "uuid_of",
]
