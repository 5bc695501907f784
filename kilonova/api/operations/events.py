"""``GET /kilonova/v1/events``: what happens, as a stream of server-sent events or as a page of JSON.

source: HTML Living Standard, "Server-sent events": id, event, data, retry; ``Last-Event-ID`` of who comes again.
"""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from kilonova.common.errors import BadRequest, Unavailable
from kilonova.common.ids import is_uuid
from kilonova.http.request import Request, Response
from kilonova.operations import events
from kilonova.operations.events import Event, Wanted
from kilonova.operations.services import Services

EVERYONE = "kilonova:events:list:all_projects"
STREAMS = 32
POLL_S = 0.5
SILENT_S = 15.0
LIFE_S = 600.0
"""A stream ends then, so that a token that was revoked does not listen for ever; the client comes again by itself."""
_places = threading.BoundedSemaphore(STREAMS)


def list_events(req: Request) -> Any:
    """Stream events to who accepts that, from ``Last-Event-ID`` or ``after`` on; return a page to others."""
    wanted = _wanted(req)
    services: Services = req.cloud
    after = req.headers.get("last-event-id") or req.query.get("after")
    if "text/event-stream" not in req.headers.get("accept", ""):
        place = events.parse(after) if after else {}
        found = events.read(services, place, wanted)
        return {"events": [_plain(e) for e in found], "after": events.text_of(place)}
    place = events.parse(after) if after else events.end(services)
    if not _places.acquire(blocking=False):
        raise Unavailable("Too many event streams are open; try again later.")
    return Response(
        stream=_Stream(services, place, wanted, _places.release),
        content_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        lasting=True,
    )


def _wanted(req: Request) -> Wanted:
    server = req.query.get("server")
    if server is not None and not is_uuid(server):
        raise BadRequest("server must be a UUID")
    names = tuple(n for n in (req.query.get("event") or "").split(",") if n)
    if len(names) > 20 or any(len(n) > 100 for n in names):
        raise BadRequest("event takes at most 20 patterns of at most 100 characters")
    everyone = req.query.get("all_projects") is not None
    if everyone:
        req.authorize(EVERYONE)
    project = None if everyone else req.project()
    return Wanted(project, admin=everyone, server=server, names=names)


def _plain(event: Event) -> dict[str, Any]:
    return {"id": event.place, **event.body}


class _Stream:
    """The stream's bytes, piece by piece; ``close`` gives its place back, however it ends."""

    def __init__(
        self, services: Services, place: dict[str, int], wanted: Wanted, done: Callable[[], None]
    ) -> None:
        self._pieces = _pieces(services, place, wanted)
        self._done: Callable[[], None] | None = done

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._pieces)

    def close(self) -> None:
        """End it; safe to repeat."""
        done, self._done = self._done, None
        if done is not None:
            done()


def _pieces(services: Services, place: dict[str, int], wanted: Wanted) -> Iterator[bytes]:
    began = said = time.monotonic()
    yield f"retry: 1000\nid: {events.text_of(place)}\n\n".encode()
    while time.monotonic() - began < LIFE_S:
        found = events.read(services, place, wanted)
        now = time.monotonic()
        if found:
            yield b"".join(_framed(e) for e in found)
            said = now
        elif now - said >= SILENT_S:
            yield f": here\nid: {events.text_of(place)}\n\n".encode()
            said = now
        if not found:
            yield b""  # the server looks whether it is to end
            time.sleep(POLL_S)


def _framed(event: Event) -> bytes:
    data = msgspec.json.encode(event.body)
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (event.place.encode(), event.name.encode(), data)
