"""Moves to another cell over HTTP, against a whole cloud of two cells: who may, what is seen, what lists say."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kilonova.common.config import Settings
from tests.whole import Answer, Whole, running, until

V = "/compute/v2.1"


@pytest.fixture(scope="module")
def cloud() -> Iterator[Whole]:
    """Two cells; who may leave its cell would rather do so."""
    settings = Settings(cross_cell_move_weight_multiplier=-1e6)
    with running(cells=2, hosts=2, settings=settings) as made:
        yield made


@pytest.fixture
def server(cloud: Whole) -> Iterator[str]:
    zone = "nova:cell1-host1"
    made = cloud.server(who="admin", networks="auto", availability_zone=zone, tags=["a", "b"])
    yield made
    cloud.gone(made)


def act(cloud: Whole, server: str, action: str, body: Any = None, **more: Any) -> Answer:
    return cloud.call(
        "POST", f"{V}/servers/{server}/action", {action: body}, **{"who": "admin", **more}
    )


def shown(cloud: Whole, server: str) -> dict[str, Any]:
    found: dict[str, Any] = cloud.settled(server).json["server"]
    return found


def migrate(cloud: Whole, server: str, host: str) -> dict[str, Any]:
    got = act(cloud, server, "migrate", {"host": host}, version="2.56")
    assert got.status == 202, got
    return shown(cloud, server)


def confirm(cloud: Whole, server: str) -> dict[str, Any]:
    assert act(cloud, server, "confirmResize").status == 204
    return shown(cloud, server)


def revert(cloud: Whole, server: str) -> dict[str, Any]:
    assert act(cloud, server, "revertResize").status == 202
    return shown(cloud, server)


def flavor(cloud: Whole, name: str) -> str:
    listed = cloud.call("GET", f"{V}/flavors/detail").json["flavors"]
    return str(next(f["id"] for f in listed if f["name"] == name))


def test_resize_and_confirm(cloud: Whole, server: str) -> None:
    """CC-3.8, 7.5, 10.4: VERIFY_RESIZE, then ACTIVE, in another cell, with the same addresses and tags."""
    before = shown(cloud, server)
    bigger = flavor(cloud, "m1.small")
    assert act(cloud, server, "resize", {"flavorRef": bigger}).status == 202
    now = shown(cloud, server)
    host = "OS-EXT-SRV-ATTR:host"
    assert (now["status"], now["flavor"]["id"]) == ("VERIFY_RESIZE", bigger)
    assert before[host].startswith("cell1-") and now[host].startswith("cell2-")
    assert now["addresses"] == before["addresses"] and now["id"] == before["id"]
    assert confirm(cloud, server)["status"] == "ACTIVE"
    tags = cloud.call("GET", f"{V}/servers/{server}/tags", who="admin", version="2.26").json
    assert sorted(tags["tags"]) == ["a", "b"]


def test_who_may(cloud: Whole) -> None:
    """CC-3.8: not the owner, unless a policy file says so: its servers stay in their cell."""
    mine = cloud.server(availability_zone="nova")
    host = shown(cloud, mine)["OS-EXT-SRV-ATTR:host"]
    bigger = flavor(cloud, "m1.small")
    assert act(cloud, mine, "resize", {"flavorRef": bigger}, who="demo").status == 202
    now = shown(cloud, mine)["OS-EXT-SRV-ATTR:host"]
    assert now.partition("-")[0] == host.partition("-")[0]
    cloud.gone(mine)


def test_one_migration_is_listed(cloud: Whole, server: str) -> None:
    """CC-4.4: the two records of one move are one, marked, on whatever page."""
    migrate(cloud, server, "cell2-host1")
    path = f"{V}/os-migrations?instance_uuid={server}"
    listed = cloud.call("GET", path, who="admin", version="2.80").json["migrations"]
    assert [(m["status"], m["cross_cell_move"]) for m in listed] == [("finished", True)]
    assert (listed[0]["source_compute"], listed[0]["dest_compute"]) == (
        "cell1-host1",
        "cell2-host1",
    )
    marker = f"{V}/os-migrations?marker={listed[0]['uuid']}"
    after = cloud.call("GET", marker, who="admin", version="2.80").json["migrations"]
    assert listed[0]["uuid"] not in {m["uuid"] for m in after}
    revert(cloud, server)
    listed = cloud.call("GET", path, who="admin", version="2.80").json["migrations"]
    assert [m["status"] for m in listed] == ["reverted"]


def test_history_is_whole(cloud: Whole, server: str) -> None:
    """CC-7.2, 10.2, 11.8: actions are listed once, with the events of both sides."""
    migrate(cloud, server, "cell2-host2")
    confirm(cloud, server)
    path = f"{V}/servers/{server}/os-instance-actions"
    listed = cloud.call("GET", path, who="admin").json["instanceActions"]
    assert [a["action"] for a in listed] == ["confirmResize", "migrate", "create"]
    one = cloud.call("GET", f"{path}/{listed[1]['request_id']}", who="admin", version="2.51")
    told = {e["event"]: e["result"] for e in one.json["instanceAction"]["events"]}
    assert told["compute_finish_snapshot_based_resize_at_dest"] == "Success"
    assert set(told.values()) == {"Success"}


def test_what_is_refused(cloud: Whole, server: str) -> None:
    """Bad input: to where it is, to nowhere, a confirm twice, a revert of nothing."""
    same = act(cloud, server, "migrate", {"host": "cell1-host1"}, version="2.56")
    assert same.status == 400, same
    assert act(cloud, server, "migrate", {"host": "no-such"}, version="2.56").status == 400
    assert act(cloud, server, "revertResize").status == 409
    migrate(cloud, server, "cell2-host1")
    assert act(cloud, server, "resize", {"flavorRef": flavor(cloud, "m1.small")}).status == 409
    first, second = act(cloud, server, "confirmResize"), act(cloud, server, "confirmResize")
    assert (first.status, second.status) in ((204, 409), (204, 400))
    assert shown(cloud, server)["status"] == "ACTIVE"


class Poller(threading.Thread):
    """Reads a server every 10 ms, alone and in lists, until it is told to end."""

    def __init__(self, cloud: Whole, server: str) -> None:
        super().__init__(daemon=True)
        self.cloud, self.server = cloud, server
        self.wrong: list[str] = []
        self.hosts: set[str] = set()
        self.looks = 0
        self._end = threading.Event()

    def run(self) -> None:
        reads: list[Callable[[], str]] = [self._detail, self._plain, self._one, self._page]
        while not self._end.wait(0.01):
            for read in reads:
                found = read()
                if found:
                    self.wrong.append(found)
            self.looks += 1
        self.cloud.hang_up()

    def end(self) -> None:
        self._end.set()
        self.join(10)

    def _mine(self, path: str) -> list[Any]:
        got = self.cloud.call("GET", f"{V}/{path}", who="admin")
        return [s for s in got.json.get("servers", ()) if s["id"] == self.server]

    def _detail(self) -> str:
        mine = self._mine("servers/detail?all_tenants=1")
        self.hosts |= {str(s["OS-EXT-SRV-ATTR:host"]) for s in mine}
        return "" if len(mine) == 1 else f"detail: {len(mine)}"

    def _plain(self) -> str:
        n = len(self._mine("servers?all_tenants=1"))
        return "" if n == 1 else f"list: {n}"

    def _page(self) -> str:
        n = len(self._mine("servers?all_tenants=1&limit=1"))
        return "" if n == 1 else f"page: {n}"

    def _one(self) -> str:
        got = self.cloud.call("GET", f"{V}/servers/{self.server}", who="admin")
        status = got.json["server"]["status"] if got.status == 200 else ""
        right = ("ACTIVE", "RESIZE", "VERIFY_RESIZE", "REVERT_RESIZE", "MIGRATING")
        return "" if status in right else f"one: {got.status} {status}"


def test_exactly_one_at_every_instant(cloud: Whole, server: str) -> None:
    """R11, CC-4.2, 7.6, 11.7: through moves, reverts and confirms a poller sees the server once, whatever it reads."""
    cloud.call("GET", f"{V}/servers", who="admin")
    poller = Poller(cloud, server)
    poller.start()
    until(lambda: poller.looks > 3)
    for _ in range(3):
        migrate(cloud, server, "cell2-host1")
        revert(cloud, server)
        migrate(cloud, server, "cell2-host2")
        confirm(cloud, server)
        migrate(cloud, server, "cell1-host2")
        confirm(cloud, server)
    poller.end()
    assert poller.wrong == [] and poller.looks > 10
    assert {h.partition("-")[0] for h in poller.hosts} == {"cell1", "cell2"}


def test_nothing_is_left(cloud: Whole) -> None:
    """CC-8.3, 10.7, 11.13: made, moved, deleted while it waits: the ledger is what it was."""
    cloud.at_rest()
    before = cloud.ledger()
    made = cloud.server(who="admin", networks="auto", availability_zone="nova:cell1-host2")
    migrate(cloud, made, "cell2-host2")
    cloud.gone(made)
    cloud.at_rest()
    kept = ("deleted", "operation", "action", "event", "migration")
    more = {k: v for k, v in (cloud.ledger() - before).items() if not k.startswith(kept)}
    assert more == {}
