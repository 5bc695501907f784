"""Which kinds of orders a host performs beyond building, deleting and powering guests: one line per part."""

from kilonova.agent.backup_folders import BackupFolders
from kilonova.agent.backups import Backups
from kilonova.agent.guest_checks import GuestChecks
from kilonova.agent.guest_disks import GuestDisks
from kilonova.agent.guest_images import CopyFiles, GuestImages
from kilonova.agent.guest_live import GuestLive
from kilonova.agent.guest_moves import DiskMoves, GuestMoves
from kilonova.agent.guest_nics import GuestNics
from kilonova.agent.guest_remaking import GuestRemakes
from kilonova.agent.guest_resize import GuestResizes
from kilonova.agent.guest_tools import GuestTools
from kilonova.agent.guests import Bench, Part
from kilonova.agent.volumes import Volumes


def parts_of(bench: Bench) -> list[Part]:
    """Return the parts of one host."""
    parts: list[Part] = [GuestNics(bench), GuestDisks(bench), GuestResizes(bench)]
    parts += [GuestRemakes(bench), GuestTools(bench), GuestMoves(bench), GuestLive(bench)]
    parts.append(GuestChecks(bench))
    folders = BackupFolders() if bench.files is None else bench.files.send.folders
    parts.append(Backups(folders))
    if bench.volumes is not None:
        parts.append(Volumes(bench.driver, bench.volumes, folders))
    if bench.files is not None:
        copies = CopyFiles(bench, bench.files)
        parts += [GuestImages(copies), DiskMoves(copies)]
    return parts
