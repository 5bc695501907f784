"""Security groups and floating addresses of servers, as the compute API's proxies ask for them."""

import ipaddress
from collections.abc import Sequence

import sqlalchemy as sa

from kilonova.common.errors import BadRequest, Conflict, NotFound
from kilonova.db.engine import Row, Tx
from kilonova.db.portable import among
from kilonova.db.sql import Q
from kilonova.network.embedded import protocols
from kilonova.network.embedded.faults import Clash, Missing
from kilonova.network.embedded.schema import port, port_group, security_group
from kilonova.network.embedded.store import addresses, floating, groups, ports
from kilonova.network.embedded.store.common import listed
from kilonova.network.embedded.store.fixed import FixedRequest
from kilonova.network.embedded.store.work import Work
from kilonova.network.interface import NoAddressLeft
from kilonova.objects.port import GroupInfo, GroupRule

_GROUPS_OF = Q(
    sa.select(port.c.device_id, security_group.c.id, security_group.c.name)
    .distinct()
    .join(port_group, port_group.c.port_id == port.c.id)
    .join(security_group, security_group.c.id == port_group.c.group_id)
    .where(among(port.c.device_id, "ids"), port.c.operation > "")
    .order_by(security_group.c.name, security_group.c.id)
)


def groups_of(tx: Tx, server_ids: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """Return (id, name) of the groups on the servers' ports, each once."""
    out: dict[str, list[tuple[str, str]]] = {}
    for r in tx.all(_GROUPS_OF, ids=listed(server_ids)):
        out.setdefault(r["device_id"], []).append((r["id"], r["name"]))
    return out


def describe_groups(tx: Tx, server_id: str) -> list[GroupInfo]:
    """Return the groups on a server's ports with their ingress rules."""
    ids = [i for i, _ in groups_of(tx, [server_id]).get(server_id, [])]
    rules = [r for r in groups.rules_of(tx, ids) if r["direction"] == "ingress"]
    named = {i: groups.get(tx, i) for i in {*ids, *(r["remote_group"] for r in rules)} if i}

    def one(r: Row) -> GroupRule:
        remote = named.get(r["remote_group"])
        anywhere = "::/0" if r["ethertype"] == "IPv6" else "0.0.0.0/0"
        return GroupRule(
            id=r["id"],
            protocol=protocols.canonical(r["protocol"], r["ethertype"]),
            port_min=r["port_min"],
            port_max=r["port_max"],
            cidr=(r["remote_cidr"] or anywhere) if remote is None else None,
            remote_group=None if remote is None else (remote["name"], remote["project_id"]),
        )

    return [
        GroupInfo(
            id=i,
            name=named[i]["name"],
            project_id=named[i]["project_id"],
            description=named[i]["description"] or "",
            rules=tuple(one(r) for r in rules if r["group_id"] == i),
        )
        for i in ids
    ]


def known_groups(tx: Tx, project_id: str, names: list[str]) -> list[tuple[str, str]] | None:
    """Return (id, name) per name when each stands for exactly one group; None when it takes a closer look."""
    out: dict[tuple[str, str], None] = {}
    for given in names:
        found = tx.all(groups.NAMED, project_id=project_id, given=given)
        if len(found) != 1:
            return None
        out[found[0]["id"], found[0]["name"]] = None
    return list(out)


def resolve_groups(work: Work, project_id: str, names: list[str]) -> list[tuple[str, str]]:
    """Return (id, name) per name or id, each group once; the default group is made on first use."""
    out: list[tuple[str, str]] = []
    for given in names:
        try:
            found = one_group(work, project_id, given)
        except NotFound as exc:
            raise BadRequest(exc.message) from exc
        if found not in out:
            out.append(found)
    return out


def one_group(work: Work, project_id: str, given: str) -> tuple[str, str]:
    """Return the project's group of this id, else of this name; NotFound, Conflict for two of one name."""
    found = work.tx.all(groups.NAMED, project_id=project_id, given=given)
    if not found and given == "default":
        groups.ensure_default(work, project_id)
        found = work.tx.all(groups.NAMED, project_id=project_id, given=given)
    by_id = [r for r in found if r["id"] == given]
    found = by_id or found
    if not found:
        raise NotFound(f"Security group {given[:255]} not found.")
    if len(found) > 1:
        raise Conflict(
            f"Multiple security groups found matching '{given[:255]}'. Use an ID to be more specific."
        )
    return found[0]["id"], found[0]["name"]


def _server_ports(tx: Tx, server_id: str) -> list[Row]:
    return [r for r in tx.all(ports.OF_DEVICE, device_id=server_id) if r["operation"]]


def set_group(work: Work, project_id: str, server_id: str, given: str, add: bool) -> None:
    """Put a server's ports into a group, or take them out; see NetworkService.set_security_group."""
    group_id, _ = one_group(work, project_id, given)
    touched = False
    rows = _server_ports(work.tx, server_id)
    if add and not rows:
        raise NotFound(f"instance_id {server_id} could not be found as device id on any ports")
    fit = [r for r in rows if r["port_security"] and addresses.of_port(work.tx, r["id"])]
    if add and not fit:
        raise BadRequest(
            f"Security group {given[:255]} cannot be added to a server without a port that can have groups."
        )
    for r in fit:
        have = group_id in groups.of_port(work.tx, r["id"])
        if have == add:
            touched = touched or have
            continue
        (groups.join if add else groups.leave)(work, r["id"], [group_id])
        ports.change(work, r, {})
        touched = True
    if not add and not touched:
        raise NotFound(f"Security group {given[:255]} not associated with the instance {server_id}")


def _address(tx: Tx, project_id: str | None, text: str) -> Row:
    for row in tx.all(floating.BY_IP, ip=text):
        if project_id is None or row["project_id"] == project_id:
            return row
    raise NotFound(f"Floating IP not found for address {text[:60]}.")


def associate(
    work: Work, project_id: str | None, server_id: str, text: str, fixed_address: str | None
) -> None:
    """Lead a floating address to a server's fixed address, the first IPv4 one if none is named."""
    row = _address(work.tx, project_id, text)
    held = [
        (r, ip)
        for r in _server_ports(work.tx, server_id)
        for _, ip in addresses.of_port(work.tx, r["id"])
        if ":" not in ip
    ]
    if not held:
        raise BadRequest("No fixed IPs associated to instance")
    chosen = [h for h in held if fixed_address is None or h[1] == fixed_address]
    if not chosen:
        raise BadRequest(f"Specified fixed address {fixed_address} not assigned to instance")
    reason: Missing | None = None
    for port_row, ip in chosen:
        try:
            floating.associate(work, row, port_row, ip)
            return
        except Missing as exc:
            reason = exc
    raise BadRequest(
        f"Unable to associate floating IP {text} to fixed IP {chosen[0][1]} for instance {server_id}. "
        f"Error: {reason}"
    )


def disassociate(work: Work, project_id: str | None, server_id: str, text: str) -> None:
    """Take a floating address off a server."""
    row = _address(work.tx, project_id, text)
    mine = [r["id"] for r in _server_ports(work.tx, server_id)]
    if row["port_id"] is None or row["port_id"] not in mine:
        raise Conflict(f"Floating IP {text} is not associated with instance {server_id}.")
    floating.disassociate(work, row)


def add_fixed(work: Work, server_id: str, network_id: str) -> None:
    """Give the server's first port on a network one more IPv4 address of it; IPv6 when it has no IPv4 subnet."""
    rows = [r for r in _server_ports(work.tx, server_id) if r["network_id"] == network_id]
    subnets = work.tx.all(addresses.OF_NETWORK, network_id=network_id)
    if not rows or not subnets:
        raise NotFound(f"Network could not be found for instance {server_id}.")
    held = [FixedRequest(s, ip) for s, ip in addresses.of_port(work.tx, rows[0]["id"])]
    chosen = min(subnets, key=lambda s: s["ip_version"])
    try:
        ports.set_fixed(work, rows[0], [*held, FixedRequest(subnet_id=chosen["id"])])
    except Clash as exc:
        raise NoAddressLeft(f"No fixed IP addresses available for network: {network_id}") from exc
    _told(work, rows[0])


def remove_fixed(work: Work, server_id: str, address: str) -> None:
    """Take an address off whichever port of the server has it."""
    wanted = ipaddress.ip_address(address)
    for row in _server_ports(work.tx, server_id):
        held = addresses.of_port(work.tx, row["id"])
        left = [(s, ip) for s, ip in held if ipaddress.ip_address(ip) != wanted]
        if len(left) != len(held):
            ports.set_fixed(work, row, [FixedRequest(s, ip) for s, ip in left])
            _told(work, row)
            return
    raise BadRequest(f"Instance {server_id} doesn't have fixed IP '{address}'.")


def _told(work: Work, row: Row) -> None:
    ports.change(work, row, {})
    ports.tell(work, row)
