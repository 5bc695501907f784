"""/attachments (3.27): reserve, connect, complete (3.44), delete.

source: Block Storage API v3 reference, "Attachments"; OSSA-2023-003: what a server has is let go by compute alone.
"""

from typing import Any

import msgspec

from kilonova.common.errors import BadRequest, KilonovaError
from kilonova.db.engine import Row, Tx
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.http.routing import Route
from kilonova.http.schema import Json
from kilonova.objects.volume import Connector, FileConnection, NbdConnection
from kilonova.volume.embedded import attaching, listing, view
from kilonova.volume.embedded.faults import invalid_input, used_by
from kilonova.volume.embedded.routes.common import ID, body_of, both, target, visible
from kilonova.volume.embedded.schema import attachment
from kilonova.volume.embedded.store import attachments, volumes
from kilonova.volume.embedded.volumes import EmbeddedVolumes

_c = attachment.c
NOUN = listing.Noun(
    attachment,
    "attachments",
    texts={
        "id": _c.id,
        "volume_id": _c.volume_id,
        "instance_id": _c.server_id,
        "instance_uuid": _c.server_id,
        "status": _c.status,
        "attach_status": _c.status,
        "attached_host": _c.host,
    },
    sorts={"status": _c.status, "volume_id": _c.volume_id, "updated_at": _c.updated_at},
)
_SEEN = [_c.status != attachments.COPYING]
_CONNECTOR: Json = {"type": ["object", "null"]}
_CREATE = {
    "volume_uuid": ID,
    "instance_uuid": {"anyOf": [{"type": "null"}, ID]},
    "connector": _CONNECTOR,
}
_BODY = body_of("attachment", _CREATE, ["volume_uuid"])
_BODY_54 = body_of("attachment", {**_CREATE, "mode": {"enum": ["rw", "ro", None]}}, ["volume_uuid"])
_UPDATE = body_of(
    "attachment", {"connector": {"type": "object", "minProperties": 1}}, ["connector"]
)
SINCE = V(3, 27)


def is_service(req: Request) -> bool:
    """Tell whether compute itself asks."""
    return req.ctx.is_service or "service" in req.ctx.roles


class AttachmentRoutes:
    """Handlers of attachments."""

    def __init__(self, of: EmbeddedVolumes) -> None:
        self.of = of

    def routes(self) -> list[Route]:
        """Return this file's rows of the route table."""
        one = "/attachments/{attachment_id}"
        errors = (400, 403, 404)
        rule = "volume:attachment_create"
        return [
            *both("POST", "/attachments", self.create, rule, 200, errors, since=SINCE, until=V(3, 53), body=_BODY),
            *both("POST", "/attachments", self.create, rule, 200, errors, since=V(3, 54), body=_BODY_54),
            *both("GET", "/attachments", self.index, "volume:get_all", errors=(400,), since=SINCE),
            *both("GET", "/attachments/detail", self.detail, "volume:get_all", errors=(400,), since=SINCE),
            *both("GET", one, self.show, "volume:get", errors=(404,), since=SINCE),
            *both("PUT", one, self.update, "volume:attachment_update", 200, errors, since=SINCE, body=_UPDATE),
            *both("DELETE", one, self.delete, "volume:attachment_delete", 200, (403, 404, 409), since=SINCE),
            *both("POST", one + "/action", self.complete, "volume:attachment_complete", 204, errors,
                  since=V(3, 44), action="os-complete"),
        ]  # fmt: skip

    def find(self, tx: Tx, req: Request, rule: str = "volume:get") -> Row:
        """Return the attachment of the path; 404 unless it may be seen, 403 unless ``rule`` allows."""
        given = req.params["attachment_id"]
        row = visible(tx, req, "attachment", attachments.find, given, "volume:get")
        req.authorize(rule, target(row))
        return row

    def create(self, req: Request) -> dict[str, Any]:
        """Reserve a volume, and connect it when a connector is given."""
        body = req.body["attachment"]

        def write(tx: Tx) -> Row:
            row = visible(tx, req, "volume", volumes.find, body["volume_uuid"], "volume:get")
            req.authorize("volume:attachment_create", target(row))
            wanted = attaching.Reserve(row["id"], body.get("instance_uuid") or "", body.get("mode"))
            made = attaching.reserve(tx, wanted, self.of.clock.now())
            if body.get("connector"):
                self._connect(tx, made, body["connector"])
            return attachments.get(tx, made["id"])

        return self._full(self.of.db.write(write)["id"])

    def _connect(self, tx: Tx, row: Row, given: dict[str, Any]) -> None:
        host, ip = host_of(given)
        mountpoint = given.get("mountpoint")
        if isinstance(mountpoint, str) and len(mountpoint) <= 255:
            attachments.change(tx, row["id"], self.of.clock.now(), mountpoint=mountpoint)
        if given.get("mode") not in (None, "rw", "ro"):
            raise invalid_input("connector: mode must be rw or ro.")
        connector = Connector(host=host, ip=ip)
        attaching.connect(tx, self.of.exports, row, connector, self.of.clock.now())

    def _full(self, attachment_id: str) -> dict[str, Any]:
        def read(tx: Tx) -> dict[str, Any]:
            row = attachments.get(tx, attachment_id)
            return {"attachment": view.attachment(row, self._info(tx, row))}

        return self.of.db.read(read)

    def _info(self, tx: Tx, row: Row) -> dict[str, Any]:
        """Return connection_info: how the host reaches the volume, once it is so."""
        if not row["host"]:
            return {}
        try:
            found = attaching.connection(tx, row)
        except KilonovaError as exc:
            return {"driver_volume_type": "error", "error": exc.message}
        return info_of(found)

    def index(self, req: Request) -> dict[str, Any]:
        """List attachments, briefly."""

        def read(tx: Tx) -> dict[str, Any]:
            found = listing.page(tx, req, NOUN, more=_SEEN)
            return listing.answer(NOUN, found, [view.attachment_brief(r) for r in found.rows])

        return self.of.db.read(read)

    def detail(self, req: Request) -> dict[str, Any]:
        """List attachments, in full; how a host reaches a volume is for administrators and services."""

        def read(tx: Tx) -> dict[str, Any]:
            found = listing.page(tx, req, NOUN, more=_SEEN)
            items = [view.attachment(r, self._shown(tx, req, r)) for r in found.rows]
            return listing.answer(NOUN, found, items)

        return self.of.db.read(read)

    def _shown(self, tx: Tx, req: Request, row: Row) -> dict[str, Any]:
        return self._info(tx, row) if req.ctx.is_admin or is_service(req) else {}

    def show(self, req: Request) -> dict[str, Any]:
        """Show an attachment; how a host reaches the volume is for administrators and services."""

        def read(tx: Tx) -> dict[str, Any]:
            row = self.find(tx, req)
            return {"attachment": view.attachment(row, self._shown(tx, req, row))}

        return self.of.db.read(read)

    def update(self, req: Request) -> dict[str, Any]:
        """Connect a reserved volume to a host."""

        def write(tx: Tx) -> str:
            row = self.find(tx, req, "volume:attachment_update")
            self._connect(tx, row, req.body["attachment"]["connector"])
            return str(row["id"])

        return self._full(self.of.db.write(write))

    def complete(self, req: Request) -> None:
        """Say that the disk is there."""

        def write(tx: Tx) -> None:
            row = self.find(tx, req, "volume:attachment_complete")
            if row["status"] == "reserved":
                raise BadRequest("Invalid volume: the attachment has no connector yet.")
            attaching.complete(tx, row, self.of.clock.now())

        self.of.db.write(write)

    def delete(self, req: Request) -> dict[str, Any]:
        """End an attachment; what a server has connected is compute's alone."""

        def write(tx: Tx) -> list[Row]:
            row = self.find(tx, req, "volume:attachment_delete")
            check_end(req, row)
            attaching.end(tx, self.of.exports, row, self.of.clock.now())
            return attachments.of_volume(tx, row["volume_id"])

        left = self.of.db.write(write)
        return {"attachments": [view.attachment_brief(r) for r in left]}


def host_of(connector: dict[str, Any]) -> tuple[str, str]:
    """Return a connector's host and address; BadRequest for what cannot be one."""
    host, ip = connector.get("host"), connector.get("ip") or ""
    if not isinstance(host, str) or not host or len(host) > 255:
        raise invalid_input("connector: it needs a host.")
    if not isinstance(ip, str) or len(ip) > 64:
        raise invalid_input("connector: ip is not an address.")
    return host, ip


def check_end(req: Request, row: Row) -> None:
    """Raise 409 for an attachment that a server has connected, unless compute itself asks (OSSA-2023-003)."""
    if row["server_id"] and row["host"] and not is_service(req):
        raise used_by(row["server_id"])


def info_of(found: FileConnection | NbdConnection | None) -> dict[str, Any]:
    """Return connection_info in the form of this service's driver; empty while it is not in force."""
    if found is None:
        return {}
    data = msgspec.to_builtins(found)
    kind = data.pop("type")
    return {"driver_volume_type": f"kilonova-{kind}", "data": data}
