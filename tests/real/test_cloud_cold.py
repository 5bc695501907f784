"""Move a real guest that is off meanwhile between two hosts on this machine: migrate, revert, confirm."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.cloud import RealCloud, Server, new_key, running_cloud
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
    with running_cloud(hosts=2) as (made, _):
        yield made


def _host(server: Server) -> str:
    shown = server.cloud.client("admin").get(server.path)["server"]
    return str(shown["OS-EXT-SRV-ATTR:host"])


def _migrate(server: Server) -> None:
    with timed(f"cold migration of {server.name}"):
        server.cloud.client("admin").call("POST", f"{server.path}/action", {"migrate": None})
        server.status("VERIFY_RESIZE")


def test_there_back_and_for_good(cloud: RealCloud, tmp_path: Path) -> None:
    """Its disk goes along; a revert brings the old one back; at the end one host has it."""
    key = new_key(tmp_path, cloud)
    cloud.allow("tcp", 22)
    server = cloud.boot("cold", key_name="test", config_drive=True)
    server.status("ACTIVE")
    server.attach_floating(key)
    server.ready()
    first = _host(server)
    answers(server, "echo one >/root/marker; sync")

    _migrate(server)
    assert _host(server) != first
    assert answers(server, "cat /root/marker; echo two >>/root/marker; sync").split() == ["one"]
    server.act("revertResize")
    server.status("ACTIVE")
    assert _host(server) == first
    assert answers(server, "cat /root/marker").split() == ["one"]

    _migrate(server)
    server.act("confirmResize")
    server.status("ACTIVE")
    assert _host(server) != first
    assert answers(server, "cat /root/marker").split() == ["one"]
    cloud.check_audit()
    assert len(list(cloud.directory.glob("agent*/instances/*"))) == 1
    server.delete()
    server.gone()
    assert list(cloud.directory.glob("agent*/instances/*")) == []
