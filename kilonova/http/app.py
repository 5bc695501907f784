"""The WSGI application: services mounted on prefixes of one port, each with its routes, versions and error form.

A request goes: request id, mount, headers cleaned, route, token, microversion, policy, body, schema, handler, answer.
Nothing is stored, and no body is read, before authentication.
"""

import logging
import time
import types
from collections.abc import Callable, Iterable, Sequence
from typing import Any, BinaryIO, cast

import falcon
import msgspec

from kilonova.common import errors as e
from kilonova.common import log as logs
from kilonova.common.context import Context
from kilonova.common.ids import new_request_id
from kilonova.http.microversion import Microversion
from kilonova.http.openapi import route_of
from kilonova.http.policy import PUBLIC
from kilonova.http.request import SPARE, Query, Request, Response
from kilonova.http.routing import FIRST, Route, check
from kilonova.http.service import Microversions, Service

log = logs.get_logger(__name__)
Authenticate = Callable[[str | None, str | None, str], Context]
"""(token, service token, request id) -> the caller; raises Unauthorized."""

Observe = Callable[[str, str, str, int, float], None]
"""(service, method, path template, status, seconds): for metrics."""


class Application:
    """Build with services and an authenticator; call ``wsgi`` from any WSGI server."""

    def __init__(
        self,
        services: Sequence[Service],
        cloud: Any,
        authenticate: Authenticate,
        public_url: str,
        observe: Observe | None = None,
    ) -> None:
        self.cloud = cloud
        self.authenticate = authenticate
        self.public_url = public_url.rstrip("/")
        self.observe = observe
        self.services = services
        self.wsgi = falcon.App(media_type="application/json")
        self.wsgi.req_options.strip_url_path_trailing_slash = True
        self.wsgi.set_error_serializer(lambda req, resp, exc: None)
        self.wsgi.add_error_handler(Exception, self._unexpected)
        self.wsgi.add_error_handler(falcon.HTTPError, self._unrouted)
        for s in services:
            by_path: dict[str, list[Route]] = {}
            own = [route_of(s)] if s.mount else []
            for r in check([*s.routes, *own]):
                by_path.setdefault(r.path, []).append(r)
            for path, routes in by_path.items():
                self.wsgi.add_route(
                    s.mount + path if path != "/" else s.mount or "/",
                    _resource(self, s, path, routes),
                )

    def _unrouted(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        exc: falcon.HTTPError,
        params: dict[str, Any],
    ) -> None:
        service = self._service_of(req.path)
        status = int(str(exc.status)[:3])
        if status == 405 and _nameless(service, req):
            status = 404
        kind = {404: e.NotFound, 405: e.MethodNotAllowed}.get(status, e.BadRequest)
        message = {
            404: "The resource could not be found.",
            405: "The method is not allowed for this resource.",
        }.get(status, exc.title or "Bad request")
        error = kind(message)
        if status == 405 and exc.headers:
            error.headers = dict(exc.headers)  # type: ignore[attr-defined]
        rid = getattr(req.context, "request_id", new_request_id())
        self._refuse(service, req, resp, error, rid)

    def _unexpected(
        self, req: falcon.Request, resp: falcon.Response, exc: Exception, params: dict[str, Any]
    ) -> None:
        log.error("a request failed", exc_info=exc)
        self._refuse(
            self._service_of(req.path),
            req,
            resp,
            e.KilonovaError("Unexpected API Error."),
            new_request_id(),
        )

    def _service_of(self, path: str) -> Service:
        best = self.services[0]
        for s in self.services:
            if s.mount and (path == s.mount or path.startswith(s.mount + "/")):
                return s
        return best

    def _refuse(
        self,
        s: Service,
        req: falcon.Request,
        resp: falcon.Response,
        error: e.KilonovaError,
        rid: str,
    ) -> None:
        status = int(error.status)
        resp.status = status
        resp.content_type = "application/json"
        resp.data = msgspec.json.encode(s.render(status, error, rid))
        for k in s.id_headers:
            resp.set_header(k, rid)
        for k, v in getattr(error, "headers", {}).items():
            resp.set_header(k, v)
        if status == 401:
            resp.set_header("WWW-Authenticate", f'Keystone uri="{self.public_url}/identity"')
        if status == 503:
            resp.set_header("Retry-After", "5")

    def handle(
        self,
        s: Service,
        path: str,
        routes: Sequence[Route],
        req: falcon.Request,
        resp: falcon.Response,
        params: dict[str, str],
    ) -> None:
        """Serve one request on one path of one service."""
        began = time.perf_counter()
        rid = new_request_id()
        req.context.request_id = rid
        token = logs.request_id.set(rid)
        try:
            self._serve(s, routes, req, resp, params, rid)
        except e.KilonovaError as exc:
            if int(exc.status) >= 500 and not isinstance(exc, e.NotImplementedHere):
                log.log(
                    logging.WARNING if exc.retryable else logging.ERROR,
                    "a request was refused: %s",
                    exc.message,
                    exc_info=exc,
                )
            self._refuse(s, req, resp, exc, rid)
        except Exception as exc:
            log.error("a request failed", exc_info=exc)
            self._refuse(
                s,
                req,
                resp,
                e.KilonovaError(
                    "Unexpected API Error. Please report this with the request id " + rid
                ),
                rid,
            )
        finally:
            logs.request_id.reset(token)
            if self.observe is not None:
                self.observe(
                    s.name,
                    req.method,
                    s.mount + path,
                    resp.status_code,
                    time.perf_counter() - began,
                )

    def _serve(
        self,
        s: Service,
        routes: Sequence[Route],
        req: falcon.Request,
        resp: falcon.Response,
        params: dict[str, str],
        rid: str,
    ) -> None:
        for k in s.id_headers:
            resp.set_header(k, rid)
        for k, v in s.extra_headers.items():
            resp.set_header(k, v)
        method, mine = req.method, [r for r in routes if r.method == req.method]
        if method == "HEAD" and not mine:
            method, mine = "GET", [r for r in routes if r.method == "GET"]
        public = bool(mine) and all(r.policy == PUBLIC for r in mine)
        headers = {k.lower(): v for k, v in req.headers.items()}
        for name in [k for k in headers if forgeable(k)]:
            del headers[name]
        if public:
            ctx = Context(request_id=rid)
        else:
            ctx = self.authenticate(
                headers.get("x-auth-token"), headers.get("x-service-token"), rid
            )
        version = self._negotiate(s, headers, resp)
        if _nameless(s, req):
            raise e.NotFound("The resource could not be found.")
        if not mine:
            raise e.MethodNotAllowed("The method is not allowed for this resource.")
        action, raw = None, None
        reads_body = not any(r.stream for r in mine)
        body: Any = None
        if reads_body and method in ("POST", "PUT", "PATCH", "DELETE"):
            raw = _read(req, max(r.max_body for r in mine))
            body = _decode(raw, headers, mine) if raw else None
            if any(r.action for r in mine):
                action = _action_of(body, mine)
        current = [r for r in mine if r.action == action and version.between(r.since, r.until)]
        if not current:
            raise e.NotFound("The resource could not be found.")
        route = current[0]
        request = Request(
            method=method,
            path=req.path,
            params=params,
            query=Query(req.query_string),
            headers=headers,
            ctx=ctx,
            version=version,
            body=body,
            stream=cast(BinaryIO, req.bounded_stream) if route.stream else None,
            length=req.content_length if route.stream else None,
            base=self.public_url + s.mount,
            root=self.public_url,
            cloud=self.cloud,
            policy=s.policy,
            peer=req.remote_addr,
        )
        if route.stream and "chunked" in headers.get("transfer-encoding", "").lower():
            request.stream, request.length = req.env["wsgi.input"], None
        if route.policy != PUBLIC:
            request.authorize(route.policy, route.target(request) if route.target else None)
        if route.query is not None:
            route.query.check(request.query.as_lists(), "query parameters")
        if route.body is not None:
            if not isinstance(body, dict):
                raise e.BadRequest(
                    "The request needs a JSON object as its body."
                    if body is not None
                    else "The request body is missing."
                )
            route.body.check(body)
        keyed = route.idempotent not in ("", "own") and "idempotency-key" in headers
        if keyed and s.once is not None:
            _answer(req, resp, route, s.once(request, route))
        else:
            _answer(req, resp, route, route.handler(request))

    def _negotiate(
        self, s: Service, headers: dict[str, str], resp: falcon.Response
    ) -> Microversion:
        m = s.microversions
        if m is None:
            return FIRST
        version = m.default
        asked = headers.get("openstack-api-version")
        found = False
        if asked:
            for part in asked.split(","):
                words = part.strip().split(" ")
                if len(words) == 2 and words[0].lower() == m.kind:
                    version, found = self._version(m, words[1].strip()), True
        if not found and m.legacy_header and m.legacy_header.lower() in headers:
            version = self._version(m, headers[m.legacy_header.lower()].strip())
        resp.set_header("OpenStack-API-Version", f"{m.kind} {version}")
        resp.append_header("Vary", "OpenStack-API-Version")
        if m.legacy_header:
            resp.set_header(m.legacy_header, str(version))
            resp.append_header("Vary", m.legacy_header)
        return version

    @staticmethod
    def _version(m: Microversions, text: str) -> Microversion:
        if text.lower() == "latest":
            return m.high
        version = Microversion.parse(text)
        if not version.between(m.low, m.high):
            raise e.NotAcceptable(
                f"Version {version} is not supported by the API. Minimum is {m.low} and maximum is {m.high}."
            )
        return version


def _nameless(s: Service, req: falcon.Request) -> bool:
    """Tell whether the last part of a path is empty where that is not the same as the path without it."""
    return s.exact and req.path.count("/") > 2 and req.env["PATH_INFO"].endswith("/")


_FORGEABLE = (
    "x-role",
    "x-user",
    "x-project",
    "x-tenant",
    "x-domain",
    "x-is-admin",
    "x-service-",
    "x-identity",
    "x-system-scope",
)


def forgeable(header: str) -> bool:
    """Tell whether a header (in small letters) speaks of an identity that only a token can give."""
    return header.startswith(_FORGEABLE) and header != "x-service-token"


def _resource(app: Application, s: Service, path: str, routes: Sequence[Route]) -> object:
    def responder(req: falcon.Request, resp: falcon.Response, **params: str) -> None:
        app.handle(s, path, routes, req, resp, params)

    methods = {r.method for r in routes}
    members = {f"on_{m.lower()}": responder for m in methods}
    if "GET" in methods:
        members["on_head"] = responder
    return types.SimpleNamespace(**members)  # a class for each of 400 paths would be a MiB


def _read(req: falcon.Request, limit: int) -> bytes:
    length = req.content_length
    if length is not None and length > limit:
        raise e.TooLarge(f"Request is too large: at most {limit} bytes are taken here.")
    if length is None and "chunked" in (req.get_header("Transfer-Encoding") or "").lower():
        data: bytes = req.env["wsgi.input"].read(limit + 1)
    else:
        data = req.bounded_stream.read(limit + 1)
    if len(data) > limit:
        raise e.TooLarge(f"Request is too large: at most {limit} bytes are taken here.")
    return data


def _decode(raw: bytes, headers: dict[str, str], routes: Iterable[Route]) -> Any:
    kind = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if (
        kind not in ("application/json", "", "text/plain", "application/octet-stream")
        and not kind.endswith("+json")
        and not kind.startswith("application/openstack-")
    ):
        raise e.UnsupportedMedia(
            f"Content-Type {kind[:60]} is not supported; send application/json."
        )
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as exc:
        raise e.BadRequest(f"Malformed request body: {exc}") from exc


def _action_of(body: Any, routes: Sequence[Route]) -> str | None:
    if any(r.action is None for r in routes):
        return None
    if not isinstance(body, dict) or not body:
        raise e.BadRequest("Malformed request body: an action is an object with one key.")
    names = [k for k in body if any(r.action == k for r in routes)]
    if len(body) == 1 and names:
        return str(names[0])
    if names:
        raise e.BadRequest("Multiple actions specified")
    raise e.BadRequest(f"There is no such action: {next(iter(body))!s:.80}")


def _answer(req: falcon.Request, resp: falcon.Response, route: Route, result: Any) -> None:
    out = result if isinstance(result, Response) else Response(body=result)
    resp.status = out.status or route.success
    for k, v in out.headers.items():
        resp.set_header(k, v)
    if out.stream is not None:
        resp.content_type = out.content_type
        spare = req.env.get(SPARE) if out.lasting else None
        resp.stream = out.stream if spare is None else spare(out.stream)
    elif out.body is None:
        if resp.status_code not in (204, 304):
            resp.content_length = 0
            resp.content_type = out.content_type
    else:
        resp.content_type = out.content_type
        resp.data = out.body if isinstance(out.body, bytes) else msgspec.json.encode(out.body)
