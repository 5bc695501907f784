"""``up --split --database mariadb --apis 2 --conductors 2``: one cloud, in which cells come and go under way, and whose
roles may be started again in any order (R5).
"""

import os
import random
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests import places
from tests.client import Client, until
from tests.nats import nats_server
from tests.processes.test_split import (
    LONG_S,
    Split,
    V,
    _clean,
    _joined,
    _lift_limits,
    _Storm,
    gone,
    wait,
)
from tests.processes.test_split_databases import InTurn

K, HOSTS = "/kilonova/v1/cells", "/compute/v2.1/os-services?binary=nova-compute"


class Both(Split):
    """A deployment with two apis; ``demo`` and ``admin`` speak with them in turn."""

    def __init__(self, directory: Path, *options: str) -> None:
        super().__init__(directory, *options)
        text = (directory / "split" / "api-2.toml").read_text()
        found = re.search(r"^port = (\d+)$", text, re.MULTILINE)
        assert found is not None
        second = self.url.rpartition(":")[0] + f":{found[1]}"
        self.each = {
            name: [one, Client(second, one.token, one.project)]
            for name, one in (("demo", self.demo), ("admin", self.admin))
        }
        self.demo, self.admin = InTurn(self.each["demo"]), InTurn(self.each["admin"])


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    if shutil.which("mariadbd", path=os.environ["PATH"] + ":/usr/sbin") is None:
        pytest.skip("no MariaDB server is installed: apt-get install mariadb-server")
    options = ("--hosts", "2", "--database", "mariadb", "--apis", "2", "--conductors", "2")
    with nats_server(), places.place("split-options") as path:
        try:
            made = Both(path / "state", *options)
        except AssertionError as exc:
            if "not run as root" in str(exc):
                pytest.skip(
                    "MariaDB is not run as root, and our code is closed to other users here"
                )
            raise
        try:
            yield made
        finally:
            made.close()


def test_two_apis_are_one_cloud(both: Both) -> None:
    """What one accepted the other one knows at once; each is a process of its own."""
    assert {"api", "api-2", "conductor", "conductor-2", "mariadb"} <= set(both.pids())
    one, two = both.each["demo"]
    server = one.boot("first")
    assert two.show(server)["name"] == "first"
    wait(both.demo, server, "ACTIVE")
    two.post(f"{V}/{server}/metadata", {"metadata": {"a": "b"}})
    assert one.show(server)["metadata"] == {"a": "b"}
    assert [s["id"] for s in one.get(V)["servers"]] == [s["id"] for s in two.get(V)["servers"]]
    one.delete(f"{V}/{server}")
    gone(both.demo, server)


def _cell_is(client: Client, state: str | None) -> bool:
    found = {c["name"]: c["state"] for c in client.get(K)["cells"]}
    return found.get("west") == state


def _gone(client: Client, host: str) -> bool:
    return not _up(client, host)


def test_a_cell_comes_and_goes_under_all_roles(both: Both, tmp_path: Path) -> None:
    """Added by one api it is used by the other, and by both conductors; nobody is started again; so when it goes."""
    before = both.pids()
    wrong = both.admin.call(
        "POST", K, {"name": "west", "url": "mysql://nobody:secret-word@127.0.0.1:1/w"}
    )
    assert wrong.status == 400 and b"secret-word" not in wrong.raw
    url = f"sqlite:///{both.directory}/db/west.db"
    assert both.each["admin"][0].call("POST", K, {"name": "west", "url": url}).status == 201
    for one in both.each["admin"]:
        until(partial(_cell_is, one, "up"), "west", LONG_S)
    agents = []
    try:
        for n in range(2):
            token = both.each["admin"][1].post("/join/tokens", {"host": f"west{n}", "cell": "west"})
            folder = tmp_path / str(n)
            folder.mkdir()
            agents.append(_joined(both, folder / "agent", token["token"]))
        for one in both.each["admin"]:
            until(partial(_up, one, "west0", "west1"), "the new hosts are up", LONG_S)
        both.admin.call("PUT", f"{K}/cell1", {"disabled": True})
        server = until(partial(_in_west, both), "a server in west", LONG_S)
        both.demo.post(f"{V}/{server}/action", {"os-stop": None})
        wait(both.demo, server, "SHUTOFF")
        said = both.admin.call("DELETE", f"{K}/west?force=1")
        assert said.status == 409 and server in said.raw.decode()
        both.demo.delete(f"{V}/{server}")
        gone(both.demo, server)
        both.admin.call("PUT", f"{K}/cell1", {"disabled": False})
        assert both.admin.call("DELETE", f"{K}/west?force=1").status == 204
        for one in both.each["admin"]:
            until(partial(_cell_is, one, None), "west is gone", LONG_S)
            until(partial(_gone, one, "west0"), "its hosts are gone", LONG_S)
        until(lambda: _clean(both), "the audit finds nothing", LONG_S)
        assert both.pids() == before, "a process was started again"
    finally:
        for agent in agents:
            agent.terminate()
            agent.communicate(timeout=60)


def _up(client: Client, *hosts: str) -> bool:
    states = {s["host"]: s["state"] for s in client.get(HOSTS)["services"]}
    return all(states.get(h) == "up" for h in hosts)


def _in_west(both: Both) -> str | None:
    """Boot a server; return it if it is on a host of west, else remove it."""
    server = both.demo.boot("in-west")
    wait(both.demo, server, "ACTIVE")
    if both.admin.show(server)["OS-EXT-SRV-ATTR:host"].startswith("west"):
        return server
    both.demo.delete(f"{V}/{server}")
    gone(both.demo, server)
    return None


def _pid(both: Both, role: str, old: int | None = None) -> int | None:
    """Return the pid of a role, once it is another one than ``old``."""
    found = both.pids().get(role)
    return None if found == old else found


def test_every_role_is_started_again_in_any_order(both: Both) -> None:
    """R5: each is told to end in order while requests flow to both apis; none of these is lost, doubled or wrong."""
    _lift_limits(both)
    rng, ending = random.Random(5), threading.Event()
    people = [_Storm(both.demo, 50 + n, ending) for n in range(2)]
    for p in people:
        p.start()
    roles = sorted(both.pids())
    rng.shuffle(roles)
    for role in roles:
        old: int = until(partial(_pid, both, role), role, LONG_S)
        os.kill(old, signal.SIGTERM)
        until(partial(_pid, both, role, old), role, LONG_S)
    ending.set()
    for p in people:
        p.join(LONG_S)
    assert [w for p in people for w in p.wrong] == []
    assert [s for p in people for s in (*p.kept, *p.left)], "nothing was under way"
    for p in people:
        for server in p.left:
            gone(both.demo, server)
        for server in p.kept:
            wait(both.demo, server, "ACTIVE")
            both.demo.delete(f"{V}/{server}")
            gone(both.demo, server)
    until(lambda: _clean(both), "the audit finds nothing", LONG_S)
