"""A real Cinder behind the volume interface, through openstacksdk (extra ``[openstack]``); microversion 3.54 and later.

Cinder mints its own ids. A key = (operation, item) is kept in the metadata of what was made for it, and found there
again: ``kilonova:operation`` and ``kilonova:item`` of volumes and snapshots; an attachment has no metadata, so its
volume keeps ``kilonova:attachment:<operation>:<item>`` = its id, and one that is not noted is found by its server.
How a host reaches a volume is taken from ``connection_info``: files and NBD as our own service writes it. Another
driver's connection is refused by name. An attachment's host is known only once it is attached.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from kilonova.common.clock import parse_iso
from kilonova.common.context import Context
from kilonova.common.errors import (
    BadRequest,
    Conflict,
    NotFound,
    QuotaExceeded,
)
from kilonova.objects.volume import (
    Connection,
    Connector,
    Volume,
    VolumeAttachment,
    VolumeClaim,
    VolumeEvent,
    VolumeSnapshot,
    VolumeWanted,
)
from kilonova.volume.interface import KeptData, Key, NotReady, ReimageFailed, VolumeService
from kilonova.volume.openstack_shapes import (
    Json,
    claim_of,
    connection_of,
    error_of,
    path_id,
    snapshot_of,
    volume_of,
)

VERSION, REIMAGE_VERSION = "3.54", "3.68"
REIMAGED = "kilonova:reimaged"
OPERATION, ITEM, ATTACHMENT = "kilonova:operation", "kilonova:item", "kilonova:attachment"
FREE = ("available", "downloading")
HELD = ("reserved", "attaching", "in-use", "detaching")
Connect = Callable[[str | None], Any]
"""Project id -> an openstack.connection.Connection of the service user in that project; None: in its own."""


class OpenStackVolumes:
    """A VolumeService on Cinder. Safe from any thread as far as the connections are."""

    def __init__(self, connect: Connect, now: Callable[[], float]) -> None:
        self._connect = connect
        self._now = now
        self._handlers: list[Callable[[VolumeEvent], None]] = []

    # -- speaking

    def _call(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        project: str | None = None,
        version: str = VERSION,
    ) -> Any:
        adapter = self._connect(project).block_storage
        answer = adapter.request(path, method, json=body, microversion=version, raise_exc=False)
        if answer.status_code < 300:
            return answer.json() if answer.content else {}
        raise error_of(answer.status_code, answer.text)

    def _find(self, path: str) -> Any:
        try:
            return self._call("GET", path)
        except NotFound:
            return None

    def _list(self, noun: str, **filters: Any) -> list[Json]:
        """Return every project's, all pages."""
        adapter = self._connect(None).block_storage
        found: list[Json] = []
        query: Json = {"all_tenants": 1, "limit": 500, **filters}
        for _ in range(10_000):
            answer = adapter.request(
                f"/{noun}/detail", "GET", params=query, microversion=VERSION, raise_exc=False
            )
            if answer.status_code >= 300:
                raise error_of(answer.status_code, answer.text)
            page: list[Json] = answer.json()[noun]
            found += page
            if len(page) < 500:
                break
            query["marker"] = page[-1]["id"]
        return found

    def _of_key(self, noun: str, key: Key) -> list[Json]:
        marks = {OPERATION: key[0], ITEM: key[1]}
        rows = self._list(noun, metadata=str(marks))
        return [r for r in rows if marks.items() <= r["metadata"].items()]

    # -- looking

    def get(self, ctx: Context, volume_id: str) -> Volume:
        """See VolumeService."""
        found = self.find(volume_id)
        if found is None or not (ctx.is_admin or found.project_id == ctx.project_id):
            raise NotFound(f"Volume {volume_id:.64} could not be found.")
        return found

    def get_snapshot(self, ctx: Context, snapshot_id: str) -> VolumeSnapshot:
        """See VolumeService."""
        found = self.find_snapshot(snapshot_id)
        if found is None or not (ctx.is_admin or found.project_id == ctx.project_id):
            raise NotFound(f"Snapshot {snapshot_id:.64} could not be found.")
        return found

    def find(self, volume_id: str) -> Volume | None:
        """See VolumeService."""
        found = self._find(f"/volumes/{path_id(volume_id)}")
        if found is None:
            return None
        shown = found["volume"]
        hosts = {a["attachment_id"]: a.get("host_name") or "" for a in shown["attachments"]}
        held = [self._attachment(a) for a in self._list("attachments", volume_id=volume_id)]
        return volume_of(shown, [a.replace(host=hosts.get(a.id, "")) for a in held])

    def find_snapshot(self, snapshot_id: str) -> VolumeSnapshot | None:
        """See VolumeService."""
        found = self._find(f"/snapshots/{path_id(snapshot_id)}")
        return None if found is None else snapshot_of(found["snapshot"])

    def check_new(self, ctx: Context, wanted: Sequence[VolumeWanted]) -> None:
        """See VolumeService."""
        for project in {w.project_id for w in wanted}:
            mine = [w for w in wanted if w.project_id == project]
            quota = self._call("GET", f"/os-quota-sets/{project}?usage=True")["quota_set"]
            for name, more in (
                ("volumes", len(mine)),
                ("gigabytes", sum(w.size_gib for w in mine)),
            ):
                limit, used = quota[name]["limit"], quota[name]["in_use"] + quota[name]["reserved"]
                if 0 <= limit < used + more:
                    raise QuotaExceeded(f"Quota exceeded for {name}: {used} of {limit} are used.")
            zones = self._call("GET", "/os-availability-zone")["availabilityZoneInfo"]
            for w in mine:
                self._check_one(w, {z["zoneName"] for z in zones})

    def _check_one(self, wanted: VolumeWanted, zones: set[str]) -> None:
        if wanted.availability_zone and wanted.availability_zone not in zones:
            raise BadRequest(f"Availability zone '{wanted.availability_zone:.64}' is invalid.")
        if wanted.volume_type:
            kinds = self._call("GET", "/types?is_public=None")["volume_types"]
            if not any(wanted.volume_type in (k["id"], k["name"]) for k in kinds):
                raise BadRequest(f"Volume type {wanted.volume_type:.64} could not be found.")
        if wanted.snapshot_id:
            snapshot = self.find_snapshot(wanted.snapshot_id)
            if snapshot is None or snapshot.project_id != wanted.project_id:
                raise BadRequest(f"Snapshot {wanted.snapshot_id:.64} could not be found.")
            if snapshot.size_gib > wanted.size_gib:
                raise BadRequest("The volume is smaller than its snapshot.")

    def check_attach(self, volume: Volume) -> None:
        """See VolumeService."""
        allowed = (*FREE, "in-use") if volume.multiattach else FREE
        if volume.status not in allowed:
            raise BadRequest(
                f"Invalid volume: volume '{volume.id}' status must be {' or '.join(repr(s) for s in allowed)}. "
                f"Currently in '{volume.status}' status"
            )

    # -- volumes and snapshots

    def ensure_volume(self, key: Key, wanted: VolumeWanted) -> Volume:
        """See VolumeService."""
        there = self._of_key("volumes", key)
        if there:
            return volume_of(there[0], [])
        body = {
            "size": wanted.size_gib,
            "name": wanted.name,
            "imageRef": wanted.image_id,
            "snapshot_id": wanted.snapshot_id,
            "source_volid": wanted.source_volid,
            "volume_type": wanted.volume_type,
            "availability_zone": wanted.availability_zone,
            "metadata": {OPERATION: key[0], ITEM: key[1]},
        }
        given = {k: v for k, v in body.items() if v is not None}
        made = self._call("POST", "/volumes", {"volume": given}, wanted.project_id)
        return volume_of(made["volume"], []).replace(project_id=wanted.project_id)

    def remove_volume(self, *, key: Key | None = None, volume_id: str | None = None) -> int:
        """See VolumeService."""
        ids = [v["id"] for v in self._of_key("volumes", key)] if key else [volume_id or ""]
        n = 0
        for one in ids:
            found = self._find(f"/volumes/{path_id(one)}")
            if found is None or self._list("snapshots", volume_id=one):
                continue
            for held in self._list("attachments", volume_id=one):
                self.remove_attachment(attachment_id=held["id"])
            if found["volume"]["status"] != "deleting":
                self._quietly("DELETE", f"/volumes/{one}?force=true")
            n += 1
        return n

    def _quietly(self, method: str, path: str) -> None:
        """Remove what may be gone already."""
        try:
            self._call(method, path)
        except NotFound:
            return

    def complete_migration(self, old_id: str, new_id: str, *, error: bool = False) -> str:
        """See VolumeService. source: Cinder, os-migrate_volume_completion."""
        body = {"os-migrate_volume_completion": {"new_volume": new_id, "error": error}}
        answer = self._call("POST", f"/volumes/{path_id(old_id)}/action", body)
        return str(answer["save_volume_id"])

    def reimage(self, key: Key, *, volume_id: str, image_id: str) -> None:
        """See VolumeService. Cinder has no name for one reimage: the volume's metadata say which was asked for."""
        volume = self._call("GET", f"/volumes/{path_id(volume_id)}")["volume"]
        asked = volume["metadata"].get(REIMAGED) == f"{key[0]}:{key[1]}"
        if volume["status"] == "error":
            raise ReimageFailed("The volume could not be written anew.", lost=True)
        if volume["status"] != "downloading":
            if asked and volume["volume_image_metadata"].get("image_id") != image_id:
                raise ReimageFailed("The volume could not be written anew.", lost=False)
            if asked:
                return
            body = {"os-reimage": {"image_id": image_id, "reimage_reserved": True}}
            self._call("POST", f"/volumes/{volume_id}/action", body, version=REIMAGE_VERSION)
        if not asked:  # asked for a second time, if this one is lost: it writes the same again
            note = {REIMAGED: f"{key[0]}:{key[1]}"}
            self._call("POST", f"/volumes/{volume_id}/metadata", {"metadata": note})
        raise NotReady("The volume is being written.")

    def end_reimage(self, key: Key, *, volume_id: str) -> bool:
        """See VolumeService. Cinder cannot give one up: it is waited for, and what was noted counts as written."""
        found = self._find(f"/volumes/{path_id(volume_id)}")
        if found is None:
            return True
        volume = found["volume"]
        if volume["status"] == "downloading":
            raise NotReady("The volume is being written.")
        noted = volume["metadata"].get(REIMAGED) == f"{key[0]}:{key[1]}"
        return bool(noted or volume["status"] == "error")

    def ensure_snapshot(
        self, key: Key, *, volume_id: str, name: str, metadata: Mapping[str, str] = {}
    ) -> VolumeSnapshot:
        """See VolumeService."""
        there = self._of_key("snapshots", key)
        if there:
            return snapshot_of(there[0])
        volume = self.find(volume_id)
        if volume is None:
            raise NotFound(f"Volume {volume_id:.64} could not be found.")
        marks = {**metadata, OPERATION: key[0], ITEM: key[1]}
        body = {"volume_id": volume_id, "name": name, "force": True, "metadata": marks}
        made = self._call("POST", "/snapshots", {"snapshot": body}, volume.project_id)
        return snapshot_of(made["snapshot"])

    def remove_snapshot(self, *, key: Key | None = None, snapshot_id: str | None = None) -> int:
        """See VolumeService."""
        ids = [s["id"] for s in self._of_key("snapshots", key)] if key else [snapshot_id or ""]
        n = 0
        for one in ids:
            found = self._find(f"/snapshots/{path_id(one)}")
            if found is not None:
                if found["snapshot"]["status"] != "deleting":
                    self._quietly("DELETE", f"/snapshots/{one}")
                n += 1
        return n

    # -- attachments

    def _attachment(self, row: Json) -> VolumeAttachment:
        at = row.get("attached_at")
        return VolumeAttachment(
            id=row["id"],
            volume_id=row["volume_id"],
            server_id=row["instance"] or "",
            status=row["status"],
            mode=row.get("attach_mode") or "rw",
            attached_at=parse_iso(at) if at else None,
        )

    def _noted(self, key: Key, volume_id: str | None = None) -> list[tuple[str, str]]:
        """Return (volume, attachment id) of what was made for a key."""
        name = f"{ATTACHMENT}:{key[0]}:{key[1]}"
        if volume_id is not None:
            found = self._find(f"/volumes/{path_id(volume_id)}")
            rows = [] if found is None else [found["volume"]]
        else:
            rows = self._list("volumes")
        return [(r["id"], r["metadata"][name]) for r in rows if name in r["metadata"]]

    def ensure_attachment(
        self, key: Key, *, volume_id: str, server_id: str, mode: str = "rw"
    ) -> VolumeAttachment:
        """See VolumeService."""
        held = {a["id"]: a for a in self._list("attachments", volume_id=volume_id)}
        for _, noted in self._noted(key, volume_id):
            if noted in held:
                return self._attachment(held[noted])
        volume = self._call("GET", f"/volumes/{path_id(volume_id)}")["volume"]
        others = set(volume["metadata"].values())
        lost = [a for a in held.values() if a["instance"] == server_id and a["id"] not in others]
        made = lost[0] if lost else self._reserve(volume, server_id, mode)
        note = {f"{ATTACHMENT}:{key[0]}:{key[1]}": made["id"]}
        self._call("POST", f"/volumes/{volume_id}/metadata", {"metadata": note})
        return self._attachment(made)

    def _reserve(self, volume: Json, server_id: str, mode: str) -> Json:
        readonly = volume["metadata"].get("readonly", "").lower() == "true"
        body = {
            "volume_uuid": volume["id"],
            "instance_uuid": server_id,
            "mode": "ro" if readonly else mode,
        }
        made: Json = self._call("POST", "/attachments", {"attachment": body})["attachment"]
        return made

    def connect(self, attachment_id: str, connector: Connector) -> Connection:
        """See VolumeService."""
        body = {"connector": {"host": connector.host, "ip": connector.ip}}
        answer = self._call("PUT", f"/attachments/{path_id(attachment_id)}", {"attachment": body})
        found = connection_of(answer["attachment"].get("connection_info") or {})
        if found is None:
            raise NotReady("The volume is being made reachable.")
        return found

    def complete(self, attachment_id: str) -> None:
        """See VolumeService."""
        path = f"/attachments/{path_id(attachment_id)}/action"
        self._call("POST", path, {"os-complete": attachment_id})

    def _act(self, volume_id: str, action: str) -> None:
        self._call("POST", f"/volumes/{path_id(volume_id)}/action", {action: None})

    def begin_detaching(self, volume_id: str, server_id: str) -> None:
        """See VolumeService."""
        volume = self._call("GET", f"/volumes/{path_id(volume_id)}")["volume"]
        held = self._list("attachments", volume_id=volume_id)
        if not any(a["instance"] == server_id for a in held):
            raise Conflict(f"Volume {volume_id} is not attached to the server.")
        if volume["status"] == "detaching":
            return
        try:
            self._act(volume_id, "os-begin_detaching")
        except BadRequest as exc:
            raise Conflict(exc.message) from exc

    def roll_detaching(self, volume_id: str, server_id: str) -> None:
        """See VolumeService."""
        self._act(volume_id, "os-roll_detaching")

    def remove_attachment(self, *, key: Key | None = None, attachment_id: str | None = None) -> int:
        """See VolumeService."""
        noted = self._noted(key) if key else [("", attachment_id or "")]
        n = 0
        for volume_id, one in noted:
            if self._find(f"/attachments/{path_id(one)}") is not None:
                self._quietly("DELETE", f"/attachments/{one}")
                n += 1
            if key is not None:
                name = f"{ATTACHMENT}:{key[0]}:{key[1]}"
                self._quietly("DELETE", f"/volumes/{volume_id}/metadata/{name}")
        return n

    def connections(self, server_id: str) -> Mapping[str, Connection]:
        """See VolumeService."""
        out: dict[str, Connection] = {}
        for row in self._list("attachments", instance_id=server_id):
            found = connection_of(row.get("connection_info") or {})
            if found is not None:
                out[row["id"]] = found
        return out

    def attachments_of(self, server_ids: Sequence[str]) -> Mapping[str, list[VolumeAttachment]]:
        """See VolumeService."""
        out: dict[str, list[VolumeAttachment]] = {}
        for server_id in server_ids:
            rows = self._list("attachments", instance_id=server_id, sort="created_at:asc")
            if rows:
                out[server_id] = [self._attachment(r) for r in rows]
        return out

    def on_event(self, handler: Callable[[VolumeEvent], None]) -> None:
        """See VolumeService. Cinder tells compute through os-server-external-events: they are given to ``heard``."""
        self._handlers.append(handler)

    def heard(self, event: VolumeEvent) -> None:
        """Take an event that came to the compute API."""
        for handler in self._handlers:
            handler(event)

    # -- for reconcilers

    def all_attachments(self) -> list[VolumeAttachment]:
        """See VolumeService."""
        return [self._attachment(a) for a in self._list("attachments") if a["instance"]]

    def loose(self) -> list[Volume]:
        """See VolumeService."""
        held = {a["volume_id"] for a in self._list("attachments")}
        return [
            volume_of(row, [])
            for row in self._list("volumes")
            if row["status"] in HELD and row["id"] not in held
        ]

    def waiting(self) -> list[tuple[str, str, float]]:
        """See VolumeService. Cinder's hosts are its own."""
        return []

    def data(self) -> list[KeptData] | None:
        """See VolumeService. Cinder keeps them where it likes."""
        return None

    def claims(self, older_than_s: float) -> list[VolumeClaim]:
        """See VolumeService."""
        before, out = self._now() - older_than_s, []
        volumes = self._list("volumes")
        for noun, kind in (("volumes", "volume"), ("snapshots", "snapshot")):
            for row in volumes if noun == "volumes" else self._list(noun):
                marks, at = row["metadata"], parse_iso(row["created_at"])
                if OPERATION in marks and at <= before:
                    out.append(claim_of(marks[OPERATION], marks.get(ITEM, ""), kind, row["id"], at))
        for row in volumes:
            for name, one in row["metadata"].items():
                if name.startswith(f"{ATTACHMENT}:") and parse_iso(row["created_at"]) <= before:
                    _, _, operation, item = name.split(":", 3)
                    out.append(
                        claim_of(operation, item, "attachment", one, parse_iso(row["created_at"]))
                    )
        return out

    def sweep(self, keys: Iterable[Key]) -> int:
        """See VolumeService."""
        n = 0
        for key in keys:
            n += self.remove_attachment(key=key) + self.remove_snapshot(key=key)
            n += self.remove_volume(key=key)
        return n


def as_service(made: OpenStackVolumes) -> VolumeService:
    """Return it as what compute knows: the type checker holds it to the whole interface."""
    return made
