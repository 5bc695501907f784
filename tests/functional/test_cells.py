"""Cells by the operators' API: added by a URL, disabled, enabled, forgotten; on a whole simulated cloud."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kilonova.db import hosts
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


def test_added_used_and_forgotten(tmp_path: Path) -> None:
    """After a restart the cell is there; its URL is sealed; forgotten it is nowhere."""
    state = tmp_path / "state"
    state.mkdir()
    first = Whole(state, cells=1, hosts=1)
    try:
        url = f"sqlite:///{tmp_path}/added.db"
        got = first.call("POST", K, {"name": "added", "url": url}, who="admin")
        assert (got.status, got.json["cell"]["state"]) == (201, "waits for a restart")
        assert first.call("POST", K, {"name": "added", "url": url}, who="admin").status == 409
        assert str(tmp_path / "added.db").encode() not in (state / "db" / "global.db").read_bytes()
    finally:
        first.close()
    second = Whole(state, cells=1, hosts=1)
    try:
        found = cells(second)["added"]
        assert (found["state"], found["added"], found["servers"]) == ("up", True, 0)
        assert "added" in second.services.real_cells()
        assert second.call("DELETE", f"{K}/added", who="admin").status == 204
        assert cells(second)["added"]["added"] is False  # until the next start it is only empty
    finally:
        second.close()
