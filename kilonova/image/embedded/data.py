"""Image bytes on disk: received piece by piece, checked, put in place by one rename, never shared while half there.

``parts/`` uploads under way · ``staged/`` complete files that wait for import · ``images/`` what is active. All 0700;
files are called by ids of ours only. A file counts when a record says so: everything else is swept at start.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Self

from kilonova.common.clock import Clock
from kilonova.common.errors import BadRequest, KilonovaError, NotFound, TooLarge
from kilonova.common.ids import is_uuid

PIECE = 1 << 20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Received(NamedTuple):
    """A part that is complete and on disk. size: bytes; the digests are hex."""

    path: Path
    size: int
    md5: str
    sha512: str


class Pace(NamedTuple):
    """How slow an upload may be: after grace_s seconds, at least bytes_per_s on average."""

    grace_s: float = 60.0
    bytes_per_s: float = 1024.0


PACE = Pace()


class OpenData:
    """Bytes of an image being read, or a range of them; a deleted image can still be read to its end."""

    def __init__(self, fd: int, start: int, size: int) -> None:
        self._fd = fd
        self._at = start
        self._end = start + size
        self.size = size

    def read(self, size: int = -1) -> bytes:
        left = self._end - self._at
        want = min(left, size if size >= 0 else left)
        if want <= 0 or self._fd < 0:
            return b""
        data = os.pread(self._fd, want, self._at)
        self._at += len(data)
        return data

    def __iter__(self) -> Iterator[bytes]:
        while data := self.read(PIECE):
            yield data

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class Files:
    """The files of one embedded image service. root: made 0700 when missing; refused when it is somebody else's."""

    def __init__(self, root: Path, clock: Clock, pace: Pace = PACE) -> None:
        self.root = root
        self.clock = clock
        self.pace = pace
        self.parts, self.staged, self.images = (root / n for n in ("parts", "staged", "images"))
        for folder in (root, self.parts, self.staged, self.images):
            folder.mkdir(mode=0o700, parents=folder is root, exist_ok=True)
            info = os.stat(folder, follow_symlinks=False)
            if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
                raise KilonovaError("the image directory is not ours", path=str(folder))
            os.chmod(folder, 0o700)

    def path(self, image_id: str) -> Path:
        """Return where an active image's bytes are."""
        return self.images / _name(image_id)

    def staged_path(self, image_id: str) -> Path:
        """Return where bytes wait for import."""
        return self.staged / _name(image_id)

    def receive(
        self,
        image_id: str,
        token: str,
        pieces: Iterable[bytes],
        length: int | None,
        take: Callable[[int], None],
    ) -> Received:
        """Write a part to disk as it comes; on any failure nothing stays.

        length: bytes announced, None if not. take(n): asked before each piece of n bytes is kept; raises to refuse.
        Raises TooLarge when the disk is full, BadRequest when the sender breaks off or is too slow.
        """
        path = self.parts / f"{_name(image_id)}.{_name(token)}"
        md5, sha512 = hashlib.md5(usedforsecurity=False), hashlib.sha512()
        size, began = 0, self.clock.monotonic()
        fd = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        try:
            for piece in _guarded(pieces):
                take(len(piece))
                _write(fd, piece)
                md5.update(piece)
                sha512.update(piece)
                size += len(piece)
                self._check_pace(size, self.clock.monotonic() - began)
            if length is not None and size != length:
                raise BadRequest(
                    f"The upload broke off: {size} of {length} bytes came. Nothing was kept."
                )
            _flush(fd)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)
        return Received(path, size, md5.hexdigest(), sha512.hexdigest())

    def _check_pace(self, size: int, elapsed_s: float) -> None:
        if elapsed_s > self.pace.grace_s and size / elapsed_s < self.pace.bytes_per_s:
            raise BadRequest(
                f"The upload is too slow: {size} bytes in {elapsed_s:.0f} s. Nothing was kept."
            )

    def put(self, source: Path, target: Path) -> None:
        """Rename into place, and make that durable. Repeating it after it worked is an OSError."""
        os.rename(source, target)
        for folder in {source.parent, target.parent}:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def open(self, image_id: str, start: int = 0, size: int | None = None) -> OpenData:
        """Open an active image's bytes, or ``size`` of them from ``start``; NotFound when there are none."""
        try:
            fd = os.open(self.path(image_id), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError as exc:
            raise NotFound(f"No image data found for image {image_id}") from exc
        there = os.fstat(fd).st_size
        start = min(start, there)
        return OpenData(fd, start, there - start if size is None else min(size, there - start))

    def remove(self, image_id: str) -> None:
        """Remove what is kept of an image, staged and active; fine when there is nothing."""
        self.path(image_id).unlink(missing_ok=True)
        self.staged_path(image_id).unlink(missing_ok=True)

    def sweep(self, active: set[str], staged: set[str]) -> list[str]:
        """Remove every file that no record stands behind; return their names. Only at start: no upload may run."""
        removed: list[str] = []
        for folder, keep in ((self.parts, set()), (self.staged, staged), (self.images, active)):
            with os.scandir(folder) as found:
                for entry in found:
                    if entry.name not in keep and not entry.is_dir(follow_symlinks=False):
                        os.unlink(entry.path)
                        removed.append(entry.name)
        return removed


def _name(text: str) -> str:
    """Return an id as a file name; anything that is not an id is a bug of ours (RELIABILITY S15)."""
    if not is_uuid(text):
        raise ValueError("file names are made of ids only")
    return text


def _guarded(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Pass pieces on; turn the sender's network errors into an answer."""
    source = iter(pieces)
    while True:
        try:
            piece = next(source)
        except StopIteration:
            return
        except OSError as exc:
            raise BadRequest("The upload broke off. Nothing was kept.") from exc
        yield piece


def _write(fd: int, piece: bytes) -> None:
    view = memoryview(piece)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except OSError as exc:
        raise _no_room(exc) from exc


def _flush(fd: int) -> None:
    try:
        os.fsync(fd)
    except OSError as exc:
        raise _no_room(exc) from exc


def _no_room(exc: OSError) -> KilonovaError:
    if exc.errno in _NO_ROOM:
        return TooLarge("There is not enough room for the image. Nothing was kept.", error=str(exc))
    return KilonovaError("The image could not be written. Nothing was kept.", error=str(exc))
