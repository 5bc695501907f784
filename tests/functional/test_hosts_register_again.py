"""Hosts that register as what they were (a conductor or an agent was started again) cost reads, not writes."""

from collections.abc import Iterator

import pytest

from kilonova.db import hosts as db
from kilonova.db.engine import Database, Tx
from kilonova.objects.base import decode, encode
from kilonova.objects.host import Registered, Report
from kilonova.placement import providers
from kilonova.server.cloud import Cloud
from kilonova.server.simulated import FakeHosts
from tests.whole import Whole, running, until

HOST = "cell2-host3"


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    with running(cells=2, hosts=3) as made:
        yield made


def _fleet(cloud: Cloud) -> FakeHosts:
    fleet: FakeHosts = cloud.fleet
    return fleet


def _register(whole: Whole, **other: str) -> Registered:
    """Have a host register once more, as it is or as something else; return what it is told."""
    agent = next(a for a in _fleet(whole.cloud).agents if a.identity.host == HOST)
    report = Report(host=HOST, body=agent._introduction().replace(**other))
    return decode(whole.services.bus.request(f"report.{HOST}", encode(report), 5.0), Registered)


def _commits(whole: Whole) -> tuple[int, int]:
    both = whole.services.world, _cell(whole)
    return getattr(both[0], "commits"), getattr(both[1], "commits")  # noqa: B009 - each kind of database counts


def _cell(whole: Whole) -> Database:
    return whole.services.cells["cell2"]


def test_nothing_is_written_of_a_host_that_is_what_it_was(whole: Whole) -> None:
    assert _register(whole).accepted
    hosts = whole.services.hosts
    hosts._stop.set()  # the batch that writes when hosts were heard is not what is counted here
    hosts._thread.join(10)
    before, was = _commits(whole), hosts.find(HOST)
    assert _register(whole).accepted
    assert _commits(whole) == before
    now = hosts.find(HOST)
    assert was is not None and now is not None and now.seen_at >= was.seen_at
    assert HOST in hosts._dirty, "that it was heard is written with the next batch"


def test_another_boot_and_another_inventory_are_written(whole: Whole) -> None:
    assert _register(whole, boot_id="the-next-boot").accepted
    row = _cell(whole).read(lambda tx: db.find(tx, HOST))
    assert row is not None and row["boot_id"] == "the-next-boot"
    known = whole.services.hosts.find(HOST)
    assert known is not None and known.boot_id == "the-next-boot"


def test_a_provider_or_mapping_that_went_is_made_again(whole: Whole) -> None:
    world, known = whole.services.world, whole.services.hosts.find(HOST)
    assert known is not None

    def lose(tx: Tx) -> None:
        providers.delete(tx, providers.get(tx, known.uuid), whole.services.now())
        db.unmap(tx, HOST)

    world.write(lose)
    assert _register(whole).accepted
    assert world.read(lambda tx: providers.find(tx, known.uuid)) is not None
    assert world.read(lambda tx: db.mapping_of(tx, HOST)) is not None


def test_a_host_of_another_identity_is_refused_all_the_same(whole: Whole) -> None:
    answer = _register(whole, host_id="an-impostor")
    assert not answer.accepted and "Another host" in str(answer.reason)
    until(lambda: _register(whole).accepted)
