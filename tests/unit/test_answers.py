"""What holds answers against their routes notices a field too many, one too few, and a body that nobody declared."""

import json
from typing import Any

import pytest

from tests.answers import Exchange, decoded, verify

ONE = "/compute/v2.1/os-server-groups/1"
GROUP = {"id": "g", "name": "n", "members": [], "policy": "affinity", "rules": {}}
OWNED = {**GROUP, "project_id": "p", "user_id": "u"}


def exchange(method: str, path: str, body: Any, *, at: str = "2.104", **more: Any) -> Exchange:
    raw = b"" if body is None else json.dumps(body).encode()
    head = {"openstack-api-version": f"compute {at}"}
    return Exchange(method, path, more.get("sent"), more.get("status", 200), head, raw)


def test_what_is_declared_passes() -> None:
    verify(exchange("GET", ONE, {"server_group": OWNED}))
    verify(exchange("GET", ONE, {"itemNotFound": {}}, status=404))
    verify(exchange("GET", "/identity/v3/users", {"users": []}))
    stop = {"os-stop": None}
    verify(exchange("POST", "/compute/v2.1/servers/s/action", None, sent=stop, status=202))


@pytest.mark.parametrize(
    "group,at",
    [
        ({**OWNED, "colour": "red"}, "2.104"),
        (GROUP, "2.104"),
        (OWNED, "2.63"),
        ({**OWNED, "members": None}, "2.104"),
    ],
)
def test_what_differs_is_named(group: dict[str, Any], at: str) -> None:
    with pytest.raises(AssertionError, match=r"GET /v2.1/os-server-groups/\{group_id\}"):
        verify(exchange("GET", ONE, {"server_group": group}, at=at))


def test_a_body_that_nobody_declared_is_noticed() -> None:
    act, stop = "/compute/v2.1/servers/s/action", {"os-stop": None}
    with pytest.raises(AssertionError, match="answer="):
        verify(exchange("POST", act, {"x": 1}, sent=stop, status=202))
    with pytest.raises(AssertionError, match="without the declared body"):
        verify(exchange("GET", ONE, None))


def test_a_body_that_is_no_json_is_none() -> None:
    assert decoded(b"[" * 100_000) is decoded(b"") is decoded(None) is None
