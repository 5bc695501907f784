"""Evacuation to another cell over HTTP (CC-12.5): who may, where it goes, what is seen when the host is back."""

from collections.abc import Iterator

import pytest

from tests.functional.compute.test_evacuate import _evacuate, _force, _host
from tests.whole import Whole, running, until

V = "/compute/v2.1"


@pytest.fixture(scope="module")
def cloud() -> Iterator[Whole]:
    """Two cells with a host each: who leaves a host leaves its cell."""
    with running(cells=2, hosts=1) as made:
        yield made


@pytest.mark.parametrize(("version", "status"), [("2.14", "ACTIVE"), ("2.95", "SHUTOFF")])
@pytest.mark.parametrize("named", [False, True])
def test_a_server_leaves_its_cell(cloud: Whole, version: str, status: str, named: bool) -> None:
    """CC-12.5, R13: its own cell has no host, or one of another is named; the dead host cleans up when it is back."""
    server = cloud.server("nomad", who="admin", networks="auto", tags=["a"])
    host = _host(cloud, server)
    other = {"cell1-host1": "cell2-host1", "cell2-host1": "cell1-host1"}[host]
    before = cloud.settled(server).json["server"]["addresses"]
    _force(cloud, host, True)
    try:
        asked = {"host": other} if named else {}
        assert _evacuate(cloud, server, version, **asked).status == 200
        shown = cloud.settled(server).json["server"]
        assert (shown["status"], _host(cloud, server)) == (status, other)
        assert shown["addresses"] == before
        path = f"{V}/os-migrations?instance_uuid={server}"
        moves = cloud.call("GET", path, who="admin", version="2.80").json["migrations"]
        told = [(m["migration_type"], m["status"], m["cross_cell_move"]) for m in moves]
        assert told == [("evacuation", "done", True)]
    finally:
        _force(cloud, host, False)
    until(lambda: [f for f in cloud.audit() if f["kind"] == "cleanup_waiting"] == [])
    cloud.gone(server)


def test_who_may(cloud: Whole) -> None:
    """Not who may not evacuate at all; nothing is touched."""
    server = cloud.server("mine")
    host = _host(cloud, server)
    _force(cloud, host, True)
    try:
        assert _evacuate(cloud, server, "2.95", who="demo").status == 403
        assert _evacuate(cloud, server, "2.95", who="manager").status == 403
        assert _host(cloud, server) == host
    finally:
        _force(cloud, host, False)
    cloud.gone(server)


def test_nothing_is_left(cloud: Whole) -> None:
    cloud.at_rest()
    assert cloud.audit() == []
