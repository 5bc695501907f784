"""A detached qemu-storage-daemon of a host, which exports volumes over NBD.

It is started by the cloud's own unprivileged user, survives our restarts and deaths, and is found again by its QMP
socket. It listens where other hosts reach this one (TCP), or, without an address, on a unix socket that only QEMU's
group may open: then only guests of this host reach its exports. The listening socket is made here and handed over, so
that its port, kept in a file, is the same after the daemon died. With TLS it speaks to nobody who does not show a
certificate of the hosts' authority, and lets in those whom ``admit`` names.

directory: 0700 below the agent's own: qmp.sock, pid, port, log. The unix socket for guests lies in ``public``.
source: QEMU docs, qemu-storage-daemon and its QMP reference.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from kilonova.objects.volume_orders import VolumeExport
from kilonova.virt.driver import Again, DriverError, Progress
from kilonova.virt.libvirt.disks import Owner
from kilonova.virt.libvirt.qmp import Qmp, QmpDown, QmpError

PROGRAM = "qemu-storage-daemon"
SEARCH = "/usr/sbin:/usr/bin:/sbin:/bin"
GO_S = 5.0
POLL_S = 0.2
MOST_CONNECTIONS = 1024
_HOSTS = "hosts"  # the object that knows who may connect
SOCKET_PATH_MOST = 107  # bytes; source: unix(7)


@dataclass(frozen=True)
class Listen:
    """Where guests reach the exports. address: an IP address of this host, None for the unix socket in ``public``."""

    public: Path
    address: str | None = None


class StorageDaemon:
    """What one daemon exports. The caller sees to it that no two threads use it at once.

    tls: the directory of the host's certificate (identity.py); None: no TLS.
    """

    def __init__(
        self, directory: Path, listen: Listen, owner: Owner, tls: Path | None = None
    ) -> None:
        self._dir = directory
        self._tls = tls
        self._listen = listen
        self._owner = owner
        directory.mkdir(mode=0o700, exist_ok=True)
        directory.chmod(0o700)

    # -- its life

    def alive(self) -> bool:
        """Tell whether it answers."""
        try:
            with self._qmp() as qmp:
                qmp.run("query-version")
        except QmpDown:
            return False
        return True

    def ensure(self) -> bool:
        """Have it run; tell whether it had to be started. Raises DriverError."""
        if self.alive():
            return False
        end(self._dir)  # one that does not answer holds the volumes' locks
        program = shutil.which(PROGRAM, path=SEARCH)
        if program is None:
            raise DriverError("A program is missing on the host.", program=PROGRAM)
        with self._listening() as listener:
            self._start(program, listener)
        return True

    def stop(self) -> None:
        """End it; fine when it does not run. Whoever is connected loses the disk."""
        with contextlib.suppress(DriverError), self._qmp() as qmp:
            qmp.run("quit")
        end(self._dir)
        (self._listen.public / "nbd.sock").unlink(missing_ok=True)

    def address(self) -> tuple[str, int]:
        """Return where it listens: (address, port), or (path of the unix socket, 0)."""
        if self._listen.address is None:
            return str(self._listen.public / "nbd.sock"), 0
        return self._listen.address, self._port()

    # -- exports

    def admit(self, names: set[str]) -> None:
        """Let hosts of these names connect, and nobody else; whoever is connected stays. Only with TLS."""
        rules = [{"match": f"CN={n}", "policy": "allow", "format": "exact"} for n in sorted(names)]
        with self._qmp() as qmp:
            qmp.run("qom-set", path=f"/objects/{_HOSTS}", property="rules", value=rules)

    def in_force(self) -> set[str]:
        """Return the ids of the exports."""
        with self._qmp() as qmp:
            return {e["id"] for e in qmp.run("query-block-exports")}

    def export(self, wanted: VolumeExport, path: Path) -> None:
        """Export one volume; it is opened for writing if it is not open yet. Raises QmpError."""
        with self._qmp() as qmp:
            node = node_of(wanted.volume_id)
            if node not in _nodes(qmp):
                self._open(qmp, node, path)
            qmp.run(
                "block-export-add",
                type="nbd",
                id=id_of(wanted),
                node_name=node,
                name=wanted.name,
                writable=not wanted.readonly,
            )

    def unexport(self, export_id: str) -> None:
        """End an export, whoever is connected; its volume is closed when no other export needs it."""
        with self._qmp() as qmp:
            node = next(
                (e["node-name"] for e in qmp.run("query-block-exports") if e["id"] == export_id),
                None,
            )
            if node is None:
                return
            self._end_export(qmp, export_id)
            self._close_unused(qmp)

    def grow(self, volume_id: str, size: int) -> None:
        """Let an exported volume grow; QEMU never resizes what it exports, so its exports end. Repeatable.

        What was written by them is in the volume when this returns. Raises QmpError when the volume is busy.
        """
        node = node_of(volume_id)
        with self._qmp() as qmp:
            found = [n for n in qmp.run("query-named-block-nodes") if n["node-name"] == node]
            if not found:
                raise DriverError("The volume is not exported.", id=volume_id)
            if found[0]["image"]["virtual-size"] >= size:
                return
            for export in qmp.run("query-block-exports"):
                if export["node-name"] == node:
                    self._end_export(qmp, export["id"])
            qmp.run("block_resize", node_name=node, size=size)

    @staticmethod
    def _end_export(qmp: Qmp, export_id: str) -> None:
        """End an export; it is gone when all that was asked of it is done."""
        qmp.run("block-export-del", id=export_id, mode="hard")
        until = time.monotonic() + GO_S
        while any(e["id"] == export_id for e in qmp.run("query-block-exports")):
            if time.monotonic() > until:
                raise DriverError("An export does not end.", export=export_id)
            time.sleep(0.01)

    def close_unused(self) -> None:
        """Close volumes that no export needs."""
        with self._qmp() as qmp:
            self._close_unused(qmp)

    # -- copies

    def copy(self, volume_id: str, target: Path, progress: Progress) -> None:
        """Copy an exported volume as it is now to ``target``, an empty qcow2 file of its size; Again while it works.

        A job that is there is gone on with, also one of our life before. Raises DriverError when it failed.
        """
        job = node = "c" + hashlib.sha256(str(target).encode()).hexdigest()[:24]
        with self._qmp() as qmp:
            state = next((j for j in qmp.run("query-jobs") if j["id"] == job), None)
            if state is None:
                self._open(qmp, node, target)
                qmp.run(
                    "blockdev-backup",
                    job_id=job,
                    device=node_of(volume_id),
                    target=node,
                    sync="full",
                    auto_dismiss=False,
                )
            elif state["status"] == "concluded":
                qmp.run("job-dismiss", id=job)
                qmp.run("blockdev-del", node_name=node)
                if "error" in state:
                    raise DriverError("The volume could not be copied.", said=state["error"])
                return
        progress("copying the volume")
        raise Again(POLL_S)

    def end_copy(self, target: Path) -> None:
        """Give up a copy; fine when there is none."""
        job = node = "c" + hashlib.sha256(str(target).encode()).hexdigest()[:24]
        with self._qmp() as qmp:
            until = time.monotonic() + GO_S
            while state := next((j for j in qmp.run("query-jobs") if j["id"] == job), None):
                if state["status"] == "concluded":
                    qmp.run("job-dismiss", id=job)
                    break
                with contextlib.suppress(QmpError):  # it may have ended in between
                    qmp.run("job-cancel", id=job)
                if time.monotonic() > until:
                    raise DriverError("A copy does not end.", job=job)
                time.sleep(0.01)
            if node in _nodes(qmp):
                qmp.run("blockdev-del", node_name=node)

    # -- parts

    def _qmp(self) -> Qmp:
        return Qmp(self._dir / "qmp.sock")

    def _open(self, qmp: Qmp, node: str, path: Path) -> None:
        qmp.run(
            "blockdev-add",
            node_name=node,
            driver="qcow2",
            discard="unmap",
            file={"driver": "file", "filename": str(path), "discard": "unmap", "locking": "on"},
        )

    @staticmethod
    def _close_unused(qmp: Qmp) -> None:
        used = {e["node-name"] for e in qmp.run("query-block-exports")}
        jobs = {j["id"] for j in qmp.run("query-jobs")}
        for node in _nodes(qmp) - used - jobs:
            with contextlib.suppress(QmpError):  # a copy reads it still; closed with a later export
                qmp.run("blockdev-del", node_name=node)

    def _start(self, program: str, listener: socket.socket) -> None:
        fd = listener.fileno()
        log = os.open(
            self._dir / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
        )
        try:
            done = subprocess.run(  # noqa: S603 - a list, no shell, names of our own
                [
                    program,
                    *("--chardev", "socket,id=qmp,path=qmp.sock,server=on,wait=off"),
                    *("--monitor", "chardev=qmp"),
                    *self._server(fd),
                    *("--pidfile", str(self._dir / "pid"), "--daemonize"),
                ],
                cwd=self._dir,
                env={"PATH": SEARCH, "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[fd],
                start_new_session=True,
                timeout=30,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise DriverError("What exports volumes does not start.") from exc
        finally:
            os.close(log)
        if done.returncode != 0:
            said = (self._dir / "log").read_text(errors="replace")[-1000:]
            raise DriverError("What exports volumes does not start.", said=said)

    def _server(self, fd: int) -> list[str]:
        """Return the words that make the NBD server: with TLS it lets nobody in yet."""
        where = f"addr.type=fd,addr.str={fd}"
        if self._tls is None:
            return ["--nbd-server", where]
        kept = str(self._tls).replace(",", ",,")
        return [
            *("--object", f"tls-creds-x509,id=tls,dir={kept},endpoint=server,verify-peer=on"),
            *("--object", f"authz-list,id={_HOSTS},policy=deny"),
            *("--nbd-server", f"{where},tls-creds=tls,tls-authz={_HOSTS}"),
        ]

    def _listening(self) -> socket.socket:
        """Return a socket that listens, on the same port as before if that is free."""
        if self._listen.address is None:
            return self._listening_here()
        family = socket.AF_INET6 if ":" in self._listen.address else socket.AF_INET
        for port in dict.fromkeys((self._port(), 0)):
            listener = socket.socket(family)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((self._listen.address, port))
                listener.listen(MOST_CONNECTIONS)
            except OSError as exc:
                listener.close()
                if port == 0:
                    raise DriverError(
                        "Volumes cannot be exported on the host's address.",
                        address=self._listen.address,
                        error=str(exc),
                    ) from exc
                continue
            (self._dir / "port").write_text(str(listener.getsockname()[1]))
            return listener
        raise DriverError("Volumes cannot be exported on the host's address.")

    def _listening_here(self) -> socket.socket:
        path = self._listen.public / "nbd.sock"
        if len(str(path).encode()) > SOCKET_PATH_MOST:
            raise DriverError("The path of the socket for volumes is too long.", path=str(path))
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(MOST_CONNECTIONS)
        self._owner.give(path, write=True)
        return listener

    def _port(self) -> int:
        try:
            return int((self._dir / "port").read_text())
        except (OSError, ValueError):
            return 0


def end(directory: Path) -> bool:
    """End the daemon of a directory by its pid, if that is still it; tell whether it ran. Safe to repeat."""
    try:
        pid = int((directory / "pid").read_text())
    except (OSError, ValueError):
        return False
    until = time.monotonic() + GO_S
    ran = False
    for how in (signal.SIGTERM, signal.SIGKILL):
        while _is_ours(pid, directory):
            if not ran or how == signal.SIGKILL:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, how)
            ran = True
            if time.monotonic() > until:
                break
            time.sleep(0.01)
        until = time.monotonic() + GO_S
    (directory / "pid").unlink(missing_ok=True)
    (directory / "qmp.sock").unlink(missing_ok=True)
    return ran


def _is_ours(pid: int, directory: Path) -> bool:
    """Tell whether a process is the daemon of this directory: process ids are used again."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        files = [Path(os.fsdecode(w)) for w in words if w.endswith(b"/pid")]
        return (
            PROGRAM.encode() in words[0]
            and len(files) == 1
            and os.path.samefile(files[0].parent, directory)
        )
    except OSError:
        return False


def id_of(wanted: VolumeExport) -> str:
    """Return the id of an export; another name or mode is another export."""
    facts = f"{wanted.volume_id} {wanted.name} {wanted.readonly}"
    return f"e-{wanted.attachment_id}-{hashlib.sha256(facts.encode()).hexdigest()[:12]}"


def node_of(volume_id: str) -> str:
    """Return the name of a volume's block node; such a name has at most 31 characters."""
    return "v" + hashlib.sha256(volume_id.encode()).hexdigest()[:24]


def _nodes(qmp: Qmp) -> set[str]:
    nodes = qmp.run("query-named-block-nodes", flat=True)
    return {n["node-name"] for n in nodes if not n["node-name"].startswith("#")}
