"""/backups, in the image store; restored into the volume, and into a new one."""

from typing import Any

from tests.functional.volume.conftest import Client
from tests.whole import until


def wait(api: Client, backup: str, status: str) -> dict[str, object]:
    """Wait until a backup has a status; return it."""
    path = f"/backups/{backup}"

    def look() -> dict[str, object] | None:
        found: dict[str, object] = api.call("GET", path).json["backup"]
        return found if found["status"] == status else None

    found: dict[str, object] = until(look)
    return found


def test_backup_and_restore(api: Client) -> None:
    """Made, shown, restored twice, deleted; nobody sees its image."""
    volume = api.make()
    body = {"volume_id": volume, "name": "b", "metadata": {"k": "v"}}
    got = api.call("POST", "/backups", {"backup": body})
    assert got.status == 202, got
    backup = got.json["backup"]["id"]
    found = wait(api, backup, "available")
    assert (found["size"], found["volume_id"], found["metadata"]) == (1, volume, {"k": "v"})
    api.becomes(volume, "available")
    assert api.whole.call("GET", f"/image/v2/images/{backup}").status == 404
    got = api.call("POST", f"/backups/{backup}/restore", {"restore": {"volume_id": volume}})
    assert got.status == 202 and got.json["restore"]["volume_id"] == volume
    api.becomes(volume, "available")
    wait(api, backup, "available")
    got = api.call("POST", f"/backups/{backup}/restore", {"restore": {"name": "again"}})
    assert got.status == 202, got
    new = got.json["restore"]["volume_id"]
    assert api.becomes(new, "available")["name"] == "again"
    wait(api, backup, "available")
    got = api.call("PUT", f"/backups/{backup}", {"backup": {"name": "c"}})
    assert got.status == 200
    assert [b["name"] for b in api.call("GET", "/backups").json["backups"]] == ["c"]
    assert api.call("GET", f"/backups/{backup}", who="other").status == 404
    assert api.call("DELETE", f"/backups/{backup}").status == 202
    until(lambda: api.call("GET", f"/backups/{backup}").status == 404 or None)
    for volume_id in (volume, new):
        api.delete(volume_id)


def test_incremental_backups(api: Client) -> None:
    """One adds to the newest of its volume; what others add to stays; a restore is of the whole chain."""
    volume, other = api.make(), api.make()

    def back_up(incremental: bool, **more: object) -> Any:
        body = {"volume_id": volume, "incremental": incremental, **more}
        return api.call("POST", "/backups", {"backup": body})

    got = back_up(True)
    assert got.status == 400 and "No backups available to do an incremental" in str(got.json)
    made = []
    for incremental in (False, True, True):
        made.append(str(back_up(incremental).json["backup"]["id"]))
        wait(api, made[-1], "available")
        api.becomes(volume, "available")
    assert back_up(True, volume_id=other).status == 400
    shown = {b["id"]: b for b in api.call("GET", "/backups/detail").json["backups"]}
    assert [shown[b]["is_incremental"] for b in made] == [False, True, True]
    assert [shown[b]["has_dependent_backups"] for b in made] == [True, True, False]
    for kept in made[:2]:
        assert api.call("GET", f"/backups/{kept}").json["backup"]["has_dependent_backups"] is True
        got = api.call("DELETE", f"/backups/{kept}")
        assert got.status == 400 and "Incremental backups exist for this backup" in str(got.json)
    force = {"os-force_delete": None}
    assert api.call("POST", f"/backups/{made[0]}/action", force, who="admin").status == 400
    body: dict[str, Any] = {"restore": {"volume_id": volume}}
    assert api.call("POST", f"/backups/{made[2]}/restore", body).status == 202
    api.becomes(volume, "available")
    world = api.whole.cloud.fleet.world
    host = api.show(volume)["os-vol-host-attr:host"].partition("@")[0]
    file = world.files.find(host, "volume", volume)
    assert file is not None and file.image_id == made[2]
    for backup in reversed(made):
        wait(api, backup, "available")
        assert api.call("DELETE", f"/backups/{backup}").status == 202
        until(lambda b=backup: api.call("GET", f"/backups/{b}").status == 404 or None)


def test_a_volume_from_a_backup(api: Client) -> None:
    """3.47: of its size or larger, with what the volume was; before, the name of the field means nothing."""
    volume = api.make(2, name="first")
    body = {"os-set_bootable": {"bootable": True}}
    assert api.call("POST", f"/volumes/{volume}/action", body).status == 200
    asked = {"backup": {"volume_id": volume}}
    backup = api.call("POST", "/backups", asked).json["backup"]["id"]
    wait(api, backup, "available")

    def make(version: str = "3.47", who: str = "demo", **more: object) -> Any:
        body = {"volume": {"backup_id": backup, **more}}
        path = f"/{api.whole.project(who)}/volumes"
        return api.call("POST", path, body, version=version, who=who)

    assert make(size=1).status == 400 and make(size=3, snapshot_id=backup).status == 400
    assert make(who="other").status == 404
    assert make(version="3.46").status == 400  # no size
    got = make(name="again")
    assert got.status == 202, got
    new = got.json["volume"]["id"]
    found = api.becomes(new, "available")
    assert (found["size"], found["bootable"], found["name"]) == (2, "true", "again")
    assert wait(api, backup, "available")["status"] == "available"
    larger = make(size=3).json["volume"]["id"]
    assert api.becomes(larger, "available")["size"] == 3


def test_backup_of_a_snapshot(api: Client) -> None:
    """The volume goes on meanwhile; the backup is of when the snapshot was made, and has its size."""
    volume, other = api.make(), api.make()
    made = {"snapshot": {"volume_id": volume, "force": True}}
    snapshot = api.call("POST", "/snapshots", made).json["snapshot"]["id"]
    path = f"/snapshots/{snapshot}"

    def is_(status: str) -> None:
        look = lambda: api.call("GET", path).json["snapshot"]["status"] == status or None  # noqa: E731
        until(look, f"the snapshot never became {status}")

    is_("available")
    assert (
        api.call("POST", f"/volumes/{volume}/action", {"os-extend": {"new_size": 2}}).status == 202
    )
    api.becomes(volume, "available")
    body = {"volume_id": volume, "snapshot_id": snapshot}
    assert api.call("POST", "/backups", {"backup": {**body, "volume_id": other}}).status == 400
    assert api.call("POST", "/backups", {"backup": body}, who="other").status == 404
    got = api.call("POST", "/backups", {"backup": body})
    assert got.status == 202, got
    assert api.show(volume)["status"] == "available"
    backup = got.json["backup"]["id"]
    found = wait(api, backup, "available")
    is_("available")
    at = api.call("GET", path).json["snapshot"]["created_at"]
    assert (found["snapshot_id"], found["size"], found["data_timestamp"]) == (snapshot, 1, at)
    got = api.call("POST", f"/backups/{backup}/restore", {"restore": {"name": "again"}})
    new = got.json["restore"]["volume_id"]
    assert api.becomes(new, "available")["size"] == 1
    wait(api, backup, "available")
    assert api.call("DELETE", f"/backups/{backup}").status == 202
