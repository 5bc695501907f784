"""Desired state of the embedded network on one host: one versioned document per network, port, router, group.

The network service publishes a Change on ``agent.<host>.state`` and answers a StateRequest on ``network.state.<host>``
(full state, at start and on reconnect). The agent applies a document atomically and reports on
``network.report.<host>`` which generation is in force. Documents of a lower generation than the one in force are
dropped.
"""

from typing import ClassVar, Union

from kilonova.objects.base import Version, Versioned, since


class SubnetState(Versioned, frozen=True, kw_only=True):
    """One subnet. dhcp_server: the address that DHCP answers from (a port of the network), None without DHCP."""

    id: str
    cidr: str
    ip_version: int
    gateway: str | None
    dhcp_server: str | None
    dns: tuple[str, ...] = ()
    routes: tuple[tuple[str, str], ...] = ()
    enable_dhcp: bool = True


class NetworkState(Versioned, frozen=True, kw_only=True, tag="network", tag_field="type"):
    """One network that has a port on this host. segment: VXLAN id, also the conntrack zone."""

    id: str
    generation: int
    segment: int
    mtu: int
    subnets: tuple[SubnetState, ...] = ()
    external: bool = False
    dns_domain: str = ""
    admin_up: bool = True
    peers: tuple[str, ...] = ()  # empty: a ForwardingState has them


class RuleState(Versioned, frozen=True, kw_only=True):
    """One allow rule: from a GroupState (remote_group), a network (remote_cidr), or anyone."""

    direction: str  # "ingress" or "egress"
    ethertype: str  # "IPv4" or "IPv6"
    protocol: str | None = None  # "tcp", "udp", "icmp", a number as text, or None for any
    port_min: int | None = None  # for icmp: type
    port_max: int | None = None  # for icmp: code
    remote_cidr: str | None = None
    remote_group: str | None = None


class PortState(Versioned, frozen=True, kw_only=True, tag="port", tag_field="type"):
    """One port bound to this host. addresses: (ip, subnet id). pairs: allowed address pairs (cidr, mac or None).

    active: False where the port is bound besides (a move's other end): everything is made ready, no traffic passes.
    """

    VERSION: ClassVar[Version] = (1, 1)

    id: str
    generation: int
    network_id: str
    mac: str
    addresses: tuple[tuple[str, str], ...]
    device_id: str
    device_owner: str
    hostname: str = ""
    port_security: bool = True
    pairs: tuple[tuple[str, str | None], ...] = ()
    rules: tuple[RuleState, ...] = ()
    groups: tuple[str, ...] = ()
    dhcp_options: tuple[tuple[str, str], ...] = ()
    admin_up: bool = True
    project_id: str = ""
    active: bool = since(1, 1, default=True, critical=True)


class GroupState(Versioned, frozen=True, kw_only=True, tag="group", tag_field="type"):
    """Addresses of the members of a security group, as a named nft set."""

    id: str
    generation: int
    ipv4: tuple[str, ...] = ()
    ipv6: tuple[str, ...] = ()


class ForwardingEntry(Versioned, frozen=True, kw_only=True):
    """Where a MAC of a network lives: behind the underlay address of its host. addresses: its IP addresses."""

    VERSION: ClassVar[Version] = (1, 1)

    mac: str
    underlay: str
    addresses: tuple[str, ...] = ()
    hostname: str = since(1, 1, default="")


class ForwardingState(Versioned, frozen=True, kw_only=True, tag="forwarding", tag_field="type"):
    """Where the MACs of one network live, on every host; id: of the network. The same for each of its hosts.

    peers: underlay addresses of the hosts that have the network, also with inactive bindings only.
    base: only what differs from that generation: it holds on a host that has this one or a later one, up to
    ``generation``; gone: MACs that live nowhere now, peers_gone: hosts that left. A host that has less says BEHIND.
    A whole that is heavy comes in parts (part of parts) that have one ``sending``: it holds when all are there.
    """

    VERSION: ClassVar[Version] = (1, 1)

    id: str
    generation: int
    entries: tuple[ForwardingEntry, ...] = ()
    peers: tuple[str, ...] = ()
    base: int | None = since(1, 1, default=None, critical=True)
    gone: tuple[str, ...] = since(1, 1, default=())
    peers_gone: tuple[str, ...] = since(1, 1, default=())
    part: int = since(1, 1, default=0)
    parts: int = since(1, 1, default=1, critical=True)
    sending: str = since(1, 1, default="")


BEHIND = "behind"  # the error of a difference whose base is not in force; the whole is wanted


class Advert(Versioned, frozen=True, kw_only=True):
    """An IPv6 subnet that a router advertises. mode: slaac, dhcpv6-stateless or dhcpv6-stateful."""

    cidr: str
    mode: str
    dns: tuple[str, ...] = ()


class RouterInterface(Versioned, frozen=True, kw_only=True):
    """A leg of a router in a network. addresses: (ip, cidr)."""

    VERSION: ClassVar[Version] = (1, 1)

    port_id: str
    network_id: str
    mac: str
    addresses: tuple[tuple[str, str], ...]
    mtu: int = 1500
    adverts: tuple[Advert, ...] = since(1, 1, default=())


class RouterGateway(Versioned, frozen=True, kw_only=True):
    """The leg in an external network."""

    port_id: str
    network_id: str
    mac: str
    addresses: tuple[tuple[str, str], ...]
    gateway: str | None
    snat: bool = True


class RouterState(Versioned, frozen=True, kw_only=True, tag="router", tag_field="type"):
    """One router on its gateway host. floating: (floating ip, fixed ip)."""

    id: str
    generation: int
    interfaces: tuple[RouterInterface, ...] = ()
    gateway: RouterGateway | None = None
    floating: tuple[tuple[str, str], ...] = ()
    routes: tuple[tuple[str, str], ...] = ()
    admin_up: bool = True


Document = Union[NetworkState, PortState, RouterState, GroupState, ForwardingState]  # noqa: UP007


class Change(Versioned, frozen=True, kw_only=True):
    """Documents that changed and (kind, id, generation) of those to remove.

    seq: orders full states and changes (0: not given; network/embedded/sequence.py). A full one that is lower than a
    change that came already must not remove anything: ask again.
    """

    VERSION: ClassVar[Version] = (1, 2)

    host: str
    documents: tuple[Document, ...] = ()
    removed: tuple[tuple[str, str, int], ...] = ()
    full: bool = False  # all that this host should have: anything else is removed
    seq: int = since(1, 1, default=0)


class StateRequest(Versioned, frozen=True, kw_only=True):
    """An agent asks for everything (or one port with what it needs); the reply is a Change.

    underlay: with a question for everything, the address at which the host's tunnels end, "" when it has none; None:
    not said.
    """

    VERSION: ClassVar[Version] = (1, 1)

    host: str
    port_id: str | None = None
    underlay: str | None = since(1, 1, default=None)


class Applied(Versioned, frozen=True, kw_only=True):
    """Which generations are in force: (kind, id, generation, error or None)."""

    host: str
    items: tuple[tuple[str, str, int, str | None], ...]
