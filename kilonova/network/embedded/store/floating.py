"""Floating addresses: taken from an external network, led to a fixed address through a router."""

import ipaddress
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from kilonova.common.ids import new_uuid
from kilonova.db.engine import Row, Tx
from kilonova.db.sql import P, Q, insert
from kilonova.network.embedded.faults import Clash, Missing, Refused, missing
from kilonova.network.embedded.schema import address, floating, port, router
from kilonova.network.embedded.store import addresses, networks, ports
from kilonova.network.embedded.store.common import changed, find, forget_tags
from kilonova.network.embedded.store.fixed import FixedRequest
from kilonova.network.embedded.store.work import Work
from kilonova.objects.port import NetworkEventName

FIND = find(floating)
_INSERT = insert(floating)
_DELETE = Q(sa.delete(floating).where(floating.c.id == P("id")))
_ADOPT = Q(sa.update(port).where(port.c.id == P("id")).values(device_id=P("device_id")))
_leg, _leg_address, _gateway = (
    port.alias("leg"),
    address.alias("leg_address"),
    port.alias("gateway"),
)
_WAY = Q(
    sa.select(router.c.id)
    .join(
        _leg,
        sa.and_(_leg.c.device_id == router.c.id, _leg.c.device_owner == "network:router_interface"),
    )
    .join(_leg_address, _leg_address.c.port_id == _leg.c.id)
    .join(_gateway, _gateway.c.id == router.c.gateway_port)
    .where(_leg_address.c.subnet_id == P("subnet_id"), _gateway.c.network_id == P("network_id"))
    .order_by(router.c.created_at)
    .limit(1)
)
_TAKEN = Q(
    sa.select(floating.c.id).where(
        floating.c.port_id == P("port_id"),
        floating.c.fixed_ip == P("fixed_ip"),
        floating.c.id != P("id"),
    )
)
IDLE = Q(
    sa.select(floating).where(
        floating.c.network_id == P("network_id"), floating.c.port_id.is_(None)
    )
)
BY_IP = Q(sa.select(floating).where(floating.c.ip == P("ip")))


@dataclass(kw_only=True)
class NewFloating:
    """A floating address to make. ip, subnet_id: ask for one; None for any."""

    project_id: str
    network_id: str
    description: str = ""
    ip: str | None = None
    subnet_id: str | None = None
    dns_name: str = ""
    dns_domain: str = ""


def get(tx: Tx, floating_id: str) -> Row:
    """Return a floating address's row; FloatingIPNotFound."""
    row = tx.one(FIND, id=floating_id)
    if row is None:
        raise missing("floatingip", floating_id)
    return row


def make(work: Work, new: NewFloating) -> str:
    """Take a floating address from an external network's pools; return its id."""
    net = networks.get(work.tx, new.network_id)
    if not net["external"]:
        raise Refused(
            "BadRequest",
            f"Bad floatingip request: floating_network_id: Network {new.network_id} is not a valid external network.",
        )
    subnets = [
        s
        for s in work.tx.all(addresses.OF_NETWORK, network_id=new.network_id)
        if s["ip_version"] == 4
    ]
    if not subnets:
        raise Refused(
            "BadRequest",
            f"Bad floatingip request: Network {new.network_id} does not contain any IPv4 subnet.",
        )
    wanted = None
    if new.ip is not None or new.subnet_id is not None:
        wanted = [FixedRequest(new.subnet_id, new.ip)]
    floating_id = new_uuid()
    port_id = ports.make(
        work,
        ports.NewPort(
            project_id="",
            network_id=new.network_id,
            device_id=floating_id,
            device_owner="network:floatingip",
            status="N/A",
            fixed=wanted,
            groups=[],
        ),
    )
    ips = [ip for _, ip in addresses.of_port(work.tx, port_id) if ":" not in ip]
    work.tx.put(
        _INSERT,
        id=floating_id,
        project_id=new.project_id,
        name="",
        description=new.description,
        created_at=work.now,
        updated_at=work.now,
        revision=1,
        network_id=new.network_id,
        ip=ips[0],
        floating_port=port_id,
        port_id=None,
        fixed_ip=None,
        router_id=None,
        status="DOWN",
        dns_name=new.dns_name,
        dns_domain=new.dns_domain,
    )
    return floating_id


def associate(work: Work, row: Row, port_row: Row, fixed_ip: str | None) -> None:
    """Lead a floating address to a fixed one; its router's host and compute learn of it."""
    tx = work.tx
    held = [(s, ip) for s, ip in addresses.of_port(tx, port_row["id"]) if ":" not in ip]
    if fixed_ip is None:
        if not held:
            raise Refused(
                "BadRequest",
                f"Bad floatingip request: Cannot add floating IP to port {port_row['id']} that has no fixed IPv4 "
                "addresses.",
            )
        if len(held) > 1:
            raise Refused(
                "BadRequest",
                f"Bad floatingip request: Port {port_row['id']} has multiple fixed IPv4 addresses. Must provide a "
                "specific IPv4 address when assigning a floating IP.",
            )
        subnet_id, fixed = held[0]
    else:
        match = [h for h in held if h[1] == _text(fixed_ip)]
        if not match:
            raise Refused(
                "BadRequest",
                f"Bad floatingip request: Port {port_row['id']} does not have fixed ip {fixed_ip[:60]}.",
            )
        subnet_id, fixed = match[0]
    if tx.one(_TAKEN, port_id=port_row["id"], fixed_ip=fixed, id=row["id"]) is not None:
        raise Clash(
            "FloatingIPPortAlreadyAssociated",
            f"Cannot associate floating IP {row['ip']} ({row['id']}) with port {port_row['id']} using fixed IP {fixed},"
            f" as that fixed IP already has a floating IP on external network {row['network_id']}.",
        )
    way = tx.value(_WAY, subnet_id=subnet_id, network_id=row["network_id"])
    if way is None:
        raise Missing(
            "ExternalGatewayForFloatingIPNotFound",
            f"External network {row['network_id']} is not reachable from subnet {subnet_id}.  Therefore, cannot "
            f"associate Port {port_row['id']} with a Floating IP.",
        )
    disassociate(work, row)
    _set(work, row, {"port_id": port_row["id"], "fixed_ip": fixed, "router_id": way})
    ports.touch_router(work, way)
    _tell(work, port_row)


def _text(given: str) -> str:
    try:
        return str(ipaddress.ip_address(given))
    except ValueError:
        return given


def disassociate(work: Work, row: Row) -> None:
    """Lead a floating address nowhere. Repeatable."""
    if row["port_id"] is None:
        return
    _set(work, row, {"port_id": None, "fixed_ip": None, "router_id": None, "status": "DOWN"})
    if row["router_id"]:
        ports.touch_router(work, row["router_id"])
    old = work.tx.one(ports.FIND, id=row["port_id"])
    if old is not None:
        _tell(work, old)


def _tell(work: Work, port_row: Row) -> None:
    if port_row["operation"]:
        work.event(NetworkEventName.CHANGED, port_row["device_id"], port_row["id"])


def _set(work: Work, row: Row, values: dict[str, Any]) -> None:
    changed(work.tx, floating, row["id"], work.now, values)


def delete(work: Work, row: Row) -> None:
    """Give a floating address back."""
    disassociate(work, row)
    forget_tags(work.tx, row["id"])
    work.tx.put(_DELETE, id=row["id"])
    ports.delete(work, ports.get(work.tx, row["floating_port"]))
