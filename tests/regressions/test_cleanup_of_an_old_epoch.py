"""A host that came back while a delete waited: it still undoes what the create before the delete had left there.

Before, it was told of the delete's epoch when it registered, refused the older undo for ever, and kept the guest.
"""

from pathlib import Path

from kilonova.db import mappings
from kilonova.reconcile import cleanups
from kilonova.saga.faults import Fault, Faults
from tests.operations.server_world import ServerWorld


def test_the_undo_of_a_create_after_a_delete_was_accepted(tmp_path: Path) -> None:
    world = ServerWorld(tmp_path)
    before = world.ledger()
    deletes: list[tuple[str, str]] = []

    def come_back_with_a_delete(fault: Fault) -> None:
        mapping = world.services.world.read(lambda tx: mappings.find(tx, world.server))
        assert mapping is not None
        back = world.fall_silent(mapping["host"])
        deletes.append(world.accept("server_delete"))
        back()  # it registers, and hears of the server with the delete's epoch

    faults = Faults(
        Fault("finish", "do", "before", "error"),
        Fault("build", "undo", "before", "pause"),
        pause=come_back_with_a_delete,
    )
    assert world.run(*world.accept("server_create"), faults) in ("failed", "cancelled")
    assert faults.missed == []
    assert world.run(*deletes[0]) == "done"
    cleanups.run(world.services)
    after = world.ledger()
    world.close()
    history = ("deleted:", "action:", "event:", "operation:", "fault:")
    assert {k: v for k, v in after.items() if not k.startswith(history)} == dict(before)
