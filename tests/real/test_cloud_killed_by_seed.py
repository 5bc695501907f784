"""Real guests, kills drawn by a seed: any move, any of its points, on a local disk and on a volume (R1b, R2, R9)."""

import random
from pathlib import Path

import pytest

from tests.real import kill_story
from tests.real.outside import missing, timed

_why = missing()
pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(_why is not None, reason=str(_why)),
    pytest.mark.timeout(3600),
]
DRAWS = 5


def _point(rng: random.Random, steps: tuple[str, ...]) -> str:
    return f"{rng.choice(steps)}:do:{rng.choice(('before', 'after', 'recorded'))}"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("disk", ["local", "volume"])
def test_some_moves(disk: str, seed: int, tmp_path: Path) -> None:
    """Every kill is reached; each move ends as if nobody had died; in the end nothing is left."""
    rng, backed = random.Random(f"{disk}-{seed}"), disk == "volume"
    with kill_story.running_story(tmp_path, backed=backed) as story:
        created = ("place", "ports", "record", "build", "finish")
        kill_story.begin(story, backed=backed, at=_point(rng, created))
        kill_story.give_volumes(story)
        for name in rng.sample(sorted(kill_story.MOVES), DRAWS):
            move = kill_story.MOVES[name]
            first, then = (_point(rng, steps) for steps in move.halves(backed))
            with timed(f"{disk} {seed}: {name}, killed at {first} and {then}"):
                move.do(story, first, then)
        kill_story.end(story, _point(rng, ("guest", "ports", "forget")))
