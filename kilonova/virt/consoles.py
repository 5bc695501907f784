"""The part of a driver that connects to a guest's display or serial port."""

import socket
from typing import Protocol, runtime_checkable


@runtime_checkable
class ConsoleDriver(Protocol):
    """Consoles of one host's guests. kind: "vnc" or "serial"."""

    def console_boot(self, server_id: str, kind: str) -> str:
        """Return what names this run of the guest: another after each start. Changes nothing.

        GuestMissing. DriverError: the guest does not run, or has no such console.
        """
        ...

    def open_console(self, server_id: str, kind: str, boot: str) -> socket.socket:
        """Return a connected socket: RFB for vnc, the bytes of the port for serial. The caller closes it.

        DriverError: as console_boot, or the guest was started again since ``boot``.
        """
        ...
