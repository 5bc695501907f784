"""Ports: make, change, bind, delete. Everything that a port holds (addresses, groups) goes with it."""

import ipaddress
import json
import os
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from kilonova.common.ids import new_uuid
from kilonova.db.engine import Row, Tx
from kilonova.db.sql import P, Q, insert
from kilonova.network.embedded.faults import Clash, Refused, missing
from kilonova.network.embedded.schema import (
    address,
    floating,
    network,
    port,
    port_binding,
    router,
)
from kilonova.network.embedded.store import addresses, bindings, fixed, groups
from kilonova.network.embedded.store.common import changed, find, forget_tags
from kilonova.network.embedded.store.fixed import FixedRequest
from kilonova.network.embedded.store.work import Work
from kilonova.objects.port import NetworkEventName

FIND = find(port)
_FIND_NETWORK = find(network)
_INSERT = insert(port)
_DELETE = Q(sa.delete(port).where(port.c.id == P("id")))
_MAC = Q(sa.select(port.c.id).where(port.c.network_id == P("network_id"), port.c.mac == P("mac")))
_TOUCH = Q(sa.update(port).where(port.c.id == P("id")).values(generation=port.c.generation + 1))
_TOUCH_ROUTER = Q(
    sa.update(router).where(router.c.id == P("id")).values(generation=router.c.generation + 1)
)
_FLOATING = Q(sa.select(floating).where(floating.c.port_id == P("port_id")))
_UNLEAD = Q(
    sa.update(floating)
    .where(floating.c.id == P("id"))
    .values(port_id=None, fixed_ip=None, router_id=None, status="DOWN", updated_at=P("now"))
)
_ELSEWHERE = Q(
    sa.union_all(
        sa.select(port.c.id).where(port.c.network_id == P("network_id"), port.c.host == P("host")),
        sa.select(port.c.id)
        .join(port_binding, port_binding.c.port_id == port.c.id)
        .where(port.c.network_id == P("network_id"), port_binding.c.host == P("host")),
    ).limit(1)
)
OF_DEVICE = Q(sa.select(port).where(port.c.device_id == P("device_id")).order_by(port.c.created_at))
BY_KEY = Q(sa.select(port).where(port.c.operation == P("operation"), port.c.item == P("item")))
_DHCP_ADDRESS = Q(
    sa.select(address.c.ip)
    .join(port, port.c.id == address.c.port_id)
    .where(address.c.subnet_id == P("subnet_id"), port.c.device_owner == "network:dhcp")
)
BASE_MAC = "fa:16:3e"


@dataclass(kw_only=True)
class NewPort:
    """A port to make. fixed: None for one address of each family. groups: None for the project's default group."""

    project_id: str
    network_id: str
    name: str = ""
    description: str = ""
    mac: str | None = None
    admin_up: bool = True
    status: str = "DOWN"
    device_id: str = ""
    device_owner: str = ""
    operation: str = ""
    item: str = ""
    host: str = ""
    vnic_type: str = "normal"
    profile: dict[str, Any] = field(default_factory=dict)
    port_security: bool | None = None
    pairs: list[dict[str, str]] = field(default_factory=list)
    dhcp_options: list[dict[str, Any]] = field(default_factory=list)
    dns_name: str = ""
    tag: str | None = None
    fixed: list[FixedRequest] | None = None
    groups: list[str] | None = None


def get(tx: Tx, port_id: str) -> Row:
    """Return a port's row; PortNotFound."""
    row = tx.one(FIND, id=port_id)
    if row is None:
        raise missing("port", port_id)
    return row


def is_system(device_owner: str) -> bool:
    """Tell whether the network itself made a port (DHCP, routers, floating addresses)."""
    return device_owner.startswith("network:")


def mac_is_free(tx: Tx, network_id: str, mac: str) -> None:
    """Raise MacAddressInUse when another port of the network has it."""
    if tx.one(_MAC, network_id=network_id, mac=mac) is not None:
        raise Clash(
            "MacAddressInUse",
            f"Unable to complete operation for network {network_id}. The mac address {mac} is in use.",
        )


def _mac(tx: Tx, network_id: str, given: str | None) -> str:
    if given is not None:
        mac_is_free(tx, network_id, given)
        return given
    while True:
        mac = BASE_MAC + ":" + os.urandom(3).hex(":")
        if tx.one(_MAC, network_id=network_id, mac=mac) is None:
            return mac


def tell(work: Work, row: Row) -> None:
    """Tell compute that a server's port changed its addresses."""
    if row["operation"]:
        work.event(NetworkEventName.CHANGED, row["device_id"], row["id"])


@dataclass(frozen=True)
class Made:
    """A port that was made just now. addresses: (its subnet, of ``OF_NETWORK``; ip). groups: (id, name)."""

    row: dict[str, Any]
    addresses: list[tuple[Row, str]]
    groups: list[tuple[str, str]]


def make(work: Work, new: NewPort) -> str:
    """Make a port with its addresses and groups; return its id. NetworkNotFound for a missing network."""
    net = work.tx.one(_FIND_NETWORK, id=new.network_id)
    if net is None:
        raise missing("network", new.network_id)
    return str(put(work, new, net).row["id"])


def put(work: Work, new: NewPort, net: Row) -> Made:
    """Make a port in a network that was read in this transaction."""
    tx = work.tx
    mac = _mac(tx, new.network_id, new.mac)
    system = is_system(new.device_owner)
    secure = bool(net["port_security"]) if new.port_security is None else new.port_security
    if system:
        secure = False
    port_id = new_uuid()
    taken = fixed.choose(tx, new.network_id, new.fixed, mac, router=system)
    named = _groups_for(work, new, secure, bool(taken))
    row = {
        "id": port_id,
        "project_id": new.project_id,
        "name": new.name,
        "description": new.description,
        "created_at": work.now,
        "updated_at": work.now,
        "revision": 1,
        "network_id": new.network_id,
        "mac": mac,
        "admin_up": int(new.admin_up),
        "status": new.status,
        "device_id": new.device_id,
        "device_owner": new.device_owner,
        "operation": new.operation,
        "item": new.item,
        "preserve": 0,
        "host": new.host,
        "vnic_type": new.vnic_type,
        "profile": json.dumps(new.profile),
        "port_security": int(secure),
        "pairs": json.dumps(checked_pairs(new.pairs, secure, mac)),
        "dhcp_options": json.dumps(new.dhcp_options),
        "dns_name": new.dns_name,
        "tag": new.tag,
        "generation": 1,
        "applied": 0,
    }
    tx.put(_INSERT, **row)
    ips = fixed.record(tx, port_id, taken)
    groups.join(work, port_id, [g for g, _ in named])
    if new.host:
        work.ports.add(port_id)
        work.moves(new.network_id, mac, new.host)
    return Made(row, [(s, ip) for (s, _), (_, ip) in zip(taken, ips, strict=True)], named)


def _groups_for(work: Work, new: NewPort, secure: bool, has_address: bool) -> list[tuple[str, str]]:
    if is_system(new.device_owner):
        return []
    if new.groups is None:
        if not (secure and has_address):
            return []
        default = groups.get(work.tx, groups.ensure_default(work, new.project_id))
        return [(default["id"], default["name"])]
    if new.groups and not secure:
        raise Refused(
            "PortSecurityAndIPRequiredForSecurityGroups",
            "Port security must be enabled and port must have an IP address in order to use security groups.",
        )
    return groups.named(work.tx, new.project_id, new.groups)


def checked_pairs(pairs: list[dict[str, str]], secure: bool, mac: str) -> list[dict[str, str]]:
    """Return allowed address pairs in canonical form; Neutron's refusals otherwise."""
    if pairs and not secure:
        raise Clash(
            "AddressPairAndPortSecurityRequired",
            "Port Security must be enabled in order to have allowed address pairs on a port.",
        )
    out: list[dict[str, str]] = []
    for p in pairs:
        try:
            net = ipaddress.ip_network(p["ip_address"], strict=False)
        except ValueError:
            raise Refused(
                "InvalidInput",
                "Invalid input for allowed_address_pairs. Reason: "
                f"'{p['ip_address'][:80]}' is not a valid IP address or subnet.",
            ) from None
        text = str(net) if "/" in p["ip_address"] else str(net.network_address)
        pair = {"ip_address": text, "mac_address": (p.get("mac_address") or mac).lower()}
        if pair in out:
            raise Refused(
                "DuplicateAddressPairInRequest",
                f"Request contains duplicate address pair: mac_address {pair['mac_address']} ip_address {text}.",
            )
        out.append(pair)
    return out


def touch(work: Work, port_id: str) -> None:
    """Note that what its host knows of a port changed."""
    work.tx.put(_TOUCH, id=port_id)
    work.ports.add(port_id)


def touch_router(work: Work, router_id: str) -> None:
    """Note that what its host knows of a router changed."""
    work.tx.put(_TOUCH_ROUTER, id=router_id)
    work.routers.add(router_id)


def change(work: Work, row: Row, values: dict[str, Any], published: bool = True) -> None:
    """Change columns of a port; with ``published`` its host learns of it."""
    out = dict(values)
    if published:
        out["generation"] = port.c.generation + 1
        work.ports.add(row["id"])
        work.moves(row["network_id"], row["mac"], row["host"], out.get("host", ""))
        if "mac" in out:
            work.moves(row["network_id"], out["mac"])
    changed(work.tx, port, row["id"], work.now, out)


def bind(work: Work, row: Row, host: str, values: dict[str, Any] | None = None) -> None:
    """Bind a port to a host; it is DOWN until that host applied it. The old host, if any, lets go."""
    moved = row["host"] != host
    if moved:
        bindings.drop(work.tx, row["id"], host)
    out: dict[str, Any] = {**(values or {}), "host": host}
    if moved:
        out["status"] = "DOWN"
        out["applied"] = 0
        if row["host"]:
            let_go(work, row, row["host"], row["generation"] + 1)
    change(work, row, out)
    if moved and row["host"]:
        leave_host(work, row, row["host"])


def unbind(work: Work, row: Row) -> None:
    """Free a port from its device and host; it stays for its owner."""
    values = {
        "device_id": "",
        "device_owner": "",
        "operation": "",
        "item": "",
        "preserve": 0,
        "tag": None,
    }
    off_host(work, row, values)


def off_host(work: Work, row: Row, values: dict[str, Any]) -> None:
    """Change a port that has no host from now on; the one that it had, and those that had prepared, let go."""
    hosts = _all_hosts(work, row)
    change(work, row, {**values, "host": "", "status": "DOWN", "applied": 0})
    work.ports.discard(row["id"])
    for host in hosts:
        let_go(work, row, host, row["generation"] + 1)
        leave_host(work, row, host)
    for f in work.tx.all(_FLOATING, port_id=row["id"]):
        if f["router_id"]:
            touch_router(work, f["router_id"])


def _all_hosts(work: Work, row: Row) -> list[str]:
    """Return every host where a port is bound, having removed its inactive bindings."""
    other = bindings.drop_all(work.tx, row["id"])
    return [row["host"], *other] if row["host"] else other


def let_go(work: Work, row: Row, host: str, generation: int) -> None:
    """Take a port off a host."""
    work.moves(row["network_id"], row["mac"], host)
    work.gone.append((host, "port", row["id"], generation))


def leave_host(work: Work, row: Row, host: str) -> None:
    """Take the network off a host that a port left, if no other port is there."""
    if work.tx.one(_ELSEWHERE, network_id=row["network_id"], host=host) is None:
        net = work.tx.one(_FIND_NETWORK, id=row["network_id"])
        work.gone.append((host, "network", row["network_id"], net["generation"] if net else 0))


def delete(work: Work, row: Row, *, by_compute: bool = False) -> None:
    """Delete a port: its addresses and groups are free at once, its floating addresses lead nowhere.

    by_compute: compute asked for it and need not be told.
    """
    tx, port_id = work.tx, row["id"]
    for f in tx.all(_FLOATING, port_id=port_id):
        tx.put(_UNLEAD, id=f["id"], now=work.now)
        if f["router_id"]:
            touch_router(work, f["router_id"])
    release_all(work, row)
    groups.leave_all(work, port_id)
    forget_tags(tx, port_id)
    hosts = _all_hosts(work, row)
    tx.put(_DELETE, id=port_id)
    work.ports.discard(port_id)
    work.moves(row["network_id"], row["mac"], *hosts)
    for host in hosts:
        if not is_system(row["device_owner"]):
            let_go(work, row, host, row["generation"] + 1)
        leave_host(work, row, host)
    if row["operation"] and not by_compute:
        work.event(NetworkEventName.VIF_DELETED, row["device_id"], port_id)


def release_all(work: Work, row: Row, keep: frozenset[tuple[str, str]] = frozenset()) -> None:
    """Give back every address of a port but those in ``keep`` ((subnet, ip))."""
    for held in work.tx.all(addresses.WITH_POOLS, port_id=row["id"]):
        if (held["subnet_id"], held["ip"]) not in keep:
            fixed.release(work.tx, held)


def set_fixed(work: Work, row: Row, wanted: list[FixedRequest]) -> None:
    """Give a port exactly these addresses; those that it has and keeps are not touched."""
    held = addresses.of_port(work.tx, row["id"])
    keep: list[tuple[str, str]] = []
    fresh: list[FixedRequest] = []
    for w in wanted:
        match = next(
            (
                h
                for h in held
                if h not in keep
                and (w.subnet_id is None or w.subnet_id == h[0])
                and (w.ip is None or ipaddress.ip_address(w.ip) == ipaddress.ip_address(h[1]))
            ),
            None,
        )
        if match is not None:
            keep.append(match)
        else:
            fresh.append(w)
    for f in work.tx.all(_FLOATING, port_id=row["id"]):
        if f["fixed_ip"] not in [ip for _, ip in keep]:
            work.tx.put(_UNLEAD, id=f["id"], now=work.now)
            if f["router_id"]:
                touch_router(work, f["router_id"])
    release_all(work, row, frozenset(keep))
    system = is_system(row["device_owner"])
    taken = fixed.choose(work.tx, row["network_id"], fresh, row["mac"], router=system)
    fixed.record(work.tx, row["id"], taken, addresses.next_place(work.tx, row["id"]))
    groups.members_changed(work, groups.of_port(work.tx, row["id"]))


def set_groups(work: Work, row: Row, wanted: list[str]) -> None:
    """Give a port exactly these groups of its project."""
    have = groups.of_port(work.tx, row["id"])
    want = groups.checked(work.tx, row["project_id"], wanted)
    groups.leave(work, row["id"], [g for g in have if g not in want])
    groups.join(work, row["id"], [g for g in want if g not in have])


def dhcp_address(tx: Tx, subnet_id: str) -> str | None:
    """Return the address that DHCP answers from in a subnet."""
    found: str | None = tx.value(_DHCP_ADDRESS, subnet_id=subnet_id)
    return found


LEGS_ON = Q(
    sa.select(port).where(
        port.c.network_id == P("network_id"), port.c.device_owner == "network:router_interface"
    )
)
