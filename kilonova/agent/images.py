"""A host's cache of base images: checked, converted to qcow2, named by checksum and by the checker's version.

A file in the cache is complete and never changes; what is being made has another name and is never taken up again.
A guest gets a hard link of its own, so taking an image out of the cache takes nothing from a guest; an image with a
link elsewhere is in use and stays.
"""

import hashlib
import os
import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from kilonova.common.errors import KilonovaError
from kilonova.common.ids import new_hex
from kilonova.common.log import get_logger
from kilonova.objects.guest import ImageSource
from kilonova.virt.driver import Again, DriverError, Progress

log = get_logger(__name__)
PIECE = 1 << 20
SHARE_S = 0.3
_HASHES = frozenset({"sha512", "sha384", "sha256", "sha224", "sha1", "md5"})
_PARTIAL = ".part-"
CHECKER = (
    "1"  # raise it when the inspector learns to refuse more: old conversions are then made again
)


class Reader(Protocol):
    """Bytes of an image."""

    def read(self, size: int = -1, /) -> bytes: ...


class CachedImage(NamedTuple):
    """A base image in the cache. virtual_size: bytes of the disk inside."""

    path: Path
    virtual_size: int


OpenImage = Callable[[str], AbstractContextManager[Reader]]
Convert = Callable[[Path, str, Path, int | None], Any]  # safe_convert.convert_to_qcow2


class ImageCache:
    """Downloads, checks and keeps base images in one directory. Safe from any thread of one process."""

    def __init__(
        self,
        directory: Path,
        convert: Convert,
        *,
        open_image: OpenImage | None = None,
        limit_bytes: int = 20 << 30,
        group: int | None = None,
        ca_file: Path | None = None,
    ) -> None:
        """convert: checks and converts (source, format, target, largest virtual size), returns what has a virtual_size.

        open_image: reads ``image:<id>`` in this process. limit_bytes: unused images beyond it are dropped, the longest
        unused first. group: numeric group that may read the images. ca_file: for https URLs.
        """
        self._dir = directory
        self._convert = convert
        self._open_image = open_image
        self._limit = limit_bytes
        self._group = group
        self._ca_file = ca_file
        self.open_folder: OpenImage | None = None
        """Who has folders of backups opens what is in them here (agent/backup_folders.py)."""
        self._lock = threading.Lock()
        self._under_way: set[str] = set()
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o711)
        for left in directory.glob(f"{_PARTIAL}*"):
            left.unlink()

    def link(self, source: ImageSource, target: Path, progress: Progress) -> CachedImage:
        """Give ``target``, a hard link to the image in the cache, which is fetched first if it is not there.

        Raises Again while another build fetches the same image; DriverError when it cannot be had or is not what its
        record says. Repeatable.
        """
        name = self._name(source)
        for _ in range(3):
            found = self._fetch(source, name, progress)
            try:
                os.link(found.path, target)
            except FileExistsError:
                if os.path.samefile(found.path, target):
                    return found._replace(path=target)
                target.unlink()  # a link of an earlier try, to another conversion
            except FileNotFoundError:
                continue  # dropped in between
            else:
                self.prune()
                return found._replace(path=target)
        raise DriverError("The image could not be kept on the host.", elsewhere=True, image=name)

    def fetch(self, source: ImageSource, target: Path, progress: Progress) -> None:
        """Make ``target`` the image's own file, checked as one that is kept would be; one that is there is made anew.

        What a conversion would lose is in it still: which parts of a disk it says nothing of (incremental backups).
        """
        made = self._dir / f"{_PARTIAL}{new_hex()}"
        target.unlink(missing_ok=True)
        try:
            self._download(source, target, progress)
            progress("checking the image")
            self._convert(target, source.disk_format, made, None)
        except KilonovaError as exc:
            target.unlink(missing_ok=True)
            if isinstance(exc, DriverError):
                raise
            raise DriverError(exc.message, elsewhere=exc.retryable, facts=str(exc.facts)) from exc
        finally:
            made.unlink(missing_ok=True)

    def virtual_size(self, source: ImageSource) -> int | None:
        """Return the size in bytes of the disk inside a cached image, None when it is not cached."""
        path = self._dir / self._name(source)
        return _virtual_size(path) if path.exists() else None

    def size(self) -> int:
        """Return how many bytes the cache takes."""
        return sum(s.st_blocks * 512 for _, s in self._files())

    def prune(self) -> list[str]:
        """Drop unused images, the longest unused first, until the limit is kept; return their names."""
        with self._lock:
            files = self._files()
            total = sum(s.st_blocks * 512 for _, s in files)
            dropped = []
            for path, stat in sorted(files, key=lambda f: f[1].st_mtime):
                if total <= self._limit:
                    break
                if stat.st_nlink > 1 or path.name in self._under_way:
                    continue
                path.unlink(missing_ok=True)
                total -= stat.st_blocks * 512
                dropped.append(path.name)
        return dropped

    # -- parts

    def _name(self, source: ImageSource) -> str:
        algo, value = source.hash_algo or "", (source.hash_value or "").lower()
        if algo in _HASHES and re.fullmatch(r"[0-9a-f]{32,128}", value):
            known = f"{algo}-{value}"
        else:
            text = f"{source.image_id} {source.size} {source.disk_format}"
            known = "id-" + hashlib.sha256(text.encode()).hexdigest()
        kind = re.sub(r"[^a-z0-9]", "", source.disk_format.lower())
        return f"{known}-{kind}-{CHECKER}.qcow2"

    def _fetch(self, source: ImageSource, name: str, progress: Progress) -> CachedImage:
        path = self._dir / name
        with self._lock:
            if path.exists():
                os.utime(path)
                return CachedImage(path, _virtual_size(path))
            if name in self._under_way:
                waits = True
            else:
                waits = False
                self._under_way.add(name)
        if waits:
            progress("another server fetches the image")
            raise Again(SHARE_S)
        try:
            self._make(source, path, progress)
            found = CachedImage(path, _virtual_size(path))
        finally:
            with self._lock:
                self._under_way.discard(name)
        return found

    def _make(self, source: ImageSource, path: Path, progress: Progress) -> None:
        raw = self._dir / f"{_PARTIAL}{new_hex()}"
        made = self._dir / f"{_PARTIAL}{new_hex()}"
        try:
            self._download(source, raw, progress)
            progress("checking the image")
            self._convert(raw, source.disk_format, made, None)
            made.chmod(0o440)
            if self._group is not None:
                os.chown(made, -1, self._group)
            os.replace(made, path)
        except OSError as exc:
            raise DriverError(
                "The host has no room for the image.", elsewhere=True, error=str(exc)
            ) from exc
        except DriverError:
            raise
        except KilonovaError as exc:
            raise DriverError(exc.message, elsewhere=exc.retryable, facts=str(exc.facts)) from exc
        finally:
            raw.unlink(missing_ok=True)
            made.unlink(missing_ok=True)

    def _download(self, source: ImageSource, target: Path, progress: Progress) -> None:
        """Write the image's bytes; size and hash are compared on the way, and not one byte more is taken."""
        algo = source.hash_algo if source.hash_algo in _HASHES else None
        digest = hashlib.new(algo, usedforsecurity=False) if algo and source.hash_value else None
        done = 0
        with self._open(source) as reader, target.open("xb") as file:
            os.fchmod(file.fileno(), 0o600)
            while piece := reader.read(PIECE):
                done += len(piece)
                if done > source.size:
                    raise DriverError("The image is longer than its record says.", size=source.size)
                if digest is not None:
                    digest.update(piece)
                file.write(piece)
                progress(f"downloading the image: {100 * done // max(source.size, 1)} %")
            file.flush()
        if done != source.size:
            raise DriverError(
                "The image ended early.", elsewhere=True, size=source.size, received=done
            )
        if digest is not None and digest.hexdigest() != (source.hash_value or "").lower():
            raise DriverError("The image's checksum is wrong.", image=source.image_id)

    def _open(self, source: ImageSource) -> AbstractContextManager[Reader]:
        scheme, _, rest = source.url.partition(":")
        if scheme == "image" and self._open_image is not None:
            try:
                return self._open_image(rest)
            except KilonovaError as exc:
                raise DriverError("The image cannot be read.", why=exc.message) from exc
        if scheme == "folder" and self.open_folder is not None:
            return self.open_folder(rest)
        if scheme not in ("http", "https"):
            raise DriverError("This host cannot read the image from where it is.", scheme=scheme)
        try:
            opened: AbstractContextManager[Reader] = opener(self._ca_file).open(
                source.url, timeout=60
            )
        except (urllib.error.URLError, OSError) as exc:
            shown = urllib.parse.urlsplit(source.url)._replace(query="").geturl()
            raise DriverError(
                "The image could not be downloaded.", elsewhere=True, url=shown, error=str(exc)
            ) from exc
        return opened

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        found = []
        for path in self._dir.glob("*.qcow2"):
            try:
                found.append((path, path.stat()))
            except FileNotFoundError:
                continue
        return found


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kw: Any) -> None:
        """A signed URL points at the bytes themselves; a redirect could point anywhere."""


def opener(ca_file: Path | None) -> urllib.request.OpenerDirector:
    """Return what opens http and https URLs, without following redirects."""
    import ssl

    context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=context),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _NoRedirect(),
    ):
        opener.add_handler(handler)
    return opener


def _virtual_size(path: Path) -> int:
    """Return the disk size in the header of a qcow2 file of ours. source: QEMU docs, interop/qcow2: bytes 24-31."""
    with path.open("rb") as file:
        head = file.read(32)
    if len(head) < 32 or head[:4] != b"QFI\xfb":
        raise DriverError("A file in the image cache is damaged.", path=str(path))
    return int.from_bytes(head[24:32], "big")
