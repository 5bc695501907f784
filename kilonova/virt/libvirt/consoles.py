"""Consoles of real guests: libvirt hands the display's connection over, and streams the serial port."""

import contextlib
import socket
import threading
from typing import Any

import libvirt

from kilonova.virt.driver import DriverError
from kilonova.virt.libvirt.connection import telling
from kilonova.virt.libvirt.domains import Domains, is_active, text_of

PIECE = 64 << 10


class Consoles(Domains):
    """The ConsoleDriver part."""

    def console_boot(self, server_id: str, kind: str) -> str:
        """Return the number that libvirt gives to each run of a domain."""
        domain = self._found(server_id)
        if not is_active(domain):
            raise DriverError("The server is not running.")
        if kind == "vnc" and "<graphics type='vnc'" not in text_of(domain):
            raise DriverError("The server has no display.")
        with telling("The guest cannot be looked up."):
            return str(domain.ID())

    def open_console(self, server_id: str, kind: str, boot: str) -> socket.socket:
        """Return a connection to the guest's display or first serial port."""
        if self.console_boot(server_id, kind) != boot:
            raise DriverError("The server was started again since.")
        domain = self._found(server_id)
        if kind == "vnc":
            with telling("The display of the guest cannot be opened."):
                fd = domain.openGraphicsFD(0, 0)
            return socket.socket(fileno=fd)
        with telling("The serial port of the guest cannot be opened."):
            stream = self._connection.get().newStream(0)
            domain.openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
        ours, theirs = socket.socketpair()
        ends = _Ends(stream, theirs)
        for work, name in ((ends.up, "serial-up"), (ends.down, "serial-down")):
            threading.Thread(target=work, name=name, daemon=True).start()
        return ours


class _Ends:
    """A libvirt stream and a socket; when either ends, so does the other."""

    def __init__(self, stream: Any, sock: socket.socket) -> None:
        self._stream = stream
        self._sock = sock
        self._over = threading.Lock()
        self._done = False

    def down(self) -> None:
        """Carry what the guest prints to the socket."""
        with contextlib.suppress(libvirt.libvirtError, OSError):
            while data := self._stream.recv(PIECE):
                self._sock.sendall(data)
        self._end()

    def up(self) -> None:
        """Carry what comes from the socket to the guest."""
        with contextlib.suppress(libvirt.libvirtError, OSError):
            while data := self._sock.recv(PIECE):
                while data:
                    data = data[self._stream.send(data) :]
        self._end()

    def _end(self) -> None:
        with self._over:
            if self._done:
                return
            self._done = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        with contextlib.suppress(libvirt.libvirtError):
            self._stream.abort()
