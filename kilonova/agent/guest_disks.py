"""Orders that give a guest a volume and take it out again; the metadata document's devices follow.

An attach is undone by a detach, a detach by an attach. A guest that does not let go of a disk keeps the order waiting
(Again) until it does, or until somebody newer wants the guest.
"""

import contextlib

from kilonova.agent.guests import Bench, Verbs, Work, payload_of, public
from kilonova.objects.base import Versioned
from kilonova.objects.guest import (
    GuestAttachDisk,
    GuestDetachDisk,
    GuestDevices,
    SwapPart,
)
from kilonova.objects.order import Direction
from kilonova.virt.driver import GuestMissing


class GuestDisks:
    """Performs guest_attach_disk, guest_detach_disk and guest_swap_disk."""

    def __init__(self, bench: Bench) -> None:
        self._driver = bench.driver
        self._metadata = bench.metadata

    def verbs(self) -> Verbs:
        """Return what this part can do."""
        return {
            ("guest_attach_disk", Direction.DO): self._attach,
            ("guest_attach_disk", Direction.UNDO): self._detach,
            ("guest_detach_disk", Direction.DO): self._detach,
            ("guest_detach_disk", Direction.UNDO): self._attach,
            ("guest_swap_disk", Direction.DO): self._swap,
            ("guest_swap_disk", Direction.UNDO): self._swap_back,
        }

    def _swap(self, work: Work) -> Versioned:
        """A guest that is gone has what its record says when it starts again: fine once that is decided."""
        wanted = payload_of(work, GuestAttachDisk)
        server, disk = wanted.server_id, wanted.disk
        if wanted.swap == SwapPart.COPY:
            self._driver.mirror_disk(server, disk, work.say)
            return GuestDevices(devices=self._driver.devices(server))
        over = wanted.swap == SwapPart.OVER
        try:
            self._driver.swap_disk(server, disk, work.say, decided=over)
        except GuestMissing:
            if not over:
                raise
        return GuestDevices(devices=self._driver.devices(server))

    def _swap_back(self, work: Work) -> Versioned:
        """A guest that is gone, or off, has what its record says when it starts again."""
        wanted = payload_of(work, GuestAttachDisk)
        with contextlib.suppress(GuestMissing):
            self._driver.swap_disk(wanted.server_id, wanted.disk, work.say)
        return GuestDevices(devices=self._driver.devices(wanted.server_id))

    def _attach(self, work: Work) -> Versioned:
        wanted = payload_of(work, GuestAttachDisk)
        if wanted.metadata is not None and not work.notes:
            self._metadata.put(public(wanted.metadata), None)
            work.notes["metadata"] = True
        devices = self._driver.attach_disk(wanted.server_id, wanted.disk, work.say)
        for device in devices:
            if device.serial == wanted.disk.serial:
                self._metadata.plugged(wanted.server_id, device)
        return GuestDevices(devices=devices)

    def _detach(self, work: Work) -> Versioned:
        """A guest that is gone has no disk; that is fine."""
        unwanted = payload_of(work, GuestDetachDisk)
        self._driver.detach_disk(unwanted.server_id, unwanted.serial, work.say)
        self._metadata.unplugged(unwanted.server_id, unwanted.serial)
        if unwanted.metadata is not None:
            self._metadata.put(public(unwanted.metadata), None)
        return GuestDevices(devices=self._driver.devices(unwanted.server_id))
