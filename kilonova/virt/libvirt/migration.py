"""Live migrations between two libvirtds, peer to peer: the source's libvirtd speaks to the destination's.

Local disks are copied block by block to files that were made before (NON_SHARED_INC over the same image, or in full);
volumes are reached over NBD from both hosts, and QEMU lets go of them at the source before the destination opens them.
Where a guest is follows from what is on the disk and in libvirtd alone, so an agent that starts anew knows it:
``live-incoming`` in a guest's directory: it is awaited; ``live-outgoing``: it was sent, and is gone when its domain is.

source: libvirt documentation, *Guest migration*, virDomainMigrateToURI3; measured with libvirt 9.0 and QEMU 7.2.
"""

import base64
import contextlib
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import libvirt

from kilonova.common.log import get_logger
from kilonova.objects.guest import FileDisk, GuestBuild, LocalDisk, PowerState
from kilonova.objects.live_orders import (
    GuestLiveCheckDestination,
    GuestLiveCheckSource,
    GuestLiveMigrate,
    GuestLivePrepare,
    LibvirtDestination,
    LiveDestination,
    LiveDisk,
    LiveMigrated,
    LivePlan,
    LivePrepared,
    LiveProgress,
    LiveWhere,
)
from kilonova.objects.query import LiveMove
from kilonova.virt.driver import Again, DriverError, GuestMissing, Progress
from kilonova.virt.libvirt import console, disks, moved_xml, power
from kilonova.virt.libvirt.building import Building, packed
from kilonova.virt.libvirt.connection import telling
from kilonova.virt.libvirt.domains import is_active, text_of
from kilonova.virt.migration import (
    NOT_REMOVED,
    NOT_SHARED,
    NOTHING_LOCAL,
    LiveMigrationAborted,
)
from kilonova.virt.resize import Made

log = get_logger(__name__)
INCOMING, OUTGOING = "live-incoming", "live-outgoing"
POLL_S = 0.3
MEASURED_S = 1.0
_NO_LIMIT_MIB_S = 1 << 20
_FLAGS = (
    libvirt.VIR_MIGRATE_LIVE
    | libvirt.VIR_MIGRATE_PEER2PEER
    | libvirt.VIR_MIGRATE_PERSIST_DEST
    | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    | libvirt.VIR_MIGRATE_ABORT_ON_ERROR
)
_SECURE = libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_MIGRATABLE
_ARRIVING = frozenset(
    (
        libvirt.VIR_DOMAIN_PAUSED_MIGRATION,
        libvirt.VIR_DOMAIN_PAUSED_STARTING_UP,
        libvirt.VIR_DOMAIN_PAUSED_UNKNOWN,
    )
)


@dataclass
class Move:
    """A migration that a thread of this process waits for. Libvirtd goes on with it when we die."""

    power_state: int
    began: float
    post_copy: bool
    thread: threading.Thread | None = None
    error: libvirt.libvirtError | None = None
    aborted: bool = False
    forced: bool = False
    downtime_ms: int = 0
    ended: threading.Event = field(default_factory=threading.Event)
    measured: threading.Event = field(default_factory=threading.Event)


class Migrations(Building):
    """The MigrationDriver part."""

    def check_can_live_migrate_destination(
        self, asked: GuestLiveCheckDestination
    ) -> LiveDestination:
        """Say how this host is reached: by sockets, for the hosts of one machine."""
        config, server = self._config, asked.server_id
        if config.moves is None:
            raise DriverError("This host cannot be reached for live migrations.", elsewhere=True)
        with telling("The hypervisor cannot be asked.", elsewhere=True):
            version = self._connection.get().getVersion()
        sockets = config.moves() / server.replace("-", "")[:12]
        return LiveDestination(
            host=config.host,
            hypervisor_version=version,
            reached=LibvirtDestination(
                uri=config.uri(),
                migrate_uri=f"unix://{sockets}.memory",
                disks_uri=f"unix://{sockets}.disks",
                directory=str(self._disks.directory(server)),
            ),
        )

    def check_can_live_migrate_source(self, asked: GuestLiveCheckSource) -> LivePlan:
        """Say which disks are copied."""
        domain = self._found(asked.server_id)
        if not is_active(domain):
            raise DriverError("The server is not running.")
        with telling("The hypervisor cannot be asked."):
            version = self._connection.get().getVersion()
        if asked.destination.hypervisor_version < version:
            raise DriverError(
                "The instance requires a newer hypervisor version than has been provided.",
                elsewhere=True,
            )
        for disk in asked.build.disks:
            if isinstance(disk, FileDisk):
                raise DriverError(
                    f"Volume {disk.serial} is on the server's own host and open there as a file: two hosts cannot "
                    "share it. Detach it first, or migrate the server while it is off."
                )
        local = [d for d in asked.build.disks if isinstance(d, LocalDisk)]
        if asked.block is False and local:
            raise DriverError(NOT_SHARED)
        if asked.block and not local:
            raise DriverError(NOTHING_LOCAL)
        return LivePlan(block=bool(local), disks=self._copied(asked.build, local, text_of(domain)))

    def pre_live_migration(self, asked: GuestLivePrepare, progress: Progress) -> LivePrepared:
        """Make record, disks, console log, config drive and firmware variables; what is there stays."""
        build, directory = asked.build, self._disks.directory(asked.server_id)
        self._clear_for(asked, directory)
        self._keep(build, build.hardware, self._disks.record(asked.server_id))
        self._disks.owner.give(directory, write=True)
        console.prepare(directory / "console.log")
        if build.hardware.firmware == "uefi":
            self._nvram(build, directory)
        if asked.config_drive is not None:
            self._put_config_drive(directory, asked.config_drive)
        full = self._make_targets(build, asked.plan, progress) if asked.plan.block else False
        return LivePrepared(full=full)

    def live_migration(self, asked: GuestLiveMigrate, progress: Progress) -> LiveMigrated:
        """Begin it, wait for it, say how it ended."""
        server = asked.server_id
        directory = self._disks.directory(server)
        domain, move = self._find(server), self._moves.get(server)
        if domain is None and move is None:
            if (directory / OUTGOING).exists():
                return LiveMigrated(power_state=int(PowerState.NOSTATE))
            raise GuestMissing("The server has no guest on this host.")
        if move is None:
            if _has_job(domain):  # begun in an earlier life of this agent
                progress("the guest is being sent")
                raise Again(POLL_S)
            move = self._begin(asked, domain)
        if not move.ended.is_set():
            progress("the guest is being sent")
            self._watch(asked, domain, move)
            raise Again(POLL_S)
        del self._moves[server]
        if move.error is not None:
            self._stays(server, move)
            facts = {"libvirt": move.error.get_error_message()}
            if move.aborted:
                raise LiveMigrationAborted("The live migration was aborted.", **facts)
            raise DriverError("The guest could not be moved.", **facts)
        took = int((time.monotonic() - move.began) * 1000)
        return LiveMigrated(
            power_state=move.power_state, total_ms=took, downtime_ms=move.downtime_ms
        )

    def live_migration_abort(self, server_id: str) -> None:
        """End the job; after the switch to post-copy there is no way back."""
        move, domain = self._moves.get(server_id), self._find(server_id)
        if domain is None or not _has_job(domain):
            return
        if move is not None:
            move.aborted = True
        with telling("The live migration could not be aborted."):
            domain.abortJob()

    def live_migration_force_complete(self, server_id: str) -> None:
        """Switch to post-copy when it was begun so, else pause the guest: it goes on at the destination."""
        move, domain = self._moves.get(server_id), self._find(server_id)
        if move is None or domain is None or not _has_job(domain) or move.forced:
            return
        move.forced = True
        with telling("The live migration could not be forced."):
            domain.migrateSetMaxSpeed(_NO_LIMIT_MIB_S)
            if move.post_copy:
                domain.migrateStartPostCopy()
            else:
                domain.suspend()

    def rollback_live_migration(self, server_id: str, progress: Progress) -> None:
        """End what is under way; the guest is here as before."""
        domain, move = self._find(server_id), self._moves.get(server_id)
        if domain is None:
            raise DriverError("The guest has left this host.")
        if _has_job(domain) or (move is not None and not move.ended.is_set()):
            progress("the live migration is being aborted")
            self.live_migration_abort(server_id)
            raise Again(POLL_S)
        if move is not None:
            del self._moves[server_id]
            if move.error is None:
                raise Again(POLL_S)  # it has arrived in this moment: the domain goes
            self._stays(server_id, move)
        (self._disks.directory(server_id) / OUTGOING).unlink(missing_ok=True)

    def rollback_live_migration_at_destination(self, server_id: str, progress: Progress) -> bool:
        """Remove what was prepared, and a guest that was being received."""
        domain = self._find(server_id)
        awaited = (self._disks.directory(server_id) / INCOMING).exists()
        if domain is not None:
            if not awaited or not coming(domain):
                raise DriverError("The guest runs on this host.")
            power.destroy(domain)
            self._undefine(domain)
        with self._lock:
            self._marked.discard(server_id)
        return self._disks.remove(server_id)

    def post_live_migration(self, server_id: str, progress: Progress) -> bool:
        """Remove the files that the guest left."""
        domain = self._find(server_id)
        if domain is not None:
            if is_active(domain):
                raise DriverError("The guest is on this host.")
            self._undefine(domain)
        with self._lock:
            self._marked.discard(server_id)
        return self._disks.remove(server_id)

    def post_live_migration_at_destination(self, build: GuestBuild, progress: Progress) -> Made:
        """The guest is this host's from now on."""
        server = build.server_id
        domain = self._found(server)
        if coming(domain):
            progress("the guest is about to run")
            raise Again(POLL_S)
        self._keep(build, build.hardware, self._disks.record(server))
        (self._disks.directory(server) / INCOMING).unlink(missing_ok=True)
        return int(power.state_of(domain)), build.hardware, self._devices(domain, build)

    def live_move(self, server_id: str) -> LiveMove:
        """Say where the guest is, by its domain and the marks in its directory."""
        directory, domain = self._disks.directory(server_id), self._find(server_id)
        if domain is None:
            for mark, where in ((INCOMING, LiveWhere.PREPARED), (OUTGOING, LiveWhere.LEFT)):
                if (directory / mark).exists():
                    return LiveMove(where=where)
            return LiveMove(where=LiveWhere.ABSENT)
        if (directory / INCOMING).exists() and coming(domain):
            return LiveMove(where=LiveWhere.COMING)
        state, move = int(power.state_of(domain)), self._moves.get(server_id)
        if _has_job(domain) or (move is not None and not move.ended.is_set()):
            return LiveMove(
                where=LiveWhere.LEAVING, power_state=state, progress=_progress_of(domain)
            )
        return LiveMove(where=LiveWhere.HERE, power_state=state)

    def config_drive_of(self, server_id: str) -> str | None:
        """Return the drive's bytes, zlib in base64; None when there is none."""
        return packed(self._disks.directory(server_id) / "config-drive.iso")

    # -- parts of the destination

    def _clear_for(self, asked: GuestLivePrepare, directory: Path) -> None:
        """Make the guest's directory; what another migration prepared, or left when it went, is removed first."""
        mark = directory / INCOMING
        if mark.exists() and mark.read_text() == asked.migration:
            return
        if self._find(asked.server_id) is not None:
            raise DriverError(NOT_REMOVED, elsewhere=True)
        if directory.exists():
            if not mark.exists() and not (directory / OUTGOING).exists():
                raise DriverError(NOT_REMOVED, elsewhere=True)
            self._disks.remove(asked.server_id)
        directory.mkdir()
        part = mark.with_suffix(".part")
        part.write_text(asked.migration)
        part.replace(mark)

    def _put_config_drive(self, directory: Path, packed: str) -> None:
        target = directory / "config-drive.iso"
        if not target.exists():
            part = target.with_suffix(".part")
            part.write_bytes(zlib.decompress(base64.b64decode(packed)))
            self._disks.owner.give(part, write=False)
            part.replace(target)

    def _make_targets(self, build: GuestBuild, plan: LivePlan, progress: Progress) -> bool:
        """Make files of the sizes that the source's disks have; tell whether they are empty.

        Over an image only when every disk of the source that was made of one stands on it still, and it can be had.
        """
        sizes = {d.name: d.size for d in plan.disks}
        stands = {d.name for d in plan.disks if d.based}
        imaged = {d.name for d in build.disks if isinstance(d, LocalDisk) and d.image_id}
        if imaged <= stands:
            try:
                files = self._disks.make(build, progress)
            except DriverError as exc:
                log.info("disks are copied in full", extra={"why": exc.message})
            else:
                if all(disks.size_of(f) == sizes.get(name) for name, f in files.items()):
                    return False
        self._disks.make_empty(build, sizes)
        return True

    # -- parts of the source

    def _copied(self, build: GuestBuild, local: list[LocalDisk], text: str) -> tuple[LiveDisk, ...]:
        directory = self._disks.directory(build.server_id)
        targets = moved_xml.targets(text, [d.name for d in local])
        found = []
        for disk in local:
            if disk.name not in targets:
                continue
            file = self._disks.file_of(directory, disk)
            found.append(
                LiveDisk(
                    name=disk.name,
                    size=disks.size_of(file),
                    format=file.format,
                    target=targets[disk.name],
                    based=disks.stands_on_image(file),
                )
            )
        return tuple(found)

    def _begin(self, asked: GuestLiveMigrate, domain: Any) -> Move:
        reached = asked.destination.reached
        if not isinstance(reached, LibvirtDestination):
            raise DriverError("The destination is another kind of host.", elsewhere=True)
        server = asked.server_id
        here, there = self._disks.directory(server), Path(reached.directory)
        with telling("The guest's definition cannot be read."):
            running = domain.XMLDesc(_SECURE)
            kept = domain.XMLDesc(_SECURE | libvirt.VIR_DOMAIN_XML_INACTIVE)
        params: dict[str, Any] = {
            libvirt.VIR_MIGRATE_PARAM_DEST_XML: moved_xml.moved(running, asked.build, here, there),
            libvirt.VIR_MIGRATE_PARAM_PERSIST_XML: moved_xml.moved(kept, asked.build, here, there),
        }
        flags = _FLAGS
        if reached.migrate_uri:
            params[libvirt.VIR_MIGRATE_PARAM_URI] = reached.migrate_uri
        if asked.plan.block:
            flags |= (
                libvirt.VIR_MIGRATE_NON_SHARED_DISK
                if asked.prepared.full
                else libvirt.VIR_MIGRATE_NON_SHARED_INC
            )
            params[libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS] = [d.target for d in asked.plan.disks]
            if reached.disks_uri:
                params[libvirt.VIR_MIGRATE_PARAM_DISKS_URI] = reached.disks_uri
        settings = asked.settings
        if settings.post_copy:
            flags |= libvirt.VIR_MIGRATE_POSTCOPY
        elif settings.auto_converge:
            flags |= libvirt.VIR_MIGRATE_AUTO_CONVERGE
        if settings.bandwidth_mib_s:
            params[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH] = settings.bandwidth_mib_s
        (here / OUTGOING).touch(mode=0o600)
        move = Move(int(power.state_of(domain)), time.monotonic(), settings.post_copy)
        move.thread = threading.Thread(
            target=_send, args=(domain, reached.uri, params, flags, move), name=f"move-{server[:8]}"
        )
        self._moves[server] = move
        move.thread.start()
        return move

    def _watch(self, asked: GuestLiveMigrate, domain: Any, move: Move) -> None:
        """Set the downtime that is tried for; past its time, let it end by a pause, or give it up."""
        settings = asked.settings
        if domain is None:
            return
        try:
            if _has_job(domain):
                domain.migrateSetMaxDowntime(settings.downtime_ms)
        except libvirt.libvirtError:
            log.debug("the downtime could not be set")
        if time.monotonic() - move.began > settings.timeout_s:
            if settings.abort_at_timeout:
                self.live_migration_abort(asked.server_id)
            else:
                self.live_migration_force_complete(asked.server_id)

    def _stays(self, server_id: str, move: Move) -> None:
        """The guest was not moved: it goes on here, also when it was paused to hasten it."""
        domain = self._find(server_id)
        if domain is None:  # libvirtd could not say how it ended: it is gone from here all the same
            return
        (self._disks.directory(server_id) / OUTGOING).unlink(missing_ok=True)
        if not move.forced or move.power_state != PowerState.RUNNING:
            return
        with telling("The guest could not be unpaused."):
            if domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
                domain.resume()

    def _undefine(self, domain: Any) -> None:
        with telling("The guest could not be undefined."):
            try:
                domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM)
            except libvirt.libvirtError as exc:
                gone = (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID)
                if exc.get_error_code() not in gone:
                    raise


def _send(domain: Any, uri: str, params: dict[str, Any], flags: int, move: Move) -> None:
    """Wait for libvirtd to move the guest: a thread of its own, for the call returns at its end only."""
    try:
        with _measured(domain, move):
            domain.migrateToURI3(uri, params, flags)
            move.measured.wait(MEASURED_S)
    except libvirt.libvirtError as exc:
        move.error = exc
    finally:
        move.ended.set()


@contextmanager
def _measured(domain: Any, move: Move) -> Iterator[None]:
    """Note the downtime that libvirt measured: it says so once, by an event, and the domain is gone after it."""
    conn = domain.connect()

    def completed(_conn: Any, _domain: Any, stats: dict[str, Any], _opaque: Any) -> None:
        move.downtime_ms = int(stats.get(libvirt.VIR_DOMAIN_JOB_DOWNTIME, 0))
        move.measured.set()

    number = conn.domainEventRegisterAny(
        domain, libvirt.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED, completed, None
    )
    try:
        yield
    finally:
        with contextlib.suppress(libvirt.libvirtError):
            conn.domainEventDeregisterAny(number)


def _has_job(domain: Any) -> bool:
    """Tell whether a guest is being sent."""
    try:
        kind: int = domain.jobInfo()[0]
    except libvirt.libvirtError:
        return False
    return kind in (libvirt.VIR_DOMAIN_JOB_BOUNDED, libvirt.VIR_DOMAIN_JOB_UNBOUNDED)


def coming(domain: Any) -> bool:
    """Tell whether a domain of a guest that is awaited here does not run yet."""
    with telling("The state of the guest cannot be read."):
        state, reason = domain.state()
    if state == libvirt.VIR_DOMAIN_PAUSED:
        return reason in _ARRIVING
    return state in (libvirt.VIR_DOMAIN_NOSTATE, libvirt.VIR_DOMAIN_SHUTOFF)


def _progress_of(domain: Any) -> LiveProgress:
    try:
        stats = domain.jobStats()
    except libvirt.libvirtError:
        return LiveProgress()

    def of(name: str) -> int:
        return int(stats.get(name, 0))

    return LiveProgress(
        memory_total=of(libvirt.VIR_DOMAIN_JOB_MEMORY_TOTAL),
        memory_processed=of(libvirt.VIR_DOMAIN_JOB_MEMORY_PROCESSED),
        memory_remaining=of(libvirt.VIR_DOMAIN_JOB_MEMORY_REMAINING),
        disk_total=of(libvirt.VIR_DOMAIN_JOB_DISK_TOTAL),
        disk_processed=of(libvirt.VIR_DOMAIN_JOB_DISK_PROCESSED),
        disk_remaining=of(libvirt.VIR_DOMAIN_JOB_DISK_REMAINING),
    )
