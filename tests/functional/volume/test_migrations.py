"""os-migrate_volume: a volume goes to another host, for administrators."""

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from kilonova.db.opening import file_url, open_database
from kilonova.db.sqlite import SqliteDatabase
from kilonova.db.versions import ensure
from kilonova.volume.embedded.schema import metadata
from kilonova.volume.embedded.upgrades import UPGRADES
from tests.functional.volume.conftest import Client
from tests.whole import Answer, until


def migrate(api: Client, volume: str, host: str, **how: Any) -> Answer:
    who = how.pop("who", "admin")
    body = {"os-migrate_volume": {"host": host, **how}}
    return api.call("POST", f"/volumes/{volume}/action", body, who=who)


def others(api: Client, host: str) -> list[str]:
    pools = api.call("GET", "/scheduler-stats/get_pools", who="admin").json["pools"]
    return [str(p["name"]) for p in pools if p["name"] != host]


def moved(api: Client, volume: str, host: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found = api.show(volume)
        return found if found["migration_status"] in ("success", "error") else None

    found: dict[str, Any] = until(look)
    assert found["migration_status"] == "success"
    assert found["os-vol-mig-status-attr:migstat"] == "success"
    assert found["os-vol-host-attr:host"] == host
    return found


def test_a_volume_goes_to_another_host(api: Client) -> None:
    """It is another host's afterwards, once or again, and its project sees nothing of hosts."""
    volume = api.make(2)
    first = api.show(volume)["os-vol-host-attr:host"]
    second, third = others(api, first)[:2]
    assert migrate(api, volume, second, who="demo").status == 403
    assert migrate(api, volume, second, lock_volume=True, force_host_copy="True").status == 202
    moved(api, volume, second)
    api.becomes(volume, "available")
    assert migrate(api, volume, third.partition("#")[0]).status == 202
    assert moved(api, volume, third)["status"] == "available"
    assert "migration_status" not in api.show(volume, who="demo")
    shown = api.call("GET", f"/attachments?volume_id={volume}", who="admin").json["attachments"]
    assert shown == []
    body = {"os-extend": {"new_size": 3}}
    assert api.call("POST", f"/volumes/{volume}/action", body).status == 202
    assert api.becomes(volume, "available")["size"] == 3
    api.delete(volume)


def test_what_is_refused(api: Client) -> None:
    """In Cinder's words: its own host, one that is not there, snapshots, clusters, no host at all."""
    volume = api.make()
    first = api.show(volume)["os-vol-host-attr:host"]
    second = others(api, first)[0]
    got = migrate(api, volume, "nowhere@qcow2#pool")
    assert got.status == 400 and "No available service named 'nowhere@qcow2#pool'" in str(got.json)
    got = migrate(api, volume, first)
    assert got.status == 400 and "must be different than the current one" in str(got.json)
    assert migrate(api, volume, second, cluster="c").status == 400
    path = f"/volumes/{volume}/action"
    assert api.call("POST", path, {"os-migrate_volume": {}}, who="admin").status == 400
    snapshot = api.call("POST", "/snapshots", {"snapshot": {"volume_id": volume}}).json["snapshot"]
    until(
        lambda: (
            api.call("GET", f"/snapshots/{snapshot['id']}").json["snapshot"]["status"]
            == "available"
            or None
        )
    )
    got = migrate(api, volume, second)
    assert got.status == 400 and "have snapshots" in str(got.json)
    reset = {"os-reset_status": {"migration_status": "none"}}
    assert api.call("POST", path, reset, who="admin").status == 202
    assert api.show(volume)["migration_status"] == "none"


def test_others_wait_meanwhile(api: Client) -> None:
    """A volume that migrates is not deleted, extended, copied, given away or attached."""
    volume = api.make()
    host = others(api, api.show(volume)["os-vol-host-attr:host"])[0]
    api.whole.cloud.fleet.world.faults.set("volume_hang", server=volume)
    try:
        assert migrate(api, volume, host).status == 202
        until(lambda: api.show(volume)["migration_status"] == "migrating" or None)
        path = f"/volumes/{volume}/action"
        for who, method, where, body in (
            ("demo", "DELETE", f"/volumes/{volume}", None),
            ("demo", "POST", path, {"os-extend": {"new_size": 3}}),
            ("demo", "POST", "/volumes", {"volume": {"size": 1, "source_volid": volume}}),
            ("demo", "POST", "/snapshots", {"snapshot": {"volume_id": volume}}),
            ("demo", "POST", "/volume-transfers", {"transfer": {"volume_id": volume}}),
            ("demo", "POST", "/attachments", {"attachment": {"volume_uuid": volume}}),
            ("admin", "POST", path, {"os-migrate_volume": {"host": host}}),
        ):
            got = api.call(method, where, body, who=who)
            assert got.status == 400 and "migrating" in str(got.json), (where, got)
    finally:
        api.whole.cloud.fleet.world.faults.set("volume_hang", server=volume, times=0)
    moved(api, volume, host)


def test_an_earlier_file_gets_the_columns(tmp_path: Path) -> None:
    """R18: a file of the first schema version is upgraded."""
    database = open_database(file_url(tmp_path / "v.db"), "volume")
    assert isinstance(database, SqliteDatabase)
    ensure(database, metadata)
    added = {("volume", "migration_status"), ("volume", "migration_host"), ("backup", "parent_id")}
    added |= {("backup", "host"), ("backup", "size_bytes"), ("backup", "hash_value")}
    added |= {("export_host", "tls_name"), ("export_host", "ports")}
    drop = [f"ALTER TABLE {table} DROP COLUMN {column}" for table, column in sorted(added)]
    database.script(["DROP INDEX backup_parent", *drop, "PRAGMA user_version=1"])
    ensure(database, metadata, UPGRADES)
    for table, column in added:
        wanted = sa.text(f"SELECT {column} FROM {table}")
        assert database.read(lambda tx, wanted=wanted: tx.select(wanted)) == []
    database.close()
