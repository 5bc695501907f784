"""Two api processes, each role a process, on a PostgreSQL or a MariaDB server: one cloud. R2, R3, R6, R10."""

import contextlib
import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kilonova.common import deployment
from kilonova.common.config import Settings
from kilonova.server import seeding
from kilonova.server.nats_server import NoNatsServer, free_port
from kilonova.server.split import Asked, Layout
from kilonova.server.state import write_text
from kilonova.server.supervisor import Member, Supervisor, environment_is_ours, program
from tests import databases
from tests.client import Answer, Client, until
from tests.processes.test_split import LONG_S, Split, V, _answers, _storm, gone, wait

HOSTS = 3


class _Layout(Layout):
    """A deployment whose databases are on a server that was there before it."""

    urls: dict[str, str]

    def database_url(self, name: str) -> str:
        return self.urls[name]


class InTurn(Client):
    """A person behind a proxy: one request goes to one api process, the next one to the other."""

    def __init__(self, clients: list[Client]) -> None:
        super().__init__(clients[0].url, clients[0].token, clients[0].project)
        self.clients = clients
        self._turn = 0

    def call(self, *args: Any, **kw: Any) -> Answer:
        self._turn += 1
        return self.clients[self._turn % len(self.clients)].call(*args, **kw)


class Deployment(Split):
    """A deployment made role by role, as an operator does who has a database server."""

    def __init__(self, directory: Path, server: databases.Server) -> None:
        environment_is_ours()
        self.directory, self.server = directory, server
        directory.mkdir(mode=0o700)
        self.ports = (free_port(), free_port())
        self.url = f"http://127.0.0.1:{self.ports[0]}"
        asked = Asked(
            directory=directory,
            cells=1,
            hosts=HOSTS,
            listen="127.0.0.1",
            port=self.ports[0],
            public_url=self.url,
            settings=Settings(),
        )
        layout = _Layout(asked)
        layout.urls = {name: server.make() for name in layout.databases()}
        layout.write()
        second = (
            layout.config("api")
            .read_text()
            .replace(f"port = {self.ports[0]}\n", f"port = {self.ports[1]}\n")
        )
        write_text(layout.config("api-2"), second)
        logs = directory / "logs"
        logs.mkdir()
        self.supervisor = Supervisor(directory)
        try:
            self._start(layout, logs)
        except BaseException:
            self.close()
            raise

    def _start(self, layout: Layout, logs: Path) -> None:
        try:
            self.supervisor.start([Member("nats", layout.nats.command(), logs / "nats.log")])
        except NoNatsServer as exc:
            pytest.skip(exc.message)
        config = layout.config("api")
        seeding.prepare(config, layout.asked.settings, deployment.load(config))
        roles = ("conductor", "api", "api-2", *layout.agents())
        self.supervisor.start(
            [
                Member(
                    name,
                    program(name.partition("-")[0], "--config", str(layout.config(name))),
                    logs / f"{name}.log",
                )
                for name in roles
            ]
        )
        passwords = json.loads((self.directory / "passwords.json").read_text())
        self.both: dict[str, list[Client]] = {}
        for user in ("demo", "admin"):
            first = until(partial(self._try, user, passwords[user]), "log in", LONG_S)
            others = [
                Client(f"http://127.0.0.1:{p}", first.token, first.project) for p in self.ports[1:]
            ]
            self.both[user] = [first, *others]
        self.demo, self.admin = InTurn(self.both["demo"]), InTurn(self.both["admin"])
        for one in self.both["admin"]:
            until(partial(self._hosts_up, one), "hosts are up", LONG_S)

    def _try(self, user: str, password: str) -> Client | None:
        with contextlib.suppress(OSError):
            return self._log_in(user, password)
        return None

    def _hosts_up(self, client: Client) -> bool:
        with contextlib.suppress(OSError):
            hosts = client.get("/compute/v2.1/os-services")["services"]
            return [h["state"] for h in hosts] == ["up"] * HOSTS
        return False

    def pids(self) -> dict[str, int]:
        found = super().pids()
        if self.server.process is not None:
            found["database"] = self.server.process.pid
        return found

    def kill(self, role: str) -> int:
        if role != "database":
            return super().kill(role)
        assert self.server.process is not None
        pid = self.server.process.pid
        self.server.kill()
        time.sleep(0.5)  # requests meet a server that is not there
        self.server.start()
        return pid

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Ask what the command asks: it would look for a cloud that ``up`` started."""
        assert words == ("audit",)
        findings = self.both["admin"][0].get("/kilonova/v1/audit")["findings"]
        return subprocess.CompletedProcess(words, int(bool(findings)), str(findings))

    def close(self) -> None:
        self.supervisor.stop()


SERVERS = {"postgresql": databases.Postgresql, "mariadb": databases.Mariadb}


@pytest.fixture(scope="module", params=sorted(SERVERS))
def split(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    server = SERVERS[request.param]()
    with tempfile.TemporaryDirectory(prefix="kilonova-split-") as name:
        try:
            made = Deployment(Path(name) / "state", server)
            try:
                yield made
            finally:
                made.close()
        finally:
            server.close()


def _limit(split: Deployment, instances: int) -> None:
    quota = {"quota_set": {"instances": instances, "cores": -1, "ram": -1}}
    path = f"/compute/v2.1/os-quota-sets/{split.demo.project}"
    assert split.admin.call("PUT", path, quota).status == 200


def test_what_one_api_made_the_other_one_has(split: Deployment) -> None:
    """Tokens, servers, pages and ends of one are those of the other one, from the answer on."""
    here, there = split.both["demo"]
    servers = []
    for n in range(4):
        a, b = (here, there) if n % 2 else (there, here)
        server = a.boot(f"two-apis-{n}")
        servers.append(server)
        assert b.show(server)["name"] == f"two-apis-{n}"
        assert server in [s["id"] for s in b.get(f"{V}/detail")["servers"]]
    page = here.get(f"{V}?limit=2&sort_key=created_at&sort_dir=asc")["servers"]
    rest = there.get(f"{V}?limit=2&marker={page[-1]['id']}&sort_key=created_at&sort_dir=asc")
    assert sorted(s["id"] for s in [*page, *rest["servers"]]) == sorted(servers)
    for n, server in enumerate(servers):
        wait(split.demo, server, "ACTIVE")
        a, b = (here, there) if n % 2 else (there, here)
        b.act(server, {"os-stop": None})
        wait(a, server, "SHUTOFF")
        a.delete(f"{V}/{server}")
        gone(b, server)


def test_a_quota_is_one(split: Deployment) -> None:
    """R10: creates at both at once get what the quota has, and not one more."""
    _limit(split, 3)
    body = split.demo.server_body("quota")
    answers: list[Answer] = []

    def ask(client: Client) -> None:
        for _ in range(4):
            answers.append(client.call("POST", V, body))

    people = [threading.Thread(target=ask, args=(c,)) for c in split.both["demo"] * 2]
    for p in people:
        p.start()
    for p in people:
        p.join(LONG_S)
    good = [a.json["server"]["id"] for a in answers if a.status == 202]
    assert len(answers) == 16
    assert {a.status for a in answers} == {202, 403}
    assert len(good) == 3
    for server in good:
        wait(split.demo, server, "ACTIVE")
        split.demo.delete(f"{V}/{server}")
        gone(split.demo, server)
    _limit(split, -1)


def test_a_key_is_good_at_both(split: Deployment) -> None:
    """The same Idempotency-Key at both at once, and afterwards: one server, the same answer."""
    body = split.demo.server_body("once")
    key = {"Idempotency-Key": f"once-{time.time_ns()}"}
    answers: list[Answer] = []

    def ask(client: Client) -> None:
        answers.append(client.call("POST", V, body, headers=key))

    people = [threading.Thread(target=ask, args=(c,)) for c in split.both["demo"] * 2]
    for p in people:
        p.start()
    for p in people:
        p.join(LONG_S)
    assert {a.status for a in answers} <= {202, 409}
    again = [c.call("POST", V, body, headers=key) for c in split.both["demo"]]
    assert {a.status for a in again} == {202}
    made = {a.json["server"]["id"] for a in [*answers, *again] if a.status == 202}
    assert len(made) == 1
    named = [s for s in split.demo.get(V)["servers"] if s["name"] == "once"]
    assert [s["id"] for s in named] == list(made)
    split.demo.delete(f"{V}/{named[0]['id']}")
    gone(split.demo, named[0]["id"])


def _refused(client: Client) -> bool:
    return client.call("GET", V).status == 401


def test_a_token_that_ends_ends_at_both(split: Deployment) -> None:
    here, there = split.both["admin"]
    passwords = json.loads((split.directory / "passwords.json").read_text())
    token = split._log_in("demo", passwords["demo"]).token
    assert token is not None
    mine = [Client(c.url, token, split.demo.project) for c in (here, there)]
    assert [c.call("GET", V).status for c in mine] == [200, 200]
    mine[0].call("DELETE", "/identity/v3/auth/tokens", headers={"X-Subject-Token": token})
    for one in mine:
        until(partial(_refused, one), "the token's end", LONG_S)


def test_kill_each_process_and_the_database(split: Deployment) -> None:
    """R2, R3, R6: under load each is killed once, the database server too; nothing is lost, doubled or left."""
    assert _answers(split)
    _storm(split, 7, kills=len(split.pids()))
