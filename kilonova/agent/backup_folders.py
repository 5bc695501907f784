"""Backups of volumes as files of a folder, a mount that many hosts have perhaps: whole under its name, or not there.

FOLDER/kilonova-backups   a UUID: which folder it is, and that it is mounted; an operator writes it
FOLDER/<backup>.qcow2     0600
FOLDER/<backup>.part      what is being written; never taken up again

URLs are ``folder:<folder>/<backup>``, two UUIDs; without the first it is the folder that new backups go to. Everything
is opened below the folder's own descriptor, and no symbolic link is followed.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from kilonova.common.errors import KilonovaError
from kilonova.common.ids import is_uuid
from kilonova.common.log import get_logger
from kilonova.objects.guest import ImageSource
from kilonova.virt.driver import DriverError, Progress
from kilonova.virt.volumes import SentFile

log = get_logger(__name__)
MARKER = "kilonova-backups"
SCHEME = "folder"
PIECE = 1 << 20
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_GONE = "The backup's data are gone."


class _Folder(NamedTuple):
    """A folder that is open. fd: its descriptor. id: of its marker."""

    fd: int
    id: str


class FolderFile:
    """A backup that is read."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, size: int = -1, /) -> bytes:
        """Return at most so many bytes, b"" at the end. DriverError: the mount went away, say."""
        try:
            return os.read(self._fd, PIECE if size < 0 else size)
        except OSError as exc:
            raise DriverError("The backup could not be read.", error=str(exc)) from exc


class BackupFolders:
    """The folders of one host. Safe from any thread; every method may be repeated."""

    def __init__(self, written: Path | None = None, before: Sequence[Path] = ()) -> None:
        """written: where new backups go, None: nowhere. before: where there are older ones. Says what is wrong now."""
        self._written = written
        self._all = [*([] if written is None else [written]), *before]
        for path in self._all:
            try:
                os.close(_open(path).fd)
            except DriverError as exc:
                log.warning("a backup folder", extra={"why": exc.message, "path": str(path)})

    def put(self, where: str, file: Path, progress: Progress) -> SentFile:
        """Write a backup; one of the same id is replaced. DriverError: no room, no folder; then it is not there."""
        folder, backup = _parts(where)
        with self._opened(folder) as found:
            try:
                digest = _write(found.fd, backup, file, progress)
                os.rename(_part(backup), _name(backup), src_dir_fd=found.fd, dst_dir_fd=found.fd)
                os.fsync(found.fd)
            except OSError as exc:
                _drop_part(found.fd, backup)
                full = exc.errno in _FULL
                raise DriverError(
                    "The backup folder has no room."
                    if full
                    else "The backup could not be written.",
                    error=str(exc),
                ) from exc
            except KilonovaError:
                _drop_part(found.fd, backup)
                raise
        return SentFile(f"{found.id}/{backup}", digest)

    @contextmanager
    def open(self, where: str) -> Iterator[FolderFile]:
        """Read a backup. DriverError: it is not there, or no plain file."""
        folder, backup = _parts(where)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with self._opened(folder) as found:
            try:
                fd = os.open(_name(backup), flags, dir_fd=found.fd)
            except FileNotFoundError as exc:
                raise DriverError(_GONE, backup=backup) from exc
            except OSError as exc:
                raise DriverError("The backup could not be read.", error=str(exc)) from exc
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise DriverError("The backup's data are not a file.", backup=backup)
            yield FolderFile(fd)
        finally:
            os.close(fd)

    def check(self, source: ImageSource, progress: Progress) -> int:
        """Read a whole backup and return its size in bytes. DriverError: it is not what its record says."""
        scheme, _, where = source.url.partition(":")
        if scheme != SCHEME:
            raise DriverError("The backup is not in a folder.", scheme=scheme)
        digest, done = hashlib.sha512(), 0
        with self.open(where) as file:
            while piece := file.read(PIECE):
                progress(f"reading the backup: {100 * done // max(source.size, 1)} %")
                digest.update(piece)
                done += len(piece)
        if done != source.size:
            raise DriverError("The backup's data are cut off, or longer than they were.", size=done)
        if digest.hexdigest() != source.hash_value:
            raise DriverError("The backup's checksum is wrong.", backup=source.image_id)
        return done

    def remove(self, where: str) -> bool:
        """Remove a backup and what is left of writing it; tell whether there was one."""
        folder, backup = _parts(where)
        with self._opened(folder) as found:
            try:
                existed = _drop(found.fd, _name(backup))
                _drop(found.fd, _part(backup))
                os.fsync(found.fd)
            except OSError as exc:
                raise DriverError("The backup could not be removed.", error=str(exc)) from exc
        return existed

    def forget(self, where: str) -> bool:
        """Remove what an upload that was given up wrote; where there is no folder there is nothing."""
        return bool(self._all) and self.remove(where)

    @contextmanager
    def _opened(self, folder: str) -> Iterator[_Folder]:
        found = self._open(folder)
        try:
            yield found
        finally:
            os.close(found.fd)

    def _open(self, folder: str) -> _Folder:
        """Open the folder of an id, or the one that is written. DriverError says which of it is missing."""
        if not folder:
            if self._written is None:
                raise DriverError("This host has no backup folder.")
            return _open(self._written)
        failure: DriverError | None = None
        for path in self._all:
            try:
                found = _open(path)
            except DriverError as exc:
                failure = exc
                continue
            if found.id == folder:
                return found
            os.close(found.fd)
        if failure is not None:
            raise failure
        raise DriverError("The backup is in a folder that this host does not have.", folder=folder)


def _open(path: Path) -> _Folder:
    """Open a folder and read its marker through the same descriptor: a mount that goes meanwhile is not left unseen."""
    if os.path.realpath(path) != os.path.normpath(path):
        raise DriverError("The backup folder's path has symbolic links.", path=str(path))
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(path, flags)
    except OSError as exc:
        raise DriverError(
            "The backup folder is not there.", path=str(path), error=str(exc)
        ) from exc
    try:
        return _Folder(fd, _marker(fd, path))
    except DriverError:
        os.close(fd)
        raise


def _marker(fd: int, path: Path) -> str:
    try:
        marker = os.open(
            MARKER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd
        )
    except OSError as exc:
        raise DriverError(
            "The backup folder has no marker: it is not mounted, or new.",
            path=str(path),
            error=str(exc),
            new=f"cat /proc/sys/kernel/random/uuid > {path / MARKER}",
        ) from exc
    try:
        text = os.read(marker, 100).decode(errors="replace").strip().lower()
    except OSError as exc:
        raise DriverError("The backup folder's marker cannot be read.", error=str(exc)) from exc
    finally:
        os.close(marker)
    if not is_uuid(text):
        raise DriverError("The backup folder's marker is not a UUID.", path=str(path))
    return text


def _parts(where: str) -> tuple[str, str]:
    """Return (folder, backup) of what a URL says; neither can be anything but an id."""
    folder, _, backup = where.partition("/")
    if not is_uuid(backup) or (folder and not is_uuid(folder)):
        raise DriverError("The backup's place is not one.", where=where[:200])
    return folder.lower(), backup.lower()


def _name(backup: str) -> str:
    return f"{backup}.qcow2"


def _part(backup: str) -> str:
    return f"{backup}.part"


def _write(fd: int, backup: str, file: Path, progress: Progress) -> str:
    """Write the part, on the disk when this returns; return its SHA-512."""
    digest, done, size = hashlib.sha512(), 0, max(file.stat().st_size, 1)
    _drop(fd, _part(backup))
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    target = os.open(_part(backup), flags, 0o600, dir_fd=fd)
    with file.open("rb") as source, open(target, "wb") as out:
        while piece := source.read(PIECE):
            progress(f"writing the backup: {100 * done // size} %")
            digest.update(piece)
            out.write(piece)
            done += len(piece)
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()


def _drop(fd: int, name: str) -> bool:
    try:
        os.unlink(name, dir_fd=fd)
    except FileNotFoundError:
        return False
    return True


def _drop_part(fd: int, backup: str) -> None:
    with suppress(OSError):  # the mount is away, say: the undo removes it when it is back
        _drop(fd, _part(backup))
