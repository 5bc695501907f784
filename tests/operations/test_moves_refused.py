"""Bad input of cells and moves: each kind that was asked for has its test; what no other file tries is tried here."""

import re
from pathlib import Path

import pytest

from kilonova.common.errors import KilonovaError
from tests.operations.cross_cell_world import CONFIRM, MIGRATE, RESIZE, REVERT, TwoCells
from tests.operations.kill_matrix import ROWS, Away

TESTS = Path(__file__).resolve().parents[1]
HERE = "operations/test_moves_refused.py"
ASKED = {  # what was asked for -> file, test
    "a cell URL that answers wrongly": ("functional/test_cells.py", "test_a_wrong_url_is_named"),
    "a cell deleted with servers in it": ("functional/test_cells.py", "test_what_else_is_refused"),
    "two hosts of one name": ("operations/test_wrong_identity.py", "test_an_agent_that_is_another"),
    "a host that lies about its version": (
        "functional/test_version_pin.py",
        "test_who_is_older_than_the_pin_is_refused",
    ),
    "a move to the host it is on": ("functional/compute/test_migrate.py", "test_what_is_refused"),
    "the same across cells": ("functional/compute/test_cross_cell.py", "test_what_is_refused"),
    "a resize while another operation runs": (HERE, "test_a_second_one_meanwhile"),
    "a confirm twice": (HERE, "test_a_second_one_meanwhile"),
    "a revert during confirm": (HERE, "test_a_second_one_meanwhile"),
    "a clock that jumps": ("unit/test_saga_engine.py", "test_clock_that_jumps"),
    "a wrong certificate": (
        "security/test_nats_permissions.py",
        "test_a_right_certificate_for_another_name_is_refused",
    ),
}
PAIRS = [  # what runs, and what is asked meanwhile
    ("server_resize", "server_migrate"),
    ("server_migrate", "server_resize"),
    ("server_migrate", "live_migrate"),
    ("live_migrate", "server_migrate"),
    ("live_migrate", "server_resize"),
    ("confirm_move", "confirm_move"),
    ("confirm_move", "revert_move"),
    ("revert_move", "confirm_move"),
    ("revert_move", "server_resize"),
    (RESIZE, MIGRATE),
    (MIGRATE, RESIZE),
    (CONFIRM, CONFIRM),
    (CONFIRM, REVERT),
    (REVERT, CONFIRM),
    (REVERT, MIGRATE),
]


@pytest.mark.parametrize("what", ASKED)
def test_what_was_asked_for_is_tried(what: str) -> None:
    file, name = ASKED[what]
    assert re.search(rf"^def {name}", (TESTS / file).read_text(), re.MULTILINE)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_second_one_meanwhile(first: str, second: str, tmp_path: Path) -> None:
    """It is refused at once, in words, and changes nothing: the first one ends as if it had not been asked."""
    row = next(r for r in ROWS if r.kind == first and r.hosts > 1)
    world = row.of(tmp_path, first, row.shape)
    assert isinstance(world, Away | TwoCells) or first not in ("server_resize", RESIZE)
    home, operation = world.begin()
    with pytest.raises(KilonovaError) as refused:
        world.accept(second)
    assert refused.value.status in (400, 409) and refused.value.message
    assert world.run(home, operation) == "done"
    ledger, clean = world.ledger(), dict(world.clean("done"))
    world.close()
    assert ledger == clean
