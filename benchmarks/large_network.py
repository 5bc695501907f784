"""What a host does about a network of 20,000 ports: ``python -m benchmarks.large_network [ports]`` (root, Linux).

In a namespace of its own, without traffic: the whole is told once, then ports come and go one by one, then nothing
changed is told. CPU is of this process and of ip and bridge; the host's agent and helper do what is called here.
"""

import os
import secrets
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from kilonova.agent.helper import names
from kilonova.agent.helper.run import drop_namespace, ensure_namespace, ip
from kilonova.agent.helper.settings import Settings
from kilonova.agent.helper.verbs import tunnels
from kilonova.agent.helper.verbs.living import Living
from kilonova.common.ids import new_uuid
from kilonova.objects.base import decode, encode
from kilonova.objects.netstate import Change, ForwardingEntry, ForwardingState, NetworkState

PORTS = 20_000
CHANGES = 50
OWN = "127.0.0.1"  # no packet is sent


def entry(n: int) -> ForwardingEntry:
    """Return where the n-th MAC lives: on one of 100 other hosts."""
    return ForwardingEntry(
        mac=f"fa:16:3e:{n >> 16:02x}:{n >> 8 & 255:02x}:{n & 255:02x}",
        underlay=f"10.66.1.{n % 100 + 1}",
        addresses=(f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}",),
        hostname=f"server-{n}",
    )


def cpu_s() -> float:
    """Return the CPU of this process and of those that it ran."""
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


def measured(what: str, do: Callable[[], None], times: int = 1) -> None:
    """Print what one call costs."""
    cpu, began = cpu_s(), time.perf_counter()
    for _ in range(times):
        do()
    each, wall = (cpu_s() - cpu) / times, (time.perf_counter() - began) / times
    print(f"{what}: {each * 1000:.1f} CPU ms, {wall * 1000:.1f} ms")


class Host:
    """One network of one host."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.living = Living(settings)
        self.network = NetworkState(id=new_uuid(), generation=1, segment=77, mtu=1450)
        self.generation = 1

    def told(self, state: ForwardingState) -> None:
        """Take what comes in a message, and put it in force."""
        change = decode(encode(Change(host="h", documents=(state,))), Change)
        for document in change.documents:
            assert isinstance(document, ForwardingState)
            self.living.take(document)
        self.living.tunnel(self.network, anew=False)

    def start_again(self) -> None:
        """Read what was kept."""
        self.living = Living(self.settings)

    def whole(self, ports: int) -> None:
        """Be told everything."""
        entries = tuple(entry(n) for n in range(ports))
        peers = tuple(sorted({e.underlay for e in entries}))
        state = ForwardingState(
            id=self.network.id, generation=self.generation, entries=entries, peers=peers
        )
        self.told(state)

    def one(self, n: int, *, comes: bool) -> None:
        """Be told of one port."""
        news = entry(n)
        state = ForwardingState(
            id=self.network.id,
            generation=self.generation + 1,
            base=self.generation,
            entries=(news,) if comes else (),
            gone=() if comes else (news.mac,),
        )
        self.generation += 1
        self.told(state)


def run(settings: Settings, ports: int) -> None:
    """Print the figures."""
    host = Host(settings)
    ns, bridge = names.host_ns(settings.tag), names.bridge(host.network.id)
    ensure_namespace(ns)
    ip([f"link add {bridge} type bridge", f"link set {bridge} up"], ns)
    tunnels.remember(settings, tunnels.Underlay(OWN))
    measured(f"{ports} ports, told whole", lambda: host.whole(ports))
    measured("told whole again", lambda: host.whole(ports))
    news = iter(range(ports, ports + CHANGES))
    measured("one more port", lambda: host.one(next(news), comes=True), CHANGES)
    olds = iter(range(CHANGES))
    measured("one port gone", lambda: host.one(next(olds), comes=False), CHANGES)
    measured("started again", host.start_again)


def main() -> None:
    """Run in a namespace that is removed at the end."""
    words = [int(w) for w in sys.argv[1:] if w.isdigit()]
    tag = secrets.token_hex(2)
    with tempfile.TemporaryDirectory(prefix="kilonova-large-") as name:
        settings = Settings(tag, Path(name), "nobody", "nobody", "nogroup")
        try:
            run(settings, words[0] if words else PORTS)
        finally:
            drop_namespace(names.host_ns(tag))


if __name__ == "__main__":
    main()
