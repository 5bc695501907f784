"""Addresses of a subnet: take the lowest free one or a named one, give it back. O(log n) in the pool and the ports.

Free addresses are ranges; a fresh /8 is one row. All callers hold the one write transaction, and (subnet, number) is
the primary key of ``address``: an address is never given twice.
"""

import ipaddress
import json
from typing import Any

import sqlalchemy as sa

from kilonova.db.engine import Row, Tx
from kilonova.db.sql import P, Q, insert
from kilonova.network.embedded.schema import address, free_range, port, subnet

_LOWEST = Q(
    sa.select(free_range.c.first, free_range.c.last)
    .where(free_range.c.subnet_id == P("subnet_id"))
    .order_by(free_range.c.first)
    .limit(1)
)
_AROUND = Q(
    sa.select(free_range.c.first, free_range.c.last)
    .where(free_range.c.subnet_id == P("subnet_id"), free_range.c.first <= P("num"))
    .order_by(free_range.c.first.desc())
    .limit(1)
)
_NEIGHBOURS = Q(
    sa.select(free_range.c.first, free_range.c.last).where(
        free_range.c.subnet_id == P("subnet_id"),
        sa.or_(
            free_range.c.first == P("above"),
            free_range.c.first
            == sa.select(sa.func.max(free_range.c.first))
            .where(free_range.c.subnet_id == P("subnet_id"), free_range.c.first <= P("num"))
            .scalar_subquery(),
        ),
    )
)
_RESHAPE = Q(
    sa.update(free_range)
    .where(free_range.c.subnet_id == P("the_subnet"), free_range.c.first == P("old"))
    .values(first=P("first"), last=P("last"))
)
_DROP = Q(
    sa.delete(free_range).where(
        free_range.c.subnet_id == P("subnet_id"), free_range.c.first == P("num")
    )
)
_DROP_ALL = Q(sa.delete(free_range).where(free_range.c.subnet_id == P("subnet_id")))
_ADD = insert(free_range)
_TAKE = insert(address)
_HOLDER = Q(
    sa.select(address.c.port_id).where(
        address.c.subnet_id == P("subnet_id"), address.c.num == P("num")
    )
)
_NUMS = Q(
    sa.select(address.c.num).where(address.c.subnet_id == P("subnet_id")).order_by(address.c.num)
)
WITH_POOLS = Q(
    sa.select(address.c.subnet_id, address.c.ip, subnet.c.allocation_pools)
    .join(subnet, subnet.c.id == address.c.subnet_id)
    .where(address.c.port_id == P("port_id"))
    .order_by(address.c.place)
)
_OF_PORT = Q(
    sa.select(address.c.subnet_id, address.c.ip, address.c.num)
    .where(address.c.port_id == P("port_id"))
    .order_by(address.c.place)
)
_RELEASE = Q(
    sa.delete(address).where(address.c.subnet_id == P("subnet_id"), address.c.num == P("num"))
)
_PLACE = Q(
    sa.select(sa.func.coalesce(sa.func.max(address.c.place), -1) + 1).where(
        address.c.port_id == P("port_id")
    )
)

# The concatenation keeps SQLite from walking every address of the subnet: the network has one DHCP port.
_dhcp_ports = sa.select(port.c.id).where(
    port.c.network_id == subnet.c.network_id, port.c.device_owner == "network:dhcp"
)
_dhcp_ip = (
    sa.select(address.c.ip)
    .where(
        address.c.port_id.in_(_dhcp_ports.correlate(subnet)),
        address.c.subnet_id.concat("") == subnet.c.id,
    )
    .correlate(subnet)
    .limit(1)
)
OF_NETWORK = Q(  # with ``dhcp_ip``: the address that DHCP answers from
    sa.select(subnet, _dhcp_ip.scalar_subquery().label("dhcp_ip"))
    .where(subnet.c.network_id == P("network_id"))
    .order_by(subnet.c.created_at, subnet.c.id)
)

Pool = tuple[int, int]  # first and last address, inclusive


def pools_of(row: Row) -> list[Pool]:
    """Return the pools of a subnet's row as numbers."""
    return [
        (int(ipaddress.ip_address(p["start"])), int(ipaddress.ip_address(p["end"])))
        for p in json.loads(row["allocation_pools"])
    ]


def key(number: int) -> str:
    """Return the form in which addresses are ordered."""
    return f"{number:032x}"


def text_of(number: int, version: int) -> str:
    """Return the address as people write it."""
    return str(ipaddress.IPv4Address(number) if version == 4 else ipaddress.IPv6Address(number))


def lay_out(tx: Tx, subnet_id: str, pools: list[Pool]) -> None:
    """Make the free ranges anew from the pools and what is taken. O(taken): on creation and change of pools only."""
    tx.put(_DROP_ALL, subnet_id=subnet_id)
    taken = [int(r[0], 16) for r in tx.all(_NUMS, subnet_id=subnet_id)]
    at = 0
    rows: list[dict[str, Any]] = []
    for first, last in sorted(pools):
        start = first
        while at < len(taken) and taken[at] < first:
            at += 1
        while at < len(taken) and taken[at] <= last:
            if taken[at] > start:
                rows.append(_row(subnet_id, start, taken[at] - 1))
            start = taken[at] + 1
            at += 1
        if start <= last:
            rows.append(_row(subnet_id, start, last))
    tx.many(_ADD, rows)


def _row(subnet_id: str, first: int, last: int) -> dict[str, Any]:
    return {"subnet_id": subnet_id, "first": key(first), "last": key(last)}


def _reshape(tx: Tx, subnet_id: str, old: str, first: int, last: int) -> None:
    """Give a free range other ends. old: its first address, as ordered."""
    tx.put(_RESHAPE, the_subnet=subnet_id, old=old, first=key(first), last=key(last))


def take_lowest(tx: Tx, subnet_id: str) -> int | None:
    """Remove the lowest free address from the free ranges and return it; None when the pools are used up."""
    found = tx.one(_LOWEST, subnet_id=subnet_id)
    if found is None:
        return None
    first, last = int(found[0], 16), int(found[1], 16)
    if first < last:
        _reshape(tx, subnet_id, found[0], first + 1, last)
    else:
        tx.put(_DROP, subnet_id=subnet_id, num=found[0])
    return first


def take_exact(tx: Tx, subnet_id: str, number: int) -> None:
    """Remove one address from the free ranges; fine when it lies outside of every pool."""
    found = tx.one(_AROUND, subnet_id=subnet_id, num=key(number))
    if found is None:
        return
    first, last = int(found[0], 16), int(found[1], 16)
    if number > last:
        return
    tx.put(_DROP, subnet_id=subnet_id, num=found[0])
    if first < number:
        tx.put(_ADD, **_row(subnet_id, first, number - 1))
    if number < last:
        tx.put(_ADD, **_row(subnet_id, number + 1, last))


def holder(tx: Tx, subnet_id: str, number: int) -> str | None:
    """Return the port that has an address, or None."""
    found: str | None = tx.value(_HOLDER, subnet_id=subnet_id, num=key(number))
    return found


def record(tx: Tx, subnet_id: str, number: int, version: int, port_id: str, place: int) -> str:
    """Write down that a port has an address that was taken before; return it as text."""
    ip = text_of(number, version)
    tx.put(_TAKE, subnet_id=subnet_id, num=key(number), ip=ip, port_id=port_id, place=place)
    return ip


def next_place(tx: Tx, port_id: str) -> int:
    """Return where a further address of a port goes."""
    return int(tx.value(_PLACE, port_id=port_id))


def of_port(tx: Tx, port_id: str) -> list[tuple[str, str]]:
    """Return (subnet, ip) of a port in order."""
    return [(r[0], r[1]) for r in tx.all(_OF_PORT, port_id=port_id)]


def release(tx: Tx, subnet_id: str, number: int, pools: list[Pool]) -> None:
    """Give an address back; it joins its free neighbours. Repeatable."""
    if not tx.run(_RELEASE, subnet_id=subnet_id, num=key(number)):
        return
    pool = next((p for p in pools if p[0] <= number <= p[1]), None)
    if pool is None:
        return
    below = above = None
    for r in tx.all(_NEIGHBOURS, subnet_id=subnet_id, num=key(number), above=key(number + 1)):
        if int(r[0], 16) == number + 1:
            above = r if number < pool[1] else None
        elif int(r[1], 16) == number - 1 and number > pool[0]:
            below = r
    last = number if above is None else int(above[1], 16)
    if below is not None:
        if above is not None:
            tx.put(_DROP, subnet_id=subnet_id, num=above[0])
        _reshape(tx, subnet_id, below[0], int(below[0], 16), last)
    elif above is not None:
        _reshape(tx, subnet_id, above[0], number, last)
    else:
        tx.put(_ADD, **_row(subnet_id, number, number))
