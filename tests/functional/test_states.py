"""Every state of a server × every action, through HTTP: what Nova accepts is accepted, what it refuses is refused."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.ledger import changed
from tests.whole import Whole, running, until

V = "/compute/v2.1/servers"
ACTIONS: dict[str, dict[str, Any]] = {
    "start": {"os-start": None},
    "stop": {"os-stop": None},
    "reboot soft": {"reboot": {"type": "SOFT"}},
    "reboot hard": {"reboot": {"type": "HARD"}},
    "pause": {"pause": None},
    "unpause": {"unpause": None},
    "suspend": {"suspend": None},
    "resume": {"resume": None},
}
REACHED: dict[str, tuple[str, ...]] = {
    "ACTIVE": (),
    "SHUTOFF": ("stop",),
    "PAUSED": ("pause",),
    "SUSPENDED": ("suspend",),
}
# source: Nova, compute/api.py, the check_instance_state of each action
ALLOWED: dict[str, dict[str, str]] = {
    "ACTIVE": {
        "stop": "SHUTOFF",
        "reboot soft": "ACTIVE",
        "reboot hard": "ACTIVE",
        "pause": "PAUSED",
        "suspend": "SUSPENDED",
    },
    "SHUTOFF": {"start": "ACTIVE", "reboot hard": "ACTIVE"},
    "PAUSED": {"unpause": "ACTIVE", "reboot hard": "ACTIVE"},
    "SUSPENDED": {"resume": "ACTIVE", "reboot hard": "ACTIVE"},
}
AFTER = {"stop": "SHUTOFF", "pause": "PAUSED", "suspend": "SUSPENDED"}
VM_STATES = {"ACTIVE": "active", "SHUTOFF": "stopped", "PAUSED": "paused", "SUSPENDED": "suspended"}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    with running(tmp_path_factory.mktemp("states") / "state") as x:
        x.admin.put(
            f"/compute/v2.1/os-quota-sets/{x.demo.project}",
            {"quota_set": {"instances": -1, "cores": -1, "ram": -1}},
        )
        yield x


def bring(cloud: Whole, status: str) -> str:
    """Return a new server in a state."""
    server = cloud.demo.boot(status.lower())
    cloud.demo.wait(server, "ACTIVE")
    for action in REACHED[status]:
        assert cloud.demo.act(server, ACTIONS[action]).status == 202
        cloud.demo.wait(server, AFTER[action])
    return server


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("status", REACHED)
def test_state_and_action(status: str, action: str, cloud: Whole) -> None:
    """The table; a refusal names the state and changes nothing."""
    server = bring(cloud, status)
    reply = cloud.demo.act(server, ACTIONS[action])
    end = ALLOWED[status].get(action)
    if end is None:
        assert reply.status == 409
        assert f"while it is in vm_state {VM_STATES[status]}" in reply.message
    else:
        assert reply.status == 202 and reply.raw == b""
    cloud.demo.wait(server, end or status)
    cloud.demo.delete(f"{V}/{server}")
    cloud.demo.gone(server)


@pytest.mark.parametrize("action", ACTIONS)
def test_an_error_without_a_host(action: str, cloud: Whole) -> None:
    """A server that never had a host can do nothing but be deleted: no operation is begun."""
    server = cloud.demo.boot("broken", metadata={"kilonova:fault": "build_fail"})
    cloud.demo.wait(server, "ERROR")
    reply = cloud.demo.act(server, ACTIONS[action])
    assert reply.status == 409 and server in reply.message
    assert [a["action"] for a in _actions(cloud, server)] == ["create"]
    cloud.demo.delete(f"{V}/{server}")
    cloud.demo.gone(server)


def _actions(cloud: Whole, server: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cloud.demo.get(f"{V}/{server}/os-instance-actions")[
        "instanceActions"
    ]
    return found


@pytest.mark.parametrize("action", ACTIONS)
def test_while_something_else_goes_on(action: str, cloud: Whole) -> None:
    """Refused with the task's name; a delete is accepted, aborts the task and ends."""
    server = cloud.demo.boot("busy", metadata={"kilonova:fault": "power_hang"})
    cloud.demo.wait(server, "ACTIVE")
    assert cloud.demo.act(server, ACTIONS["stop"]).status == 202
    reply = cloud.demo.act(server, ACTIONS[action])
    assert reply.status == 409 and "task_state powering-off" in reply.message
    assert cloud.demo.show(server)["OS-EXT-STS:task_state"] == "powering-off"
    cloud.demo.delete(f"{V}/{server}")
    cloud.demo.gone(server)


@pytest.mark.parametrize("action", ACTIONS)
def test_while_it_is_built(action: str, cloud: Whole) -> None:
    """BUILD: every action is refused, a delete aborts the build."""
    server = cloud.demo.boot("slow", metadata={"kilonova:fault": "build_hang"})
    until(lambda: cloud.demo.show(server)["OS-EXT-STS:task_state"] == "spawning", "spawning")
    assert cloud.demo.show(server)["status"] == "BUILD"
    assert cloud.demo.act(server, ACTIONS[action]).status == 409
    cloud.demo.delete(f"{V}/{server}")
    cloud.demo.gone(server)


@pytest.mark.parametrize("action", [*ACTIONS, "delete"])
def test_a_locked_server(action: str, cloud: Whole) -> None:
    """Locked: refused for its owner, an admin passes. source: Nova, check_instance_lock"""
    server = bring(cloud, "ACTIVE")
    assert cloud.demo.act(server, {"lock": None}).status == 202

    def send(client: Any) -> Any:
        if action == "delete":
            return client.call("DELETE", f"{V}/{server}")
        return client.act(server, ACTIONS[action])

    mine = send(cloud.demo)
    assert mine.status == 409 and mine.message == f"Instance {server} is locked"
    theirs = send(cloud.admin)
    if action == "delete" or action in ALLOWED["ACTIVE"]:
        assert theirs.status in (202, 204)
    else:
        assert theirs.status == 409 and "locked" not in theirs.message
    cloud.at_rest()
    if action != "delete":
        assert cloud.demo.act(server, {"unlock": None}).status == 202
        cloud.demo.delete(f"{V}/{server}")
    cloud.demo.gone(server)


def test_deleting_twice_and_what_stays(cloud: Whole) -> None:
    """R17: the second delete finds nothing; changes-since still shows what was."""
    server = bring(cloud, "ACTIVE")
    cloud.demo.delete(f"{V}/{server}")
    cloud.demo.gone(server)
    assert cloud.demo.call("DELETE", f"{V}/{server}").status == 404
    actions = _actions(cloud, server)
    assert [a["action"] for a in actions] == ["delete", "create"]


def test_two_deletes_at_once(cloud: Whole) -> None:
    """R17: both are accepted while it is still there; both end."""
    server = cloud.demo.boot("twice", metadata={"kilonova:fault": "delete_fail_once"})
    cloud.demo.wait(server, "ACTIVE")
    assert cloud.demo.call("DELETE", f"{V}/{server}").status == 204
    assert cloud.demo.call("DELETE", f"{V}/{server}").status in (204, 404)
    cloud.demo.gone(server)


def test_the_whole_table_left_nothing(cloud: Whole) -> None:
    """R1, R10: but history."""
    for s in cloud.demo.get(V)["servers"]:
        cloud.demo.delete(f"{V}/{s['id']}")
    until(lambda: not cloud.demo.get(V)["servers"], "the end of all servers")
    history = ("deleted:", "action:", "event:", "operation:", "fault:")
    left = {k: v for k, v in changed({}, cloud.ledger()).items() if not k.startswith(history)}
    assert set(left) == {"address", "image:active"}  # of the routers; the first image
    assert cloud.audit() == []
