"""Images and shelving of servers that boot from a volume, under faults: the volumes stay what they are."""

from pathlib import Path
from typing import Any

import pytest

from kilonova.objects.guest import PowerState
from tests.ledger import changed
from tests.operations.harness import Case, case_id, points_of, run_case
from tests.operations.server_world import ServerWorld, Shape, saga_of

BACKED = Shape(boot=True, own=1)
KINDS = ("server_snapshot_volumes", "server_shelve", "server_unshelve")
CASES = [
    (kind, case)
    for kind in KINDS
    for case in points_of(saga_of(kind), skip=frozenset(("snapshot", "describe", "upload")))
]
HISTORY = ("action:", "event:", "operation:", "fault:")


def _ids(value: object) -> str:
    return value if isinstance(value, str) else case_id(value)  # type: ignore[arg-type]


def _run(world: ServerWorld, case: Case) -> tuple[str, dict[str, int]]:
    try:
        outcome = run_case(world, case)
    finally:
        world.close()
    assert not outcome.missed, outcome.missed
    after = changed(world.before, outcome.ledger)
    return outcome.state, {k: v for k, v in after.items() if not k.startswith(HISTORY)}


WANTED: dict[str, dict[str, Any]] = {}


@pytest.mark.parametrize(("kind", "case"), CASES, ids=_ids)
def test_one_fault(kind: str, case: Case, tmp_path: Path) -> None:
    """R1: as undisturbed, or nothing has changed."""
    if kind not in WANTED:
        state, WANTED[kind] = _run(ServerWorld(tmp_path / "first", kind, BACKED), ())
        assert state == "done"
    state, after = _run(ServerWorld(tmp_path / "second", kind, BACKED), case)
    assert after == (WANTED[kind] if state == "done" else {})


def test_what_an_image_adds(tmp_path: Path) -> None:
    """A snapshot of each of its two volumes, and an image without bytes of its own."""
    world = ServerWorld(tmp_path, "server_snapshot_volumes", BACKED)
    state, after = _run(world, ())
    assert (state, after["image:active"]) == ("done", 1)
    assert after["snapshot file"] == 2


def test_what_shelving_leaves(tmp_path: Path) -> None:
    """No image, no host; the volumes stay attached to the server."""
    world = ServerWorld(tmp_path, "server_shelve", BACKED)
    before = dict(world.before)
    state, after = _run(world, ())
    assert state == "done" and "image:active" not in after
    assert not [k for k in after if k.startswith(("volume:", "attachment:"))]
    assert (before["consumer"], after["consumer"]) == (1, -1)


def test_away_and_back_on_another_host(tmp_path: Path) -> None:
    """The new host reaches the volumes; one writer each."""
    world = ServerWorld(tmp_path, "server_unshelve", BACKED)
    assert world.run(*world.begin()) == "done"
    guest = world.guests.find(world.server)[1]
    ledger = world.ledger()
    world.close()
    assert (guest.power, len(guest.volumes)) == (PowerState.RUNNING, 2)
    assert ledger["volume writer"] == 2
