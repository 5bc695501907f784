"""One router: a namespace with a leg in each network, one outside, NAT for floating addresses and for the rest."""

import ipaddress

from kilonova.agent.helper import names
from kilonova.agent.helper.run import (
    addresses,
    drop_namespace,
    ensure_namespace,
    ip,
    ip_try,
    links,
    nft,
    run,
    sysctl,
)
from kilonova.agent.helper.verbs import public_interface
from kilonova.agent.helper.verbs.announce import announce
from kilonova.objects.netstate import RouterGateway, RouterInterface, RouterState


def _prefixed(leg: RouterInterface | RouterGateway) -> set[str]:
    return {
        f"{address}/{ipaddress.ip_network(cidr, strict=False).prefixlen}"
        for address, cidr in leg.addresses
    }


def ensure(tag: str, router: RouterState, interface: str | None = None) -> None:
    """Make the router what its document says; legs that stay are not touched.

    interface: of this machine, in the public network; None: the public network is a bridge of ours.
    """
    ns = names.router_ns(tag, router.id)
    if ensure_namespace(ns):
        sysctl({"net/ipv6/conf/default/accept_ra": "0"}, ns, strict=False)
        sysctl({"net/ipv6/conf/default/accept_dad": "0"}, ns, strict=False)
    legs: list[RouterInterface | RouterGateway] = list(router.interfaces)
    if router.gateway is not None:
        legs.append(router.gateway)
    _drop_legs(tag, ns, {names.router_leg(leg.port_id) for leg in legs})
    for leg in legs:
        if leg is router.gateway and interface is not None:
            public_interface.make_leg(interface, ns, names.router_leg(leg.port_id), leg.mac)
        else:
            _ensure_leg(tag, ns, leg)
    fresh: set[str] = set()
    for leg in legs:
        wanted = _prefixed(leg)
        if leg is router.gateway:
            wanted |= {f"{outside}/32" for outside, _ in router.floating}
        new = _set_addresses(ns, names.router_leg(leg.port_id), wanted)
        if leg is router.gateway:
            fresh = new
    nft(_nat(router), ns)
    forwarding = "1" if router.admin_up else "0"
    sysctl({"net/ipv4/ip_forward": forwarding}, ns)
    sysctl({"net/ipv6/conf/all/forwarding": forwarding}, ns, strict=False)
    _set_routes(ns, router)
    if router.gateway is not None and fresh:
        leg_name = names.router_leg(router.gateway.port_id)
        announce(ns, leg_name, router.gateway.mac, sorted(fresh))


def _drop_legs(tag: str, ns: str, keep: set[str]) -> None:
    for name in links(ns):
        if name.startswith("kn-l") and name not in keep:
            ip([f"link delete {name}"], ns)


def _ensure_leg(tag: str, ns: str, leg: RouterInterface | RouterGateway) -> None:
    host = names.host_ns(tag)
    outer, inner = names.router_link(leg.port_id), names.router_leg(leg.port_id)
    outside = isinstance(leg, RouterGateway)
    bridge = names.EXTERNAL if outside else names.bridge(leg.network_id)
    mtu = 1500 if isinstance(leg, RouterGateway) else leg.mtu
    if inner not in links(ns):
        ip_try(f"link delete {outer}", host)
        ip([f"link add {outer} type veth peer name {inner} netns {ns}"], host)
        ip([f"link set {inner} address {leg.mac}"], ns)
    if bridge not in links(host):
        ip(
            [f"link add {bridge} type bridge forward_delay 0 stp_state 0", f"link set {bridge} up"],
            host,
        )
    ip([f"link set {outer} mtu {mtu} master {bridge} up"], host)
    ip([f"link set {inner} mtu {mtu} up"], ns)


def _set_addresses(ns: str, link: str, wanted: set[str]) -> set[str]:
    have = addresses(link, ns)
    ip(
        [
            *(f"address delete {old} dev {link}" for old in have - wanted),
            *(f"address add {new} dev {link}" for new in sorted(wanted - have)),
        ],
        ns,
    )
    return wanted - have


def _set_routes(ns: str, router: RouterState) -> None:
    """Routes of ours carry the protocol number 186, so that others stay."""
    for family in ("-4", "-6"):
        ip_try(f"{family} route flush proto 186", ns)
    lines = []
    if router.gateway is not None and router.gateway.gateway is not None:
        leg = names.router_leg(router.gateway.port_id)
        family = "-6" if ":" in router.gateway.gateway else "-4"
        lines.append(
            f"{family} route replace default via {router.gateway.gateway} dev {leg} onlink proto 186"
        )
    for destination, hop in router.routes:
        family = "-6" if ":" in hop else "-4"
        lines.append(f"{family} route replace {destination} via {hop} proto 186")
    for line in lines:
        run(["ip", *line.split()], ns=ns)


def _nat(router: RouterState) -> str:
    """Return the NAT table: floating addresses both ways, the rest out by the gateway's address."""
    pre: list[str] = []
    post: list[str] = []
    forward: list[str] = []
    gateway = router.gateway
    if gateway is not None:
        leg = names.router_leg(gateway.port_id)
        v4 = [address for address, _ in gateway.addresses if ":" not in address]
        for outside, fixed in router.floating:
            pre.append(f"ip daddr {outside} dnat to {fixed}")
            post.append(f'ip saddr {fixed} oifname "{leg}" snat to {outside}')
        if v4:
            post.append(f'iifname != "{leg}" oifname != "{leg}" ct status dnat snat to {v4[0]}')
        if v4 and gateway.snat:
            inner = ", ".join(
                sorted({c for i in router.interfaces for a, c in i.addresses if ":" not in a})
            )
            if inner:
                post.append(f'ip saddr {{ {inner} }} oifname "{leg}" snat to {v4[0]}')
            forward.append(f'meta nfproto ipv4 iifname "{leg}" ct status dnat accept')
            forward.append(f'meta nfproto ipv4 iifname "{leg}" ct state new drop')
    body = """
table inet kilonova {{ }}
delete table inet kilonova
table inet kilonova {{
  chain forward {{
    type filter hook forward priority filter; policy accept;
    ct state invalid drop
    {forward}
  }}
}}
table ip kilonova_nat {{ }}
delete table ip kilonova_nat
table ip kilonova_nat {{
  chain pre {{
    type nat hook prerouting priority dstnat; policy accept;
    {pre}
  }}
  chain post {{
    type nat hook postrouting priority srcnat; policy accept;
    {post}
  }}
}}
"""
    joined = {
        k: "\n    ".join(v) for k, v in {"forward": forward, "pre": pre, "post": post}.items()
    }
    return body.format(**joined)


def remove(tag: str, router_id: str) -> None:
    """Remove the router and its legs; fine when there is none."""
    ns = names.router_ns(tag, router_id)
    _try_drop_legs(tag, ns)
    drop_namespace(ns)


def _try_drop_legs(tag: str, ns: str) -> None:
    from kilonova.agent.helper.run import namespaces

    if ns in namespaces():  # a veth dies with either end, at once; a namespace dies later
        _drop_legs(tag, ns, set())
