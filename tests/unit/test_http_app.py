"""The application: in which order a request is looked at, what each mistake is answered, and what headers come back."""

from typing import Any

import falcon.testing
import pytest

from kilonova.common.context import Context
from kilonova.common.errors import Conflict, NotImplementedHere, Unauthorized, Unavailable
from kilonova.http import errors as forms
from kilonova.http.app import Application
from kilonova.http.microversion import V
from kilonova.http.policy import PUBLIC, Policy
from kilonova.http.request import Request, Response
from kilonova.http.routing import Route
from kilonova.http.schema import Schema
from kilonova.http.service import Microversions, Service

BODY = Schema({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
SEEN: list[Request] = []


def _echo(req: Request) -> Any:
    """Say what came."""
    SEEN.append(req)
    return {"version": str(req.version), "who": req.ctx.user_id, "params": req.params}


def _fail(kind: type[Exception]) -> Any:
    def handler(req: Request) -> Any:
        raise kind("it is so")

    return handler


def _route(method: str, path: str, handler: Any = _echo, policy: str = "any", **more: Any) -> Route:
    return Route(method, path, handler, policy, **more)


ROUTES = (
    _route("GET", "/", policy=PUBLIC),
    _route("GET", "/things/{id}"),
    _route("PUT", "/things/{id}", success=202, body=BODY),
    _route("POST", "/things", body=BODY, max_body=64, policy="admins"),
    _route("POST", "/things/{id}/action", action="go", body=Schema({"required": ["go"]})),
    _route("POST", "/things/{id}/action", action="later", since=V(2, 5)),
    _route("GET", "/old", until=V(2, 3)),
    _route("GET", "/old", lambda req: {"newer": True}, since=V(2, 4)),
    _route("GET", "/empty", lambda req: None, success=204),
    _route("GET", "/raw", lambda req: Response(body=b"x", content_type="text/plain")),
    _route("GET", "/conflict", _fail(Conflict)),
    _route("GET", "/away", _fail(Unavailable)),
    _route("GET", "/cannot", _fail(NotImplementedHere)),
    _route("GET", "/bug", _fail(ZeroDivisionError)),
)
SERVICE = Service(
    name="toys",
    mount="/toys",
    routes=ROUTES,
    policy=Policy({"any": "@", "admins": "role:admin"}),
    render=forms.compute,
    microversions=Microversions("toys", V(2, 1), V(2, 9), V(2, 1), "X-Toys-Version"),
    id_headers=("x-toys-request-id",),
)


def _authenticate(token: str | None, service: str | None, rid: str) -> Context:
    if token not in ("member", "admin"):
        raise Unauthorized("The request you have made requires authentication.")
    return Context(request_id=rid, user_id=token, project_id="p", roles=(token,))


@pytest.fixture(scope="module")
def client() -> falcon.testing.TestClient:
    app = Application((SERVICE,), None, _authenticate, "http://cloud.example/")
    return falcon.testing.TestClient(app.wsgi)


def _ask(client: Any, method: str, path: str, token: str | None = "member", **more: Any) -> Any:
    headers = {**({"X-Auth-Token": token} if token else {}), **more.pop("headers", {})}
    return client.simulate_request(method, "/toys" + path, headers=headers, **more)


def test_an_answer_carries_its_request_id_and_version(client: Any) -> None:
    got = _ask(client, "GET", "/things/7", headers={"X-Toys-Version": "2.4"})
    assert got.status_code == 200
    assert got.json == {"version": "2.4", "who": "member", "params": {"id": "7"}}
    assert got.headers["x-toys-request-id"].startswith("req-")
    assert got.headers["openstack-api-version"] == "toys 2.4"
    assert got.headers["x-toys-version"] == "2.4"
    assert "OpenStack-API-Version" in got.headers["vary"]


def test_public_routes_need_no_token_and_all_others_do(client: Any) -> None:
    assert _ask(client, "GET", "/", None).status_code == 200
    got = _ask(client, "GET", "/things/7", None)
    assert got.status_code == 401 and "unauthorized" in got.json
    assert got.headers["www-authenticate"] == 'Keystone uri="http://cloud.example/identity"'
    assert _ask(client, "GET", "/things/7", "wrong").status_code == 401


def test_policy_is_asked_before_the_body_is_checked(client: Any) -> None:
    assert _ask(client, "POST", "/things", json={"a": "x"}).status_code == 403
    assert _ask(client, "POST", "/things", "admin", json={"a": "x"}).status_code == 400
    assert _ask(client, "POST", "/things", "admin", json={"a": 1}).status_code == 200


@pytest.mark.parametrize(
    "body,status",
    [
        (b"", 400),
        (b"{", 400),
        (b"[1]", 400),
        (b"null", 400),
        (b"\xff\xfe", 400),
        (b"[" * 60, 400),
        (b'{"a": 1}' + b" " * 100, 413),
    ],
)
def test_a_body_that_is_no_body_is_refused(client: Any, body: bytes, status: int) -> None:
    got = _ask(client, "POST", "/things", "admin", body=body)
    assert got.status_code == status, got.text


def test_media_types(client: Any) -> None:
    for kind, status in (("application/json", 202), ("", 202), ("application/xml", 415)):
        headers = {"Content-Type": kind} if kind else {}
        got = _ask(client, "PUT", "/things/1", body='{"a": 1}', headers=headers)
        assert got.status_code == status, kind


def test_actions_are_chosen_by_the_only_key(client: Any) -> None:
    path = "/things/1/action"
    assert _ask(client, "POST", path, json={"go": None}).status_code == 200
    assert _ask(client, "POST", path, json={"go": 1, "later": 1}).status_code == 400
    assert _ask(client, "POST", path, json={"never": 1}).status_code == 400
    assert _ask(client, "POST", path, json={}).status_code == 400
    assert _ask(client, "POST", path, json=[]).status_code == 400
    assert _ask(client, "POST", path, json={"later": 1}).status_code == 404
    new = {"OpenStack-API-Version": "toys 2.5"}
    assert _ask(client, "POST", path, json={"later": 1}, headers=new).status_code == 200


def test_a_route_answers_in_its_versions_only(client: Any) -> None:
    assert _ask(client, "GET", "/old").json["version"] == "2.1"
    new = {"OpenStack-API-Version": "toys latest"}
    assert _ask(client, "GET", "/old", headers=new).json == {"newer": True}


@pytest.mark.parametrize("asked,status", [("toys 2.10", 406), ("toys 1.9", 406), ("toys x", 400)])
def test_versions_that_are_not_there(client: Any, asked: str, status: int) -> None:
    got = _ask(client, "GET", "/old", headers={"OpenStack-API-Version": asked})
    assert got.status_code == status
    assert _ask(client, "GET", "/old", headers={"OpenStack-API-Version": "toys"}).status_code == 200


def test_missing_paths_and_methods_have_the_service_s_form(client: Any) -> None:
    got = _ask(client, "GET", "/no/such/path")
    assert got.status_code == 404 and got.json["itemNotFound"]["code"] == 404
    got = _ask(client, "DELETE", "/things/1")
    assert got.status_code == 405 and "badMethod" in got.json
    assert "GET" in got.headers["allow"] and "PUT" in got.headers["allow"]


def test_shapes_of_answers(client: Any) -> None:
    got = _ask(client, "GET", "/empty")
    assert got.status_code == 204 and got.content == b""
    got = _ask(client, "GET", "/raw")
    assert got.content == b"x" and got.headers["content-type"] == "text/plain"
    got = _ask(client, "HEAD", "/things/7")
    assert got.status_code == 200 and got.content == b""
    assert _ask(client, "GET", "/things/7/").status_code == 200


@pytest.mark.parametrize(
    "path,status", [("/conflict", 409), ("/away", 503), ("/cannot", 501), ("/bug", 500)]
)
def test_errors_of_handlers(client: Any, path: str, status: int, caplog: Any) -> None:
    got = _ask(client, "GET", path)
    assert got.status_code == status
    (inner,) = got.json.values()
    assert inner["code"] == status
    if status == 500:
        assert "ZeroDivision" not in got.text and "it is so" not in got.text
        assert got.headers["x-toys-request-id"] in inner["message"]
        assert "ZeroDivision" in caplog.text
    if status == 503:
        assert got.headers["retry-after"]
    if status == 501:
        assert caplog.text == ""


def test_forged_headers_do_not_reach_a_handler(client: Any) -> None:
    """S23"""
    SEEN.clear()
    forged = {"X-Roles": "admin", "X-User-Id": "x", "X-Service-Roles": "service", "X-Mine": "1"}
    _ask(client, "GET", "/things/7", headers=forged)
    assert SEEN[0].headers["x-mine"] == "1"
    assert not [h for h in SEEN[0].headers if h in ("x-roles", "x-user-id", "x-service-roles")]


def test_the_document_of_a_service_is_served(client: Any) -> None:
    got = _ask(client, "GET", "/openapi.json?version=2.4", None)
    assert got.status_code == 200 and got.json["info"]["version"] == "2.4"
    assert "/old" in got.json["paths"] and got.json["servers"] == [
        {"url": "http://cloud.example/toys"}
    ]
    assert _ask(client, "GET", "/openapi.json?version=2.99", None).status_code == 400
    assert _ask(client, "GET", "/openapi.json?version=x", None).status_code == 400
    newest = _ask(client, "GET", "/openapi.json", None)
    assert newest.json["info"]["version"] == "2.9"
    action = got.json["paths"]["/things/{id}/action"]["post"]
    assert action["requestBody"]["content"]["application/json"]["schema"]["title"] == "go"
