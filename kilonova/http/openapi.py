"""The OpenAPI 3.1 document of a service at any microversion, made from its table of routes; served beside the API.

The paths are those of one microversion: a route that has ended or not begun is not there. Actions that share one path
become one operation whose body is one of theirs. The schemas are the ones that requests are checked against.
"""

import copy
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from kilonova.common.errors import BadRequest
from kilonova.http.microversion import Microversion
from kilonova.http.policy import PUBLIC
from kilonova.http.request import Request, Response
from kilonova.http.routing import FIRST, Route
from kilonova.http.service import Service

Json = dict[str, Any]
PATH = "/openapi.json"
REMEMBERED = 32
_PLACE = re.compile(r"\{([^}:]+)(?::[^}]*)?\}")
_WORDS = {
    200: "OK",
    201: "Created",
    202: "Accepted",
    204: "No content",
    206: "A part",
    207: "Some worked, and some did not",
    300: "Multiple choices",
    304: "Not modified",
    400: "Bad request: the message names the field and the reason",
    401: "No valid token",
    403: "Policy, or a quota, does not allow it",
    404: "Missing, or not the caller's: the answers are alike",
    405: "The path does not take this method",
    406: "A microversion that is not spoken here",
    409: "The state does not allow it",
    411: "The length of the body is not told",
    412: "A precondition failed",
    413: "The body is longer than is taken",
    415: "The Content-Type is not taken",
    416: "The range cannot be given",
    422: "The key was used with another body",
    501: "This cloud cannot do it",
    503: "Somebody who is needed does not answer; try again",
}

_IDEMPOTENCY_KEY: Json = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Chosen by the client; a retry with the same key and body within 24 hours is answered as the first.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
}


def document(service: Service, version: Microversion | None = None, root: str = "") -> Json:
    """Return the document of ``service`` at ``version`` (None: its newest). root: the cloud's public URL."""
    negotiated = service.microversions
    at = version or (negotiated.high if negotiated is not None else FIRST)
    info: Json = {
        "title": f"Kilonova {service.name} API",
        "version": str(at) if negotiated is not None else "1",
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    }
    if negotiated is not None:
        info["x-openstack-min-version"] = str(negotiated.low)
        info["x-openstack-max-version"] = str(negotiated.high)
    return {
        "openapi": "3.1.0",
        "info": info,
        "servers": [{"url": root + service.mount or "/"}],
        "security": [{"token": []}],
        "paths": _paths(service, at),
        "components": {
            "securitySchemes": {
                "token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token"},
            },
            "schemas": {"Error": error_schema(service)},
        },
    }


def error_schema(service: Service) -> Json:
    """Return the schema of a refusal: that of the form which the service renders errors in."""
    from kilonova.common.errors import NotFound

    sample = service.render(404, NotFound("x"), "req-x")
    name, inner = next(iter(sample.items()))
    if isinstance(inner, dict) and name == "itemNotFound":  # Nova: one key that says the kind
        return {
            "type": "object",
            "minProperties": 1,
            "maxProperties": 1,
            "additionalProperties": _like(inner),
        }
    return _like(sample)


def _like(value: Any) -> Json:
    """Return a schema that exactly the keys and types of ``value`` fit."""
    if isinstance(value, dict):
        props = {k: _like(v) for k, v in value.items()}
        return {
            "type": "object",
            "properties": props,
            "required": sorted(props),
            "additionalProperties": False,
        }
    if isinstance(value, list):
        return {"type": "array", "items": _like(value[0])}
    return {"type": "integer"} if isinstance(value, int) else {"type": "string"}


def _paths(service: Service, at: Microversion) -> Json:
    groups: dict[tuple[str, str], list[Route]] = {}
    for route in service.routes:
        if at.between(route.since, route.until) or service.microversions is None:
            groups.setdefault((route.path, route.method), []).append(route)
    paths: Json = {}
    for (path, method), routes in groups.items():
        clean = _PLACE.sub(lambda m: "{" + m[1] + "}", path)
        operation = _operation(service, path, method, routes, at)
        paths.setdefault(clean, {})[method.lower()] = operation
    return paths


def _operation(
    service: Service, path: str, method: str, routes: list[Route], at: Microversion
) -> Json:
    public = all(r.policy == PUBLIC for r in routes)
    out: Json = {
        "operationId": operation_id(method, path),
        "summary": _summary(routes[0]) if len(routes) == 1 else "Perform one of the actions",
        "parameters": [*_path_parameters(path), *_query_parameters(routes)],
        "responses": _responses(service, path, routes, public, at),
    }
    if public:
        out["security"] = []
    else:
        out["x-policy"] = sorted({r.policy for r in routes})
    if service.microversions is not None:
        out["parameters"].append(_version_parameter(service.microversions.kind, at))
    if any(r.idempotent for r in routes):
        out["parameters"].append(copy.deepcopy(_IDEMPOTENCY_KEY))
    if (body := _body(routes)) is not None:
        out["requestBody"] = body
    return out


def operation_id(method: str, path: str) -> str:
    """Return a name for one operation, the same at every microversion: ``get_servers_by_server_id``."""
    words = re.sub(r"[^A-Za-z0-9]+", "_", _PLACE.sub(lambda m: "by_" + m[1], path)).strip("_")
    return f"{method.lower()}_{words or 'root'}"


def _summary(route: Route) -> str:
    text = route.summary or (route.handler.__doc__ or "").strip()
    return text.partition("\n")[0].strip()


def _version_parameter(kind: str, at: Microversion) -> Json:
    return {
        "name": "OpenStack-API-Version",
        "in": "header",
        "required": False,
        "description": "Without it the oldest microversion answers.",
        "schema": {"type": "string", "enum": [f"{kind} {at}"]},
    }


def _path_parameters(path: str) -> list[Json]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "minLength": 1},
        }
        for name in _PLACE.findall(path)
    ]


def _query_parameters(routes: Iterable[Route]) -> list[Json]:
    found: dict[str, Json] = {}
    for route in routes:
        if route.query is None:
            continue
        required = route.query.document.get("required", [])
        for name, schema in route.query.document.get("properties", {}).items():
            found[name] = {
                "name": name,
                "in": "query",
                "required": name in required,
                "schema": copy.deepcopy(schema),
                "style": "form",
                "explode": True,
            }
    return list(found.values())


def _body(routes: list[Route]) -> Json | None:
    if any(r.stream for r in routes):
        media = "application/octet-stream"
        return {"required": True, "content": {media: {"schema": {"type": "string"}}}}
    documents = [copy.deepcopy(r.body.document) for r in routes if r.body is not None]
    if not documents:
        return None
    for route, schema in zip((r for r in routes if r.body is not None), documents, strict=True):
        if route.action is not None:
            schema.setdefault("title", route.action)
            schema.setdefault("description", _summary(route))
    schema = documents[0] if len(documents) == 1 else {"oneOf": documents}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _responses(
    service: Service, path: str, routes: list[Route], public: bool, at: Microversion
) -> Json:
    out: Json = {}
    for status in sorted({r.success for r in routes}):
        answer: Json = {"description": _WORDS.get(status, "OK")}
        schema = _answer_schema([r for r in routes if r.success == status], at)
        if schema is not None and status not in (204, 304):
            answer["content"] = {"application/json": {"schema": schema}}
        out[str(status)] = answer
    for status in sorted(_refusals(service, path, routes, public)):
        refusal: Json = {"description": _WORDS.get(status, "Refused")}
        if status >= 400:
            error = {"$ref": "#/components/schemas/Error"}
            refusal["content"] = {"application/json": {"schema": error}}
        out.setdefault(str(status), refusal)
    return out


def _answer_schema(routes: list[Route], at: Microversion) -> Json | None:
    """Actions that share a path and a status: any of their answers. One without a body says nothing here."""
    found: list[Json] = []
    for route in routes:
        schema = None if route.answer is None else copy.deepcopy(route.answer(at))
        if schema is not None and schema not in found:
            found.append(schema)
    return {"anyOf": found} if len(found) > 1 else next(iter(found), None)


def _refusals(service: Service, path: str, routes: list[Route], public: bool) -> set[int]:
    """The declared ones, and those that the application itself gives to every route of this kind."""
    out = {status for r in routes for status in r.errors}
    out |= {400, 503}  # a broken query string; a database or neighbour that does not answer
    if not public:
        out |= {401, 403}
    if service.microversions is not None:
        out |= {404, 406}
    if "{" in path:
        out.add(404)
    if any(r.idempotent for r in routes):
        out |= {409, 422}
    if any(r.method in ("POST", "PUT", "PATCH", "DELETE") for r in routes):
        out |= {413, 415}
    return out


def route_of(service: Service) -> Route:
    """Return the route that serves a service's document: ``GET <mount>/openapi.json?version=2.90``, to anybody."""
    made: dict[str, bytes] = {}

    def show(req: Request) -> Response:
        """Describe this API at a microversion, as OpenAPI 3.1."""
        version = _asked(service, req.query.get("version"))
        key = str(version)
        if key not in made:
            if len(made) >= REMEMBERED:
                made.clear()
            made[key] = msgspec.json.encode(document(service, version, req.root))
        return Response(body=made[key])

    since = FIRST if service.microversions is None else service.microversions.low
    return Route("GET", PATH, show, PUBLIC, errors=(400,), since=since)


def _asked(service: Service, text: str | None) -> Microversion | None:
    known = service.microversions
    if known is None:
        return None
    if text is None or text.lower() == "latest":
        return known.high
    version = Microversion.parse(text)
    if not version.between(known.low, known.high):
        raise BadRequest(f"version: {version} is not between {known.low} and {known.high}.")
    return version
