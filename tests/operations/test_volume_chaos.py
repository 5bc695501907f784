"""Everything at once, by a seed, with volumes: attaches and detaches among power operations, kills, hosts that go."""

from pathlib import Path

import pytest

from kilonova.common.errors import KilonovaError
from kilonova.reconcile import cleanups
from tests.operations.server_world import ServerWorld, Shape
from tests.operations.test_server_chaos import FAULTS, KINDS, Chaos
from tests.operations.test_server_delete import HISTORY

SPARES = 4
VOLUMES = ("volume_attach", "volume_detach")
DISK_FAULTS = ("attach_disk_fail_once", "detach_disk_fail_once", "detach_disk_busy")


class VolumeChaos(Chaos):
    """One seed's life of a cloud whose servers boot from volumes or not, and share a few more among them."""

    def __init__(self, path: Path, seed: int) -> None:
        super().__init__(path, seed)
        self.world.close()
        shape = Shape(nics=seed % 2, boot=seed % 3 == 0, spare=SPARES)
        self.world = ServerWorld(path / "with", shape=shape, hosts=3)
        self.before = self.world.ledger()
        self.world.engine().open()
        self.attached = 0

    def operate(self) -> None:
        """Do something with a server; half of the time with a volume. What is refused says so properly."""
        if not self.made:
            return
        volume = self.rng.random() < 0.5
        self.world.server = self.rng.choice(self.made)
        self.world.pick = -self.rng.randint(1, SPARES)
        kind = self.rng.choice(VOLUMES if volume else KINDS)
        try:
            home, operation = self.world.accept(kind)
        except KilonovaError as exc:
            assert exc.status in ((400, 404, 409) if volume else (404, 409)), exc
            return
        self.accepted += 1
        self.attached += kind == "volume_attach"
        self.world.engines[-1].nudge(home, operation)

    def fault(self) -> None:
        faults = self.world.guests.faults
        if self.rng.random() < 0.4:
            faults.clear()
        else:
            name = self.rng.choice((*FAULTS, *DISK_FAULTS))
            faults.set(name, times=self.rng.randint(1, 3))


def _play(path: Path, seed: int, turns: int) -> int:
    x = VolumeChaos(path, seed)
    x.live(turns)
    x.end()
    for _ in range(5):  # what a host owes the volume service, which has a thread of its own for it
        cleanups.run(x.world.services)
        x.world.volumes.send_cleanups()
        x.world.settle()
        x.world.engines[-1].run_until_idle(limit=20_000)
    after = x.world.ledger()
    second = list(x.world.guests.second_writers)
    x.world.close()
    left = {k: v for k, v in after.items() if not k.startswith(HISTORY)}
    assert left == dict(x.before), f"seed {seed}"
    assert not [k for k in after if k.startswith("action:") and k.endswith(":open")], f"seed {seed}"
    assert second == [], f"seed {seed}: two writers"
    return x.attached


@pytest.mark.parametrize("block", range(5))
def test_nothing_is_left(block: int, tmp_path: Path) -> None:
    """R1, R1b, R10, R12, R13, R17: volumes too end as they were, and never had two writers."""
    attached = [_play(tmp_path / str(n), n, 150) for n in range(block * 5, block * 5 + 5)]
    assert sum(attached) > 0
