"""People whose servers move while roles of a deployment die, and one who looks every 10 ms that each is there once."""

import collections
import contextlib
import http.client
import json
import random
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from kilonova.common.ids import new_uuid
from tests.client import Client

V = "/compute/v2.1"
HOST = "OS-EXT-SRV-ATTR:host"
TASK = "OS-EXT-STS:task_state"
PATIENCE_S = 180.0
MAY_PASS = (500, 502, 503, 504)


class Stuck(AssertionError):
    """What was asked never came to an end, or ended as it must not."""


class Patient:
    """Asks again, with the same key, until there is an answer: one person behind a bad line."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Return the answer; what another attempt of ours has in hand, silence and 5xx are waited out."""
        end = time.monotonic() + PATIENCE_S
        headers = {"Idempotency-Key": new_uuid()} if method == "POST" else None
        last: object = "silence"
        while time.monotonic() < end:
            try:
                got = self._client.call(method, path, body, headers=headers)
            except (OSError, http.client.HTTPException) as exc:
                last = exc
            else:
                last = got
                ours = got.status == 409 and "retry-after" in got.headers
                if got.status not in MAY_PASS and not ours:
                    return got
            time.sleep(0.05)
        raise Stuck(f"{method} {path}: {last}")

    def good(self, method: str, path: str, body: Any = None) -> Any:
        """Return the body of an answer that must be good."""
        got = self.ask(method, path, body)
        if got.status >= 300:
            raise Stuck(f"{method} {path}: {got}")
        return got.json

    def until(self, look: Callable[[], Any], what: str) -> Any:
        """Look until it is true."""
        end = time.monotonic() + PATIENCE_S
        while not (found := look()):
            if time.monotonic() > end:
                raise Stuck(f"waited in vain: {what}")
            time.sleep(0.03)
        return found


class Mover(threading.Thread):
    """Moves one server about, resizes it and hangs a volume on it, until it is told to end.

    busy: what is under way this moment ("" between two). done, unwound, refused: how often each kind ended so.
    """

    kinds: tuple[str, ...] = (
        *("cold confirm", "cold revert", "live", "cross confirm", "cross revert"),
        *("resize confirm", "resize revert", "attach"),
    )
    zone = "nova"

    def __init__(self, client: Client, number: int, ending: threading.Event) -> None:
        super().__init__(daemon=True)
        self.line = Patient(client)
        self.project = client.project
        self.rng = random.Random(number)
        self.ending = ending
        self.busy = ""
        self.done: collections.Counter[str] = collections.Counter()
        self.unwound: collections.Counter[str] = collections.Counter()
        self.refused: collections.Counter[str] = collections.Counter()
        self.why: collections.Counter[str] = collections.Counter()  # what unwound
        self.wrong: list[str] = []
        listed = self.line.good("GET", f"{V}/flavors")["flavors"]
        self.flavors = {f["name"]: f["id"] for f in listed}
        body = client.server_body(f"mover{number}", availability_zone=self.zone)
        self.server: str = self.line.good("POST", f"{V}/servers", body)["server"]["id"]
        self.settled()
        self.volume = self._new_volume()

    def _new_volume(self) -> str:
        root = f"/volume/v3/{self.project}/volumes"
        self.volume = self.line.good("POST", root, {"volume": {"size": 1}})["volume"]["id"]
        self._is_available()
        return self.volume

    def _is_available(self) -> None:
        self.line.until(lambda: self._volume_status() == "available", "the volume is available")

    def run(self) -> None:
        try:
            while not self.ending.is_set():
                at = self.rng.randrange(len(self.kinds))
                for kind in (*self.kinds[at:], *self.kinds[:at]):
                    if self.ending.is_set():
                        return
                    getattr(self, f"do_{kind.partition(' ')[0]}")(*kind.split(" ")[1:])
        except (Stuck, AssertionError, KeyError) as exc:
            self.wrong.append(f"{self.server}: {exc}")
        finally:
            self.busy = ""

    def settled(self) -> dict[str, Any]:
        """Wait until nothing is done to the server any more; it is well."""

        def look() -> Any:
            found = self.line.good("GET", f"{V}/servers/{self.server}")["server"]
            if found["status"] == "ERROR":
                raise Stuck(f"in ERROR: {found.get('fault')}")
            silent = TASK not in found  # its cell does not answer: what is known without it
            return None if silent or found[TASK] or found["status"] == "BUILD" else found

        found: dict[str, Any] = self.line.until(look, f"{self.server} settles")
        return found

    def act(self, kind: str, name: str, asked: Any) -> dict[str, Any] | None:
        """Do an action to its end; None when it is refused (a host that counts as down, say)."""
        self.busy = kind
        got = self.line.ask("POST", f"{V}/servers/{self.server}/action", {name: asked})
        found = self.settled() if got.status < 300 else None
        if found is None:
            if got.status not in (400, 409):
                raise Stuck(f"{name}: {got}")
            self.refused[f"{kind}: {got.message[:80]}"] += 1
        self.busy = ""
        return found

    def told(self, kind: str, moved: bool) -> bool:
        """Count how a kind ended."""
        (self.done if moved else self.unwound)[kind] += 1
        if not moved:
            self.why[f"{kind}: {self._last_error()}"] += 1
        return moved

    def _last_error(self) -> str:
        path = f"/kilonova/v1/operations?all_projects&limit=20&resource={self.server}"
        found = self.line.good("GET", path)["operations"]
        told = [f"{o['kind']} {o['state']}: {o.get('error')}" for o in found if o.get("error")]
        return told[0][:160] if told else ""

    def here(self) -> str:
        """Return the server's host."""
        return str(self.settled()[HOST])

    def _finish(self, kind: str, how: str, found: dict[str, Any] | None) -> None:
        """Confirm or revert until it is done: what was killed may be asked again."""
        if found is None or not self.told(kind, found["status"] == "VERIFY_RESIZE"):
            return
        name, tries, end = f"{how}Resize", 0, time.monotonic() + PATIENCE_S
        while tries < 5 and time.monotonic() < end:
            after = self.act(f"{kind} {how}", name, None)
            if after is None:
                time.sleep(0.5)  # its host is not back yet
                continue
            tries += 1
            if self.told(f"{kind} {how}", after["status"] == "ACTIVE"):
                return
        raise Stuck(f"{name} never ends: {dict(self.why)}, refused: {dict(self.refused)}")

    def do_cold(self, how: str) -> None:
        self._finish("cold", how, self.act("cold", "migrate", {"host": neighbour(self.here())}))

    def do_cross(self, how: str) -> None:
        host = self.here()
        there = host.replace("cell1", "cellX").replace("cell2", "cell1").replace("cellX", "cell2")
        self._finish("cross", how, self.act("cross", "migrate", {"host": there}))

    def do_resize(self, how: str) -> None:
        now = self.settled()["flavor"]["original_name"]
        wanted = {"flavorRef": self.flavors["m1.tiny" if now == "m1.nano" else "m1.nano"]}
        self._finish("resize", how, self.act("resize", "resize", wanted))

    def do_live(self) -> None:
        target = neighbour(self.here())
        asked = {"host": target, "block_migration": "auto"}
        found = self.act("live", "os-migrateLive", asked)
        if found is not None:
            self.told("live", found[HOST] == target)

    def do_attach(self) -> None:
        self.busy = "attach"
        path = f"{V}/servers/{self.server}/os-volume_attachments"
        got = self.line.ask("POST", path, {"volumeAttachment": {"volumeId": self.volume}})
        if self._went("attach", got):
            end = lambda: self._volume_status() == "in-use" or not self._attached()  # noqa: E731
            self.line.until(end, "the volume is attached")
            self.told("attach", bool(self._attached()))
        self.busy = "detach"
        self.line.until(self._detached, f"the volume leaves; refused: {dict(self.refused)}")
        self.told("detach", True)
        self.busy = ""

    def _volume_status(self) -> str:
        path = f"/volume/v3/{self.project}/volumes/{self.volume}"
        return str(self.line.good("GET", path)["volume"]["status"])

    def _attached(self) -> list[Any]:
        path = f"{V}/servers/{self.server}/os-volume_attachments"
        found: list[Any] = self.line.good("GET", path)["volumeAttachments"]
        return found

    def _detached(self) -> bool:
        """Ask for it when nobody does it, as a person would; tell whether it is done."""
        if not self._attached():
            return True
        if self._volume_status() == "in-use":
            path = f"{V}/servers/{self.server}/os-volume_attachments/{self.volume}"
            self._went("detach", self.line.ask("DELETE", path))
        time.sleep(0.2)
        return False

    def _went(self, kind: str, got: Any) -> bool:
        if got.status in (400, 404, 409):
            self.refused[f"{kind}: {got.message[:80]}"] += 1
            return False
        if got.status >= 300:
            raise Stuck(f"{kind}: {got}")
        return True

    def clear(self) -> None:
        """Delete the server and its volume, which leaves nothing."""
        self.line.ask("DELETE", f"{V}/servers/{self.server}")
        path = f"{V}/servers/{self.server}"
        self.line.until(lambda: self.line.ask("GET", path).status == 404, "gone")
        self._is_available()
        self.line.ask("DELETE", f"/volume/v3/{self.project}/volumes/{self.volume}")


def neighbour(host: str) -> str:
    """Return the other host of the same pair: 1 and 2, 3 and 4."""
    number = int(host[-1])
    return f"{host[:-1]}{number + 1 if number % 2 else number - 1}"


class Evacuee(Mover):
    """A server whose host is called dead again and again; it and its neighbour are in a zone of their own."""

    kinds = ("evacuate",)
    zone = "far"

    def do_evacuate(self) -> None:
        host = self.here()
        self._force(host, True)
        try:
            found = self.act("evacuate", "evacuate", {})
        finally:
            self._force(host, False)
        if found is not None:
            self.told("evacuate", found[HOST] != host)
        self.line.until(lambda: self._hosts_are_up(), "both hosts are up")

    def _service(self, host: str) -> Any:
        return self.line.good("GET", f"{V}/os-services?host={host}")["services"][0]

    def _force(self, host: str, down: bool) -> None:
        look = lambda: self._service(host).get("id")  # noqa: E731 - of a silent cell it has none
        path = f"{V}/os-services/{self.line.until(look, host)}"
        self.line.good("PUT", path, {"forced_down": down})

    def _hosts_are_up(self) -> bool:
        host = self.here()
        both = [self._service(h) for h in (host, neighbour(host))]
        return {s.get("state") for s in both} == {"up"}  # of a silent cell it says nothing


class Poller(threading.Thread):
    """Reads the list of servers every 10 ms; each of those named is in every list that it gets, exactly once (R11)."""

    def __init__(self, client: Client, servers: list[str]) -> None:
        super().__init__(daemon=True)
        self._client, self._servers = client, servers
        self._end = threading.Event()
        self.looks = 0
        self.wrong: list[str] = []
        self.cells: dict[str, set[str]] = {s: set() for s in servers}

    def run(self) -> None:
        line = http.client.HTTPConnection(urlsplit(self._client.url).netloc, timeout=60)
        headers = {
            "X-Auth-Token": str(self._client.token),
            "X-OpenStack-Nova-API-Version": self._client.version,
        }
        n = 0
        while not self._end.wait(0.01):
            n += 1
            path = "servers/detail?all_tenants=1" if n % 2 else "servers?all_tenants=1"
            try:
                line.request("GET", f"{V}/{path}", headers=headers)
                got = line.getresponse()
                body = got.read()
            except (OSError, http.client.HTTPException):
                line.close()
                continue
            if got.status == 200:
                with contextlib.suppress(ValueError):
                    self._look(json.loads(body)["servers"])
        line.close()

    def _look(self, found: list[dict[str, Any]]) -> None:
        self.looks += 1
        seen = collections.Counter(s["id"] for s in found)
        for server in self._servers:
            if seen[server] != 1:
                self.wrong.append(f"{server}: {seen[server]} times")
        for s in found:
            if s["id"] in self.cells and s.get(HOST):
                self.cells[s["id"]].add(str(s[HOST]).partition("-")[0])

    def end(self) -> None:
        """Stop looking."""
        self._end.set()
        self.join(60)
