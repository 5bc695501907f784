"""Orders about volumes' data on this host (objects/volume_orders.py): done with the host's store, and with the driver
where a guest of this host has the volume.

Every order is undone exactly: what was made goes, with what is left of making it.
"""

import functools
from collections.abc import Callable
from pathlib import Path

from kilonova.agent.backup_folders import SCHEME, BackupFolders
from kilonova.agent.guests import Verbs, Work, payload_of
from kilonova.objects.base import Versioned
from kilonova.objects.order import Direction
from kilonova.objects.volume_orders import (
    SnapshotMake,
    SnapshotRemove,
    VolumeExtend,
    VolumeGone,
    VolumeHeld,
    VolumeHold,
    VolumeMake,
    VolumeRemove,
    VolumeUpload,
)
from kilonova.virt.driver import GuestMissing, Progress
from kilonova.virt.volumes import Copy, VolumeStore
from kilonova.virt.whole import HostDriver


class Volumes:
    """Performs the orders volume_* and snapshot_*."""

    def __init__(self, driver: HostDriver, store: VolumeStore, folders: BackupFolders) -> None:
        self._driver = driver
        self._store = store
        self._folders = folders

    def verbs(self) -> Verbs:
        """Return what this part can do."""
        do, undo = Direction.DO, Direction.UNDO
        return {
            ("volume_make", do): self._make,
            ("volume_make", undo): self._remove,
            ("volume_remove", do): self._remove,
            ("volume_reimage", do): self._reimage,
            ("volume_reimage", undo): self._restore,
            ("volume_forget", do): self._forget_aside,
            ("volume_extend", do): self._extend,
            ("volume_hold", do): self._hold,
            ("volume_hold", undo): self._let_go,
            ("volume_show", do): self._show,
            ("snapshot_make", do): self._snapshot,
            ("snapshot_make", undo): self._remove_snapshot,
            ("snapshot_remove", do): self._remove_snapshot,
            ("volume_upload", do): self._upload,
            ("volume_upload", undo): self._forget_upload,
        }

    def _make(self, work: Work) -> Versioned:
        make = payload_of(work, VolumeMake)
        copy = self._copy_of(make.source_server_id, make.source_volid)
        return self._store.make(make, work.say, copy)

    def _remove(self, work: Work) -> Versioned:
        gone = payload_of(work, VolumeRemove)
        return VolumeGone(existed=self._store.remove(gone.volume_id, work.say))

    def _reimage(self, work: Work) -> Versioned:
        return self._store.reimage(payload_of(work, VolumeMake), work.say)

    def _restore(self, work: Work) -> Versioned:
        gone = payload_of(work, VolumeRemove)
        return VolumeGone(existed=self._store.restore_aside(gone.volume_id, work.say))

    def _forget_aside(self, work: Work) -> Versioned:
        gone = payload_of(work, VolumeRemove)
        return VolumeGone(existed=self._store.forget_aside(gone.volume_id))

    def _extend(self, work: Work) -> Versioned:
        """A guest that runs has the file in its hands: its driver lets it grow, the store finds it grown."""
        extend = payload_of(work, VolumeExtend)
        if extend.attached_to is not None:
            try:
                self._driver.extend_disk(extend.attached_to, extend.volume_id, extend.size_gib)
            except GuestMissing:
                work.say("the guest is gone")
        return self._store.extend(
            extend.volume_id, extend.size_gib, work.say, exported=extend.exported
        )

    def _hold(self, work: Work) -> Versioned:
        """A guest that is gone has nothing that could wait."""
        hold = payload_of(work, VolumeHold)
        return self._told(lambda: self._driver.hold_disk(hold.attached_to, hold.volume_id))

    def _let_go(self, work: Work) -> Versioned:
        hold = payload_of(work, VolumeHold)
        return self._told(lambda: self._driver.resume_disk(hold.attached_to, hold.volume_id, None))

    def _show(self, work: Work) -> Versioned:
        show = payload_of(work, VolumeExtend)
        server = str(show.attached_to)
        return self._told(lambda: self._driver.resume_disk(server, show.volume_id, show.size_gib))

    @staticmethod
    def _told(act: Callable[[], None]) -> VolumeHeld:
        try:
            act()
        except GuestMissing:
            return VolumeHeld(found=False)
        return VolumeHeld(found=True)

    def _snapshot(self, work: Work) -> Versioned:
        make = payload_of(work, SnapshotMake)
        copy = self._copy_of(make.attached_to, make.volume_id)
        return self._store.snapshot(make.volume_id, make.snapshot_id, work.say, copy)

    def _remove_snapshot(self, work: Work) -> Versioned:
        gone = payload_of(work, SnapshotRemove)
        return VolumeGone(existed=self._store.remove_snapshot(gone.snapshot_id, work.say))

    def _upload(self, work: Work) -> Versioned:
        upload = payload_of(work, VolumeUpload)
        writer = upload.attached_to if upload.snapshot_id is None else None
        copy = self._copy_of(writer, upload.volume_id)
        return self._store.upload(upload, work.say, copy)

    def _forget_upload(self, work: Work) -> Versioned:
        """An image is its service's to remove, a backup in a folder ours; the host's part is undone always."""
        upload = payload_of(work, VolumeUpload)
        self._store.forget_upload(upload)
        scheme, _, where = upload.url.partition(":")
        return VolumeGone(existed=scheme == SCHEME and self._folders.forget(where))

    def _copy_of(self, server_id: str | None, volume_id: str | None) -> Copy | None:
        """Return how to copy a volume that a guest of this host has; None when no guest here has it."""
        if server_id is None or volume_id is None:
            return None
        if volume_id not in self._driver.disk_serials(server_id):
            return None
        return functools.partial(self._copy, server_id, volume_id)

    def _copy(self, server_id: str, volume_id: str, target: Path, progress: Progress) -> None:
        self._driver.copy_disk(server_id, volume_id, target, progress)
