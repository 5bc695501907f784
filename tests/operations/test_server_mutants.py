"""The tests can fail: with an undo, a fence or a memory taken away, some case must find it (R22)."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kilonova.agent.journal import GO, Journal, Verdict
from kilonova.objects.order import Order
from kilonova.operations import server_delete
from kilonova.saga.definition import _KINDS, Saga
from kilonova.saga.faults import Fault
from tests.operations import test_server_delete as deletes
from tests.operations import test_volume_swap as swaps
from tests.operations.harness import check_case, points_of
from tests.operations.server_world import ServerWorld, Shape, saga_of
from tests.operations.test_server_disturbed import unwanted_guests

MANY = Shape(nics=2, user_port=True)


def caught(path: Path, kind: str, shape: Shape = MANY) -> bool:
    """Tell whether some case of an operation fails."""
    saga = saga_of(kind)
    left_out = frozenset(s.name for s in saga.steps if s.skip is not None)
    for n, case in enumerate(points_of(saga, skip=left_out)):
        world = ServerWorld(path / str(n), kind, shape)
        try:
            check_case(world, saga, case)
        except (AssertionError, RuntimeError):
            return True
    return False


@pytest.fixture
def change(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, dict[str, object]], None]:
    """Replace parts of one step of a registered saga."""

    def put(kind: str, step: str, parts: dict[str, object]) -> None:
        saga = saga_of(kind)
        steps = tuple(
            dataclasses.replace(s, **parts) if s.name == step else s  # type: ignore[arg-type]
            for s in saga.steps
        )
        monkeypatch.setitem(_KINDS, (kind, 1), dataclasses.replace(saga, steps=steps))

    return put


def _nothing(*_: object) -> None:
    return None


UNDOS: list[tuple[str, str, dict[str, object]]] = [
    ("server_create", "place", {"unrecord": _nothing}),
    ("server_create", "ports", {"undo": _nothing}),
    ("server_create", "record", {"undo": _nothing}),
    ("server_create", "build", {"undo_order": _nothing}),
]
RECORDS: list[tuple[str, str, dict[str, object]]] = [
    ("server_create", "place", {"record": lambda tx, run, out: None}),
    ("server_create", "record", {"record": lambda tx, run, out: None}),
    ("server_create", "finish", {"record": None}),
    ("server_delete", "guest", {"order": _nothing}),
    ("server_delete", "ports", {"do": _nothing}),
    ("server_delete", "forget", {"do": _nothing}),
    ("server_delete", "forget", {"record": None}),
    ("server_stop", "guest", {"record": None}),
]


def _name(value: object) -> str:
    return "+".join(value) if isinstance(value, dict) else str(value)


@pytest.mark.parametrize(("kind", "step", "parts"), UNDOS, ids=_name)
def test_a_missing_undo(
    kind: str,
    step: str,
    parts: dict[str, object],
    tmp_path: Path,
    change: Callable[[str, str, dict[str, object]], None],
) -> None:
    """R22"""
    change(kind, step, parts)
    assert caught(tmp_path, kind)


@pytest.mark.parametrize(("kind", "step", "parts"), RECORDS, ids=_name)
def test_a_missing_effect(
    kind: str,
    step: str,
    parts: dict[str, object],
    tmp_path: Path,
    change: Callable[[str, str, dict[str, object]], None],
) -> None:
    """R22"""
    change(kind, step, parts)
    assert caught(tmp_path, kind)


SPARE, BACKED = Shape(spare=1), Shape(boot=True, own=1)
VOLUMES: list[tuple[str, str, dict[str, object], Shape]] = [
    ("server_create", "volumes", {"undo": _nothing}, BACKED),
    ("server_create", "in_use", {"do": _nothing}, BACKED),
    ("server_delete", "volumes", {"do": _nothing}, BACKED),
    ("volume_attach", "reserve", {"undo": _nothing}, SPARE),
    ("volume_attach", "guest", {"undo_order": _nothing}, SPARE),
    ("volume_attach", "in_use", {"record": None}, SPARE),
    ("volume_detach", "begin", {"undo": _nothing}, SPARE),
    ("volume_detach", "guest", {"order": _nothing}, SPARE),
    ("volume_detach", "guest", {"undo_order": _nothing}, SPARE),
    ("volume_detach", "release", {"do": _nothing}, SPARE),
    ("volume_detach", "release", {"record": None}, SPARE),
]


@pytest.mark.parametrize(("kind", "step", "parts", "shape"), VOLUMES, ids=_name)
def test_a_missing_part_of_what_volumes_need(
    kind: str,
    step: str,
    parts: dict[str, object],
    shape: Shape,
    tmp_path: Path,
    change: Callable[[str, str, dict[str, object]], None],
) -> None:
    """R22: undisturbed, or failing at the end, the ledger notices."""
    change(kind, step, parts)
    saga = saga_of(kind)
    last = saga.steps[-1].name if kind != "volume_detach" else "guest"
    trigger = Fault(last, "do", "after", "error", skip=1 if last == "finish" else 0)
    noticed = 0
    for n, case in enumerate([(), (trigger,)]):
        world = ServerWorld(tmp_path / str(n), kind, shape)
        try:
            check_case(world, saga, case)
        except (AssertionError, RuntimeError):
            noticed += 1
    assert noticed


def _without_last_act(monkeypatch: pytest.MonkeyPatch, kind: str, part: str) -> None:
    gone: dict[str, Any] = {part: None}
    saga: Saga = dataclasses.replace(saga_of(kind), **gone)
    monkeypatch.setitem(_KINDS, (kind, 1), saga)


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("server_create", "unwound"),
        ("server_create", "unwound_record"),
        ("server_stop", "unwound_record"),
    ],
)
def test_a_missing_last_act(
    kind: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R22"""
    _without_last_act(monkeypatch, kind, part)
    assert caught(tmp_path, kind)


def test_ports_without_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R22: a port that is made anew at each try is left behind."""
    from kilonova.network.embedded.network import EmbeddedNetwork

    real = EmbeddedNetwork.ensure_port
    count = iter(range(10_000))

    def ensure(self: EmbeddedNetwork, key: tuple[str, str], **kw: object) -> object:
        return real(self, (key[0], f"{key[1]}.{next(count)}"), **kw)  # type: ignore[arg-type]

    monkeypatch.setattr(EmbeddedNetwork, "ensure_port", ensure)
    assert caught(tmp_path, "server_create", Shape())


def test_an_agent_that_refuses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R22, R7: without fence, seq and epoch at the host a late order makes a guest that nobody wants."""
    assert unwanted_guests(tmp_path / "with") == 0

    def judge(self: Journal, order: Order) -> Verdict:
        return GO

    monkeypatch.setattr(Journal, "judge", judge)
    assert unwanted_guests(tmp_path / "without") > 0


def test_a_delete_that_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R22, R17: a delete beside a create that has not ended leaves something, or never ends."""
    monkeypatch.setattr(server_delete, "_wait_for_others", lambda run: None)
    with pytest.raises((AssertionError, RuntimeError)):
        deletes.test_during_a_create("build", "after", "done", tmp_path)


SWAPS: list[tuple[str, dict[str, object]]] = [
    ("begin", {"undo": _nothing}),
    ("guest", {"order": _nothing}),
    ("guest", {"undo_order": _nothing}),
    ("hand_over", {"do": _nothing}),
    (
        "release",
        {"record": None},
    ),  # its outside half is for real Cinders: our own service has done that
]


@pytest.mark.slow  # a swap that lacks something waits for it, for long
@pytest.mark.parametrize(("step", "parts"), SWAPS, ids=_name)
def test_a_missing_part_of_a_volume_swap(
    step: str,
    parts: dict[str, object],
    tmp_path: Path,
    change: Callable[[str, str, dict[str, object]], None],
) -> None:
    """R22, R13: undisturbed, or given up when the guest has gone over, the ledger or the guest's place tells."""
    change(swaps.KIND, step, parts)
    saga = saga_of(swaps.KIND)
    trigger = Fault("guest", "do", "after", "error")
    noticed = 0
    for n, case in enumerate([(), (trigger,)]):
        world = swaps.SwapWorld(tmp_path / str(n))
        try:
            check_case(world, saga, case)
        except (AssertionError, RuntimeError):
            noticed += 1
    assert noticed
