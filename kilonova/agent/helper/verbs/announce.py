"""Gratuitous ARP: tell a segment where addresses live now. source: RFC 5227, 3 (an ARP request for one's own)."""

import ipaddress
import socket
import struct
from collections.abc import Iterable

from kilonova.agent.helper.run import inside


def announce(ns: str, link: str, mac: str, addresses: Iterable[str]) -> None:
    """Send one announcement per IPv4 address (a prefix length is ignored) out of a link; others are left out."""
    sender = bytes.fromhex(mac.replace(":", ""))
    found = [ipaddress.ip_interface(a).ip for a in addresses]
    v4 = [a.packed for a in found if a.version == 4]

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as sock:
            sock.bind((link, 0x0806))
            for address in v4:
                arp = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + sender + address
                sock.send(b"\xff" * 6 + sender + b"\x08\x06" + arp + b"\0" * 6 + address)

    if v4:
        inside(ns, send)
