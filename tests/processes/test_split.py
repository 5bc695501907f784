"""``kilonova up --split``: each role a process, on NATS with TLS and credentials. R2, R3, R5, R6."""

import contextlib
import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kilonova.bus.nats import Address, NatsBus
from tests import places
from tests.client import Client, Wire, until
from tests.processes.test_nats import nats_server

V = "/compute/v2.1/servers"
ROOT = Path(__file__).resolve().parents[2]
KILONOVA = [sys.executable, "-m", "kilonova.cli.main"]
LONG_S = 90.0


class Split:
    """A deployment that runs, and its first user."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        command = [*KILONOVA, "up", "--split", "--driver", "fake", "--port", "0", "--json"]
        with (directory.parent / "errors").open("ab") as errors:
            self.process = subprocess.Popen(
                [*command, "--state-dir", str(directory), *options],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        assert self.process.stdout is not None
        line = _object(self.process.stdout)
        assert line, (directory.parent / "errors").read_text()
        self.what = json.loads(line)
        self.url = self.what["url"]
        passwords = json.loads((directory / "passwords.json").read_text())
        self.demo = self._log_in("demo", passwords["demo"])
        self.admin = self._log_in("admin", passwords["admin"])

    def _log_in(self, user: str, password: str) -> Client:
        who = {"name": user, "domain": {"id": "default"}, "password": password}
        auth = {
            "identity": {"methods": ["password"], "password": {"user": who}},
            "scope": {"project": {"name": user, "domain": {"id": "default"}}},
        }
        got = Wire(self.url).send("POST", "/identity/v3/auth/tokens", {"auth": auth}, {})
        assert got.status == 201, got
        return Client(self.url, got.headers["x-subject-token"], got.json["token"]["project"]["id"])

    def pids(self) -> dict[str, int]:
        """Return role -> pid."""
        found = json.loads((self.directory / "processes.json").read_text())
        return {name: one["pid"] for name, one in found.items()}

    def kill(self, role: str) -> int:
        """kill -9 of a role; return whom."""
        pid: int = until(lambda: self.pids().get(role), f"{role} runs", LONG_S)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return pid

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run one of our commands on the deployment."""
        return subprocess.run(
            [*KILONOVA, *words, "--state-dir", str(self.directory)],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def close(self) -> None:
        """Stop it as a person would."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()


def _object(lines: Any) -> str:
    """Return the first JSON object that comes, over several lines perhaps."""
    text = ""
    for line in lines:
        text += line
        with contextlib.suppress(ValueError):
            json.loads(text)
            return text
    return ""


@pytest.fixture(scope="module")
def split() -> Iterator[Split]:
    with nats_server(), places.place("split") as path:
        made = Split(path / "state", "--hosts", "3")
        try:
            yield made
        finally:
            made.close()


def wait(client: Client, server: str, status: str) -> dict[str, Any]:
    """Wait until a server has a status."""

    def look() -> Any:
        found = client.show(server)
        assert found["status"] != "ERROR" or status == "ERROR", found.get("fault")
        return found if found["status"] == status and not found["OS-EXT-STS:task_state"] else None

    found: dict[str, Any] = until(look, f"{server} {status}", LONG_S)
    return found


def gone(client: Client, server: str) -> None:
    """Wait until a server is no more."""
    until(lambda: client.call("GET", f"{V}/{server}").status == 404, f"{server} gone", LONG_S)


def test_each_role_is_a_process(split: Split) -> None:
    pids = split.pids()
    assert set(pids) - {"postgresql"} == {"nats", "conductor", "api", "console", "agent-cell1"}
    assert len({*pids.values(), split.what["pid"]}) == len(pids) + 1
    environment = Path(f"/proc/{pids['agent-cell1']}/environ").read_text()
    config = (split.directory / "split" / "agent-cell1.toml").read_text()
    for secret in ("database", "sqlite", "postgresql", "secret.key"):
        assert secret not in config
        assert secret not in environment


def test_credentials_are_private(split: Split) -> None:
    files = [
        *(split.directory / "split" / "creds").iterdir(),
        *(split.directory / "split").glob("*.toml"),
    ]
    assert {f.name for f in files} >= {"api.creds", "cell1-host1.creds", "api.toml"}
    assert [f for f in files if f.stat().st_mode & 0o077] == []


def test_the_life_of_a_server(split: Split) -> None:
    """Create, list, stop, resize to another host and confirm, snapshot, delete."""
    demo = split.demo
    server = demo.boot("web")
    wait(demo, server, "ACTIVE")
    assert [s["id"] for s in demo.get(f"{V}/detail")["servers"]] == [server]
    demo.act(server, {"os-stop": None})
    wait(demo, server, "SHUTOFF")
    demo.act(server, {"os-start": None})
    wait(demo, server, "ACTIVE")
    demo.act(server, {"resize": {"flavorRef": "2"}})
    wait(demo, server, "VERIFY_RESIZE")
    demo.act(server, {"confirmResize": None})
    wait(demo, server, "ACTIVE")
    made = demo.call("POST", f"{V}/{server}/action", {"createImage": {"name": "copy"}})
    assert made.status == 202, made
    image = made.json["image_id"]
    look = f"/image/v2/images/{image}"
    until(lambda: demo.get(look)["status"] == "active", "the image", LONG_S)
    assert demo.get(look)["size"] > 0
    log = demo.call("POST", f"{V}/{server}/action", {"os-getConsoleOutput": {}})
    assert log.status == 200, log
    demo.delete(f"{V}/{server}")
    gone(demo, server)
    assert demo.call("DELETE", look).status == 204


def test_a_volume_in_a_server(split: Split) -> None:
    demo = split.demo
    server = demo.boot("with-volume")
    wait(demo, server, "ACTIVE")
    root = f"/volume/v3/{demo.project}/volumes"
    volume = demo.post(root, {"volume": {"size": 1}})["volume"]["id"]
    until(lambda: demo.get(f"{root}/{volume}")["volume"]["status"] == "available", "made", LONG_S)
    demo.post(f"{V}/{server}/os-volume_attachments", {"volumeAttachment": {"volumeId": volume}})
    until(lambda: demo.get(f"{root}/{volume}")["volume"]["status"] == "in-use", "attached", LONG_S)
    demo.delete(f"{V}/{server}")
    gone(demo, server)
    until(lambda: demo.get(f"{root}/{volume}")["volume"]["status"] == "available", "free", LONG_S)
    assert demo.call("DELETE", f"{root}/{volume}").status == 202
    until(lambda: demo.call("GET", f"{root}/{volume}").status == 404, "deleted", LONG_S)


def test_hosts_are_seen_by_the_api(split: Split) -> None:
    """Liveness, disabling and why: read by a process that hears no host."""
    hosts = split.admin.get("/compute/v2.1/os-services")["services"]
    assert [h["state"] for h in hosts] == ["up"] * 3
    one = hosts[0]
    path = f"/compute/v2.1/os-services/{one['id']}"
    split.admin.call("PUT", path, {"status": "disabled", "disabled_reason": "test"})
    for n in range(3):
        server = split.demo.boot(f"elsewhere{n}")
        wait(split.demo, server, "ACTIVE")
        where = split.admin.show(server)["OS-EXT-SRV-ATTR:host"]
        assert where != one["host"]
        split.demo.delete(f"{V}/{server}")
        gone(split.demo, server)
    split.admin.call("PUT", path, {"status": "enabled"})
    up = split.admin.get("/compute/v2.1/os-hypervisors/detail")["hypervisors"]
    assert [h["status"] for h in up] == ["enabled"] * 3


KEPT = 60  # by each person at most: the private network has 250 addresses


class _Storm(threading.Thread):
    """One person who creates and deletes servers whatever dies, and asks again with the same key."""

    def __init__(
        self, client: Client, number: int, ending: threading.Event, pause_s: float = 0.15
    ) -> None:
        super().__init__(daemon=True)
        self.pause_s = pause_s  # the private network has 250 addresses
        self.client = client
        self.number = number
        self.ending = ending
        self.body = client.server_body("storm")["server"]
        self.kept: list[str] = []
        self.left: list[str] = []
        self.wrong: list[str] = []

    def run(self) -> None:
        mine, n = random.Random(self.number), 0
        while not self.ending.wait(self.pause_s):
            n += 1
            body = {"server": {**self.body, "name": f"storm{self.number}-{n}"}}
            key = {"Idempotency-Key": f"storm-{self.number}-{n}-{time.time_ns()}"}
            made = self._insist("POST", V, (202,), body, key)
            if made is None:
                return
            server = made["server"]["id"]
            if mine.random() < 0.7 or len(self.kept) >= KEPT:
                self._insist("DELETE", f"{V}/{server}", (204, 404))
                self.left.append(server)
            else:
                self.kept.append(server)

    def _insist(
        self, method: str, path: str, good: tuple[int, ...], body: Any = None, headers: Any = None
    ) -> Any:
        """Ask until the answer is one of ``good``; what else than silence, 409, 5xx comes is wrong."""
        end, last = time.monotonic() + LONG_S, object()
        while time.monotonic() < end:
            try:
                got = self.client.call(method, path, body, headers=headers)
            except (OSError, http.client.HTTPException) as exc:
                last = exc
                time.sleep(0.05)
                continue
            last = got
            if got.status in good:
                return got.json or {}
            if got.status not in (409, 500, 502, 503):
                break
            time.sleep(0.05)
        self.wrong.append(f"{method} {path}: {last!r}")
        return None


def _lift_limits(split: Split) -> None:
    """Let the first project have as much as it likes."""
    unlimited = {"quota_set": {"instances": -1, "cores": -1, "ram": -1}}
    project = split.demo.project
    assert (
        split.admin.call("PUT", f"/compute/v2.1/os-quota-sets/{project}", unlimited).status == 200
    )
    ports = split.admin.call("PUT", f"/network/v2.0/quotas/{project}", {"quota": {"port": -1}})
    assert ports.status == 200


def _storm(split: Split, seed: int, kills: int) -> None:
    _lift_limits(split)
    rng, ending = random.Random(seed), threading.Event()
    people = [_Storm(split.demo, seed * 10 + n, ending) for n in range(2)]
    for p in people:
        p.start()
    killed = []
    roles = sorted(split.pids())  # postgresql among them, where it is installed
    for n in range(kills):
        role = roles[n % len(roles)]
        wait_until_it_answered(split, role)
        before = split.kill(role)
        killed.append(role)
        again = lambda role=role, before=before: split.pids().get(role) not in (None, before)  # noqa: E731
        until(again, role, LONG_S)
        time.sleep(rng.uniform(0.05, 0.8))  # the moment of the next one is what is random
    ending.set()
    for p in people:
        p.join(LONG_S)
    until(lambda: _answers(split), "the API is back", LONG_S)
    assert [w for p in people for w in p.wrong] == []
    assert len(killed) == kills
    made = [s for p in people for s in (*p.kept, *p.left)]
    assert made, "nothing was under way"
    for p in people:
        for server in p.left:
            gone(split.demo, server)
        for server in p.kept:
            wait(split.demo, server, "ACTIVE")
            split.demo.delete(f"{V}/{server}")
            gone(split.demo, server)
    until(lambda: split.demo.get(f"{V}/detail")["servers"] == [], "nothing left", LONG_S)
    audit = until(lambda: _clean(split), "the audit finds nothing", LONG_S)
    assert audit


def wait_until_it_answered(split: Split, role: str) -> None:
    """Strike an api process only when it was back since the last time: people wait for an answer, not for ever."""
    if role.startswith("api"):
        until(lambda: _answers(split), "the API is back", LONG_S)


def _answers(split: Split) -> bool:
    """Tell whether every api process does."""
    clients = getattr(split.demo, "clients", [split.demo])
    try:
        return all(c.call("GET", "/readyz").status == 200 for c in clients)
    except (OSError, http.client.HTTPException):
        return False


def _clean(split: Split) -> bool:
    done = split.command("audit")
    if done.returncode != 0:
        print(time.strftime("%X"), done.stdout[-3000:], done.stderr[-1000:])
    return done.returncode == 0


def test_kill_each_role_while_servers_come_and_go(split: Split) -> None:
    """R2, R3, R6: twenty kills; what was answered is there, what was deleted is gone, nothing is left."""
    _storm(split, 1, kills=20)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 105))
def test_kill_each_role_at_length(split: Split, seed: int) -> None:
    """R2: the nightly set."""
    _storm(split, seed, kills=80)


def test_down_ends_everything(tmp_path: Path) -> None:
    """By pid; and a state directory goes on where it was."""
    with nats_server():
        first = Split(tmp_path / "state", "--hosts", "1", "--database", "sqlite")
    server = first.demo.boot("stays")
    wait(first.demo, server, "ACTIVE")
    pids = list(first.pids().values())
    done = first.command("down")
    assert done.returncode == 0, done.stderr
    first.close()
    assert [p for p in pids if Path(f"/proc/{p}").exists()] == []
    again = Split(tmp_path / "state")
    try:
        assert again.demo.show(server)["status"] == "ACTIVE"
        again.demo.delete(f"{V}/{server}")
        gone(again.demo, server)
    finally:
        again.close()


def test_a_backup_says_what_to_do_instead(split: Split, tmp_path: Path) -> None:
    """Files are copied; databases of a server are its own tools' business."""
    done = subprocess.run(
        [*KILONOVA, "backup", "--state-dir", str(split.directory), str(tmp_path / "b.tar")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if "postgresql" in split.pids():
        assert (done.returncode, "pg_dump" in done.stderr) == (1, True)
    else:
        assert done.returncode == 0, done.stderr


def _joined(split: Split, folder: Path, token: str) -> subprocess.Popen[bytes]:
    """Start an agent that joins."""
    words = ["agent", "--config", str(folder / "agent.toml"), "--join", split.url, "--token", token]
    return subprocess.Popen(
        [*KILONOVA, *words, "--driver", "fake", "--agent-dir", str(folder / "state")],
        stdout=subprocess.DEVNULL,
        stderr=(subprocess.PIPE),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Split]:
    """A deployment of one test's own: a host that came and went would be a finding of every later audit."""
    with nats_server():
        (tmp_path / "alone").mkdir()
        made = Split(tmp_path / "alone" / "state", "--hosts", "1", "--database", "sqlite")
        try:
            yield made
        finally:
            made.close()


def test_another_machine_joins(alone: Split, tmp_path: Path) -> None:
    """One line from ``host add``; the token is good once; what it wrote is private and names no database."""
    split = alone
    assert split.demo.call("POST", "/join/tokens", {"host": "x", "cell": "cell1"}).status == 403
    for bad in ({"host": "a.b", "cell": "cell1"}, {"host": "x", "cell": "cell9"}, {"host": "x"}):
        assert split.admin.call("POST", "/join/tokens", bad).status == 400
    for lie in ("x" * 43, "y"):
        nobody = Wire(split.url).send("POST", "/join/hosts", {"token": lie}, {})
        assert nobody.status in (400, 403)
    said = split.command("host", "add", "newcomer", "--json")
    assert said.returncode == 0, said.stderr
    token = json.loads(said.stdout)["token"]
    agent = _joined(split, tmp_path / "one", token)
    try:
        look = "/compute/v2.1/os-services?host=newcomer"
        until(lambda: split.admin.get(look)["services"], "the host", LONG_S)
        files = sorted((tmp_path / "one").iterdir())
        assert {f.name for f in files} >= {"agent.toml", "bus-ca.pem", "newcomer.creds"}
        assert [f for f in files if f.is_file() and f.stat().st_mode & 0o077] == []
        assert "sql" not in (tmp_path / "one" / "agent.toml").read_text()
        second = _joined(split, tmp_path / "two", token)
        _, errors = second.communicate(timeout=60)
        assert second.returncode == 1
        assert b"wrong, was used, or has expired" in errors
        assert not (tmp_path / "two").exists()
        _taken_back(split, tmp_path / "one")
    finally:
        agent.terminate()
        agent.communicate(timeout=60)


def _taken_back(split: Split, folder: Path) -> None:
    """An admin, from wherever the API is reached, has the bus refuse the host at once; others go on."""
    assert split.demo.call("DELETE", "/join/hosts/newcomer").status == 403
    assert split.admin.call("DELETE", "/join/hosts/a.b").status == 400
    pids = split.pids()
    until(lambda: split.admin.get("/compute/v2.1/os-services?host=newcomer")["services"])
    said = split.command("host", "revoke", "newcomer")
    assert said.returncode == 0, said.stderr
    text = (folder / "agent.toml").read_text()
    url = re.findall(r"(?:tls|nats)://[^\"]+", text)[0]
    mine = Address((url,), "newcomer", folder / "newcomer.creds", folder / "bus-ca.pem")
    bus = NatsBus(mine, workers=1)
    try:
        assert not bus.connected.wait(2.0)
    finally:
        bus.close()
    server = split.demo.boot("goes-on")
    wait(split.demo, server, "ACTIVE")
    split.demo.delete(f"{V}/{server}")
    gone(split.demo, server)
    assert split.pids() == pids, "a process was started again"


def test_the_command_line_from_elsewhere(split: Split, tmp_path: Path) -> None:
    """Where no cloud runs, the variables of OpenStack's clients name one; what is missing or wrong of them is said."""
    passwords = json.loads((split.directory / "passwords.json").read_text())
    named = {
        "OS_AUTH_URL": f"{split.url}/identity/v3",
        "OS_USERNAME": "admin",
        "OS_PASSWORD": passwords["admin"],
        "OS_PROJECT_NAME": "admin",
    }

    def said(**more: str) -> tuple[int, str]:
        done = subprocess.run(
            [*KILONOVA, "host", "list", "--state-dir", str(tmp_path / "none")],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **more},
        )
        return done.returncode, done.stdout + done.stderr

    code, text = said(**named)
    assert code == 0 and "cell1-host1" in text
    for wrong, word in (
        ({}, "OS_AUTH_URL"),
        ({**named, "OS_PASSWORD": ""}, "OS_PASSWORD is not"),
        ({**named, "OS_AUTH_URL": split.url}, "must end with /identity/v3"),
    ):
        code, text = said(**wrong)
        assert code == 3 and word in text


def test_a_token_ends(split: Split) -> None:
    made = split.admin.post("/join/tokens", {"host": "late", "cell": "cell1", "life_s": 1})
    until(lambda: time.time() > made["expires_at"] + 0.1, "it is over")
    late = Wire(split.url).send("POST", "/join/hosts", {"token": made["token"]}, {})
    assert late.status == 403, late


def test_real_guests_need_a_root_helper(tmp_path: Path) -> None:
    """One that is named and does not listen is said, at once."""
    file = tmp_path / "agent.toml"
    file.write_text(
        f'[deployment]\nstate_dir = "{tmp_path}"\n[bus]\nurl = "nats://127.0.0.1:1"\n'
        f'[agent]\nname = "h"\nhelper = "{tmp_path}/nobody.sock"\n'
    )
    done = subprocess.run(
        [*KILONOVA, "agent", "--config", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1
    assert "the root helper does not listen" in done.stderr


def test_two_conductors_share(tmp_path: Path) -> None:
    """R3, R5: one of two is killed, the other one is told to end: what is under way ends all the same."""
    with nats_server():
        both = Split(tmp_path / "state", "--hosts", "2", "--conductors", "2")
    try:
        servers = [both.demo.boot(f"shared{n}") for n in range(4)]
        both.kill("conductor")
        servers += [both.demo.boot(f"more{n}") for n in range(2)]
        os.kill(both.pids()["conductor-2"], signal.SIGTERM)  # a planned restart
        servers += [both.demo.boot(f"last{n}") for n in range(2)]
        for server in servers:
            wait(both.demo, server, "ACTIVE")
            both.demo.delete(f"{V}/{server}")
        for server in servers:
            gone(both.demo, server)
        until(lambda: _clean(both), "the audit finds nothing", LONG_S)
    finally:
        both.close()


def test_what_the_api_answers_without_an_engine(split: Split) -> None:
    """Explanations, zones, operations and status are read from the databases."""
    admin, demo = split.admin, split.demo
    server = demo.boot("asked-about")
    wait(demo, server, "ACTIVE")
    host = admin.show(server)["OS-EXT-SRV-ATTR:host"]
    wish = {"server": demo.server_body("wish")["server"]}
    del wish["server"]["networks"]
    assert demo.call("POST", "/kilonova/v1/explain", wish).status == 200
    status = admin.get("/kilonova/v1/status")
    assert [c["state"] for c in status["cells"]] == ["up"]
    assert demo.get("/kilonova/v1/operations")["operations"]
    made = admin.post(
        "/compute/v2.1/os-aggregates", {"aggregate": {"name": "far", "availability_zone": "far"}}
    )["aggregate"]["id"]
    add = {"add_host": {"host": "cell1-host2" if host != "cell1-host2" else "cell1-host3"}}
    assert admin.call("POST", f"/compute/v2.1/os-aggregates/{made}/action", add).status == 200
    there = demo.boot("in-zone", availability_zone="far")
    wait(demo, there, "ACTIVE")  # the conductor knows at once what an api changed
    assert admin.show(there)["OS-EXT-SRV-ATTR:host"] == add["add_host"]["host"]
    for one in (server, there):
        demo.delete(f"{V}/{one}")
        gone(demo, one)
    remove = {"remove_host": add["add_host"]}
    assert admin.call("POST", f"/compute/v2.1/os-aggregates/{made}/action", remove).status == 200
    assert admin.call("DELETE", f"/compute/v2.1/os-aggregates/{made}").status == 200


def _ended(split: Split, server: str) -> bool:
    """Tell whether a create ended: ACTIVE, or in words because its hosts had not been heard for a minute."""
    found = split.demo.show(server)
    if found["status"] == "ERROR":
        said = found["fault"]["message"]
        assert "No valid host was found" in said or said == "The host does not answer."
    return found["status"] in ("ACTIVE", "ERROR") and not found["OS-EXT-STS:task_state"]


@pytest.mark.slow
def test_the_bus_is_wiped_and_silent(split: Split) -> None:
    """R6: ten restarts, which are wipes, and a silence of 60 s: nothing is lost, nothing left."""
    _lift_limits(split)
    ending = threading.Event()
    person = _Storm(split.demo, 7, ending, 0.8)
    person.start()
    for _ in range(10):
        before = split.kill("nats")
        until(lambda before=before: split.pids().get("nats") not in (None, before), "nats", LONG_S)
        time.sleep(1.0)  # some operations between
    pid = split.pids()["nats"]
    os.kill(pid, signal.SIGSTOP)
    time.sleep(60.0)  # the silence itself; hosts count as down by then
    os.kill(pid, signal.SIGCONT)
    ending.set()
    person.join(LONG_S)
    assert person.wrong == []
    for server in person.left:
        gone(split.demo, server)
    for server in person.kept:
        until(lambda server=server: _ended(split, server), "the create's end", LONG_S)
        split.demo.delete(f"{V}/{server}")
        gone(split.demo, server)
    until(lambda: _clean(split), "the audit finds nothing", LONG_S)
