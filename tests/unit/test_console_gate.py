"""The way from a console proxy to a host: TLS that trusts one certificate, tickets that are good once. S28, S40."""

import socket
import ssl
import threading
from collections.abc import Iterator

import pytest

from kilonova.common.errors import Unavailable
from kilonova.console import gate as gates
from kilonova.console.gate import ConsoleGate, GateAddress
from kilonova.console.reach import reach
from kilonova.objects.query import ConsoleWay
from tests.unit.agent_kit import eventually

GUARD_S = 30.0


class Guest:
    """A console that repeats what it hears, and counts who came."""

    def __init__(self) -> None:
        self.opened = 0
        self.ended = threading.Event()

    def open(self) -> socket.socket:
        self.opened += 1
        ours, theirs = socket.socketpair()
        threading.Thread(target=self._repeat, args=(theirs,), daemon=True).start()
        return ours

    def _repeat(self, sock: socket.socket) -> None:
        with sock:
            while data := sock.recv(1 << 16):
                sock.sendall(data)
        self.ended.set()


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def gate(time: Time) -> Iterator[ConsoleGate]:
    made = ConsoleGate(GateAddress(), time)
    yield made
    made.close()


def _all(sock: socket.socket, size: int) -> bytes:
    sock.settimeout(GUARD_S)
    found = b""
    while len(found) < size and (piece := sock.recv(1 << 16)):
        found += piece
    return found


def test_bytes_go_both_ways_at_once(gate: ConsoleGate) -> None:
    """More than any buffer holds, both ways; and what one side ends, ends on the other."""
    guest, sent = Guest(), bytes(range(256)) * (16 << 10)
    with reach(gate.offer(guest.open)) as sock:
        threading.Thread(target=sock.sendall, args=(sent,), daemon=True).start()
        assert _all(sock, len(sent)) == sent
    assert guest.ended.wait(GUARD_S)


def test_a_guest_that_ends_ends_the_console(gate: ConsoleGate) -> None:
    ours, theirs = socket.socketpair()
    with reach(gate.offer(lambda: ours)) as sock, theirs:
        theirs.sendall(b"the last words")
        theirs.close()
        assert _all(sock, 1 << 10) == b"the last words"


def test_a_ticket_is_good_once(gate: ConsoleGate) -> None:
    guest = Guest()
    way = gate.offer(guest.open)
    with reach(way) as sock:
        sock.sendall(b"x")
        assert _all(sock, 1) == b"x"
        with reach(way) as again:
            assert _all(again, 1) == b""
    assert guest.opened == 1


def test_a_ticket_is_good_for_seconds(gate: ConsoleGate, time: Time) -> None:
    guest = Guest()
    way = gate.offer(guest.open)
    time.now += gates.LIFE_S
    with reach(way) as sock:
        assert _all(sock, 1) == b""
    assert guest.opened == 0


def test_a_guess_opens_nothing(gate: ConsoleGate) -> None:
    guest = Guest()
    way = gate.offer(guest.open)
    with reach(way.replace(ticket="x" * len(way.ticket))) as sock:
        assert _all(sock, 1) == b""
    assert guest.opened == 0


def test_another_host_hears_no_ticket(gate: ConsoleGate) -> None:
    """S40: whoever took the port and has another certificate is told nothing."""
    other = ConsoleGate(GateAddress())
    guest = Guest()
    mine, theirs = gate.offer(guest.open), other.offer(guest.open)
    with pytest.raises(Unavailable):
        reach(mine.replace(port=theirs.port))
    with pytest.raises(Unavailable):
        reach(mine.replace(certificate="no certificate"))
    other.close()
    assert guest.opened == 0


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" + b"\xff" * 400])
def test_what_is_no_tls_is_hung_up_on(gate: ConsoleGate, said: bytes) -> None:
    guest = Guest()
    way = gate.offer(guest.open)
    with socket.create_connection((way.address, way.port), GUARD_S) as sock:
        try:
            sock.sendall(said)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1 << 10):
                pass  # an alert, perhaps
        except TimeoutError:
            raise
        except OSError:
            pass  # reset: hung up on as well
    assert guest.opened == 0


def test_old_tls_is_refused(gate: ConsoleGate) -> None:
    way = gate.offer(Guest().open)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=way.certificate)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection((way.address, way.port), GUARD_S) as sock,
        pytest.raises(OSError, match=r"(?i)alert|protocol|version"),
    ):
        context.wrap_socket(sock)


def test_so_many_tickets_and_no_more(gate: ConsoleGate, time: Time) -> None:
    for _ in range(gates.MOST):
        gate.offer(Guest().open)
    with pytest.raises(Unavailable):
        gate.offer(Guest().open)
    time.now += gates.LIFE_S
    assert isinstance(gate.offer(Guest().open), ConsoleWay)


def test_a_closed_gate_lets_nobody_in() -> None:
    gate = ConsoleGate(GateAddress())
    way = gate.offer(Guest().open)
    gate.close()
    gate.close()

    def refused() -> bool:
        try:
            reach(way).close()
        except Unavailable:
            return True
        return False

    eventually(refused)
