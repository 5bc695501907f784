"""What every bus does, whatever carries the messages."""

import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from kilonova.bus.disturbed import Disturbed
from kilonova.bus.interface import Bus, NobodyListens
from kilonova.bus.memory import MemoryBus
from kilonova.server.nats_server import MAX_BYTES, NatsServer
from tests.nats import connect, nats_server

GUARD_S = 30.0


def memory() -> Bus:
    return MemoryBus(workers=2)


def undisturbed() -> Bus:
    return Disturbed(MemoryBus(workers=2), 1, duplicate=1, delay_s=0.0)


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    with nats_server() as running:
        yield running


@pytest.fixture(params=[memory, undisturbed, "nats"])
def bus(request: pytest.FixtureRequest) -> Iterator[Bus]:
    make: Callable[[], Bus] | str = request.param
    b = connect(request.getfixturevalue("server")) if isinstance(make, str) else make()
    yield b
    b.close()


class Box:
    """Collects messages; waits for a number of them."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []
        self._changed = threading.Condition()

    def __call__(self, subject: str, body: bytes) -> None:
        with self._changed:
            self.got.append((subject, body))
            self._changed.notify_all()

    def bodies(self, count: int) -> list[bytes]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.got) >= count, GUARD_S), self.got
            return [b for _, b in self.got]


def test_every_subscriber_gets_it(bus: Bus) -> None:
    boxes = [Box(), Box()]
    for b in boxes:
        bus.subscribe("report.h1", b)
    bus.publish("report.h1", b"x")
    for b in boxes:
        assert b.bodies(1) == [b"x"]
        assert b.got[0][0] == "report.h1"


def test_order_is_kept_per_subscription(bus: Bus) -> None:
    box = Box()
    bus.subscribe("a.b", box)
    sent = [b"%d" % n for n in range(1000)]
    for body in sent:
        bus.publish("a.b", body)
    assert box.bodies(1000) == sent


def test_a_group_shares(bus: Bus) -> None:
    boxes = [Box(), Box(), Box()]
    done = Box()

    def both(box: Box, subject: str, body: bytes) -> None:
        box(subject, body)
        done(subject, body)

    for b in boxes:
        bus.subscribe("answer.cell1", partial(both, b), "conductors")
    for n in range(90):
        bus.publish("answer.cell1", b"%d" % n)
    done.bodies(90)
    assert sorted(b for box in boxes for _, b in box.got) == sorted(b"%d" % n for n in range(90))
    assert all(box.got for box in boxes)


def test_star_stands_for_one_word(bus: Bus) -> None:
    box, end = Box(), Box()
    bus.subscribe("agent.*.order", box)
    bus.subscribe("end", end)
    for subject in (
        "agent.h1.order",
        "agent.h2.order",
        "agent.h1.query",
        "agent.order",
        "agent.a.b.order",
    ):
        bus.publish(subject, subject.encode())
    bus.publish("end", b"")
    end.bodies(1)
    assert sorted(box.bodies(2)) == [b"agent.h1.order", b"agent.h2.order"]


def test_closed_subscription_gets_nothing_and_closes_twice(bus: Bus) -> None:
    box, other = Box(), Box()
    s = bus.subscribe("a", box)
    bus.subscribe("a", other)
    bus.publish("a", b"1")
    box.bodies(1)
    s.close()
    s.close()
    bus.publish("a", b"2")
    other.bodies(2)
    assert [b for _, b in box.got] == [b"1"]


def test_subscriber_that_comes_later_is_found(bus: Bus) -> None:
    box, end = Box(), Box()
    bus.subscribe("end", end)
    bus.publish("late", b"nobody hears this")
    bus.publish("end", b"")
    end.bodies(1)
    bus.subscribe("late", box)
    bus.publish("late", b"x")
    assert box.bodies(1) == [b"x"]


def test_handler_that_fails_does_not_stop_the_rest(bus: Bus) -> None:
    box = Box()

    def fail(subject: str, body: bytes) -> None:
        box(subject, body)
        raise ValueError("a bug")

    bus.subscribe("a", fail)
    bus.publish("a", b"1")
    bus.publish("a", b"2")
    assert box.bodies(2) == [b"1", b"2"]


def test_handler_may_publish(bus: Bus) -> None:
    box = Box()
    bus.subscribe("ping", lambda s, b: bus.publish("pong", b + b"!"))
    bus.subscribe("pong", box)
    bus.publish("ping", b"x")
    assert box.bodies(1) == [b"x!"]


def test_slow_subscriber_holds_up_nobody_else(bus: Bus) -> None:
    gate, box = threading.Event(), Box()
    bus.subscribe("slow", lambda s, b: b"" if gate.wait(GUARD_S) else None)
    bus.subscribe("quick", box)
    for _ in range(10):
        bus.publish("slow", b"")
    bus.publish("quick", b"x")
    try:
        assert box.bodies(1) == [b"x"]
    finally:
        gate.set()


def test_request_gets_the_reply(bus: Bus) -> None:
    bus.subscribe("agent.*.query", lambda s, b: s.encode() + b":" + b)
    assert bus.request("agent.h1.query", b"console", GUARD_S) == b"agent.h1.query:console"


def test_request_to_nobody(bus: Bus) -> None:
    with pytest.raises(NobodyListens):
        bus.request("agent.h9.query", b"", 0.2)


def test_request_to_one_that_fails_or_hangs(bus: Bus) -> None:
    gate = threading.Event()

    def fail(subject: str, body: bytes) -> bytes:
        raise ValueError("a bug")

    def hang(subject: str, body: bytes) -> bytes:
        gate.wait(GUARD_S)
        return b""

    bus.subscribe("fails", fail)
    bus.subscribe("hangs", hang)
    try:
        for subject in ("fails", "hangs"):
            with pytest.raises(NobodyListens):
                bus.request(subject, b"", 0.05)
    finally:
        gate.set()


def test_request_from_a_handler(bus: Bus) -> None:
    """Handlers that ask each other do not wait for a thread that they hold."""
    box = Box()
    bus.subscribe("inner", lambda s, b: b"inner")
    bus.subscribe("outer", lambda s, b: bus.request("inner", b, GUARD_S) + b" outer")
    for _ in range(8):
        bus.subscribe("start", lambda s, b: box(s, bus.request("outer", b, GUARD_S)))
    bus.publish("start", b"")
    assert box.bodies(8) == [b"inner outer"] * 8


def test_many_threads(bus: Bus) -> None:
    box = Box()
    bus.subscribe("a.*", box)

    def send(n: int) -> None:
        for i in range(200):
            bus.publish(f"a.{n}", b"%d" % i)

    threads = [threading.Thread(target=send, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    box.bodies(1600)
    for n in range(8):
        assert [b for s, b in box.got if s == f"a.{n}"] == [b"%d" % i for i in range(200)]


def test_close_waits_for_handlers_and_ends_delivery(bus: Bus) -> None:
    running, gate, ended = threading.Event(), threading.Event(), []

    def slow(subject: str, body: bytes) -> None:
        running.set()
        gate.wait(GUARD_S)
        ended.append(1)

    bus.subscribe("a", slow)
    bus.publish("a", b"")
    assert running.wait(GUARD_S)
    closer = threading.Thread(target=bus.close)
    closer.start()
    gate.set()
    closer.join(GUARD_S)
    assert ended == [1]
    bus.publish("a", b"")
    bus.close()
    assert ended == [1]


def test_a_message_as_large_as_a_bus_of_ours_carries(bus: Bus) -> None:
    """8 MiB arrive whole, as a message, a question and a reply; nothing near it is cut."""
    box = Box()
    bus.subscribe("large.message", box)
    bus.subscribe("large.question", lambda _, body: body)
    body = bytes(range(256)) * (MAX_BYTES // 256)
    bus.publish("large.message", body)
    assert box.bodies(1) == [body]
    assert bus.request("large.question", body, GUARD_S) == body
