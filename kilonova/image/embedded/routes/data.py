"""Bytes: upload and download (/file), stage and import. Nothing is buffered: pieces of 1 MiB go straight through."""

import re
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any, BinaryIO

from kilonova.common.errors import BadRequest, Forbidden, KilonovaError, UnsupportedMedia
from kilonova.http.request import Request, Response
from kilonova.http.routing import Route
from kilonova.image.embedded import rules
from kilonova.image.embedded.data import PIECE, OpenData
from kilonova.image.embedded.store import EmbeddedImages

_ONE = "/v2/images/{image_id}"
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


class RangeNotThere(KilonovaError):
    """The range that was asked for lies outside of the image."""

    status, code = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "range_not_satisfiable"


class Body:
    """An answer's body: pieces, and a close that any WSGI server calls."""

    def __init__(self, data: OpenData) -> None:
        self._data = data

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._data)

    def close(self) -> None:
        self._data.close()


class DataRoutes:
    """Handlers of image bytes."""

    def __init__(self, images: EmbeddedImages) -> None:
        self.images = images

    def routes(self) -> Sequence[Route]:
        """Return this file's rows of the route table."""
        put = (400, 403, 404, 409, 410, 413, 415)
        read = (204, 206, 403, 404, 416)  # without bytes, a range, …
        return (
            Route("PUT", _ONE + "/file", self.upload, "upload_image", 204, put, stream=True),
            Route("GET", _ONE + "/file", self.download, "download_image", 200, read),
            Route("PUT", _ONE + "/stage", self.stage, "modify_image", 204, put, stream=True),
            Route("POST", _ONE + "/import", self.start_import, "modify_image", 202, put),
        )

    def upload(self, req: Request) -> None:
        """Give an image its bytes, once."""
        image = self.images.get(req.ctx, req.params["image_id"])
        rules.require(req, "upload_image", image)
        self.images.upload(image.id, pieces(req), req.length)

    def stage(self, req: Request) -> None:
        """Bring bytes that a later import takes."""
        image = self.images.get(req.ctx, req.params["image_id"])
        rules.require(req, "modify_image", image)
        self.images.stage(image.id, pieces(req), req.length)

    def start_import(self, req: Request) -> None:
        """Make staged bytes the image's; done when this answers."""
        image = self.images.get(req.ctx, req.params["image_id"])
        rules.require(req, "modify_image", image)
        body: Any = req.body
        method = body.get("method") if isinstance(body, dict) else None
        name = method.get("name") if isinstance(method, dict) else None
        if not isinstance(name, str):
            raise BadRequest("The import needs a method: {'method': {'name': 'glance-direct'}}.")
        if name != "glance-direct":
            raise BadRequest(
                f"Unknown import method name '{name:.40}': this cloud takes glance-direct only, "
                "it fetches nothing from URLs."
            )
        for key in ("stores", "all_stores"):
            if body.get(key) not in (None, False, True, [], ["local"]):
                raise BadRequest(f"{key}: there is one store here, 'local'.")
        self.images.import_staged(image.id)

    def download(self, req: Request) -> Response:
        """Send an image's bytes, or the range that was asked for."""
        image = self.images.get(req.ctx, req.params["image_id"])
        rules.require(req, "download_image", image)
        if image.status == "deactivated" and not req.ctx.is_admin:
            raise Forbidden(
                "The requested image has been deactivated. Image data download is forbidden."
            )
        if image.status not in ("active", "deactivated") or image.size is None:
            return Response(status=204)
        start, size, status = _range(req, image.size)
        headers = {"Content-Length": str(size), "Accept-Ranges": "bytes"}
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{start + size - 1}/{image.size}"
        elif image.checksum is not None:
            headers["Content-MD5"] = image.checksum
        data = self.images.files.open(image.id, start, size)
        return Response(
            stream=Body(data),
            status=status,
            headers=headers,
            content_type="application/octet-stream",
        )


def pieces(req: Request) -> Iterator[bytes]:
    """Return a request's body in pieces; UnsupportedMedia, BadRequest."""
    kind = req.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/octet-stream":
        raise UnsupportedMedia("Content-Type must be application/octet-stream.")
    if req.stream is None:
        raise BadRequest("The request has no body.")
    return _read(req.stream)


def _read(stream: BinaryIO) -> Iterator[bytes]:
    while piece := stream.read(PIECE):
        yield piece


def _range(req: Request, size: int) -> tuple[int, int, int]:
    """Return (first byte, how many, status). Several ranges at once: all of it, as RFC 9110 allows."""
    asked = req.headers.get("range")
    if asked is None:
        old = _CONTENT_RANGE.fullmatch(req.headers.get("content-range", ""))
        if old is None:
            return 0, size, 200
        first, last = int(old[1]), int(old[2])
    else:
        m = _RANGE.fullmatch(asked.strip())
        if m is None or not (m[1] or m[2]):
            return 0, size, 200
        first = int(m[1]) if m[1] else max(0, size - int(m[2]))
        last = int(m[2]) if m[1] and m[2] else size - 1
    last = min(last, size - 1)
    if first > last:
        error = RangeNotThere(f"The image has {size} bytes; the range lies outside of it.")
        error.headers = {"Content-Range": f"bytes */{size}"}  # type: ignore[attr-defined]
        raise error
    return first, last - first + 1, 206
