"""Moves among everything else, by a seed: kills, hosts that go and come, guests that fail. One runs, nothing stays."""

import collections
from pathlib import Path

import pytest

from kilonova.virt.fake.world import RUNS
from tests.operations.test_server_chaos import Chaos, play


class Moves(Chaos):
    """Servers that move all the time."""

    kinds = (
        *("server_migrate", "resize_away", "server_resize", "confirm_move", "revert_move") * 2,
        *("server_stop", "server_start", "server_delete"),
    )
    faults = (
        *("build_fail_once", "build_fail_everywhere", "snapshot_fail_once", "snapshot_hang"),
        *("power_fail_once", "revert_fail_once", "delete_fail_once", "resize_fail_once"),
    )

    def live(self, turns: int) -> None:
        """Look after each event."""
        for _ in range(turns):
            super().live(1)
            self.look()

    def look(self) -> None:
        """No server runs on two hosts, whatever is under way."""
        running: collections.Counter[str] = collections.Counter()
        for host in self.world.taps:
            for guest in self.world.guests.guests(host).values():
                running[guest.server] += guest.power in RUNS
        assert [s for s, n in running.items() if n > 1] == []

    def end(self) -> None:
        super().end()
        self.look()


@pytest.mark.parametrize("seed", range(25))
def test_nothing_is_left(seed: int, tmp_path: Path) -> None:
    """R1, R1b, R2, R10, R11, R17"""
    play(Moves(tmp_path, seed), seed, 150)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_nothing_is_left_at_length(block: int, tmp_path: Path) -> None:
    """R1, R1b, R2, R10, R11, R17"""
    for seed in range(2000 + block * 50, 2050 + block * 50):
        play(Moves(tmp_path / str(seed), seed), seed, 300)
