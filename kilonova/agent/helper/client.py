"""The cloud process's side of the root helper."""

import os
import socket
import threading
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from kilonova.agent.helper import protocol
from kilonova.agent.libvirtd import LibvirtdInfo
from kilonova.common.errors import KilonovaError
from kilonova.objects.base import encode
from kilonova.objects.netstate import Applied, Change

T = TypeVar("T")


class HelperError(KilonovaError):
    """The root helper refused or failed; ``helper_code`` is the code of its error."""

    code = "helper"

    def __init__(self, message: str, helper_code: str | None, **facts: object) -> None:
        super().__init__(message, **facts)
        self.helper_code = helper_code


class HelperClient:
    """Calls from any thread, one connection each at a time; reconnects when the helper was restarted."""

    def __init__(self, socket_path: Path, timeout_s: float = 120.0) -> None:
        self._path = socket_path
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._idle: list[socket.socket] = []

    def _call(self, request: object, kind: Any = None) -> Any:
        data, fds = self._exchange(msgspec.json.encode(request))
        for fd in fds:
            os.close(fd)
        return msgspec.json.decode(data, type=kind) if kind is not None else None

    def _exchange(self, body: bytes) -> tuple[msgspec.Raw, list[int]]:
        while True:
            sock, used = self._take()
            try:
                protocol.send(sock, body)
                raw, fds = protocol.receive(sock)
            except (OSError, protocol.HelperGone) as exc:
                sock.close()
                if used and not isinstance(exc, TimeoutError):
                    continue  # the helper was restarted; every verb is repeatable
                raise protocol.HelperGone("the root helper does not answer") from exc
            with self._lock:
                self._idle.append(sock)
            reply = protocol.REPLIES.decode(raw)
            if reply.error is not None:
                raise HelperError(reply.error, reply.code)
            return reply.data, fds

    def _take(self) -> tuple[socket.socket, bool]:
        """Return a connection, and whether it was used before."""
        with self._lock:
            if self._idle:
                return self._idle.pop(), True
        return self._connect(), False

    def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(self._timeout_s)
        try:
            sock.connect(str(self._path))
        except OSError as exc:
            sock.close()
            raise protocol.HelperGone(
                "the root helper does not listen", path=str(self._path)
            ) from exc
        return sock

    # -- verbs

    def host_up(
        self,
        public_cidr: str,
        public_gateway: str,
        open_tcp_ports: tuple[int, ...] = (),
        public_interface: str | None = None,
        public_pool: tuple[str, str] | None = None,
        underlay: str | None = None,
        underlay_port: int = 4789,
    ) -> list[str]:
        """Make the host namespace, public bridge, NAT, resolver; return what was changed on the machine."""
        request = protocol.HostUp(
            public_cidr=public_cidr,
            public_gateway=public_gateway,
            open_tcp_ports=open_tcp_ports,
            public_interface=public_interface,
            public_pool=public_pool,
            underlay=underlay,
            underlay_port=underlay_port,
        )
        notes: list[str] = self._call(request, list[str])
        return notes

    def network_apply(self, change: Change) -> Applied:
        """Put a change in force."""
        items = self._call(
            protocol.NetworkApply(msgspec.Raw(encode(change))),
            tuple[tuple[str, str, int, str | None], ...],
        )
        return Applied(host=change.host, items=items)

    def network_remove(self) -> None:
        self._call(protocol.NetworkRemove())

    def tap_ensure(self, port_id: str) -> str:
        """Make the port's tap and plug it; return its name. HelperError with code port_unknown."""
        name: str = self._call(protocol.TapEnsure(port_id), str)
        return name

    def tap_remove(self, port_id: str) -> None:
        self._call(protocol.TapRemove(port_id))

    def libvirtd_start(self) -> LibvirtdInfo:
        info: LibvirtdInfo = self._call(protocol.LibvirtdStart(), LibvirtdInfo)
        return info

    def libvirtd_stop(self) -> None:
        self._call(protocol.LibvirtdStop())

    def metadata_socket(self, network_id: str) -> socket.socket:
        """Return a socket that listens on 169.254.169.254:80 in the network's namespace.

        Raises HelperError with code no_namespace or os_error (in use).
        """
        _, fds = self._exchange(msgspec.json.encode(protocol.MetadataSocket(network_id)))
        return socket.socket(fileno=fds[0])

    def guest_processes(self) -> list[tuple[int, str]]:
        """Return (pid, domain name) of every QEMU of this cloud."""
        found: list[tuple[int, str]] = self._call(protocol.GuestProcesses(), list[tuple[int, str]])
        return found

    def machine_up(self, number: int) -> protocol.MachineInfo:
        """Make another host on this machine."""
        made: protocol.MachineInfo = self._call(protocol.MachineUp(number), protocol.MachineInfo)
        return made

    def purge(self) -> list[str]:
        """End and remove everything, guests too; return what is left all the same."""
        left: list[str] = self._call(protocol.Purge(), list[str])
        return left

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self._call(protocol.Status(), dict[str, Any])
        return found

    def close(self) -> None:
        """Close the idle connections; a later call opens a new one."""
        with self._lock:
            idle, self._idle = self._idle, []
        for sock in idle:
            sock.close()
