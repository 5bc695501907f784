"""Cells by the operators' API: added by a URL, disabled, enabled, forgotten; on a whole simulated cloud."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kilonova.db import hosts, mappings
from kilonova.server.access import ImageAccess
from kilonova.server.simulated import FakeHosts
from tests.client import until
from tests.whole import Whole, running

K, S = "/kilonova/v1/cells", "/compute/v2.1/servers"


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    with running(cells=2, hosts=1) as cloud:
        yield cloud


def cells(whole: Whole) -> dict[str, dict[str, Any]]:
    found = whole.call("GET", K, who="admin").json["cells"]
    return {c["name"]: c for c in found}


def cell_of(whole: Whole, server: str) -> str:
    host = whole.call("GET", f"{S}/{server}", who="admin").json["server"]["OS-EXT-SRV-ATTR:host"]
    return str(whole.services.hosts.cell_of(host))


def test_nothing_is_placed_in_a_disabled_cell(whole: Whole) -> None:
    """Its servers go on; enabled again it is used again."""
    there = next(s for s in iter(whole.server, None) if cell_of(whole, s) == "cell2")
    got = whole.call("PUT", f"{K}/cell2", {"disabled": True}, who="admin")
    assert (got.status, got.json["cell"]["disabled"]) == (200, True)
    made = [whole.server() for _ in range(4)]
    assert {cell_of(whole, s) for s in made} == {"cell1"}
    action = f"{S}/{there}/action"
    assert whole.call("POST", action, {"os-stop": None}).status == 202
    assert whole.settled(there).json["server"]["status"] == "SHUTOFF"
    assert whole.call("DELETE", f"{K}/cell2", who="admin").status == 409
    assert whole.call("PUT", f"{K}/cell2", {"disabled": False}, who="admin").status == 200
    for server in made:
        whole.gone(server)
    until(lambda: cell_of(whole, whole.server()) == "cell2" or None)
    for server in whole.call("GET", S).json["servers"]:
        whole.gone(server["id"])


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("oracle://h/x", "must begin with one of"),
        ("/var/lib/cell.db", "not a path"),
        ("postgresql://u:hidden-word@127.0.0.1:1/", "must name the database"),
        ("postgresql://u:hidden-word@127.0.0.1:1/cell7", "at postgresql://127.0.0.1/cell7"),
        ("sqlite:///relative.db", "begins at the root"),
        ("sqlite:////nowhere/at/all/cell.db", "cell7"),
        ("sqlite:////etc/hostname", "cell7"),
        ("http://[", "url"),
    ],
)
def test_a_wrong_url_is_named(whole: Whole, url: str, says: str) -> None:
    """Nothing is kept of it, and no password is repeated."""
    before = set(cells(whole))
    got = whole.call("POST", K, {"name": "cell7", "url": url}, who="admin")
    assert got.status == 400 and says in got.raw.decode(), got
    assert b"hidden-word" not in got.raw
    assert set(cells(whole)) == before


def test_what_else_is_refused(whole: Whole, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/c.db"
    for name in ("cell0", "global", "Cell", "a b", "-x", "x" * 65, ""):
        assert whole.call("POST", K, {"name": name, "url": url}, who="admin").status == 400
    assert whole.call("POST", K, {"name": "cell1", "url": url}, who="admin").status == 409
    db = f"sqlite:///{whole.plan.state_dir}/db/cell1.db"
    if not whole.services.hosts.all():
        raise AssertionError("the cell has no hosts, and nothing was tested")
    got = whole.call("POST", K, {"name": "cell9", "url": db}, who="admin")
    assert got.status == 400 and "is a cell's" in got.raw.decode()
    for method, path, body in (
        ("GET", K, None),
        ("POST", K, {"name": "c", "url": url}),
        ("PUT", f"{K}/cell1", {"disabled": True}),
        ("DELETE", f"{K}/cell1", None),
    ):
        assert whole.call(method, path, body, who="demo").status == 403
    assert whole.call("PUT", f"{K}/nobody", {"disabled": True}, who="admin").status == 404
    assert whole.call("DELETE", f"{K}/nobody", who="admin").status == 404
    empty = whole.call("DELETE", f"{K}/cell1", who="admin")
    assert empty.status == 409 and "hosts" in empty.raw.decode()


def test_a_host_without_a_mapping_is_found(whole: Whole) -> None:
    """It is asked to register, and is mapped then."""
    host = "cell1-host1"
    path = "/kilonova/v1/hosts/discover"
    assert whole.call("POST", path, {}, who="demo").status == 403
    assert whole.call("POST", path, {}, who="admin").json == {"findings": []}
    whole.services.world.write(lambda tx: hosts.unmap(tx, host))
    found = whole.call("POST", path, {}, who="admin").json["findings"]
    assert [(f["kind"], f["subject"]) for f in found] == [("host_unmapped", host)]
    until(lambda: whole.services.world.read(lambda tx: hosts.mapping_of(tx, host)))


def joined(whole: Whole, cell: str) -> FakeHosts:
    """Start a simulated host that says that it is of a cell; return before it is registered."""
    at = whole.plan.state_dir / f"hosts-{cell}"
    at.mkdir(exist_ok=True)
    plan = replace(whole.plan, state_dir=at)
    hosts = [(cell, f"{cell}-host1")]
    access = ImageAccess.within(whole.cloud.images, plan.settings)
    made = FakeHosts(plan, hosts, lambda _: whole.cloud.bus, access)
    made.start(wait_s=0.0)
    return made


def state_of(whole: Whole, host: str) -> str:
    return "up" if whole.services.hosts.is_up(host) else "unknown"


def test_a_cell_is_used_at_once(tmp_path: Path) -> None:
    """Without a restart: its hosts register, servers go there, and its URL is sealed. Emptied it leaves nothing."""
    state = tmp_path / "state"
    state.mkdir()
    whole, fleet = Whole(state, cells=1, hosts=1), None
    try:
        fleet = joined(whole, "west")  # before its cell is there: it is refused, and asks again
        url = f"sqlite:///{tmp_path}/west.db"
        got = whole.call("POST", K, {"name": "west", "url": url}, who="admin")
        assert (got.status, got.json["cell"]["state"]) == (201, "up")
        assert whole.call("POST", K, {"name": "west", "url": url}, who="admin").status == 409
        assert str(tmp_path / "west.db").encode() not in (state / "db" / "global.db").read_bytes()
        until(lambda: state_of(whole, "west-host1") == "up" or None, "the host is up", 40.0)
        assert whole.call("PUT", f"{K}/cell1", {"disabled": True}, who="admin").status == 200
        server = until(lambda: _placed(whole, "west"))
        stop = whole.call("POST", f"{S}/{server}/action", {"os-stop": None})
        assert stop.status == 202 and whole.settled(server).json["server"]["status"] == "SHUTOFF"
        refused = whole.call("DELETE", f"{K}/west?force=1", who="admin")
        assert refused.status == 409 and server in refused.raw.decode()
        whole.gone(server)
        assert "west-host1" in whole.call("DELETE", f"{K}/west", who="admin").raw.decode()
        gone = whole.call("DELETE", f"{K}/west?force=1", who="admin")
        assert gone.status == 204, gone.raw
        assert "west" not in cells(whole) and whole.services.hosts.find("west-host1") is None
        named = whole.call("GET", "/placement/resource_providers", who="admin").json
        assert [p["name"] for p in named["resource_providers"]] == ["cell1-host1"]
        assert whole.services.world.read(lambda tx: hosts.mapping_of(tx, "west-host1")) is None
        again = whole.call("POST", K, {"name": "west", "url": url}, who="admin")
        assert again.status == 400 and "or had them" in again.raw.decode()
        assert whole.audit() == []
    finally:
        if fleet is not None:
            fleet.close()
        whole.close()


def _placed(whole: Whole, cell: str) -> str | None:
    """Make a server; return it once one is in the cell, and remove those that are not."""
    server = whole.server()
    if cell_of(whole, server) == cell:
        return server
    whole.gone(server)
    return None


def test_added_is_there_after_a_restart(tmp_path: Path) -> None:
    """It is opened by its sealed URL; forgotten it is nowhere."""
    state = tmp_path / "state"
    state.mkdir()
    first = Whole(state, cells=1, hosts=1)
    try:
        url = f"sqlite:///{tmp_path}/added.db"
        assert first.call("POST", K, {"name": "added", "url": url}, who="admin").status == 201
    finally:
        first.close()
    second = Whole(state, cells=1, hosts=1)
    try:
        found = cells(second)["added"]
        assert (found["state"], found["added"], found["servers"]) == ("up", True, 0)
        assert "added" in second.services.real_cells()
        assert second.call("DELETE", f"{K}/added", who="admin").status == 204
        assert "added" not in cells(second) and "added" not in second.services.real_cells()
    finally:
        second.close()


def test_what_keeps_a_cell(whole: Whole) -> None:
    """Servers of every kind are listed: running, soft-deleted, kept by a move, an operation's; nothing is lost."""
    world, name = whole.services.world, "cell2"
    server = next(s for s in iter(whole.server, None) if cell_of(whole, s) == name)
    world.write(lambda tx: mappings.set_soft_deleted(tx, server, 1.0, soft_deleted=True))
    said = whole.call("DELETE", f"{K}/{name}", who="admin")
    assert said.status == 409 and f"{server} (soft-deleted)" in said.raw.decode()
    world.write(lambda tx: mappings.set_soft_deleted(tx, server, 1.0, soft_deleted=False))
    world.write(lambda tx: mappings.place(tx, server, cell="cell1", host=None, now=1.0))
    said = whole.call("DELETE", f"{K}/{name}?force=1", who="admin")
    assert said.status == 409 and "are claimed by" in said.raw.decode()
    world.write(lambda tx: mappings.place(tx, server, cell=name, host="cell2-host1", now=1.0))
    for one in whole.call("GET", S).json["servers"]:
        whole.gone(one["id"])
    said = whole.call("DELETE", f"{K}/{name}?force=1", who="admin")
    assert said.status == 409 and "in the configuration" in said.raw.decode()


def test_a_move_that_waits_keeps_the_cell_it_came_from(whole: Whole) -> None:
    """The mapping names the other cell already; the record of the first one is what a revert needs."""
    server = next(s for s in iter(whole.server, None) if cell_of(whole, s) == "cell1")
    assert whole.call("PUT", f"{K}/cell1", {"disabled": True}, who="admin").status == 200
    moved = whole.call("POST", f"{S}/{server}/action", {"migrate": None}, who="admin")
    assert moved.status == 202, moved.raw
    assert whole.settled(server).json["server"]["status"] == "VERIFY_RESIZE"
    assert cell_of(whole, server) == "cell2"
    for one in whole.call("GET", S).json["servers"]:
        if one["id"] != server:
            whole.gone(one["id"])
    said = whole.call("DELETE", f"{K}/cell1?force=1", who="admin")
    assert said.status == 409 and "claimed by" in said.raw.decode()
    assert whole.call("POST", f"{S}/{server}/action", {"confirmResize": None}).status == 204
    assert whole.settled(server).json["server"]["status"] == "ACTIVE"
    whole.call("PUT", f"{K}/cell1", {"disabled": False}, who="admin")
    whole.gone(server)


def test_its_database_moves(tmp_path: Path) -> None:
    """Another URL is taken when the cell's own records are there, and used without a restart; others are refused."""
    state = tmp_path / "state"
    state.mkdir()
    whole = Whole(state, cells=1, hosts=1)
    one, two = tmp_path / "one.db", tmp_path / "two.db"
    fleet = None
    try:
        body = {"name": "west", "url": f"sqlite:///{one}"}
        assert whole.call("POST", K, body, who="admin").status == 201
        fleet = joined(whole, "west")
        until(lambda: state_of(whole, "west-host1") == "up" or None)
        empty = {"url": f"sqlite:///{tmp_path}/empty.db"}
        said = whole.call("PUT", f"{K}/west", empty, who="admin")
        assert said.status == 400 and "knows none of the 1 hosts" in said.raw.decode()
        with sqlite3.connect(one) as source, sqlite3.connect(two) as target:
            source.backup(target)
        got = whole.call("PUT", f"{K}/west", {"url": f"sqlite:///{two}"}, who="admin")
        assert got.status == 200 and got.json["cell"]["database"].endswith("two.db")
        assert whole.services.cells["west"].path == two  # type: ignore[attr-defined]
        said = whole.call("PUT", f"{K}/cell1", empty, who="admin")
        assert said.status == 409 and "configuration" in said.raw.decode()
        assert whole.call("PUT", f"{K}/nobody", empty, who="admin").status == 404
    finally:
        if fleet is not None:
            fleet.close()
        whole.close()


def test_a_database_that_is_not_the_cells(tmp_path: Path) -> None:
    """At a start another database lies where the cell's was: it is not used, said why, and nothing is lost."""
    state, there = tmp_path / "state", tmp_path / "west.db"
    state.mkdir()
    first, fleet = Whole(state, cells=1, hosts=1), None
    try:
        body = {"name": "west", "url": f"sqlite:///{there}"}
        assert first.call("POST", K, body, who="admin").status == 201
        fleet = joined(first, "west")
        until(lambda: state_of(first, "west-host1") == "up" or None)
        first.call("PUT", f"{K}/cell1", {"disabled": True}, who="admin")
        server = until(lambda: _placed(first, "west"))
    finally:
        if fleet is not None:
            fleet.close()
        first.close()
    for part in ("", "-wal", "-shm"):
        if there.with_name(there.name + part).exists():
            there.with_name(there.name + part).rename(tmp_path / f"kept.db{part}")
    second = Whole(state, cells=1, hosts=1)
    try:
        found = cells(second)["west"]
        assert found["state"] == "down" and "knows none of the 1 hosts" in found["why"]
        shown = second.call("GET", f"{S}/{server}", version="2.69").json["server"]
        assert shown["status"] == "UNKNOWN"
        url = {"url": f"sqlite:///{tmp_path}/kept.db"}
        assert second.call("PUT", f"{K}/west", url, who="admin").status == 200
        assert cells(second)["west"]["state"] == "up"
        assert second.call("GET", f"{S}/{server}").json["server"]["status"] == "ACTIVE"
    finally:
        second.close()
