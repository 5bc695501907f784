"""``kilonova host drain``: the plan, the drain that is watched, and one whose cloud is killed in the middle of it."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from kilonova.cli.client import Client, connect
from kilonova.server import state
from tests.clients.test_command_line import directory, kilonova, wait

pytestmark = pytest.mark.clients
__all__ = ["directory"]  # a fixture
S = "/compute/v2.1/servers"
HOSTS = ("--driver", "fake", "--port", "0", "--detach", "--json")


def _up(path: Path, cells: int = 1, hosts: int = 3) -> dict[str, Any]:
    shape = ("--cells", str(cells), "--hosts", str(hosts))
    said = kilonova("up", *HOSTS, *shape, "--state-dir", str(path), KILONOVA_BUILD_TIME_S="0.3")
    found: dict[str, Any] = json.loads(said.stdout)
    return found


def _made(client: Client, n: int) -> list[str]:
    """Make servers that are off; return their ids once they are."""
    image = client.get("/image/v2/images", name="tiny-linux")["images"][0]["id"]
    flavor = next(
        f["id"] for f in client.get("/compute/v2.1/flavors")["flavors"] if f["name"] == "m1.nano"
    )
    body = {"name": "s", "flavorRef": flavor, "imageRef": image, "networks": "none"}
    ids = [str(client.call("POST", S, {"server": body})["server"]["id"]) for _ in range(n)]
    for one in ids:
        wait(lambda one=one: client.get(f"{S}/{one}")["server"]["status"] == "ACTIVE")  # type: ignore[misc]
        client.call("POST", f"{S}/{one}/action", {"os-stop": None})
    for one in ids:
        wait(lambda one=one: client.get(f"{S}/{one}")["server"]["status"] == "SHUTOFF")  # type: ignore[misc]
    return ids


def _hosts(client: Client, ids: list[str]) -> list[str]:
    return [client.get(f"{S}/{i}")["server"]["OS-EXT-SRV-ATTR:host"] for i in ids]


def test_a_drain_survives_kill_9(directory: Path) -> None:
    """Nothing is asked for again: the next ``up`` goes on where it was, and each server has moved once."""
    what = _up(directory)
    client = connect(directory)
    ids = _made(client, 8)
    before = _hosts(client, ids)
    host = max(set(before), key=before.count)
    here = [i for i, h in zip(ids, before, strict=True) if h == host]
    said = kilonova("host", "drain", host, "--dry-run", "--state-dir", str(directory)).stdout
    assert all(i in said for i in here) and "cold" in said
    kilonova("host", "drain", host, "--no-wait", "--at-once", "1", "--state-dir", str(directory))
    path = f"/kilonova/v1/hosts/{host}/drain"
    wait(lambda: "wait" in {s["way"] for s in client.get(path)["drain"]["servers"]})
    os.kill(what["pid"], signal.SIGKILL)
    wait(lambda: state.running(directory) is None)

    _up(directory)
    client = connect(directory)
    found = client.get(path)["drain"]
    assert found["state"] not in ("done", "failed", "cancelled"), "it was not in the middle"
    wait(lambda: client.get(path)["drain"]["state"] == "done")
    found = client.get(path)["drain"]
    assert (found["moved"], found["servers"]) == (len(here), [])
    assert host not in _hosts(client, ids)
    moves = client.get("/compute/v2.1/os-migrations")["migrations"]
    assert sorted(m["instance_uuid"] for m in moves) == sorted(here)
    assert {m["status"] for m in moves} == {"confirmed"}
    wait(lambda: bool(client.get("/kilonova/v1/audit")["clean"]))


def test_a_drain_into_another_cell_survives_kill_9(directory: Path) -> None:
    """A cell's only host is emptied into the other cell, though the cloud dies on the way; each moves once."""
    what = _up(directory, 2, 1)
    client, options = connect(directory), ("--state-dir", str(directory))
    ids = _made(client, 8)
    before = _hosts(client, ids)
    host = max(set(before), key=before.count)
    (other,) = {"cell1-host1", "cell2-host1"} - {host}
    here = [i for i, h in zip(ids, before, strict=True) if h == host]
    said = kilonova("host", "drain", host, "--dry-run", *options).stdout
    assert other not in said and "No valid host" in said
    said = kilonova("host", "drain", host, "--dry-run", "--across-cells", *options).stdout
    assert said.count(other) == len(here)
    kilonova("host", "drain", host, "--across-cells", "--no-wait", "--at-once", "1", *options)
    path = f"/kilonova/v1/hosts/{host}/drain"
    wait(lambda: "wait" in {s["way"] for s in client.get(path)["drain"]["servers"]})
    os.kill(what["pid"], signal.SIGKILL)
    wait(lambda: state.running(directory) is None)

    _up(directory, 2, 1)
    client = connect(directory)
    assert client.get(path)["drain"]["state"] not in ("done", "failed", "cancelled")
    wait(lambda: client.get(path)["drain"]["state"] == "done")
    found = client.get(path)["drain"]
    assert (found["moved"], found["servers"]) == (len(here), [])
    assert set(_hosts(client, ids)) == {other}
    moves = client.get("/compute/v2.1/os-migrations")["migrations"]
    assert sorted(m["instance_uuid"] for m in moves) == sorted(here)
    wait(lambda: bool(client.get("/kilonova/v1/audit")["clean"]))


def test_a_drain_is_watched(directory: Path) -> None:
    """It prints how far it is, and says at the end what stays, with exit code 1."""
    _up(directory)
    client = connect(directory)
    ids = _made(client, 3)
    (host,) = _hosts(client, ids[:1])
    options = ("--state-dir", str(directory))
    said = kilonova("host", "drain", host, *options).stdout
    assert "moved" in said and f"The drain of {host} is done" in said
    assert host not in _hosts(client, ids)
    kilonova("host", "enable", host, *options)
    (other,) = _hosts(client, ids[:1])
    for name in {h["host"] for h in client.get("/kilonova/v1/status")["hosts"]} - {other}:
        kilonova("host", "disable", name, *options)
    said = kilonova("host", "drain", other, *options, code=1).stdout
    assert ids[0] in said and "could not be moved" in said
    kilonova("host", "drain", "nowhere", *options, code=1)
    kilonova("host", "drain", *options, code=2)
