"""Live migrations among everything else, by a seed: kills, hosts that go and come, guests that fail. One runs (R13)."""

from pathlib import Path

import pytest

from tests.operations.server_world import Shape
from tests.operations.test_move_chaos import Moves
from tests.operations.test_server_chaos import play


class LiveMoves(Moves):
    """Servers that move while they run."""

    kinds = (
        *("live_migrate",) * 4,
        *("server_migrate", "confirm_move", "revert_move", "server_pause", "server_unpause"),
        *("server_stop", "server_start", "server_delete"),
    )
    faults = (
        *("live_prepare_fail_once", "live_migrate_fail_once", "live_leave_fail_once"),
        *(
            "live_arrive_fail_once",
            "live_rollback_fail_once",
            "live_rollback_destination_fail_once",
        ),
        *("live_check_source_fail_once", "power_fail_once", "delete_fail_once"),
    )

    def shape(self, seed: int) -> Shape:
        """Every other cloud's servers boot from a volume."""
        return Shape(nics=seed % 3, boot=bool(seed % 2))

    def end(self) -> None:
        """Let hosts remove volumes too."""
        super().end()
        world = self.world
        for _ in range(20):
            if not world.volumes.waiting():
                break
            world.volumes.send_cleanups()
            world.clock.advance(5.0)
            world.settle()
            world.engines[-1].run_until_idle(limit=20_000)

    def look(self) -> None:
        """No volume ever had two writers."""
        super().look()
        assert self.world.guests.second_writers == []


@pytest.mark.parametrize("seed", range(25))
def test_nothing_is_left(seed: int, tmp_path: Path) -> None:
    """R1, R1b, R2, R10, R11, R13, R17"""
    play(LiveMoves(tmp_path, seed), seed, 150)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_nothing_is_left_at_length(block: int, tmp_path: Path) -> None:
    """R1, R1b, R2, R10, R11, R13, R17"""
    for seed in range(3000 + block * 50, 3050 + block * 50):
        play(LiveMoves(tmp_path / str(seed), seed), seed, 300)
