"""The root helper's closed list of verbs. One request and one reply a time on a unix socket: length (4 bytes, network
order), then JSON. A listening socket travels beside its reply by SCM_RIGHTS. No field is a command, path or free text;
every field of a document is validated.
"""

import socket
import struct
from typing import Any, Union

import msgspec

from kilonova.common.errors import Unavailable

MAX_LENGTH = 64 * 1024 * 1024
_HEADER = struct.Struct("!I")


class HostUp(msgspec.Struct, frozen=True, tag="host_up", forbid_unknown_fields=True):
    """Make the host namespace, public bridge, NAT and resolver. open_tcp_ports: of this machine, for guests.

    public_interface: instead of bridge and NAT, the interface that is in the public network; public_pool: first and
    last floating address there. underlay: the address of this machine that tunnels to other hosts end at, None on a
    host that is alone; underlay_port: UDP, the same on every host of the cloud.
    """

    public_cidr: str = "172.24.4.0/24"
    public_gateway: str = "172.24.4.1"
    open_tcp_ports: tuple[int, ...] = ()
    public_interface: str | None = None
    public_pool: tuple[str, str] | None = None
    underlay: str | None = None
    underlay_port: int = 4789


class NetworkApply(msgspec.Struct, frozen=True, tag="network_apply", forbid_unknown_fields=True):
    """Put documents in force. change: an encoded kilonova.objects.netstate.Change."""

    change: msgspec.Raw


class NetworkRemove(msgspec.Struct, frozen=True, tag="network_remove", forbid_unknown_fields=True):
    """Remove every network, port and router of the cloud on this host."""


class TapEnsure(msgspec.Struct, frozen=True, tag="tap_ensure", forbid_unknown_fields=True):
    port_id: str


class TapRemove(msgspec.Struct, frozen=True, tag="tap_remove", forbid_unknown_fields=True):
    port_id: str


class LibvirtdStart(msgspec.Struct, frozen=True, tag="libvirtd_start", forbid_unknown_fields=True):
    pass


class LibvirtdStop(msgspec.Struct, frozen=True, tag="libvirtd_stop", forbid_unknown_fields=True):
    pass


class MetadataSocket(
    msgspec.Struct, frozen=True, tag="metadata_socket", forbid_unknown_fields=True
):
    """Open 169.254.169.254:80 in a network's namespace; the listening socket comes with the reply."""

    network_id: str


class GuestProcesses(
    msgspec.Struct, frozen=True, tag="guest_processes", forbid_unknown_fields=True
):
    pass


class MachineUp(msgspec.Struct, frozen=True, tag="machine_up", forbid_unknown_fields=True):
    """Make another host on this machine, the ``number``-th, with a root helper of its own. Answer: MachineInfo."""

    number: int


class MachineInfo(msgspec.Struct, frozen=True):
    """Another host on this machine. public_interface: its link into the public network, as it sees it."""

    tag: str
    socket: str
    underlay: str
    public_interface: str


class Purge(msgspec.Struct, frozen=True, tag="purge", forbid_unknown_fields=True):
    """End and remove everything that was made: guests too."""


class Status(msgspec.Struct, frozen=True, tag="status", forbid_unknown_fields=True):
    pass


Request = Union[  # noqa: UP007 - msgspec reads the union as tagged
    HostUp,
    NetworkApply,
    NetworkRemove,
    TapEnsure,
    TapRemove,
    LibvirtdStart,
    LibvirtdStop,
    MetadataSocket,
    GuestProcesses,
    MachineUp,
    Purge,
    Status,
]


class Reply(msgspec.Struct, frozen=True):
    """error: None, or what went wrong; code: of the error."""

    error: str | None = None
    code: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")


REQUESTS: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Request)
REPLIES = msgspec.json.Decoder(Reply)


class HelperGone(Unavailable):
    """The root helper closed the connection or does not listen."""

    code = "helper_gone"


def send(sock: socket.socket, body: bytes, fds: tuple[int, ...] = ()) -> None:
    """Send one message, with file descriptors beside it."""
    header = _HEADER.pack(len(body))
    if fds:
        socket.send_fds(sock, [header], list(fds))
    else:
        sock.sendall(header)
    sock.sendall(body)


def receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    """Receive one message and its file descriptors. Raises HelperGone at the end of the connection."""
    header, fds, _, _ = socket.recv_fds(sock, _HEADER.size, 4)
    if not header:
        raise HelperGone("the connection to the root helper ended")
    header += _exactly(sock, _HEADER.size - len(header))
    (length,) = _HEADER.unpack(header)
    if length > MAX_LENGTH:
        raise HelperGone("a message that is too long", length=length)
    return _exactly(sock, length), fds


def _exactly(sock: socket.socket, length: int) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        chunk = sock.recv(min(1 << 20, length - len(parts)))
        if not chunk:
            raise HelperGone("the connection to the root helper ended")
        parts += chunk
    return bytes(parts)
