"""A create whose last step is done again: what the owner did with the ACTIVE server meanwhile stands.

Before, the repeated step made a stopped server ACTIVE again, or took the mark of a running stop away.
"""

from pathlib import Path

import pytest

from kilonova.saga.faults import AFTER, Fault, Faults, Killed
from tests.operations.server_world import ServerWorld


@pytest.mark.parametrize("ended", [False, True], ids=["stop accepted", "stop ended"])
def test_a_stop_between_finish_and_its_repeat(ended: bool, tmp_path: Path) -> None:
    world = ServerWorld(tmp_path)
    stops: list[tuple[str, str]] = []

    def stop_then_die(fault: Fault) -> None:
        stops.append(world.accept("server_stop"))
        raise Killed("here")

    faults = Faults(Fault("finish", "do", AFTER, "pause"), pause=stop_then_die)
    create = world.accept("server_create")
    with pytest.raises(Killed):
        world.run(*create, faults)
    world.engines[-1].abandon()
    engine = world.engine()
    engine.open()
    if ended:  # the stop is finished before anybody looks at the create
        engine.nudge(*stops[0])
        for _ in range(20):
            engine.step_once()
            world.bus.pump()
    assert world.run(*create) == "done"
    assert world.run(*stops[0]) == "done"
    world.settle()
    row = world.row()
    ledger = world.ledger()
    world.close()
    assert (row["vm_state"], row["task_state"]) == ("stopped", None)
    assert not [k for k in ledger if k.startswith("audit:")]


def test_a_stop_and_a_delete_between_finish_and_its_repeat(tmp_path: Path) -> None:
    """The create unwinds because of the delete, under the stop's feet: the stop ends too, its action is closed."""
    world = ServerWorld(tmp_path)
    more: list[tuple[str, str]] = []

    def stop_and_delete(fault: Fault) -> None:
        more.append(world.accept("server_stop"))
        more.append(world.accept("server_delete"))

    faults = Faults(Fault("finish", "do", AFTER, "pause"), pause=stop_and_delete)
    before = world.ledger()
    assert world.run(*world.accept("server_create"), faults) in ("done", "cancelled")
    for operation in more:
        assert world.run(*operation) in ("done", "cancelled", "failed")
    after = world.ledger()
    world.close()
    history = ("deleted:", "action:", "event:", "operation:", "fault:")
    assert {k: v for k, v in after.items() if not k.startswith(history)} == dict(before)
    assert not [k for k in after if k.startswith("action:") and k.endswith(":open")]
