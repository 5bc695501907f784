"""A cloud for the fault tests of volumes: the servers' one, with the embedded volume service in it.

The ledger counts what an operation on a volume can leave: rows, room, images, files of hosts, cleanup records, orders.
"""

import collections
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from kilonova.agent.backup_folders import MARKER, BackupFolders
from kilonova.agent.core import Agent
from kilonova.agent.uploads import ImageSender
from kilonova.db.engine import Tx
from kilonova.image.embedded import schema as i
from kilonova.objects.guest import Hardware, PowerState
from kilonova.objects.image import Image
from kilonova.objects.volume import Connector
from kilonova.objects.volume_params import VolumeParams
from kilonova.saga import journal
from kilonova.virt.fake.world import FakeGuest
from kilonova.volume.embedded import (
    attaching,
    backing,
    backup_records,
    migrating,
    reimaging,
    reverting,
    snapshotting,
)
from kilonova.volume.embedded import schema as v
from kilonova.volume.embedded.creating import NewVolume
from kilonova.volume.embedded.operations import (
    asking,
    volume_extend,
    volume_extend_online,
    volume_upload,
)
from kilonova.volume.embedded.placing import HostRoom
from kilonova.volume.embedded.store import attachments, backups, snapshots, volumes
from kilonova.volume.embedded.volumes import EmbeddedVolumes
from tests import databases
from tests.operations.server_world import BOOT, CONTEXT, ONE, PROJECT, ServerWorld, _template

HOME = "volume"
FOLDER = "8f6f2f0e-3f6b-4b5e-9a39-0d1f4c6f2a11"
O = journal.O  # noqa: E741
USER = CONTEXT.user_id or ""


class VolumeWorld(ServerWorld):
    """One case's cloud. ``kind``: the operation that ``begin`` accepts; what it needs was made before."""

    def __init__(self, path: Path, kind: str, *, hosts: int = 2) -> None:
        self.kind, self.shape, self.server = kind, ONE, ""
        shutil.copytree(_template(ONE, hosts, None), path, dirs_exist_ok=True)
        self._open(path, hosts)
        self.volume = self.snapshot = self.backup = ""
        for step in NEEDS[kind]:
            home, operation = self.accept(step)
            assert self.run(home, operation) == "done", step
        for engine in self.engines:
            engine.stop()
        self.engines.clear()
        self.before = self.ledger()

    def _open(self, path: Path, hosts: int, disturbed: int | None = None) -> None:
        super()._open(path, hosts, disturbed)
        if HOME not in self.databases:
            self.databases[HOME] = databases.at(path / "volume.db", HOME)
        self.volumes = EmbeddedVolumes(
            self.databases[HOME],
            self.bus,  # type: ignore[arg-type]
            self.images,
            self.clock,
            rooms=self.rooms,
            nudge=lambda database, operation: self.services.engine.nudge(database, operation),
        )
        if self.kind.startswith("folder"):
            self.volumes.target = self.volumes.targets["folder"]
        self.services.install(volumes=self.volumes, homes={HOME: self.databases[HOME]})
        self.volumes.start(thread=False)

    def _agent(self, host: str, boot: str = BOOT) -> Agent:
        sender = self._sender()
        self.guests.volumes(host, sender).check_source = sender.folders.check
        return super()._agent(host, boot)

    def _sender(self) -> ImageSender:
        """Hosts have a folder for backups."""
        folder = self.path / "backups"
        folder.mkdir(exist_ok=True)
        (folder / MARKER).write_text(FOLDER)
        return ImageSender(self.images.upload, folders=BackupFolders(folder))

    def rooms(self) -> list[HostRoom]:
        """Return the hosts as the volume service sees them."""
        return [
            HostRoom(h.host, h.inventory.disk_gib, self.hosts.is_up(h.host))
            for h in self.hosts.all()
        ]

    def accept(self, kind: str) -> tuple[str, str]:
        """Accept an operation; return (home, id)."""
        if not self.engines:
            self.engine().open()
        if kind in STARTS:
            self.volumes.db.write(lambda tx: STARTS[kind](self, tx))
        else:
            self._create(self.backup if kind == "create_from_backup" else None)
        rows = self.volumes.db.read(
            lambda tx: tx.select(sa.select(O.c.id).order_by(O.c.accepted_at.desc(), O.c.seq))
        )
        live = self.volumes.db.read(
            lambda tx: tx.select(sa.select(O.c.id).where(O.c.ended_at.is_(None)))
        )
        assert len(live) == 1 and rows
        return HOME, str(live[0][0])

    def _create(self, backup: str | None) -> None:
        new = NewVolume(project_id=PROJECT, user_id=USER, size_gib=2, name="data", backup_id=backup)
        self.volume = str(self.volumes.create(CONTEXT, new)["id"])

    def row(self) -> Any:
        """Return the volume's row, or None."""
        return self.volumes.db.read(lambda tx: volumes.find(tx, self.volume))

    def ledger(self) -> collections.Counter[str]:
        """Count everything."""
        self.settle()
        row = self.row()
        self.has_data = row is not None and bool(row["path"])
        found: collections.Counter[str] = collections.Counter()
        self.volumes.db.read(lambda tx: _rows(tx, found))
        t = i.image
        images = sa.select(t.c.status, sa.func.count()).group_by(t.c.status)
        for status, n in self.images.db.read(lambda tx: tx.select(images)):
            found[f"image:{status}"] += n
        for path in (self.path / "backups").iterdir():
            found[f"folder{path.suffix}"] += path.name != MARKER
        for left in self.guests.ledger():
            found[left.kind] += 1
        for agent in self.agents:
            found["order"] += len(agent.orders.busy)
        return +found

    def clean(self, state: str) -> Mapping[str, int]:
        """Return what the ledger must be when the operation ended in ``state``."""
        total = collections.Counter(self.before)
        delta = DELTAS[self.kind][0 if state == "done" else 1]
        if state != "done" and self.kind == "revert" and self.has_data:
            delta = {}  # it failed before anything was begun
        for key, n in {**delta, f"operation:{SAGAS.get(self.kind, self.kind)}:{state}": 1}.items():
            total[key] += n
        return {k: n for k, n in total.items() if n}

    def close(self) -> None:
        """Let go of everything."""
        self.volumes.stop()
        super().close()


def _rows(tx: Tx, found: collections.Counter[str]) -> None:
    for name, table in (
        ("volume", v.volume),
        ("snapshot", v.snapshot),
        ("backup", v.backup),
        ("attachment", v.attachment),
    ):
        statement = sa.select(table.c.status, sa.func.count()).group_by(table.c.status)
        for status, n in tx.select(statement):
            found[f"{name}:{status}"] += n
    placed = sa.select(sa.func.count()).where(v.volume.c.host != "")
    found["placed"] += tx.select(placed)[0][0]
    found["room"] += sum(volumes.kept(tx).values())
    found["cleanup"] += tx.select(sa.select(sa.func.count()).select_from(v.cleanup))[0][0]
    state = sa.case((O.c.ended_at.is_(None), "live"), else_=O.c.state)
    for kind, ended, n in tx.select(
        sa.select(O.c.kind, state, sa.func.count()).group_by(O.c.kind, state)
    ):
        found[f"operation:{kind}:{ended}"] += n


def _params(world: VolumeWorld, **more: Any) -> VolumeParams:
    return VolumeParams(volume_id=world.volume, project_id=PROJECT, **more)


def _delete(world: VolumeWorld, tx: Tx) -> None:
    world.volumes.delete_in(tx, CONTEXT, volumes.get(tx, world.volume))


def _extend(world: VolumeWorld, tx: Tx) -> None:
    now = world.clock.now()
    volumes.change(tx, world.volume, now, status="extending", new_size_gib=5)
    asking.accept(tx, CONTEXT, world.volumes, volume_extend.SAGA, _params(world, size_gib=5))


GUEST = "99999999-9999-4999-8999-999999999999"


def _extend_online(world: VolumeWorld, tx: Tx) -> None:
    """A guest of the other host has it; the volume's host refuses to break off what the guest does not wait for."""
    now, row = world.clock.now(), volumes.get(tx, world.volume)
    other = next(h.host for h in world.hosts.all() if h.host != row["host"])
    guest = FakeGuest(
        server=GUEST,
        name="g",
        power=PowerState.RUNNING,
        vcpus=1,
        memory_mib=1,
        disks=(),
        volumes=(world.volume,),
        nics=(),
        hardware=Hardware(),
        places={world.volume: row["host"]},
    )
    world.guests.put(other, guest)
    held = attaching.reserve(tx, attaching.Reserve(world.volume, GUEST), now)
    attaching.connect(tx, world.volumes.exports, held, Connector(host=other), now)
    attaching.complete(tx, attachments.get(tx, held["id"]), now)
    volumes.change(tx, world.volume, now, status="extending", new_size_gib=5)
    params = _params(world, size_gib=5, attachment_id=held["id"])
    asking.accept(tx, CONTEXT, world.volumes, volume_extend_online.SAGA, params)


def _snapshot(world: VolumeWorld, tx: Tx) -> None:
    new = snapshotting.NewSnapshot(world.volume, "s")
    world.snapshot = str(snapshotting.create_in(tx, CONTEXT, world.volumes, new)["id"])


def _drop_snapshot(world: VolumeWorld, tx: Tx) -> None:
    snapshotting.delete_in(tx, CONTEXT, world.volumes, snapshots.get(tx, world.snapshot))


def _upload(world: VolumeWorld, tx: Tx) -> None:
    made = world.images.ensure(
        f"{world.volume}:upload",
        Image(
            id=world.volume,
            name="copy",
            status="queued",
            owner=PROJECT,
            disk_format="qcow2",
            container_format="bare",
        ),
    )
    volumes.change(tx, world.volume, world.clock.now(), status="uploading")
    params = _params(world, image_id=made.id)
    asking.accept(tx, CONTEXT, world.volumes, volume_upload.SAGA, params)


def _backup(world: VolumeWorld, tx: Tx) -> None:
    new = backing.NewBackup(world.volume, "b")
    world.backup = str(backing.create_in(tx, CONTEXT, world.volumes, new)["id"])


def _backup_snapshot(world: VolumeWorld, tx: Tx) -> None:
    new = backing.NewBackup(world.volume, "b", snapshot_id=world.snapshot)
    world.backup = str(backing.create_in(tx, CONTEXT, world.volumes, new)["id"])


def _backup_more(world: VolumeWorld, tx: Tx) -> None:
    new = backing.NewBackup(world.volume, "b", incremental=True)
    world.backup = str(backing.create_in(tx, CONTEXT, world.volumes, new)["id"])


def _drop_backup(world: VolumeWorld, tx: Tx) -> None:
    backing.delete_in(tx, CONTEXT, world.volumes, backups.get(tx, world.backup))


def _bring_back(world: VolumeWorld, tx: Tx) -> None:
    """Import the record of a backup that was there, as another cloud would."""
    record = backup_records.export(world.volumes, backups.get(tx, world.backup))
    backups.drop(tx, world.backup)
    read = backup_records.read(record["backup_service"], record["backup_url"])
    backup_records.accept(tx, CONTEXT, world.volumes, read)


def _restore(world: VolumeWorld, tx: Tx) -> None:
    row = backups.get(tx, world.backup)
    backing.restore_in(tx, CONTEXT, world.volumes, row, world.volume, "")


def _restore_new(world: VolumeWorld, tx: Tx) -> None:
    row = backups.get(tx, world.backup)
    backing.restore_in(tx, CONTEXT, world.volumes, row, None, "new")


def _revert(world: VolumeWorld, tx: Tx) -> None:
    row = volumes.get(tx, world.volume)
    reverting.accept(tx, CONTEXT, world.volumes, row, world.snapshot)


def _reimage(world: VolumeWorld, tx: Tx) -> None:
    row = volumes.get(tx, world.volume)
    reimaging.accept(tx, CONTEXT, world.volumes, row, world.image(), reserved=False)


def _migrate(world: VolumeWorld, tx: Tx) -> None:
    row = volumes.get(tx, world.volume)
    other = next(h.host for h in world.hosts.all() if h.host != row["host"])
    migrating.accept(tx, CONTEXT, world.volumes, row, other, lock=True)


STARTS: dict[str, Callable[[VolumeWorld, Tx], None]] = {
    "volume_delete": _delete,
    "volume_extend": _extend,
    "volume_extend_online": _extend_online,
    "snapshot_create": _snapshot,
    "snapshot_delete": _drop_snapshot,
    "volume_upload_image": _upload,
    "backup_create": _backup,
    "backup_snapshot": _backup_snapshot,
    "backup_more": _backup_more,
    "restore_more": _restore,
    "backup_delete": _drop_backup,
    "folder_backup": _backup,
    "folder_more": _backup_more,
    "folder_delete": _drop_backup,
    "folder_import": _bring_back,
    "backup_import": _bring_back,
    "folder_restore": _restore,
    "folder_restore_new": _restore_new,
    "revert": _revert,
    "restore": _restore,
    "restore_new": _restore_new,
    "volume_reimage": _reimage,
    "volume_migrate": _migrate,
}
_SERVERS = frozenset(
    ("swap",)
)  # of a migration, where a server has the volume: test_volume_swap.py
_OF_FILES = {
    "backup_delete": frozenset(("erase",)),
    "backup_import": frozenset(("check",)),
}  # of an image: hosts have no file of it


def left_out(kind: str) -> frozenset[str]:
    """Return the steps of a kind of case that this world does not take."""
    return _SERVERS | _OF_FILES.get(kind, frozenset())


NEEDS: dict[str, tuple[str, ...]] = {
    "volume_create": (),
    "volume_delete": ("volume_create",),
    "volume_extend": ("volume_create",),
    "volume_extend_online": ("volume_create",),
    "snapshot_create": ("volume_create",),
    "snapshot_delete": ("volume_create", "snapshot_create"),
    "volume_upload_image": ("volume_create",),
    "backup_create": ("volume_create",),
    "backup_snapshot": ("volume_create", "snapshot_create"),
    "backup_more": ("volume_create", "backup_create"),
    "restore_more": ("volume_create", "backup_create", "backup_more"),
    "backup_delete": ("volume_create", "backup_create"),
    "folder_backup": ("volume_create",),
    "folder_more": ("volume_create", "folder_backup"),
    "folder_delete": ("volume_create", "folder_backup"),
    "folder_import": ("volume_create", "folder_backup"),
    "backup_import": ("volume_create", "backup_create"),
    "folder_restore": ("volume_create", "folder_backup", "folder_more"),
    "folder_restore_new": ("volume_create", "folder_backup", "folder_more"),
    "revert": ("volume_create", "snapshot_create"),
    "restore": ("volume_create", "backup_create"),
    "restore_new": ("volume_create", "backup_create"),
    "create_from_backup": ("volume_create", "backup_create"),
    "volume_reimage": ("volume_create",),
    "volume_migrate": ("volume_create",),
}
_MADE = {"placed": 1, "room": 2, "volume file": 1}
_REACHED = {
    "volume:available": -1,
    "volume:in-use": 1,
    "attachment:attached": 1,
    "export": 1,
    "guest": 1,
    "volume writer": 1,
}
_LOST = {k: -n for k, n in _MADE.items()}
DELTAS: dict[str, tuple[dict[str, int], dict[str, int]]] = {  # kind -> (done, unwound)
    "volume_create": ({"volume:available": 1, **_MADE}, {"volume:error": 1}),
    "create_from_backup": ({"volume:available": 1, **_MADE}, {"volume:error": 1}),
    "volume_delete": ({"volume:available": -1, **_LOST}, {}),
    "volume_extend": ({"room": 3}, {}),
    "volume_extend_online": ({"room": 3, **_REACHED}, _REACHED),
    "snapshot_create": (
        {"snapshot:available": 1, "room": 2, "snapshot file": 1},
        {"snapshot:error": 1, "room": 2},
    ),
    "snapshot_delete": ({"snapshot:available": -1, "room": -2, "snapshot file": -1}, {}),
    "volume_upload_image": ({"image:active": 1}, {}),
    "backup_create": ({"backup:available": 1, "image:active": 1}, {"backup:error": 1}),
    "backup_snapshot": ({"backup:available": 1, "image:active": 1}, {"backup:error": 1}),
    "backup_more": ({"backup:available": 1, "image:active": 1}, {"backup:error": 1}),
    "restore_more": ({}, {}),
    "backup_delete": ({"backup:available": -1, "image:active": -1}, {}),
    "folder_backup": ({"backup:available": 1, "folder.qcow2": 1}, {"backup:error": 1}),
    "folder_more": ({"backup:available": 1, "folder.qcow2": 1}, {"backup:error": 1}),
    "folder_import": ({}, {"backup:available": -1, "backup:error": 1}),
    "backup_import": ({}, {"backup:available": -1, "backup:error": 1}),
    "folder_delete": ({"backup:available": -1, "folder.qcow2": -1}, {}),
    "folder_restore": ({}, {}),
    "folder_restore_new": ({"volume:available": 1, **_MADE}, {"volume:error_restoring": 1}),
    "volume_reimage": ({}, {}),
    "volume_migrate": ({}, {}),
    "revert": ({}, {"volume:available": -1, "volume:error": 1, **_LOST}),
    "restore": ({}, {}),
    "restore_new": ({"volume:available": 1, **_MADE}, {"volume:error_restoring": 1}),
}
SAGAS = {
    "create_from_backup": "volume_create",
    "backup_snapshot": "backup_create",
    "folder_backup": "backup_create",
    "folder_more": "backup_create",
    "folder_delete": "backup_delete",
    "folder_import": "backup_import",
    "folder_restore": "volume_restore",
    "folder_restore_new": "volume_refill",
    "revert": "volume_refill",
    "backup_more": "backup_create",
    "restore": "volume_restore",
    "restore_more": "volume_restore",
    "restore_new": "volume_refill",
}
