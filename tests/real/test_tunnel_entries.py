"""Entries of a tunnel in the kernel, changed one by one: they are what a look at all of them would make.

In a namespace of its own, without a helper, guests or traffic.
"""

import random
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kilonova.agent.helper import names
from kilonova.agent.helper.run import bridge, drop_namespace, ensure_namespace, ip, run
from kilonova.agent.helper.settings import Settings
from kilonova.agent.helper.verbs import tunnels
from kilonova.agent.helper.verbs.living import Living
from kilonova.common.ids import new_uuid
from kilonova.objects.netstate import ForwardingEntry, ForwardingState, NetworkState
from tests.real.netguest import missing

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]
OWN = "127.0.0.1"  # no packet is sent
UNDERLAYS = (OWN, "10.66.0.2", "10.66.0.3", "10.66.0.4")


class Host:
    """A host's part of one network."""

    def __init__(self, directory: Path) -> None:
        self.settings = Settings(secrets.token_hex(2), directory, "nobody", "nobody", "nogroup")
        self.network = NetworkState(id=new_uuid(), generation=1, segment=78, mtu=1450)
        self.ns = names.host_ns(self.settings.tag)
        self.device = names.bridge(self.network.id)
        self.link = names.tunnel(self.network.id)
        ensure_namespace(self.ns)
        ip([f"link add {self.device} type bridge", f"link set {self.device} up"], self.ns)
        tunnels.remember(self.settings, tunnels.Underlay(OWN, 4790))
        self.living = Living(self.settings)
        self.entries: dict[str, ForwardingEntry] = {}
        self.peers: set[str] = set()
        self.generation = 0

    def told(self, *, whole: bool, **news: Any) -> None:
        base = None if whole else self.generation
        self.generation += 1
        state = ForwardingState(id=self.network.id, generation=self.generation, base=base, **news)
        assert not self.living.lacks(state)
        self.living.take(state)
        self.living.tunnel(self.network, anew=False)

    def kernel(self) -> tuple[set[tuple[str, str]], set[str], dict[str, str]]:
        """Return (MAC, underlay) of the tunnel, MACs of the bridge, address -> MAC of the neighbours."""
        rows = msgspec.json.decode(
            run(["bridge", "-j", "fdb", "show", "dev", self.link], ns=self.ns)
        )
        tunnel = {(r["mac"], r["dst"]) for r in rows if "dst" in r}
        bridged = {r["mac"] for r in rows if "master" in r and r.get("state") == "static"}
        command = ["ip", "-j", "neigh", "show", "dev", self.device, "nud", "permanent"]
        near = msgspec.json.decode(run(command, ns=self.ns))
        return tunnel, bridged, {r["dst"]: r["lladdr"] for r in near if ":" not in r["dst"]}

    def wanted(self) -> tuple[set[tuple[str, str]], set[str], dict[str, str]]:
        away = [e for e in self.entries.values() if e.underlay != OWN]
        peers = {(tunnels.NOBODY, p) for p in self.peers if p != OWN}
        return (
            {(e.mac, e.underlay) for e in away} | peers,
            {e.mac for e in away},
            {a: e.mac for e in away for a in e.addresses},
        )


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    drop_namespace(made.ns)


def _entry(n: int, underlay: str, address: int) -> ForwardingEntry:
    return ForwardingEntry(
        mac=f"fa:16:3e:00:00:{n:02x}", underlay=underlay, addresses=(f"10.10.0.{address}",)
    )


def _change(host: Host, chance: random.Random) -> None:
    """Let some MACs come, go, move between hosts, or swap addresses, and a host come or go."""
    numbers = chance.sample(range(1, 60), 4)
    gone = [m for n in numbers[:2] if (m := f"fa:16:3e:00:00:{n:02x}") in host.entries]
    for mac in gone:
        del host.entries[mac]
    held = {int(e.addresses[0].rpartition(".")[2]) for e in host.entries.values()}
    news = []
    for n in numbers[2:]:
        old = host.entries.get(f"fa:16:3e:00:00:{n:02x}")
        address = chance.choice([a for a in range(1, 100) if a not in held])
        if old is not None and chance.random() < 0.5:
            address = int(old.addresses[0].rpartition(".")[2])
        held.add(address)
        news.append(_entry(n, chance.choice(UNDERLAYS), address))
    host.entries |= {e.mac: e for e in news}
    peer = chance.choice(UNDERLAYS)
    came, left = ((), (peer,)) if peer in host.peers else ((peer,), ())
    host.peers = (host.peers | set(came)) - set(left)
    host.told(whole=False, entries=tuple(news), gone=tuple(gone), peers=came, peers_gone=left)


def test_differences_make_what_a_look_at_all_would(host: Host) -> None:
    """MACs come, go, move and take each other's addresses; the kernel has what is so after each."""
    chance = random.Random(7)
    host.told(whole=True)
    for _ in range(40):
        _change(host, chance)
        assert host.kernel() == host.wanted()
    host.living = Living(host.settings)
    host.living.tunnel(host.network, anew=True)
    assert host.kernel() == host.wanted(), "and after a start"


def test_a_difference_that_is_not_taken_is_mended_by_a_look_at_all(host: Host) -> None:
    """R11: somebody removed an entry by hand; the next change that meets it puts everything right."""
    host.entries = {e.mac: e for e in (_entry(1, UNDERLAYS[1], 1), _entry(2, UNDERLAYS[2], 2))}
    host.told(whole=True, entries=tuple(host.entries.values()))
    assert host.kernel() == host.wanted()
    lost = _entry(1, UNDERLAYS[1], 1)
    bridge([f"fdb del {lost.mac} dev {host.link} dst {lost.underlay} self"], host.ns)
    assert host.kernel() != host.wanted(), "nothing is missing, so nothing was tested"
    del host.entries[lost.mac]
    host.told(whole=False, gone=(lost.mac,))
    assert host.kernel() == host.wanted()
    ip([f"link delete {host.link}"], host.ns)
    host.told(whole=False, entries=(_entry(3, UNDERLAYS[3], 3),))
    host.entries |= {e.mac: e for e in (_entry(3, UNDERLAYS[3], 3),)}
    assert host.kernel() == host.wanted(), "a link that was removed"
