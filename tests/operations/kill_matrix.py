"""The kill matrix: which operation meets which fault at which point, and which test proves it (RELIABILITY R1-R3, R8).

``python -m tests.operations.kill_matrix`` prints it. A row's cases are read from the marks of the tests themselves, so
that it cannot say more than what runs; test_kill_matrix.py demands that no point of any operation is missing, and that
each step of each operation that this release knows is in some row.
"""

import collections
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kilonova.api.compute.servers.reading import render_unplaced
from kilonova.cells.filters import Filters, Order
from kilonova.cells.listing import Lists
from kilonova.saga.definition import Saga
from kilonova.saga.faults import BEFORE, ERROR, Fault
from kilonova.saga.state import DO
from tests.operations import cross_cell_world as cross
from tests.operations import (
    test_evacuate_cross_cell,
    test_host_drain,
    test_live_cross_cell,
    test_live_migrate,
    test_server_evacuate,
    test_server_rebuild,
    test_volume_swap,
    volume_world,
)
from tests.operations.harness import Case, points_of, zombies_of
from tests.operations.server_ledger import deleted, moved, plus
from tests.operations.server_world import ONE, ServerWorld, Shape, saga_of


class Away(ServerWorld):
    """A server that is resized to another host."""

    def accept(self, kind: str) -> tuple[str, str]:
        """Accept a resize so that the server's own host is none."""
        return super().accept("resize_away" if kind == "server_resize" else kind)

    def latest(self, kind: str) -> str:
        """Return the newest operation of a kind."""
        return super().latest("server_resize" if kind == "resize_away" else kind)

    def clean(self, state: str) -> Mapping[str, int]:
        """What a move leaves, under the name of a resize and with the new size's claim."""
        renamed = {"migrate": "resize", "server_migrate": "server_resize"}
        out = {}
        for key, n in moved("server_migrate", state, self.shape).items():
            words = [renamed.get(w, w) for w in key.split(":")]
            out[":".join(words)] = n
        if state == "done":
            local = 1 - self.shape.made
            for key, more in (("held:VCPU", 1), ("held:MEMORY_MB", 512), ("held:DISK_GB", local)):
                out[key] += more
            out |= {"quota:vcpus": 1, "quota:memory_mib": 512}
        return plus(self.before, out)


class Frozen(ServerWorld):
    """A server whose image is of snapshots of its volumes: those stay with the image."""

    def clean(self, state: str) -> Mapping[str, int]:
        """A file for each."""
        n = self.shape.made + self.shape.own
        return plus(super().clean(state), {"snapshot file": n if state == "done" else 0})


class Waiting(ServerWorld):
    """A server that was moved and waits for its confirm: it has a guest on either host."""

    def __init__(self, path: Path, kind: str, shape: Shape = ONE, *, hosts: int = 2) -> None:
        super().__init__(path, kind, shape, hosts=hosts, setup=("server_migrate",))

    def clean(self, state: str) -> Mapping[str, int]:
        """What a delete leaves: neither guest, neither claim, and a migration that ended."""
        there = {k: -v for k, v in moved("server_migrate", "done", self.shape).items()}
        told = ("action:", "event:", "operation:", "server:")
        there = {k: v for k, v in there.items() if not k.startswith(told)}
        ended = {**there, "migration:confirmed": 1}
        return plus(self.before, deleted(self.shape, "resized"), ended)


SHOWN = {  # kind -> how often its server is in a list, one after the other; once all the time else
    "server_delete": (1, 0),
    "server_soft_delete": (1, 0),
    "server_restore": (0, 1),
}


class Seen(ServerWorld):
    """Counts at every point of every step how often lists show the server (R11)."""

    shared = True
    lists: Lists | None = None

    def look(self, point: str) -> None:
        """Read as GET /servers does; keep what is wrong: raised, it would be a fault of the step."""
        if self.lists is None:
            self.looks, self.at, self.wrong = 0, 0, list[str]()
            cells = {n: db for n, db in self.databases.items() if n != "global"}
            self.lists = Lists(self.databases["global"], cells, render_unplaced)
        rows = self.lists.page(Filters(), Order(), 100).rows
        n = sum(r["uuid"] == self.server for r in rows)
        alone = self.lists.find(self.server)
        right = SHOWN.get(self.kind, (1,))
        gone = alone is None or bool(alone["deleted"])
        if n not in right[self.at :] or gone != (n == 0 and self.kind == "server_delete"):
            self.wrong.append(f"{point}: {n} in the list, alone: {alone is not None}")
        self.looks += 1
        self.at = right.index(n) if n in right else self.at

    def close(self) -> None:
        """Look a last time; let go of everything."""
        if self.lists is not None:
            self.look("closed")
            self.lists.close()
        super().close()


class Volume(volume_world.VolumeWorld):
    """An operation on a volume: no server is there to be seen."""

    shared = True

    def __init__(self, path: Path, kind: str) -> None:
        super().__init__(path, kind)
        self.looks, self.wrong = 0, list[str]()

    def look(self, point: str) -> None:
        """Count the points."""
        self.looks += 1


@dataclass(frozen=True)
class Row:
    """One operation. of, shape, hosts: its world. skip: steps that this world leaves out.

    trigger: what makes it unwind, when that is not its last step. steps: how many of them it can reach there.
    here: False when what it leaves is more than a ledger says, so that all of its cases are in a test of its own.
    """

    name: str
    kind: str
    of: type[ServerWorld] = ServerWorld
    shape: Shape = ONE
    hosts: int = 2
    skip: frozenset[str] = frozenset()
    trigger: Fault | None = None
    steps: int | None = None
    here: bool = True

    @property
    def saga(self) -> Saga:
        """Return the definition, of the steps that are reached."""
        whole = saga_of(volume_world.SAGAS.get(self.kind, self.kind))
        return whole if self.steps is None else replace(whole, steps=whole.steps[: self.steps])

    def faults(self) -> list[Case]:
        """Return error, kill, lost reply and done twice, at every point."""
        return points_of(self.saga, self.skip, self.trigger)

    def sleepers(self) -> list[Case]:
        """Return a pause beyond the lease at every point."""
        return zombies_of(self.saga, self.skip, self.trigger)

    def reached(self) -> set[tuple[str, str]]:
        """Return kind and name of each step that it takes."""
        return {(self.saga.kind, s.name) for s in self.saga.steps if s.name not in self.skip}

    def world(self, path: Path) -> "Seen | Volume":
        """Return its world, watched, with conductors that have leases."""
        if issubclass(self.of, Volume):
            return self.of(path, self.kind)
        watched: type[Seen] = type(f"Seen{self.of.__name__}", (Seen, self.of), {})
        return watched(path, self.kind, self.shape, hosts=self.hosts)


SPARE, MANY, OWN, BACKED = (
    Shape(spare=1),
    Shape(nics=2, user_port=True),
    Shape(own=1),
    Shape(boot=True, own=1),
)
ROWS = (
    Row("create", "server_create", skip=frozenset(("volumes", "in_use"))),
    Row("create with a volume", "server_create", shape=OWN),
    Row("delete", "server_delete", skip=frozenset(("volumes", "kept"))),
    Row("delete with a volume", "server_delete", shape=OWN, skip=frozenset(("kept",))),
    Row(
        *("delete after a move", "server_delete", Waiting, MANY),
        skip=frozenset(s.name for s in saga_of("server_delete").steps if s.name != "kept"),
    ),
    Row("attach", "volume_attach", shape=SPARE),
    Row("detach", "volume_detach", shape=SPARE),
    Row("resize", "server_resize", hosts=1, steps=2),
    Row("confirm", "confirm_resize", hosts=1),
    Row("revert", "revert_resize", hosts=1),
    Row("resize away", "server_resize", Away, MANY, skip=frozenset(("guest",))),
    Row("cold migrate", "server_migrate", shape=MANY),
    Row("confirm away", "confirm_move", shape=MANY),
    Row("revert away", "revert_move", shape=MANY),
    Row(
        *("live migrate", "live_migrate", test_live_migrate.Merged, MANY),
        trigger=test_live_migrate.TRIGGER,
    ),
    Row("evacuate", "server_evacuate", test_server_evacuate.Dead, MANY),
    Row("cross-cell resize", cross.RESIZE, cross.TwoCells, MANY),
    Row("cross-cell migrate", cross.MIGRATE, cross.TwoCells, MANY),
    Row("cross-cell confirm", cross.CONFIRM, cross.TwoCells, MANY),
    Row("cross-cell revert", cross.REVERT, cross.TwoCells, MANY),
    Row(
        *("live migrate to a cell", cross.LIVE, test_live_cross_cell.Away, MANY),
        trigger=test_live_cross_cell.TRIGGER,
    ),
    Row("evacuate to a cell", cross.EVACUATE, test_evacuate_cross_cell.Dead, MANY),
    Row("unshelve in a cell", cross.UNSHELVE, cross.TwoCells),
    Row("start", "server_start"),
    Row("stop", "server_stop"),
    Row("soft reboot", "server_reboot_soft"),
    Row("hard reboot", "server_reboot_hard"),
    Row("pause", "server_pause"),
    Row("unpause", "server_unpause"),
    Row("suspend", "server_suspend"),
    Row("resume", "server_resume"),
    Row("soft delete", "server_soft_delete"),
    Row("restore", "server_restore"),
    Row("password", "server_password"),
    Row("clear password", "server_clear_password"),
    Row("crash dump", "server_crash_dump"),
    Row("snapshot", "server_snapshot"),
    Row("backup", "server_backup"),
    Row("snapshot of volumes", "server_snapshot_volumes", Frozen, BACKED),
    Row("rebuild", "server_rebuild", skip=test_server_rebuild.OF_VOLUMES),
    Row("rebuild a volume", "server_rebuild", shape=BACKED, here=False),
    Row("rescue", "server_rescue"),
    Row("unrescue", "server_unrescue"),
    Row("shelve", "server_shelve"),
    Row("offload", "server_shelve_offload"),
    Row("unshelve", "server_unshelve"),
    Row("attach a NIC", "interface_attach"),
    Row("detach a NIC", "interface_detach"),
    Row("swap a volume", "volume_swap", test_volume_swap.SwapWorld, SPARE, hosts=3),
    Row("drain a host", "host_drain", test_host_drain.Drain, hosts=3, here=False),
    *(
        Row(f"volume: {kind.replace('_', ' ')}", kind, Volume, skip=volume_world.left_out(kind))
        for kind in volume_world.NEEDS
    ),
    Row(
        *("migrate its volume", "volume_migrate", test_volume_swap.MigrationWorld, SPARE),
        hosts=3,
        skip=frozenset(s.name for s in saga_of("volume_migrate").steps if s.name != "swap"),
        trigger=Fault("swap", DO, BEFORE, ERROR),
    ),
)


OF_SERVERS = tuple(row for row in ROWS if not issubclass(row.of, Volume))


def proofs() -> dict[str, tuple[Callable[..., Any], ...]]:
    """Return row name -> the tests that run its cases."""
    from tests.operations import (
        test_cross_cell_faults,
        test_cross_cell_unshelve,
        test_interfaces,
        test_kill_matrix,
        test_server_conductors,
        test_server_create,
        test_server_delete,
        test_server_inside,
        test_server_move,
        test_server_power,
        test_server_reimage,
        test_server_rescue,
        test_server_resize,
        test_server_shelve,
        test_server_snapshot,
        test_server_volumes,
        test_volumes,
    )

    here = (test_server_resize.test_one_fault,)
    away = (test_server_move.test_one_fault,)
    cells = (
        test_cross_cell_faults.test_one_fault_with_local_disks,
        test_cross_cell_faults.test_one_fault_volume_backed,
        test_cross_cell_faults.test_one_fault_stopped,
        test_cross_cell_faults.test_a_conductor_that_slept_beyond_its_lease,
        test_cross_cell_faults.test_another_conductor_ends_what_a_killed_one_began,
    )
    of_kinds = (  # each takes kinds, and has all points of them
        test_server_power,
        test_server_inside,
        test_server_snapshot,
        test_server_rescue,
        test_server_shelve,
        test_interfaces,
    )
    own: dict[str, tuple[Callable[..., Any], ...]] = {
        "create": (test_server_create.test_one_fault,),
        "delete": (test_server_delete.test_one_fault,),
        "attach": (test_server_volumes.test_one_fault,),
        "detach": (test_server_volumes.test_one_fault,),
        **dict.fromkeys(("resize", "confirm", "revert"), here),
        **dict.fromkeys(("cold migrate", "confirm away", "revert away"), away),
        "live migrate": (test_live_migrate.test_one_fault,),
        "evacuate": (test_server_evacuate.test_one_fault,),
        **{row.name: cells for row in ROWS if row.name.startswith("cross-cell")},
        "live migrate to a cell": (
            test_live_cross_cell.test_one_fault,
            test_live_cross_cell.test_a_conductor_that_slept_beyond_its_lease,
        ),
        "evacuate to a cell": (
            test_evacuate_cross_cell.test_one_fault,
            test_evacuate_cross_cell.test_a_conductor_that_slept_beyond_its_lease,
        ),
        "unshelve in a cell": (
            test_cross_cell_unshelve.test_one_fault,
            test_cross_cell_unshelve.test_a_conductor_that_slept_beyond_its_lease,
        ),
        "rebuild": (test_server_rebuild.test_one_fault,),
        "rebuild a volume": (
            test_server_reimage.test_one_fault,
            test_server_reimage.test_a_conductor_that_slept_beyond_its_lease,
        ),
        "swap a volume": (test_volume_swap.test_one_fault,),
        "migrate its volume": (test_volume_swap.test_one_fault_of_the_migration,),
        "drain a host": (
            test_host_drain.test_one_fault,
            test_host_drain.test_a_conductor_that_slept_beyond_its_lease,
        ),
        **{row.name: (test_volumes.test_one_fault,) for row in ROWS if row.of is Volume},
        **{row.name: (m.test_one_fault,) for m in of_kinds for row in ROWS if row.kind in m.KINDS},
    }
    every = (
        test_server_conductors.test_another_conductor_ends_what_a_killed_one_began,
        test_server_conductors.test_a_conductor_that_slept_beyond_its_lease,
        test_kill_matrix.test_some,
        test_kill_matrix.test_the_rest,
    )
    return {row.name: (*own.get(row.name, ()), *(every if row.here else ())) for row in ROWS}


def cases_in(test: Callable[..., Any], row: Row) -> Iterator[tuple[Case, bool]]:
    """Return the cases of a row that a test is parametrised with, and whether they are of the nightly set."""
    marks = list(getattr(test, "pytestmark", ()))
    slow = any(m.name == "slow" for m in marks)
    for values in (m.args[1] for m in marks if m.name == "parametrize"):
        for value in (v for v in values if isinstance(v, tuple)):
            of, case = (row, value) if isinstance(value[0], Fault) else value
            if of in (row.kind, row):
                yield case, slow


def print_table() -> None:
    """Print how many cases each operation has: of each kind of fault, on every change + nightly only."""
    kinds = ("error", "kill", "lost", "twice", "pause")
    print(f"{'operation':24}" + "".join(f"{k:>12}" for k in kinds) + "   points missing")
    for row in ROWS:
        found = {s: set[Case]() for s in (False, True)}
        for test in proofs()[row.name]:
            for case, slow in cases_in(test, row):
                found[slow].add(case)
        often = collections.Counter(c[-1].kind for c in found[False])
        nightly = collections.Counter(c[-1].kind for c in found[True] - found[False])
        cells = "".join(f"{f'{often[k]}+{nightly[k]}':>12}" for k in kinds)
        missing = {*row.faults(), *row.sleepers()} - found[False] - found[True]
        print(f"{row.name:24}{cells}   {len(missing)}")


if __name__ == "__main__":
    from tests.operations import kill_matrix  # the one that the tests know

    kill_matrix.print_table()
