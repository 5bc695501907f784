"""Names of everything that a cloud makes on a host; all carry its tag. Nothing else is ever touched."""

import hashlib
import re
from pathlib import Path

_TAG = re.compile(r"[0-9a-f]{4,6}")


def tag_of(state_dir: Path) -> str:
    """Return the tag of the cloud that lives in this state directory: 6 hex digits."""
    return hashlib.sha256(str(state_dir.resolve()).encode()).hexdigest()[:6]


def tag_beside(tag: str, number: int) -> str:
    """Return the tag of the n-th host of one machine; the first has the cloud's own."""
    return tag if number == 1 else hashlib.sha256(f"{tag}/{number}".encode()).hexdigest()[:6]


def check_tag(tag: str) -> str:
    """Return ``tag``; ValueError unless it is 4 to 6 hex digits."""
    if _TAG.fullmatch(tag) is None:
        raise ValueError(f"{tag!r} is not a tag")
    return tag


def _short(id_: str, digits: int) -> str:
    text = id_.replace("-", "").lower()
    if re.fullmatch(r"[0-9a-f]{32}", text) is None:
        raise ValueError(f"{id_!r} is not a UUID")
    return text[:digits]


# -- network namespaces ------------------------------------------------------------------------------------------


def host_ns(tag: str) -> str:
    """The namespace with every bridge, tap and filter of the cloud; libvirtd and QEMU run in it."""
    return f"kilonova-{tag}"


def machine_ns(tag: str) -> str:
    """The namespace of another host on this machine: what the machine's own is to the first host."""
    return f"kilonova-machine-{tag}"


def dhcp_ns(tag: str, network_id: str) -> str:
    return f"kilonova-{tag}-d-{_short(network_id, 12)}"


def router_ns(tag: str, router_id: str) -> str:
    return f"kilonova-{tag}-r-{_short(router_id, 12)}"


def is_ours(namespace: str, tag: str) -> bool:
    return re.fullmatch(rf"kilonova-{tag}(-[dr]-[0-9a-f]{{12}})?", namespace) is not None


# -- links (at most 15 characters) -------------------------------------------------------------------------------


def public_bridge(tag: str) -> str:
    """In the machine's own namespace: the bridge with the external subnet's gateway address."""
    return f"kn-pub-{tag}"


def uplink(tag: str) -> str:
    """In the machine's own namespace: the end of the veth to the external bridge of the host namespace."""
    return f"kn-up-{tag}"


def dns_link(tag: str) -> str:
    """In the machine's own namespace: where DHCP namespaces reach the resolver."""
    return f"kn-dns-{tag}"


def underlay_bridge(tag: str) -> str:
    """In the machine's own namespace: connects the hosts of one machine."""
    return f"kn-ul-{tag}"


def machine_link(tag: str) -> str:
    """In the machine's own namespace: the end of another host's underlay link."""
    return f"kn-mu-{tag}"


def machine_public(tag: str) -> str:
    """In the machine's own namespace: the end of another host's link into the public network."""
    return f"kn-mp-{tag}"


EXTERNAL = "kn-ext"  # bridge in the host namespace: every external network
EXTERNAL_UP = "kn-ext-up"
DNS_BRIDGE = "kn-dns"
DNS_UP = "kn-dns-up"


def bridge(network_id: str) -> str:
    return "kn-b" + _short(network_id, 11)


def tap(port_id: str) -> str:
    return "kn-t" + _short(port_id, 11)


def tunnel(network_id: str) -> str:
    """In the host namespace: the VXLAN link of a network that other hosts have too."""
    return "kn-x" + _short(network_id, 11)


def dhcp_link(network_id: str) -> str:
    """In the host namespace; its peer in the DHCP namespace is ``dhcp0``."""
    return "kn-d" + _short(network_id, 11)


def dhcp_dns_link(network_id: str) -> str:
    """In the host namespace; its peer in the DHCP namespace is ``dns0``."""
    return "kn-n" + _short(network_id, 11)


def router_link(port_id: str) -> str:
    """In the host namespace."""
    return "kn-r" + _short(port_id, 11)


def router_leg(port_id: str) -> str:
    """In the router's namespace."""
    return "kn-l" + _short(port_id, 11)


def table(tag: str) -> str:
    """The nft table in the machine's own namespace."""
    return f"kilonova_{tag}"


def underlay_table(tag: str) -> str:
    """The nft table in the machine's own namespace that lets only hosts of the cloud send to its tunnels."""
    return f"kilonova_{tag}_hosts"
