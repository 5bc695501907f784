"""The embedded network: CPU and statements per ensure_port as a host fills, lists, rule changes. Only prints.

Run: python -m benchmarks.network [ports]
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import falcon.testing

from kilonova.bus.interface import Handler
from kilonova.common.context import Context
from kilonova.db.sqlite import SqliteDatabase
from kilonova.http.app import Application
from kilonova.network.embedded.network import EmbeddedNetwork
from kilonova.network.embedded.seed import seed
from kilonova.network.embedded.service import service

PROJECT = "d" * 32


class Sink:
    """A bus that counts."""

    def __init__(self) -> None:
        self.messages = 0
        self.size = 0

    def publish(self, subject: str, body: bytes) -> None:
        self.messages += 1
        self.size += len(body)

    def subscribe(self, subject: str, handler: Handler, queue: str | None = None) -> "Sink":
        return self

    def request(self, subject: str, body: bytes, timeout_s: float) -> bytes:
        return b""

    def close(self) -> None:
        pass


def authenticate(token: str | None, service_token: str | None, request_id: str) -> Context:
    return Context(request_id=request_id, project_id=PROJECT, roles=("member", "reader"))


def cpu_ms(fn: Callable[[], object], times: int = 1) -> float:
    """Return CPU milliseconds per call, of all threads."""
    began = time.process_time()
    for _ in range(times):
        fn()
    return (time.process_time() - began) / times * 1000


def main() -> None:
    total = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), total)


def run(folder: Path, total: int) -> None:
    bus = Sink()
    database = SqliteDatabase(folder / "network.sqlite", "network")
    network = EmbeddedNetwork(database, bus, hosts=lambda: ["h1"], quota_defaults={"port": -1})
    seed(network, "a" * 32, PROJECT, private_cidr="10.10.0.0/16")
    network.start()
    ctx = authenticate(None, None, "req")
    net = network.plan(ctx, PROJECT, None)[0].network_id
    print(
        f"{'ports on the host':>18} {'CPU ms':>8} {'statements':>11} {'bytes sent':>11}   per ensure_port"
    )
    step = total // 8
    for at in range(0, total, step):
        statements, size = database.statements, bus.size
        began = time.process_time()
        for i in range(at, at + step):
            network.ensure_port(
                (f"op{i}", "nic0"),
                project_id=PROJECT,
                device_id=f"s{i}",
                host="h1",
                network_id=net,
                hostname=f"s{i}",
            )
        spent = (time.process_time() - began) / step * 1000
        print(
            f"{at + step:18} {spent:8.3f} {(database.statements - statements) / step:11.1f} "
            f"{(bus.size - size) / step:11.0f}"
        )
    fifty = [f"s{i}" for i in range(50)]
    thousand = [f"s{i}" for i in range(min(1000, total))]
    print(f"ports_of(50 servers)      {cpu_ms(lambda: network.ports_of(fifty), 20):8.3f} CPU ms")
    print(
        f"ports_of({len(thousand)} servers)    {cpu_ms(lambda: network.ports_of(thousand), 3):8.3f} CPU ms"
    )
    print(
        f"plan()                    {cpu_ms(lambda: network.plan(ctx, PROJECT, None), 200):8.3f} CPU ms"
    )
    http = falcon.testing.TestClient(
        Application([service(network, "http://x/network")], None, authenticate, "http://x").wsgi
    )
    for path in ("networks", "ports?limit=50", "security-groups", f"networks/{net}"):
        spent = cpu_ms(lambda path=path: http.simulate_get("/network/v2.0/" + path), 20)  # type: ignore[misc]
        print(f"GET /{path[:20]:20} {spent:8.3f} CPU ms (test client included)")
    group = http.simulate_get("/network/v2.0/security-groups").json["security_groups"][0]["id"]
    rule = {"security_group_id": group, "direction": "ingress", "protocol": "tcp",
            "port_range_min": 22, "port_range_max": 22}  # fmt: skip
    body = json.dumps({"security_group_rule": rule})
    spent = cpu_ms(lambda: http.simulate_post("/network/v2.0/security-group-rules", body=body))
    print(f"a rule for {total} ports     {spent:8.3f} CPU ms")
    spent = cpu_ms(lambda: network.publisher.full("h1"))
    print(f"full state of the host    {spent:8.3f} CPU ms")
    began = time.process_time()
    for i in range(step):
        network.remove_port((f"op{i}", "nic0"))
    print(f"remove_port               {(time.process_time() - began) / step * 1000:8.3f} CPU ms")
    network.stop()
    database.close()


if __name__ == "__main__":
    main()
