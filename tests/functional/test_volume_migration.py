"""A volume that a server has goes to another host: asked of the volume API, done by the guest's host, as with Nova."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.functional.volumes_kit import Kit, S
from tests.whole import Answer, Whole, running, until


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    with running(driver="fake", hosts=3) as made:
        yield made


@pytest.fixture(scope="module")
def kit(whole: Whole) -> Kit:
    return Kit(whole)


def _migrate(kit: Kit, volume: str, host: str | None = None) -> Answer:
    host = host or _other(kit, volume)
    body = {"os-migrate_volume": {"host": host, "lock_volume": True}}
    return kit.block("POST", f"/volumes/{volume}/action", body, who="admin")


def _other(kit: Kit, volume: str) -> str:
    at = kit.show_volume(volume)["os-vol-host-attr:host"]
    pools = kit.block("GET", "/scheduler-stats/get_pools", who="admin").json["pools"]
    return str(next(p["name"] for p in pools if p["name"] != at))


def _ended(kit: Kit, volume: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found = kit.show_volume(volume)
        return found if found["migration_status"] in ("success", "error") else None

    found: dict[str, Any] = until(look, "the volume never ended its migration")
    return found


@pytest.mark.parametrize("root", [False, True], ids=["data", "root"])
def test_to_every_host(kit: Kit, root: bool) -> None:
    """From wherever it is to wherever it goes; the server sees the same volume, and can let go of it."""
    server = kit.backed() if root else kit.server(imageRef=kit.image)
    if not root:
        kit.attached(server, kit.volume())
    (before,) = kit.attachments(server)
    volume = before["volumeId"]
    seen = set()
    for _ in range(3):
        to = next(h for h in ("cell1-host1", "cell1-host2", "cell1-host3") if h not in seen)
        seen.add(to)
        if kit.show_volume(volume)["os-vol-host-attr:host"].startswith(to):
            continue
        assert _migrate(kit, volume, f"{to}@qcow2#pool").status == 202
        found = _ended(kit, volume)
        assert found["migration_status"] == "success"
        assert found["os-vol-host-attr:host"] == f"{to}@qcow2#pool"
        kit.whole.settled(server)
    (after,) = kit.attachments(server)
    same = ("volumeId", "device", "bdm_uuid", "tag", "delete_on_termination")
    assert {k: after[k] for k in same} == {k: before[k] for k in same}
    assert after["attachment_id"] != before["attachment_id"]
    assert kit.show_volume(volume)["status"] == "in-use"
    assert [v["id"] for v in kit.block("GET", "/volumes").json["volumes"]].count(volume) == 1
    files = [left for left in kit.whole.cloud.fleet.world.ledger() if left.server == volume]
    assert [f.kind for f in files if f.kind.endswith("file")] == ["volume file"]
    path = f"{S}/{server}/os-instance-actions"
    actions = kit.whole.call("GET", path).json["instanceActions"]
    assert "swap_volume" in {a["action"] for a in actions}
    kit.whole.call("POST", f"{S}/{server}/action", {"reboot": {"type": "HARD"}})
    kit.whole.settled(server)
    assert kit.show(server)["status"] == "ACTIVE"
    if not root:
        assert kit.detach(server, volume).status == 202
        kit.becomes(volume, "available")


def test_what_ends_it(kit: Kit) -> None:
    """A server that is off, or a host that cannot do it: the volume is where it was, and in use."""
    server, volume = kit.server(imageRef=kit.image), kit.volume()
    kit.attached(server, volume)
    at = kit.show_volume(volume)["os-vol-host-attr:host"]
    faults = kit.whole.cloud.fleet.world.faults
    faults.set("swap_disk_fail", server=server)
    assert _migrate(kit, volume).status == 202
    found = _ended(kit, volume)
    assert faults.hits["swap_disk_fail"] >= 1
    faults.set("swap_disk_fail", server=server, times=0)
    assert (found["migration_status"], found["os-vol-host-attr:host"]) == ("error", at)
    kit.becomes(volume, "in-use")
    kit.whole.call("POST", f"{S}/{server}/action", {"os-stop": None})
    kit.whole.settled(server)
    assert _migrate(kit, volume).status == 202
    assert _ended(kit, volume)["migration_status"] == "error"
    kit.becomes(volume, "in-use")
    assert kit.detach(server, volume).status == 202
    kit.becomes(volume, "available")


def test_who_may_swap(kit: Kit) -> None:
    """Only while the volume service migrates, in Nova's words; and a volume that goes is not detached meanwhile."""
    server, volume, spare = kit.server(imageRef=kit.image), kit.volume(), kit.volume()
    kit.attached(server, volume)
    path = f"{S}/{server}/os-volume_attachments/{volume}"
    body = {"volumeAttachment": {"volumeId": spare}}
    assert kit.whole.call("PUT", path, body, version="2.60").status == 403
    got = kit.whole.call("PUT", path, body, version="2.60", who="admin")
    assert got.status == 409 and "not migrating" in str(got.json)
    faults = kit.whole.cloud.fleet.world.faults
    faults.set("swap_disk_hang", server=server)
    assert _migrate(kit, volume).status == 202
    kit.becomes(volume, "detaching")
    got = kit.whole.call("PUT", path, body, version="2.60", who="admin")
    assert got.status == 409 and spare in str(got.json)
    assert kit.detach(server, volume).status == 400
    got = kit.block("POST", f"/volumes/{volume}/action", {"os-extend": {"new_size": 3}})
    assert got.status == 400
    faults.set("swap_disk_hang", server=server, times=0)
    assert _ended(kit, volume)["migration_status"] == "success"


def test_a_server_that_is_deleted_meanwhile(kit: Kit) -> None:
    """It goes; its volume is where it was, available, and nothing is left at the other host."""
    server, volume = kit.server(imageRef=kit.image), kit.volume()
    kit.attached(server, volume)
    faults = kit.whole.cloud.fleet.world.faults
    faults.set("swap_disk_hang", server=server)
    assert _migrate(kit, volume).status == 202
    kit.becomes(volume, "detaching")
    assert kit.whole.call("DELETE", f"{S}/{server}").status == 204
    faults.set("swap_disk_hang", server=server, times=0)
    _ended(kit, volume)
    kit.becomes(volume, "available")

    def alone() -> bool | None:
        files = [f for f in kit.whole.cloud.fleet.world.ledger() if f.server == volume]
        return True if [f.kind for f in files] == ["volume file"] else None

    until(alone, "something of the volume is left at the other host")
