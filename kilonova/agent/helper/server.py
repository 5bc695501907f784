"""The root helper: a unix socket for one user, one thread per connection, a closed list of verbs."""

import contextlib
import os
import pwd
import signal
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from kilonova.agent.helper import protocol, run
from kilonova.agent.helper.protocol import Reply
from kilonova.agent.helper.settings import Settings
from kilonova.agent.helper.validate import address, interface_name, network, udp_port
from kilonova.agent.helper.verbs import host, libvirt, machine, metadata, purge
from kilonova.agent.helper.verbs.network import HostState
from kilonova.common.errors import KilonovaError
from kilonova.common.log import get_logger
from kilonova.objects.base import decode
from kilonova.objects.netstate import Change

log = get_logger(__name__)
MOST_HOSTS = 4
_CREDENTIALS = struct.Struct("3i")


class HelperServer:
    """Serves verbs until stopped. What it made stays when it ends; a new one finds it."""

    def __init__(self, settings: Settings, socket_path: Path) -> None:
        self.settings = settings
        self._path = socket_path
        self._owner = pwd.getpwnam(settings.owner)
        self._state = HostState(settings)
        self._up = threading.Lock()
        self._libvirt = threading.Lock()
        self._restored = False
        self._listener: socket.socket | None = None
        self._verbs: dict[type, Callable[[Any], Any]] = {
            protocol.HostUp: self._host_up,
            protocol.NetworkApply: self._network_apply,
            protocol.NetworkRemove: lambda _: self._state.remove_all(),
            protocol.TapEnsure: lambda r: self._state.plug(r.port_id),
            protocol.TapRemove: lambda r: self._state.unplug(r.port_id),
            protocol.LibvirtdStart: self._libvirtd_start,
            protocol.LibvirtdStop: self._libvirtd_stop,
            protocol.MetadataSocket: lambda r: metadata.open_socket(settings.tag, r.network_id),
            protocol.GuestProcesses: lambda _: libvirt.guests(settings.tag),
            protocol.MachineUp: self._machine_up,
            protocol.Purge: self._purge,
            protocol.Status: self._status,
        }

    # -- verbs

    def _host_up(self, request: protocol.HostUp) -> list[str]:
        network(request.public_cidr, "public_cidr")
        address(request.public_gateway, "public_gateway")
        if request.public_interface is not None:
            interface_name(request.public_interface)
        for one in request.public_pool or ():
            address(one, "public_pool")
        if request.underlay is not None:
            address(request.underlay, "underlay")
        udp_port(request.underlay_port, "underlay_port")
        with self._up:
            notes = host.host_up(self.settings, request)
            if not self._restored:
                self._state.restore()
                self._restored = True
            return notes

    def _network_apply(self, request: protocol.NetworkApply) -> list[Any]:
        return list(self._state.apply(decode(request.change, Change)))

    def _libvirtd_start(self, request: protocol.LibvirtdStart) -> Any:
        with self._libvirt:
            return libvirt.start(self.settings)

    def _libvirtd_stop(self, request: protocol.LibvirtdStop) -> None:
        with self._libvirt:
            libvirt.stop(self.settings)

    def _machine_up(self, request: protocol.MachineUp) -> protocol.MachineInfo:
        if not 2 <= request.number <= MOST_HOSTS:
            raise ValueError(f"a machine has hosts 2 to {MOST_HOSTS}")
        with self._up:
            return machine.machine_up(self.settings, request.number)

    def _purge(self, request: protocol.Purge) -> list[str]:
        with self._up, self._libvirt:
            self._state = HostState(self.settings)
            purge.remove_everything(self.settings)
            self._restored = False
            self._state = HostState(self.settings)
            (self.settings.directory_root / "net").rmdir()
            return purge.list_leftovers(self.settings.tag, self.settings.directory_root)

    def _status(self, request: protocol.Status) -> dict[str, Any]:
        tag = self.settings.tag
        return {
            "tag": tag,
            "pid": os.getpid(),
            "in_force": self._state.generations(),
            "guests": libvirt.guests(tag),
        }

    # -- serving

    def listen(self) -> None:
        """Open the socket, 0600 and owned by the cloud's user. Raises OSError."""
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            listener.bind(str(self._path))
        finally:
            os.umask(mask)
        os.chown(self._path, self._owner.pw_uid, self._owner.pw_gid)
        listener.listen(32)
        self._listener = listener

    def serve(self) -> None:
        """Accept until ``stop``."""
        listener = self._listener
        if listener is None:
            raise RuntimeError("listen() comes first")
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connection, args=(sock,), daemon=True).start()

    def stop(self) -> None:
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        self._path.unlink(missing_ok=True)

    def _connection(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError, protocol.HelperGone):
            raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            _, uid, _ = _CREDENTIALS.unpack(raw)
            if uid not in (0, self._owner.pw_uid):
                log.warning("a stranger called", extra={"uid": uid})
                return
            while True:
                body, fds = protocol.receive(sock)
                for fd in fds:
                    os.close(fd)
                reply, handed = self._answer(body)
                with contextlib.ExitStack() as closing:
                    if handed is not None:
                        closing.callback(handed.close)
                    sent = (handed.fileno(),) if handed is not None else ()
                    protocol.send(sock, msgspec.json.encode(reply), sent)

    def _answer(self, body: bytes) -> tuple[Reply, socket.socket | None]:
        try:
            request = protocol.REQUESTS.decode(body)
            result = self._verbs[type(request)](request)
        except msgspec.MsgspecError as exc:
            return Reply(error=f"not a verb of ours: {exc}", code="refused"), None
        except KilonovaError as exc:
            log.warning("a verb failed", extra={"why": exc.message, "facts": str(exc.facts)})
            return Reply(error=exc.message, code=exc.code), None
        except (OSError, ValueError) as exc:
            log.warning("a verb failed", exc_info=True)
            return Reply(error=str(exc), code="os_error"), None
        if isinstance(result, socket.socket):
            return Reply(), result
        return Reply(data=msgspec.Raw(msgspec.json.encode(result))), None


def main(settings: Settings, socket_path: Path, *, until_stdin_ends: bool = False) -> None:
    """Serve until SIGTERM or SIGINT; until_stdin_ends: or until who started us is gone."""
    server = HelperServer(settings, socket_path)
    server.listen()
    if until_stdin_ends:
        threading.Thread(target=_wait_for_end, args=(server,), daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    log.info("root helper listens", extra={"tag": settings.tag, "netns": str(run.NETNS)})
    server.serve()


def _wait_for_end(server: HelperServer) -> None:
    while os.read(0, 4096):
        pass
    server.stop()
