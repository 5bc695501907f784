"""What compute knows of networks: NICs asked for and planned, bound ports, and the events that a network sends."""

from typing import ClassVar

from kilonova.objects.base import OpenEnum, Version, Versioned, since


class RequestedNic(Versioned, frozen=True, kw_only=True):
    """One entry of ``networks`` in POST /servers as the user wrote it; port_id wins over network_id."""

    network_id: str | None = None
    port_id: str | None = None
    fixed_ip: str | None = None
    tag: str | None = None


class NicPlan(Versioned, frozen=True, kw_only=True):
    """One NIC that was checked before accept. network_id is "auto" when a network is to be made for the project."""

    network_id: str
    network_name: str = ""
    port_id: str | None = None
    fixed_ip: str | None = None
    tag: str | None = None


class SubnetInfo(Versioned, frozen=True, kw_only=True):
    """A subnet as a guest's configuration needs it. routes: (destination, next hop)."""

    id: str
    cidr: str
    ip_version: int
    gateway: str | None = None
    dns: tuple[str, ...] = ()
    routes: tuple[tuple[str, str], ...] = ()
    enable_dhcp: bool = True
    dhcp_server: str | None = None
    ipv6_mode: str | None = None  # slaac, dhcpv6-stateful, dhcpv6-stateless


class FixedIp(Versioned, frozen=True, kw_only=True):
    """An address of a port, with the floating addresses that lead to it."""

    ip_address: str
    subnet_id: str
    ip_version: int = 4
    floating: tuple[str, ...] = ()


class BoundPort(Versioned, frozen=True, kw_only=True):
    """A port with all that a guest, its host and GET /servers need of it.

    security_groups: (id, name). status: ACTIVE once its host applied it, DOWN before. host: "" when unbound.
    preserve_on_delete: the user made the port; removing it only unbinds it. mtu: bytes.
    """

    port_id: str
    network_id: str
    network_name: str
    project_id: str
    device_id: str
    device_owner: str = ""
    mac: str
    mtu: int
    status: str
    admin_up: bool = True
    host: str = ""
    vif_type: str = "tap"
    vif_details: dict[str, bool | str] = {}
    vnic_type: str = "normal"
    fixed_ips: tuple[FixedIp, ...] = ()
    subnets: tuple[SubnetInfo, ...] = ()
    security_groups: tuple[tuple[str, str], ...] = ()
    port_security: bool = True
    preserve_on_delete: bool = False
    dns_name: str = ""
    tag: str | None = None


class GroupRule(Versioned, frozen=True, kw_only=True):
    """One ingress rule of a security group. cidr, or remote_group: (name, project) of the group that it names."""

    id: str
    protocol: str | None = None
    port_min: int | None = None
    port_max: int | None = None
    cidr: str | None = None
    remote_group: tuple[str, str] | None = None


class GroupInfo(Versioned, frozen=True, kw_only=True):
    """A security group as the compute API shows it on a server: ingress rules only."""

    id: str
    name: str
    project_id: str
    description: str = ""
    rules: tuple[GroupRule, ...] = ()


class PortClaim(Versioned, frozen=True, kw_only=True):
    """A port that was made or adopted for a key, as reconcilers see it. created_at: seconds since the epoch."""

    operation: str
    item: str
    port_id: str
    device_id: str
    created_at: float


class PortBinding(Versioned, frozen=True, kw_only=True):
    """One port at one host. active: traffic goes there; else the host has prepared, or prepares, and passes none.

    ready: the host has in force what it should have by now. created_at: seconds since the epoch, 0 for an active one.
    """

    port_id: str
    server_id: str
    host: str
    active: bool
    ready: bool
    created_at: float = 0.0


class NetworkEventName(OpenEnum):
    VIF_PLUGGED = "network-vif-plugged"
    VIF_UNPLUGGED = "network-vif-unplugged"
    VIF_DELETED = "network-vif-deleted"
    CHANGED = "network-changed"
    UNKNOWN = "unknown"


class NetworkEvent(Versioned, frozen=True, kw_only=True):
    """An external event as Neutron sends it to Nova. port_id is the event's tag. host: where it was plugged."""

    VERSION: ClassVar[Version] = (1, 1)

    name: NetworkEventName
    server_id: str
    port_id: str
    status: str = "completed"  # completed or failed
    host: str = since(1, 1, default="")
