"""Live migrations between simulated hosts of one world: memory that takes its time, and one switch at the end."""

import time

import msgspec

from kilonova.objects.guest import GuestBuild, LocalDisk, PowerState
from kilonova.objects.live_orders import (
    FakeDestination,
    GuestLiveCheckDestination,
    GuestLiveCheckSource,
    GuestLiveMigrate,
    GuestLivePrepare,
    LiveDestination,
    LiveDisk,
    LiveMigrated,
    LivePlan,
    LivePrepared,
    LiveProgress,
    LiveWhere,
)
from kilonova.objects.query import LiveMove
from kilonova.virt.driver import Again, DriverError, Progress
from kilonova.virt.fake.disks import defined
from kilonova.virt.fake.guests import fresh
from kilonova.virt.fake.host import HANG_S, FakeHost
from kilonova.virt.fake.world import COMING, LEFT, PREPARED, RUNS, FakeGuest, FakeMove
from kilonova.virt.migration import (
    NOT_REMOVED,
    NOT_SHARED,
    NOTHING_LOCAL,
    LiveMigrationAborted,
)
from kilonova.virt.resize import Made

GIB = 1 << 30
_WHERE = {PREPARED: LiveWhere.PREPARED, COMING: LiveWhere.COMING, LEFT: LiveWhere.LEFT}


class FakeMigrations(FakeHost):
    """The MigrationDriver part. What is under way is in the world: it goes on while no agent asks."""

    def check_can_live_migrate_destination(
        self, asked: GuestLiveCheckDestination
    ) -> LiveDestination:
        """Take every guest, unless a fault says otherwise."""
        self._alive()
        self._fail("live_check_destination", asked.server_id, asked.build.faults, _silent)
        return LiveDestination(
            host=self._host,
            hypervisor_version=self.spec.hypervisor_version,
            cpu_model=self.spec.cpu_info.get("model"),
            reached=FakeDestination(),
        )

    def check_can_live_migrate_source(self, asked: GuestLiveCheckSource) -> LivePlan:
        """Say whether disks are copied: hosts share nothing."""
        self._alive()
        guest = self._find(asked.server_id)
        self._fail("live_check_source", guest.server, guest.faults, _silent)
        if guest.power not in RUNS:
            raise DriverError("The server is not running.", power=guest.power)
        disks = [d for d in asked.build.disks if isinstance(d, LocalDisk)]
        return planned(asked, disks)

    def pre_live_migration(self, asked: GuestLivePrepare, progress: Progress) -> LivePrepared:
        """Make the disks."""
        self._alive()
        server = asked.server_id
        with self._world.lock:
            guest = self._world.guests(self._host).get(server)
            if guest is not None and guest.moving == LEFT:  # it comes back
                self._world.drop(self._host, server)
                guest = None
            if guest is None:
                guest = msgspec.structs.replace(fresh(asked.build), moving=PREPARED)
                self._world.put(self._host, guest)
            elif guest.moving not in (PREPARED, COMING):
                raise DriverError(NOT_REMOVED, elsewhere=True)
        self._fail("live_prepare", server, asked.build.faults, progress)
        return LivePrepared()

    def live_migration(self, asked: GuestLiveMigrate, progress: Progress) -> LiveMigrated:
        """Let time pass, then switch: the source lets go, the destination runs."""
        self._alive()
        world, server = self._world, asked.server_id
        guest = world.guests(self._host).get(server)
        if guest is not None and guest.moving == LEFT:
            there = world.guests(asked.destination.host).get(server)
            return LiveMigrated(power_state=PowerState.NOSTATE if there is None else there.power)
        guest = self._find(server)
        move = self._begun(asked, guest)
        if move.aborted:
            self._ended(server)
            raise LiveMigrationAborted("The live migration was aborted.")
        try:
            if not move.forced:
                self._fail("live_migrate", server, guest.faults, progress)
            self._pass(move, progress)
        except DriverError:
            self._ended(server)
            raise
        there = world.switch(self._host, asked.destination.host, server, asked.build)
        world.moves.pop(server, None)
        took = int((time.monotonic() - move.began) * 1000)
        return LiveMigrated(power_state=there.power, total_ms=took, downtime_ms=1)

    def live_migration_abort(self, server_id: str) -> None:
        """Note it."""
        move = self._world.moves.get(server_id)
        if move is not None and move.source == self._host:
            move.aborted = True

    def live_migration_force_complete(self, server_id: str) -> None:
        """Note it: the next look ends it."""
        move = self._world.moves.get(server_id)
        if move is not None and move.source == self._host:
            move.forced = True

    def rollback_live_migration(self, server_id: str, progress: Progress) -> None:
        """Nothing is under way any more."""
        self._alive()
        guest = self._world.guests(self._host).get(server_id)
        if guest is not None and guest.moving == LEFT:
            raise DriverError("The guest has left this host.")
        faults = () if guest is None else guest.faults
        self._fail("live_rollback", server_id, faults, progress)
        self._ended(server_id)

    def rollback_live_migration_at_destination(self, server_id: str, progress: Progress) -> bool:
        """Remove the disks."""
        self._alive()
        guest = self._world.guests(self._host).get(server_id)
        faults = () if guest is None else guest.faults
        self._fail("live_rollback_destination", server_id, faults, progress)
        if guest is None:
            return False
        if guest.moving not in (PREPARED, COMING):
            raise DriverError("The guest runs on this host.")
        return self._world.drop(self._host, server_id)

    def post_live_migration(self, server_id: str, progress: Progress) -> bool:
        """Remove the disks that it left."""
        self._alive()
        guest = self._world.guests(self._host).get(server_id)
        faults = () if guest is None else guest.faults
        self._fail("live_leave", server_id, faults, progress)
        if guest is None:
            return False
        if guest.moving != LEFT:
            raise DriverError("The guest is on this host.")
        return self._world.drop(self._host, server_id)

    def post_live_migration_at_destination(self, build: GuestBuild, progress: Progress) -> Made:
        """Define it."""
        self._alive()
        guest = self._find(build.server_id)
        self._fail("live_arrive", guest.server, guest.faults, progress)
        guest = defined(guest, build)
        self._world.put(self._host, guest)
        return guest.power, guest.hardware, guest.devices

    def config_drive_of(self, server_id: str) -> str | None:
        """Simulated guests have none."""
        return None

    def variables_of(self, server_id: str) -> str | None:
        """Return what the guest was given at its first build."""
        guest = self._world.guests(self._host).get(server_id)
        return None if guest is None else guest.variables or None

    def live_move(self, server_id: str) -> LiveMove:
        """Say where the guest is."""
        self._alive()
        guest = self._world.guests(self._host).get(server_id)
        if guest is None:
            return LiveMove(where=LiveWhere.ABSENT)
        if guest.moving:
            return LiveMove(where=_WHERE[guest.moving])
        if guest.power == PowerState.NOSTATE:
            return LiveMove(where=LiveWhere.ABSENT)
        move = self._world.moves.get(server_id)
        if move is None or move.source != self._host:
            return LiveMove(where=LiveWhere.HERE, power_state=guest.power)
        return LiveMove(
            where=LiveWhere.LEAVING, power_state=guest.power, progress=self._progress(move, guest)
        )

    # -- parts

    def _begun(self, asked: GuestLiveMigrate, guest: FakeGuest) -> FakeMove:
        world, target = self._world, asked.destination.host
        with world.lock:
            move = world.moves.get(guest.server)
            if move is not None and move.source == self._host and move.target == target:
                return move
            there = world.guests(target).get(guest.server)
            if there is None or there.moving not in (PREPARED, COMING):
                raise DriverError("The destination has not prepared for the guest.", host=target)
            world.put(target, msgspec.structs.replace(there, moving=COMING))
            disk = sum(d.size for d in asked.plan.disks)
            move = FakeMove(self._host, target, time.monotonic(), world.migrate_time_s, disk)
            world.moves[guest.server] = move
            return move

    def _ended(self, server_id: str) -> None:
        """The guest stays; the destination waits for nothing any more."""
        world = self._world
        with world.lock:
            move = world.moves.get(server_id)
            if move is None or move.source != self._host:
                return
            del world.moves[server_id]
            there = world.guests(move.target).get(server_id)
            if there is not None and there.moving == COMING:
                world.put(move.target, msgspec.structs.replace(there, moving=PREPARED))

    def _pass(self, move: FakeMove, progress: Progress) -> None:
        left = move.began + move.takes_s - time.monotonic()
        progress(f"{move.share():.0%} of the guest is there")
        if left > 0 and not move.forced:
            raise Again(min(left, HANG_S))

    def _progress(self, move: FakeMove, guest: FakeGuest) -> LiveProgress:
        memory, share = guest.memory_mib << 20, move.share()
        sent, copied = int(memory * share), int(move.disk_bytes * share)
        return LiveProgress(
            memory_total=memory,
            memory_processed=sent,
            memory_remaining=memory - sent,
            disk_total=move.disk_bytes,
            disk_processed=copied,
            disk_remaining=move.disk_bytes - copied,
        )


def planned(asked: GuestLiveCheckSource, disks: list[LocalDisk]) -> LivePlan:
    """Return what is copied. DriverError when that is not what was asked for."""
    if asked.block is False and disks:
        raise DriverError(NOT_SHARED)
    if asked.block and not disks:
        raise DriverError(NOTHING_LOCAL)
    return LivePlan(
        block=bool(disks),
        disks=tuple(
            LiveDisk(name=d.name, size=(d.size_gib * GIB) or (d.size_mib << 20), format="qcow2")
            for d in disks
        ),
    )


def _silent(text: str) -> None:
    """Nobody waits for progress."""
