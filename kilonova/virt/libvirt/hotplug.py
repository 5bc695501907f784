"""Devices put into a guest that is there and taken out again, by their alias; in its definition and in what runs.

source: libvirt, virDomainAttachDeviceFlags, virDomainDetachDeviceAlias (the latter only asks: the guest has to agree).
"""

import time
import xml.etree.ElementTree as ET
from typing import Any

import libvirt

from kilonova.virt.driver import Aborted, Again, DriverError, Progress
from kilonova.virt.libvirt import xml
from kilonova.virt.libvirt.connection import telling

POLL_S = 0.3
ASK_AGAIN_S = 5.0
STALE_S = 30.0
_PASSES = frozenset(
    {
        libvirt.VIR_ERR_DEVICE_MISSING,
        libvirt.VIR_ERR_INTERNAL_ERROR,  # QEMU: "already in the process of unplug"
        libvirt.VIR_ERR_OPERATION_FAILED,
        libvirt.VIR_ERR_OPERATION_INVALID,  # off since it was looked at
    }
)


def attach(domain: Any, element: ET.Element) -> ET.Element:
    """Put a device into a guest's definition and, when it runs, into the guest; return it with its address.

    What is there already stays. ``element`` has an alias of ours.
    """
    alias = _alias(element)
    with telling("The device could not be connected to the guest."):
        flags = 0
        if xml.device_of(_defined(domain), alias) is None:
            flags |= libvirt.VIR_DOMAIN_AFFECT_CONFIG
        if domain.isActive() and xml.device_of(_running(domain), alias) is None:
            flags |= libvirt.VIR_DOMAIN_AFFECT_LIVE
        if flags:
            domain.attachDeviceFlags(ET.tostring(element, encoding="unicode"), flags)
        found = xml.device_of(_running(domain) if domain.isActive() else _defined(domain), alias)
    if found is None:
        raise DriverError("The device is not in the guest.", alias=alias)
    return found


class Detaching:
    """Which devices guests were asked to let go, and when."""

    def __init__(self) -> None:
        self._asked: dict[tuple[str, str], float] = {}

    def detach(self, server_id: str, domain: Any, alias: str, progress: Progress) -> bool:
        """Take a device out of the guest and its definition; return whether there was one.

        Raises Again while the guest has not let go; it is asked again every 5 s. A guest that does not run its
        system, paused or still booting, cannot let go.
        """
        with telling("The device could not be disconnected from the guest."):
            if domain.isActive() and xml.device_of(_running(domain), alias) is not None:
                self._ask(server_id, domain, alias, progress)
            self._asked.pop((server_id, alias), None)
            existed = xml.device_of(_defined(domain), alias) is not None
            if existed:
                domain.detachDeviceAlias(alias, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
        return existed

    def _ask(self, server_id: str, domain: Any, alias: str, progress: Progress) -> None:
        """Ask the guest, unless that was done just now. Always raises Again."""
        key, now = (server_id, alias), time.monotonic()
        try:
            progress("waiting for the guest to let go of the device")
        except Aborted:
            self._asked.pop(key, None)
            raise
        if now - self._asked.get(key, 0.0) >= ASK_AGAIN_S:
            self._asked = {k: t for k, t in self._asked.items() if now - t < STALE_S}
            self._asked[key] = now
            try:
                domain.detachDeviceAlias(alias, libvirt.VIR_DOMAIN_AFFECT_LIVE)
            except libvirt.libvirtError as exc:
                # refused while the one before is still being unplugged, or gone meanwhile: the next look tells
                if exc.get_error_code() not in _PASSES:
                    raise
        raise Again(POLL_S)


def _alias(element: ET.Element) -> str:
    alias = element.find("alias")
    return "" if alias is None else alias.get("name", "")


def _defined(domain: Any) -> str:
    text: str = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    return text


def _running(domain: Any) -> str:
    text: str = domain.XMLDesc(0)
    return text
