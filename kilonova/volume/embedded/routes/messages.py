"""/messages (3.3): why something failed, for its owner."""

from typing import Any

from kilonova.db.engine import Row, Tx
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.http.routing import Route
from kilonova.volume.embedded import listing, view
from kilonova.volume.embedded.routes.common import both, target, visible
from kilonova.volume.embedded.schema import message
from kilonova.volume.embedded.store import messages
from kilonova.volume.embedded.volumes import EmbeddedVolumes

_c = message.c
NOUN = listing.Noun(
    message,
    "messages",
    texts={
        "resource_uuid": _c.resource_uuid,
        "resource_type": _c.resource_type,
        "event_id": _c.event_id,
    },
    sorts={"event_id": _c.event_id, "resource_uuid": _c.resource_uuid},
)
SINCE = V(3, 3)


class MessageRoutes:
    """Handlers of messages."""

    def __init__(self, of: EmbeddedVolumes) -> None:
        self.of = of

    def routes(self) -> list[Route]:
        """Return this file's rows of the route table."""
        one = "/messages/{message_id}"
        return [
            *both("GET", "/messages", self.index, "message:get_all", errors=(400,), since=SINCE),
            *both("GET", one, self.show, "message:get", errors=(404,), since=SINCE),
            *both("DELETE", one, self.delete, "message:delete", 204, (403, 404), since=SINCE),
        ]

    def _find(self, tx: Tx, req: Request, rule: str) -> Row:
        row = visible(tx, req, "message", messages.find, req.params["message_id"], "message:get")
        req.authorize(rule, target(row))
        return row

    def index(self, req: Request) -> dict[str, Any]:
        """List the caller's messages."""

        def read(tx: Tx) -> dict[str, Any]:
            found = listing.page(tx, req, NOUN)
            return listing.answer(NOUN, found, [view.message(req, r) for r in found.rows])

        return self.of.db.read(read)

    def show(self, req: Request) -> dict[str, Any]:
        """Show a message."""
        row = self.of.db.read(lambda tx: self._find(tx, req, "message:get"))
        return {"message": view.message(req, row)}

    def delete(self, req: Request) -> None:
        """Delete a message."""
        self.of.db.write(lambda tx: messages.drop(tx, self._find(tx, req, "message:delete")["id"]))
