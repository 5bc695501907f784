"""Everything at once, by a seed: operations, kills, hosts that go and come, guests that fail. Nothing may be left."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kilonova.common.errors import KilonovaError
from kilonova.common.ids import new_uuid
from kilonova.db import migrations
from kilonova.operations import cleanup
from kilonova.reconcile import cleanups
from kilonova.reconcile.loop import Reconcilers
from tests.operations.server_world import ServerWorld, Shape
from tests.operations.test_server_delete import HISTORY

KINDS = (
    "server_stop",
    "server_start",
    "server_reboot_soft",
    "server_reboot_hard",
    "server_pause",
    "server_unpause",
    "server_suspend",
    "server_resume",
    "server_delete",
)
FAULTS = ("build_fail_once", "power_fail_once", "delete_fail_once", "power_hang", "build_hang")


class Chaos:
    """One seed's life of a cloud."""

    kinds = KINDS
    faults = FAULTS

    def __init__(self, path: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.world = ServerWorld(path, shape=self.shape(seed), hosts=3)
        self.before = self.world.ledger()
        self.made: list[str] = []
        self.accepted = 0
        self.backs: dict[str, Callable[[], None]] = {}
        self.world.engine().open()

    def shape(self, seed: int) -> Shape:
        """Return what every server is made of."""
        return Shape(nics=seed % 3)

    def live(self, turns: int) -> None:
        """Let ``turns`` things happen."""
        events: list[tuple[int, Callable[[], Any]]] = [
            (12, self.work),
            (5, self.operate),
            (3, self.create),
            (3, lambda: self.world.clock.advance(self.rng.uniform(0.0, 4.0))),
            (1, self.kill),
            (1, self.host),
            (1, self.fault),
            (1, self.guest),
            (1, self.reconcile),
        ]
        weights, calls = [w for w, _ in events], [c for _, c in events]
        for call in self.rng.choices(calls, weights, k=turns):
            call()

    def work(self) -> None:
        engine = self.world.engines[-1]
        for _ in range(self.rng.randint(1, 6)):
            if not (engine.step_once() or self.world.bus.pump()):
                engine.sweep()

    def create(self) -> None:
        if len(self.made) < 8:
            home, operation = self.world.accept("server_create")
            self.made.append(self.world.server)
            self.world.engines[-1].nudge(home, operation)

    def operate(self) -> None:
        if not self.made:
            return
        self.world.server = self.rng.choice(self.made)
        try:
            home, operation = self.world.accept(self.rng.choice(self.kinds))
        except KilonovaError as exc:
            assert exc.status in (400, 404, 409), exc
            return
        self.accepted += 1
        self.world.engines[-1].nudge(home, operation)

    def kill(self) -> None:
        self.world.engines[-1].abandon()
        self.world.engine().open()

    def host(self) -> None:
        """A host goes, fenced, so that nothing runs there any more; or the one that is away comes back."""
        name = f"cell1-host{self.rng.randint(1, 3)}"
        if name in self.backs:
            self.backs.pop(name)()
        elif not self.backs:
            self.backs[name] = self.world.fall_silent(name, boot=new_uuid())
            self.world.guests.reboot(name)

    def fault(self) -> None:
        faults = self.world.guests.faults
        if self.rng.random() < 0.4:
            faults.clear()
        else:
            faults.set(self.rng.choice(self.faults), times=self.rng.randint(1, 3))

    def guest(self) -> None:
        here = sorted({g.server for g in self.world.guests.ledger() if g.kind == "guest"})
        if here:
            self.world.guests.shut_down_by_itself(self.rng.choice(here))

    def reconcile(self) -> None:
        """Reconcilers run in the middle of everything, on records that are old enough to be mended."""
        if self.rng.random() < 0.3:
            self.world.clock.advance(310.0)
            self.world.settle()
        reconcilers = Reconcilers(self.world.services)
        reconcilers.run_all()
        reconcilers.close()

    def end(self) -> None:
        """Mend the world, let everything end, delete what is left."""
        world = self.world
        world.guests.faults.clear()
        for back in self.backs.values():
            back()
        engine = world.engines[-1]
        engine.run_until_idle(limit=20_000)
        for server in self.made:
            world.server = server
            try:
                engine.nudge(*world.accept("server_delete"))
            except KilonovaError as exc:
                assert exc.status == 404
        engine.run_until_idle(limit=20_000)
        for _ in range(50):
            if not world.databases["cell1"].read(cleanup.all_records):
                break
            cleanups.run(world.services)
            world.clock.advance(5.0)
            world.settle()
            engine.run_until_idle(limit=20_000)  # what a host's answer set off: a volume's delete


def play(x: Chaos, seed: int, turns: int) -> None:
    """Let a cloud live, end it, and demand that nothing is left."""
    x.live(turns)
    x.end()
    after = x.world.ledger()
    x.world.close()
    ended = (*HISTORY, *(f"migration:{s}" for s in migrations.ENDED))
    left = {k: v for k, v in after.items() if not k.startswith(ended)}
    assert left == dict(x.before), f"seed {seed}"
    assert not [k for k in after if k.startswith("action:") and k.endswith(":open")], f"seed {seed}"
    assert x.made and x.accepted, f"seed {seed}: nothing happened"


@pytest.mark.parametrize("seed", range(25))
def test_nothing_is_left(seed: int, tmp_path: Path) -> None:
    """R1, R1b, R2, R10, R17"""
    play(Chaos(tmp_path, seed), seed, 150)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_nothing_is_left_at_length(block: int, tmp_path: Path) -> None:
    """R1, R1b, R2, R10, R17"""
    for seed in range(1000 + block * 50, 1050 + block * 50):
        play(Chaos(tmp_path / str(seed), seed), seed, 300)
