"""Start, memory, creates, deletes, lists and reads of a simulated cloud: ``python -m benchmarks.servers [count]``.

CPU is of the cloud's process; wall-clock figures share two cores with the client.
"""

import sys
import threading
import time

from benchmarks.cloud import Cloud, cloud, percentile


def spread(n: int, clients: int, work: "object") -> None:
    """Call ``work(i)`` for i < n from ``clients`` threads."""
    numbers = iter(range(n))
    lock = threading.Lock()

    def run() -> None:
        while True:
            with lock:
                i = next(numbers, None)
            if i is None:
                return
            work(i)  # type: ignore[operator]

    threads = [threading.Thread(target=run) for _ in range(clients)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


def create(c: Cloud, n: int, clients: int, nets: bool = True) -> list[str]:
    """Create n servers, wait until none builds; print rates."""
    ids: list[str] = [""] * n
    posts: list[float] = [0.0] * n
    c.server_body("warm")

    def one(i: int) -> None:
        began = time.perf_counter()
        status, _, body = c.call("POST", "/compute/v2.1/servers", c.server_body(f"s{i}", nets=nets))
        posts[i] = time.perf_counter() - began
        assert status == 202, body
        ids[i] = body["server"]["id"]

    cpu, began = c.cpu_s(), time.perf_counter()
    spread(n, clients, one)
    posted = time.perf_counter() - began
    while c.call("GET", "/compute/v2.1/servers?status=BUILD&limit=1")[2]["servers"]:
        time.sleep(0.02)
    wall = time.perf_counter() - began
    broken = c.call("GET", "/compute/v2.1/servers?status=ERROR&limit=1")[2]["servers"]
    print(
        f"create {n} with {clients} clients{'' if nets else ', no network'}: {n / wall:.0f}/s, "
        f"{(c.cpu_s() - cpu) / n * 1000:.2f} CPU ms each, all posted after {posted:.2f} s, ACTIVE after {wall:.2f} s; "
        f"POST p50 {percentile(posts, 50) * 1000:.1f} ms p95 {percentile(posts, 95) * 1000:.1f} ms"
        f"{' SOME FAILED' if broken else ''}"
    )
    return ids


def to_active(c: Cloud, n: int = 40) -> None:
    """Print POST -> ACTIVE, one after another, polled each 2 ms."""
    times = []
    for i in range(n):
        began = time.perf_counter()
        server = c.call("POST", "/compute/v2.1/servers", c.server_body(f"a{i}"))[2]["server"]["id"]
        while c.call("GET", f"/compute/v2.1/servers/{server}")[2]["server"]["status"] == "BUILD":
            time.sleep(0.002)
        times.append(time.perf_counter() - began)
    print(
        f"POST -> ACTIVE, one client: p50 {percentile(times, 50) * 1000:.0f} ms "
        f"p95 {percentile(times, 95) * 1000:.0f} ms"
    )


def reads(c: Cloud, server: str) -> None:
    """Print the cost of lists and single reads."""
    for path, times in (
        ("/compute/v2.1/servers/detail?limit=1000", 10),
        ("/compute/v2.1/servers?limit=50", 100),
        (f"/compute/v2.1/servers/{server}", 400),
    ):
        took = []
        cpu = c.cpu_s()
        for _ in range(times):
            began = time.perf_counter()
            status, _, raw = c.raw("GET", path)
            took.append(time.perf_counter() - began)
            assert status == 200
        shown = path.replace(server, "{id}")
        print(
            f"GET {shown}: {(c.cpu_s() - cpu) / times * 1000:.2f} CPU ms, p50 {percentile(took, 50) * 1000:.2f} ms, "
            f"{len(raw) / 1024:.0f} KiB"
        )
    took = []

    def one(i: int) -> None:
        began = time.perf_counter()
        c.raw("GET", f"/compute/v2.1/servers/{server}")
        took.append(time.perf_counter() - began)

    began = time.perf_counter()
    spread(2000, 8, one)
    print(
        f"GET /servers/{{id}} with 8 clients: {2000 / (time.perf_counter() - began):.0f}/s, "
        f"p99 {percentile(took, 99) * 1000:.1f} ms"
    )


def delete(c: Cloud, ids: list[str], clients: int = 8) -> None:
    """Delete all; print the rate."""
    cpu, began = c.cpu_s(), time.perf_counter()
    spread(len(ids), clients, lambda i: c.raw("DELETE", f"/compute/v2.1/servers/{ids[i]}"))
    while True:
        left = {s["id"] for s in c.call("GET", "/compute/v2.1/servers?limit=1000")[2]["servers"]}
        if not left & set(ids):
            break
        time.sleep(0.02)
    wall = time.perf_counter() - began
    print(
        f"delete {len(ids)} with {clients} clients: {len(ids) / wall:.0f}/s, "
        f"{(c.cpu_s() - cpu) / len(ids) * 1000:.2f} CPU ms each"
    )


def main(count: int = 1000) -> None:
    """Print everything."""
    with cloud(hosts=10, environment={"KILONOVA_PRIVATE_CIDR": "10.10.0.0/16"}) as c:
        print(
            f"start to a cloud that answers: {c.start_s:.2f} s, {c.cpu_s():.2f} CPU s; {c.rss_mib():.0f} MiB"
        )
        c.lift_quotas()
        to_active(c)
        for clients, n in ((1, 100), (8, 100), (32, 100)):
            create(c, n, clients)
        ids = create(c, count, 8)
        print(f"after {count} more servers: {c.rss_mib():.0f} MiB")
        reads(c, ids[0])
        print(f"after the lists: {c.rss_mib():.0f} MiB")
        delete(c, ids)
        body = c.server_body("m")
        body["server"].update(min_count=100, max_count=100)
        cpu, began = c.cpu_s(), time.perf_counter()
        assert c.call("POST", "/compute/v2.1/servers", body)[0] == 202
        while c.call("GET", "/compute/v2.1/servers?status=BUILD&limit=1")[2]["servers"]:
            time.sleep(0.02)
        wall = time.perf_counter() - began
        print(
            f"one POST of 100 servers: ACTIVE after {wall:.2f} s, {(c.cpu_s() - cpu) * 10:.2f} CPU ms each"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
