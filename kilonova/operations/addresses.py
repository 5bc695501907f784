"""The ``addresses`` of a server as the API shows them, kept encoded in its row."""

from collections.abc import Iterable
from typing import Any

import msgspec

from kilonova.objects.port import BoundPort


def addresses_json(ports: Iterable[BoundPort]) -> str:
    """Return ``{network name: [{addr, version, OS-EXT-IPS:type, OS-EXT-IPS-MAC:mac_addr}, ...]}`` encoded."""
    out: dict[str, list[dict[str, Any]]] = {}
    for port in ports:
        rows = out.setdefault(port.network_name, [])
        for fixed in port.fixed_ips:
            rows.append(_entry(fixed.ip_address, "fixed", port.mac))
            rows += [_entry(f, "floating", port.mac) for f in fixed.floating]
    return msgspec.json.encode(out).decode()


def _entry(address: str, kind: str, mac: str) -> dict[str, Any]:
    return {
        "version": 6 if ":" in address else 4,
        "addr": address,
        "OS-EXT-IPS:type": kind,
        "OS-EXT-IPS-MAC:mac_addr": mac,
    }
