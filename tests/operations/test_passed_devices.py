"""One device, one server: what a server holds in placement, and what its guest has on its host, are the same.

CC-12.2, R1, R10. Simulated hosts that report two GPUs and two network cards each; flavors ask by alias.
"""

import collections
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from msgspec import json

from kilonova.common.config import Settings
from kilonova.common.devices import PciAlias, SimulatedDevices
from kilonova.common.errors import BadRequest, Conflict
from kilonova.db import flavors
from kilonova.objects.guest import DeviceAddress
from kilonova.operations import accept, live_migrate, server_resize
from kilonova.placement import claims, reported
from kilonova.placement.schema import allocation as a
from kilonova.placement.schema import resource_provider as rp
from kilonova.saga.faults import AFTER, ERROR, KILL, Fault
from kilonova.saga.state import DO
from kilonova.scheduler import pci
from kilonova.virt.fake.devices import devices_of
from kilonova.virt.fake.world import SPEC
from tests.operations import cross_cell_world as cross
from tests.operations.harness import Case, case_id, last_reversible, run_case
from tests.operations.kill_matrix import ROWS, Row, Seen
from tests.operations.server_world import BIGGER, CONTEXT, ServerWorld

GPU, NIC = "CUSTOM_PCI_10DE_1EB8", "CUSTOM_PCI_8086_154D"
SPECS = (("pci_passthrough:alias", "gpu:1, nic:1"),)
Held = dict[str, tuple[str, ...]]  # host -> addresses


class Passing(ServerWorld):
    """Each host has two of each device; the server has one of each."""

    specs = SPECS
    options = Settings(pci_alias=(PciAlias("gpu", GPU), PciAlias("nic", NIC)))
    spec = SPEC.replace(devices=devices_of([SimulatedDevices(GPU, 2), SimulatedDevices(NIC, 2)]))

    def _open(self, path: Path, hosts: int, disturbed: int | None = None) -> None:
        super()._open(path, hosts, disturbed)

        def put(tx: Any) -> None:
            if flavors.find(tx, BIGGER.flavorid) is None:
                flavors.add(tx, BIGGER.replace(extra_specs=dict(SPECS)), 0.0)

        self.services.world.write(put)

    def claimed(self) -> Held:
        """Return host -> addresses of the devices that anybody holds in placement."""
        statement = sa.select(rp.c.name).join(a, a.c.provider == rp.c.id)
        out = collections.defaultdict(list)
        for (name,) in self.services.world.read(
            lambda tx: tx.select(statement.where(a.c.resource_class.in_((GPU, NIC))))
        ):
            host, _, address = name.partition("_")
            out[host].append(address)
        return {h: tuple(sorted(found)) for h, found in out.items()}

    def passed(self) -> Held:
        """Return host -> addresses of the devices that guests have, of those that are off too."""
        out = collections.defaultdict(list)
        for left in self.guests.ledger():
            assert left.kind != "second holder"
            if left.kind == "device":
                out[left.host].append(left.name)
        return {h: tuple(sorted(found)) for h, found in out.items()}


def _world(row: Row, path: Path) -> Any:
    made: Any = type(f"Passing{row.of.__name__}", (Passing, Seen, row.of), {})
    setup = {"setup": (cross.MIGRATE,)} if row.kind in (cross.CONFIRM, cross.REVERT) else {}
    return made(path, row.kind, row.shape, hosts=row.hosts, **setup)


MOVES = tuple(
    row
    for row in ROWS
    if row.name in ("create", "resize", "revert", "confirm", "delete")
    or row.name.endswith(("away", "cold migrate", "evacuate"))
    or row.name in ("cross-cell migrate", "cross-cell confirm", "cross-cell revert")
)


def _ended(row: Row, path: Path, case: Case) -> tuple[str, Any]:
    world = _world(row, path)
    before = world.claimed()
    outcome = run_case(world, case)
    assert outcome.missed == []
    claimed = world.claimed()
    if row.kind == "server_resize" and row.hosts == 1 and outcome.state == "done":
        assert {h: len(d) for h, d in claimed.items()} == {"cell1-host1": 4}, "old and new"
        assert set(world.passed()["cell1-host1"]) < set(claimed["cell1-host1"])
    else:
        assert world.passed() == claimed, "what is claimed is what guests have"
    assert all(len(set(addresses)) == len(addresses) for addresses in claimed.values())
    if outcome.state == "failed":
        assert claimed == before
    world.close()
    return outcome.state, world


@pytest.mark.parametrize("row", MOVES, ids=lambda row: row.name.replace(" ", "-"))
def test_every_operation_takes_its_devices_along(row: Row, tmp_path: Path) -> None:
    """CC-12.2: claimed where the server goes, given to its guest there, released where it was."""
    assert _ended(row, tmp_path, ())[0] == "done"


def _faults(row: Row) -> list[Case]:
    """Killed after the work of each step; and unwound from the last step that can be."""
    steps = [s.name for s in row.saga.steps if s.name not in row.skip]
    out: list[Case] = [(Fault(s, DO, AFTER, KILL),) for s in steps]
    if not row.saga.forward_only:
        out.append((row.trigger or Fault(last_reversible(row.saga), DO, AFTER, ERROR),))
    return out


STRUCK = ("create", "resize away", "revert away", "evacuate", "cross-cell migrate")
CASES = [(row, case) for row in MOVES if row.name in STRUCK for case in _faults(row)]


@pytest.mark.parametrize(
    ("row", "case"),
    CASES,
    ids=[f"{row.name.replace(' ', '-')}-{case_id(case)}" for row, case in CASES],
)
def test_one_fault(row: Row, case: Case, tmp_path: Path) -> None:
    """R1, R10: killed, unheard or failing anywhere, no device is lost, doubled or left."""
    _ended(row, tmp_path, case)


def test_the_record_says_which_devices(tmp_path: Path) -> None:
    world = Passing(tmp_path, "server_stop")
    row = world.row()
    found = json.decode(row["devices"], type=list[DeviceAddress])
    shown = tuple(sorted(str(d.path) for d in found if d.kind == "hostdev"))
    assert {row["host"]: shown} == world.claimed() == world.passed()
    assert len(shown) == 2
    world.close()


def test_no_third_server_gets_a_device_of_two(tmp_path: Path) -> None:
    """The scheduler says so; the host would, too."""
    world = Passing(tmp_path, "server_create", hosts=1)
    for _ in range(2):
        assert world.run(*world.begin()) == "done"
    assert {len(v) for v in world.claimed().values()} == {4}
    first = world.claimed()
    assert world.run(*world.begin()) == "failed"
    assert world.claimed() == first == world.passed()
    world.close()


def test_a_guest_is_never_built_without_its_devices(tmp_path: Path) -> None:
    """An operator took the allocation away: the start fails, it does not go on without."""
    world = Passing(tmp_path, "server_start")
    world.services.world.write(lambda tx: claims.release(tx, world.server, now=0.0))
    with pytest.raises(Conflict, match="does not hold the devices"):
        from kilonova.operations import guest_orders

        guest_orders.build_of(world.services, world.row())
    world.close()


def test_a_device_that_another_guest_has_is_refused_by_the_host(tmp_path: Path) -> None:
    """Whatever placement says: two guests never share one."""
    world = Passing(tmp_path, "server_stop", hosts=1)
    host = world.row()["host"]
    mine = world.claimed()[host]
    state = world.hosts.find(host)
    assert state is not None

    def forge(tx: Any) -> None:  # placement loses what the first server holds
        claims.release(tx, world.server, now=0.0)

    world.services.world.write(forge)
    world.services.scheduling.refresh(full=True)
    others = [d.address for d in world.spec.devices if d.address not in mine]
    keep = {
        reported.uuid_of(state.uuid, address): {_class_of(world, address): 1} for address in others
    }
    world.services.world.write(
        lambda tx: claims.claim(tx, consumer="x" * 8, project="p", user="u", amounts=keep, now=0.0)
    )
    world.services.scheduling.refresh(full=True)
    world.engine().open()
    assert world.run(*world.create()) == "failed"
    assert world.guests.second_holders != []
    world.close()


def _class_of(world: Passing, address: str) -> str:
    return next(d.resource_class for d in world.spec.devices if d.address == address)


def test_live_migration_is_refused_in_novas_words(tmp_path: Path) -> None:
    world = Passing(tmp_path, "live_migrate")
    found = accept.find_server(world.services, CONTEXT, world.server)
    with pytest.raises(BadRequest, match="non-VIF related PCI requests"):
        live_migrate.start(world.services, CONTEXT, found)
    world.close()


def test_an_alias_that_nobody_defined_is_refused_before_it_is_accepted(tmp_path: Path) -> None:
    world = Passing(tmp_path, "server_resize")
    specs = {"pci_passthrough:alias": "fpga:1"}
    unknown = BIGGER.replace(flavorid="9", name="m1.fpga", extra_specs=specs)
    world.services.world.write(lambda tx: flavors.add(tx, unknown, 0.0))
    found = accept.find_server(world.services, CONTEXT, world.server)
    with pytest.raises(BadRequest, match="PCI alias fpga is not defined"):
        server_resize.start(world.services, CONTEXT, found, "9")
    world.close()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gpu", "must be <alias>:<count>"),
        ("gpu:many", "must be <alias>:<count>"),
        ("gpu:99", "more than 32 devices"),
    ],
)
def test_what_is_no_request_is_refused(text: str, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        pci.groups({pci.SPEC: text}, [PciAlias("gpu", GPU)])


def test_an_affinity_that_is_not_kept_is_refused() -> None:
    specs = {pci.SPEC: "gpu:1", "hw:pci_numa_affinity_policy": "required"}
    with pytest.raises(BadRequest, match="not kept to NUMA nodes"):
        pci.groups(specs, [PciAlias("gpu", GPU)])
