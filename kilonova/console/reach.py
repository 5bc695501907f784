"""The console proxy's side of a host's gate: from the way to a console to a socket."""

import contextlib
import socket
import ssl
import threading

from kilonova.common.errors import Unavailable
from kilonova.console.carry import carry
from kilonova.objects.query import ConsoleWay

CONNECT_S = 10.0


def reach(way: ConsoleWay) -> socket.socket:
    """Return a socket to a guest's console; the caller closes it. Raises Unavailable.

    The host must prove that it is the one whose certificate came over the bus; only then is the ticket said.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the one certificate that is trusted is the host's own
    with contextlib.ExitStack() as undo:
        try:
            context.load_verify_locations(cadata=way.certificate)
            sock = socket.create_connection((way.address, way.port), CONNECT_S)
            undo.callback(sock.close)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            secure = context.wrap_socket(sock)
            undo.callback(secure.close)
            secure.sendall(way.ticket.encode())
        except (OSError, ValueError) as exc:
            raise Unavailable(
                "The host of this console cannot be reached.", why=str(exc), address=way.address
            ) from exc
        ours, theirs = socket.socketpair()
        threading.Thread(
            target=carry, args=(secure, theirs), name="console-host", daemon=True
        ).start()
        undo.pop_all()
    return ours
