"""A host gives an image its bytes: a snapshot of a server's disk, a volume."""

import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

from kilonova.agent.backup_folders import SCHEME, BackupFolders
from kilonova.agent.images import PIECE, opener
from kilonova.common.errors import KilonovaError
from kilonova.virt.driver import DriverError, Progress
from kilonova.virt.volumes import SentFile

TakeImage = Callable[[str, Iterable[bytes]], object]  # ImageService.upload


class ImageSender:
    """Sends files: to ``image:<id>`` in this process, by PUT to a signed URL, into a backup folder (SendImage)."""

    def __init__(
        self,
        take: TakeImage | None = None,
        ca_file: Path | None = None,
        folders: BackupFolders | None = None,
    ) -> None:
        """take: gives ``image:<id>`` its bytes. ca_file: for https URLs."""
        self._take = take
        self._ca_file = ca_file
        self.folders = folders or BackupFolders()

    def __call__(self, url: str, path: Path, progress: Progress) -> SentFile | None:
        """Send a file. An image that has its bytes got them from an earlier try: that is fine. Raises DriverError."""
        scheme, _, rest = url.partition(":")
        if scheme == SCHEME:
            return self.folders.put(rest, path, progress)
        if scheme == "image" and self._take is not None:
            try:
                self._take(rest, _pieces(path, progress))
            except DriverError:
                raise
            except KilonovaError as exc:
                if exc.status != HTTPStatus.CONFLICT:
                    raise DriverError(exc.message, facts=str(exc.facts)) from exc
        elif scheme in ("http", "https"):
            self._put(url, path, progress)
        else:
            raise DriverError("This host cannot send the image where it shall go.", scheme=scheme)
        return None

    def _put(self, url: str, path: Path, progress: Progress) -> None:
        headers = {
            "Content-Length": str(path.stat().st_size),
            "Content-Type": "application/octet-stream",
        }
        request = urllib.request.Request(  # noqa: S310 - the scheme was looked at
            url, data=_pieces(path, progress), headers=headers, method="PUT"
        )
        try:
            opener(self._ca_file).open(request, timeout=60).close()
        except urllib.error.HTTPError as exc:
            exc.close()
            if exc.code != HTTPStatus.CONFLICT:
                raise DriverError("The image was not taken.", answer=exc.code) from exc
        except OSError as exc:
            shown = urllib.parse.urlsplit(url)._replace(query="").geturl()
            raise DriverError("The image could not be sent.", url=shown, error=str(exc)) from exc


class HostFiles(NamedTuple):
    """Where copies of guests' disks wait until they are images, and who sends them."""

    copies: Path
    send: ImageSender


def _pieces(path: Path, progress: Progress) -> Iterator[bytes]:
    done, size = 0, max(path.stat().st_size, 1)
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            progress(f"uploading the image: {100 * done // size} %")
            yield piece
            done += len(piece)
