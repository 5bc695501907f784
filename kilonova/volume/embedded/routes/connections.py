"""POST /volumes/{id}/action, the older way to attach: reserve, initialize_connection, attach, detach.

What a server has connected is let go by compute alone (OSSA-2023-003), whoever asks.
"""

from typing import Any

from kilonova.common.errors import BadRequest
from kilonova.db.engine import Row, Tx
from kilonova.http.request import Request
from kilonova.http.routing import Route
from kilonova.http.schema import Json
from kilonova.objects.volume import Connector
from kilonova.volume.embedded import attaching
from kilonova.volume.embedded.faults import invalid_volume
from kilonova.volume.embedded.routes.attachments import check_end, host_of, info_of
from kilonova.volume.embedded.routes.common import ID, action_of, both
from kilonova.volume.embedded.routes.volumes import VolumeRoutes
from kilonova.volume.embedded.store import attachments, volumes
from kilonova.volume.embedded.volumes import EmbeddedVolumes

_P = "volume_extension:volume_actions:"
_NULL_ID: Json = {"anyOf": [{"type": "null"}, ID]}
_TEXT: Json = {"type": ["string", "null"], "minLength": 1, "maxLength": 255}
_CONNECTOR: Json = {"connector": {"type": "object", "minProperties": 1}}
_ATTACH = action_of(
    "os-attach",
    {
        "instance_uuid": _NULL_ID,
        "host_name": _TEXT,
        "mountpoint": {"type": "string", "minLength": 1, "maxLength": 255},
        "mode": {"enum": ["rw", "ro"]},
    },
    ["mountpoint"],
)


class ConnectionRoutes:
    """Handlers of the older actions."""

    def __init__(self, of: EmbeddedVolumes) -> None:
        self.of = of
        self.volumes = VolumeRoutes(of)

    def routes(self) -> list[Route]:
        """Return this file's rows of the route table."""
        path = "/volumes/{volume_id}/action"
        rows: list[Route] = []
        table: tuple[tuple[str, Any, str, int, Any], ...] = (
            ("os-reserve", self.reserve, _P + "reserve", 202, None),
            ("os-unreserve", self.unreserve, _P + "unreserve", 202, None),
            ("os-begin_detaching", self.begin, _P + "begin_detaching", 202, None),
            ("os-roll_detaching", self.roll, _P + "roll_detaching", 202, None),
            ("os-attach", self.attach, _P + "attach", 202, _ATTACH),
            ("os-detach", self.detach, _P + "detach", 202,
             action_of("os-detach", {"attachment_id": _NULL_ID})),
            ("os-initialize_connection", self.initialize, _P + "initialize_connection", 200,
             action_of("os-initialize_connection", _CONNECTOR, ["connector"])),
            ("os-terminate_connection", self.terminate, _P + "terminate_connection", 202,
             action_of("os-terminate_connection", {"connector": {"type": ["object", "null"]}}, ["connector"])),
            ("os-force_detach", self.detach, "volume_extension:volume_admin_actions:force_detach", 202,
             action_of("os-force_detach", {"attachment_id": _NULL_ID, "connector": {"type": ["object", "null"]}})),
        )  # fmt: skip
        for name, handler, rule, success, body in table:
            rows += both(
                "POST", path, handler, rule, success, (400, 403, 404, 409), body=body, action=name
            )
        return rows

    def _at(self, tx: Tx, req: Request, name: str) -> Row:
        return self.volumes.find(tx, req, _P + name)

    def reserve(self, req: Request) -> None:
        """Mark a volume as about to be attached."""

        def write(tx: Tx) -> None:
            row = self._at(tx, req, "reserve")
            allowed = ("available", "in-use") if row["multiattach"] else ("available",)
            if row["status"] not in allowed:
                raise invalid_volume(
                    f"Volume {row['id']} status must be {' or '.join(allowed)}, but current status is: {row['status']}."
                )
            volumes.change(tx, row["id"], self.of.clock.now(), status="attaching")

        self.of.db.write(write)

    def unreserve(self, req: Request) -> None:
        """Take a reserve back; fine when there is none."""

        def write(tx: Tx) -> None:
            row = self._at(tx, req, "unreserve")
            attaching.rest(tx, row["id"], self.of.clock.now(), "attaching")

        self.of.db.write(write)

    def begin(self, req: Request) -> None:
        """Show a volume as detaching."""

        def write(tx: Tx) -> None:
            row = self._at(tx, req, "begin_detaching")
            if row["status"] != "in-use":
                raise invalid_volume(
                    f"Volume {row['id']} status must be in-use, but current status is: {row['status']}."
                )
            attaching.begin_detaching(tx, row["id"], None, self.of.clock.now())

        self.of.db.write(write)

    def roll(self, req: Request) -> None:
        """Take a begin_detaching back."""

        def write(tx: Tx) -> None:
            row = self._at(tx, req, "roll_detaching")
            attaching.roll_detaching(tx, row["id"], self.of.clock.now())

        self.of.db.write(write)

    def attach(self, req: Request) -> None:
        """Say that a server or a host has the volume now."""
        body = req.body["os-attach"]
        server, host = body.get("instance_uuid"), body.get("host_name")
        if bool(server) == bool(host):
            raise BadRequest(
                "Invalid request to attach volume to an instance and a host: exactly one must be named."
            )

        def write(tx: Tx) -> None:
            row = self._at(tx, req, "attach")
            now, mode = self.of.clock.now(), body.get("mode", "rw")
            if row["readonly"] and mode == "rw":
                raise invalid_volume(
                    f"Invalid attaching mode 'rw' for volume {row['id']}: it is marked readonly."
                )
            held = self._open(tx, row)
            if held is None:
                if row["status"] == "attaching":
                    volumes.change(tx, row["id"], now, status=attaching.resting(tx, row["id"]))
                held = attaching.reserve(tx, attaching.Reserve(row["id"], server or "", mode), now)
            attachments.change(
                tx,
                held["id"],
                now,
                server_id=server or "",
                host=held["host"] or host or "",
                mountpoint=body["mountpoint"],
                mode=mode,
            )
            attaching.complete(tx, attachments.get(tx, held["id"]), now)

        self.of.db.write(write)

    @staticmethod
    def _open(tx: Tx, row: Row) -> Row | None:
        """Return the attachment that initialize_connection began."""
        found = [
            a
            for a in attachments.of_volume(tx, row["id"])
            if a["status"] == "attaching" and not a["server_id"]
        ]
        return found[-1] if found else None

    def detach(self, req: Request) -> None:
        """Say that a volume is not attached any more."""
        body = req.body.get("os-detach") or req.body.get("os-force_detach") or {}
        wanted = body.get("attachment_id")

        def write(tx: Tx) -> None:
            row = self.volumes.find(tx, req, "volume:get")
            held = [a for a in attachments.of_volume(tx, row["id"]) if wanted in (None, a["id"])]
            if len(held) > 1:
                raise invalid_volume("Volume is attached more than once: name the attachment_id.")
            if not held:
                attaching.free(tx, row["id"], self.of.clock.now())
                return
            check_end(req, held[0])
            attaching.end(tx, self.of.exports, held[0], self.of.clock.now())
            if "os-force_detach" in req.body:
                attaching.free(tx, row["id"], self.of.clock.now())

        self.of.db.write(write)

    def initialize(self, req: Request) -> dict[str, Any]:
        """Let a host reach the volume; 503 while it is prepared: ask again."""
        host, ip = host_of(req.body["os-initialize_connection"]["connector"])

        def write(tx: Tx) -> str:
            row = self._at(tx, req, "initialize_connection")
            now = self.of.clock.now()
            held = next(
                (a for a in attachments.of_volume(tx, row["id"]) if a["host"] in ("", host)), None
            )
            if held is None:
                if row["status"] == "attaching":
                    volumes.change(tx, row["id"], now, status=attaching.resting(tx, row["id"]))
                held = attaching.reserve(tx, attaching.Reserve(row["id"]), now)
            attaching.connect(tx, self.of.exports, held, Connector(host=host, ip=ip), now)
            return str(held["id"])

        made = self.of.db.write(write)
        found = self.of.db.read(lambda tx: attaching.connection(tx, attachments.get(tx, made)))
        return {"connection_info": info_of(attaching.ready(found))}

    def terminate(self, req: Request) -> None:
        """Let a host not reach the volume any more."""
        connector = req.body["os-terminate_connection"]["connector"]
        host = host_of(connector)[0] if connector else None

        def write(tx: Tx) -> None:
            row = self._at(tx, req, "terminate_connection")
            for held in attachments.of_volume(tx, row["id"]):
                if host in (None, held["host"]) and held["host"]:
                    check_end(req, held)
                    if held["status"] == "attached":
                        self._close(tx, row, held)
                    else:
                        attaching.end(tx, self.of.exports, held, self.of.clock.now())

        self.of.db.write(write)

    def _close(self, tx: Tx, row: Row, held: Row) -> None:
        if held["export_name"]:
            self.of.exports.touch(tx, row["host"], row["id"])
        attachments.change(
            tx, held["id"], self.of.clock.now(), export_name="", host="", connector="null"
        )
