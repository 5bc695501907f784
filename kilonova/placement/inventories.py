"""What a provider has to give, per resource class."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from kilonova.common.errors import BadRequest, Conflict, NotFound
from kilonova.db.engine import Row, Tx
from kilonova.db.sql import P, Q, insert
from kilonova.objects import host as host_objects
from kilonova.placement import names
from kilonova.placement.schema import allocation as a
from kilonova.placement.schema import inventory as inv

CPU_RATIO, RAM_RATIO, DISK_RATIO = 4.0, 1.0, 1.0  # source: Nova, initial_*_allocation_ratio

_OF = Q(sa.select(inv).where(inv.c.provider == P("provider")).order_by(inv.c.resource_class))
_ADD = insert(inv)
_DELETE = Q(
    sa.delete(inv).where(
        inv.c.provider == P("provider"), inv.c.resource_class == P("resource_class")
    )
)
_USED = Q(
    sa.select(a.c.resource_class, sa.func.sum(a.c.used))
    .where(a.c.provider == P("provider"))
    .group_by(a.c.resource_class)
)


class InventoryInUse(Conflict):
    """The inventory cannot go while something is allocated from it."""

    code = "inventory_in_use"
    placement_code = "placement.inventory.inuse"


@dataclass(frozen=True, slots=True)
class Inventory:
    """One class of one provider. Units are those of the class (cores, MiB, GiB)."""

    total: int
    reserved: int = 0
    min_unit: int = 1
    max_unit: int = names.MAX_UNIT
    step_size: int = 1
    allocation_ratio: float = 1.0

    @property
    def capacity(self) -> int:
        """What can be allocated in all; a ratio may be absurd, the number stays one that fits a column."""
        return min(int((self.total - self.reserved) * self.allocation_ratio), 2**62)


def of_row(row: Row) -> Inventory:
    """Return the record of a row."""
    return Inventory(
        row["total"],
        row["reserved"],
        row["min_unit"],
        row["max_unit"],
        row["step_size"],
        row["allocation_ratio"],
    )


def of(tx: Tx, provider_id: int) -> dict[str, Inventory]:
    """Return a provider's inventory by class."""
    return {r["resource_class"]: of_row(r) for r in tx.all(_OF, provider=provider_id)}


def used(tx: Tx, provider_id: int) -> dict[str, int]:
    """Count what is allocated from a provider, by class; classes of which nothing is used are absent."""
    return {r[0]: int(r[1]) for r in tx.all(_USED, provider=provider_id)}


def of_host(
    report: host_objects.Inventory,
    cpu_ratio: float = CPU_RATIO,
    ram_ratio: float = RAM_RATIO,
    disk_ratio: float = DISK_RATIO,
) -> dict[str, Inventory]:
    """Return the root provider's inventory of a host that reports ``report``; ratios apply when it is first seen."""
    out = {}
    if report.vcpus > 0:
        out[names.VCPU] = Inventory(report.vcpus, 0, 1, report.vcpus, 1, cpu_ratio)
    if report.memory_mib > 0:
        reserved = min(report.reserved_memory_mib, report.memory_mib)
        out[names.MEMORY_MB] = Inventory(
            report.memory_mib, reserved, 1, report.memory_mib, 1, ram_ratio
        )
    if report.disk_gib > 0:
        out[names.DISK_GB] = Inventory(report.disk_gib, 0, 1, report.disk_gib, 1, disk_ratio)
    if report.dedicated and not report.nodes:
        n = len(report.dedicated)
        out[names.PCPU] = Inventory(n, 0, 1, n, 1, 1.0)
    return out


def write(tx: Tx, provider_id: int, resource_class: str, record: Inventory) -> None:
    """Set one class of a provider. The caller bumps the generation."""
    tx.run(_DELETE, provider=provider_id, resource_class=resource_class)
    tx.run(
        _ADD,
        provider=provider_id,
        resource_class=resource_class,
        total=record.total,
        reserved=record.reserved,
        min_unit=record.min_unit,
        max_unit=record.max_unit,
        step_size=record.step_size,
        allocation_ratio=record.allocation_ratio,
    )


def replace(tx: Tx, provider_id: int, records: Mapping[str, Inventory]) -> None:
    """Make the provider's inventory exactly this. Raises InventoryInUse for a used class that would go."""
    taken = used(tx, provider_id)
    for gone in of(tx, provider_id).keys() - records.keys():
        remove(tx, provider_id, gone, taken)
    for resource_class, record in records.items():
        check(resource_class, record)
        write(tx, provider_id, resource_class, record)


def remove(
    tx: Tx, provider_id: int, resource_class: str, taken: Mapping[str, int] | None = None
) -> None:
    """Remove one class. Raises InventoryInUse, NotFound."""
    if (used(tx, provider_id) if taken is None else taken).get(resource_class):
        raise InventoryInUse(f"Inventory for '{resource_class}' on resource provider is in use.")
    if tx.run(_DELETE, provider=provider_id, resource_class=resource_class) == 0:
        raise NotFound(f"No inventory of class {resource_class} found")


def check(resource_class: str, record: Inventory, may_reserve_all: bool = True) -> None:
    """Raise BadRequest for an inventory that nothing can be taken from. source: Placement, API 1.26 for reserved."""
    if record.reserved > record.total or (record.reserved == record.total and not may_reserve_all):
        raise BadRequest(
            f"Invalid inventory for '{resource_class}'. The reserved value is greater than "
            f"{'' if may_reserve_all else 'or equal to '}total."
        )
    if record.min_unit > record.max_unit:
        raise BadRequest(
            f"Invalid inventory for '{resource_class}'. min_unit is greater than max_unit."
        )


def report(tx: Tx, provider_id: int, records: Mapping[str, Inventory]) -> bool:
    """Take over what a host reports, keeping ratios that are there; tell whether anything changed."""
    news, gone = _news(of(tx, provider_id), records)
    for resource_class, record in news.items():
        write(tx, provider_id, resource_class, record)
    taken = used(tx, provider_id) if gone else {}
    gone = [c for c in gone if not taken.get(c)]
    for resource_class in gone:
        remove(tx, provider_id, resource_class, taken)
    return bool(news or gone)


def is_reported(tx: Tx, provider_id: int, records: Mapping[str, Inventory]) -> bool:
    """Tell whether ``report`` would change nothing; of a class that is used and not reported it says no."""
    return _news(of(tx, provider_id), records) == ({}, [])


def _news(
    have: Mapping[str, Inventory], records: Mapping[str, Inventory]
) -> tuple[dict[str, Inventory], list[str]]:
    """Return the classes to write, with the ratios that are there, and those that are not reported any more."""
    news = {}
    for resource_class, record in records.items():
        old = have.get(resource_class)
        if old is not None:
            record = dataclasses.replace(record, allocation_ratio=old.allocation_ratio)
        if record != old:
            news[resource_class] = record
    of_hosts = (names.VCPU, names.MEMORY_MB, names.DISK_GB)  # PCPU and devices: an operator's
    return news, [c for c in have.keys() - records.keys() if c in of_hosts]
