"""The public network on a real interface: router legs are macvlan links on it, with MACs of their own.

Nothing of the interface itself is changed: no address, route or master is taken from it, so that the machine's own
traffic goes on, also over the default route. A link of the machine's own, a sibling of the legs, lets it reach floating
addresses: siblings hear each other, the interface below does not. Links die with their namespaces or with ``purge``.
"""

import ipaddress
from pathlib import Path

from kilonova.agent.helper import names
from kilonova.agent.helper.protocol import HostUp
from kilonova.agent.helper.run import addresses, ip, links
from kilonova.agent.helper.settings import Settings
from kilonova.common.errors import KilonovaError


class InterfaceRefused(KilonovaError):
    """The public interface cannot be used; the message says why."""

    code = "interface_refused"


def _file(settings: Settings) -> Path:
    return settings.directory("net") / "public-interface"


def of(settings: Settings) -> str | None:
    """Return the interface on which router legs are made, None for the host-local bridge."""
    path = _file(settings)
    return (path.read_text() or None) if path.exists() else None


def remember(settings: Settings, interface: str | None) -> None:
    """Keep which interface it is, for every router from now on. InterfaceRefused when it was another one."""
    path = _file(settings)
    if path.exists() and path.read_text() != (interface or ""):
        raise InterfaceRefused(
            "The public network of this cloud was made on another interface; 'kilonova down --purge' starts anew."
        )
    path.write_text(interface or "")


def join(settings: Settings, request: HostUp) -> list[str]:
    """Make the machine's own link to the floating addresses; return notes. Repeatable."""
    interface, link = request.public_interface or "", names.public_bridge(settings.tag)
    have = links()
    if interface not in have or interface == "lo" or interface.startswith("kn-"):
        raise InterfaceRefused(
            f"There is no interface {interface} that the public network could use."
        )
    if link not in have:
        ip([f"link add link {interface} name {link} type macvlan mode bridge"])
    ip([f"link set {link} up"])
    source = _own_address(interface, request.public_cidr)
    if source is not None and request.public_pool is not None:
        first, last = (ipaddress.IPv4Address(a) for a in request.public_pool)
        ranges = ipaddress.summarize_address_range(first, last)
        ip([f"route replace {r} dev {link} src {source} scope link" for r in ranges])
    return [f"link {link} on {interface}; {interface} itself is as it was"]


def _own_address(interface: str, cidr: str) -> str | None:
    network = ipaddress.ip_network(cidr)
    found = (ipaddress.ip_interface(a).ip for a in sorted(addresses(interface)))
    return next((str(a) for a in found if a in network), None)


def make_leg(interface: str, ns: str, leg: str, mac: str) -> None:
    """Make a router's leg in its namespace; one that is there stays."""
    if leg not in links(ns):
        ip(
            [
                f"link add link {interface} name {leg} address {mac} netns {ns} type macvlan mode bridge"
            ]
        )
    ip([f"link set {leg} up"], ns)
