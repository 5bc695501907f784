"""Orders about backups in folders (objects/volume_orders.py); which host performs them is all the same."""

from kilonova.agent.backup_folders import SCHEME, BackupFolders
from kilonova.agent.guests import Verbs, Work, payload_of
from kilonova.objects.base import Versioned
from kilonova.objects.order import Direction
from kilonova.objects.volume_orders import BackupCheck, BackupChecked, BackupRemove, VolumeGone
from kilonova.virt.driver import DriverError


class Backups:
    """Performs the orders backup_*."""

    def __init__(self, folders: BackupFolders) -> None:
        self._folders = folders

    def verbs(self) -> Verbs:
        """Return what this part can do."""
        return {
            ("backup_remove", Direction.DO): self._remove,
            ("backup_check", Direction.DO): self._check,
        }

    def _remove(self, work: Work) -> Versioned:
        gone = payload_of(work, BackupRemove)
        scheme, _, where = gone.url.partition(":")
        if scheme != SCHEME:
            raise DriverError("The backup is not in a folder.", scheme=scheme)
        return VolumeGone(existed=self._folders.remove(where))

    def _check(self, work: Work) -> Versioned:
        source = payload_of(work, BackupCheck).source
        return BackupChecked(size=self._folders.check(source, work.say))
