"""A volume that a server has goes to another host, under faults: it is whole at one, nothing is at the other."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from kilonova.objects.volume import VolumeEvent
from kilonova.operations import volume_events
from kilonova.reconcile import cleanups
from kilonova.saga import journal
from kilonova.saga.faults import AFTER, BEFORE, ERROR, KILL, RECORDED, Fault, Faults, Killed
from kilonova.saga.state import DO, UNDO
from kilonova.volume.embedded import migrating
from kilonova.volume.embedded.store import volumes
from tests.ledger import Ledger
from tests.operations.harness import Case, case_id, check_case, points_of, random_pair
from tests.operations.server_world import CONTEXT, ServerWorld, Shape, saga_of
from tests.operations.test_server_delete import HISTORY

KIND = "volume_swap"
SPARE = Shape(spare=1)


class SwapWorld(ServerWorld):
    """A server with a volume, whose migration asks for the swap."""

    def __init__(
        self, path: Path, kind: str = KIND, shape: Shape = SPARE, *, hosts: int = 3
    ) -> None:
        super().__init__(path, kind, shape, hosts=hosts)

    def _open(self, path: Path, hosts: int, disturbed: int | None = None) -> None:
        super()._open(path, hosts, disturbed)
        self.asked: list[VolumeEvent] = []
        self.volumes.on_event(self.asked.append)

    def volume(self) -> Any:
        """Return the volume's row."""
        return self.volumes.db.read(lambda tx: volumes.find(tx, self.spare()))

    def migrate(self) -> str:
        """Accept the migration; return where to."""
        row = self.volume()
        to = next(h.host for h in self.hosts.all() if h.host != row["host"])
        self.volumes.db.write(
            lambda tx: migrating.accept(tx, CONTEXT, self.volumes, row, to, lock=False)
        )
        return to

    def accept(self, kind: str) -> tuple[str, str]:
        """Accept the swap when the migration asks for it."""
        if kind != KIND:
            return super().accept(kind)
        if not self.engines:
            self.engine().open()
        self.migrate()
        for _ in range(200):
            self.engines[-1].run_until_idle(advance=False)
            if self.asked:
                volume_events.swap(self.services, self.asked[-1])
                return "cell1", self.latest(KIND)
            self.clock.advance(0.5)
        raise AssertionError("the swap was never asked for")

    def ledger(self) -> Ledger:
        """Count when the migration ended, too."""
        if self.engines:
            self.engines[-1].run_until_idle(limit=20_000)
        return super().ledger()


def test_undisturbed(tmp_path: Path) -> None:
    """R1"""
    world = SwapWorld(tmp_path)
    before = world.volume()["host"]
    assert world.run(*world.begin()) == "done"
    after = world.ledger()
    row = world.volume()
    guests = world.guests.everything()
    clean = world.clean("done")
    world.close()
    assert (row["host"] != before, row["migration_status"], row["status"]) == (
        True,
        "success",
        "in-use",
    )
    assert [g.places[row["id"]] for g in guests if row["id"] in g.volumes] == [row["host"]]
    assert after == clean


@pytest.mark.parametrize("case", points_of(saga_of(KIND)), ids=case_id)
def test_one_fault(case: Case, tmp_path: Path) -> None:
    """R1"""
    check_case(SwapWorld(tmp_path), saga_of(KIND), case)


@pytest.mark.parametrize("seed", range(15))
def test_two_faults(seed: int, tmp_path: Path) -> None:
    """R1b"""
    saga = saga_of(KIND)
    check_case(SwapWorld(tmp_path), saga, random_pair(saga, seed), all_hit=False)


def _until_ended(world: SwapWorld, home: str, operation: str) -> None:
    for _ in range(400):
        world.engines[-1].run_until_idle(advance=False)
        with contextlib.suppress(TimeoutError):
            world.engines[-1].wait(home, operation, 0.0)
            return
        world.clock.advance(5.0)
    raise AssertionError("the swap does not end")


MOMENTS = (
    Fault("guest", DO, AFTER, KILL),
    Fault("turn", DO, BEFORE, KILL),
    Fault("turn", DO, RECORDED, KILL),
    Fault("over", DO, BEFORE, KILL),
    Fault("over", DO, AFTER, KILL),
    Fault("over", DO, RECORDED, KILL),
    Fault("hand_over", DO, AFTER, KILL),
)


@pytest.mark.parametrize("dies", ["guest", "host"])
@pytest.mark.parametrize("fault", MOMENTS, ids=lambda f: f"{f.when}-{f.step}")
def test_the_guest_ends_in_that_moment(fault: Fault, dies: str, tmp_path: Path) -> None:
    """R1: the conductor dies anywhere around the turn, the guest or its host then: what it wrote is where it starts."""
    world = SwapWorld(tmp_path)
    faults = Faults(fault)
    first = world.engine(faults)
    first.open()
    home, operation = world.begin()
    with pytest.raises(Killed):
        first.run_until_idle()
    assert faults.missed == []
    first.abandon()
    back = world.fall_silent(world.row()["host"]) if dies == "host" else None
    world.guests.shut_down_by_itself(world.server)
    world.engine().open()
    _until_ended(
        world, home, operation
    )  # the migration waits for the host, where the swap was undone
    if back is not None:
        back()
        cleanups.run(world.services)
    world.engines[-1].run_until_idle(limit=20_000)
    world.settle()
    row = world.volume()
    assert row["host"] in world.guests.fresh[row["id"]]
    [guest] = [g for g in world.guests.everything() if row["id"] in g.volumes]
    assert guest.places[row["id"]] == row["host"]
    world.close()


class MigrationWorld(SwapWorld):
    """The same, seen from the migration: compute does its part meanwhile. The ledger is without history."""

    def __init__(
        self, path: Path, kind: str = "volume_migrate", shape: Shape = SPARE, *, hosts: int = 3
    ) -> None:
        super().__init__(path, KIND, shape, hosts=hosts)

    def _open(self, path: Path, hosts: int, disturbed: int | None = None) -> None:
        super()._open(path, hosts, disturbed)
        volume_events.listen(self.services)

    def begin(self) -> tuple[str, str]:
        if not self.engines:
            self.engine().open()
        self.migrate()
        row = self.volumes.db.read(lambda tx: journal.live_of(tx, self.spare())[0])
        return "volume", str(row["id"])

    def ledger(self) -> Ledger:
        if self.engines:
            self.engines[-1].run_until_idle(limit=20_000)
            self.volumes.send_cleanups()
        found = super().ledger()
        for name in [k for k in found if k.startswith(HISTORY)]:
            del found[name]
        return found

    def clean(self, state: str) -> Ledger:
        return self.before


def _cases() -> list[Case]:
    """Return every point; the copy is only unmade while compute has not done its part."""
    saga, skip = saga_of("volume_migrate"), frozenset(("reach",))
    early = points_of(saga, skip, Fault("swap", DO, BEFORE, ERROR))
    late = points_of(saga, skip)
    unmakes = [c for c in early if any((f.step, f.direction) == ("make", UNDO) for f in c)]
    return [
        c for c in late if not any((f.step, f.direction) == ("make", UNDO) for f in c)
    ] + unmakes


@pytest.mark.parametrize("case", _cases(), ids=case_id)
def test_one_fault_of_the_migration(case: Case, tmp_path: Path) -> None:
    """R1: whichever side fails, the volume is at one host, with its server, and nothing at the other."""
    check_case(MigrationWorld(tmp_path), saga_of("volume_migrate"), case)
