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
from kilonova.virt.driver import DriverError


class GuestImages:
    """Copies and uploads of one host."""

    def __init__(self, bench: Bench, files: HostFiles) -> None:
        self._driver = bench.driver
        self._files = files
        files.copies.mkdir(mode=0o700, parents=True, exist_ok=True)

    def verbs(self) -> Verbs:
        """Return what this part performs."""
        return {
            ("guest_snapshot", Direction.DO): self._copy,
            ("guest_snapshot", Direction.UNDO): self._drop,
            ("image_upload", Direction.DO): self._upload,
        }

    def _copy(self, work: Work) -> Versioned:
        what = payload_of(work, GuestSnapshot)
        done, part = self._path(what.file), self._path(what.file).with_suffix(".part")
        if not work.notes:
            self._driver.end_copy(what.server_id, part)
            self._remove(what.file)  # of a life of this agent that ended in between
            work.notes["began"] = True
        try:
            made = self._driver.snapshot(what.server_id, what.serial, part, what.quiesce, work.say)
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

    def _drop(self, work: Work) -> Versioned:
        what = payload_of(work, GuestSnapshot)
        self._driver.end_copy(what.server_id, self._path(what.file).with_suffix(".part"))
        self._remove(what.file)
        return ImageUploaded(size=0)

    def _upload(self, work: Work) -> Versioned:
        what = payload_of(work, ImageUpload)
        path = self._path(what.file)
        size = (
            path.stat().st_size if path.exists() else 0
        )  # gone: its image has it, or none ever will
        self._files.send(what.url, path, work.say)
        path.unlink(missing_ok=True)
        return ImageUploaded(size=size)

    def _path(self, file: str) -> Path:
        if not is_uuid(file):
            raise DriverError("The order names a file that cannot be.", file=file)
        return self._files.copies / f"{file}.img"

    def _remove(self, file: str) -> None:
        path = self._path(file)
        path.unlink(missing_ok=True)
        path.with_suffix(".part").unlink(missing_ok=True)
