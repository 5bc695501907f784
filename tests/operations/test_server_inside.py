"""Soft delete and restore, a new password, a crash dump, under faults: the server is what its record says."""

from pathlib import Path

import pytest

from kilonova.reconcile import cleanups
from tests.operations.harness import Case, case_id, check_case, points_of, random_pair
from tests.operations.server_ledger import deleted, plus
from tests.operations.server_world import ServerWorld, saga_of

KINDS = (
    *("server_soft_delete", "server_restore", "server_password"),
    *("server_clear_password", "server_crash_dump"),
)
CASES = [(kind, case) for kind in KINDS for case in points_of(saga_of(kind))]


def _ids(value: object) -> str:
    return value if isinstance(value, str) else case_id(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "case"), CASES, ids=_ids)
def test_one_fault(kind: str, case: Case, tmp_path: Path) -> None:
    """R1"""
    check_case(ServerWorld(tmp_path, kind), saga_of(kind), case)


@pytest.mark.parametrize("seed", range(20))
def test_two_faults(seed: int, tmp_path: Path) -> None:
    """R1b"""
    kind = KINDS[seed % len(KINDS)]
    check_case(
        ServerWorld(tmp_path, kind), saga_of(kind), random_pair(saga_of(kind), seed), all_hit=False
    )


@pytest.mark.parametrize("verb", ["set_password", "inject_nmi"])
def test_the_guest_refuses(verb: str, tmp_path: Path) -> None:
    kind = "server_password" if verb == "set_password" else "server_crash_dump"
    world = ServerWorld(tmp_path, kind)
    world.guests.faults.set(f"{verb}_fail")
    assert world.run(*world.begin()) == "failed"
    assert world.guests.faults.hits[f"{verb}_fail"] == 1
    ledger, clean = world.ledger(), world.clean("failed")
    world.close()
    assert ledger == clean


def test_the_password_is_nowhere_afterwards(tmp_path: Path) -> None:
    """The guest has it; no table and no log of ours does."""
    world = ServerWorld(tmp_path, "server_password")
    assert world.run(*world.begin()) == "done"
    log = world.guests.find(world.server)[1].log
    world.close()
    assert log[-1] == "guest: password of root set"
    for path in tmp_path.glob("*.db*"):
        assert b"s3cret-2" not in path.read_bytes() or path.name.startswith("agent-"), path.name


def test_delete_of_a_soft_deleted_server(tmp_path: Path) -> None:
    world = ServerWorld(tmp_path, "server_restore")
    assert world.run(*world.accept("server_delete")) == "done"
    cleanups.run(world.services)
    ledger, clean = world.ledger(), plus(world.before, deleted(world.shape, "soft-delete"))
    world.close()
    assert ledger == clean
