"""Dedicated CPUs and devices of a server that moves: claimed at the new host, released at the old one, put back.

CC-12.2. Simulated hosts whose resource providers have PCPU, virtual functions and a class of their own.
"""

import collections
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kilonova.common.errors import BadRequest
from kilonova.db import flavors
from kilonova.db.engine import Tx
from kilonova.placement import claims, classes, inventories
from kilonova.placement.inventories import Inventory
from kilonova.placement.schema import allocation as a
from kilonova.placement.schema import resource_provider as rp
from kilonova.saga.faults import AFTER, ERROR, Fault
from kilonova.saga.state import DO
from kilonova.scheduler.request import groups_of
from tests.operations import cross_cell_world as cross
from tests.operations.harness import Case, last_reversible, run_case
from tests.operations.kill_matrix import OF_SERVERS, Row, Seen
from tests.operations.server_world import BIGGER, ServerWorld

GPU, VF = "CUSTOM_GPU", "SRIOV_NET_VF"
SPECS = (("hw:cpu_policy", "dedicated"), (f"resources:{GPU}", "1"), (f"resources:{VF}", "2"))
Held = dict[str, dict[str, int]]


class Devices(ServerWorld):
    """Each host has four dedicated CPUs, four virtual functions and two devices of its own class."""

    specs = SPECS

    def _open(self, path: Path, hosts: int, disturbed: int | None = None) -> None:
        super()._open(path, hosts, disturbed)
        self.services.world.write(self._equip)
        self.services.scheduling.refresh(full=True)

    def _equip(self, tx: Tx) -> None:
        classes.make(tx, GPU, 0.0)
        if flavors.find(tx, BIGGER.flavorid) is None:
            flavors.add(tx, BIGGER.replace(extra_specs=dict(SPECS)), 0.0)
        for id_ in [r[0] for r in tx.select(sa.select(rp.c.id))]:
            for name, n in (("PCPU", 4), (VF, 4), (GPU, 2)):
                if name not in inventories.of(tx, id_):
                    inventories.write(tx, id_, name, Inventory(n, 0, 1, n, 1, 1.0))

    def held(self) -> Held:
        """Return host -> class -> how much is held there, memory and disks left out."""
        statement = (
            sa.select(rp.c.name, a.c.resource_class, a.c.used)
            .join(rp, rp.c.id == a.c.provider)
            .where(a.c.resource_class.in_(("VCPU", "PCPU", VF, GPU)))
        )
        out: Held = collections.defaultdict(dict)
        for host, name, used in self.services.world.read(lambda tx: tx.select(statement)):
            out[host][name] = out[host].get(name, 0) + used
        return dict(out)


MOVES = tuple(
    row
    for row in OF_SERVERS
    if row.name.endswith(("away", "migrate", "evacuate", "cross-cell confirm", "cross-cell revert"))
)
BOTH = ("server_resize", "server_migrate", cross.MIGRATE)
BACK = ("revert_move", cross.REVERT)


def _world(row: Row, path: Path) -> Any:
    equipped: Any = type(f"Equipped{row.of.__name__}", (Devices, Seen, row.of), {})
    setup = {"setup": (cross.MIGRATE,)} if row.kind in (cross.CONFIRM, cross.REVERT) else {}
    return equipped(path, row.kind, row.shape, hosts=row.hosts, **setup)


def _devices(cpus: int = 1) -> dict[str, int]:
    return {"PCPU": cpus, VF: 2, GPU: 1}


def _ended(row: Row, path: Path, case: Case) -> tuple[str, Held, Held, str]:
    """Run a case; return (state, what was held, what is held, the server's host at the end)."""
    world = _world(row, path)
    before = world.held()
    outcome = run_case(world, case)
    assert outcome.missed == []
    after, host = world.held(), str(world.row()["host"])
    world.close()
    return outcome.state, before, after, host


@pytest.mark.parametrize("row", MOVES, ids=lambda row: row.name.replace(" ", "-"))
def test_a_move_takes_its_devices_along(row: Row, tmp_path: Path) -> None:
    """CC-12.2, R10: both claims until the confirm; then the new one alone; after a revert the old one alone."""
    state, before, after, host = _ended(row, tmp_path, ())
    assert state == "done"
    new = _devices(2 if row.kind == "server_resize" else 1)
    if row.kind in BOTH:
        (source,) = before
        assert host != source and after == {source: before[source], host: new}
    elif row.kind in (*BACK, "confirm_move", cross.CONFIRM):
        assert len(before) == 2 and after == {host: before[host]}
    else:
        assert host not in before and after == {host: new}


@pytest.mark.parametrize(
    "row",
    [r for r in MOVES if not r.saga.forward_only and r.kind != cross.CONFIRM],
    ids=lambda row: row.name.replace(" ", "-"),
)
def test_a_move_that_fails_keeps_what_it_had(row: Row, tmp_path: Path) -> None:
    """CC-12.2, R1, R10: whatever was claimed on the way is released again."""
    trigger = row.trigger or Fault(last_reversible(row.saga), DO, AFTER, ERROR)
    state, before, after, _ = _ended(row, tmp_path, (trigger,))
    assert (state, after) == ("failed", before)


@pytest.mark.parametrize("kind", ["server_migrate", "server_resize", "live_migrate"])
def test_no_host_has_such_a_device_left(kind: str, tmp_path: Path) -> None:
    """CC-12.2: the move fails, nothing else changes."""
    row = next(r for r in MOVES if r.kind == kind)
    world = _world(row, tmp_path)
    (source,) = world.held()
    other = next(h for h in world.hosts.all() if h.host != source)

    def take(tx: Tx) -> None:
        wanted = {other.uuid: {GPU: 2}}
        claims.claim(tx, consumer="0" * 8, project="p", user="u", amounts=wanted, now=0.0)

    world.services.world.write(take)
    world.services.scheduling.refresh(full=True)
    before = world.held()
    assert world.run(*world.begin()) == "failed"
    assert world.held() == before and world.row()["host"] == source
    world.close()


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"hw:numa_nodes": "9"}, "at most 2 NUMA nodes"),
        ({"hw:numa_cpus.0": "0"}, "must be provided for all NUMA nodes"),
        ({"pci_passthrough:alias": "gpu:1"}, "PCI alias gpu is not defined"),
    ],
)
def test_what_is_not_built_is_refused(spec: dict[str, str], says: str) -> None:
    """A guest without what its flavor names would be a lie."""
    with pytest.raises(BadRequest, match=says):
        groups_of(BIGGER.replace(extra_specs=spec))
    groups_of(BIGGER.replace(extra_specs={"hw:numa_nodes": "1"}))
