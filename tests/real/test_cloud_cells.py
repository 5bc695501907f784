"""Two cells with a real host each, on one machine: a guest goes to the other cell, back, and there for good."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.cloud import COMPUTE, RealCloud, Server, new_key, running_cloud
from tests.real.outside import missing, timed
from tests.real.patience import answers

_why = missing()
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(_why is not None, reason=str(_why)),
    pytest.mark.timeout(900),  # three boots, on a machine that may do other things too
]


@pytest.fixture(scope="module")
def cloud() -> Iterator[RealCloud]:
    with running_cloud(hosts=2, cells=2) as (made, _):
        yield made


def _host(server: Server) -> str:
    shown = server.cloud.client("admin").get(server.path)["server"]
    return str(shown["OS-EXT-SRV-ATTR:host"])


def _leave(server: Server) -> None:
    """Have it leave its cell."""
    admin = server.cloud.client("admin")
    hosts = admin.get(f"{COMPUTE}/os-hypervisors")["hypervisors"]
    names = {str(h["hypervisor_hostname"]) for h in hosts}
    (target,) = names - {_host(server)}
    with timed(f"{server.name} to the other cell"):
        admin.call("POST", f"{server.path}/action", {"migrate": {"host": target}})
        server.status("VERIFY_RESIZE")
    assert _host(server) == target


def test_there_back_and_for_good(cloud: RealCloud, tmp_path: Path) -> None:
    """CC-0: same uuid, addresses and key; what is on its disk goes along; a revert brings the old disk back."""
    key = new_key(tmp_path, cloud)
    cloud.allow("tcp", 22)
    server = cloud.boot("nomad", key_name="test")
    server.status("ACTIVE")
    server.attach_floating(key)
    server.ready()
    first, address = _host(server), server.fixed()
    answers(server, "echo one >/root/marker; sync")

    _leave(server)
    assert server.fixed() == address
    assert answers(server, "cat /root/marker; echo two >>/root/marker; sync").split() == ["one"]
    server.act("revertResize")
    server.status("ACTIVE")
    assert _host(server) == first
    assert answers(server, "cat /root/marker").split() == ["one"]

    _leave(server)
    server.act("confirmResize")
    server.status("ACTIVE")
    assert _host(server) != first and server.fixed() == address
    assert answers(server, "cat /root/marker").split() == ["one"]
    cloud.check_audit()
    assert len(list(cloud.directory.glob("agent*/instances/*"))) == 1
    server.delete()
    server.gone()
    assert list(cloud.directory.glob("agent*/instances/*")) == []
