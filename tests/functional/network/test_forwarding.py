"""Where MACs live: what each host of a network is told, and when (issue 4, networks across hosts)."""

from collections.abc import Callable

import pytest

from kilonova.agent.network.in_force import InForce, Overtaken
from kilonova.common.clock import ManualClock
from kilonova.network.embedded.network import EmbeddedNetwork
from kilonova.network.embedded.parts import in_parts
from kilonova.objects.base import decode, encode
from kilonova.objects.netstate import (
    Applied,
    Change,
    ForwardingEntry,
    ForwardingState,
    GroupState,
    StateRequest,
)
from tests.contracts.test_network import until
from tests.functional.network.conftest import DEMO, Cloud, WordedBus

HOSTS = {"h1": "10.66.0.1", "h2": "10.66.0.2", "h3": "10.66.0.3"}


def say(cloud: Cloud, host: str, underlay: str) -> Change:
    """Ask for everything as a host does that has this underlay address."""
    body = encode(StateRequest(host=host, underlay=underlay))
    return decode(cloud.bus.request(f"network.state.{host}", body, 1.0), Change)


@pytest.fixture
def three(seeded: Cloud) -> Cloud:
    """Three hosts on one underlay."""
    seeded.hosts = list(HOSTS)
    for host, underlay in HOSTS.items():
        say(seeded, host, underlay)
    return seeded


def private(cloud: Cloud) -> str:
    found: str = cloud.ok("GET", "/networks?name=private")["networks"][0]["id"]
    return found


def server(cloud: Cloud, name: str, host: str) -> tuple[str, str]:
    """Return (port, MAC) of a new server's port."""
    made = cloud.network.ensure_port(
        (name, "0"), project_id=DEMO, device_id=name, host=host, network_id=private(cloud)
    )
    return made.port_id, made.mac


def told(cloud: Cloud, host: str) -> ForwardingState | None:
    """Return what a host was told last of the private network, of one generation never two contents."""
    found = cloud.bus.documents(host, "forwarding", private(cloud))
    state: ForwardingState | None = found[-1] if found else None
    return state


def lives(cloud: Cloud, host: str, mac: str) -> Callable[[], str | None]:
    def at() -> str | None:
        state = told(cloud, host)
        return next((e.underlay for e in state.entries if e.mac == mac), None) if state else None

    return at


def test_every_host_of_a_network_learns_where_a_port_lives(three: Cloud) -> None:
    _, first = server(three, "s1", "h1")
    _, second = server(three, "s2", "h2")
    for host in ("h1", "h2"):
        until(lambda h=host: lives(three, h, second)() == HOSTS["h2"])  # type: ignore[misc]
        until(lambda h=host: lives(three, h, first)() == HOSTS["h1"])  # type: ignore[misc]
    state = told(three, "h1")
    assert state is not None and {HOSTS["h1"], HOSTS["h2"]} <= set(state.peers)
    entry = next(e for e in state.entries if e.mac == second)
    shown = three.ok("GET", "/ports?device_id=s2")["ports"][0]
    assert entry.hostname == shown["dns_name"]
    assert entry.addresses == (shown["fixed_ips"][0]["ip_address"],)
    gateway = three.ok("GET", "/ports?device_owner=network:router_interface")["ports"][0]
    assert gateway["mac_address"] in {e.mac for e in state.entries}, "the router's leg too"
    dhcp = three.ok("GET", "/ports?device_owner=network:dhcp")["ports"][0]
    assert dhcp["mac_address"] not in {e.mac for e in state.entries}, "DHCP is on every host"


def test_a_host_with_an_inactive_binding_is_a_peer_and_a_switch_is_told_at_once(
    three: Cloud,
) -> None:
    port, mac = server(three, "s1", "h1")
    _, other = server(three, "s2", "h2")
    until(lambda: lives(three, "h2", mac)() == HOSTS["h1"])
    three.network.add_bindings("s1", "h3")
    until(lambda: lives(three, "h3", mac)() == HOSTS["h1"])
    three.network.activate_bindings("s1", "h3")
    for host in HOSTS:  # no wait: in the same message as the port's two sides
        assert lives(three, host, mac)() == HOSTS["h3"], host
        (change,) = [
            c
            for c in three.bus.changes(host)
            if any(isinstance(d, ForwardingState) and lives_in(d, mac) for d in c.documents)
        ]
        if host != "h2":
            assert any(getattr(d, "id", "") == port for d in change.documents)
    assert lives(three, "h3", other)() == HOSTS["h2"]
    three.network.delete_bindings("s1", "h1")
    three.network.remove_ports_of("s1")
    until(lambda: told(three, "h2") is not None and lives(three, "h2", mac)() is None)


def lives_in(state: ForwardingState, mac: str) -> bool:
    return any(e.mac == mac and e.underlay == HOSTS["h3"] for e in state.entries)


def test_a_host_that_asks_gets_it_and_one_that_is_alone_gets_nothing(three: Cloud) -> None:
    _, mac = server(three, "s1", "h1")
    server(three, "s2", "h2")
    full = say(three, "h2", HOSTS["h2"])
    (state,) = [d for d in full.documents if isinstance(d, ForwardingState)]
    assert mac in {e.mac for e in state.entries}
    three.network.ensure_port(
        ("s4", "0"), project_id=DEMO, device_id="s4", host="h4", network_id=private(three)
    )
    alone = say(three, "h4", "")
    assert alone.documents and not any(isinstance(d, ForwardingState) for d in alone.documents)
    until(lambda: lives(three, "h1", mac)() == HOSTS["h1"])
    assert told(three, "h4") is None


def test_a_cloud_without_underlays_sends_nothing(seeded: Cloud) -> None:
    server(seeded, "s1", "h1")
    seeded.network.publisher.send_forwarding()
    assert told(seeded, "h1") is None


def test_an_address_belongs_to_one_live_host(three: Cloud) -> None:
    """A host speaks for itself only: it cannot draw another's traffic; a dead one's address can be taken over."""
    _, mac = server(three, "s1", "h1")
    server(three, "s2", "h2")
    until(lambda: lives(three, "h2", mac)() == HOSTS["h1"])
    say(three, "h2", HOSTS["h1"])
    assert three.network.publisher.forwarding.underlays() == HOSTS
    three.hosts.remove("h1")
    say(three, "h2", HOSTS["h1"])
    assert three.network.publisher.forwarding.underlays() == {
        "h2": HOSTS["h1"],
        "h3": HOSTS["h3"],
    }
    say(three, "h2", "")
    assert "h2" not in three.network.publisher.forwarding.underlays()


def test_what_was_not_reported_is_sent_again_three_times(three: Cloud) -> None:
    """R6: a lost message costs seconds."""
    _, mac = server(three, "s1", "h1")
    server(three, "s2", "h2")
    until(lambda: lives(three, "h2", mac)() is not None)
    publisher = three.network.publisher
    with publisher._order:
        three.applied("h1")
        publisher.forwarding.take()
        publisher.forwarding.mark_unheard(float("inf"))
        assert publisher.forwarding.take() == {private(three)}, "h2 said nothing"
    state = told(three, "h2")
    assert state is not None
    report = Applied(host="h2", items=(("forwarding", state.id, state.generation, None),))
    three.bus.publish("network.report.h2", encode(report))
    for host in ("h1", "h2", "h3"):
        three.applied(host)
    publisher.forwarding.mark_unheard(float("inf"))
    assert publisher.forwarding.take() == set()


def test_a_router_that_moves_takes_its_leg_along(three: Cloud) -> None:
    server(three, "s1", "h1")
    server(three, "s2", "h2")
    leg = three.ok("GET", "/ports?device_owner=network:router_interface", "admin:admin")["ports"][0]
    old, mac = leg["binding:host_id"], leg["mac_address"]
    stays = next(h for h in ("h1", "h2") if h != old)
    until(lambda: lives(three, stays, mac)() == HOSTS[old])
    three.hosts.remove(old)
    assert three.network.rebalance_routers() == 1
    now = three.ok("GET", f"/ports/{leg['id']}", "admin:admin")["port"]["binding:host_id"]
    assert now != old
    until(lambda: lives(three, stays, mac)() == HOSTS[now])


def test_a_clock_that_jumps_back_makes_no_newer_state_look_older(three: Cloud) -> None:
    """What is told later has the higher generation, whatever the clock says, from every process alike."""
    _, first = server(three, "s1", "h1")
    server(three, "s2", "h2")
    until(lambda: lives(three, "h2", first)() is not None)
    before = told(three, "h2")
    three.clock.jump(-3600.0)
    other = EmbeddedNetwork(three.database, three.bus, three.clock, lambda: list(three.hosts))
    other.publisher.forwarding.load()
    made = other.ensure_port(
        ("s3", "0"), project_id=DEMO, device_id="s3", host="h1", network_id=private(three)
    )
    other.publisher.send_forwarding()
    after = told(three, "h2")
    assert before is not None and after is not None and after.generation > before.generation
    assert lives(three, "h2", made.mac)() == HOSTS["h1"]


def test_full_states_and_changes_of_several_conductors_are_in_order(seeded: Cloud) -> None:
    """R7: what was read later has the higher number, whatever the clocks of the conductors say."""
    slow = ManualClock()
    slow.jump(-3600.0)
    other = EmbeddedNetwork(seeded.database, seeded.bus, slow, lambda: list(seeded.hosts))
    host = InForce()
    first = seeded.network.publisher.full("h1")
    host.admit(first)
    stale = other.publisher.full("h1")
    server(seeded, "s1", "h1")
    change = seeded.bus.changes("h1")[-1]
    assert first.seq < stale.seq < change.seq
    host.admit(change)
    with pytest.raises(Overtaken):
        host.admit(stale)
    again = other.publisher.full("h1")
    host.admit(again)
    assert {d.id for d in change.documents} <= {d.id for d in again.documents}
    server(seeded, "s2", "h1")
    host.admit(seeded.bus.changes("h1")[-1])
    host.admit(other.publisher.full("h1"))


def test_what_another_process_sent_is_repeated_by_the_one_that_hears(three: Cloud) -> None:
    """R6, several conductors: a lost message of any of them costs seconds."""
    server(three, "s1", "h1")
    server(three, "s2", "h2")
    until(lambda: told(three, "h2") is not None)
    publisher = three.network.publisher
    other = EmbeddedNetwork(three.database, WordedBus(), three.clock, lambda: list(three.hosts))
    other.publisher.forwarding.load()
    other.publisher.forwarding.hears = False
    for host in HOSTS:
        three.applied(host)
    with publisher._order:
        publisher.forwarding.take()
        publisher.forwarding.expect()
        publisher.forwarding.mark_unheard(float("inf"))
        publisher.forwarding.take()
        made = other.ensure_port(  # nobody hears what it says
            ("s3", "0"), project_id=DEMO, device_id="s3", host="h1", network_id=private(three)
        )
        publisher.forwarding.expect()
        publisher.forwarding.mark_unheard(float("inf"))
        publisher.send_forwarding()
    assert lives(three, "h2", made.mac)() == HOSTS["h1"]
    for host in HOSTS:
        three.applied(host)
    publisher.forwarding.expect()
    publisher.forwarding.mark_unheard(float("inf"))
    assert publisher.forwarding.take() == set()


def test_heavy_documents_travel_in_messages_of_their_own() -> None:
    """A message carries 1 MiB; a network of thousands of ports is told in one that fits, beside others."""
    entries = tuple(
        ForwardingEntry(
            mac=f"fa:16:3e:00:{i >> 8:02x}:{i & 255:02x}",
            underlay="10.66.0.100",
            addresses=(f"10.10.{i >> 8}.{i & 255}",),
            hostname=f"server-{i}",
        )
        for i in range(1000)
    )
    heavy = [ForwardingState(id=f"n{i}", generation=1, entries=entries) for i in range(5)]
    light = [GroupState(id=f"g{i}", generation=1, ipv4=("10.0.0.1",)) for i in range(250)]
    parts = in_parts([*heavy, *light])
    assert [d for p in parts for d in p] == [*heavy, *light]
    assert all(len(encode(Change(host="h", documents=p))) < 256 * 1024 for p in parts)
    assert in_parts([]) == [()]


def test_a_full_state_that_would_be_too_long_comes_without_where_macs_live(
    three: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It follows by itself; the host keeps what it has of it meanwhile."""
    _, mac = server(three, "s1", "h1")
    server(three, "s2", "h2")
    until(lambda: lives(three, "h2", mac)() is not None)
    monkeypatch.setattr("kilonova.network.embedded.state.MOST_PARTS", 0)
    before = len(three.bus.documents("h2", "forwarding", private(three)))
    full = say(three, "h2", HOSTS["h2"])
    assert full.documents and not any(isinstance(d, ForwardingState) for d in full.documents)
    until(lambda: len(three.bus.documents("h2", "forwarding", private(three))) > before)


def test_hosts_that_ask_at_once_share_a_number_and_one_that_asks_again_gets_another(
    seeded: Cloud,
) -> None:
    """Ten thousand hosts that ask when a process starts are not ten thousand writes; nobody is refused for it."""
    publisher = seeded.network.publisher
    commits = getattr(seeded.database, "commits")  # noqa: B009 - each kind of database counts
    numbers = {publisher.full(f"host{n}").seq for n in range(50)}
    assert len(numbers) < 50
    assert getattr(seeded.database, "commits") - commits == len(numbers)  # noqa: B009
    host = InForce()
    host.admit(publisher.full("h1"))
    server(seeded, "s1", "h1")
    host.admit(seeded.bus.changes("h1")[-1])
    host.admit(publisher.full("h1"))
