"""The test switches of the bus, and the single-threaded form."""

from kilonova.bus.delivery import BACKLOG
from kilonova.bus.disturbed import Disturbed
from kilonova.bus.memory import MemoryBus
from kilonova.common.clock import ManualClock


def disturb(seed: int, **kw: float) -> tuple[list[bytes], Disturbed]:
    clock, got = ManualClock(), []
    bus = Disturbed(
        MemoryBus(workers=0),
        seed,
        duplicate=int(kw.get("duplicate", 3)),
        lose=kw.get("lose", 0.0),
        delay_s=kw.get("delay_s", 30.0),
        monotonic=clock.monotonic,
    )
    bus.subscribe("a", lambda s, b: got.append(b))
    for n in range(200):
        bus.publish("a", b"%d" % n)
    while (at := bus.next_due()) is not None:
        clock.advance(max(0.0, at - clock.monotonic()))
        bus.pump()
    assert clock.monotonic() <= 30.0
    return got, bus


def test_every_message_comes_once_to_three_times_in_any_order() -> None:
    """R7"""
    got, bus = disturb(1)
    assert {got.count(b"%d" % n) for n in range(200)} == {1, 2, 3}
    assert len(got) == 200 + bus.doubled
    assert got != sorted(got, key=int)


def test_messages_are_lost_when_asked() -> None:
    """R7"""
    got, bus = disturb(2, lose=0.3, duplicate=1)
    assert len(got) == 200 - bus.lost
    assert 30 < bus.lost < 90


def test_a_seed_repeats_the_disturbance() -> None:
    assert disturb(3)[0] == disturb(3)[0] != disturb(4)[0]


def test_without_threads_nothing_moves_by_itself() -> None:
    bus, got = MemoryBus(workers=0), []
    bus.subscribe("a", lambda s, b: got.append(b))
    bus.publish("a", b"1")
    assert got == []
    assert bus.pump() == 1
    assert bus.pump() == 0
    assert got == [b"1"]
    bus.subscribe("q", lambda s, b: b"reply")
    assert bus.request("q", b"", 1.0) == b"reply"


def test_subscriber_that_falls_behind_loses_the_oldest() -> None:
    """Memory stays bounded."""
    bus, got = MemoryBus(workers=0), []
    bus.subscribe("a", lambda s, b: got.append(b))
    for n in range(BACKLOG + 10):
        bus.publish("a", b"%d" % n)
    bus.drain()
    assert len(got) == BACKLOG
    assert got[0] == b"10"
