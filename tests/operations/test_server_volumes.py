"""Attach, detach, and create and delete with volumes, under faults: done or as before, and nothing else anywhere."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kilonova.common.errors import BadRequest, Conflict, Unavailable
from kilonova.db import actions, mappings
from kilonova.objects.guest import PowerState
from kilonova.operations.request_disks import check_attachable
from kilonova.reconcile import cleanups
from kilonova.saga.faults import AFTER, BEFORE, RECORDED, Fault, Faults
from tests.ledger import Ledger
from tests.operations.harness import Case, case_id, check_case, points_of, random_pair
from tests.operations.server_ledger import deleted, not_created, plus
from tests.operations.server_world import ServerWorld, Shape, saga_of
from tests.operations.test_server_neighbours import Shaky

SPARE = Shape(spare=1)
BACKED = Shape(boot=True, own=1)
KINDS = ("volume_attach", "volume_detach")
CASES = [(kind, case) for kind in KINDS for case in points_of(saga_of(kind))]


def _own(case: Case) -> Case:
    """Let a fault of the create's last step pass over the step of the same name of the volume that it makes."""
    return tuple(replace(f, skip=1) if f.step == "finish" else f for f in case)


CREATES = [_own(case) for case in points_of(saga_of("server_create"))]


def _ids(value: object) -> str:
    return value if isinstance(value, str) else case_id(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_undisturbed(kind: str, tmp_path: Path) -> None:
    """R1"""
    assert check_case(ServerWorld(tmp_path, kind, SPARE), saga_of(kind), ()).state == "done"


@pytest.mark.parametrize(("kind", "case"), CASES, ids=_ids)
def test_one_fault(kind: str, case: Case, tmp_path: Path) -> None:
    """R1"""
    check_case(ServerWorld(tmp_path, kind, SPARE), saga_of(kind), case)


@pytest.mark.parametrize("case", CREATES, ids=case_id)
def test_create_with_volumes(case: Case, tmp_path: Path) -> None:
    """R1: a root volume that the create makes, and one of the user's, which must survive."""
    check_case(ServerWorld(tmp_path, shape=BACKED), saga_of("server_create"), case)


@pytest.mark.parametrize(
    "case", points_of(saga_of("server_delete"), skip=frozenset(("kept",))), ids=case_id
)
def test_delete_with_volumes(case: Case, tmp_path: Path) -> None:
    """R1, R17: the root volume goes, the user's stays."""
    check_case(ServerWorld(tmp_path, "server_delete", BACKED), saga_of("server_delete"), case)


@pytest.mark.parametrize("seed", range(40))
def test_two_faults(seed: int, tmp_path: Path) -> None:
    """R1b"""
    kind = (*KINDS, "server_create", "server_delete")[seed % 4]
    shape = SPARE if kind in KINDS else BACKED
    saga = saga_of(kind)
    check_case(ServerWorld(tmp_path, kind, shape), saga, random_pair(saga, seed), all_hit=False)


# -- hosts that are down: what they may still write is not given to others


def _after_the_host_is_down(world: ServerWorld) -> tuple[Ledger, Ledger]:
    """Run the operation with the server's host down; return the ledgers while it is, and when it is back."""
    back = world.fall_silent(world.row()["host"])
    world.run(*world.begin())
    parked = world.ledger()
    back()
    cleanups.run(world.services)
    return parked, world.ledger()


def test_a_delete_keeps_volumes_attached_until_the_host_confirms(tmp_path: Path) -> None:
    """R13, R17: the root volume is deleted, and the user's is free, only then."""
    world = ServerWorld(tmp_path, "server_delete", BACKED)
    parked, after = _after_the_host_is_down(world)
    world.engines[-1].run_until_idle()
    after = world.ledger()
    world.close()
    assert (parked["attachment:attached"], parked["volume:user:in-use"]) == (2, 1)
    assert parked["volume writer"] == 2
    assert after == plus(world.before, deleted(BACKED))


def test_an_attach_keeps_the_volume_until_the_host_confirms(tmp_path: Path) -> None:
    """R13: the host went down with the order; what it did is not known."""
    world = ServerWorld(tmp_path, "volume_attach", SPARE)
    backs: list[Callable[[], None]] = []
    faults = Faults(
        Fault("guest", "do", BEFORE, "pause"),
        pause=lambda f: backs.append(world.fall_silent(world.row()["host"])),
    )
    assert world.run(*world.begin(), faults) == "failed"
    assert faults.missed == []
    parked = world.ledger()
    assert parked["cleanup:cell1"] == 1 and parked["volume:user:available"] == 0
    backs[0]()
    cleanups.run(world.services)
    after, clean = world.ledger(), world.clean("failed")
    world.close()
    assert after == clean


def test_a_create_keeps_volumes_until_its_first_host_confirms(tmp_path: Path) -> None:
    """R13: it is not built elsewhere while the silent host may have the guest."""
    world = ServerWorld(tmp_path, shape=BACKED)
    backs: list[Callable[[], None]] = []

    def fall(fault: Fault) -> None:
        mapping = world.services.world.read(lambda tx: mappings.find(tx, world.server))
        assert mapping is not None
        backs.append(world.fall_silent(mapping["host"]))

    faults = Faults(Fault("build", "do", BEFORE, "pause"), pause=fall)
    assert world.run(*world.begin(), faults) == "failed"
    assert faults.missed == []
    parked = world.ledger()
    assert parked["cleanup:cell1"] == 1 and parked["volume:user:available"] == 0
    backs[0]()
    cleanups.run(world.services)
    world.engines[-1].run_until_idle()
    ledger = world.ledger()
    world.close()
    assert world.guests.second_writers == []
    assert ledger == plus(world.before, not_created(BACKED))


def test_a_host_that_goes_down_during_a_detach(tmp_path: Path) -> None:
    """The volume is in use again, and still the guest's; nothing is plugged later (S21)."""
    world = ServerWorld(tmp_path, "volume_detach", SPARE)
    backs: list[Callable[[], None]] = []
    faults = Faults(
        Fault("guest", "do", BEFORE, "pause"),
        pause=lambda f: backs.append(world.fall_silent(world.row()["host"])),
    )
    assert world.run(*world.begin(), faults) == "failed"
    assert faults.missed == []
    backs[0]()
    after, clean = world.ledger(), world.clean("failed")
    world.close()
    assert after == clean


@pytest.mark.parametrize("kind", KINDS)
def test_a_host_that_is_down(kind: str, tmp_path: Path) -> None:
    """Refused at once, and nothing was touched."""
    world = ServerWorld(tmp_path, kind, SPARE)
    world.engine().open()
    back = world.fall_silent(world.row()["host"])
    with pytest.raises(Conflict, match="unavailable"):
        world.begin()
    back()
    after = world.ledger()
    world.close()
    assert after == world.before


@pytest.mark.parametrize("when", [BEFORE, AFTER, RECORDED])
@pytest.mark.parametrize(("kind", "step"), [(k, s.name) for k in KINDS for s in saga_of(k).steps])
def test_a_delete_at_every_moment(kind: str, step: str, when: str, tmp_path: Path) -> None:
    """R17: the attach or detach ends or unwinds, then the delete; the volume is free."""
    world = ServerWorld(tmp_path, kind, SPARE)
    deletes: list[tuple[str, str]] = []
    faults = Faults(
        Fault(step, "do", when, "pause"),
        pause=lambda f: deletes.append(world.accept("server_delete")),
    )
    assert world.run(*world.begin(), faults) in ("done", "cancelled")
    assert faults.missed == []
    assert world.run(*deletes[0]) == "done"
    ledger = world.ledger()
    world.close()
    assert ledger["volume:user:available"] == 1
    gone = ("attachment", "guest", "volume writer", "server:", "mapping", "held", "export")
    assert [k for k in ledger if k.startswith(gone)] == []


# -- beside other operations


@pytest.mark.parametrize("first", ["attach", "stop"], ids=["it began", "the other came first"])
def test_a_power_operation_beside_an_attach(first: str, tmp_path: Path) -> None:
    """Both are accepted, and done in the order in which they were; each host order is of its own epoch."""
    world = ServerWorld(tmp_path, "volume_attach", SPARE)
    attach = world.begin()
    stop = world.accept("server_stop")
    order = [attach, stop] if first == "attach" else [stop, attach]
    for one in order:
        world.engines[-1].nudge(*one)
    assert [world.run(*one) for one in order] == ["done", "done"]
    row, guest = world.row(), world.guests.find(world.server)[1]
    world.close()
    assert (row["vm_state"], row["task_state"]) == ("stopped", None)
    assert guest.volumes == (world.spare(),) and guest.power == PowerState.SHUTDOWN


def test_an_attach_beside_a_power_operation(tmp_path: Path) -> None:
    """A server that is being stopped takes no volume: 409, nothing reserved."""
    world = ServerWorld(tmp_path, "volume_attach", SPARE)
    stop = world.accept("server_stop")
    with pytest.raises(Conflict, match="task_state powering-off"):
        world.begin()
    assert world.run(*stop) == "done"
    ledger = world.ledger()
    world.close()
    assert ledger["volume:user:available"] == 1 and ledger["attachment:reserved"] == 0


# -- a volume service that misbehaves (R12)


def _down() -> Exception:
    return Unavailable("The volume service does not answer.")


def _refusal() -> Exception:
    return Conflict("The volume service is in a bad mood.")


def _bug() -> Exception:
    return ValueError("planted")


CALLS = {  # operation -> what it calls of the volume service on its way
    "volume_attach": ("ensure_attachment", "connect", "connections", "complete"),
    "volume_detach": ("remove_attachment",),
    "server_create": ("ensure_volume", "ensure_attachment", "connect", "connections", "complete"),
    "server_delete": ("attachments_of", "remove_attachment", "find", "remove_volume"),
}
SHAPES = {"server_create": BACKED, "server_delete": BACKED}


def _begun(world: ServerWorld) -> tuple[Shaky, tuple[str, str]]:
    """Accept the operation, then put a Shaky before the volume service."""
    begun = world.begin()
    volumes = Shaky(world.volumes)
    world.services.install(volumes=volumes)
    return volumes, begun


@pytest.mark.parametrize("lost", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("error", [_down, _bug])
@pytest.mark.parametrize(("kind", "method"), [(k, m) for k, ms in CALLS.items() for m in ms])
def test_while_the_volume_service_fails_for_a_moment(
    kind: str, method: str, error: Callable[[], Exception], lost: bool, tmp_path: Path
) -> None:
    """R12: late, failing, or failing after it did the work."""
    world = ServerWorld(tmp_path, kind, SHAPES.get(kind, SPARE))
    volumes, begun = _begun(world)
    volumes.fail(method, error, 2, lost=lost)
    assert world.run(*begun) == "done"
    assert volumes.failures == 2 or (lost and method == "remove_volume" and volumes.failures == 1)
    world.services.install(volumes=world.volumes)
    ledger, clean = world.ledger(), world.clean("done")
    world.close()
    assert ledger == clean


@pytest.mark.parametrize("lost", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("error", "times"), [(_refusal, 3), (_down, 20)])
@pytest.mark.parametrize(
    ("kind", "method"), [(k, m) for k in ("volume_attach", "server_create") for m in CALLS[k]]
)
def test_while_the_volume_service_fails(
    kind: str, method: str, error: Callable[[], Exception], times: int, lost: bool, tmp_path: Path
) -> None:
    """R12: unwound, with nothing left, not even what was done before the reply was lost."""
    world = ServerWorld(tmp_path, kind, SHAPES.get(kind, SPARE))
    volumes, begun = _begun(world)
    volumes.fail(method, error, times, lost=lost)
    state = world.run(*begun)
    volumes.fail(method, error, 0)
    world.services.install(volumes=world.volumes)
    ledger, clean = world.ledger(), world.clean("failed")
    world.close()
    assert state == "failed" and volumes.failures
    assert ledger == clean


# -- what is never plugged (S21, S33)


def test_an_attachment_that_was_removed_behind_our_back(tmp_path: Path) -> None:
    """S21: a start plugs nothing that is not this server's any more, and says which volume it is about."""
    world = ServerWorld(tmp_path, "server_start", Shape(own=1))
    volume = world.volumes.attachments_of([world.server])[world.server][0]
    world.volumes.remove_attachment(attachment_id=volume.id)
    assert world.run(*world.begin()) == "failed"
    fault = world.services.cell("cell1").read(lambda tx: actions.last_fault(tx, world.server))
    world.close()
    assert fault is not None and volume.volume_id in fault["message"]
    assert world.guests.find(world.server)[1].power == PowerState.SHUTDOWN


def test_an_encrypted_volume_is_refused(tmp_path: Path) -> None:
    """S33"""
    world = ServerWorld(tmp_path, "volume_attach", SPARE)
    world.engine().open()
    found = world.volumes.find(world.spare())
    assert found is not None
    with pytest.raises(BadRequest, match="encrypted"):
        check_attachable(world.services, found.replace(encrypted=True), multiattach=True)
    world.close()
