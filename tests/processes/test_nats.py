"""The bus on a real nats-server that goes away, comes back empty, falls silent, or has no client yet. R6, R5."""

import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client

from kilonova.bus.interface import NobodyListens
from kilonova.bus.nats import Address, NatsBus
from kilonova.server.nats_server import NatsServer
from tests.contracts.test_bus import GUARD_S, Box
from tests.nats import connect, nats_server


def until(condition, what: str) -> None:  # type: ignore[no-untyped-def]
    """Wait for a condition, at most GUARD_S."""
    end = time.monotonic() + GUARD_S
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def test_the_server_may_come_last() -> None:
    """Start in any order: what was subscribed before there was a server is there once it runs. R5."""
    with nats_server() as server:
        server.stop()
        bus, box = NatsBus(Address((server.listen.url,), "early"), workers=1), Box()
        try:
            bus.subscribe("a", box)
            bus.publish("a", b"lost")
            with pytest.raises(NobodyListens):
                bus.request("a", b"", 0.2)
            server.start()
            assert bus.connected.wait(GUARD_S)
            bus.publish("a", b"x")
            assert box.bodies(1) == [b"x"]
            assert bus.dropped == 1
        finally:
            bus.close()


def test_a_fault_of_the_library_costs_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody foresaw does not end the bus's thread for good. R5."""
    tried: list[int] = []

    class Failing(Client):
        async def connect(self, *args: Any, **more: Any) -> None:
            tried.append(1)
            if len(tried) == 1:
                raise LookupError("not foreseen")
            await super().connect(*args, **more)

    monkeypatch.setattr("kilonova.bus.nats.Client", Failing)
    with nats_server() as server:
        bus = NatsBus(Address((server.listen.url,), "one"), workers=1)
        try:
            assert bus.connected.wait(GUARD_S) and len(tried) == 2
        finally:
            bus.close()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_of_the_server(how: signal.Signals) -> None:
    """Publications meanwhile are dropped, not blocked; subscriptions, groups and requests go on afterwards. R6."""
    with nats_server() as server:
        one, two, box = connect(server, "one"), connect(server, "two"), Box()
        try:
            one.subscribe("a.*", box, "group")
            one.subscribe("ask", lambda s, b: b + b"!")
            two.publish("a.1", b"before")
            box.bodies(1)
            for round in range(3):
                count = one.connections, two.connections
                deaf = two.deaf_s(1e9)
                assert two.deaf_s(1e9) == deaf, "connected: it grows no more"
                server.stop(how)
                until(lambda: not one.connected.is_set() and not two.connected.is_set(), "noticed")
                begun = time.monotonic()
                for _ in range(1000):
                    two.publish("a.1", b"lost")
                assert time.monotonic() - begun < GUARD_S
                until(lambda deaf=deaf: two.deaf_s(1e9) > deaf, "it says that it cannot hear")
                server.start()
                for bus, seen in zip((one, two), count, strict=True):
                    assert bus.connected.wait(GUARD_S)
                    until(lambda bus=bus, seen=seen: bus.connections > seen, "connected again")
                assert two.request("ask", b"x", GUARD_S) == b"x!"
                two.publish("a.1", b"after")
                box.bodies(2 + round)
            assert set(box.bodies(4)) == {b"before", b"after"}
            assert two.dropped == 3000
        finally:
            one.close()
            two.close()


def test_a_request_waits_for_the_server_within_its_time() -> None:
    with nats_server() as server:
        bus = connect(server)
        try:
            bus.subscribe("ask", lambda s, b: b"here")
            server.stop()
            until(lambda: not bus.connected.is_set(), "noticed")
            later = threading.Timer(0.3, server.start)
            later.start()
            assert bus.request("ask", b"", GUARD_S) == b"here"
            later.join()
        finally:
            bus.close()


@pytest.mark.slow
def test_a_silent_server_is_noticed() -> None:
    """A server that is stopped like a lost network, not closed: noticed within 15 s (R6)."""
    with nats_server() as server:
        bus = connect(server)
        assert server.process is not None
        try:
            server.process.send_signal(signal.SIGSTOP)
            begun = time.monotonic()
            until(lambda: not bus.connected.is_set(), "noticed")
            assert time.monotonic() - begun < 17
            server.process.send_signal(signal.SIGCONT)
            assert bus.connected.wait(GUARD_S)
        finally:
            server.process.send_signal(signal.SIGCONT)
            bus.close()


def test_too_large_a_message_is_dropped_and_said(caplog: pytest.LogCaptureFixture) -> None:
    with nats_server() as server:
        bus, box = connect(server), Box()
        try:
            bus.subscribe("a", box)
            bus.subscribe("ask", lambda s, b: bytes(9 << 20))
            bus.publish("a", bytes(9 << 20))
            bus.publish("a", bytes(7 << 20))
            assert [len(b) for b in box.bodies(1)] == [7 << 20]
            with pytest.raises(NobodyListens):
                bus.request("ask", bytes(9 << 20), GUARD_S)
            with pytest.raises(NobodyListens):
                bus.request("ask", b"", 0.3)
            assert bus.connections == 1  # nobody was cut off for it
            assert "too large" in caplog.text
        finally:
            bus.close()


def test_close_sends_what_is_lined_up() -> None:
    """An orderly end loses nothing of what was said before it. R5."""
    with nats_server() as server:
        one, two, box = connect(server, "one"), connect(server, "two"), Box()
        try:
            two.subscribe("a", box)
            two.subscribe("there", lambda s, b: b)
            one.request("there", b"x", GUARD_S)  # so the server has both subscriptions
            for n in range(500):
                one.publish("a", b"%d" % n)
            one.close()
            assert box.bodies(500) == [b"%d" % n for n in range(500)]
        finally:
            two.close()


def test_the_configuration_is_private(tmp_path: Path) -> None:
    with nats_server() as server:
        assert isinstance(server, NatsServer)
        assert (server.directory / "nats.conf").stat().st_mode & 0o077 == 0
