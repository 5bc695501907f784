"""``Idempotency-Key`` on any route that declares how it is done once; the rules: kilonova/operations/idempotent.py."""

from typing import Any

import msgspec

from kilonova.common.context import Context
from kilonova.common.errors import Conflict, KilonovaError
from kilonova.http import errors as forms
from kilonova.http.request import Request, Response
from kilonova.http.routing import Route
from kilonova.operations import idempotent

REPLAYED = {"Idempotency-Replayed": "true"}


def once(req: Request, route: Route) -> Response:
    """Do a request, or answer it as the first time. Raises what the handler, or ``idempotent.begin``, raises."""

    def act(ctx: Context) -> idempotent.Given:
        req.ctx = ctx
        return _given(route, route.handler(req))

    def again(params: Any) -> idempotent.Given:
        if route.again is not None:
            return _given(route, route.again(req, params))
        if route.answer is not None and route.answer(req.version)["required"]:
            raise Conflict(
                "This request was accepted before; its answer was lost, and cannot be given again."
            )
        return idempotent.Given(route.success)

    asked = idempotent.Asked(
        req.method, req.path, req.headers[idempotent.HEADER], req.body, str(req.version)
    )
    way = idempotent.Way(route.idempotent, act, again, _refusal)
    given = idempotent.once(req.cloud, req.ctx, asked, way)
    return replayed(given) if isinstance(given, idempotent.Replay) else _answer(given)


def replayed(found: idempotent.Replay) -> Response:
    """Return an answer as it was given before; the header says so."""
    made = _answer(idempotent.Given(found.status, found.body, found.location))
    made.headers |= REPLAYED
    return made


def _given(route: Route, result: Any) -> idempotent.Given:
    out = result if isinstance(result, Response) else Response(body=result)
    body = b"" if out.body is None else msgspec.json.encode(out.body)
    place = out.headers.get("Location")
    return idempotent.Given(out.status or route.success, body, place, out.told_once)


def _answer(given: idempotent.Given) -> Response:
    headers = {} if given.location is None else {"Location": given.location}
    return Response(body=given.body or None, status=given.status, headers=headers)


def _refusal(error: KilonovaError) -> bytes:
    return msgspec.json.encode(forms.compute(int(error.status), error, ""))
