"""Volume, image and network services that misbehave while disks of servers are worked on (R12).

Each call of an operation fails twice, before it did its work or after: the operation ends as if nobody had failed. Then
it fails for long: the operation is unwound, and nothing has changed; or, where it only goes forward, it ends late.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

from kilonova.common.errors import Unavailable
from kilonova.reconcile import audit, cleanups
from tests.ledger import changed
from tests.operations.server_world import ServerWorld, Shape
from tests.operations.test_server_neighbours import Shaky

HISTORY = ("action:", "event:", "operation:", "fault:")
LOCAL, BACKED = Shape(), Shape(boot=True, own=1)


class Call(NamedTuple):
    """One call that an operation makes on its way. forward: it only goes on once it got there."""

    kind: str
    shape: Shape
    service: str
    method: str
    forward: bool = False


CALLS = (
    Call("server_rebuild", BACKED, "volumes", "ensure_attachment"),
    Call("server_rebuild", BACKED, "volumes", "remove_attachment"),
    Call("server_rebuild", BACKED, "volumes", "reimage"),
    Call("server_rebuild", BACKED, "volumes", "connect"),
    Call("server_rebuild", BACKED, "volumes", "complete", forward=True),
    Call("server_rebuild", LOCAL, "network", "ports_of"),
    Call("server_rescue", LOCAL, "network", "ports_of"),
    Call("server_snapshot", LOCAL, "images", "describe"),
    Call("server_snapshot_volumes", BACKED, "volumes", "ensure_snapshot"),
    Call("server_snapshot_volumes", BACKED, "volumes", "find_snapshot"),
    Call("server_snapshot_volumes", BACKED, "images", "describe"),
    Call("server_shelve", LOCAL, "network", "bind_ports", forward=True),
    Call("server_unshelve", LOCAL, "network", "bind_ports"),
    Call("server_unshelve", LOCAL, "images", "find"),
    Call("server_unshelve", LOCAL, "images", "delete", forward=True),
    Call("server_unshelve", BACKED, "volumes", "connect"),
    Call("server_unshelve", BACKED, "volumes", "connections"),
    Call("server_unshelve", BACKED, "volumes", "complete"),
)
WANTED: dict[tuple[str, Shape], dict[str, int]] = {}


def _id(value: object) -> str:
    if isinstance(value, Call):
        return f"{value.kind}-{'volume' if value.shape.boot else 'local'}-{value.service}.{value.method}"
    return ""


def _down() -> Exception:
    return Unavailable("The service does not answer.")


def _bug() -> Exception:
    return ValueError("planted")


def _left(world: ServerWorld) -> dict[str, int]:
    after = changed(world.before, world.ledger())
    return {k: v for k, v in after.items() if not k.startswith(HISTORY)}


def _run(
    path: Path, call: Call, error: Callable[[], Exception] | None, times: int, *, lost: bool
) -> tuple[str, dict[str, int], int]:
    """Run an operation while a service fails; return its state, what it changed, and how often the service failed."""
    world = ServerWorld(path, call.kind, call.shape)
    begun = world.begin()
    real = getattr(world.services, call.service)
    service = Shaky(real)

    def put(what: Any) -> None:
        if call.service == "volumes":
            world.services.install(volumes=what)
        else:
            setattr(world.services, call.service, cast(Any, what))

    put(service)
    if error is not None:
        service.fail(call.method, error, times, lost=lost)
    state = world.run(*begun)
    put(real)
    cleanups.run(world.services)
    left = _left(world)
    assert audit.run(world.services) == []
    world.close()
    return state, left, service.failures


def _wanted(path: Path, call: Call) -> dict[str, int]:
    key = (call.kind, call.shape)
    if key not in WANTED:
        state, WANTED[key], _ = _run(path, call, None, 0, lost=False)
        assert state == "done"
    return WANTED[key]


@pytest.mark.parametrize("lost", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("error", [_down, _bug])
@pytest.mark.parametrize("call", CALLS, ids=_id)
def test_for_a_moment(
    call: Call, error: Callable[[], Exception], lost: bool, tmp_path: Path
) -> None:
    """R12"""
    wanted = _wanted(tmp_path / "first", call)
    state, left, failures = _run(tmp_path / "second", call, error, 2, lost=lost)
    assert failures, "it was never called, so nothing was tested"
    assert (state, left) == ("done", wanted)


@pytest.mark.parametrize("lost", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", CALLS, ids=_id)
def test_for_long(call: Call, lost: bool, tmp_path: Path) -> None:
    """R12"""
    wanted = _wanted(tmp_path / "first", call)
    state, left, failures = _run(tmp_path / "second", call, _down, 12, lost=lost)
    assert failures, "it was never called, so nothing was tested"
    if state == "done":
        assert call.forward or failures < 12, "it failed too seldom to be noticed"
        assert left == wanted
    elif left != {}:  # the root volume had been written: the server says so
        assert (call.kind, call.method) in WRITTEN
        assert left == {"server:cell1:active:None": -1, "server:cell1:error:None": 1}


WRITTEN = {("server_rebuild", "connect"), ("server_rebuild", "reimage")}
