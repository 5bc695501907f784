"""The stock ``openstack`` client with volumes in servers: attach, list, update, detach, every way to boot from one."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.clients.conftest import Client

pytestmark = pytest.mark.clients
GUARD_S = 30.0


class Shell:
    """Commands that must succeed, and what they lead to."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def do(self, command: str) -> str:
        """Run a command; return what it printed."""
        done = self.client.run(command)[0]
        assert done["code"] == 0, f"openstack {command}\n{done['err'][-400:]}"
        return str(done["out"])

    def fails(self, command: str) -> str:
        """Run a command that must fail; return why."""
        done = self.client.run(command)[0]
        assert done["code"] != 0 and "Traceback" not in done["err"], done
        return str(done["err"])

    def until(self, look: Callable[[], bool], what: str) -> None:
        """Wait for something."""
        end = time.monotonic() + GUARD_S
        while not look():
            assert time.monotonic() < end, f"waited in vain for {what}"
            time.sleep(0.1)

    def volume(self, command: str, name: str) -> None:
        """Make a volume that is available."""
        self.do(f"volume create {command} {name}")
        self.is_volume(name, "available")

    def is_volume(self, name: str, status: str) -> None:
        """Wait for a volume's status."""
        self.until(
            lambda: self.client.json(f"volume show {name}")["status"] == status, f"{name} {status}"
        )

    def server(self, command: str, name: str) -> dict[str, Any]:
        """Make a server that runs."""
        self.do(f"server create --flavor m1.tiny --network private {command} {name}")

        def built() -> bool:
            return str(self.client.json(f"server show {name}")["status"]) in ("ACTIVE", "ERROR")

        self.until(built, f"{name} to be built")
        found: dict[str, Any] = self.client.json(f"server show {name}")
        assert found["status"] == "ACTIVE", found
        return found

    def gone(self, name: str) -> None:
        """Delete a server and wait."""
        self.do(f"server delete --wait {name}")


@pytest.fixture
def shell(demo: Client) -> Shell:
    return Shell(demo)


def test_attach_list_update_detach(shell: Shell) -> None:
    shell.server("--image tiny-linux", "vol-server")
    shell.volume("--size 1", "data")
    out = shell.do("server add volume vol-server data --tag logs --enable-delete-on-termination")
    assert "/dev/vdb" in out
    shell.is_volume("data", "in-use")
    (row,) = shell.client.json("server volume list vol-server")
    assert (row["Device"], row["Tag"], row["Delete On Termination?"]) == ("/dev/vdb", "logs", True)
    shell.do("server volume update vol-server data --preserve-on-termination")
    (row,) = shell.client.json("server volume list vol-server")
    assert row["Delete On Termination?"] is False
    assert "status must be" in shell.fails("server add volume vol-server data")
    shell.do("server remove volume vol-server data")
    shell.is_volume("data", "available")
    assert shell.client.json("server volume list vol-server") == []
    shell.gone("vol-server")
    shell.do("volume delete data")


def test_every_way_to_boot_from_a_volume(shell: Shell) -> None:
    shell.volume("--size 1 --image tiny-linux --bootable", "root1")
    shell.do("volume snapshot create --volume root1 snap1")

    def snapped() -> bool:
        return bool(shell.client.json("volume snapshot show snap1")["status"] == "available")

    shell.until(snapped, "the snapshot")
    snapshot = shell.client.json("volume snapshot show snap1")["id"]
    shell.volume("--size 1", "data1")
    data = shell.client.json("volume show data1")["id"]

    shell.server("--volume root1", "bfv-volume")
    shell.server("--image tiny-linux --boot-from-volume 1", "bfv-image")
    shell.server("--snapshot snap1", "bfv-snapshot")
    mapping = (
        f"--block-device uuid={snapshot},source_type=snapshot,destination_type=volume,boot_index=0,"
        "delete_on_termination=true "
        f"--block-device uuid={data},source_type=volume,destination_type=volume,tag=data "
        "--block-device source_type=blank,destination_type=volume,volume_size=1,"
        "delete_on_termination=true"
    )
    shell.server(mapping, "bfv-mapping")
    for name, disks in (("volume", 1), ("image", 1), ("snapshot", 1), ("mapping", 3)):
        server = shell.client.json(f"server show bfv-{name}")
        assert "booted from volume" in server["image"], server["image"]
        assert len(shell.client.json(f"server volume list bfv-{name}")) == disks
    why = shell.fails("server remove volume bfv-volume root1")
    assert "Cannot detach a root device volume" in why
    left = {v["Name"] for v in shell.client.json("volume list")}
    assert {"root1", "data1"} <= left
    for name in ("volume", "image", "snapshot", "mapping"):
        shell.gone(f"bfv-{name}")
    shell.is_volume("root1", "available")
    shell.is_volume("data1", "available")
    shell.do("volume snapshot delete snap1")
    shell.until(lambda: shell.client.json("volume snapshot list") == [], "no snapshot")
    ids = " ".join(v["ID"] for v in shell.client.json("volume list"))
    shell.do(f"volume delete {ids}")
    shell.until(lambda: shell.client.json("volume list") == [], "no volume")


def test_what_is_done_to_disks_and_consoles(shell: Shell) -> None:
    """Issue 3's walk where tests/clients/walk.py does not go: in use, reimaged, handed over, looked at."""
    shell.volume("--size 1", "busy")
    shell.server("--image tiny-linux --boot-from-volume 1", "on-volume")
    shell.do("server add volume on-volume busy")
    shell.is_volume("busy", "in-use")
    shell.do("server volume set on-volume busy --delete-on-termination")
    rows = shell.client.json("server volume list on-volume")
    assert [r["Delete On Termination?"] for r in rows if r["Device"] == "/dev/vdb"] == [True]
    shell.do("server volume set on-volume busy --preserve-on-termination")

    for kind, scheme in (("novnc", "http"), ("serial", "ws")):
        shown = shell.client.json(f"console url show --{kind} on-volume")
        assert shown["type"] == kind and shown["url"].startswith(scheme)
    shell.do("server rebuild --image tiny-linux --reimage-boot-volume --wait on-volume")
    assert "volume-backed" in shell.fails("server rescue --image tiny-linux on-volume")
    shell.do("server remove volume on-volume busy")
    shell.is_volume("busy", "available")
    made = shell.client.json("volume transfer request create --name give busy")
    key = f"--auth-key {made['auth_key']} {made['id']}"
    assert shell.client.json(f"volume transfer request accept {key}")["name"] == "give"
    shell.is_volume("busy", "available")
    root = shell.client.json("server volume list on-volume")[0]["Volume ID"]
    shell.gone("on-volume")
    shell.do(f"volume delete busy {root}")
    shell.until(lambda: shell.client.json("volume list") == [], "no volume")
