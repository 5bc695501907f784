"""Routers: legs, gateway, extra routes, and the one host that each lives on."""

import hashlib
import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from kilonova.common.ids import new_uuid
from kilonova.db.engine import Row, Tx
from kilonova.db.sql import P, Q, insert
from kilonova.network.embedded.faults import Clash, Missing, Refused, missing
from kilonova.network.embedded.schema import address, floating, port, router, subnet
from kilonova.network.embedded.store import addresses, groups, networks, ports, subnets
from kilonova.network.embedded.store.common import (
    changed,
    find,
    forget_tags,
    parse_cidr,
    parse_ip,
)
from kilonova.network.embedded.store.fixed import FixedRequest
from kilonova.network.embedded.store.work import Work

INTERFACE, GATEWAY = "network:router_interface", "network:router_gateway"
IS_LEG = sa.or_(port.c.device_owner == INTERFACE, port.c.device_owner == GATEWAY)
FIND = find(router)
_INSERT = insert(router)
_DELETE = Q(sa.delete(router).where(router.c.id == P("id")))
LEGS = Q(sa.select(port).where(port.c.device_id == P("id"), IS_LEG))
_INTERFACES = Q(
    sa.select(port).where(port.c.device_id == P("id"), port.c.device_owner == INTERFACE)
)
_LEG_SUBNETS = Q(
    sa.select(subnet.c.id, subnet.c.cidr, port.c.id.label("port_id"), address.c.ip)
    .join(address, address.c.subnet_id == subnet.c.id)
    .join(port, port.c.id == address.c.port_id)
    .where(port.c.device_id == P("id"), IS_LEG)
)
_LEADS_TO_SUBNET = Q(
    sa.select(floating.c.id)
    .join(
        address,
        sa.and_(address.c.port_id == floating.c.port_id, address.c.ip == floating.c.fixed_ip),
    )
    .where(floating.c.router_id == P("id"), address.c.subnet_id == P("subnet_id"))
    .limit(1)
)
_LEADS = Q(sa.select(floating.c.id).where(floating.c.router_id == P("id")).limit(1))
_PLACE_LEGS = Q(
    sa.update(port).where(port.c.device_id == P("id"), IS_LEG).values(host=P("host"), status="DOWN")
)
_PLACE = Q(sa.update(router).where(router.c.id == P("id")).values(host=P("host"), applied=0))
_ALL = Q(sa.select(router).where(router.c.host == P("host")))
_UNPLACED = Q(
    sa.select(router)
    .where(router.c.host == "")
    .where(
        sa.exists().where(
            port.c.device_id == router.c.id, port.c.device_owner.like("network:router%")
        )
    )
)
_HOSTS = Q(sa.select(router.c.host).distinct().where(router.c.host != ""))


@dataclass(kw_only=True)
class NewRouter:
    """A router to make."""

    project_id: str
    name: str = ""
    description: str = ""
    admin_up: bool = True
    snat: bool = True
    routes: list[dict[str, str]] = field(default_factory=list)


def get(tx: Tx, router_id: str) -> Row:
    """Return a router's row; RouterNotFound."""
    row = tx.one(FIND, id=router_id)
    if row is None:
        raise missing("router", router_id)
    return row


def make(work: Work, new: NewRouter) -> str:
    """Make a router without legs; return its id."""
    router_id = new_uuid()
    work.tx.put(
        _INSERT,
        id=router_id,
        project_id=new.project_id,
        name=new.name,
        description=new.description,
        created_at=work.now,
        updated_at=work.now,
        revision=1,
        admin_up=int(new.admin_up),
        gateway_port=None,
        snat=int(new.snat),
        routes=json.dumps(new.routes),
        host="",
        generation=1,
        applied=0,
    )
    return router_id


def choose_host(router_id: str, live: Sequence[str]) -> str:
    """Return the live host with the highest hash for this router; "" without one."""
    return max(live, key=lambda h: hashlib.sha256(f"{router_id} {h}".encode()).digest(), default="")


def place(work: Work, router_id: str, live: Sequence[str]) -> None:
    """See that a router with legs is on a live host and its legs with it; its old host forgets it."""
    row = get(work.tx, router_id)
    legs = work.tx.all(LEGS, id=router_id)
    host = row["host"] if row["host"] in live or not live else choose_host(router_id, live)
    if not legs:
        host = ""
    if host != row["host"]:
        work.tx.put(_PLACE, id=router_id, host=host)
        if row["host"]:
            work.gone.append((row["host"], "router", router_id, row["generation"] + 1))
    if host != row["host"] or any(p["host"] != host for p in legs):
        work.tx.put(_PLACE_LEGS, id=router_id, host=host)
        for p in legs:
            work.moves(p["network_id"], p["mac"], p["host"], host)
    if host != row["host"] and row["host"]:
        for p in legs:
            if p["host"] == row["host"]:
                ports.leave_host(work, p, p["host"])
    ports.touch_router(work, router_id)


def astray(tx: Tx, live: Sequence[str], move: bool) -> list[Row]:
    """Return the routers that need a host: those without and, with ``move``, those whose host is not alive."""
    rows = tx.all(_UNPLACED)
    alive = frozenset(live)
    if move:
        for h in tx.all(_HOSTS):
            if h[0] not in alive:
                rows += tx.all(_ALL, host=h[0])
    return rows


def rebalance(work: Work, live: Sequence[str], move: bool = True) -> int:
    """Give every router that is astray a live host; return how many there were."""
    rows = astray(work.tx, live, move) if live else []
    for r in rows:
        place(work, r["id"], live)
    return len(rows)


def set_gateway(
    work: Work,
    router_id: str,
    live: Sequence[str],
    network_id: str,
    fixed: list[FixedRequest] | None = None,
    snat: bool | None = None,
) -> None:
    """Lead a router to an external network; keeps its gateway port when that fits already."""
    tx = work.tx
    row = get(tx, router_id)
    net = networks.get(tx, network_id)
    if not net["external"]:
        raise Refused(
            "BadRequest",
            f"Bad router request: external_gateway_info network_id: Network {network_id} is not an external network.",
        )
    old = ports.get(tx, row["gateway_port"]) if row["gateway_port"] else None
    gateway_id = row["gateway_port"]
    if old is not None and old["network_id"] == network_id:
        if fixed:
            ports.set_fixed(work, old, fixed)
    else:
        clear_gateway(work, router_id)
        gateway_id = ports.make(
            work,
            ports.NewPort(
                project_id="",
                network_id=network_id,
                device_id=router_id,
                device_owner=GATEWAY,
                fixed=fixed or None,
                groups=[],
            ),
        )
    values: dict[str, Any] = {"gateway_port": gateway_id}
    if snat is not None:
        values["snat"] = int(snat)
    changed(tx, router, router_id, work.now, values)
    place(work, router_id, live)


def clear_gateway(work: Work, router_id: str) -> None:
    """Take a router off its external network; RouterExternalGatewayInUseByFloatingIp while floating IPs need it."""
    row = get(work.tx, router_id)
    if row["gateway_port"] is None:
        return
    if work.tx.one(_LEADS, id=router_id) is not None:
        old = ports.get(work.tx, row["gateway_port"])
        raise Clash(
            "RouterExternalGatewayInUseByFloatingIp",
            f"Gateway cannot be updated for router {router_id}, since a gateway to external network "
            f"{old['network_id']} is required by one or more floating IPs.",
        )
    changed(work.tx, router, router_id, work.now, {"gateway_port": None})
    ports.delete(work, ports.get(work.tx, row["gateway_port"]))
    ports.touch_router(work, router_id)


def _overlap(tx: Tx, router_id: str, new: Row) -> None:
    net = ipaddress.ip_network(new["cidr"])
    for leg in tx.all(_LEG_SUBNETS, id=router_id):
        if leg["id"] == new["id"]:
            raise Refused(
                "BadRequest",
                f"Bad router request: Router already has a port on subnet {new['id']}.",
            )
        if ipaddress.ip_network(leg["cidr"]).overlaps(net):
            raise Refused(
                "BadRequest",
                f"Bad router request: Cidr {new['cidr']} of subnet {new['id']} overlaps with cidr {leg['cidr']} of "
                f"subnet {leg['id']}.",
            )


def add_subnet(work: Work, row: Row, live: Sequence[str], subnet_row: Row) -> str:
    """Give a router a leg with the subnet's gateway address; return the new port."""
    _overlap(work.tx, row["id"], subnet_row)
    if subnet_row["gateway_ip"] is None:
        raise Refused(
            "BadRequest", "Bad router request: Subnet for router interface must have a gateway IP."
        )
    port_id = ports.make(
        work,
        ports.NewPort(
            project_id=row["project_id"],
            network_id=subnet_row["network_id"],
            device_id=row["id"],
            device_owner=INTERFACE,
            fixed=[FixedRequest(subnet_row["id"], subnet_row["gateway_ip"])],
            groups=[],
        ),
    )
    changed(work.tx, router, row["id"], work.now, {})
    place(work, row["id"], live)
    return port_id


def add_port(work: Work, row: Row, live: Sequence[str], port_row: Row) -> list[str]:
    """Make an existing unused port a leg of a router; return its subnets."""
    if port_row["device_id"]:
        raise Clash(
            "PortInUse",
            f"Unable to complete operation on port {port_row['id']} for network {port_row['network_id']}. "
            f"Port already has an attached device {port_row['device_id']}.",
        )
    held = addresses.of_port(work.tx, port_row["id"])
    if not held:
        raise Refused(
            "BadRequest", "Bad router request: Router port must have at least one fixed IP."
        )
    for subnet_id, _ in held:
        _overlap(work.tx, row["id"], subnets.get(work.tx, subnet_id))
    groups.leave(work, port_row["id"], groups.of_port(work.tx, port_row["id"]))
    ports.change(
        work,
        port_row,
        {"device_id": row["id"], "device_owner": INTERFACE, "port_security": 0},
        published=False,
    )
    changed(work.tx, router, row["id"], work.now, {})
    place(work, row["id"], live)
    return [s for s, _ in held]


def remove_interface(
    work: Work, row: Row, live: Sequence[str], port_id: str | None, subnet_id: str | None
) -> tuple[Row, str]:
    """Remove the leg that is this port or has this subnet; return (its port as it was, its subnet)."""
    tx = work.tx
    legs = {p["id"]: p for p in tx.all(_INTERFACES, id=row["id"])}
    for leg in tx.all(_LEG_SUBNETS, id=row["id"]):
        if leg["port_id"] not in legs:
            continue
        if port_id is not None and leg["port_id"] != port_id:
            continue
        if subnet_id is not None and leg["id"] != subnet_id:
            continue
        if tx.one(_LEADS_TO_SUBNET, id=row["id"], subnet_id=leg["id"]) is not None:
            raise Clash(
                "RouterInterfaceInUseByFloatingIP",
                f"Router interface for subnet {leg['id']} on router {row['id']} cannot be deleted, as it is required "
                "by one or more floating IPs.",
            )
        _routes_need(row, leg["cidr"], leg["id"])
        gone = legs[leg["port_id"]]
        ports.delete(work, gone)
        changed(tx, router, row["id"], work.now, {})
        place(work, row["id"], live)
        return gone, str(leg["id"])
    if subnet_id is not None:
        raise missing_interface(row["id"], subnet_id)
    raise Missing(
        "RouterInterfaceNotFound",
        f"Router {row['id']} does not have an interface with id {port_id}",
    )


def missing_interface(router_id: str, subnet_id: str) -> Missing:
    """Return Neutron's 404 for a subnet that the router has no leg in."""
    return Missing(
        "RouterInterfaceNotFoundForSubnet",
        f"Router {router_id} has no interface on subnet {subnet_id}",
    )


def _routes_need(row: Row, cidr: str, subnet_id: str) -> None:
    net = ipaddress.ip_network(cidr)
    for r in json.loads(row["routes"]):
        if ipaddress.ip_address(r["nexthop"]) in net:
            raise Clash(
                "RouterInterfaceInUseByRoute",
                f"Router interface for subnet {subnet_id} on router {row['id']} cannot be deleted, as it is required "
                "by one or more routes.",
            )


def checked_routes(tx: Tx, router_id: str, routes: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return extra routes in canonical form; InvalidRoutes unless each next hop is on a leg."""
    legs = tx.all(_LEG_SUBNETS, id=router_id)
    out: list[dict[str, str]] = []
    for r in routes:
        route = {
            "destination": str(parse_cidr(r["destination"], "routes destination")),
            "nexthop": str(parse_ip(r["nexthop"], "routes nexthop")),
        }
        hop = ipaddress.ip_address(route["nexthop"])
        if not any(hop in ipaddress.ip_network(leg["cidr"]) for leg in legs):
            raise Refused(
                "InvalidRoutes",
                f"Invalid format for routes: [{route}], the nexthop is not connected with router",
            )
        if route["nexthop"] in [leg["ip"] for leg in legs]:
            raise Refused(
                "InvalidRoutes",
                f"Invalid format for routes: [{route}], the nexthop is used by router",
            )
        if route not in out:
            out.append(route)
    return out


def change(work: Work, row: Row, values: dict[str, Any]) -> None:
    """Change columns of a router; its host learns of it."""
    changed(work.tx, router, row["id"], work.now, values)
    ports.touch_router(work, row["id"])


def delete(work: Work, row: Row) -> None:
    """Delete a router; RouterInUse while it has legs in tenant networks."""
    if work.tx.one(_INTERFACES, id=row["id"]) is not None:
        raise Clash("RouterInUse", f"Router {row['id']} still has ports")
    clear_gateway(work, row["id"])
    if row["host"]:
        work.gone.append((row["host"], "router", row["id"], row["generation"] + 1))
    forget_tags(work.tx, row["id"])
    work.tx.put(_DELETE, id=row["id"])
    work.routers.discard(row["id"])
