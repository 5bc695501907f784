"""What a decision says can be claimed, and a search over hopeless groups ends."""

import random
from pathlib import Path

import pytest

from kilonova.placement import claims
from kilonova.placement.candidates import Budget, Group, Node, Slot, solve
from kilonova.scheduler.select import select
from tests.scheduling import NOW, Cloud
from tests.unit.test_scheduler_reference import build, question


@pytest.mark.parametrize("seed", range(200, 240))
def test_every_selection_of_a_decision_for_many_can_be_claimed(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    cloud = Cloud(tmp_path)
    machines, _ = build(rng, cloud)
    for turn in range(6):
        decision = select(cloud.view(), question(rng, machines), 10, 0, rng=rng)
        for i, selection in enumerate(decision.selections):
            chosen = selection.chosen
            cloud.db.write(
                lambda tx, c=chosen, who=f"{turn}-{i}": claims.claim(
                    tx, consumer=who, project="p", user="u", amounts=c.amounts, now=NOW
                )
            )
    cloud.db.close()


def test_a_hopeless_search_ends() -> None:
    slot = {"VGPU": Slot(1, 1, 1, 1, 1, 0)}
    nodes = [Node("root", "root", None, {}, frozenset(), frozenset())]
    nodes += [Node(f"n{i}", "root", "root", slot, frozenset(), frozenset()) for i in range(12)]
    groups = [Group(str(i), {"VGPU": 1}) for i in range(13)]
    budget = Budget(10_000)
    assert list(solve(nodes, groups, None, budget)) == []
    assert budget.spent
