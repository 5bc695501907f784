"""Every field of a document is checked before the root helper uses it: exact, or refused by name."""

import ipaddress
import re

from kilonova.common.errors import BadRequest
from kilonova.common.ids import is_uuid
from kilonova.objects.netstate import (
    Document,
    ForwardingState,
    GroupState,
    NetworkState,
    PortState,
    RouterGateway,
    RouterInterface,
    RouterState,
)

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_DOMAIN = re.compile(r"([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.?)*")


class Refused(BadRequest):
    """A document or verb has a field that the helper does not take; the message names it."""

    code = "refused"


def uuid_(value: str, field: str) -> None:
    if not is_uuid(value):
        raise Refused(f"{field}: {value!r} is not a UUID")


def address(value: str, field: str) -> None:
    try:
        ipaddress.ip_address(value)
    except ValueError as exc:
        raise Refused(f"{field}: {value!r} is not an address") from exc


def network(value: str, field: str) -> None:
    try:
        ipaddress.ip_network(value, strict=False)
    except ValueError as exc:
        raise Refused(f"{field}: {value!r} is not a network") from exc


def mac(value: str, field: str) -> None:
    if _MAC.fullmatch(value) is None:
        raise Refused(f"{field}: {value!r} is not a MAC address in lower case")


def udp_port(value: int, field: str) -> None:
    if not 1 <= value <= 65535:
        raise Refused(f"{field}: {value}")


def _mtu(value: int) -> None:
    if not 68 <= value <= 65535:
        raise Refused(f"mtu: {value}")


def _routes(routes: tuple[tuple[str, str], ...]) -> None:
    for destination, hop in routes:
        network(destination, "routes")
        address(hop, "routes")


def _network_state(state: NetworkState) -> None:
    _mtu(state.mtu)
    if not 1 <= state.segment < 1 << 24:
        raise Refused(f"segment: {state.segment}")
    if _DOMAIN.fullmatch(state.dns_domain) is None:
        raise Refused(f"dns_domain: {state.dns_domain!r}")
    for subnet in state.subnets:
        uuid_(subnet.id, "subnets.id")
        network(subnet.cidr, "subnets.cidr")
        for value in (subnet.gateway, subnet.dhcp_server, *subnet.dns):
            if value is not None:
                address(value, "subnets")
        _routes(subnet.routes)


def _port(state: PortState) -> None:
    uuid_(state.network_id, "network_id")
    mac(state.mac, "mac")
    for value, subnet in state.addresses:
        address(value, "addresses")
        uuid_(subnet, "addresses")
    for cidr, other in state.pairs:
        network(cidr, "pairs")
        if other is not None:
            mac(other, "pairs")
    for rule in state.rules:
        if rule.direction not in ("ingress", "egress"):
            raise Refused(f"rules.direction: {rule.direction!r}")
        if rule.remote_cidr is not None:
            network(rule.remote_cidr, "rules.remote_cidr")
        if rule.remote_group is not None:
            uuid_(rule.remote_group, "rules.remote_group")
    for name, value in state.dhcp_options:
        if not name.isascii() or not name.replace("-", "").isalnum():
            raise Refused(f"dhcp_options: {name!r}")
        if not value.isprintable() or len(value) > 255:
            raise Refused(f"dhcp_options: value of {name}")


def _router(state: RouterState) -> None:
    legs: list[RouterInterface | RouterGateway] = list(state.interfaces)
    if state.gateway is not None:
        legs.append(state.gateway)
        if state.gateway.gateway is not None:
            address(state.gateway.gateway, "gateway.gateway")
    for leg in legs:
        uuid_(leg.port_id, "port_id")
        uuid_(leg.network_id, "network_id")
        mac(leg.mac, "mac")
        for value, cidr in leg.addresses:
            address(value, "addresses")
            network(cidr, "addresses")
    for interface in state.interfaces:
        _mtu(interface.mtu)
        for advert in interface.adverts:
            network(advert.cidr, "adverts.cidr")
            if advert.mode not in ("slaac", "dhcpv6-stateless", "dhcpv6-stateful"):
                raise Refused(f"adverts.mode: {advert.mode!r}")
            for value in advert.dns:
                address(value, "adverts.dns")
    for outside, fixed in state.floating:
        address(outside, "floating")
        address(fixed, "floating")
    _routes(state.routes)


def _forwarding(state: ForwardingState) -> None:
    for entry in state.entries:
        mac(entry.mac, "entries.mac")
        if int(entry.mac[:2], 16) & 1 or entry.mac == "00:00:00:00:00:00":
            raise Refused(f"entries.mac: {entry.mac!r} is not a MAC address of one device")
        for value in (entry.underlay, *entry.addresses):
            address(value, "entries")
    for value in (*state.peers, *state.peers_gone):
        address(value, "peers")
    for value in state.gone:
        mac(value, "gone")
    if state.parts != 1:
        raise Refused("parts: only a whole is taken")


def check(document: Document) -> None:
    """Raise Refused, naming the field, unless every field of the document is what it should be."""
    uuid_(document.id, "id")
    if isinstance(document, NetworkState):
        _network_state(document)
    elif isinstance(document, PortState):
        _port(document)
    elif isinstance(document, RouterState):
        _router(document)
    elif isinstance(document, ForwardingState):
        _forwarding(document)
    elif isinstance(document, GroupState):
        for value in (*document.ipv4, *document.ipv6):
            network(value, "members")


def host_label(name: str) -> str | None:
    """Return a host name as DHCP may say it (its first label), or None."""
    label = name.split(".", maxsplit=1)[0]
    return label.lower() if _LABEL.fullmatch(label) else None


def interface_name(text: str) -> str:
    """Return the name of a link of the machine; Refused unless it can be one (source: Linux, dev_valid_name)."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}", text) is None:
        raise Refused("the public interface's name")
    return text
