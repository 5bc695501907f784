"""Check the networks of POST /servers before accept, in Nova's words (source: nova.exception, nova.network.neutron)."""

import ipaddress

import sqlalchemy as sa

from kilonova.common.errors import BadRequest, Conflict, Forbidden
from kilonova.db.engine import Row, Tx
from kilonova.db.sql import P, Q
from kilonova.network.embedded.schema import network, port, subnet
from kilonova.network.embedded.store import addresses, networks, ports
from kilonova.network.interface import AddressTaken, NotThere, Requested
from kilonova.objects.port import NicPlan, RequestedNic

AUTO = "auto"
_HAS_SUBNET = Q(sa.select(subnet.c.id).where(subnet.c.network_id == P("id")).limit(1))
_WITH_SUBNET = Q(
    sa.select(
        network,
        sa.select(subnet.c.id)
        .where(subnet.c.network_id == network.c.id)
        .exists()
        .label("has_subnet"),
    ).where(network.c.id == P("id"))
)
_DEVICE = Q(sa.select(port.c.device_id).where(port.c.id == P("id")))


def plan(tx: Tx, project_id: str, requested: Requested, admin: bool = False) -> list[NicPlan]:
    """Return one plan per NIC; see NetworkService.plan."""
    if requested == "none":
        return []
    if requested is None or requested == AUTO or not requested:
        return _unasked(tx, project_id, create=requested == AUTO)
    assert not isinstance(requested, str)  # noqa: S101 - narrows the type
    seen: set[str] = set()
    out = []
    for r in requested:
        out.append(
            _port(tx, project_id, r, seen) if r.port_id else _network(tx, project_id, r, admin)
        )
    return out


def _unasked(tx: Tx, project_id: str, create: bool) -> list[NicPlan]:
    found = networks.candidates(tx, project_id)
    if len(found) > 1:
        raise Conflict("Multiple possible networks found, use a Network ID to be more specific.")
    if found:
        return [_checked(tx, found[0])]
    if not create:
        return []
    if tx.one(networks.DEFAULT_EXTERNAL) is None:
        raise BadRequest(
            f"Unable to automatically allocate a network for project {project_id}: "
            "there is no default external network."
        )
    return [NicPlan(network_id=AUTO)]


def _without_subnet(net: Row) -> BadRequest:
    return BadRequest(f"Network {net['id']} requires a subnet in order to boot instances on.")


def _checked(tx: Tx, net: Row) -> NicPlan:
    if tx.one(_HAS_SUBNET, id=net["id"]) is None:
        raise _without_subnet(net)
    return NicPlan(network_id=net["id"], network_name=net["name"])


def _network(tx: Tx, project_id: str, r: RequestedNic, admin: bool) -> NicPlan:
    net = tx.one(_WITH_SUBNET, id=r.network_id or "")
    if net is None or not (networks.usable(net, project_id) or admin):
        raise NotThere(f"Network {str(r.network_id)[:80]} could not be found.")
    attachable(net, project_id, admin)
    if not net["has_subnet"]:
        raise _without_subnet(net)
    chosen = NicPlan(network_id=net["id"], network_name=net["name"])
    if r.fixed_ip is not None:
        _address(tx, net, r.fixed_ip)
    return chosen.replace(fixed_ip=r.fixed_ip, tag=r.tag)


def attachable(net: Row, project_id: str, admin: bool = False) -> None:
    """Raise Forbidden for an external network that is not the project's or shared."""
    if net["external"] and not (net["shared"] or net["project_id"] == project_id or admin):
        raise Forbidden(f"It is not allowed to create an interface on external network {net['id']}")


def _address(tx: Tx, net: Row, text: str) -> None:
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        raise BadRequest(f"Invalid fixed IP address ({text[:60]})") from None
    for s in tx.all(addresses.OF_NETWORK, network_id=net["id"]):
        if ip in ipaddress.ip_network(s["cidr"]):
            holder = addresses.holder(tx, s["id"], int(ip))
            if holder is not None:
                device = tx.value(_DEVICE, id=holder)
                raise AddressTaken(
                    f"Fixed IP address {ip} is already in use on instance {device or 'another device'}."
                )
            return
    raise BadRequest(f"Fixed IP {ip} is not a valid ip address for network {net['id']}.")


def _port(tx: Tx, project_id: str, r: RequestedNic, seen: set[str]) -> NicPlan:
    row = tx.one(ports.FIND, id=r.port_id or "")
    if row is None or row["project_id"] != project_id:
        raise NotThere(f"Port id {str(r.port_id)[:80]} could not be found.")
    net = networks.get(tx, row["network_id"])
    if row["device_id"] or row["id"] in seen:
        raise Conflict(f"Port {row['id']} is still in use.")
    seen.add(row["id"])
    if not addresses.of_port(tx, row["id"]):
        raise BadRequest(f"Port {row['id']} requires a FixedIP in order to be used.")
    return NicPlan(network_id=net["id"], network_name=net["name"], port_id=row["id"], tag=r.tag)
