"""The part of the libvirt driver that copies disks for images."""

from pathlib import Path
from typing import Any

from kilonova.common.log import get_logger
from kilonova.objects.image_orders import Quiesce
from kilonova.virt.driver import DriverError, Progress
from kilonova.virt.libvirt import guest_tools
from kilonova.virt.libvirt.domains import is_active
from kilonova.virt.libvirt.guest_disks import LibvirtDisks
from kilonova.virt.snapshots import Copied

log = get_logger(__name__)


class Snapshots(LibvirtDisks):
    """Copies of the disks of guests that are there."""

    def snapshot(
        self, server_id: str, serial: str, target: Path, quiesce: Quiesce, progress: Progress
    ) -> Copied:
        """Copy a disk. The guest's file systems are held for the first call, which takes the moment."""
        domain = self._found(server_id)
        held = not target.exists() and is_active(domain) and _hold(domain, quiesce)
        try:
            self.copy_disk(server_id, serial, target, progress)
        finally:
            if held:
                guest_tools.thaw(domain)
        with target.open("rb") as file:  # QEMU docs, interop/qcow2: bytes 24-31
            head = file.read(32)
        return Copied("qcow2", "bare", int.from_bytes(head[24:32], "big"))


def _hold(domain: Any, quiesce: Quiesce) -> bool:
    """Hold a guest's file systems as asked; tell whether they are held."""
    if quiesce not in (Quiesce.TRY, Quiesce.REQUIRE):
        return False
    try:
        guest_tools.freeze(domain)
    except DriverError as exc:
        if quiesce == Quiesce.REQUIRE:
            raise
        log.info("a guest's file systems are not held", extra={"facts": str(exc.facts)})
        return False
    return True
