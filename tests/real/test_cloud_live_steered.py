"""A real guest that moves slowly: aborted, hastened, with a volume, and with the cloud killed in the middle of it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kilonova.cli.client import Refused
from tests.real.cloud import COMPUTE, RealCloud, Server, new_key, running_cloud
from tests.real.outside import missing, timed, until

_why = missing()
pytestmark = [pytest.mark.real, pytest.mark.skipif(_why is not None, reason=str(_why))]
VOLUME = "/volume/v3"
SLOW_MIB_S = "12"


@pytest.fixture(scope="module", params=[1, 2], ids=["one cell", "two cells"])
def cloud(request: pytest.FixtureRequest) -> Iterator[RealCloud]:
    """Two hosts; in a cell each, a server that leaves its host leaves its cell (CC-12.3)."""
    os.environ["KILONOVA_LIVE_MIGRATION_BANDWIDTH_MIB_S"] = SLOW_MIB_S
    try:
        with running_cloud(hosts=2, cells=request.param) as (made, _):
            yield made
    finally:
        del os.environ["KILONOVA_LIVE_MIGRATION_BANDWIDTH_MIB_S"]


@pytest.fixture(scope="module")
def server(cloud: RealCloud, tmp_path_factory: pytest.TempPathFactory) -> Server:
    key = new_key(tmp_path_factory.mktemp("key"), cloud)
    cloud.allow("tcp", 22)
    made = cloud.boot("slow", key_name="test")
    made.status("ACTIVE")
    made.attach_floating(key)
    made.ready()
    made.answers_ssh()
    return made


def _host(server: Server) -> str:
    shown = server.cloud.client("admin").get(server.path)["server"]
    return str(shown["OS-EXT-SRV-ATTR:host"])


def _begin(server: Server) -> None:
    body = {"os-migrateLive": {"host": None, "block_migration": "auto"}}
    server.cloud.client("admin").call("POST", f"{server.path}/action", body)


def _sending(server: Server) -> dict[str, Any]:
    """Wait until memory is being sent; return the migration."""

    def look() -> Any:
        found = server.cloud.client("admin").get(f"{server.path}/migrations")["migrations"]
        sent = found and found[0]["memory_processed_bytes"] > 0
        return found[0] if sent else None

    return dict(until(look, "memory is being sent"))


def _newest(server: Server) -> str:
    admin = server.cloud.client("admin")
    found = admin.get(f"{COMPUTE}/os-migrations", instance_uuid=server.id)["migrations"]
    return str(found[0]["status"])


def _boots(server: Server) -> str:
    return server.tell("cat /proc/sys/kernel/random/boot_id").strip()


def test_aborted(cloud: RealCloud, server: Server) -> None:
    """It stays where it is, and runs; nothing is left at the destination."""
    before, boot = _host(server), _boots(server)
    _begin(server)
    move = _sending(server)
    assert move["memory_total_bytes"] > move["memory_remaining_bytes"] > 0
    cloud.client("admin").call("DELETE", f"{server.path}/migrations/{move['id']}")
    server.status("ACTIVE")
    assert (_host(server), _newest(server), _boots(server)) == (before, "cancelled", boot)
    other = list(cloud.directory.glob("agent*/instances/*"))
    assert len(other) == 1
    cloud.check_audit()


def test_forced_to_complete(cloud: RealCloud, server: Server) -> None:
    """It arrives; the pause ends by itself."""
    before, boot = _host(server), _boots(server)
    _begin(server)
    move = _sending(server)
    path = f"{server.path}/migrations/{move['id']}/action"
    with timed("from force complete to ACTIVE"):
        cloud.client("admin").call("POST", path, {"force_complete": None})
        server.status("ACTIVE")
    assert _host(server) != before and _newest(server) == "completed"
    assert _boots(server) == boot
    cloud.check_audit()


def test_the_cloud_is_killed_in_the_middle(cloud: RealCloud, server: Server) -> None:
    """R2, R13: libvirtd goes on; the next conductor sees where the guest is, and ends the migration accordingly."""
    before, boot = _host(server), _boots(server)
    _begin(server)
    _sending(server)
    cloud.kill(helper=True)
    cloud.up()
    server.status("ACTIVE")
    status = _newest(server)
    assert status in ("completed", "error")
    assert (_host(server) != before) == (status == "completed")
    until(lambda: server.ssh("true").returncode == 0, "it answers where it is")
    assert _boots(server) == boot
    assert len(list(cloud.directory.glob("agent*/instances/*"))) == 1
    cloud.check_audit()


def test_with_a_volume(cloud: RealCloud, server: Server) -> None:
    """On its own host it is refused by name; on another one it moves along, with what was written (R13)."""
    admin, client = cloud.client("admin"), cloud.client()
    body = {"volume": {"size": 1, "name": "data"}}
    path = f"{VOLUME}/{client.project_id}/volumes"
    volume = client.call("POST", path, body)["volume"]["id"]

    def record() -> Any:
        return admin.get(f"{VOLUME}/{admin.project_id}/volumes/{volume}")["volume"]

    until(lambda: record()["status"] == "available", "the volume is there")
    home = str(record()["os-vol-host-attr:host"]).partition("@")[0]

    def attach() -> None:
        asked = {"volumeAttachment": {"volumeId": volume}}
        client.call("POST", f"{server.path}/os-volume_attachments", asked)
        until(lambda: record()["status"] == "in-use", "it is attached")

    def detach() -> None:
        client.call("DELETE", f"{server.path}/os-volume_attachments/{volume}")
        until(lambda: record()["status"] == "available", "it is detached")

    if _host(server) != home:
        _begin(server)
        server.status("ACTIVE")
    attach()
    _begin(server)
    server.status("ACTIVE")
    assert (_newest(server), _host(server)) == ("failed", home)
    detach()
    _begin(server)
    server.status("ACTIVE")
    assert _host(server) != home
    attach()
    find = f"grep -l {volume[:20]} /sys/block/*/serial | cut -d/ -f4"
    disk = until(lambda: server.tell(find).strip(), "the guest sees it")
    server.tell(f"echo written >/dev/{disk} && sync")
    for _ in range(2):  # to the volume's own host, and away again
        _begin(server)
        server.status("ACTIVE")
        assert _newest(server) == "completed", cloud.log()
        read = f"echo 3 >/proc/sys/vm/drop_caches; head -c 7 /dev/{disk}; echo more >>/root/x"
        assert server.tell(read).startswith("written")
        assert len(record()["attachments"]) == 1 and record()["status"] == "in-use"
    cloud.check_audit()
    detach()
    with pytest.raises(Refused):
        client.call("DELETE", f"{server.path}/os-volume_attachments/{volume}")
    client.call("DELETE", f"{path}/{volume}")


def test_nothing_is_left(cloud: RealCloud, server: Server, tmp_path: Path) -> None:
    server.delete()
    server.gone()
    assert list(cloud.directory.glob("agent*/instances/*")) == []
    cloud.check_audit()
