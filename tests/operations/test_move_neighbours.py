"""Moves while the image, network or volume service fails (R12), and moves with a part taken out (R22)."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from kilonova.common.errors import Conflict, Unavailable
from kilonova.saga.definition import _KINDS
from tests.operations.harness import check_case, points_of
from tests.operations.server_ledger import moved, plus
from tests.operations.server_world import ServerWorld, Shape, saga_of
from tests.operations.test_server_neighbours import Shaky

SHAPE = Shape(own=1, nics=2)
CALLS = [  # operation, service, method
    ("server_migrate", "images", "ensure"),
    ("server_migrate", "images", "find"),
    ("server_migrate", "images", "delete"),
    ("server_migrate", "network", "bind_ports"),
    ("server_migrate", "network", "ports_of"),
    ("server_migrate", "volumes", "connect"),
    ("revert_move", "network", "bind_ports"),
    ("revert_move", "volumes", "connect"),
]


def _down() -> Exception:
    return Unavailable("The service does not answer.")


def _refusal() -> Exception:
    return Conflict("No.")


def _bug() -> Exception:
    return ValueError("planted")


def _shaky(world: ServerWorld, name: str) -> Shaky:
    if name == "volumes":
        service = Shaky(world.volumes)
        world.services._late["volumes"] = service
        return service
    service = Shaky(getattr(world.services, name))
    setattr(world.services, name, cast(Any, service))
    return service


@pytest.mark.parametrize("lost", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("error", [_down, _bug])
@pytest.mark.parametrize(("kind", "name", "method"), CALLS)
def test_a_moment(
    kind: str,
    name: str,
    method: str,
    error: Callable[[], Exception],
    lost: bool,
    tmp_path: Path,
) -> None:
    """R12: what fails for a moment is tried again; the move is done."""
    world = ServerWorld(tmp_path, kind, SHAPE)
    service = _shaky(world, name)
    service.fail(method, error, 2, lost=lost)
    assert world.run(*world.begin()) == "done"
    assert service.failures == (1 if (method, lost) == ("delete", True) else 2), "gone is gone"
    ledger = world.ledger()
    world.close()
    assert ledger == plus(world.before, moved(kind, "done", SHAPE))


@pytest.mark.parametrize("lost", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("error", "times"), [(_refusal, 1), (_down, 20), (_bug, 20)])
@pytest.mark.parametrize(("kind", "name", "method"), CALLS)
def test_for_long(
    kind: str,
    name: str,
    method: str,
    error: Callable[[], Exception],
    times: int,
    lost: bool,
    tmp_path: Path,
) -> None:
    """R12: unwound, also while it goes on failing; the server is where and what it was."""
    world = ServerWorld(tmp_path, kind, SHAPE)
    service = _shaky(world, name)
    service.fail(method, error, times, lost=lost)
    state = world.run(*world.begin())
    assert service.failures and (state == "failed" or lost), "done only when it had worked"
    ledger = world.ledger()
    world.close()
    assert ledger == plus(world.before, moved(kind, state, SHAPE))


def _nothing(*_: object) -> None:
    return None


MUTANTS: list[tuple[str, str, dict[str, object]]] = [
    ("server_migrate", "leave", {"undo_order": _nothing}),
    ("server_migrate", "copy", {"undo_order": _nothing}),
    ("server_migrate", "images", {"undo": _nothing}),
    ("server_migrate", "ports", {"undo": _nothing}),
    ("server_migrate", "arrive", {"undo_order": _nothing}),
    ("server_migrate", "moved", {"do": lambda run: {}}),
    ("server_migrate", "moved", {"record": None}),
    ("confirm_move", "kept", {"order": _nothing}),
    ("confirm_move", "claim", {"do": lambda run: {}}),
    ("confirm_move", "claim", {"record": None}),
    ("revert_move", "away", {"order": _nothing}),
    ("revert_move", "away", {"undo_order": _nothing}),
    ("revert_move", "ports", {"undo": _nothing}),
    ("revert_move", "guest", {"undo_order": _nothing}),
    ("revert_move", "claim", {"do": lambda run: {}}),
    ("revert_move", "drop", {"order": _nothing}),
    ("revert_move", "free", {"do": lambda run: {}}),
    ("revert_move", "free", {"record": None}),
]


@pytest.mark.parametrize(
    ("kind", "step", "parts"), MUTANTS, ids=[f"{k}-{s}-{'-'.join(p)}" for k, s, p in MUTANTS]
)
def test_a_missing_part_is_noticed(
    kind: str, step: str, parts: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R22"""
    saga = saga_of(kind)
    steps = tuple(
        dataclasses.replace(s, **parts) if s.name == step else s  # type: ignore[arg-type]
        for s in saga.steps
    )
    monkeypatch.setitem(_KINDS, (kind, 1), dataclasses.replace(saga, steps=steps))
    for n, case in enumerate(points_of(saga)):
        world = ServerWorld(tmp_path / str(n), kind, SHAPE)
        try:
            check_case(world, saga, case)
        except (AssertionError, RuntimeError):
            return
    raise AssertionError("no case noticed it")
