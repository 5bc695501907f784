"""Protocols of security group rules: names, numbers, and what their port fields mean.

source: neutron_lib.constants.IP_PROTOCOL_MAP and neutron.db.securitygroups_db.
"""

from kilonova.network.embedded.faults import Refused

NUMBERS = {
    "ah": 51, "dccp": 33, "egp": 8, "esp": 50, "gre": 47, "hopopt": 0, "icmp": 1, "igmp": 2,
    "ip": 0, "ipip": 4, "ipv6-encap": 41, "ipv6-frag": 44, "ipv6-icmp": 58, "ipv6-nonxt": 59,
    "ipv6-opts": 60, "ipv6-route": 43, "ospf": 89, "pgm": 113, "rsvp": 46, "sctp": 132, "tcp": 6,
    "udp": 17, "udplite": 136, "vrrp": 112,
}  # fmt: skip
ALIASES = {"icmpv6": "ipv6-icmp"}
PORTED = {"tcp", "udp", "sctp", "dccp", "udplite"}
ONLY_V6 = {"ipv6-encap", "ipv6-frag", "ipv6-icmp", "ipv6-nonxt", "ipv6-opts", "ipv6-route"}
ICMP = {"icmp", "ipv6-icmp"}
_NAMED = {str(n): name for name, n in NUMBERS.items() if name not in ("ip", "hopopt")}


def canonical(given: object, ethertype: str) -> str | None:
    """Return a protocol's name, a number as text if it has no name here, or None for any.

    Raises SecurityGroupRuleInvalidProtocol.
    """
    if given is None:
        return None
    text = str(given).strip().lower()
    if text in ("", "any"):
        return None
    text = ALIASES.get(text, text)
    if text.isdecimal() and len(text) <= 3 and int(text) <= 255:
        if int(text) == 0:
            return None
        text = _NAMED.get(str(int(text)), str(int(text)))
    elif text in ("ip", "hopopt"):
        return None
    elif text not in NUMBERS:
        raise Refused(
            "SecurityGroupRuleInvalidProtocol",
            f"Security group rule protocol {str(given)[:40]} not supported. Only protocol values "
            f"{sorted(NUMBERS)} and integer representations [0 to 255] are supported.",
        )
    if text == "icmp" and ethertype == "IPv6":
        text = "ipv6-icmp"
    return text


def as_given(given: object, canonical_name: str | None) -> str | None:
    """Return what a rule shows: a number stays the number that it was made with. source: Neutron, convert_protocol."""
    text = str(given).strip()
    return str(int(text)) if canonical_name is not None and text.isdecimal() else canonical_name


def check_ports(protocol: str | None, low: int | None, high: int | None) -> None:
    """Check port_range_min and port_range_max for a canonical protocol, or icmp type and code."""
    if low is None and high is None:
        return
    if protocol in ICMP:
        for name, attr, value in (
            ("type", "port_range_min", low),
            ("code", "port_range_max", high),
        ):
            if value is not None and not 0 <= value <= 255:
                raise Refused(
                    "SecurityGroupInvalidIcmpValue",
                    f"Invalid value for ICMP {name} ({attr}) {value}. It must be 0 to 255.",
                )
        if low is None:
            raise Refused(
                "SecurityGroupMissingIcmpType",
                f"ICMP code (port-range-max) {high} is provided but ICMP type (port-range-min) is missing.",
            )
        return
    if protocol not in PORTED:
        raise Refused(
            "SecurityGroupProtocolRequiredWithPorts"
            if protocol is None
            else "SecurityGroupInvalidProtocolForPortRange",
            "Must also specify protocol if port range is given."
            if protocol is None
            else f"Port ranges cannot be specified for protocol {protocol}.",
        )
    for value in (low, high):
        if value is not None and not 1 <= value <= 65535:
            raise Refused("SecurityGroupInvalidPortValue", f"Invalid value for port {value}")
    if low is None or high is None or low > high:
        raise Refused(
            "SecurityGroupInvalidPortRange",
            "For TCP/UDP protocols, port_range_min must be <= port_range_max",
        )
