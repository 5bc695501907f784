"""Hold each answer of the compute API against what its route says that it answers, at its microversion."""

import functools
import json
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import jsonschema
import jsonschema_rs
from falcon.routing import CompiledRouter

from kilonova.api.compute.service import MOUNT, service
from kilonova.http.microversion import Microversion
from kilonova.http.routing import Route

EMPTY = (204, 304)


class Exchange(NamedTuple):
    """A request and its answer. sent: the request's body, decoded. headers: of the answer, names in small letters."""

    method: str
    path: str
    sent: Any
    status: int
    headers: Mapping[str, str]
    raw: bytes


def verify(x: Exchange) -> None:
    """AssertionError unless a success of the compute API has exactly the body that its route declares."""
    path = urlsplit(x.path).path
    if not path.startswith(MOUNT + "/") or not 200 <= x.status < 300 or x.method == "HEAD":
        return
    if path.endswith("/openapi.json"):
        return
    version = x.headers["openstack-api-version"].removeprefix("compute ")
    route = _route(x.method, unquote(path.removeprefix(MOUNT)), _action(x.sent), version)
    where = f"{x.method} {route.path} {route.action or ''} at {version}"
    if route.answer is None or x.status in EMPTY:
        assert not x.raw, f"{where}: a body that no schema describes; declare answer= on the route"
        return
    if not x.raw:
        assert x.status != route.success, f"{where}: answered without the declared body"
        return
    known, body = _schema(route, version), json.loads(x.raw)
    if not known.validator.is_valid(body):
        slow = jsonschema.Draft7Validator(known.document)
        error = jsonschema.exceptions.best_match(slow.iter_errors(body))
        assert error is not None
        raise AssertionError(f"{where}: {error.json_path}: {error.message}")


def decoded(data: bytes | None) -> Any:
    """Return a request's body, or None for what is no JSON."""
    try:
        return json.loads(data or b"")
    except (ValueError, RecursionError):
        return None


def _action(sent: Any) -> str | None:
    return next(iter(sent)) if isinstance(sent, dict) and len(sent) == 1 else None


class _Place:
    def __init__(self) -> None:
        self.routes: list[Route] = []

    def on_get(self, req: Any, resp: Any) -> None:
        """The router only takes resources that answer."""


@functools.cache
def _router() -> CompiledRouter:
    router, places = CompiledRouter(), dict[str, _Place]()
    for route in service().routes:
        places.setdefault(route.path, _Place()).routes.append(route)
    for path, place in places.items():
        router.add_route(path, place)
    return router


def _route(method: str, path: str, action: str | None, version: str) -> Route:
    found = _router().find(path.rstrip("/") or "/")
    assert found is not None, f"{path} was answered, and is no route"
    at = Microversion.parse(version)
    mine = [r for r in found[0].routes if r.method == method and at.between(r.since, r.until)]
    if any(r.action for r in mine):
        mine = [r for r in mine if r.action == action]
    (route,) = mine
    return route


class _Known(NamedTuple):
    route: Route  # kept, so that its id stays its own
    document: Any
    validator: Any


_known: dict[tuple[int, str], _Known] = {}


def _schema(route: Route, version: str) -> _Known:
    key = id(route), version
    if key not in _known:
        assert route.answer is not None
        document = route.answer(Microversion.parse(version))
        _known[key] = _Known(route, document, jsonschema_rs.Draft7Validator(document))
    return _known[key]
