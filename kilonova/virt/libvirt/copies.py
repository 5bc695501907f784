"""Copies of a running guest's disks as they are at one moment: QEMU's backup job, written to a file made beforehand.

QEMU allows one such job per guest, so copies of one guest wait for each other. A job ends by itself; one that was
begun in our life before is known again by its file.
source: libvirt, virDomainBackupBegin; domainbackup XML, push mode.
"""

import threading
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import libvirt

from kilonova.virt.driver import Aborted, Again, DriverError, Progress
from kilonova.virt.libvirt import tools, xml
from kilonova.virt.libvirt.connection import telling
from kilonova.virt.libvirt.disks import Owner

POLL_S = 0.3
STALE_S = 60.0
GO_S = 10.0
_NONE = frozenset({libvirt.VIR_ERR_NO_DOMAIN_BACKUP, libvirt.VIR_ERR_OPERATION_INVALID})


class Copies:
    """Which copy of which guest was begun, and when somebody last asked for it."""

    def __init__(self, owner: Owner) -> None:
        """owner: lets QEMU write the files."""
        self._owner = owner
        self._lock = threading.Lock()
        self._begun: dict[str, tuple[Path, float]] = {}

    def copy(
        self, server_id: str, domain: Any, element: ET.Element, target: Path, progress: Progress
    ) -> None:
        """Copy a disk of a running guest to ``target``; Again until it is whole.

        element: the disk. One whose end nobody saw is made anew. Raises DriverError when the job failed.
        """
        now = _under_way(domain)
        try:
            progress("copying the disk")
        except Aborted:
            self.end(server_id, domain, target)
            raise
        with self._lock:
            mine, asked = self._begun.get(server_id, (None, 0.0))
            others = mine not in (None, target) and time.monotonic() - asked < STALE_S
            if now not in (None, target) or others:
                raise Again(POLL_S)  # another copy of this guest comes first
            self._begun[server_id] = (target, time.monotonic())
        if now == target:
            raise Again(POLL_S)
        if mine == target and _worked(domain):
            if tools.is_written(target):  # libvirt forgets a job before QEMU lets go of its file
                raise Again(POLL_S)
            self._forget(server_id, target)
            return
        self._begin(server_id, domain, element, target)
        raise Again(POLL_S)

    def end(self, server_id: str, domain: Any, target: Path) -> None:
        """Abort the job that writes ``target``, if one does; it is gone when this returns. DriverError after GO_S."""
        if domain is not None and _under_way(domain) == target:
            with telling("The copy of the disk could not be ended."):
                try:
                    domain.abortJob()
                except libvirt.libvirtError as exc:
                    if exc.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
                        raise  # that one: it ended just now
            until = time.monotonic() + GO_S
            while _under_way(domain) == target:
                if time.monotonic() > until:
                    raise DriverError("The copy of the disk does not end.")
                time.sleep(0.02)
        self._forget(server_id, target)

    def _forget(self, server_id: str, target: Path) -> None:
        with self._lock:
            if self._begun.get(server_id, (None, 0.0))[0] == target:
                del self._begun[server_id]

    def _begin(self, server_id: str, domain: Any, element: ET.Element, target: Path) -> None:
        """Make an empty file of the disk's size and have it written."""
        name = xml.target_of(element)
        top = ET.Element("domainbackup", mode="push")
        disks = ET.SubElement(top, "disks")
        disk = ET.SubElement(disks, "disk", name=name, backup="yes", type="file")
        ET.SubElement(disk, "driver", type="qcow2")
        ET.SubElement(disk, "target", file=str(target))
        try:
            with telling("The disk could not be copied."):
                tools.create(target, domain.blockInfo(name)[0])
                self._owner.give(target, write=True)
                domain.backupBegin(
                    ET.tostring(top, encoding="unicode"),
                    None,
                    libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL,
                )
        except DriverError:
            self._forget(server_id, target)
            raise


def _worked(domain: Any) -> bool:
    """Tell whether the guest's last job worked; False when nobody knows: libvirtd ended meanwhile, or the guest.

    Raises DriverError when it failed.
    """
    with telling("The end of the copy cannot be seen."):
        stats = domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
    if stats.get("type", libvirt.VIR_DOMAIN_JOB_NONE) == libvirt.VIR_DOMAIN_JOB_NONE:
        return False
    if not stats.get("success", stats["type"] == libvirt.VIR_DOMAIN_JOB_COMPLETED):
        raise DriverError("The disk could not be copied.", stats=str(stats))
    return True


def _under_way(domain: Any) -> Path | None:
    """Return the file that a backup job of the guest writes now."""
    with telling("The jobs of the guest cannot be seen."):
        try:
            text = domain.backupGetXMLDesc(0)
        except libvirt.libvirtError as exc:
            if exc.get_error_code() in _NONE:
                return None
            raise
    for target in ET.fromstring(text).iterfind("disks/disk/target"):  # noqa: S314 - libvirt's own
        return Path(target.get("file", ""))
    return Path()
