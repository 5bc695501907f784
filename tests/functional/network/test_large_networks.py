"""Networks of many thousand ports: where MACs live is told in parts, and a change of one port as one entry.

Issue 4 §1, networks across hosts. The hosts here are what a real host keeps (agent/helper/verbs/living.py), without a
kernel; the kernel's part is tests/real/test_two_hosts.py.
"""

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kilonova.agent.helper.settings import Settings
from kilonova.agent.helper.verbs.living import Living
from kilonova.agent.network.gathering import Gathering
from kilonova.common.ids import new_uuid
from kilonova.db.engine import Tx
from kilonova.db.sql import insert
from kilonova.network.embedded import documents
from kilonova.network.embedded.network import EmbeddedNetwork
from kilonova.network.embedded.schema import address, port
from kilonova.network.embedded.store import moves
from kilonova.network.embedded.store.common import listed
from kilonova.objects.base import decode, encode, manifest, speak
from kilonova.objects.netstate import (
    BEHIND,
    Applied,
    Change,
    Document,
    ForwardingEntry,
    ForwardingState,
    StateRequest,
)
from tests.contracts.test_network import until
from tests.functional.network.conftest import DEMO, OTHER, Cloud

HOSTS = {"h1": "10.66.0.1", "h2": "10.66.0.2", "h3": "10.66.0.3"}
MANY = 20_000
MESSAGE = 256 * 1024  # bytes; a bus carries at least 1 MiB
_PORT, _ADDRESS = insert(port), insert(address)


class Host:
    """What one host knows. deaf: the next message does not come."""

    def __init__(self, cloud: Cloud, name: str, directory: Path) -> None:
        self.name, self.directory = name, directory
        self.cloud = cloud
        self.lock = threading.Lock()
        self.deaf = False
        self.lost = 0
        self.said_behind = 0
        self.sizes: list[int] = []
        self.start()
        cloud.bus.subscribe(f"agent.{name}.state", self._hear)

    def start(self) -> None:
        """Start, or start again, from what is on the disk."""
        settings = Settings("t", self.directory, "nobody", "nobody", "nogroup")
        with self.lock:
            self.living = Living(settings)
            self.gathering = Gathering()

    def ask(self) -> None:
        """Ask for everything, as a host does that comes up."""
        body = encode(StateRequest(host=self.name, underlay=HOSTS[self.name]))
        answer = self.cloud.bus.request(f"network.state.{self.name}", body, 5.0)
        assert len(answer) < 4 * MESSAGE
        self._take(decode(answer, Change))

    def _hear(self, subject: str, body: bytes) -> None:
        self.sizes.append(len(body))
        if self.deaf:
            self.deaf, self.lost = False, self.lost + 1
            return
        self._take(decode(body, Change))

    def _take(self, change: Change) -> None:
        with self.lock:
            items = [self._one(d) for d in self.gathering.take(change).documents]
        known = tuple(i for i in items if i is not None)
        if known:
            report = encode(Applied(host=self.name, items=known))
            self.cloud.bus.publish(f"network.report.{self.name}", report)

    def _one(self, document: Document) -> tuple[str, str, int, str | None] | None:
        if not isinstance(document, ForwardingState):
            return None
        if self.living.lacks(document):
            self.said_behind += 1
            return ("forwarding", document.id, document.generation, BEHIND)
        if document.generation >= (self.living.generation(document.id) or 0):
            self.living.take(document)
        now = self.living.generation(document.id)
        assert now is not None
        return ("forwarding", document.id, now, None)

    def knows(self, network_id: str) -> tuple[dict[str, ForwardingEntry], set[str]] | None:
        """Return (MAC -> entry, peers)."""
        known = self.living._networks.get(network_id)
        return None if known is None else (known.entries, known.peers)


@pytest.fixture
def hosts(seeded: Cloud, tmp_path: Path) -> Iterator[dict[str, Host]]:
    seeded.hosts = list(HOSTS)
    made = {}
    for name in HOSTS:
        (tmp_path / name).mkdir()
        made[name] = Host(seeded, name, tmp_path / name)
        made[name].ask()
    seeded.network.publisher.forwarding.expect()
    yield made
    for host in made.values():
        assert max(host.sizes, default=0) < MESSAGE


def private(cloud: Cloud) -> str:
    found: str = cloud.ok("GET", "/networks?name=private")["networks"][0]["id"]
    return found


def server(cloud: Cloud, name: str, host: str) -> None:
    cloud.network.ensure_port(
        (name, "0"), project_id=DEMO, device_id=name, host=host, network_id=private(cloud)
    )


def fill(cloud: Cloud, count: int) -> None:
    """Put that many more ports into the network, over all hosts, as rows."""
    names = list(HOSTS)
    net = private(cloud)
    server(cloud, "template", "h1")
    shown = cloud.ok("GET", "/ports?device_id=template", "admin:admin")["ports"][0]
    subnet_id = shown["fixed_ips"][0]["subnet_id"]

    def put(tx: Tx) -> None:
        row = dict(tx.all(documents._PORTS, ids=listed([shown["id"]]))[0])
        row = {k: v for k, v in row.items() if k in port.c}
        for n in range(count):
            tail = f"{n >> 16:02x}:{n >> 8 & 255:02x}:{n & 255:02x}"
            ip = f"10.77.{n >> 8}.{n & 255}"
            row |= {"id": new_uuid(), "mac": f"fa:17:3e:{tail}", "host": names[n % 3]}
            row |= {"device_id": f"many-{n}", "dns_name": f"many-{n}", "operation": ""}
            row["project_id"] = OTHER  # the quota of demo is for what follows
            tx.put(_PORT, **row)
            held = {"subnet_id": subnet_id, "port_id": row["id"], "place": 0}
            tx.put(_ADDRESS, **held, num=f"{0xFF0000000000 + n:032x}", ip=ip)
        cloud.network.publisher.forwarding.bump(tx, {(net, moves.ANYTHING)})

    cloud.database.write(put)
    cloud.network.publisher.forwarding.mark({net})


def truth(cloud: Cloud) -> tuple[dict[str, ForwardingEntry], set[str]]:
    """Return what every host of the network should know."""
    net = private(cloud)

    def read(tx: Tx) -> ForwardingState:
        return documents.forwarding_states(tx, {net: 0}, HOSTS)[net][1]

    state = cloud.database.read(read)
    return {e.mac: e for e in state.entries}, set(state.peers)


def settled(cloud: Cloud, hosts: dict[str, Host], *, lossy: bool = False) -> None:
    """Wait until every host knows what is so. lossy: what was lost is repeated at once instead of after seconds."""
    net = private(cloud)

    def look() -> bool:
        if lossy:
            cloud.network.publisher.forwarding.expect()  # what another process told, too
            cloud.network.publisher.forwarding.mark_unheard(float("inf"))
        cloud.network.publisher.send_forwarding()
        wanted = truth(cloud)
        return all(h.knows(net) == wanted for h in hosts.values())

    until(look, 60.0)


def test_twenty_thousand_ports_are_told_and_one_more_costs_one_entry(
    seeded: Cloud, hosts: dict[str, Host]
) -> None:
    """No message is larger than a bus carries, and a change of one port is not told as all of them."""
    fill(seeded, MANY)
    settled(seeded, hosts)
    known = hosts["h2"].knows(private(seeded))
    assert known is not None and len(known[0]) > MANY
    for host in hosts.values():
        assert len(host.sizes) > 10, "the whole came in parts"
        host.sizes.clear()
    server(seeded, "s1", "h1")
    settled(seeded, hosts)
    for name in ("h2", "h3"):
        assert sum(hosts[name].sizes) < 4096, "one entry"
    seeded.network.remove_ports_of("s1")
    settled(seeded, hosts)
    assert sum(hosts["h2"].sizes) < 8192
    assert [h.said_behind for h in hosts.values()] == [0, 0, 0]


def test_a_process_that_starts_tells_differences_from_its_first_change_on(
    seeded: Cloud, hosts: dict[str, Host]
) -> None:
    """R2: the start of a process does not tell everything to everybody again."""
    fill(seeded, 500)
    settled(seeded, hosts)
    for host in hosts.values():
        host.sizes.clear()
    other = EmbeddedNetwork(seeded.database, seeded.bus, seeded.clock, lambda: list(seeded.hosts))
    other.publisher.forwarding.hears = False
    other.publisher.forwarding.load()
    other.publisher.forwarding.begin()
    other.publisher.forwarding.take()
    made = ("s1", "0")
    other.ensure_port(made, project_id=DEMO, device_id="s1", host="h1", network_id=private(seeded))
    other.publisher.send_forwarding()
    wanted = truth(seeded)
    for name in ("h2", "h3"):
        assert hosts[name].knows(private(seeded)) == wanted
        assert sum(hosts[name].sizes) < 4096


def test_a_lost_difference_is_mended_by_the_whole(seeded: Cloud, hosts: dict[str, Host]) -> None:
    """R6: the host that missed one says so at the next; it is not asked again without end."""
    fill(seeded, 500)
    settled(seeded, hosts)
    publisher = seeded.network.publisher
    with publisher._order:
        server(seeded, "s1", "h1")
        hosts["h2"].deaf = True
        publisher.send_forwarding()
        assert hosts["h2"].lost == 1
        server(seeded, "s2", "h1")
        publisher.send_forwarding()
        assert hosts["h2"].said_behind == 1
        publisher.send_forwarding()
        assert hosts["h2"].knows(private(seeded)) == truth(seeded)
        assert hosts["h3"].said_behind == 0


def test_a_host_that_starts_again_goes_on_from_its_file(
    seeded: Cloud, hosts: dict[str, Host]
) -> None:
    """R3: differences are kept as they come; a torn last line is told again."""
    fill(seeded, 500)
    settled(seeded, hosts)
    server(seeded, "s1", "h1")
    settled(seeded, hosts)
    hosts["h2"].start()
    assert hosts["h2"].knows(private(seeded)) == truth(seeded)
    server(seeded, "s2", "h1")
    settled(seeded, hosts)
    file = hosts["h2"].directory / "net" / "living" / private(seeded)
    file.write_bytes(file.read_bytes()[:-20])
    hosts["h2"].start()
    assert hosts["h2"].knows(private(seeded)) != truth(seeded)
    server(seeded, "s3", "h1")
    settled(seeded, hosts)
    assert hosts["h2"].said_behind == 1


def test_hosts_of_an_older_release_are_told_all_in_one_message(
    seeded: Cloud, hosts: dict[str, Host]
) -> None:
    """Below the deployment's pin neither parts nor differences are sent."""
    older = {**manifest(), "ForwardingState": (1, 0)}
    fill(seeded, 300)
    settled(seeded, hosts)
    try:
        speak(older)
        for host in hosts.values():
            host.sizes.clear()
        server(seeded, "s1", "h1")
        settled(seeded, hosts)
        assert max(hosts["h2"].sizes) > 300 * 80, "the whole, as before"
    finally:
        speak(None)


def test_what_came_and_went_between_two_processes_is_gone(
    seeded: Cloud, hosts: dict[str, Host]
) -> None:
    """R7: a difference names what another process told meanwhile, also where nothing of it is left."""
    fill(seeded, 300)
    settled(seeded, hosts)
    other = EmbeddedNetwork(seeded.database, seeded.bus, seeded.clock, lambda: list(seeded.hosts))
    other.publisher.forwarding.hears = False
    other.publisher.forwarding.load()
    other.publisher.forwarding.begin()
    other.publisher.forwarding.take()
    with seeded.network.publisher._order:  # what it does by itself waits
        net = private(seeded)
        other.ensure_port(("s1", "0"), project_id=DEMO, device_id="s1", host="h1", network_id=net)
        other.publisher.send_forwarding()
        assert hosts["h2"].knows(net) == truth(seeded), "it came"
        other.remove_ports_of("s1")
        seeded.network.publisher.forwarding.mark({net})
        seeded.network.publisher.send_forwarding()
        assert hosts["h2"].knows(net) == truth(seeded), "and went"
        assert hosts["h2"].said_behind == 0


@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_changes_and_losses_ends_with_what_is_so(
    seeded: Cloud, hosts: dict[str, Host], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """R6, R7: two processes tell, messages are lost, hosts start again; every host knows the same in the end."""
    monkeypatch.setattr("kilonova.network.embedded.told.WHOLE_UNTIL", 4)
    monkeypatch.setattr("kilonova.network.embedded.forwarding.BEHIND_EVERY_S", 0.0)
    monkeypatch.setattr("kilonova.network.embedded.parts.MOST_BYTES", 2500)
    monkeypatch.setattr("kilonova.network.embedded.parts._EACH", 9)
    chance = random.Random(seed)
    fill(seeded, 40)
    other = EmbeddedNetwork(seeded.database, seeded.bus, seeded.clock, lambda: list(seeded.hosts))
    other.publisher.forwarding.hears = False
    other.publisher.forwarding.load()
    both = (seeded.network, other)
    there: list[str] = []
    for n in range(60):
        network = chance.choice(both)
        host = hosts[chance.choice(list(HOSTS))]
        if there and chance.random() < 0.3:
            network.remove_ports_of(there.pop(chance.randrange(len(there))))
        else:
            network.ensure_port(
                (f"s{n}", "0"),
                project_id=DEMO,
                device_id=f"s{n}",
                host=host.name,
                network_id=private(seeded),
            )
            there.append(f"s{n}")
        host.deaf = chance.random() < 0.3
        if chance.random() < 0.1:
            host.start()
            host.ask()
        if chance.random() < 0.7:
            chance.choice(both).publisher.send_forwarding()
    assert sum(h.lost for h in hosts.values()), "nothing was lost"
    settled(seeded, hosts, lossy=True)
