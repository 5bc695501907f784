"""Orders about images made of guests' disks: copy a disk to a file of this host, give the file to the image service.

A copy is named by its order, complete when it has its name, and removed by the upload that takes it or by an undo.
"""

from pathlib import Path

from kilonova.agent.guests import Bench, Verbs, Work, payload_of
from kilonova.agent.uploads import HostFiles
from kilonova.common.errors import KilonovaError
from kilonova.common.ids import is_uuid
from kilonova.objects.base import Versioned
from kilonova.objects.image_orders import (
    GuestSnapshot,
    ImageUpload,
    ImageUploaded,
    SnapshotTaken,
)
from kilonova.objects.order import Direction
from kilonova.virt.driver import DriverError, Progress


class CopyFiles:
    """The files that copies of guests' disks are, until they are images."""

    def __init__(self, bench: Bench, files: HostFiles) -> None:
        self._driver = bench.driver
        self._files = files

    def copy(
        self, what: GuestSnapshot, progress: Progress, *, first: bool, begun: set[str]
    ) -> SnapshotTaken:
        """Copy a disk to its file. first: this life of the agent has not begun it; then it is noted in ``begun``.

        Raises Again while it copies, DriverError: no room, or what the driver says.
        """
        done, part = self._path(what.file), self._path(what.file).with_suffix(".part")
        if first:
            self._files.copies.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.drop(what.server_id, what.file)  # of a life of this agent that ended in between
            begun.add(what.serial)
        try:
            made = self._driver.snapshot(what.server_id, what.serial, part, what.quiesce, progress)
            part.replace(done)
        except OSError as exc:
            self._driver.end_copy(what.server_id, part)
            part.unlink(missing_ok=True)
            raise DriverError(
                "The host has no room for a copy of the disk.", error=str(exc)
            ) from exc
        except KilonovaError:
            self._driver.end_copy(what.server_id, part)
            raise
        return SnapshotTaken(
            disk_format=made.disk_format,
            container_format=made.container_format,
            size=done.stat().st_size,
            virtual_size=made.virtual_size,
        )

    def drop(self, server_id: str, file: str) -> None:
        """End a copy that is under way and remove its files; fine when there are none."""
        path = self._path(file)
        self._driver.end_copy(server_id, path.with_suffix(".part"))
        path.unlink(missing_ok=True)
        path.with_suffix(".part").unlink(missing_ok=True)

    def send(self, file: str, url: str, progress: Progress) -> int:
        """Give an image a file's bytes and remove the file; return its size, 0 when it is gone: its image has it."""
        path = self._path(file)
        size = path.stat().st_size if path.exists() else 0
        self._files.send(url, path, progress)
        path.unlink(missing_ok=True)
        return size

    def _path(self, file: str) -> Path:
        if not is_uuid(file):
            raise DriverError("The order names a file that cannot be.", file=file)
        return self._files.copies / f"{file}.img"


class GuestImages:
    """Copies and uploads of one host."""

    def __init__(self, files: CopyFiles) -> None:
        self._files = files

    def verbs(self) -> Verbs:
        """Return what this part performs."""
        return {
            ("guest_snapshot", Direction.DO): self._copy,
            ("guest_snapshot", Direction.UNDO): self._drop,
            ("image_upload", Direction.DO): self._upload,
        }

    def _copy(self, work: Work) -> Versioned:
        what = payload_of(work, GuestSnapshot)
        begun: set[str] = work.notes.setdefault("begun", set())
        return self._files.copy(what, work.say, first=what.serial not in begun, begun=begun)

    def _drop(self, work: Work) -> Versioned:
        what = payload_of(work, GuestSnapshot)
        self._files.drop(what.server_id, what.file)
        return ImageUploaded(size=0)

    def _upload(self, work: Work) -> Versioned:
        what = payload_of(work, ImageUpload)
        return ImageUploaded(size=self._files.send(what.file, what.url, work.say))
