"""A server with two hosts that owe it a cleanup: its claim is held until the last of them is done.

Before, the first one that came back released what the other still held.
"""

from pathlib import Path

from kilonova.db import mappings
from kilonova.reconcile import cleanups
from kilonova.saga.faults import Fault, Faults
from tests.operations.server_world import ServerWorld


def test_the_claim_is_held_for_the_second_host(tmp_path: Path) -> None:
    world = ServerWorld(tmp_path)
    backs = []

    def fall(fault: Fault) -> None:
        mapping = world.services.world.read(lambda tx: mappings.find(tx, world.server))
        assert mapping is not None
        backs.append(world.fall_silent(mapping["host"]))

    faults = Faults(Fault("build", "do", "before", "pause"), pause=fall)
    assert world.run(*world.accept("server_create"), faults) == "done"
    backs.append(world.fall_silent(world.row()["host"]))
    assert world.run(*world.accept("server_delete")) == "done"
    assert world.ledger()["cleanup:cell1"] == 2
    backs[0]()
    cleanups.run(world.services)
    held = world.ledger()
    assert (held["cleanup:cell1"], held["consumer"]) == (1, 1)
    backs[1]()
    cleanups.run(world.services)
    ledger = world.ledger()
    world.close()
    assert (ledger["cleanup:cell1"], ledger["consumer"], ledger["guest"]) == (0, 0, 0)
