"""Backups in a folder, and records of backups that leave a cloud and come into another, or into the same one anew."""

import base64
import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kilonova.agent.backup_folders import MARKER
from kilonova.common.config import Settings
from tests.functional.volume.conftest import Client
from tests.functional.volume.test_backups import wait
from tests.whole import Answer, running, until

ONE, TWO = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
GONE = "33333333-3333-4333-8333-333333333333"


@dataclass
class Place:
    """A cloud whose backups go to a folder, and that folder."""

    api: Client
    folder: Path

    def back_up(self, volume: str, **more: Any) -> str:
        """Back a volume up and wait until that is done; return the backup's id."""
        got = self.api.call("POST", "/backups", {"backup": {"volume_id": volume, **more}})
        assert got.status == 202, got
        backup = str(got.json["backup"]["id"])
        wait(self.api, backup, "available")
        return backup

    def record(self, backup: str, who: str = "admin") -> Answer:
        """Export a record."""
        return self.api.call("GET", f"/backups/{backup}/export_record", who=who)

    def bring(self, record: Any, who: str = "admin") -> Answer:
        """Import one."""
        return self.api.call("POST", "/backups/import_record", {"backup-record": record}, who=who)

    def changed(self, record: dict[str, str], **fields: Any) -> dict[str, str]:
        """Return a record with other fields."""
        inner = json.loads(base64.b64decode(record["backup_url"]))
        inner |= {k: v(inner) if callable(v) else v for k, v in fields.items()}
        service = f"kilonova.backup.{inner['container']}"
        url = base64.b64encode(json.dumps(inner).encode()).decode()
        return {"backup_service": service, "backup_url": url}

    def drop(self, backup: str) -> None:
        """Delete a backup and wait until it is gone."""
        assert self.api.call("DELETE", f"/backups/{backup}", who="admin").status == 202
        path = f"/backups/{backup}"
        until(lambda: self.api.call("GET", path, who="admin").status == 404 or None)

    def settles(self, backup: str) -> dict[str, Any]:
        """Wait until a backup is no longer being made; return it."""

        def look() -> dict[str, Any] | None:
            path = f"/backups/{backup}"
            found: dict[str, Any] = self.api.call("GET", path, who="admin").json["backup"]
            return None if found["status"] == "creating" else found

        found: dict[str, Any] = until(look)
        return found

    def file(self, backup: str) -> Path:
        """Return where a backup lies."""
        return self.folder / f"{backup}.qcow2"


@contextlib.contextmanager
def cloud(folder: Path, target: str = "folder") -> Iterator[Place]:
    """Run a cloud of three simulated hosts that have the folder."""
    settings = Settings(backup_target=target, backup_folder=str(folder))
    with running(driver="fake", hosts=3, settings=settings) as whole:
        yield Place(Client(whole), folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("backups")
    (path / MARKER).write_text(ONE)
    return path


@pytest.fixture(scope="module")
def folder_cloud(folder: Path) -> Iterator[Place]:
    with cloud(folder) as place:
        yield place


@pytest.fixture
def place(folder_cloud: Place) -> Iterator[Place]:
    yield folder_cloud
    folder_cloud.api.sweep()


def test_a_chain_in_the_folder(place: Place) -> None:
    """Full and incremental, shown, restored in place and anew after the volume's delete, deleted with its files."""
    volume = place.api.make(name="data", metadata={"k": "v"})
    first = place.back_up(volume)
    more = place.back_up(volume, incremental=True)
    shown = place.api.call("GET", f"/backups/{first}").json["backup"]
    assert (shown["container"], shown["has_dependent_backups"]) == ("folder", True)
    assert sorted(p.name for p in place.folder.iterdir()) == sorted(
        [MARKER, f"{first}.qcow2", f"{more}.qcow2"]
    )
    body: dict[str, Any] = {"restore": {"volume_id": volume}}
    assert place.api.call("POST", f"/backups/{more}/restore", body).status == 202
    place.api.becomes(volume, "available")
    place.api.delete(volume)
    wait(place.api, more, "available")
    got = place.api.call("POST", f"/backups/{more}/restore", {"restore": {"name": "back"}})
    new = got.json["restore"]["volume_id"]
    found = place.api.becomes(new, "available")
    assert (found["name"], found["metadata"]) == ("back", {"k": "v"})
    for backup in (more, first):
        wait(place.api, backup, "available")
        place.drop(backup)
    assert [p.name for p in place.folder.iterdir()] == [MARKER]


def test_of_a_snapshot_and_of_a_volume_in_use(place: Place) -> None:
    """As into the image store."""
    volume = place.api.make()
    body = {"snapshot": {"volume_id": volume}}
    snapshot = place.api.call("POST", "/snapshots", body).json["snapshot"]["id"]
    path = f"/snapshots/{snapshot}"
    until(lambda: place.api.call("GET", path).json["snapshot"]["status"] == "available" or None)
    place.back_up(volume, snapshot_id=snapshot)
    reset = {"os-reset_status": {"status": "in-use"}}
    assert place.api.call("POST", f"/volumes/{volume}/action", reset, who="admin").status == 202
    asked = {"backup": {"volume_id": volume}}
    assert place.api.call("POST", "/backups", asked).status == 400
    backup = place.back_up(volume, force=True)
    for status in ("error", "available"):
        body = {"os-reset_status": {"status": status}}
        got = place.api.call("POST", f"/backups/{backup}/action", body, who="admin")
        assert got.status == 202 and wait(place.api, backup, status)


@pytest.mark.parametrize("change", ["gone", "cut", "tampered", "unmounted"])
def test_what_is_wrong_with_the_folder_costs_no_data(place: Place, change: str) -> None:
    """A restore in place leaves the volume as it was, says why, and works once the folder is right again."""
    volume = place.api.make()
    backup = place.back_up(volume)
    path = place.folder / MARKER if change == "unmounted" else place.file(backup)
    whole = path.read_bytes()
    if change in ("gone", "unmounted"):
        path.unlink()
    else:
        path.write_bytes(whole[:-1] if change == "cut" else whole[:-1] + b"\xff")
    body: dict[str, Any] = {"restore": {"volume_id": volume}}
    assert place.api.call("POST", f"/backups/{backup}/restore", body).status == 202
    place.api.becomes(volume, "available")
    wait(place.api, backup, "available")
    told = [m["user_message"] for m in place.api.call("GET", "/messages").json["messages"]]
    said = {"gone": "gone", "cut": "cut off", "tampered": "checksum", "unmounted": "no marker"}
    assert any(said[change] in text for text in told), told
    world = place.api.whole.cloud.fleet.world
    host = place.api.show(volume)["os-vol-host-attr:host"].partition("@")[0]
    before = world.files.find(host, "volume", volume)
    assert before is not None and before.image_id == ""
    path.write_bytes(whole)
    assert place.api.call("POST", f"/backups/{backup}/restore", body).status == 202
    place.api.becomes(volume, "available")
    assert world.files.find(host, "volume", volume).image_id == backup


def test_a_record_goes_and_comes(place: Place) -> None:
    """R: export, the record is lost, import: the backup is what it was, the importer's; a second time is refused."""
    volume = place.api.make(name="data")
    first = place.back_up(volume, name="one", metadata={"a": "b"})
    more = place.back_up(volume, name="two", incremental=True)
    assert place.record(first, who="demo").status == 403
    assert place.record(GONE).status == 404
    records = {b: place.record(b).json["backup-record"] for b in (first, more)}
    assert place.bring(records[first]).status == 400  # it is there
    kept = {b: place.file(b).read_bytes() for b in (first, more)}
    for backup in (more, first):
        place.drop(backup)
    for backup, data in kept.items():
        place.file(backup).write_bytes(data)
    got = place.bring(records[more])
    assert got.status == 400 and "import what it adds to first" in str(got.json)
    assert place.bring(records[first], who="demo").status == 403
    for backup in (first, more):
        got = place.bring(records[backup])
        assert (got.status, got.json["backup"]["id"]) == (201, backup)
        assert place.settles(backup)["status"] == "available"
    shown = place.api.call("GET", f"/backups/{first}", who="admin").json["backup"]
    assert (shown["name"], shown["metadata"], shown["volume_id"]) == ("one", {"a": "b"}, volume)
    assert shown["has_dependent_backups"] is True
    assert place.bring(records[first]).status == 400
    assert place.record(more).json["backup-record"] != {}
    body: dict[str, Any] = {"restore": {"name": "again"}}
    got = place.api.call("POST", f"/backups/{more}/restore", body, who="admin")
    place.api.becomes(got.json["restore"]["volume_id"], "available")


def test_a_record_whose_data_are_gone_or_others(place: Place) -> None:
    """It ends in error and says why; its delete removes nothing that it named."""
    backup = place.back_up(place.api.make())
    record = place.record(backup).json["backup-record"]
    data = place.file(backup).read_bytes()
    place.drop(backup)
    for content, said in ((None, "gone"), (data[:-1], "cut off"), (data[:-1] + b"x", "checksum")):
        if content is not None:
            place.file(backup).write_bytes(content)
        assert place.bring(record).status == 201
        found = place.settles(backup)
        assert found["status"] == "error" and said in found["fail_reason"]
        reset = {"os-reset_status": {"status": "available"}}
        path = f"/backups/{backup}"
        assert place.api.call("POST", f"{path}/action", reset, who="admin").status == 202
        assert place.api.call("POST", f"{path}/restore", {"restore": {}}, who="admin").status == 400
        place.drop(backup)
        assert content is None or place.file(backup).read_bytes() == content
    place.file(backup).unlink()


HOSTILE: dict[str, Any] = {
    "no base64": "x" * 10 + "!",
    "no JSON": base64.b64encode(b"{").decode(),
    "no UTF-8": base64.b64encode(b'{"id": "\xff"}').decode(),
    "a list": base64.b64encode(b"[]").decode(),
    "deep": base64.b64encode(b"[" * 100_000).decode(),
    "deep within": base64.b64encode(b'{"driver_info": ' + b"[" * 100_000).decode(),
    "long": "A" * (300 << 10),
    "too long": "A" * (1 << 20),
    "an unknown field": {"evil": 1},
    "a place outside": {"service_metadata": "../../etc/passwd"},
    "a path": {"service_metadata": lambda r: f"/etc/{r['id']}"},
    "a place with no folder": {"service_metadata": lambda r: f"/{r['id']}"},
    "another backup's data": {"service_metadata": f"{ONE}/{TWO}"},
    "an image": {"container": "images", "service_metadata": TWO},
    "another target": {"container": "swift"},
    "an id that is a path": {"id": "../../../etc/passwd"},
    "an id with a line's end": {"id": lambda r: r["id"] + "\n"},
    "a size below zero": {"size": -1},
    "a size that is true": {"size": True},
    "an endless size": {"size": 10**30},
    "a time beyond time": {"created_at": 1e300},
    "a parent of nobody": {"parent_id": GONE},
    "no driver_info": {"driver_info": None},
    "a checksum that is none": {"driver_info": lambda r: {**r["driver_info"], "sha512": "0"}},
    "a long name": {"display_name": "x" * 256},
    "metadata that are no texts": {"backup_metadata": {"a": {"b": "c"}}},
}


@pytest.fixture(scope="module")
def a_record(folder_cloud: Place) -> dict[str, str]:
    """A record whose backup is not there any more."""
    backup = folder_cloud.back_up(folder_cloud.api.make())
    record: dict[str, str] = folder_cloud.record(backup).json["backup-record"]
    folder_cloud.drop(backup)
    return record


@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_records(place: Place, a_record: dict[str, str], name: str) -> None:
    """Each is refused, and no row is made of it."""
    what = HOSTILE[name]
    record = (
        {**a_record, "backup_url": what}
        if isinstance(what, str)
        else place.changed(a_record, **what)
    )
    got = place.bring(record)
    assert got.status == (413 if name == "too long" else 400), got
    assert place.api.call("GET", "/backups?all_tenants=1", who="admin").json["backups"] == []


def test_a_service_that_is_not_its_records(place: Place, a_record: dict[str, str]) -> None:
    """The two say one thing."""
    for service in ("cinder.backup.drivers.nfs.NFSBackupDriver", "kilonova.backup.images"):
        assert place.bring({**a_record, "backup_service": service}).status == 400
    assert place.bring({"backup_service": "x"}).status == 400


def test_a_tenants_image_is_no_backup(place: Place, a_record: dict[str, str]) -> None:
    """A record that names one ends in error; deleting that leaves the image."""
    whole = place.api.whole
    image = whole.call(
        "POST",
        "/image/v2/images",
        {"name": "i", "disk_format": "raw", "container_format": "bare"},
    ).json["id"]
    record = place.changed(a_record, id=image, container="images", service_metadata=image)
    assert place.bring(record).status == 201
    assert place.settles(image)["status"] == "error"
    place.drop(image)
    assert whole.call("GET", f"/image/v2/images/{image}").status == 200


def test_everything_comes_back_in_a_new_cloud(folder: Path, tmp_path: Path) -> None:
    """The cloud and its hosts are lost, the folder and the records are not: a new one restores what was."""
    with cloud(folder) as place:
        volume = place.api.make(name="data")
        backups = [place.back_up(volume), place.back_up(volume, incremental=True)]
        records = [place.record(b).json["backup-record"] for b in backups]
        sums = [hashlib.sha256(place.file(b).read_bytes()).hexdigest() for b in backups]
    with cloud(folder, target="images") as place:
        for backup, record in zip(backups, records, strict=True):
            assert place.bring(record).status == 201
            assert place.settles(backup)["status"] == "available"
        body: dict[str, Any] = {"restore": {"name": "data"}}
        got = place.api.call("POST", f"/backups/{backups[-1]}/restore", body, who="admin")
        new = got.json["restore"]["volume_id"]
        place.api.becomes(new, "available")
        kept = [hashlib.sha256(place.file(b).read_bytes()).hexdigest() for b in backups]
        assert kept == sums
        later = place.back_up(place.api.make())  # the setting is another one now: both are read
        shown = place.api.call("GET", f"/backups/{later}").json["backup"]
        assert (shown["container"], place.file(later).exists()) == ("images", False)
        place.api.sweep()
