"""Consoles of simulated guests: a display of one colour that speaks RFB, and a serial port that says what it hears."""

import contextlib
import socket
import struct
import threading

from kilonova.virt.driver import DriverError
from kilonova.virt.fake.host import FakeHost
from kilonova.virt.fake.world import RUNS

WIDTH, HEIGHT = 320, 200
COLOUR = (0x20, 0x80, 0x40)  # red, green, blue
_FORMAT = struct.pack(">BBBBHHHBBBxxx", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)


class FakeConsoles(FakeHost):
    """The ConsoleDriver part."""

    def console_boot(self, server_id: str, kind: str) -> str:
        """Return how often the guest has booted."""
        self._alive()
        guest = self._find(server_id)
        if guest.power not in RUNS:
            raise DriverError("The server is not running.", power=guest.power)
        return str(guest.boots)

    def open_console(self, server_id: str, kind: str, boot: str) -> socket.socket:
        """Return a socket with a simulated guest at its other end."""
        if self.console_boot(server_id, kind) != boot:
            raise DriverError("The server was started again since.")
        name = self._find(server_id).name
        ours, theirs = socket.socketpair()
        speak = _rfb if kind == "vnc" else _serial
        threading.Thread(
            target=_end_well, args=(speak, theirs, name), name=f"fake-{kind}", daemon=True
        ).start()
        return ours


def _end_well(speak: object, sock: socket.socket, name: str) -> None:
    with contextlib.suppress(OSError, EOFError), sock:
        sock.settimeout(300)
        speak(sock, name)  # type: ignore[operator]


def _read(sock: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        piece = sock.recv(size - len(found))
        if not piece:
            raise EOFError
        found += piece
    return found


def _serial(sock: socket.socket, name: str) -> None:
    """Greet, then repeat every line."""
    sock.sendall(f"{name} login: ".encode())
    while piece := sock.recv(4096):
        sock.sendall(piece.replace(b"\r", b"\r\n"))


def _rfb(sock: socket.socket, name: str) -> None:
    """Speak RFB 3.8 without a password and show one colour. source: RFC 6143."""
    sock.sendall(b"RFB 003.008\n")
    _read(sock, 12)
    sock.sendall(b"\x01\x01")
    _read(sock, 1)
    sock.sendall(struct.pack(">I", 0))
    _read(sock, 1)
    title = name.encode()
    sock.sendall(
        struct.pack(">HH", WIDTH, HEIGHT) + _FORMAT + struct.pack(">I", len(title)) + title
    )
    told, shifts = False, (16, 8, 0)
    while True:
        kind = _read(sock, 1)[0]
        if kind == 0:
            shifts = struct.unpack(">3x10x3B3x", _read(sock, 19))
        elif kind == 2:
            (count,) = struct.unpack(">xH", _read(sock, 3))
            _read(sock, 4 * count)
        elif kind == 3:
            incremental = _read(sock, 9)[0]
            if not incremental or not told:
                told = True
                head = struct.pack(">BxH", 0, 1) + struct.pack(">HHHHi", 0, 0, WIDTH, HEIGHT, 0)
                sock.sendall(head + _pixel(shifts) * (WIDTH * HEIGHT))
        elif kind == 4:
            _read(sock, 7)
        elif kind == 5:
            _read(sock, 5)
        elif kind == 6:
            (length,) = struct.unpack(">xxxI", _read(sock, 7))
            _read(sock, min(length, 1 << 20))
        else:
            return


def _pixel(shifts: tuple[int, ...]) -> bytes:
    """Return the one colour as 32 bits, little endian, in the order that the client asked for."""
    value = sum(part << shift for part, shift in zip(COLOUR, shifts, strict=True))
    return struct.pack("<I", value & 0xFFFFFFFF)
