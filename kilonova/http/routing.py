"""Routes: one row per endpoint, checked when the table is built.

Overlapping version ranges, a route without policy, and a schema that silently loses a property fail at import.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from kilonova.http.answer import Describe
from kilonova.http.microversion import Microversion, V
from kilonova.http.request import Request
from kilonova.http.schema import Schema, vanished

Handler = Callable[[Request], Any]
FIRST = V(2, 1)


@dataclass(frozen=True)
class Route:
    """One endpoint in a range of microversions.

    path: ``/servers/{server_id}``. action: for POST .../action, the key of the body that chooses it ("os-start").
    policy: name of the rule that is asked before the handler with the caller as target, or PUBLIC.
    body, query: schemas; a body schema given means that a JSON object is required. stream: the handler reads the body.
    target: computes the policy target from the request (the body is decoded, not yet checked); None: the caller itself.
    errors: the statuses besides success that it may answer (documentation and fuzzing).
    summary: one line for the API document; the handler's docstring if empty.
    answer: describes the answer's body at a microversion (None: compute answers with no body, others do not say).
    removed: paths of body properties that the version range before has and this one has not (TAG-6).
    idempotent: how a request with an ``Idempotency-Key`` is done once: "record", "operation" (kilonova/operations/
        idempotent.py), "own" (the handler does it); "": the key has no meaning here.
    again: (request, params of the accepted operation) -> the answer, where an "operation" answers with a body.
    """

    method: str
    path: str
    handler: Handler
    policy: str
    success: int = 200
    errors: tuple[int, ...] = ()
    since: Microversion = field(default_factory=lambda: FIRST)
    until: Microversion | None = None
    body: Schema | None = None
    query: Schema | None = None
    action: str | None = None
    stream: bool = False
    max_body: int = 1 << 20
    summary: str = ""
    answer: Describe | None = None
    target: Callable[[Request], dict[str, object]] | None = None
    idempotent: str = ""
    again: Callable[[Request, Any], Any] | None = None
    removed: tuple[str, ...] = ()


class RouteError(ValueError):
    """The table of routes contradicts itself."""


def check(routes: Iterable[Route]) -> Sequence[Route]:
    """Return the routes as a tuple; RouteError for overlaps, missing policies and properties lost without a word."""
    rows = tuple(routes)
    seen: dict[tuple[str, str, str | None], list[Route]] = {}
    for r in rows:
        if not r.policy:
            raise RouteError(f"{r.method} {r.path}: a route needs a policy rule")
        for other in seen.setdefault((r.method, r.path, r.action), []):
            if _overlap(r, other):
                raise RouteError(f"{r.method} {r.path} {r.action or ''}: version ranges overlap")
        seen[r.method, r.path, r.action].append(r)
    for chain in seen.values():
        if len(chain) > 1:
            _check_chain(chain)
    return rows


def _check_chain(chain: list[Route]) -> None:
    """A property that vanishes between neighbours must be declared, and nothing else may be (TAG-6)."""
    ordered = sorted(chain, key=lambda r: (r.since.major, r.since.minor))
    for older, newer in pairwise(ordered):
        if older.body is None or newer.body is None:
            continue
        lost = set(vanished(older.body.document, newer.body.document))
        if lost != set(newer.removed):
            where = f"{newer.method} {newer.path} {newer.action or ''} at {newer.since}"
            raise RouteError(f"{where}: lost {sorted(lost)}, declared {sorted(newer.removed)}")


def _overlap(a: Route, b: Route) -> bool:
    a_before_b = a.until is not None and a.until < b.since
    b_before_a = b.until is not None and b.until < a.since
    return not (a_before_b or b_before_a)
