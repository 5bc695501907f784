"""Orders that move a running guest to another host: what each of the two hosts does, and how it is taken back."""

from kilonova.agent.guests import (
    PORT_POLL_S,
    Bench,
    Plugs,
    Verbs,
    Work,
    brought,
    payload_of,
    public,
)
from kilonova.objects.base import Versioned
from kilonova.objects.guest import GuestBuild, GuestBuilt, GuestGone, PowerState
from kilonova.objects.live_orders import (
    GuestLiveAbort,
    GuestLiveArrive,
    GuestLiveCheckDestination,
    GuestLiveCheckSource,
    GuestLiveLeave,
    GuestLiveMigrate,
    GuestLivePrepare,
    GuestLiveRollback,
)
from kilonova.objects.order import Direction
from kilonova.virt.driver import Again, DriverError, GuestMissing
from kilonova.virt.migration import MigrationDriver

TAPS_S = 60.0


class GuestLive:
    """Live migrations, on either host."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._taps = Plugs(bench.network, bench.driver, bench.clock)

    def verbs(self) -> Verbs:
        """Return what performs each verb."""
        return {
            ("guest_live_check_destination", Direction.DO): self._check_destination,
            ("guest_live_check_source", Direction.DO): self._check_source,
            ("guest_live_prepare", Direction.DO): self._prepare,
            ("guest_live_prepare", Direction.UNDO): self._rollback_at_destination,
            ("guest_live_migrate", Direction.DO): self._migrate,
            ("guest_live_migrate", Direction.UNDO): self._rollback,
            ("guest_live_leave", Direction.DO): self._leave,
            ("guest_live_arrive", Direction.DO): self._arrive,
        }

    def _check_destination(self, work: Work) -> Versioned:
        asked = payload_of(work, GuestLiveCheckDestination)
        refused = self._bench.driver.refuses(asked.build)
        if refused is not None:
            raise DriverError(refused, elsewhere=True)
        return migrations_of(self._bench).check_can_live_migrate_destination(asked)

    def _check_source(self, work: Work) -> Versioned:
        asked = payload_of(work, GuestLiveCheckSource)
        return migrations_of(self._bench).check_can_live_migrate_source(asked)

    def _prepare(self, work: Work) -> Versioned:
        asked = payload_of(work, GuestLivePrepare)
        driver = migrations_of(self._bench)
        if not work.notes:
            self._bench.metadata.put(public(asked.build.metadata), None)
            brought(self._bench.metadata, asked.build)
            work.notes["metadata"] = True
        if asked.plug:
            self._plug(work, asked.build)
        return driver.pre_live_migration(asked, work.say)

    def _rollback_at_destination(self, work: Work) -> Versioned:
        asked = payload_of(work, GuestLiveRollback)
        there = migrations_of(self._bench).rollback_live_migration_at_destination(
            asked.server_id, work.say
        )
        self._forget(asked.server_id, asked.ports)
        return GuestGone(existed=there)

    def _migrate(self, work: Work) -> Versioned:
        asked = payload_of(work, GuestLiveMigrate)
        return migrations_of(self._bench).live_migration(asked, work.say)

    def _rollback(self, work: Work) -> Versioned:
        asked = payload_of(work, GuestLiveAbort)
        migrations_of(self._bench).rollback_live_migration(asked.server_id, work.say)
        return GuestGone(existed=False)

    def _leave(self, work: Work) -> Versioned:
        asked = payload_of(work, GuestLiveLeave)
        there = migrations_of(self._bench).post_live_migration(asked.server_id, work.say)
        self._forget(asked.server_id, asked.ports)
        return GuestGone(existed=there)

    def _arrive(self, work: Work) -> Versioned:
        asked = payload_of(work, GuestLiveArrive)
        build = asked.build
        if asked.plug:
            self._plug(work, build)
        try:
            made = migrations_of(self._bench).post_live_migration_at_destination(build, work.say)
        except GuestMissing:  # gone since it came: whoever looks at it next finds that out
            return GuestBuilt(power_state=PowerState.NOSTATE, hardware=build.hardware)
        state, hardware, devices = made
        self._bench.metadata.put(public(build.metadata), devices)
        self._bench.known.set(build.server_id, state)
        return GuestBuilt(power_state=state, hardware=hardware, devices=devices)

    # -- parts

    def _plug(self, work: Work, build: GuestBuild) -> None:
        """Make the guest's taps, once their state is in force here. Raises Again, DriverError as Plugs."""
        ports = tuple(n.port_id for n in build.nics)
        if not work.ports_ready:
            work.ports_ready = all(self._bench.network.wait_port(p, 0) for p in ports)
        if not work.ports_ready:
            self._taps.wait(work, ports, build.vif_timeout_s or TAPS_S)
            raise Again(PORT_POLL_S)
        for port in ports:
            self._taps.plug(port)

    def _forget(self, server_id: str, ports: tuple[str, ...]) -> None:
        for port in ports:
            self._bench.network.unplug(port)
        self._bench.metadata.remove(server_id)
        self._bench.known.drop(server_id)


def migrations_of(bench: Bench) -> MigrationDriver:
    """Return the host's driver as one that moves guests live. DriverError when it cannot."""
    driver = bench.driver
    if not isinstance(driver, MigrationDriver):
        raise DriverError("This host cannot move servers live.", elsewhere=True)
    return driver
