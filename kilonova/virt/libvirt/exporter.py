"""What a host exports over NBD, kept in a file, and the storage daemons that do it (storage_daemon.py).

With TLS each exported volume has a daemon and a port of its own. QEMU's NBD server knows who may connect, and shows all
its exports to everyone who may: so one server exports one volume, and those who may connect are the hosts that have it
attached. Without TLS one daemon exports all.

ROOT/exports.json   what is to be exported, as last told
ROOT/daemon         of the one daemon;  ROOT/daemons/<volume>  of those of single volumes
"""

import os
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

from kilonova.common.host_certificates import name_of
from kilonova.common.log import get_logger
from kilonova.objects.base import decode, encode
from kilonova.objects.volume_orders import ExportsApplied, VolumeExport, VolumeExports
from kilonova.virt.driver import DriverError, Progress
from kilonova.virt.libvirt import storage_daemon
from kilonova.virt.libvirt.disks import Owner
from kilonova.virt.libvirt.identity import HostIdentity
from kilonova.virt.libvirt.storage_daemon import Listen, StorageDaemon, id_of

log = get_logger(__name__)


@dataclass(frozen=True)
class ExporterConfig:
    """root: of the host's volumes. address: on which others reach it, if any. identity: with it exports have TLS."""

    root: Path
    host: str
    owner: Owner
    address: str | None = None
    identity: HostIdentity | None = None


class Exporter:
    """The exports of one host. Threads may share it. Paths of volumes are the caller's affair."""

    def __init__(self, config: ExporterConfig) -> None:
        self._config = config
        self._root = config.root
        self._lock = threading.Lock()
        self._failed: tuple[tuple[str, str], ...] = ()
        self._listen = Listen(config.root / "public", config.address)
        self._shared = StorageDaemon(config.root / "daemon", self._listen, config.owner)

    # -- what is to be exported

    def apply(self, exports: VolumeExports) -> ExportsApplied:
        """Keep what is wanted, then have exactly that."""
        with self._lock:
            known = self._wanted()
            if exports.generation >= known.generation:
                self._keep(exports.replace(certificate="", authority=""))
                known = exports
            return self._enforce(known)

    def check(self) -> ExportsApplied | None:
        """Start again what died, and try again what failed; None when nothing had to be done."""
        with self._lock:
            known, failed = self._wanted(), self._failed
            if not known.exports or (not failed and self._all_alive(known)):
                return None
            applied = self._enforce(known)
            return None if failed and applied.failed == failed else applied

    def exported(self, volume_id: str) -> bool:
        """Tell whether a volume is to be exported."""
        with self._lock:
            return any(e.volume_id == volume_id for e in self._wanted().exports)

    def grow(self, volume_id: str, size: int) -> None:
        """Let an exported volume grow: its exports end, and are there again. Whoever is connected must wait for them.

        size: bytes. DriverError: QEMU refused; the exports are there again then too.
        """
        with self._lock:
            known = self._wanted()
            self._enforce(known)
            try:
                self._daemon_of(volume_id).grow(volume_id, size)
            finally:
                self._enforce(known)

    # -- copies

    def copy(self, volume_id: str, target: Path, progress: Progress) -> None:
        """Copy an exported volume; as StorageDaemon.copy."""
        with self._lock:
            self._daemon_of(volume_id).copy(volume_id, target, progress)

    def end_copy(self, target: Path) -> None:
        """Give up a copy; fine when there is none."""
        with self._lock:
            for daemon in self._daemons().values():
                if daemon.alive():
                    daemon.end_copy(target)

    # -- parts

    def _enforce(self, wanted: VolumeExports) -> ExportsApplied:
        self._failed = ()
        failed: dict[str, str] = {}
        groups = self._groups(wanted)
        for name, daemon in self._daemons().items():
            if name not in groups:
                self._end(name, daemon)
        ports: list[tuple[str, int]] = []
        for name, exports in groups.items():
            daemon = self._daemon_named(name)
            try:
                failed |= self._have(daemon, exports)
                if name:
                    ports += [(e.attachment_id, daemon.address()[1]) for e in exports]
            except DriverError as exc:
                if not name:
                    raise
                failed |= {e.attachment_id: exc.message for e in exports}
                _warn(exc)
        self._failed = tuple(failed.items())
        address, port = self._shared.address()
        return ExportsApplied(
            host=self._config.host,
            generation=wanted.generation,
            address=address,
            port=0 if self._secure else port,
            failed=self._failed,
            tls_name=name_of(self._config.host) if self._secure else "",
            ports=tuple(ports),
        )

    def _have(self, daemon: StorageDaemon, exports: list[VolumeExport]) -> dict[str, str]:
        """Have a daemon export exactly these; return why some are not, by attachment."""
        if self._secure and not self._identity.ready():
            raise DriverError("This host has no certificate yet.")
        daemon.ensure()
        if self._secure:
            daemon.admit({name_of(e.host) for e in exports if e.host})
        named = {id_of(e): e for e in exports}
        in_force = daemon.in_force()
        for export_id in in_force - named.keys():
            daemon.unexport(export_id)
        failed = {}
        for export_id, export in named.items():
            if export_id in in_force:
                continue
            try:
                daemon.export(export, self._file_of(export.volume_id))
            except DriverError as exc:
                _warn(exc)
                failed[export.attachment_id] = exc.message
        daemon.close_unused()
        return failed

    def _file_of(self, volume_id: str) -> Path:
        path = self._root / "volumes" / f"{volume_id.lower()}.qcow2"
        if not path.exists():
            raise DriverError("The volume is not on this host.", id=volume_id)
        return path

    # -- which daemon

    @property
    def _secure(self) -> bool:
        return self._config.identity is not None and self._config.address is not None

    @property
    def _identity(self) -> HostIdentity:
        assert self._config.identity is not None  # noqa: S101 - for the type checker; who is secure has one
        return self._config.identity

    def _groups(self, wanted: VolumeExports) -> dict[str, list[VolumeExport]]:
        """Return what each daemon is to export, by its name; "" is the one for all."""
        groups: dict[str, list[VolumeExport]] = {}
        for export in wanted.exports:
            groups.setdefault(self._name_of(export.volume_id), []).append(export)
        return groups

    def _name_of(self, volume_id: str) -> str:
        return volume_id.lower() if self._secure else ""

    def _daemon_of(self, volume_id: str) -> StorageDaemon:
        return self._daemon_named(self._name_of(volume_id))

    def _daemon_named(self, name: str) -> StorageDaemon:
        if not name:
            return self._shared
        above = self._root / "daemons"
        above.mkdir(mode=0o700, exist_ok=True)
        tls = self._identity.directory()
        return StorageDaemon(above / name, self._listen, self._config.owner, tls)

    def _daemons(self) -> dict[str, StorageDaemon]:
        """Return those that run, or ran, by name."""
        found = {"": self._shared}
        if (self._root / "daemons").is_dir():
            for directory in sorted((self._root / "daemons").iterdir()):
                found[directory.name] = StorageDaemon(directory, self._listen, self._config.owner)
        return found

    def _all_alive(self, wanted: VolumeExports) -> bool:
        return all(self._daemon_named(name).alive() for name in self._groups(wanted))

    def _end(self, name: str, daemon: StorageDaemon) -> None:
        daemon.stop()
        if name:
            shutil.rmtree(self._root / "daemons" / name)

    # -- the file

    def _wanted(self) -> VolumeExports:
        try:
            return decode((self._root / "exports.json").read_bytes(), VolumeExports)
        except FileNotFoundError:
            return VolumeExports(host=self._config.host, generation=0)

    def _keep(self, exports: VolumeExports) -> None:
        part = self._root / "exports.json.part"
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(encode(exports))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self._root / "exports.json")


def end_all(root: Path) -> bool:
    """End every daemon of a host's volumes, by its id; tell whether there was one. Repeatable."""
    ended = storage_daemon.end(root / "daemon")
    if (root / "daemons").is_dir():
        for directory in sorted((root / "daemons").iterdir()):
            ended = storage_daemon.end(directory) or ended
    return ended


def _warn(exc: DriverError) -> None:
    log.warning("a volume is not exported", extra={"why": exc.message, "facts": str(exc.facts)})
