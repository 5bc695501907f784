"""A power operation that unwound although its guest obeyed: the record says what the guest is.

Before, a stop whose answer failed after the guest was off left an ACTIVE server without a running guest, for ever: the
agent knew the state from the order and saw no news in it.
"""

from pathlib import Path

import pytest

from kilonova.saga.faults import AFTER, Fault, Faults
from tests.operations.server_world import ServerWorld


@pytest.mark.parametrize(
    ("kind", "vm_state"),
    [
        ("server_stop", "stopped"),
        ("server_start", "active"),
        ("server_pause", "paused"),
        ("server_unpause", "active"),
        ("server_suspend", "suspended"),
        ("server_resume", "active"),
    ],
)
def test_the_guest_obeyed_and_the_operation_failed(
    kind: str, vm_state: str, tmp_path: Path
) -> None:
    world = ServerWorld(tmp_path, kind)
    faults = Faults(Fault("guest", "do", AFTER, "error"))
    assert world.run(*world.begin(), faults) == "failed"
    world.settle()
    assert world.row()["vm_state"] == vm_state
    world.close()
