"""What Neutron's answers mean to compute: rows of its API as our records, its refusals as our errors.

Our key = (operation, item) rests in a port's binding profile, which only admins and services write, so that no tenant's
port appears on a server by what its owner wrote. Tags are an index of it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kilonova.common.clock import parse_iso
from kilonova.common.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    KilonovaError,
    NotFound,
    QuotaExceeded,
    Unavailable,
)
from kilonova.network.interface import AddressTaken, Key, NoAddressLeft
from kilonova.objects.port import (
    BoundPort,
    FixedIp,
    GroupRule,
    PortBinding,
    PortClaim,
    SubnetInfo,
)

Json = dict[str, Any]
OURS = "kilonova"  # on every port of a key
OPERATION, ITEM, PRESERVE, ROLE = (
    "kilonova_operation",
    "kilonova_item",
    "kilonova_preserve",
    "kilonova_tag",
)
HOST, PROFILE, VIF = "binding:host_id", "binding:profile", "binding:vif_type"
_STATUSES: dict[int, type[KilonovaError]] = {
    400: BadRequest,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
}
_TYPES: dict[str, type[KilonovaError]] = {
    "IpAddressAlreadyAllocated": AddressTaken,
    "IpAddressInUse": AddressTaken,
    "IpAddressGenerationFailure": NoAddressLeft,
    "OverQuota": QuotaExceeded,
}


def path_id(text: str) -> str:
    """Return an id or a host name as a part of a path; NotFound for what cannot be one."""
    if not text or not all(c.isalnum() or c in "-._" for c in text) or text.strip(".") == "":
        raise NotFound(f"{text[:64]!r} could not be found.")
    return text


def error_of(status: int, text: str) -> KilonovaError:
    """Return a refusal as one of our errors, in Neutron's words."""
    kind, message = "", "The network service does not answer as it should."
    try:
        inner = json.loads(text)["NeutronError"]
        kind, message = str(inner["type"]), str(inner["message"])
    except (ValueError, KeyError, TypeError):
        pass
    cls = _TYPES.get(kind) or _STATUSES.get(status, Unavailable)
    return cls(message, status=status, kind=kind)


def marks(key: Key, *, preserve: bool, role: str | None) -> Json:
    """Return what a port's profile says of a key."""
    return {OPERATION: key[0], ITEM: key[1], PRESERVE: preserve, ROLE: role}


def tags_of(key: Key) -> list[str]:
    """Return the tags by which a port of a key is found."""
    return [OURS, f"{OPERATION}={key[0]}", f"{ITEM}={key[1]}"]


def is_ours(tag: str) -> bool:
    """Tell whether a tag is one of ``tags_of``."""
    return tag == OURS or tag.startswith((f"{OPERATION}=", f"{ITEM}="))


def key_of(row: Json) -> Key | None:
    """Return the key that a port was made or adopted for, or None."""
    profile = row.get(PROFILE) or {}
    operation = profile.get(OPERATION)
    return (str(operation), str(profile.get(ITEM, ""))) if operation else None


def without_marks(row: Json) -> Json:
    """Return a port's profile as whoever made it wrote it."""
    profile: Json = row.get(PROFILE) or {}
    return {k: v for k, v in profile.items() if k not in (OPERATION, ITEM, PRESERVE, ROLE)}


def claim_of(row: Json) -> PortClaim | None:
    """Return a port as reconcilers see it, None for one without a key."""
    key = key_of(row)
    if key is None:
        return None
    return PortClaim(
        operation=key[0],
        item=key[1],
        port_id=row["id"],
        device_id=row["device_id"],
        created_at=made_at(row),
    )


def made_at(row: Json) -> float:
    """Return when a row was made, in seconds since the epoch; 0 where the service does not say."""
    text = row.get("created_at")
    return parse_iso(text) if text else 0.0


def binding_of(port: Json, row: Json) -> PortBinding:
    """Return one binding of a port. It has no time of its own: an inactive one is as old as the port's last change."""
    active = row["status"] == "ACTIVE"
    changed = port.get("updated_at")
    return PortBinding(
        port_id=port["id"],
        server_id=port["device_id"],
        host=row["host"],
        active=active,
        ready=port["status"] == "ACTIVE" if active else row["vif_type"] not in FAILED,
        created_at=0.0 if active or not changed else parse_iso(changed),
    )


FAILED = ("binding_failed", "unbound")


def subnet_of(row: Json, dhcp: str | None) -> SubnetInfo:
    """Return a subnet as a guest's configuration needs it. dhcp: the address that DHCP answers from."""
    return SubnetInfo(
        id=row["id"],
        cidr=row["cidr"],
        ip_version=row["ip_version"],
        gateway=row.get("gateway_ip"),
        dns=tuple(row.get("dns_nameservers") or ()),
        routes=tuple((r["destination"], r["nexthop"]) for r in row.get("host_routes") or ()),
        enable_dhcp=bool(row.get("enable_dhcp", True)),
        dhcp_server=dhcp,
        ipv6_mode=row.get("ipv6_address_mode"),
    )


@dataclass(frozen=True)
class Around:
    """What ports refer to, each by id. lead: (port, fixed address) -> floating addresses."""

    networks: Mapping[str, Json]
    subnets: Mapping[str, SubnetInfo]
    groups: Mapping[str, str]
    lead: Mapping[tuple[str, str], Sequence[str]]


def port_of(row: Json, around: Around) -> BoundPort:
    """Return a port with all that compute needs of it."""
    net = around.networks.get(row["network_id"], {})
    profile = row.get(PROFILE) or {}
    fixed = row.get("fixed_ips") or ()
    known = dict.fromkeys(f["subnet_id"] for f in fixed if f["subnet_id"] in around.subnets)
    details = row.get("binding:vif_details") or {}
    return BoundPort(
        port_id=row["id"],
        network_id=row["network_id"],
        network_name=net.get("name", ""),
        project_id=row["project_id"],
        device_id=row["device_id"],
        device_owner=row["device_owner"],
        mac=row["mac_address"],
        mtu=int(net.get("mtu") or 1500),
        status=row["status"],
        admin_up=bool(row["admin_state_up"]),
        host=row.get(HOST) or "",
        vif_type=row.get(VIF) or "unbound",
        vif_details={k: v for k, v in details.items() if isinstance(v, (bool, str))},
        vnic_type=row.get("binding:vnic_type") or "normal",
        fixed_ips=tuple(
            FixedIp(
                ip_address=f["ip_address"],
                subnet_id=f["subnet_id"],
                ip_version=6 if ":" in f["ip_address"] else 4,
                floating=tuple(around.lead.get((row["id"], f["ip_address"]), ())),
            )
            for f in fixed
        ),
        subnets=tuple(around.subnets[s] for s in known),
        security_groups=tuple(
            (g, around.groups.get(g, g)) for g in row.get("security_groups") or ()
        ),
        port_security=bool(row.get("port_security_enabled", True)),
        preserve_on_delete=bool(profile.get(PRESERVE)),
        dns_name=row.get("dns_name") or "",
        tag=profile.get(ROLE),
    )


def rule_of(row: Json, named: Mapping[str, Json]) -> GroupRule:
    """Return one ingress rule. named: security groups by id."""
    remote = named.get(row.get("remote_group_id") or "")
    anywhere = "::/0" if row["ethertype"] == "IPv6" else "0.0.0.0/0"
    return GroupRule(
        id=row["id"],
        protocol=row.get("protocol"),
        port_min=row.get("port_range_min"),
        port_max=row.get("port_range_max"),
        cidr=(row.get("remote_ip_prefix") or anywhere) if remote is None else None,
        remote_group=None if remote is None else (remote["name"], remote["project_id"]),
    )
