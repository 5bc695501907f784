"""A simulated cloud as a process of its own, and a light client, for the benchmarks: CPU is the cloud's, never ours."""

import contextlib
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

TICK = os.sysconf("SC_CLK_TCK")


class Cloud:
    """One ``kilonova up --driver fake --ephemeral``; ended with the context."""

    def __init__(
        self, *options: str, hosts: int = 10, environment: dict[str, str] | None = None
    ) -> None:
        began = time.monotonic()
        command = [
            sys.executable,
            "-m",
            "kilonova.cli.main",
            "up",
            "--driver",
            "fake",
            "--ephemeral",
        ]
        command += ["--port", "0", "--json", "--detach", "--hosts", str(hosts), *options]
        out = subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self.start_s = time.monotonic() - began
        self._use(json.loads(out.stdout))

    @classmethod
    def of(cls, facts: dict[str, Any]) -> "Cloud":
        """Use a cloud that runs; ``facts``: what ``up --json`` said."""
        self = cls.__new__(cls)
        self.start_s = 0.0
        self._use(facts)
        return self

    def _use(self, facts: dict[str, Any]) -> None:
        self.facts = facts
        self.pid = int(facts["pid"])
        self.url = facts["url"]
        self._local = threading.local()
        with open(facts["passwords_file"]) as f:
            self.passwords: dict[str, str] = json.load(f)
        self.token = self.login("demo", "demo")
        self.admin = self.login("admin", "admin")

    def cpu_s(self) -> float:
        """CPU seconds of the cloud so far."""
        with open(f"/proc/{self.pid}/stat") as f:
            fields = f.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def rss_mib(self) -> float:
        """Resident memory."""
        with open(f"/proc/{self.pid}/statm") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        token: str | None = None,
        version: str = "2.96",
    ) -> tuple[int, dict[str, str], Any]:
        """One request on this thread's kept connection."""
        status, headers, raw = self.raw(method, path, body, token, version)
        return status, headers, json.loads(raw) if raw[:1] in (b"{", b"[") else raw

    def raw(
        self,
        method: str,
        path: str,
        body: Any = None,
        token: str | None = None,
        version: str = "2.96",
    ) -> tuple[int, dict[str, str], bytes]:
        """The same, with the body as bytes."""
        conn: http.client.HTTPConnection | None = getattr(self._local, "conn", None)
        if conn is None:
            where = urlsplit(self.url)
            conn = self._local.conn = http.client.HTTPConnection(
                str(where.hostname), where.port, timeout=60
            )
        headers = {
            "Content-Type": "application/json",
            "OpenStack-API-Version": f"compute {version}",
        }
        if token or getattr(self, "token", None):
            headers["X-Auth-Token"] = token or self.token
        data = None if body is None else json.dumps(body).encode()
        try:
            conn.request(method, path, body=data, headers=headers)
            answer = conn.getresponse()
        except (http.client.HTTPException, OSError):
            conn.close()
            self._local.conn = None
            raise
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()

    def login(self, user: str, project: str) -> str:
        """Return a token."""
        domain = {"id": "default"}
        password = self.passwords[user]
        who = {"user": {"name": user, "domain": domain, "password": password}}
        auth = {
            "identity": {"methods": ["password"], "password": who},
            "scope": {"project": {"name": project, "domain": domain}},
        }
        return self.call("POST", "/identity/v3/auth/tokens", {"auth": auth})[1]["x-subject-token"]

    def lift_quotas(self) -> None:
        """No limits for the demo project."""
        project = self.call("GET", "/identity/v3/auth/projects")[2]["projects"]
        demo = next(p["id"] for p in project if p["name"] == "demo")
        limits = {"instances": -1, "cores": -1, "ram": -1}
        path = f"/compute/v2.1/os-quota-sets/{demo}"
        assert self.call("PUT", path, {"quota_set": limits}, self.admin)[0] == 200
        path = f"/network/v2.0/quotas/{demo}"
        assert self.call("PUT", path, {"quota": {"port": -1}}, self.admin)[0] == 200

    def server_body(self, name: str, *, nets: bool = True) -> dict[str, Any]:
        """Return a body for POST /servers."""
        if not hasattr(self, "_image"):
            self._image = self.call("GET", "/image/v2/images")[2]["images"][0]["id"]
            nets_ = self.call("GET", "/network/v2.0/networks?name=private")[2]["networks"]
            self._net = nets_[0]["id"]
        networks: Any = [{"uuid": self._net}] if nets else "none"
        return {
            "server": {
                "name": name,
                "flavorRef": "42",
                "imageRef": self._image,
                "networks": networks,
            }
        }

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, 15)
        for _ in range(200):
            if not os.path.exists(f"/proc/{self.pid}"):
                break
            time.sleep(0.05)


@contextlib.contextmanager
def cloud(
    *options: str, hosts: int = 10, environment: dict[str, str] | None = None
) -> Iterator[Cloud]:
    """A cloud for the length of the context."""
    c = Cloud(*options, hosts=hosts, environment=environment)
    try:
        yield c
    finally:
        c.close()


def percentile(values: list[float], p: float) -> float:
    """Return the p-th percentile (0-100) of values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * p / 100))]
