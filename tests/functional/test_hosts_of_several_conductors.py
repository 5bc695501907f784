"""What several conductors know of hosts: a report reaches one of them, and all of them act on it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kilonova.bus.memory import MemoryBus
from kilonova.common.clock import ManualClock
from kilonova.db import versions
from kilonova.db.secrets import Vault
from kilonova.objects.base import decode, encode, manifest
from kilonova.objects.host import Heartbeat, HostAsk, HostRegister, Inventory, Registered, Report
from kilonova.operations import stores
from kilonova.operations.hosts import Hosts
from kilonova.operations.scheduling import Scheduling
from kilonova.operations.services import Services
from kilonova.reconcile.loop import Reconcilers
from kilonova.saga.engine import Engine
from kilonova.saga.leases import LeaseOwner
from tests import databases
from tests.client import until

HOST = "cell1-host1"


class Conductor:
    """One process: connections, hosts, a scheduler's view and an engine of its own."""

    def __init__(self, root: Path, bus: MemoryBus, clock: ManualClock) -> None:
        self.dbs = {n: databases.at(root / f"{n}.db", n) for n in ("global", "cell0", "cell1")}
        for name, db in self.dbs.items():
            versions.ensure(db, stores.WORLD if name == "global" else stores.CELL)
        absent: Any = object()
        self.services = Services(
            world=self.dbs["global"],
            cells={n: self.dbs[n] for n in ("cell0", "cell1")},
            bus=bus,
            vault=Vault.at(root / "secret.key"),
            images=absent,
            network=absent,
            identity=absent,
            state_dir=root,
            public_url="http://127.0.0.1",
            clock=clock,
        )
        self.scheduling = Scheduling(self.services)
        self.services.install(scheduling=self.scheduling)
        self.hosts = Hosts(self.services, shared=True)
        self.services.install(hosts=self.hosts)
        self.scheduling.refresh(full=True)
        owner = LeaseOwner(clock)
        self.engine = Engine(
            self.services.homes(), bus, self.services, clock=clock, ownership=owner
        )
        self.services.install(engine=self.engine)
        self.engine.open()

    def close(self) -> None:
        self.engine.stop()
        self.hosts.close()
        for db in self.dbs.values():
            db.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def bus() -> Iterator[MemoryBus]:
    made = MemoryBus(workers=2)
    yield made
    made.close()


@pytest.fixture
def pair(tmp_path: Path, bus: MemoryBus, clock: ManualClock) -> Iterator[list[Conductor]]:
    made = [Conductor(tmp_path, bus, clock) for _ in range(2)]
    yield made
    for conductor in made:
        conductor.close()


def say(bus: MemoryBus, body: Any) -> None:
    bus.publish(f"report.{HOST}", encode(Report(host=HOST, body=body)))


def register(bus: MemoryBus, vcpus: int = 8) -> Registered:
    body = HostRegister(
        host=HOST,
        host_id="id-1",
        boot_id="boot-1",
        journal_id="j",
        cell="cell1",
        driver="fake",
        release="0",
        inventory=Inventory(vcpus=vcpus, memory_mib=8192, disk_gib=100),
        versions=manifest(),
    )
    reply = bus.request(f"report.{HOST}", encode(Report(host=HOST, body=body)), 10.0)
    return decode(reply, Registered)


def test_a_registration_reaches_all(pair: list[Conductor], bus: MemoryBus) -> None:
    """HOST-S1: whoever answered it; the others read the record at once."""
    for vcpus in (8, 16, 32):
        assert register(bus, vcpus).accepted
        for one in pair:
            until(lambda one=one, n=vcpus: _vcpus(one) == n, f"{vcpus} cores")


def _vcpus(one: Conductor) -> int:
    state = one.hosts.find(HOST)
    return 0 if state is None else state.inventory.vcpus


def test_what_an_operator_changes_acts_everywhere_at_once(
    pair: list[Conductor], bus: MemoryBus
) -> None:
    """HOST-S2: disabled, forced down, forgotten."""
    register(bus)
    until(lambda: all(c.hosts.find(HOST) for c in pair), "both know the host")
    pair[0].hosts.set_service(HOST, disabled=True, reason="work")
    until(lambda: pair[1].hosts.status_of(HOST) == "MAINTENANCE", "the other knows")
    pair[1].hosts.set_service(HOST, disabled=False, forced_down=True)
    until(lambda: not pair[0].hosts.is_up(HOST), "the other knows")
    with_row = pair[0].dbs
    with_row["cell1"].write(lambda tx: tx.change(stores_delete("host")))
    with_row["global"].write(lambda tx: tx.change(stores_delete("host_mapping")))
    pair[0].hosts.forget(HOST)
    until(lambda: pair[1].hosts.find(HOST) is None, "the other forgot it")


def stores_delete(table: str) -> Any:
    metadata = stores.WORLD if table in stores.WORLD.tables else stores.CELL
    return metadata.tables[table].delete()


def test_a_host_that_beats_is_up_everywhere(
    pair: list[Conductor], bus: MemoryBus, clock: ManualClock
) -> None:
    """HOST-S3: each beat is heard by one; a conductor that hears none for long reads that others do."""
    register(bus)
    until(lambda: all(c.hosts.find(HOST) for c in pair), "both know the host")
    for _ in range(12):
        clock.advance(10.0)
        for _ in pair:  # an even number: the same one hears the first of each round
            say(bus, Heartbeat(host=HOST, boot_id="boot-1", digest=""))
        until(lambda: any(_age(c, clock) < 1.0 for c in pair), "the beat was heard")
        for one in pair:
            one.hosts._flush()
        for one in pair:
            one.hosts.read_others()
        assert all(c.hosts.is_up(HOST) for c in pair)
    clock.advance(61.0)
    for one in pair:
        one.hosts.read_others()
    assert not any(c.hosts.is_up(HOST) for c in pair)


def _age(one: Conductor, clock: ManualClock) -> float:
    state = one.hosts.find(HOST)
    return float("inf") if state is None else clock.now() - state.seen_at


def test_what_was_missed_is_read_within_a_minute(
    tmp_path: Path, bus: MemoryBus, clock: ManualClock, pair: list[Conductor]
) -> None:
    """HOST-S4: no message is needed for a host to come, change and go."""
    register(bus)
    until(lambda: all(c.hosts.find(HOST) for c in pair), "both know the host")
    table = stores.CELL.tables["host"]
    pair[0].dbs["cell1"].write(
        lambda tx: tx.change(table.update().values(disabled=1, updated_at=clock.now()))
    )
    pair[1].hosts.read_others()
    assert pair[1].hosts.status_of(HOST) == "MAINTENANCE"
    pair[0].dbs["cell1"].write(lambda tx: tx.change(table.delete()))
    clock.advance(61.0)
    pair[1].hosts.read_others()
    assert pair[1].hosts.find(HOST) is None


def test_reconcilers_run_in_one_conductor(
    pair: list[Conductor], bus: MemoryBus, clock: ManualClock
) -> None:
    """REC-S1: the one that leads; the other one when it is gone."""
    assert [c.services.leads() for c in pair] == [True, False]
    loops = [Reconcilers(c.services) for c in pair]
    pair[0].engine.stop()
    assert [c.services.leads() for c in pair] == [False, True]
    for loop in loops:
        loop.close()


def test_a_conductor_that_starts_asks_hosts_to_beat(
    tmp_path: Path, pair: list[Conductor], bus: MemoryBus, clock: ManualClock
) -> None:
    """HOST-S5: hosts that nobody heard for long are up as soon as they have answered it."""
    register(bus)
    asked: list[HostAsk] = []
    bus.subscribe(f"agent.{HOST}.state", lambda _, body: asked.append(decode(body, HostAsk)))
    clock.advance(3600.0)
    third = Conductor(tmp_path, bus, clock)
    try:
        until(lambda: [a.what for a in asked] == ["heartbeat"], "it is asked")
        assert not third.hosts.is_up(HOST)
        for _ in range(3):  # whoever hears it
            say(bus, Heartbeat(host=HOST, boot_id="boot-1", digest="d"))
        until(lambda: third.hosts.is_up(HOST), "it is heard")
    finally:
        third.close()


class HardOfHearing(MemoryBus):
    """A bus that was away for ``deaf`` seconds, the last ones of what it is asked for."""

    deaf = 0.0

    def deaf_s(self, last_s: float) -> float:
        return min(self.deaf, last_s)


def test_silence_does_not_count_while_we_cannot_hear(tmp_path: Path, clock: ManualClock) -> None:
    """R6: the bus was away for a minute; no host is down for it, and one that stays silent is, 60 s later."""
    bus = HardOfHearing(workers=2)
    one = Conductor(tmp_path, bus, clock)
    try:
        assert register(bus).accepted
        clock.advance(90.0)
        assert not one.hosts.is_up(HOST)
        bus.deaf = 50.0
        assert one.hosts.is_up(HOST)
        assert one.hosts.status_of(HOST) == "UP"
        clock.advance(30.0)
        assert not one.hosts.is_up(HOST)
    finally:
        one.close()
        bus.close()
