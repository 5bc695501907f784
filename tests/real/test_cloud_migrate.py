"""Move a real guest cold between two hosts on this machine: what is on its disks goes along, and comes back (OBJ-2)."""

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real.cloud import COMPUTE, RealCloud, Server, new_key, running_cloud
from tests.real.outside import missing, timed, until
from tests.real.test_cloud_volumes import World, device

_why = missing()
pytestmark = [pytest.mark.real, pytest.mark.skipif(_why is not None, reason=str(_why))]
SIZES = "cat /sys/block/vda/size /sys/block/vdb/size /sys/block/vdc/size"
GIB = 1 << 21  # sectors


@pytest.fixture(scope="module")
def cloud() -> Iterator[RealCloud]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KILONOVA_ALLOW_RESIZE_TO_SAME_HOST", "false")
        with running_cloud(hosts=2) as (made, _):
            made.allow("tcp", 22)
            yield made


def _host(server: Server) -> str:
    shown = server.cloud.client("admin").get(server.path)["server"]
    return str(shown["OS-EXT-SRV-ATTR:host"])


def _flavor(cloud: RealCloud, name: str, disk: int, ephemeral: int) -> str:
    body = {"name": name, "vcpus": 1, "ram": 192, "disk": disk, "swap": 32}
    body["OS-FLV-EXT-DATA:ephemeral"] = ephemeral
    made = cloud.client("admin").call("POST", f"{COMPUTE}/flavors", {"flavor": body})["flavor"]
    return str(made["id"])


def _answers(server: Server, command: str) -> str:
    """Return what the guest says as soon as it takes SSH again."""

    def told() -> Any:
        done = server.ssh(command)
        return done.stdout if done.returncode == 0 else None

    return str(until(told, f"{server.name} answers after its move", 120))


def _files(cloud: RealCloud) -> list[list[str]]:
    """Return which servers have files on each host."""
    agents = (cloud.directory / "agent", cloud.directory / "agent-2")
    return [sorted(p.name for p in (a / "instances").iterdir()) for a in agents]


def test_there_and_back_and_for_good(cloud: RealCloud, tmp_path: Path) -> None:
    """Root, ephemeral and swap disk, config drive, addresses; grown by the resize; nothing is left anywhere."""
    key = new_key(tmp_path, cloud)
    _flavor(cloud, "with-more", 1, 1)
    bigger = _flavor(cloud, "with-most", 2, 2)
    server = cloud.boot("mover", key_name="test", config_drive=True, flavor="with-more")
    server.status("ACTIVE")
    server.attach_floating(key)
    server.ready()
    _answers(server, "echo one >/root/marker; echo raw | dd of=/dev/vdb seek=1000 2>&1; sync")
    fixed, first = server.fixed(), _host(server)
    read = "cat /root/marker; dd if=/dev/vdb skip=1000 bs=512 count=1 2>/dev/null | head -c 3"

    with timed("cold migration"):
        cloud.client("admin").call("POST", f"{server.path}/action", {"migrate": None})
        server.status("VERIFY_RESIZE")
    there = _host(server)
    assert there != first and all(server.id in names for names in _files(cloud))
    assert _answers(server, f"{read}; echo two >>/root/marker; sync").split() == ["one", "raw"]
    server.act("revertResize")
    server.status("ACTIVE")
    assert _host(server) == first and server.fixed() == fixed
    assert _answers(server, read).split() == ["one", "raw"]

    with timed("resize to another host"):
        server.act("resize", {"flavorRef": bigger})
        server.status("VERIFY_RESIZE")
    assert _host(server) == there
    assert _answers(server, read).split() == ["one", "raw"]
    sizes = [int(n) for n in _answers(server, SIZES).split()]
    assert sizes[:2] == [2 * GIB, 2 * GIB]
    server.act("confirmResize")
    server.status("ACTIVE")
    assert [server.id in names for names in _files(cloud)].count(True) == 1
    assert cloud.client("admin").get("/image/v2/images", os_hidden="true")["images"] == []
    cloud.check_audit()
    server.delete()
    server.gone()
    assert _files(cloud) == [[], []]


def test_a_volume_goes_along(cloud: RealCloud, tmp_path: Path) -> None:
    """What is on a volume is read where the server is, wherever the volume's data are; one host has it at a time."""
    name = f"other-{secrets.token_hex(3)}"  # tried once more, it is another one
    key = new_key(tmp_path, cloud, name=name)
    server = cloud.boot("carrier", key_name=name, config_drive=True)
    server.status("ACTIVE")
    server.attach_floating(key)
    server.ready()
    _answers(server, "echo up")
    world = World(cloud, server, server)
    volume = world.volume()
    disk = world.attach(server, volume)
    server.tell(f"echo volume | dd of=/dev/{disk} conv=fsync 2>&1")
    for _ in range(2):
        before = _host(server)
        cloud.client("admin").call("POST", f"{server.path}/action", {"migrate": None})
        server.status("VERIFY_RESIZE")
        assert _host(server) != before
        server.act("confirmResize")
        server.status("ACTIVE")
        _answers(server, "echo up")
        found = server.tell(f"head -c 6 /dev/{device(server, volume)}")
        assert found == "volume"
    world.detach(server, volume)
    cloud.check_audit()
    server.delete()
    server.gone()


def test_shelved_here_and_unshelved_there(cloud: RealCloud, tmp_path: Path) -> None:
    """A shelved server comes up on another host with what was on its disk, at its address (2.91)."""
    name = f"shelf-{secrets.token_hex(3)}"
    key = new_key(tmp_path, cloud, name=name)
    server = cloud.boot("shelved", key_name=name, config_drive=True)
    server.status("ACTIVE")
    server.attach_floating(key)
    server.ready()
    _answers(server, "echo kept | tee /root/marker; sync")
    fixed, first = server.fixed(), _host(server)
    admin = cloud.client("admin")
    services = admin.get(f"{COMPUTE}/os-services", binary="nova-compute")["services"]
    (other,) = (s["host"] for s in services if s["host"] != first)
    server.act("shelve")
    server.status("SHELVED_OFFLOADED")
    assert all(server.id not in names for names in _files(cloud))
    admin.call("POST", f"{server.path}/action", {"unshelve": {"host": other}})
    server.status("ACTIVE")
    assert (_host(server), server.fixed()) == (other, fixed)
    assert _answers(server, "cat /root/marker").split() == ["kept"]
    cloud.check_audit()
    server.delete()
    server.gone()
    assert _files(cloud) == [[], []]
