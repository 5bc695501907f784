"""Desired state as documents: pure reads that turn rows into what hosts apply (kilonova/objects/netstate.py)."""

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from kilonova.db.engine import Row, Tx
from kilonova.db.portable import among, gathered
from kilonova.db.sql import P, Q
from kilonova.network.embedded import protocols
from kilonova.network.embedded.schema import (
    address,
    floating,
    network,
    port,
    port_binding,
    port_group,
    router,
    rule,
    security_group,
    subnet,
)
from kilonova.network.embedded.store import groups
from kilonova.network.embedded.store.common import by, listed
from kilonova.objects.netstate import (
    Advert,
    ForwardingEntry,
    ForwardingState,
    GroupState,
    NetworkState,
    PortState,
    RouterGateway,
    RouterInterface,
    RouterState,
    RuleState,
    SubnetState,
)

_member_of = sa.select(gathered(port_group.c.group_id)).where(port_group.c.port_id == port.c.id)
_bound_too = sa.select(gathered(port_binding.c.host)).where(port_binding.c.port_id == port.c.id)
_PORTS = Q(  # with ``member_of``: its groups, and ``bound_too``: hosts of inactive bindings, as JSON lists
    sa.select(
        port,
        _member_of.scalar_subquery().label("member_of"),
        _bound_too.scalar_subquery().label("bound_too"),
    ).where(among(port.c.id, "ids"))
)
_ADDRESSES = Q(
    sa.select(address.c.port_id, address.c.ip, address.c.subnet_id)
    .where(among(address.c.port_id, "ids"))
    .order_by(address.c.port_id, address.c.place)
)
_NETWORKS = Q(sa.select(network).where(among(network.c.id, "ids")))
_GENERATIONS = Q(sa.select(network.c.id, network.c.generation).where(among(network.c.id, "ids")))
_SUBNETS = Q(
    sa.select(subnet)
    .where(among(subnet.c.network_id, "ids"))
    .order_by(subnet.c.created_at, subnet.c.id)
)
_SUBNETS_BY_ID = Q(sa.select(subnet).where(among(subnet.c.id, "ids")))
_DHCP = Q(
    sa.select(address.c.subnet_id, address.c.ip)
    .join(port, port.c.id == address.c.port_id)
    .where(among(port.c.network_id, "ids"), port.c.device_owner == "network:dhcp")
)
_ROUTERS = Q(sa.select(router).where(among(router.c.id, "ids")))
_LEGS = Q(
    sa.select(port)
    .where(
        among(port.c.device_id, "ids"),
        port.c.device_owner.like("network:router%"),
    )
    .order_by(port.c.created_at, port.c.id)
)
_FLOATING = Q(
    sa.select(floating.c.router_id, floating.c.ip, floating.c.fixed_ip)
    .where(among(floating.c.router_id, "ids"), floating.c.fixed_ip.is_not(None))
    .order_by(floating.c.ip)
)
_GROUPS = Q(sa.select(security_group).where(among(security_group.c.id, "ids")))
_MEMBER_ADDRESSES = Q(
    sa.select(port_group.c.group_id, address.c.ip)
    .join(address, address.c.port_id == port_group.c.port_id)
    .where(among(port_group.c.group_id, "ids"))
    .order_by(address.c.num)
)
REFERENCED_BY_PORTS = Q(
    sa.select(rule.c.remote_group)
    .distinct()
    .join(port_group, port_group.c.group_id == rule.c.group_id)
    .where(among(port_group.c.port_id, "ids"), rule.c.remote_group.is_not(None))
)
_BOUND = port.join(port_binding, port_binding.c.port_id == port.c.id)  # inactive bindings
_IN_NETWORK = port.c.network_id == P("id")
HOSTS_OF_NETWORK = Q(
    sa.union(
        sa.select(port.c.host).where(_IN_NETWORK, port.c.host != ""),
        sa.select(port_binding.c.host).select_from(_BOUND).where(_IN_NETWORK),
    )
)
_living = (  # ports of a network that have a MAC on one host: guests' and routers' legs
    sa.select(port.c.id, port.c.mac, port.c.host, port.c.dns_name)
    .where(
        _IN_NETWORK,
        port.c.host != "",
        port.c.device_owner != "network:dhcp",
        port.c.device_owner != "network:floatingip",
        port.c.device_owner != "network:router_gateway",
    )
    .order_by(port.c.id)
)
_LIVING = Q(_living)
_LIVING_OF = Q(_living.where(among(port.c.mac, "macs")))
_SOME = Q(sa.select(port.c.id).where(_IN_NETWORK, port.c.host != "").limit(P("the_limit")))
NETWORKS_ON_HOST = Q(
    sa.union(
        sa.select(port.c.network_id).where(port.c.host == P("host")),
        sa.select(port.c.network_id).select_from(_BOUND).where(port_binding.c.host == P("host")),
    )
)
TENANT_NETWORKS = Q(
    sa.select(network.c.id, network.c.forwarding).where(
        among(network.c.id, "ids"), network.c.external == 0
    )
)
_naming = (
    sa.select(port_group.c.port_id)
    .join(rule, rule.c.group_id == port_group.c.group_id)
    .where(rule.c.remote_group == P("id"))
)
HOSTS_USING_GROUP = Q(
    sa.union(
        sa.select(port.c.host).where(port.c.id.in_(_naming), port.c.host != ""),
        sa.select(port_binding.c.host).where(port_binding.c.port_id.in_(_naming)),
    )
)
ON_HOST = Q(
    sa.union_all(
        sa.select(port.c.id, port.c.network_id).where(port.c.host == P("host")),
        sa.select(port.c.id, port.c.network_id)
        .select_from(_BOUND)
        .where(port_binding.c.host == P("host")),
    )
)
ROUTERS_ON_HOST = Q(sa.select(router.c.id).where(router.c.host == P("host")))


def _rule(r: Row) -> RuleState:
    return RuleState(
        direction=r["direction"],
        ethertype=r["ethertype"],
        protocol=protocols.canonical(r["protocol"], r["ethertype"]),
        port_min=r["port_min"],
        port_max=r["port_max"],
        remote_cidr=r["remote_cidr"],
        remote_group=r["remote_group"],
    )


def _options(row: Row) -> tuple[tuple[str, str], ...]:
    return tuple(
        (o["opt_name"], o["opt_value"])
        for o in json.loads(row["dhcp_options"])
        if o.get("opt_value") is not None
    )


def ports(tx: Tx, ids: Iterable[str]) -> list[tuple[str, PortState]]:
    """Return (host, document) of those of the ports that are bound and carry a guest's traffic, one per binding."""
    wanted_ids = list(ids)
    if not wanted_ids:
        return []
    asked = listed(wanted_ids)
    rows = [
        r
        for r in tx.all(_PORTS, ids=asked)
        if (r["host"] or r["bound_too"] != "[]") and not r["device_owner"].startswith("network:")
    ]
    if not rows:
        return []
    held = by(tx.all(_ADDRESSES, ids=asked), "port_id")
    member: dict[str, list[str]] = {r["id"]: json.loads(r["member_of"]) for r in rows}
    wanted = sorted({g for gs in member.values() for g in gs})
    rules = {
        g: tuple(_rule(r) for r in rs)
        for g, rs in by(groups.rules_of(tx, wanted), "group_id").items()
    }
    out = []
    for r in rows:
        state = _port(r, held.get(r["id"], []), member[r["id"]], rules)
        if r["host"]:
            out.append((r["host"], state))
        if r["bound_too"] != "[]":
            prepared = state.replace(active=False)
            out += [(host, prepared) for host in json.loads(r["bound_too"])]
    return out


def _port(
    r: Row, held: list[Row], mine: list[str], rules: dict[str, tuple[RuleState, ...]]
) -> PortState:
    secure = bool(r["port_security"])
    return PortState(
        id=r["id"],
        generation=r["generation"],
        network_id=r["network_id"],
        mac=r["mac"],
        addresses=tuple((a["ip"], a["subnet_id"]) for a in held),
        device_id=r["device_id"],
        device_owner=r["device_owner"],
        hostname=r["dns_name"],
        port_security=secure,
        pairs=tuple((p["ip_address"], p.get("mac_address")) for p in json.loads(r["pairs"])),
        rules=tuple(dict.fromkeys(x for g in mine for x in rules.get(g, ()))) if secure else (),
        groups=tuple(mine),
        dhcp_options=_options(r),
        admin_up=bool(r["admin_up"]),
        project_id=r["project_id"],
    )


class Known:
    """Documents of networks as they were last read: one of the same generation is not put together again."""

    def __init__(self, most: int = 1000) -> None:
        self._most = most
        self._states: dict[str, NetworkState] = {}

    def networks(self, tx: Tx, ids: set[str]) -> dict[str, NetworkState]:
        """Return the documents of networks; for one thread at a time."""
        current = dict(tuple(r) for r in tx.all(_GENERATIONS, ids=listed(ids)))
        found = {
            n: state
            for n, generation in current.items()
            if (state := self._states.get(n)) is not None and state.generation == generation
        }
        if len(found) < len(current):
            fresh = networks(tx, current.keys() - found.keys())
            if len(self._states) + len(fresh) > self._most:
                self._states.clear()
            self._states.update(fresh)
            found.update(fresh)
        return found


def networks(tx: Tx, ids: Iterable[str]) -> dict[str, NetworkState]:
    """Return the documents of networks."""
    asked = listed(ids)
    nets = by(tx.all(_SUBNETS, ids=asked), "network_id")
    dhcp = {r["subnet_id"]: r["ip"] for r in tx.all(_DHCP, ids=asked)}
    return {
        n["id"]: NetworkState(
            id=n["id"],
            generation=n["generation"],
            segment=n["segment"],
            mtu=n["mtu"],
            subnets=tuple(_subnet(s, dhcp.get(s["id"])) for s in nets.get(n["id"], [])),
            external=bool(n["external"]),
            dns_domain=n["dns_domain"],
            admin_up=bool(n["admin_up"]),
        )
        for n in tx.all(_NETWORKS, ids=asked)
    }


def _subnet(s: Row, dhcp: str | None) -> SubnetState:
    return SubnetState(
        id=s["id"],
        cidr=s["cidr"],
        ip_version=s["ip_version"],
        gateway=s["gateway_ip"],
        dhcp_server=dhcp,
        dns=tuple(json.loads(s["dns_nameservers"])),
        routes=tuple((r["destination"], r["nexthop"]) for r in json.loads(s["host_routes"])),
        enable_dhcp=bool(s["enable_dhcp"]),
    )


def routers(tx: Tx, ids: Iterable[str]) -> list[tuple[str, RouterState, set[str]]]:
    """Return (host, document, networks that it touches) of routers that have a host."""
    wanted = list(ids)
    if not wanted:
        return []
    asked = listed(wanted)
    rows = [r for r in tx.all(_ROUTERS, ids=asked) if r["host"]]
    if not rows:
        return []
    legs = by(tx.all(_LEGS, ids=asked), "device_id")
    port_ids = [p["id"] for ps in legs.values() for p in ps]
    held = by(tx.all(_ADDRESSES, ids=listed(port_ids)), "port_id")
    subnet_ids = {a["subnet_id"] for rows_ in held.values() for a in rows_}
    subnets = {s["id"]: s for s in tx.all(_SUBNETS_BY_ID, ids=listed(subnet_ids))}
    net_ids = {p["network_id"] for ps in legs.values() for p in ps}
    mtu = {n["id"]: n["mtu"] for n in tx.all(_NETWORKS, ids=listed(net_ids))}
    lead = by(tx.all(_FLOATING, ids=asked), "router_id")
    adverts = _adverts(tx, subnets)
    return [
        (
            r["host"],
            _router(r, legs.get(r["id"], []), held, subnets, mtu, lead.get(r["id"], []), adverts),
            {p["network_id"] for p in legs.get(r["id"], [])},
        )
        for r in rows
    ]


def _adverts(tx: Tx, subnets: dict[str, Row]) -> dict[str, Advert]:
    """Return what routers say of those subnets that ask for router advertisements."""
    wanted = {i: s for i, s in subnets.items() if s["ipv6_ra_mode"] and s["enable_dhcp"]}
    if not wanted:
        return {}
    nets = listed({s["network_id"] for s in wanted.values()})
    dhcp = {r["subnet_id"]: r["ip"] for r in tx.all(_DHCP, ids=nets)}
    out = {}
    for i, s in wanted.items():
        named = [d for d in json.loads(s["dns_nameservers"]) if ":" in d]
        ours = [dhcp[i]] if i in dhcp else []
        out[i] = Advert(cidr=s["cidr"], mode=s["ipv6_ra_mode"], dns=tuple(named or ours))
    return out


def _router(
    r: Row,
    legs: list[Row],
    held: dict[str, list[Row]],
    subnets: dict[str, Row],
    mtu: dict[str, int],
    lead: list[Row],
    adverts: dict[str, Advert],
) -> RouterState:
    def pairs(p: Row) -> tuple[tuple[str, str], ...]:
        return tuple((a["ip"], subnets[a["subnet_id"]]["cidr"]) for a in held.get(p["id"], []))

    gateway = None
    interfaces = []
    for p in legs:
        if p["id"] == r["gateway_port"]:
            ways = [subnets[a["subnet_id"]]["gateway_ip"] for a in held.get(p["id"], [])]
            gateway = RouterGateway(
                port_id=p["id"],
                network_id=p["network_id"],
                mac=p["mac"],
                addresses=pairs(p),
                gateway=next((w for w in ways if w), None),
                snat=bool(r["snat"]),
            )
        else:
            interfaces.append(
                RouterInterface(
                    port_id=p["id"],
                    network_id=p["network_id"],
                    mac=p["mac"],
                    addresses=pairs(p),
                    mtu=mtu[p["network_id"]],
                    adverts=tuple(
                        adverts[a["subnet_id"]]
                        for a in held.get(p["id"], [])
                        if a["subnet_id"] in adverts
                    ),
                )
            )
    routes: list[dict[str, Any]] = json.loads(r["routes"])
    return RouterState(
        id=r["id"],
        generation=r["generation"],
        interfaces=tuple(interfaces),
        gateway=gateway,
        floating=tuple((f["ip"], f["fixed_ip"]) for f in lead),
        routes=tuple((x["destination"], x["nexthop"]) for x in routes),
        admin_up=bool(r["admin_up"]),
    )


def forwarding_states(
    tx: Tx, generations: Mapping[str, int], underlays: Mapping[str, str]
) -> dict[str, tuple[list[str], ForwardingState]]:
    """Return network -> (its hosts, where its MACs live).

    generations: of networks, read in this transaction. underlays: host -> address; other hosts are left out.
    """
    out: dict[str, tuple[list[str], ForwardingState]] = {}
    for network_id, generation in sorted(generations.items()):
        hosts = hosts_of(tx, network_id, underlays)
        state = ForwardingState(
            id=network_id,
            generation=generation,
            entries=_entries(tx, tx.all(_LIVING, id=network_id), underlays),
            peers=tuple(sorted(underlays[h] for h in hosts)),
        )
        out[network_id] = (hosts, state)
    return out


def hosts_of(tx: Tx, network_id: str, underlays: Mapping[str, str]) -> list[str]:
    """Return the hosts of a network that have an underlay address."""
    found = (r["host"] for r in tx.all(HOSTS_OF_NETWORK, id=network_id))
    return [h for h in found if h in underlays]


def _entries(
    tx: Tx, rows: Iterable[Row], underlays: Mapping[str, str]
) -> tuple[ForwardingEntry, ...]:
    known = [r for r in rows if r["host"] in underlays]
    held = by(tx.all(_ADDRESSES, ids=listed(r["id"] for r in known)), "port_id")
    return tuple(
        ForwardingEntry(
            mac=r["mac"],
            underlay=underlays[r["host"]],
            addresses=tuple(a["ip"] for a in held.get(r["id"], ())),
            hostname=r["dns_name"],
        )
        for r in known
    )


def is_large(tx: Tx, network_id: str, ports: int) -> bool:
    """Tell whether a network has at least so many ports that are somewhere."""
    return len(tx.all(_SOME, id=network_id, the_limit=ports)) >= ports


def forwarding_change(
    tx: Tx, state: ForwardingState, what: Collection[str], underlays: Mapping[str, str]
) -> tuple[list[str], ForwardingState]:
    """Return (hosts, ``state`` with what became of ``what``: MACs, and hosts after an "@")."""
    macs = {w for w in what if not w.startswith("@")}
    entries = _entries(tx, tx.all(_LIVING_OF, id=state.id, macs=listed(sorted(macs))), underlays)
    hosts = hosts_of(tx, state.id, underlays)
    touched = {w[1:] for w in what if w.startswith("@")} & underlays.keys()
    return hosts, state.replace(
        entries=entries,
        gone=tuple(sorted(macs - {e.mac for e in entries})),
        peers=tuple(sorted(underlays[h] for h in touched & set(hosts))),
        peers_gone=tuple(sorted(underlays[h] for h in touched - set(hosts))),
    )


def group_states(tx: Tx, ids: Iterable[str]) -> list[GroupState]:
    """Return the members' addresses of groups."""
    asked = listed(ids)
    members = by(tx.all(_MEMBER_ADDRESSES, ids=asked), "group_id")
    return [
        GroupState(
            id=g["id"],
            generation=g["generation"],
            ipv4=tuple(m["ip"] for m in members.get(g["id"], []) if ":" not in m["ip"]),
            ipv6=tuple(m["ip"] for m in members.get(g["id"], []) if ":" in m["ip"]),
        )
        for g in tx.all(_GROUPS, ids=asked)
    ]
