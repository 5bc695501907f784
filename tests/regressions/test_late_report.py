"""A host's report that comes late: what an operation recorded meanwhile stands.

Before, a list of guests that was made before a stop and arrived after it made the stopped server ACTIVE again.
"""

from pathlib import Path

import pytest

from kilonova.objects.base import encode
from kilonova.objects.guest import PowerState
from kilonova.objects.host import GuestEvent, GuestList, Report
from tests.operations.server_world import ServerWorld


@pytest.mark.parametrize("kind", ["event", "list"])
def test_a_report_from_before_the_stop(kind: str, tmp_path: Path) -> None:
    world = ServerWorld(tmp_path, "server_stop")
    host = world.row()["host"]
    late: GuestEvent | GuestList
    if kind == "event":
        late = GuestEvent(
            host=host, server_id=world.server, power_state=int(PowerState.RUNNING), at=0.0
        )
    else:
        late = GuestList(host=host, guests=((world.server, int(PowerState.RUNNING), True),))
    assert world.run(*world.begin()) == "done"
    world.bus.publish(f"report.{host}", encode(Report(host=host, body=late)))
    world.settle()
    row = world.row()
    world.close()
    assert (row["vm_state"], row["power_state"]) == ("stopped", PowerState.SHUTDOWN)
