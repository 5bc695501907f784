"""CPU of one build order on a simulated host: order encoded, sent, journaled, performed, answered. Asserts nothing.

python -m benchmarks.agent_fake_build [orders]
"""

import sys
import tempfile
import time
from pathlib import Path

from kilonova.bus.memory import MemoryBus
from kilonova.objects.base import encode
from kilonova.virt.fake.world import World
from tests.unit.agent_kit import Cloud, build_of, order_of

GUARD_S = 120.0


def run(name: str, world: World, orders: int) -> None:
    """Send ``orders`` builds to 4 hosts and wait for the last answer."""
    bus = MemoryBus()
    cloud = Cloud(world, bus)
    for n in range(4):
        cloud.agent(f"host{n}")
    answered = 0

    def count(subject: str, body: bytes) -> None:
        nonlocal answered
        answered += 1

    bus.subscribe("answer.*.*", count)
    cloud.conductor.answers.clear()
    messages = [encode(order_of(build_of(), host=f"host{n % 4}")) for n in range(orders)]
    cpu, wall = time.process_time(), time.monotonic()
    for n, body in enumerate(messages):
        bus.publish(f"agent.host{n % 4}.order", body)
    end = wall + GUARD_S
    while answered < orders and time.monotonic() < end:
        time.sleep(0.002)
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    made = sum(x.kind == "guest" for x in world.ledger())
    print(
        f"{name:28} {1000 * cpu / orders:.3f} CPU ms per build   {orders / wall:.0f} builds/s   {made} guests"
    )
    cloud.close()
    world.close()


if __name__ == "__main__":
    many = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    run("in memory", World(), many)
    with tempfile.TemporaryDirectory() as directory:
        run("guests in one SQLite file", World(Path(directory) / "guests.sqlite"), many)
