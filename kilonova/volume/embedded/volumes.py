"""The embedded volume service: a VolumeService for compute and the store behind the Block Storage API."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from kilonova.bus import answers
from kilonova.bus.interface import Subscription
from kilonova.common.context import Context, service_context
from kilonova.common.errors import BadRequest, NotFound
from kilonova.db.engine import Row, Tx
from kilonova.objects.image import Image
from kilonova.objects.volume import (
    Connection,
    Connector,
    Volume,
    VolumeAttachment,
    VolumeClaim,
    VolumeSnapshot,
    VolumeWanted,
)
from kilonova.objects.volume_params import VolumeParams
from kilonova.saga import journal
from kilonova.volume.embedded import (
    attaching,
    cleanups,
    creating,
    migrating,
    reimaging,
    snapshotting,
)
from kilonova.volume.embedded.creating import NewVolume
from kilonova.volume.embedded.faults import missing
from kilonova.volume.embedded.ground import Ground
from kilonova.volume.embedded.operations import asking, volume_create, volume_delete
from kilonova.volume.embedded.snapshotting import NewSnapshot
from kilonova.volume.embedded.store import attachments, backups, data, quotas, snapshots, volumes
from kilonova.volume.interface import KeeperAway, KeptData, Key, ReimageFailed, VolumeService

T = TypeVar("T")


class EmbeddedVolumes(Ground):
    """Records in one database, which is a home of the engine; data on hosts. Safe to use from any thread.

    Call ``start`` once the bus is there, ``stop`` before it goes.
    """

    _subscription: Subscription | None = None

    def start(self, *, thread: bool = True) -> None:
        """Listen to hosts and keep them informed. thread: repeat by itself what was lost."""
        self._subscription = self.bus.subscribe(
            answers.of_all_hosts(cleanups.ANSWERS),
            self._cleaned,
            "conductors",
        )
        if thread:
            self.exports.start()
        else:
            self.exports.listen()

    def _cleaned(self, subject: str, body: bytes) -> None:
        answer = answers.read(subject, body)
        if answer is not None:
            self.db.write(lambda tx: cleanups.answered(tx, answer))

    def stop(self) -> None:
        """Stop; safe to repeat."""
        if self._subscription is not None:
            self._subscription.close()
        self.exports.stop()

    # -- looking

    def _volume(self, tx: Tx, row: Row) -> Volume:
        held = [attachments.to_object(a) for a in attachments.of_volume(tx, row["id"])]
        return volumes.to_object(tx, row, held)

    def get(self, ctx: Context, volume_id: str) -> Volume:
        """See VolumeService."""
        found = self.find(volume_id)
        if found is None or not (ctx.is_admin or found.project_id == ctx.project_id):
            raise missing("volume", volume_id)
        return found

    def get_snapshot(self, ctx: Context, snapshot_id: str) -> VolumeSnapshot:
        """See VolumeService."""
        found = self.find_snapshot(snapshot_id)
        if found is None or not (ctx.is_admin or found.project_id == ctx.project_id):
            raise missing("snapshot", snapshot_id)
        return found

    def find(self, volume_id: str) -> Volume | None:
        """See VolumeService."""

        def read(tx: Tx) -> Volume | None:
            row = volumes.find(tx, volume_id)
            return None if row is None else self._volume(tx, row)

        return self.db.read(read)

    def find_snapshot(self, snapshot_id: str) -> VolumeSnapshot | None:
        """See VolumeService."""

        def read(tx: Tx) -> VolumeSnapshot | None:
            row = snapshots.find(tx, snapshot_id)
            return None if row is None else snapshots.to_object(row)

        return self.db.read(read)

    def image_for(self, ctx: Context, image_id: str | None) -> Image | None:
        """Return the image that a volume is made from, its signature verified. BadRequest."""
        image = creating.image_of(ctx, self.images, image_id)
        return None if image is None else self.verify(image)

    def check_new(self, ctx: Context, wanted: Sequence[VolumeWanted]) -> None:
        """See VolumeService."""
        checked = [(w, self.image_for(ctx, w.image_id)) for w in wanted]

        def check(tx: Tx) -> None:
            total: dict[str, dict[str, int]] = {}
            for w, image in checked:
                sums = total.setdefault(w.project_id, {})
                for name, amount in creating.check(tx, _new(w), image).quota.items():
                    before = sums.get(name, 0)
                    most = name == "per_volume_gigabytes"
                    sums[name] = max(before, amount) if most else before + amount
            for project, sums in total.items():
                quotas.check(tx, project, sums)

        self.db.read(check)

    def check_attach(self, volume: Volume) -> None:
        """See VolumeService."""
        allowed = (*attaching.FREE, "in-use") if volume.multiattach else attaching.FREE
        if volume.status not in allowed:
            raise BadRequest(
                f"Invalid volume: volume '{volume.id}' status must be {' or '.join(repr(s) for s in allowed)}. "
                f"Currently in '{volume.status}' status"
            )

    # -- volumes

    def create(self, ctx: Context, new: NewVolume) -> Row:
        """Accept a new volume; return its row. Raises as ``creating.check``. The same key gives the same volume."""
        image = self.image_for(ctx, new.image_id)

        def put(tx: Tx) -> Row:
            if new.key[0] and (there := volumes.of_key(tx, new.key, living=True)):
                return there[0]
            now = self.clock.now()
            plan = creating.check(tx, new, image)
            volumes.add(tx, **plan.values, created_at=now, updated_at=now)
            if new.backup_id is not None:
                backups.change(tx, new.backup_id, now, status="restoring")
            params = VolumeParams(volume_id=new.id, project_id=new.project_id)
            asking.accept(tx, ctx, self, volume_create.SAGA, params, first=True)
            return volumes.get(tx, new.id)

        return self.db.write(put)

    def delete_in(self, tx: Tx, ctx: Context, row: Row) -> str:
        """Accept the delete of a volume, whatever runs on it, in a transaction; return the operation's id."""
        now = self.clock.now()
        for live in journal.live_of(tx, row["id"]):
            if live["kind"] == volume_delete.SAGA.kind:
                return str(live["id"])
            journal.request_cancel(tx, live["id"], now=now, nudge=self.nudge)
        held = [*attachments.of_volume(tx, row["id"]), *attachments.copies_of(tx, row["id"])]
        for each in held:
            attaching.end(tx, self.exports, each, now)
        volumes.change(tx, row["id"], now, status="deleting", previous_status=row["status"])
        params = VolumeParams(volume_id=row["id"], project_id=row["project_id"])
        return asking.accept(tx, ctx, self, volume_delete.SAGA, params)

    def ensure_volume(self, key: Key, wanted: VolumeWanted) -> Volume:
        """See VolumeService."""
        ctx = service_context(wanted.project_id)
        found = self.find(self.create(ctx, _new(wanted, key))["id"])
        if found is None:
            raise NotFound("The volume was deleted while it was made.")
        return found

    def remove_volume(self, *, key: Key | None = None, volume_id: str | None = None) -> int:
        """See VolumeService. A volume that has snapshots is left, and not counted."""

        def remove(tx: Tx) -> int:
            n = 0
            for row in _found(tx, volumes, key, volume_id):
                if not snapshots.of_volume(tx, row["id"]):
                    self.delete_in(tx, service_context(row["project_id"]), row)
                    n += 1
            return n

        return self.db.write(remove)

    def reimage(self, key: Key, *, volume_id: str, image_id: str) -> None:
        """See VolumeService."""
        if self.db.read(lambda tx: reimaging.look(tx, key, volume_id)):
            return
        ctx = service_context()
        image = self.image_for(ctx, image_id)

        def put(tx: Tx) -> None:
            if not reimaging.look(tx, key, volume_id) and image is not None:
                row, operation = volumes.get(tx, volume_id), reimaging.operation_of(key)
                reimaging.accept(tx, ctx, self, row, image, reserved=True, operation=operation)

        self.db.write(put)
        self.db.read(lambda tx: reimaging.look(tx, key, volume_id))

    def end_reimage(self, key: Key, *, volume_id: str) -> bool:
        """See VolumeService."""
        self.db.write(lambda tx: reimaging.give_up(tx, self, key))
        try:
            return self.db.read(lambda tx: reimaging.look(tx, key, volume_id))
        except ReimageFailed as exc:
            return exc.lost

    def complete_migration(self, old_id: str, new_id: str, *, error: bool = False) -> str:
        """See VolumeService."""

        def put(tx: Tx) -> str:
            old, new = volumes.get(tx, old_id), volumes.find(tx, new_id)
            return migrating.complete(tx, self, old, new, error=error)

        return self.db.write(put)

    # -- snapshots

    def ensure_snapshot(
        self, key: Key, *, volume_id: str, name: str, metadata: Mapping[str, str] = {}
    ) -> VolumeSnapshot:
        """See VolumeService."""

        def put(tx: Tx) -> VolumeSnapshot:
            ctx = service_context(volumes.get(tx, volume_id)["project_id"])
            new = NewSnapshot(volume_id, name, metadata=dict(metadata), force=True, key=key)
            return snapshots.to_object(snapshotting.create_in(tx, ctx, self, new))

        return self.db.write(put)

    def remove_snapshot(self, *, key: Key | None = None, snapshot_id: str | None = None) -> int:
        """See VolumeService."""

        def remove(tx: Tx) -> int:
            rows = _found(tx, snapshots, key, snapshot_id)
            for row in rows:
                snapshotting.delete_in(tx, service_context(row["project_id"]), self, row)
            return len(rows)

        return self.db.write(remove)

    # -- attachments

    def ensure_attachment(
        self, key: Key, *, volume_id: str, server_id: str, mode: str = "rw"
    ) -> VolumeAttachment:
        """See VolumeService."""

        def put(tx: Tx) -> VolumeAttachment:
            there = attachments.of_key(tx, key)
            if there:
                return attachments.to_object(there[0])
            row = volumes.get(tx, volume_id)
            want = "ro" if row["readonly"] else mode
            wanted = attaching.Reserve(volume_id, server_id, want, key)
            return attachments.to_object(attaching.reserve(tx, wanted, self.clock.now()))

        return self.db.write(put)

    def connect(self, attachment_id: str, connector: Connector) -> Connection:
        """See VolumeService."""

        def put(tx: Tx) -> None:
            row = attachments.get(tx, attachment_id)
            attaching.connect(tx, self.exports, row, connector, self.clock.now())

        self.db.write(put)
        found = self.db.read(
            lambda tx: attaching.connection(tx, attachments.get(tx, attachment_id))
        )
        if found is None:
            self._check_host(attachment_id)
        return attaching.ready(found)

    def _check_host(self, attachment_id: str) -> None:
        """Raise KeeperAway when the host that has to make a volume reachable is down."""

        def read(tx: Tx) -> Row:
            return volumes.get(tx, attachments.get(tx, attachment_id)["volume_id"])

        row = self.db.read(read)
        if not any(r.up for r in self.rooms() if r.host == row["host"]):
            raise KeeperAway(f"The host that keeps volume {row['id']} does not answer.")

    def complete(self, attachment_id: str) -> None:
        """See VolumeService."""
        self.db.write(
            lambda tx: attaching.complete(tx, attachments.get(tx, attachment_id), self.clock.now())
        )

    def begin_detaching(self, volume_id: str, server_id: str) -> None:
        """See VolumeService."""
        self.db.write(
            lambda tx: attaching.begin_detaching(tx, volume_id, server_id, self.clock.now())
        )

    def roll_detaching(self, volume_id: str, server_id: str) -> None:
        """See VolumeService."""
        self.db.write(lambda tx: attaching.roll_detaching(tx, volume_id, self.clock.now()))

    def remove_attachment(self, *, key: Key | None = None, attachment_id: str | None = None) -> int:
        """See VolumeService."""

        def remove(tx: Tx) -> int:
            rows = _found(tx, attachments, key, attachment_id)
            for row in rows:
                attaching.end(tx, self.exports, row, self.clock.now())
            return len(rows)

        return self.db.write(remove)

    def connections(self, server_id: str) -> Mapping[str, Connection]:
        """See VolumeService."""

        def read(tx: Tx) -> dict[str, Connection]:
            out = {}
            for row in attachments.of_servers(tx, [server_id]):
                found = attaching.connection(tx, row) if row["host"] else None
                if found is not None:
                    out[str(row["id"])] = found
            return out

        return self.db.read(read)

    def attachments_of(self, server_ids: Sequence[str]) -> Mapping[str, list[VolumeAttachment]]:
        """See VolumeService."""
        out: dict[str, list[VolumeAttachment]] = {}
        for row in self.db.read(lambda tx: attachments.of_servers(tx, server_ids)):
            out.setdefault(row["server_id"], []).append(attachments.to_object(row))
        return out

    # -- for reconcilers

    def all_attachments(self) -> list[VolumeAttachment]:
        """See VolumeService."""
        return [attachments.to_object(r) for r in self.db.read(attachments.to_servers)]

    def loose(self) -> list[Volume]:
        """See VolumeService."""
        return self.db.read(lambda tx: [self._volume(tx, r) for r in volumes.loose(tx)])

    def waiting(self) -> list[tuple[str, str, float]]:
        """See VolumeService."""
        rows = self.db.read(cleanups.all_records)
        return [(r["host"], r["volume_id"], r["created_at"]) for r in rows]

    def data(self) -> list[KeptData] | None:
        """See VolumeService."""
        return self.db.read(data.wanted)

    def claims(self, older_than_s: float) -> list[VolumeClaim]:
        """See VolumeService."""
        before = self.clock.now() - older_than_s

        def read(tx: Tx) -> list[VolumeClaim]:
            return [
                VolumeClaim(
                    operation=r["operation"],
                    item=r["item"],
                    kind=kind,
                    id=r["id"],
                    made_at=r["created_at"],
                )
                for kind, store in (
                    ("volume", volumes),
                    ("attachment", attachments),
                    ("snapshot", snapshots),
                )
                for r in store.claims(tx, before)
            ]

        return self.db.read(read)

    def sweep(self, keys: Iterable[Key]) -> int:
        """See VolumeService."""
        n = 0
        for key in keys:
            n += self.remove_attachment(key=key) + self.remove_snapshot(key=key)
            n += self.remove_volume(key=key)
        return n


def as_service(made: EmbeddedVolumes) -> VolumeService:
    """Return it as what compute knows: the type checker holds it to the whole interface."""
    return made


def _new(wanted: VolumeWanted, key: Key = ("", "")) -> NewVolume:
    return NewVolume(
        project_id=wanted.project_id,
        user_id=wanted.user_id,
        size_gib=wanted.size_gib,
        name=wanted.name,
        image_id=wanted.image_id,
        snapshot_id=wanted.snapshot_id,
        source_volid=wanted.source_volid,
        volume_type=wanted.volume_type,
        zone=wanted.availability_zone,
        key=key,
    )


def _found(tx: Tx, store: Any, key: Key | None, one: str | None) -> list[Row]:
    """Return the rows of a key, or the one with an id if it is there."""
    if key is not None:
        return list(store.of_key(tx, key))
    row = store.find(tx, one or "")
    return [] if row is None else [row]
