"""A running guest's disk over NBD grows: its requests wait while its export is made anew, then QEMU looks again.

QEMU 7.2 learns an export's size when it connects, and never resizes what it exports. So the disk's format node goes
over to a second connection whose requests wait when it breaks (``reconnect-delay``; libvirt 9.0 does not pass it on).
The volume's host ends the export, lets the volume grow and exports it again; the waiting requests are sent again, none
fails. Then libvirt's own connection is made anew, by the name and with the options it had, the format node goes back to
it, and grows. Each half may be done again; who looks at QEMU between them finds a disk that works.
source: QEMU QMP reference (blockdev-add, blockdev-reopen, block_resize); QEMU docs, NBD client options.
"""

import hashlib
import json
import xml.etree.ElementTree as ET
from typing import Any

from kilonova.virt.driver import DriverError
from kilonova.virt.libvirt.connection import telling

WAIT_S = 120
"""How long a guest's requests wait for an export that ended; then they fail."""
_END = "-format"


def hold(domain: Any, element: ET.Element) -> None:
    """Have requests to a disk over NBD wait, from now on, when its export ends. DriverError."""
    top = _top(domain, element)
    mine = _mine(top["node-name"])
    if mine not in _nodes(domain):
        options = _connection(top["node-name"], element) | {"reconnect-delay": WAIT_S}
        _qmp(domain, "blockdev-add", {**options, "node-name": mine})
    _go_over(domain, top, mine)


def resume(domain: Any, element: ET.Element, size: int | None) -> None:
    """Undo ``hold``, with a fresh connection, and let the guest see a disk of ``size`` bytes. DriverError."""
    top = _top(domain, element)
    name = top["node-name"]
    mine, own = _mine(name), _storage(name)
    there = _nodes(domain)
    if mine in there:
        _go_over(domain, top, mine)  # it may have gone back before, by a connection that is old
        if own in there:
            _qmp(domain, "blockdev-del", {"node-name": own})
        again = {"node-name": own, "auto-read-only": True, "discard": "unmap"}
        _qmp(domain, "blockdev-add", {**_connection(name, element), **again})
        _go_over(domain, top, own)
        _qmp(domain, "blockdev-del", {"node-name": mine})
    if size is not None and top["image"]["virtual-size"] < size:
        _qmp(domain, "block_resize", {"node-name": name, "size": size})


def _top(domain: Any, element: ET.Element) -> dict[str, Any]:
    """Return QEMU's facts about the format node of a disk. DriverError: it is not what libvirt makes of ours."""
    alias = element.find("alias")
    name = "" if alias is None else alias.get("name", "")
    for block in _qmp(domain, "query-block", {}):
        device = block.get("qdev", "")
        ours = device == name or device.startswith(f"/machine/peripheral/{name}/")
        if ours and "inserted" in block:
            top: dict[str, Any] = block["inserted"]
            if top.get("node-name", "").endswith(_END):
                return top
    raise DriverError("The disk is busy, or not as this host makes disks.")


def _nodes(domain: Any) -> set[str]:
    return {n["node-name"] for n in _qmp(domain, "query-named-block-nodes", {"flat": True})}


def _go_over(domain: Any, top: dict[str, Any], storage: str) -> None:
    """Have the format node use another connection; nothing of the guest is under way meanwhile."""
    options = {
        "driver": "raw",
        "node-name": top["node-name"],
        "file": storage,
        "read-only": top["ro"],
        "discard": "unmap",
        "cache": {k: top["cache"][k] for k in ("direct", "no-flush")},
        "detect-zeroes": top["detect_zeroes"],
    }
    _qmp(domain, "blockdev-reopen", {"options": [options]})


def _connection(name: str, element: ET.Element) -> dict[str, Any]:
    """Return the options of a connection to the export that a disk's element names."""
    source = element.find("source")
    host = None if source is None else source.find("host")
    if source is None or host is None:
        raise DriverError("The disk is not reached over NBD.")
    server = {"type": "inet", "host": host.get("name"), "port": host.get("port")}
    if host.get("transport") == "unix":
        server = {"type": "unix", "path": host.get("socket")}
    options: dict[str, Any] = {
        "driver": "nbd",
        "server": server,
        "export": source.get("name"),
        "cache": {"direct": True, "no-flush": False},
    }
    if source.get("tls") == "yes":
        options["tls-creds"] = f"obj{_storage(name)}_tls0"
        options["tls-hostname"] = source.get("tlsHostname")
    return options


def _storage(name: str) -> str:
    """Return what libvirt calls the connection below a format node. source: libvirt, qemuDomainPrepareStorageSource."""
    return f"{name.removesuffix(_END)}-storage"


def _mine(name: str) -> str:
    return "kn-" + hashlib.sha256(name.encode()).hexdigest()[:24]


def _qmp(domain: Any, command: str, arguments: dict[str, Any]) -> Any:
    import libvirt_qemu

    words = json.dumps({"execute": command, "arguments": arguments})
    with telling("The guest's disk cannot be changed."):
        answer = json.loads(libvirt_qemu.qemuMonitorCommand(domain, words, 0))
    if "error" in answer:
        said = str(answer["error"].get("desc", ""))
        raise DriverError("The guest's disk cannot be changed.", command=command, said=said)
    return answer["return"]
