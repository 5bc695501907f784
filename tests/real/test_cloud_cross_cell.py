"""Move a real guest between two cells with a host each on this machine: its disks, addresses, key and tags go along."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real.cloud import COMPUTE, RealCloud, Server, new_key, running_cloud
from tests.real.outside import missing, timed, until

_why = missing()
pytestmark = [pytest.mark.real, pytest.mark.skipif(_why is not None, reason=str(_why))]


@pytest.fixture(scope="module")
def cloud() -> Iterator[RealCloud]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KILONOVA_CROSS_CELL_MOVE_WEIGHT_MULTIPLIER", "-1000000")
        with running_cloud(hosts=2, cells=2) as (made, _):
            yield made


def _shown(server: Server) -> dict[str, Any]:
    shown: dict[str, Any] = server.cloud.client("admin").get(server.path)["server"]
    return shown


def _act(server: Server, body: dict[str, Any]) -> None:
    server.cloud.client("admin").call("POST", f"{server.path}/action", body)


def _answers(server: Server, command: str) -> str:
    """Return what the guest says as soon as it takes SSH again."""

    def told() -> Any:
        with contextlib.suppress(subprocess.TimeoutExpired):  # the machine does other things too
            done = server.ssh(command)
            return done.stdout if done.returncode == 0 else None
        return None

    return str(until(told, f"{server.name} answers after its move", 240))


def _files(cloud: RealCloud) -> list[list[str]]:
    """Return which servers have files on each host."""
    agents = (cloud.directory / "agent", cloud.directory / "agent-2")
    return [sorted(p.name for p in (a / "instances").iterdir()) for a in agents]


def _flavor(cloud: RealCloud, name: str, disk: int) -> str:
    body = {"name": name, "vcpus": 1, "ram": 192, "disk": disk}
    made = cloud.client("admin").call("POST", f"{COMPUTE}/flavors", {"flavor": body})["flavor"]
    return str(made["id"])


def test_there_and_back_and_for_good(cloud: RealCloud, tmp_path: Path) -> None:
    """CC-0.1, 6.2, 6.8, 7.5, 7.8, 10.3, 11.13: data, addresses, keys; nothing is left in the cell that it left."""
    key = new_key(tmp_path, cloud)
    cloud.allow("tcp", 22)
    _flavor(cloud, "one-gib", 1)
    bigger = _flavor(cloud, "two-gib", 2)
    server = cloud.boot("mover", key_name="test", config_drive=True, flavor="one-gib")
    server.status("ACTIVE")
    server.attach_floating(key)
    server.ready()
    _answers(server, "echo one >/root/marker; sync; echo done")
    before = _shown(server)
    host = "OS-EXT-SRV-ATTR:host"

    with timed("cold migration to another cell"):
        _act(server, {"migrate": None})
        server.status("VERIFY_RESIZE")
    there = _shown(server)
    assert there[host] != before[host] and there["addresses"] == before["addresses"]
    assert all(server.id in names for names in _files(cloud))
    assert _answers(server, "cat /root/marker; echo two >>/root/marker; sync").split() == ["one"]
    with timed("revert"):
        _act(server, {"revertResize": None})
        server.status("ACTIVE")
    assert _shown(server)[host] == before[host]
    assert _answers(server, "cat /root/marker").split() == ["one"]

    with timed("resize into another cell"):
        _act(server, {"resize": {"flavorRef": bigger}})
        server.status("VERIFY_RESIZE")
    assert _shown(server)[host] == there[host]
    told = _answers(server, "cat /root/marker; cat /sys/block/vda/size").split()
    assert told == ["one", str(2 << 21)]
    _act(server, {"confirmResize": None})
    server.status("ACTIVE")
    now = _shown(server)
    assert (now["key_name"], now["addresses"]) == ("test", before["addresses"])
    assert [server.id in names for names in _files(cloud)].count(True) == 1
    assert cloud.client("admin").get("/image/v2/images", os_hidden="true")["images"] == []
    cloud.check_audit()
    server.delete()
    server.gone()
    assert _files(cloud) == [[], []]
