"""NUMA nodes of a server that is made and moves: held at its host, shown to its guest, given back (CC-12.2, R1)."""

from pathlib import Path
from typing import Any

import pytest

from kilonova.common.errors import BadRequest
from kilonova.db import flavors
from kilonova.operations import accept, live_migrate
from kilonova.placement import allocations
from kilonova.saga.faults import AFTER, ERROR, Fault
from kilonova.saga.state import DO
from kilonova.virt.fake.devices import nodes_of
from kilonova.virt.fake.world import SPEC
from tests.operations.harness import last_reversible, run_case
from tests.operations.kill_matrix import ROWS, Row, Seen
from tests.operations.server_world import BIGGER, CONTEXT, ServerWorld

SPECS = (
    ("hw:numa_cpus.0", "0"),
    ("hw:numa_mem.0", "512"),
    ("hw:numa_nodes", "1"),
)
TWO = {"hw:numa_nodes": "2"}


class Nodes(ServerWorld):
    """Hosts with two nodes; the server has one, and two after a resize."""

    specs = SPECS
    spec = SPEC.replace(nodes=nodes_of(2, SPEC.vcpus, SPEC.memory_mib, ()))

    def _open(self, path: Path, hosts: int, disturbed: int | None = None) -> None:
        super()._open(path, hosts, disturbed)

        def put(tx: Any) -> None:
            if flavors.find(tx, BIGGER.flavorid) is None:
                flavors.add(tx, BIGGER.replace(extra_specs=TWO), 0.0)

        self.services.world.write(put)

    def held(self) -> list[str]:
        """Return the nodes that the server holds, by name."""
        host = self.hosts.find(self.row()["host"])
        assert host is not None
        found = self.services.world.read(
            lambda tx: allocations.below_host(tx, self.server, host.uuid)
        )
        return [h.key.rpartition("_")[2] for h in found]

    def shown(self) -> list[tuple[int, tuple[int, ...], int, int | None]]:
        """Return what the guest sees, and where each node is."""
        _, guest = self.guests.find(self.server)
        return [(n.number, n.cpus, n.memory_mib, n.host_node) for n in guest.nodes]


def _world(row: Row, path: Path) -> Any:
    made: Any = type(f"Nodes{row.of.__name__}", (Nodes, Seen, row.of), {})
    return made(path, row.kind, row.shape, hosts=row.hosts)


AWAY = [r for r in ROWS if r.name in ("resize", "resize away")]


@pytest.mark.parametrize("row", AWAY, ids=lambda row: row.name.replace(" ", "-"))
def test_a_resize_gives_a_server_nodes(row: Row, tmp_path: Path) -> None:
    world = _world(row, tmp_path)
    assert world.shown() == [(0, (0,), 512, None)]
    assert world.held() == []
    assert run_case(world, ()).state == "done"
    assert world.held() == ["numa0", "numa1"]
    assert world.shown() == [(0, (0,), 512, 0), (1, (1,), 512, 1)]
    world.close()


@pytest.mark.parametrize("row", AWAY, ids=lambda row: row.name.replace(" ", "-"))
def test_a_resize_that_fails_leaves_the_nodes_as_they_were(row: Row, tmp_path: Path) -> None:
    world = _world(row, tmp_path)
    fault = Fault(last_reversible(row.saga), DO, AFTER, ERROR)
    assert run_case(world, (row.trigger or fault,)).state == "failed"
    assert (world.held(), world.shown()) == ([], [(0, (0,), 512, None)])
    world.close()


def test_a_live_migration_of_several_nodes_is_refused(tmp_path: Path) -> None:
    world = Nodes(tmp_path, "confirm_move", setup=("resize_away", "confirm_move"))
    assert len(world.shown()) == 2
    found = accept.find_server(world.services, CONTEXT, world.server)
    with pytest.raises(BadRequest, match="several NUMA nodes"):
        live_migrate.start(world.services, CONTEXT, found)
    world.close()
